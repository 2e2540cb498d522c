"""Tests of service/threads.py: results come back, and a call that hangs holds up nobody's end."""

import asyncio
import threading

import pytest

from service.threads import on_thread
from tests.service.client import until


def test_what_comes_of_the_call_comes_back() -> None:
    """Its result, or what it raised; from another thread."""

    async def question() -> None:
        assert await on_thread(threading.get_ident) != threading.get_ident()
        with pytest.raises(ZeroDivisionError):
            await on_thread(lambda: 1 / 0)

    asyncio.run(question())


def test_the_event_loop_ends_while_a_call_hangs() -> None:
    """Whoever waits is cancelled, the loop closes, and the thread is one that no process waits for."""
    begun, release = threading.Event(), threading.Event()
    threads: list[threading.Thread] = []

    def hang() -> None:
        threads.append(threading.current_thread())
        begun.set()
        release.wait()

    async def question() -> None:
        waiting = asyncio.ensure_future(_wait(hang))
        await until(begun.is_set)
        assert not waiting.done()

    asyncio.run(question())
    (thread,) = threads
    assert thread.is_alive()
    assert thread.daemon
    release.set()
    thread.join()


async def _wait(hang: object) -> None:
    assert callable(hang)
    await on_thread(hang)
