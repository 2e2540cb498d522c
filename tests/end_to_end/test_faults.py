"""What goes wrong in a year, made to go wrong: what the user and the operator see, on a real process.

Torn checkpoints: test_service_process.py at start, tests/service/test_model_loader.py later.
Slow bodies and clients that disappear: test_service_process.py.
"""

import http.client
import io
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path

import pytest

from service.auth import main as make_keys
from tests.service.server_process import (
    FAKE,
    REAL,
    ROOT,
    Answer,
    ServerProcess,
    clean_environment,
    serving,
)

PATIENCE_SECONDS = 60
pytestmark = pytest.mark.fault


def test_an_item_that_exhausts_memory_fails_alone() -> None:
    """Its request gets 500 without details; the log has the kind of error and no text; others are answered."""
    with serving(FAKE) as server:
        failed = server.ask("POST", "/predict", {"text": ["a", "exhaust my secret"]})
        assert failed.status == 500
        assert "secret" not in failed.body.decode()
        entry = server.logged(event="failed", level="error")
        assert entry["exception"]["type"] == "MemoryError"
        assert server.ask("POST", "/predict", {"text": "a"}).status == 200
        assert server.ask("GET", "/livez").status == 200
        assert not any("secret" in line for line in server.lines)


def test_an_engine_that_dies_leaves_nobody_waiting() -> None:
    """All that wait get 500 at once, later ones 503; /livez and /readyz ask for a restart, which SIGTERM begins."""
    with serving(FAKE, "--deadline-seconds", "600") as server:
        waiting: list[Answer] = []
        held = threading.Thread(
            target=lambda: waiting.append(server.ask("POST", "/predict", {"text": "hold"}))
        )
        held.start()
        _until_metric(server, "lacuna_batch_rows_count")
        assert server.ask("POST", "/predict", {"text": "die with my secret"}).status == 500
        held.join()
        assert waiting[0].status == 500
        later = server.ask("POST", "/predict", {"text": "a"})
        assert (later.status, later.headers["retry-after"]) == (503, "2")
        assert server.ask("GET", "/livez").status == 503
        assert server.ask("GET", "/readyz").status == 503
        assert server.ask("POST", "/admin/reload").status == 503
        assert b"lacuna_ready 0.0" in server.ask("GET", "/metrics").body
        assert (
            server.logged(event="engine died", level="critical")["exception"]["type"]
            == "SystemExit"
        )
        assert not any("secret" in line for line in server.lines)
        server.send_signal(signal.SIGTERM)
        assert server.wait() == 0


def test_a_stuck_step_is_told_without_waiting_for_it() -> None:
    """Its request gets 504 at the deadline; probes answer meanwhile, and once it counts as stuck say 503 and why."""
    with serving(
        FAKE, "--deadline-seconds", "1", "--stall-seconds", "0.2", "--grace-seconds", "1"
    ) as server:
        answers: list[Answer] = []
        stuck = threading.Thread(
            target=lambda: answers.append(
                server.ask("POST", "/predict", {"text": "stuck, my secret"})
            )
        )
        stuck.start()
        _until(lambda: server.ask("GET", "/livez").status == 503)
        assert not answers  # probes do not wait behind inference
        assert server.ask("GET", "/readyz").status == 503
        assert server.ask("POST", "/predict", {"text": "a"}).status == 503
        stuck.join()
        assert answers[0].status == 504
        assert any(
            "fakes_service.py" in place
            for place in server.logged(event="engine stuck", level="error")["places"]
        )
        assert not any("secret" in line for line in server.lines)


def test_a_clock_that_jumps_ends_no_deadline() -> None:
    """A day ahead and two back while a request is held: it is answered when it is let go, and others meanwhile."""
    with serving(FAKE, "--deadline-seconds", "30") as server:
        answers: list[Answer] = []
        held = threading.Thread(
            target=lambda: answers.append(server.ask("POST", "/predict", {"text": "hold"}))
        )
        held.start()
        _until_metric(server, "lacuna_batch_rows_count")
        for _ in range(2):
            server.send_signal(signal.SIGUSR2)
            assert server.ask("POST", "/predict", {"text": "a"}).status == 200
            assert server.ask("GET", "/livez").status == 200
        assert not answers
        server.send_signal(signal.SIGUSR1)
        held.join()
        assert answers[0].status == 200


