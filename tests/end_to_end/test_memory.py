"""Requests within the limits that take the most memory and time, against a service with 1 GiB."""

import contextlib
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.service.server_process import Answer, ServerProcess, exchange, serving

pytestmark = pytest.mark.fault
MIB = 1 << 20
PATIENCE_SECONDS = 15
CGROUPS = Path("/sys/fs/cgroup/memory")
# The service, in a memory cgroup if there is one.
CONFINED = """
import os, pathlib, runpy
if {cgroup!r}:
    pathlib.Path({cgroup!r}, "cgroup.procs").write_text(str(os.getpid()))
runpy.run_module("service", run_name="__main__", alter_sys=True)
"""
LETTERS = "zqxjkvbpygfwmucldrhsnioate"


def letters(length: int, seed: int = 0) -> str:
    """Return letters of which few have a common token."""
    return "".join(LETTERS[(seed + n * n * 7 + n // 26) % 26] for n in range(length))


def each(text: str, texts: int = 64) -> list[str]:
    """Return different texts, so that none is cached for another."""
    return [f"{letters(3, seed)} {text}" for seed in range(texts)]


CHOICES = [f"{letters(2, n)}{n}" for n in range(256)]
REQUESTS: dict[str, tuple[str, dict[str, Any]]] = {
    "long choices": (
        "/cloze",
        {"text": "a ____ b", "choices": [f"{n} {letters(3_890, n)}" for n in range(256)]},
    ),
    "the longest choices": (
        "/cloze",
        {"text": each("____ b ____ c"), "choices": [letters(2_000), letters(2_090, 1)]},
    ),
    "many choices": ("/cloze", {"text": each("a ____ b"), "choices": CHOICES}),
    "texts, blanks and choices": ("/cloze", {"text": each("____ " * 64, 16), "choices": CHOICES}),
    "long texts": ("/score", {"text": each(letters(9_990))}),
    "byte tokens": ("/score", {"text": each("😀" * 9_990, 16)}),
    "open blanks": ("/cloze", {"text": each("a ____ b ____ c ____ d"), "top_k": 100}),
    "letters with many spellings": ("/predict", {"text": each("o" * 54), "top_k": 100}),
    "long texts to continue": ("/predict", {"text": each(letters(9_000)), "top_k": 100}),
    "a history": ("/predict", {"text": each("a"), "history": letters(20_000)}),
}


@pytest.fixture(scope="module")
def cgroup() -> Iterator[str]:
    """A memory cgroup of 1 GiB; empty if none can be made."""
    path = CGROUPS / f"lacuna-{os.getpid()}"
    try:
        path.mkdir()
        (path / "memory.limit_in_bytes").write_text(str(1024 * MIB))
    except OSError:
        path = Path()
    yield str(path) if path.name else ""
    if path.name:
        with contextlib.suppress(OSError):  # its process may not have been reaped
            path.rmdir()


@pytest.fixture(scope="module")
def server(cgroup: str) -> Iterator[ServerProcess]:
    """The real service, so patient that it accepts any amount of work."""
    command = "-c", CONFINED.format(cgroup=cgroup)
    patience = "--deadline-seconds", "3600", "--max-work-seconds", "100000"
    with serving(command, *patience, "--log-level", "error") as running:
        yield running


def ask(server: ServerProcess, path: str, body: Any) -> Answer | None:
    """Send a request; None if it is not answered in time, after which its work is dropped."""
    connection = server.connect()
    connection.timeout = PATIENCE_SECONDS
    with contextlib.closing(connection), contextlib.suppress(TimeoutError):
        return exchange(connection, "POST", path, json.dumps(body, ensure_ascii=False).encode())
    return None


@contextlib.contextmanager
def watching(server: ServerProcess) -> Iterator[None]:
    """Ask /livez all the time, and expect 200 each time."""
    statuses: list[int] = []
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.2):
            statuses.append(server.ask("GET", "/livez").status)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()
    statuses.append(server.ask("GET", "/livez").status)
    assert set(statuses) == {200}


@pytest.mark.slow
@pytest.mark.parametrize(("path", "body"), REQUESTS.values(), ids=REQUESTS)
def test_no_request_exceeds_the_memory(
    server: ServerProcess, path: str, body: dict[str, Any]
) -> None:
    """The service answers or refuses it, or its client leaves, below 1 GiB."""
    with watching(server):
        answer = ask(server, path, body)
    assert answer is None or answer.status in (200, 422)
    assert server.peak_bytes < 1024 * MIB


MARKS = {
    "a mark without a combining class": "\u0f73",
    "two such marks": "\u0f73\u0f81",
    "marks that are out of order": "\u0301\u0316",
}


@pytest.mark.parametrize("marks", MARKS.values(), ids=MARKS)
def test_marks_take_no_longer_than_letters(server: ServerProcess, marks: str) -> None:
    """A history, text and choice of marks cost about as much as those of letters."""

    def cost(text: str) -> float:
        history, choice = (text * 20_000)[:20_000], (text * 50)[:50]
        body = {"text": [f"{n} " for n in range(64)], "history": history}
        before = server.cpu_seconds
        with watching(server):
            assert server.ask("POST", "/predict", body).status == 200
            body = {"text": (text * 500)[:500] + " ____", "choices": [choice, "b"]}
            assert server.ask("POST", "/cloze", body).status == 200
        return server.cpu_seconds - before

    cost("a")  # what is computed once
    letters = cost("\u0f40\u0f42"[: len(marks)])
    assert cost(marks) < 3 * letters + 1.0
