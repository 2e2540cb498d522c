"""Tests of service/logs.py."""

import io
import json
import logging
import os
import shutil
import sys
import threading
import warnings
from pathlib import Path

import httpx
import pytest

from model.listed_files import read_sums, write_sums
from service.logs import MAX_WAITING, foreign_lines_logged, lines_lost, logging_to_stderr
from tests.service.client import METRICS, METRICS_PORT, ask
from tests.service.server_process import REAL, run_to_end, serving

PATIENCE_SECONDS = 60
# Starts the service on a machine that ONNX Runtime complains of when it is imported.
_UNUSUAL_MACHINE = """
import os, runpy, sys
class Finder:
    def find_spec(self, name, *_):
        if name == "onnxruntime":
            os.write(2, b"\\x1b[0;93mcpuid_info warning: Unknown CPU vendor. \\xff\\x1b[m\\n")
sys.meta_path.insert(0, Finder())
sys.argv[0] = "service"
runpy.run_module("service", run_name="__main__")
"""


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
        metrics = ask(lambda client: client.get(METRICS), metrics_port=METRICS_PORT).text
    assert "lacuna_log_lines_lost_total 1.0" in metrics.splitlines()
    events = [json.loads(line)["event"] for line in disk.getvalue().splitlines()]
    assert events == ["kept", "ready"]


def test_lines_of_libraries_are_json_too(tiny_checkpoint: Path) -> None:
    """A warning that ONNX Runtime writes past Python becomes the field of a line."""
    options = "--checkpoint", str(tiny_checkpoint), "--threads", "1"
    with serving(("-c", _UNUSUAL_MACHINE), *options) as server:
        line = server.logged(event="library", level="warning")["line"]
        assert line == "cpuid_info warning: Unknown CPU vendor. \\xff"
        assert server.ask("POST", "/predict", {"text": "a"}).status == 200
        server.logged(route="/predict")
    assert all(json.loads(line) for line in server.lines)


def test_without_standard_error_no_file_is_redirected(monkeypatch: pytest.MonkeyPatch) -> None:
    """If it is closed, descriptor 2 may belong to a connection."""
    monkeypatch.setattr(sys, "stderr", None)
    before = os.fstat(2)
    with logging_to_stderr(), foreign_lines_logged():
        assert os.path.samestat(os.fstat(2), before)


@pytest.mark.fault
@pytest.mark.parametrize("name", ["tokenizer.model", "onnx/forward.onnx", "onnx/int8.weights"])
def test_a_damaged_checkpoint_with_right_sums_adds_one_line(
    tiny_checkpoint: Path, tmp_path: Path, name: str
) -> None:
    """The log stays JSON; the last line names path and remedy for the operator."""
    directory = tmp_path / "tiny"
    shutil.copytree(tiny_checkpoint, directory)
    content = (directory / name).read_bytes()
    (directory / name).write_bytes(content[: len(content) // 2])
    write_sums(directory, read_sums(directory)[1])
    status, errors = run_to_end(REAL, "--port", "0", "--checkpoint", str(directory))
    *log, last = errors.splitlines()
    assert (status, all(json.loads(line) for line in log)) == (1, True)
    assert last.startswith(f"lacuna: cannot serve {directory}: {directory / name}")


def test_what_nobody_catches_is_a_line_without_a_message(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Exceptions of threads and destructors and warnings are JSON, the first two by type."""

    class Broken:
        def __del__(self) -> None:
            raise KeyError("鬼")

    with logging_to_stderr():
        thread = threading.Thread(target=lambda: [][len("鬼")])
        thread.start()
        thread.join()
        Broken()
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.warn("old", DeprecationWarning, stacklevel=1)
    lines = capsys.readouterr().err
    entries = [json.loads(line) for line in lines.splitlines()]
    assert [entry["event"] for entry in entries[:2]] == ["uncaught"] * 2
    assert [each["exception"]["type"] for each in entries[:2]] == ["IndexError", "KeyError"]
    assert entries[2]["event"].endswith("DeprecationWarning: old")
    assert "鬼" not in lines
