"""The signals that end a command: SIGINT, of Ctrl-C, and SIGTERM, of ``kill`` or a job manager."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def handle_interrupts(handler: Callable[[int, FrameType | None], object]) -> Iterator[None]:
    """Call *handler* for both signals until the block ends; only the main thread can do so."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {each: signal.signal(each, handler) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


@contextmanager
def stop_signals() -> Iterator[list[int]]:
    """Yield a list that both signals are appended to."""
    received: list[int] = []
    with handle_interrupts(lambda number, _: received.append(number)):
        yield received
