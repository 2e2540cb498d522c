"""The soak: a server that dies, hangs up or ends badly is no server that leaked nothing."""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from benchmarks.process import Server, ServerError, free_port
from benchmarks.soak import growth, watch

# Answers everything with 200 and {}. At each 30th question of all it does DO first.
PROGRAM = """
import http.server, itertools, os, signal, sys
questions = itertools.count(1)
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def answer(self):
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.close_connection = False
        if next(questions) % 30 == 0:
            DO
        if not self.close_connection:
            self.send_response(200)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")
    do_GET = do_POST = answer
    def log_message(self, *_): pass
signal.signal(signal.SIGTERM, lambda *_: os._exit(int(sys.argv[2])))
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""
Serve = Callable[..., Server]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Start such a server: what it does at each 30th question, and the status with which it stops."""
    running = []

    def start(do: str = "pass", status: int = 0) -> Server:
        port = free_port()
        command = [sys.executable, "-c", PROGRAM.replace("DO", do), str(port), str(status)]
        core = str(min(os.sched_getaffinity(0)))
        running.append(Server(command, port, core, os.environ, tmp_path, tmp_path / "log"))
        running[-1].wait_until_ready(30)
        return running[-1]

    yield start
    for server in running:
        server.stop()


def test_a_soak_counts_what_came_of_it(serve: Serve, tmp_path: Path) -> None:
    """Of a server that answers all: answers, connections that were hung up on purpose, and none that broke."""
    found = watch(serve(), ["some text"], 1.5, [tmp_path], seed=1)
    assert set(found["status"]) == {"200"}
    assert found["hung_up"] > 0
    assert found["reloads"] == 1
    assert (found["broken"], found["server_errors"], found["leaked_descriptors"]) == (0, 0, 0)


@pytest.mark.parametrize(
    ("do", "status"),
    [("os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL), ("os._exit(3)", 3)],
)
def test_a_server_that_dies_ends_the_soak(
    serve: Serve, tmp_path: Path, do: str, status: int
) -> None:
    """Killed or ended by itself: nothing is reported of a server that has no descriptors because it is none."""
    with pytest.raises(ServerError, match=f"ended with status {status}"):
        watch(serve(do), ["some text"], 60, [tmp_path], seed=1)


def test_a_server_that_stops_badly_fails_the_soak(serve: Serve, tmp_path: Path) -> None:
    """One that answers everything, and then ends with another status than 0."""
    with pytest.raises(ServerError, match="ended with status 5"):
        watch(serve(status=5), ["some text"], 0.3, [tmp_path], seed=1)


def test_a_connection_that_breaks_is_no_hang_up_of_ours(serve: Serve, tmp_path: Path) -> None:
    """A server that hangs up now and then instead of answering is found out."""
    assert (
        watch(serve("self.close_connection = True"), ["some text"], 1, [tmp_path], seed=1)["broken"]
        > 0
    )


def test_a_client_that_cannot_go_on_ends_the_soak(serve: Serve, tmp_path: Path) -> None:
    """What a client raises is raised: else a soak would pass that asks nothing."""
    with pytest.raises(IndexError):
        watch(serve(), [], 60, [tmp_path], seed=1)


def test_growth_is_that_of_the_later_part() -> None:
    """What a cache takes in the beginning is no leak; a line that goes on rising is."""
    filling = [(float(second), min(200.0, 100.0 + second)) for second in range(600)]
    level = {"resident_mib": {"first": 200.0, "last": 200.0}, "mib_per_hour": 0.0, "flat": True}
    assert growth(filling) == {**level, "resident_mib_by_tenth": [129.5, 189.5, *[200.0] * 8]}
    leaking = growth([(float(second), 100.0 + second / 10) for second in range(600)])
    assert leaking["mib_per_hour"] == pytest.approx(360)
    assert not leaking["flat"]
    slowly = growth([(float(second), 280.0 + 12 * second / 1800) for second in range(0, 1800, 6)])
    assert not slowly["flat"]
    moments = growth(
        [
            (float(second), 350.0 if second > 500 and second % 50 < 10 else 280.0)
            for second in range(600)
        ]
    )
    assert moments == {
        **level,
        "resident_mib": {"first": 280.0, "last": 280.0},
        "resident_mib_by_tenth": [280.0] * 10,
    }
