"""Headers that trickle in or never end, on a real process: refused, and nobody else waits."""

import contextlib
import json
import re
import signal
import socket
from collections.abc import Iterator

import pytest

from service.protocol import MAX_HEADER_BYTES
from tests.service.server_process import FAKE, ServerProcess, exchange, serving

PATIENCE_SECONDS = 30


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    """A service that waits half a second for headers."""
    with serving(FAKE, "--header-seconds", "0.5") as process:
        yield process


def received(connection: socket.socket) -> bytes:
    """All that comes until the service closes; a byte that crossed its answer on the way makes that a reset."""
    parts = []
    with contextlib.suppress(ConnectionResetError):
        while part := connection.recv(65536):
            parts.append(part)
    return b"".join(parts)


@pytest.mark.fault
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


@pytest.mark.fault
def test_a_connection_that_asks_nothing_is_closed(server: ServerProcess) -> None:
    """Without a byte sent there is no answer, only the end."""
    with socket.create_connection(server.address, PATIENCE_SECONDS) as silent:
        assert received(silent) == b""


@pytest.mark.fault
def test_headers_without_end_are_refused(server: ServerProcess) -> None:
    """More bytes of headers than are taken get 431, whatever the time left."""
    with socket.create_connection(server.address, PATIENCE_SECONDS) as endless:
        endless.sendall(b"GET /readyz HTTP/1.1\r\nX-Long: ")
        with pytest.raises((BrokenPipeError, ConnectionResetError, AssertionError)):
            for _ in range(1000):
                endless.sendall(b"a" * (MAX_HEADER_BYTES // 16))
            raise AssertionError
    server.logged(event="headers refused", status=431)
    assert server.ask("GET", "/readyz").status == 200


def test_a_kept_connection_may_wait_between_requests(server: ServerProcess) -> None:
    """The deadline is for headers that have begun: a quiet connection lives on until keep-alive ends it."""
    connection = server.connect()
    assert exchange(connection, "GET", "/readyz").status == 200
    with socket.create_connection(
        server.address, PATIENCE_SECONDS
    ) as quiet:  # until the half second has passed
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


@pytest.mark.fault
@pytest.mark.parametrize(
    ("first", "more"),
    [
        (b"GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n", b"\r\n"),
        (b"POST /nothing HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\n", b"x"),
    ],
    ids=["an empty line", "the rest of a body"],
)
def test_a_connection_is_not_held_open_by_crumbs(first: bytes, more: bytes) -> None:
    """After an answer, bytes that ask for nothing keep the connection no longer than keep-alive does."""
    with (
        serving(FAKE, "--keep-alive-seconds", "1") as server,
        socket.create_connection(server.address, PATIENCE_SECONDS) as idle,
    ):
        idle.sendall(first)
        assert idle.recv(65536).startswith(b"HTTP/1.1 ")
        idle.sendall(more)
        received(idle)


def test_a_body_does_not_count_as_headers(server: ServerProcess) -> None:
    """A long body and the beginning of the next request in one read: both are answered."""
    body = b'{"text": ["' + b'a", "a' * 15_000 + b'"]}'
    head = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    with socket.create_connection(server.address, PATIENCE_SECONDS) as connection:
        connection.sendall(head % len(body) + body + b"GET /readyz HT")
        answers = connection.recv(65536)
        connection.sendall(b"TP/1.1\r\nHost: localhost\r\n\r\n")
        while not answers.endswith(b"ready\n"):
            answers += connection.recv(65536)
    assert re.findall(rb"HTTP/1\.1 (\d+)", answers) == [b"422", b"200"]


@pytest.mark.fault
def test_late_headers_do_not_answer_for_the_request_before_them() -> None:
    """Half a head behind a request in flight: that one gets its own answer, and then the connection ends."""
    body = b'{"text": "hold"}'
    head = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    with (
        serving(FAKE, "--header-seconds", "0.5") as server,
        socket.create_connection(server.address, PATIENCE_SECONDS) as connection,
    ):
        connection.sendall(head + b"Content-Length: %d\r\n\r\n" % len(body) + body + b"GET /rea")
        with socket.create_connection(
            server.address, PATIENCE_SECONDS
        ) as silent:  # until the half second is over
            assert received(silent) == b""
        server.send_signal(signal.SIGUSR1)
        answers = received(connection)
    assert re.findall(rb"HTTP/1\.1 (\d+)", answers) == [b"200"]


@pytest.mark.fault
def test_bytes_that_are_no_http_get_a_problem(server: ServerProcess) -> None:
    """As every other error, and the connection is closed."""
    with socket.create_connection(server.address, PATIENCE_SECONDS) as confused:
        confused.sendall(b"\x16\x03\x01 hello\r\n\r\n")
        head, _, content = received(confused).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ")
    assert b"application/problem+json" in head
    problem = json.loads(content)
    assert problem["status"] == 400
    assert f"X-Request-Id: {problem['request_id']}".encode() in head
