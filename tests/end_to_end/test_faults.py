"""Faults injected into a real process, as the user and the operator see them.

Damaged checkpoints: tests/service/test_model_loader.py. A full disk: tests/service/test_logs.py.
Slow bodies and clients that disappear: test_service_process.py.
"""

import signal
import threading
import time
from collections.abc import Callable

import pytest

from tests.service.server_process import FAKE, Answer, ServerProcess, serving

PATIENCE_SECONDS = 60
pytestmark = pytest.mark.fault


def test_an_engine_that_dies_leaves_nobody_waiting() -> None:
    """Waiting requests get 500, later ones 503; probes ask for a restart, which SIGTERM begins."""
    with serving(FAKE, "--deadline-seconds", "600") as server:
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
