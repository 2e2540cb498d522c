"""A call on a thread of its own, for what may hang: a disk that does not answer. Not for what must be finished."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

_T = TypeVar("_T")


def on_thread(function: Callable[[], _T]) -> asyncio.Future[_T]:
    """Call *function* on a new thread, which the end of the process does not wait for.

    `asyncio.to_thread` would: the event loop's end joins its threads, for as long as one of them hangs.

    Returns:
        Its result, or what it raised. Cancelled, the call goes on and nobody hears of it.
    """
    outcome: Future[_T] = Future()
    outcome.set_running_or_notify_cancel()  # from now on it cannot be cancelled under the thread's hands

    def run() -> None:
        try:
            result = function()
        except BaseException as error:  # whatever it is, whoever waits has to hear of it
            outcome.set_exception(error)
        else:
            outcome.set_result(result)

    threading.Thread(target=run, name="aside", daemon=True).start()
    return asyncio.wrap_future(outcome)
