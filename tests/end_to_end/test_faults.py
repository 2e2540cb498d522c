"""Faults injected into a real process, as the user and the operator see them.

Damaged checkpoints: tests/service/test_model_loader.py. Slow bodies and clients that disappear:
test_service_process.py.
"""

import http.client
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

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


def test_an_engine_that_dies_leaves_nobody_waiting() -> None:
    """Waiting requests get 500, later ones 503; probes ask for a restart, which SIGTERM begins.

    Before it dies, a text that exhausts memory fails its own request alone.
    """
    with serving(FAKE, "--deadline-seconds", "600") as server:
        failed = server.ask("POST", "/predict", {"text": ["a", "exhaust my secret"]})
        assert failed.status == 500
        assert "secret" not in failed.body.decode()
        entry = server.logged(event="failed", level="error")
        assert entry["exception"]["type"] == "MemoryError"
        waiting = _ask_aside(server, "hold")
        _until(lambda: "lacuna_queue_work_seconds 0.0" not in _metrics(server))
        assert server.ask("POST", "/predict", {"text": "die with my secret"}).status == 500
        assert waiting().status == 500
        later = server.ask("POST", "/predict", {"text": "a"})
        assert (later.status, later.headers["retry-after"]) == (503, "2")
        probes = ("GET", "/livez"), ("GET", "/readyz"), ("POST", "/admin/reload")
        assert [server.ask(*probe).status for probe in probes] == [503, 503, 503]
        assert "lacuna_ready 0.0" in _metrics(server)
        entry = server.logged(event="engine died", level="critical")
        assert entry["exception"]["type"] == "SystemExit"
        assert not any("secret" in line for line in server.lines)
        server.send_signal(signal.SIGTERM)
        assert server.wait() == 0


def test_a_stuck_step_is_shown_while_it_is_stuck() -> None:
    """Its request gets 504 at the deadline; probes answer meanwhile, and the log has its places."""
    options = "--deadline-seconds", "1", "--stall-seconds", "0.2", "--grace-seconds", "1"
    with serving(FAKE, *options) as server:
        stuck = _ask_aside(server, "stuck, my secret")
        _until(lambda: server.ask("GET", "/livez").status == 503)
        assert server.ask("GET", "/readyz").status == 503
        assert stuck().status == 504
        places = server.logged(event="engine stuck", level="error")["places"]
        assert any("fakes_service.py" in place for place in places)
        assert not any("secret" in line for line in server.lines)


def test_a_clock_that_jumps_ends_no_deadline() -> None:
    """Requests are answered although the clock goes a day ahead and two days back."""
    with serving(FAKE, "--deadline-seconds", "30") as server:
        held = _ask_aside(server, "hold")
        _until(lambda: "lacuna_queue_work_seconds 0.0" not in _metrics(server))
        for _ in range(2):
            server.send_signal(signal.SIGUSR2)
            assert server.ask("POST", "/predict", {"text": "a"}).status == 200
        server.send_signal(signal.SIGUSR1)
        assert held().status == 200


def test_disks_that_hang_do_not_delay_the_end(tmp_path: Path) -> None:
    """A reload that never ends and a keys file replaced by a pipe: one signal ends the process."""
    file = tmp_path / "keys.toml"
    file.write_text(f'[[key]]\nname = "one"\nsha256 = "{"0" * 64}"\n')
    with serving(FAKE, "--keys-file", str(file)) as server:
        file.unlink()
        os.mkfifo(file)
        entry = server.logged(event="keys not reloaded; the old ones stay")
        assert "not a regular file" in entry["reason"]
        assert server.ask("POST", "/predict", {"text": "a"}).status == 401
        server.send_signal(signal.SIGTERM)
        assert server.wait() == 0
    with serving(FAKE, "--checkpoint", "hung", "--grace-seconds", "1") as server:
        loading = server.connect()
        loading.request("POST", "/admin/reload")
        assert server.ask("POST", "/predict", {"text": "a"}).status == 200
        server.send_signal(signal.SIGTERM)
        assert server.wait() == 0
        loading.close()


# A process that does not end when its server has ended.
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
def test_a_second_signal_ends_the_process(number: signal.Signals) -> None:
    """It ends with status 0, whatever the process still waits for."""
    with serving(("-c", _LINGERS)) as server:
        server.send_signal(signal.SIGTERM)
        server.logged(event="lingers")
        server.send_signal(number)
        assert server.wait() == 0


def test_refused_bodies_are_freed(tiny_checkpoint: Path) -> None:
    """A hundred bodies of a mebibyte leave the process as large as it was."""
    body = b'{"text": "' + b"a" * 2**20
    with serving(REAL, "--checkpoint", str(tiny_checkpoint)) as server:

        def resident_after(requests: int) -> float:
            for _ in range(requests):
                assert server.ask("POST", "/predict", body).status == 413
            found = re.search(r"^process_resident_memory_bytes (\S+)$", _metrics(server), re.M)
            assert found
            return float(found[1])

        before = resident_after(20)
        assert resident_after(100) < before + 20 * 2**20


def test_a_full_disk_costs_log_lines_only() -> None:
    """If the log cannot be written, requests are answered, lines counted, and SIGTERM works."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]

    def ask(method: str, path: str, body: bytes | None = None) -> str:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_SECONDS)
        headers = {"Content-Type": "application/json"} if body else {}
        try:
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            return f"{response.status} {response.read().decode()}"
        except OSError:
            return "no answer"
        finally:
            connection.close()

    command = [sys.executable, *FAKE, "--port", str(port)]
    with (
        Path("/dev/full").open("wb") as log,
        subprocess.Popen(command, cwd=ROOT, env=clean_environment(), stderr=log) as process,
    ):
        try:
            _until(lambda: ask("GET", "/readyz").startswith("200"))
            assert ask("POST", "/predict", b'{"text": "a"}').startswith("200")
            lost = re.compile(r"^lacuna_log_lines_lost_total [1-9]", re.M)
            _until(lambda: bool(lost.search(ask("GET", "/metrics"))))
            process.send_signal(signal.SIGTERM)
            assert process.wait(PATIENCE_SECONDS) == 0
        finally:
            process.kill()


def _ask_aside(server: ServerProcess, text: str) -> Callable[[], Answer]:
    """Send a request on another thread; return a function that waits for its answer."""
    answers: list[Answer] = []

    def ask() -> None:
        answers.append(server.ask("POST", "/predict", {"text": text}))

    thread = threading.Thread(target=ask)
    thread.start()

    def wait() -> Answer:
        thread.join()
        return answers[0]

    return wait


def _metrics(server: ServerProcess) -> str:
    return server.ask("GET", "/metrics").body.decode()


def _until(condition: Callable[[], bool]) -> None:
    """Ask again until *condition* holds, at most for PATIENCE_SECONDS."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline
