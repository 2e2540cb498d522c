"""Faults injected into a real process, as the user and the operator see them.

Damaged checkpoints: tests/service/test_model_loader.py. A full disk: tests/service/test_logs.py.
Slow bodies and clients that disappear: test_service_process.py.
"""

import re
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.service.server_process import FAKE, REAL, Answer, ServerProcess, serving

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
        _until(lambda: "lacuna_queue_work_seconds 0.0\n" not in _metrics(server))
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


def test_a_disk_that_hangs_does_not_delay_the_end() -> None:
    """Requests are answered during a reload that never ends, and one signal ends the process."""
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


def test_a_second_signal_ends_the_process() -> None:
    """It ends with status 0, whatever the process still waits for."""
    with serving(("-c", _LINGERS)) as server:
        server.send_signal(signal.SIGTERM)
        server.logged(event="lingers")
        server.send_signal(signal.SIGTERM)
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