def test_a_pipe_for_a_keys_file_is_told_and_holds_up_no_end(tmp_path: Path) -> None:
    """Whoever replaces the file by a pipe reads so in the log, keys stay, and one signal ends the process."""
    file = tmp_path / "keys.toml"
    with redirect_stdout(io.StringIO()):
        make_keys(["new", "one", "--file", str(file)])
    with serving(FAKE, "--keys-file", str(file)) as server:
        file.unlink()
        os.mkfifo(file)
        assert (
            "not a regular file"
            in server.logged(event="keys not reloaded; the old ones stay")["reason"]
        )
        assert server.ask("POST", "/predict", {"text": "a"}).status == 401
        server.send_signal(signal.SIGTERM)
        assert server.wait() == 0


def test_a_checkpoint_on_a_disk_that_hangs_holds_up_no_end() -> None:
    """While one is being loaded that never ends, others are answered, and one signal ends the process in time."""
    with serving(FAKE, "--checkpoint", "hung", "--grace-seconds", "1") as server:
        loading = server.connect()
        loading.request("POST", "/admin/reload")
        assert server.ask("POST", "/predict", {"text": "a"}).status == 200
        server.send_signal(signal.SIGTERM)
        assert server.wait() == 0
        loading.close()


# Ends its server, and then does not end: a stand-in for whatever may hang between the two.
_LINGERS = """
import sys, threading
from service.__main__ import serve
from service.settings import read_settings
from tests.service.fakes_service import FakeModel
serve(read_settings(sys.argv[1:]), FakeModel().load)
sys.stderr.write('{"event": "lingers"}\\n')
threading.Event().wait()
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_after_the_drain_ends_the_process(number: signal.Signals) -> None:
    """Whatever the process still waits for when its server has ended, the next signal ends it, with status 0."""
    with serving(("-c", _LINGERS)) as server:
        server.send_signal(signal.SIGTERM)
        server.logged(event="lingers")
        server.send_signal(number)
        assert server.wait() == 0


def test_bodies_that_are_refused_are_let_go(tiny_checkpoint: Path) -> None:
    """A hundred of a mebibyte leave the process as large as it was: none waits for Python to look for cycles."""
    body = b'{"text": "' + b"a" * 2**20
    with serving(REAL, "--checkpoint", str(tiny_checkpoint)) as server:

        def ask(times: int) -> int:
            for _ in range(times):
                assert server.ask("POST", "/predict", body).status == 413
            metrics = server.ask("GET", "/metrics").body.decode()
            (resident,) = re.findall(
                r"^process_resident_memory_bytes (\S+)$", metrics, re.MULTILINE
            )
            return int(float(resident))

        before = ask(20)
        assert ask(100) < before + 20 * 2**20


def test_a_full_disk_costs_log_lines_only() -> None:
    """With a log that cannot be written, requests are answered, lines counted, and a signal ends it with status 0."""
    with _logging_to("/dev/full") as (port, process):
        for _ in range(20):
            assert _status(port, "POST", "/predict", b'{"text": "a"}') == 200
        _until(lambda: _counted(_lost_lines(port), "lacuna_log_lines_lost_total"))
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_SECONDS) == 0


@contextmanager
def _logging_to(path: str) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    """A fake service that is ready and logs to a file; its port was free a moment before."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    command = [sys.executable, *FAKE, "--port", str(port)]
    with (
        Path(path).open("wb") as log,
        subprocess.Popen(command, cwd=ROOT, env=clean_environment(), stderr=log) as process,
    ):
        try:
            _until(lambda: _status(port, "GET", "/readyz") == 200)
            yield port, process
        finally:
            process.kill()


def _status(port: int, method: str, path: str, body: bytes | None = None) -> int:
    """Of one request; 0 where nobody answers."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_SECONDS)
    try:
        connection.request(method, path, body, {"Content-Type": "application/json"} if body else {})
        return connection.getresponse().status
    except OSError:
        return 0
    finally:
        connection.close()


def _lost_lines(port: int) -> str:
    """The metrics' line of lost log lines."""
    with urllib.request.urlopen(
        f"http://127.0.0.1:{port}/metrics", timeout=PATIENCE_SECONDS
    ) as answer:
        return next(
            line.decode() for line in answer if line.startswith(b"lacuna_log_lines_lost_total")
        )


def _until_metric(server: ServerProcess, name: str) -> None:
    """Wait until a series that counts calls has counted one."""
    _until(
        lambda: any(
            _counted(line, name)
            for line in server.ask("GET", "/metrics").body.decode().splitlines()
        )
    )


def _counted(line: str, name: str) -> bool:
    return line.startswith(name) and float(line.rpartition(" ")[2]) >= 1


def _until(condition: object) -> None:
    """Ask again until it holds, at most for PATIENCE_SECONDS."""
    assert callable(condition)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline
