"""Headers that trickle in or never end, on a real process: refused, and nobody else waits."""

import json
import socket
from collections.abc import Iterator

import pytest

from service.protocol import MOST_HEADER_BYTES
from tests.service.server_process import FAKE, ServerProcess, exchange, serving

PATIENCE_SECONDS = 30


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    """A service that waits half a second for headers."""
    with serving(FAKE, "--header-seconds", "0.5") as process:
        yield process


def received(connection: socket.socket) -> bytes:
    """All that comes until the service closes."""
    parts = []
    while part := connection.recv(65536):
        parts.append(part)
    return b"".join(parts)


def test_headers_that_trickle_in_are_refused(server: ServerProcess) -> None:
    """A client that sends a header every tenth of a second gets 408 and a closed connection; others are answered."""
    with socket.create_connection(server.address, PATIENCE_SECONDS) as slow:
        slow.settimeout(0.1)
        slow.sendall(b"GET /readyz HTTP/1.1\r\nHost: x\r\n")
        answer = b""
        for number in range(200):  # far more than the half second takes
            try:
                answer = slow.recv(65536)
                break
            except TimeoutError:
                slow.sendall(b"X-%d: y\r\n" % number)
        assert answer.startswith(b"HTTP/1.1 408 ")
        slow.settimeout(PATIENCE_SECONDS)
        problem = json.loads((answer + received(slow)).partition(b"\r\n\r\n")[2])
        assert problem["status"] == 408
        assert "0.5 s" in problem["detail"]
    assert server.ask("GET", "/readyz").status == 200
    server.logged(event="headers refused", status=408)


def test_a_connection_that_asks_nothing_is_closed(server: ServerProcess) -> None:
    """Without a byte sent there is no answer, only the end."""
    with socket.create_connection(server.address, PATIENCE_SECONDS) as silent:
        assert received(silent) == b""


def test_headers_without_end_are_refused(server: ServerProcess) -> None:
    """More bytes of headers than are taken get 431, whatever the time left."""
    with socket.create_connection(server.address, PATIENCE_SECONDS) as endless:
        endless.sendall(b"GET /readyz HTTP/1.1\r\nX-Long: ")
        with pytest.raises((BrokenPipeError, ConnectionResetError, AssertionError)):
            for _ in range(1000):
                endless.sendall(b"a" * (MOST_HEADER_BYTES // 16))
            raise AssertionError
    server.logged(event="headers refused", status=431)
    assert server.ask("GET", "/readyz").status == 200


def test_a_kept_connection_may_wait_between_requests(server: ServerProcess) -> None:
    """The deadline is for headers that have begun: a quiet connection lives on until keep-alive ends it."""
    connection = server.connect()
    assert exchange(connection, "GET", "/readyz").status == 200
    with socket.create_connection(server.address, PATIENCE_SECONDS) as quiet:  # until the half second has passed
        assert received(quiet) == b""
    assert exchange(connection, "GET", "/readyz").status == 200
    connection.close()


def test_headers_may_come_in_parts(server: ServerProcess) -> None:
    """A request in two parts is answered, and so is the next one on its connection."""
    with socket.create_connection(server.address, PATIENCE_SECONDS) as parts:
        for _ in range(2):
            parts.sendall(b"GET /readyz HTTP/1.1\r\nHo")
            parts.sendall(b"st: x\r\n\r\n")
            answer = b""
            while not answer.endswith(b"ready\n"):
                answer += parts.recv(65536)
            assert answer.startswith(b"HTTP/1.1 200")


def test_bytes_that_are_no_http_get_a_problem(server: ServerProcess) -> None:
    """As every other error, and the connection is closed."""
    with socket.create_connection(server.address, PATIENCE_SECONDS) as confused:
        confused.sendall(b"\x16\x03\x01 hello\r\n\r\n")
        head, _, content = received(confused).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ")
    assert b"application/problem+json" in head
    assert json.loads(content)["status"] == 400
