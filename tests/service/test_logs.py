"""Tests of service/logs.py."""

import io
import json
import logging
import sys
import threading

import httpx
import pytest

from service.logs import MAX_WAITING, lines_lost, logging_to_stderr
from tests.service.client import ask

PATIENCE_SECONDS = 60


def test_a_request_is_one_line_of_json(capsys: pytest.CaptureFixture[str]) -> None:
    """The line of an answer has tokens and times, that of a refusal has not; none has a text."""
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    headers = {"traceparent": f"00-{trace}-00f067aa0ba902b7-01", "x-request-id": "id-1"}

    async def question(client: httpx.AsyncClient) -> None:
        await client.post("/predict", json={"text": 1}, headers=headers)
        await client.post("/predict", json={"text": ["abc", "鬼"]}, headers=headers)

    with logging_to_stderr():
        ask(question)
    lines = capsys.readouterr().err
    assert "鬼" not in lines
    entries = map(json.loads, lines.splitlines())
    refused, answered = [entry for entry in entries if entry["event"] == "request"]
    common = {"level": "info", "logger": "service.requests", "event": "request"}
    common |= {"request_id": "id-1", "trace_id": trace, "route": "/predict"}
    for entry, own in (
        (refused, {"status": 422}),
        (answered, {"status": 200, "items": 2, "tokens": 4, "cached_tokens": 2}),
    ):
        assert (common | own).items() <= entry.items()
    times = {"queue_milliseconds", "inference_milliseconds"}
    assert answered.keys() - refused.keys() == times | {"tokens", "cached_tokens"}


@pytest.mark.parametrize("level", ["debug", "info", "warning", "error"])
def test_the_level_holds_for_requests_and_libraries(
    capsys: pytest.CaptureFixture[str], level: str
) -> None:
    """The service's own events are logged from info on at any level."""
    names = ["debug", "info", "warning", "error"]
    at_least = names[names.index(level) :]
    with logging_to_stderr(level):
        for logger in ("service.requests", "uvicorn.error", "service.engine"):
            for name in names:
                logging.getLogger(logger).log(getattr(logging, name.upper()), logger)
    entries = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    for logger in ("service.requests", "uvicorn.error"):
        assert [entry["level"] for entry in entries if entry["event"] == logger] == at_least
    own = [entry["level"] for entry in entries if entry["event"] == "service.engine"]
    assert own == (names if level == "debug" else names[1:])


def test_neither_message_nor_further_lines_of_an_exception_are_logged(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """They may hold a text, as when asyncio shows the objects that it complains of."""
    with logging_to_stderr():
        try:
            raise ValueError("鬼")
        except ValueError:
            logging.getLogger("asyncio").exception("never retrieved\nfuture: <Future '鬼'>")
    line = capsys.readouterr().err
    entry = json.loads(line)
    assert (entry["event"], entry["exception"]["type"]) == ("never retrieved", "ValueError")
    assert "test_logs.py" in entry["exception"]["places"][0]
    assert "鬼" not in line


class Blocked(io.StringIO):
    """Standard error that is not read until it is opened."""

    def __init__(self) -> None:
        super().__init__()
        self.opened = threading.Event()

    def write(self, text: str) -> int:
        """Wait for a reader."""
        self.opened.wait()
        return super().write(text)


@pytest.mark.parametrize("opens", [True, False])
def test_a_blocked_reader_blocks_nobody(monkeypatch: pytest.MonkeyPatch, opens: bool) -> None:
    """If standard error is not read, lines are dropped and counted; the process can still end."""
    blocked = Blocked()
    monkeypatch.setattr(sys, "stderr", blocked)
    if not opens:
        monkeypatch.setattr("service.logs.FLUSH_SECONDS", 0.01)
    with logging_to_stderr():
        for number in range(2 * MAX_WAITING):
            logging.getLogger("service").info("line %d", number)
        lost = lines_lost()
        assert MAX_WAITING - 1 <= lost <= MAX_WAITING
        if opens:
            blocked.opened.set()
    assert len(blocked.getvalue().splitlines()) == (2 * MAX_WAITING - lost if opens else 0)
    blocked.opened.set()


def test_lines_after_a_full_disk_are_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """A line that cannot be written is counted, also in the metrics; later ones are written."""

    class Disk(io.StringIO):
        full = True
        refused = threading.Event()

        def write(self, text: str) -> int:
            if self.full:
                self.full = False
                self.refused.set()
                raise OSError(28, "No space left on device")
            return super().write(text)

    disk = Disk()
    monkeypatch.setattr(sys, "stderr", disk)
    with logging_to_stderr("error"):
        logging.getLogger("service").error("gone")
        assert disk.refused.wait(PATIENCE_SECONDS)
        logging.getLogger("service").error("kept")
        while not lines_lost():
            pass
        metrics = ask(lambda client: client.get("/metrics")).text
    assert "lacuna_log_lines_lost_total 1.0" in metrics.splitlines()
    events = [json.loads(line)["event"] for line in disk.getvalue().splitlines()]
    assert events == ["kept", "ready"]
