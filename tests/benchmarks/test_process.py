"""A server as a process: pinned, asked, paused, ended with all its children."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.process import Server, ServerError, free_port

# Answers every POST with 200 and the number of CPUs that it may use; has a child that would outlive it.
PROGRAM = """
import http.server, json, os, subprocess, sys
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        body = json.dumps(len(os.sched_getaffinity(0))).encode()
        self.send_response(200 if self.path == "/right" else 500)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_): pass
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """The program, on one core."""
    port = free_port()
    core = str(min(os.sched_getaffinity(0)))
    running = Server(
        [sys.executable, "-c", PROGRAM, str(port)],
        port,
        core,
        os.environ,
        tmp_path,
        tmp_path / "log",
    )
    yield running
    running.stop()


def members(server: Server) -> list[int]:
    """Ids of its live processes."""
    return [pid for pid, _ in server._members()]


def test_a_server_runs_pinned_and_ends_with_its_children(server: Server) -> None:
    """It gets the cores that it is given; memory and CPU time are those of all its processes; none is left over."""
    assert server.wait_until_right("/right", {}, lambda cores: bool(cores == 1), 30) > 0
    assert len(members(server)) == 2
    assert server.peak_bytes() > 1 << 20
    assert server.cpu_seconds() >= 0
    with pytest.raises(ServerError, match="status 500"):
        server.ask("/wrong", {})
    server.stop()
    assert members(server) == []


def test_a_paused_server_can_be_ended(server: Server) -> None:
    """SIGTERM reaches a process that stands still only once it goes on, so it is let go on."""
    server.wait_until_right("/right", {}, lambda cores: bool(cores == 1), 30)
    server.pause()
    server.stop()
    assert members(server) == []


def test_a_server_that_ends_by_itself_is_reported_with_its_log(tmp_path: Path) -> None:
    """What it wrote last says why."""
    command = [sys.executable, "-c", "raise SystemExit('no such checkpoint')"]
    core = str(min(os.sched_getaffinity(0)))
    failing = Server(command, free_port(), core, os.environ, tmp_path, tmp_path / "log")
    with pytest.raises(ServerError, match="status 1:\nno such checkpoint"):
        failing.wait_until_right("/right", {}, bool, 30)
    failing.stop()
