"""Tests of service/logs.py."""

import io
import json
import logging
import re
import sys
import threading

import httpx
import pytest

from service.logs import MAX_BACKLOG, MAX_WRITE, lines_lost, log_request, logging_to_stderr, places
from service.request_context import RequestContext
from tests.service.client import ask

PATIENCE_SECONDS = 60


def test_request_is_one_line_of_json(capsys: pytest.CaptureFixture[str]) -> None:
    """A request's line holds its id, route, status, milliseconds, texts and tokens, and nothing of the texts."""
    record = RequestContext(
        {"type": "http", "path": "/predict", "headers": [(b"x-request-id", b"id-1")]}
    )
    record.status, record.items, record.queue_seconds, record.inference_seconds = (
        200,
        3,
        0.001,
        0.002,
    )
    record.tokens, record.cached_tokens = 9, 8
    with logging_to_stderr():
        log_request(record, 0.0041)
    (line,) = capsys.readouterr().err.splitlines()
    entry = json.loads(line)
    del entry["time"]
    assert entry == {
        "level": "info", "logger": "service.requests", "event": "request", "request_id": "id-1", "route": "/predict",
        "status": 200, "milliseconds": 4.1, "items": 3, "queue_milliseconds": 1.0, "inference_milliseconds": 2.0,
        "tokens": 9, "cached_tokens": 8,
    }  # fmt: skip


def test_a_service_logs_tokens_and_trace(capsys: pytest.CaptureFixture[str]) -> None:
    """An answer's line has the tokens of its usage and the caller's trace; a refusal's has the trace alone."""
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    headers = {"traceparent": f"00-{trace}-00f067aa0ba902b7-01"}

    async def question(client: httpx.AsyncClient) -> dict[str, int]:
        await client.post("/predict", json={"text": 1}, headers=headers)
        answer = await client.post("/predict", json={"text": ["abc", "鬼"]}, headers=headers)
        usage: dict[str, int] = answer.json()["usage"]
        return usage

    with logging_to_stderr():
        usage = ask(question)
    lines = capsys.readouterr().err
    refused, answered = [
        entry for entry in map(json.loads, lines.splitlines()) if entry["event"] == "request"
    ]
    assert usage["tokens"] > usage["cached_tokens"] > 0
    assert (answered["tokens"], answered["cached_tokens"]) == (
        usage["tokens"],
        usage["cached_tokens"],
    )
    assert [refused["status"], answered["status"]] == [422, 200]
    assert refused["trace_id"] == answered["trace_id"] == trace
    assert "tokens" not in refused
    assert "鬼" not in lines


@pytest.mark.parametrize(
    ("level", "written"),
    [
        ("debug", ["debug", "info", "warning", "error"]),
        ("info", ["info", "warning", "error"]),
        ("warning", ["warning", "error"]),
        ("error", ["error"]),
    ],
)
@pytest.mark.parametrize("logger", ["service.requests", "uvicorn.error"])
def test_less_than_the_level_is_not_written(
    capsys: pytest.CaptureFixture[str], logger: str, level: str, written: list[str]
) -> None:
    """A line about requests, or a library's, is written if it is at least as grave as the level that is set."""
    with logging_to_stderr(level):
        for name in ("debug", "info", "warning", "error"):
            logging.getLogger(logger).log(getattr(logging, name.upper()), "line")
    assert [json.loads(line)["level"] for line in capsys.readouterr().err.splitlines()] == written


@pytest.mark.parametrize("level", ["info", "warning", "error"])
def test_what_the_service_says_of_itself_is_written_at_every_level(
    capsys: pytest.CaptureFixture[str], level: str
) -> None:
    """A change of checkpoint and a refused one leave their lines at any level, requests only at info."""

    async def question(client: httpx.AsyncClient) -> None:
        await client.post("/predict", json={"text": "a"})
        await client.post("/admin/reload")
        await client.post("/admin/reload", json={"checkpoint": "broken"})

    with logging_to_stderr(level):
        ask(question)
    entries = map(json.loads, capsys.readouterr().err.splitlines())
    events = [entry["event"] for entry in entries if entry["logger"].startswith("service.")]
    assert [event for event in events if event != "request"] == [
        "ready",
        "reloaded",
        "reload failed",
    ]
    assert events.count("request") == (3 if level == "info" else 0)


def test_above_info_a_request_is_not_even_looked_at(capsys: pytest.CaptureFixture[str]) -> None:
    """At warning a request's line costs the question whether it is wanted: nothing of the record is read."""

    class Untouchable(RequestContext):
        def __init__(self) -> None:
            pass

        def __getattribute__(self, name: str) -> object:
            raise AssertionError(name)

    with logging_to_stderr("warning"):
        log_request(Untouchable(), 0.001)
    assert capsys.readouterr().err == ""


def test_exception_is_logged_without_its_message(capsys: pytest.CaptureFixture[str]) -> None:
    """An exception that anybody logs shows type and places, and not its message, which might hold a text."""
    with logging_to_stderr():
        try:
            raise ValueError("鬼")
        except ValueError:
            logging.getLogger("uvicorn.error").exception("Exception in ASGI application\n")
    line = capsys.readouterr().err
    entry = json.loads(line)
    assert entry["exception"]["type"] == "ValueError"
    assert "test_logs.py" in entry["exception"]["places"][0]
    assert "鬼" not in line


def test_places_of_a_thread_are_as_those_of_an_exception() -> None:
    """File, line and function, the outermost first; a thread that does not run is nowhere."""
    entered, left = threading.Event(), threading.Event()

    def stay_here() -> None:
        entered.set()
        left.wait()

    thread = threading.Thread(target=stay_here)
    assert places(thread) == []
    thread.start()
    assert entered.wait(PATIENCE_SECONDS)
    found = places(thread)
    left.set()
    thread.join()
    assert found[0].endswith(" _bootstrap")
    assert any(re.fullmatch(rf"{re.escape(__file__)}:\d+ stay_here", place) for place in found[1:])
    assert places(thread) == []


def test_only_the_first_line_of_a_message_is_logged(capsys: pytest.CaptureFixture[str]) -> None:
    """Asyncio shows the objects it complains of on further lines; those stay out."""
    with logging_to_stderr():
        logging.getLogger("asyncio").error(
            "Future exception was never retrieved\nfuture: <Future ValueError('鬼')>"
        )
    assert json.loads(capsys.readouterr().err)["event"] == "Future exception was never retrieved"


class Blocked(io.StringIO):
    """Standard error that nobody reads until it is opened."""

    def __init__(self) -> None:
        super().__init__()
        self.entered = threading.Event()
        self.opened = threading.Event()

    def write(self, text: str) -> int:
        """Wait for a reader."""
        self.entered.set()
        self.opened.wait()
        return super().write(text)


def test_blocked_reader_does_not_block_the_writer(monkeypatch: pytest.MonkeyPatch) -> None:
    """If nobody reads standard error, lines are dropped, counted and told, and whoever logs goes on."""
    blocked = Blocked()
    monkeypatch.setattr(sys, "stderr", blocked)
    with logging_to_stderr():
        for number in range(2 * MAX_BACKLOG):
            logging.getLogger("service").info("line %d", number)
        lost = lines_lost()
        blocked.opened.set()
    entries = [json.loads(line) for line in blocked.getvalue().splitlines()]
    written = [entry for entry in entries if entry["event"].startswith("line ")]
    assert 0 < len(written) <= MAX_BACKLOG + MAX_WRITE
    assert len(written) + lost == 2 * MAX_BACKLOG
    assert [entry["lines"] for entry in entries if entry["event"] == "log lines lost"] == [lost]
    assert lines_lost() == 0  # of the log that is written now


def test_grave_lines_find_room_where_others_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """While requests' lines are dropped, a bounded number of warnings and errors is kept."""
    blocked = Blocked()
    monkeypatch.setattr(sys, "stderr", blocked)
    monkeypatch.setattr("service.logs.MAX_BACKLOG", 1)
    monkeypatch.setattr("service.logs.RESERVED_PLACES", 2)
    log = logging.getLogger("service")
    with logging_to_stderr():
        log.info("being written")
        assert blocked.entered.wait(PATIENCE_SECONDS)
        for write in (log.info, log.info, log.warning, log.error, log.error):
            write("waits")
        assert lines_lost() == 2
        blocked.opened.set()
    levels = [
        json.loads(line)["level"] for line in blocked.getvalue().splitlines() if "waits" in line
    ]
    assert levels == ["info", "warning", "error"]


def test_end_does_not_wait_for_a_reader_that_never_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    """If nobody ever reads standard error, the process can end all the same."""

    class Blocked(io.StringIO):
        def write(self, text: str) -> int:
            threading.Event().wait()
            return len(text)

    monkeypatch.setattr(sys, "stderr", Blocked())
    monkeypatch.setattr("service.logs.MAX_BACKLOG", 1)
    monkeypatch.setattr("service.logs.MAX_FLUSH", 0.01)
    with logging_to_stderr():
        for number in range(5):
            logging.getLogger("service").info("line %d", number)


def test_lines_after_a_full_disk_are_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """What cannot be written is lost and counted; with room again that is told once, and lines are written."""

    class Disk(io.StringIO):
        full = True
        refused = threading.Semaphore(0)
        told = threading.Event()

        def write(self, text: str) -> int:
            if self.full:
                self.refused.release()
                raise OSError(28, "No space left on device")
            if "log lines lost" in text:
                self.told.set()
            return super().write(text)

    disk = Disk()
    monkeypatch.setattr(sys, "stderr", disk)
    with logging_to_stderr():
        for _ in range(3):
            logging.getLogger("service").error("gone")
            assert disk.refused.acquire(timeout=PATIENCE_SECONDS)
        disk.full = False
        logging.getLogger("service").info("kept")
        assert disk.told.wait(PATIENCE_SECONDS)
        logging.getLogger("service").info("kept, too")
    entries = [json.loads(line) for line in disk.getvalue().splitlines()]
    assert [entry["event"] for entry in entries] == ["kept", "log lines lost", "kept, too"]
    assert (entries[1]["level"], entries[1]["lines"]) == ("error", 3)


def test_lost_lines_are_on_metrics(monkeypatch: pytest.MonkeyPatch) -> None:
    """What finds no place is counted where Prometheus reads it, while it is not yet told in the log."""
    monkeypatch.setattr("service.logs.MAX_BACKLOG", 0)

    async def question(client: httpx.AsyncClient) -> list[str]:
        before = lines_lost()
        logging.getLogger("service").info("no place")
        assert lines_lost() == before + 1
        return (await client.get("/metrics")).text.splitlines()

    with logging_to_stderr():
        metrics = ask(question)
    assert any(
        line.startswith("lacuna_log_lines_lost_total ") and float(line.split()[1]) >= 1
        for line in metrics
    )


def test_logging_is_restored() -> None:
    """Outside, handlers and levels are as they were."""
    loggers = [logging.getLogger(name) for name in ("root", "service", "service.requests")]

    def state() -> list[object]:
        return [loggers[0].handlers, *(logger.level for logger in loggers)]

    before = state()
    with logging_to_stderr("error"):
        assert all(inside != outside for inside, outside in zip(state(), before, strict=True))
    assert state() == before
