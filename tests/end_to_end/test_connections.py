"""Clients that cost much and ask little, against a service process without a proxy."""

import contextlib
import json
import re
import select
import signal
import socket
from collections.abc import Iterable, Iterator
from itertools import count

import pytest

from tests.service.server_process import FAKE, METRICS_PORT, ServerProcess, exchange, serving

pytestmark = pytest.mark.fault
PATIENCE_SECONDS = 60
MIB = 1 << 20
# The fake model's service with other constants of service.connections, and few descriptors.
HASTY = """
import resource, runpy
from service import connections
connections.HEAD_SECONDS = connections.UNREAD_SECONDS = {seconds}
if {descriptors}:
    resource.setrlimit(resource.RLIMIT_NOFILE, ({descriptors}, {descriptors}))
runpy.run_path({program!r}, run_name="__main__")
"""
HEAD = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


def hasty(seconds: float = 20, descriptors: int = 0) -> tuple[str, ...]:
    """Return the command of a service that waits *seconds* for a client to send and to read."""
    return "-c", HASTY.format(seconds=seconds, descriptors=descriptors, program=FAKE[0])


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    """A service that is soon tired of slow clients, with a port for metrics."""
    options = ("--metrics-port", "0", "--log-level", "error", "--deadline-seconds", "60")
    with serving(hasty(0.5), *options) as running:
        yield running


@pytest.fixture(params=["/openapi.json", "/metrics"])
def target(request: pytest.FixtureRequest, server: ServerProcess) -> tuple[tuple[str, int], bytes]:
    """A port of the service, and a request there that has a long answer."""
    path = str(request.param)
    address = server.metrics_address if path == "/metrics" else server.address
    return address, get(path)


def get(path: str) -> bytes:
    """Return a request."""
    return f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()


def connect(address: tuple[str, int], receive_bytes: int = 0) -> socket.socket:
    """Return a connection that gives up after a while, with a small buffer if asked for."""
    client = socket.socket()
    client.settimeout(PATIENCE_SECONDS)
    if receive_bytes:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    client.connect(address)
    return client


def wait_until_ended(clients: Iterable[socket.socket]) -> None:
    """Wait until the service has ended each connection, and read nothing."""
    for client in clients:
        poll = select.poll()
        poll.register(client, select.POLLRDHUP)
        assert poll.poll(1000 * PATIENCE_SECONDS), "the connection is still open"


def send_until_ended(client: socket.socket, parts: Iterable[bytes]) -> tuple[int, bytes]:
    """Send until the service ends the connection; return the bytes sent and its answer."""
    sent = 0
    try:
        for part in parts:
            client.sendall(part)
            sent += len(part)
            assert sent < 64 * MIB, "the service reads on"
    except (ConnectionError, TimeoutError) as error:
        assert isinstance(error, ConnectionError), "the connection is still open"
    with contextlib.suppress(ConnectionError):
        return sent, client.recv(100)
    return sent, b""


def test_pipelined_requests_that_nobody_reads_cost_no_memory(
    server: ServerProcess, target: tuple[tuple[str, int], bytes]
) -> None:
    """A connection with too many requests in its pipeline ends at once."""
    address, request = target
    before = server.peak_bytes
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(connect(address)) for _ in range(20)]
        for client in clients:
            client.settimeout(1)
            with contextlib.suppress(ConnectionError, TimeoutError):
                client.sendall(request * 6000)
        wait_until_ended(clients)
    assert server.peak_bytes - before < 64 * MIB
    assert server.ask("GET", "/livez").status == 200


def test_connections_whose_answers_are_not_read_end(
    target: tuple[tuple[str, int], bytes],
) -> None:
    """The service waits neither for a client to read nor for its buffer to be sent at the end."""
    address, request = target
    last = request.replace(b"Host", b"Connection: close\r\nHost")
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(connect(address, 4096)) for _ in range(8)]
        for client in clients:
            client.sendall(request * 14 + last)
        wait_until_ended(clients)


ENDLESS = {
    "line of blanks": (b"", b"\r\n" * 32768),
    "path": (b"GET /", b"a" * 65536),
    "name": (b"GET / HTTP/1.1\r\n", b"a" * 65536),
    "value": (b"GET / HTTP/1.1\r\na: ", b"a" * 65536),
    "fields": (b"GET / HTTP/1.1\r\n", b"a:\r\n" * 16384),
    "chunk extension": (HEAD + b"Transfer-Encoding: chunked\r\n\r\n1;a=", b"a" * 65536),
    "trailers": (HEAD + b"Transfer-Encoding: chunked\r\n\r\n0\r\n", b"a:\r\n" * 16384),
}


@pytest.mark.parametrize("kind", ENDLESS)
def test_an_endless_head_ends_its_connection(server: ServerProcess, kind: str) -> None:
    """No part of a request but its body may go on for long."""
    before = server.peak_bytes
    first, more = ENDLESS[kind]
    with connect(server.address) as client:
        send_until_ended(client, (first + more if not n else more for n in count()))
    assert server.peak_bytes - before < 32 * MIB


@pytest.mark.parametrize("sent", [b"GET / HTTP/1.1\r\nHost: ", b"G", b"\r\n"])
def test_a_head_that_does_not_arrive_ends_its_connection(
    server: ServerProcess, sent: bytes
) -> None:
    """A client that stops within the head of a request is not waited for."""
    with connect(server.address) as client:
        client.sendall(sent)
        wait_until_ended([client])


def test_a_head_with_many_fields_is_refused(server: ServerProcess) -> None:
    """A head with 128 fields is answered, one with more gets 400."""
    answers = []
    for fields in (127, 128):
        with connect(server.address) as client:
            client.sendall(get("/livez")[:-2] + b"a: b\r\n" * fields + b"\r\n")
            answers.append(client.recv(65536)[:12])
    assert answers == [b"HTTP/1.1 200", b"HTTP/1.1 400"]


def test_what_is_no_request_is_not_answered_before_earlier_ones(server: ServerProcess) -> None:
    """If a request is still being answered, its client would take the 400 for its answer."""
    body = b'{"text": "hold"}'
    with connect(server.address) as client:
        held = HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body
        _, answer = send_until_ended(client, [held + b"no request\r\n\r\n"])
    assert not answer
    server.send_signal(signal.SIGUSR1)


@pytest.mark.parametrize("kind", ["silent", "half a head", "half a body", "unread", "answered"])
def test_connections_do_not_use_up_descriptors(kind: str) -> None:
    """The oldest ones that wait for their clients make room, so that probes are answered."""
    sent = {
        "silent": b"",
        "half a head": HEAD,
        "half a body": HEAD + b"Content-Length: 100\r\n\r\n{",
        "unread": get("/openapi.json") * 15,
        "answered": get("/livez"),
    }[kind]
    with (
        serving(hasty(descriptors=112), *METRICS_PORT, "--log-level", "error") as server,
        contextlib.ExitStack() as stack,
    ):
        for number in range(300):
            client = stack.enter_context(connect(server.address, 4096))
            with contextlib.suppress(ConnectionError):
                client.sendall(sent)
            if number % 50 == 49:
                assert server.ask("GET", "/livez").status == 200
        metrics = server.metrics()
        assert gauge(metrics, "process_open_fds") < 112
        assert gauge(metrics, 'lacuna_connections_ended_total{reason="room"}') > 200


def test_newcomers_are_refused_if_all_others_wait_for_the_service() -> None:
    """A request that was sent completely is answered, however many connections come later."""
    options = ("--max-connections", "4", "--batch-items", "1")
    question = json.dumps({"text": "hold"}), {"Content-Type": "application/json"}
    with serving(FAKE, *options) as server, contextlib.ExitStack() as stack:
        held = [stack.enter_context(contextlib.closing(server.connect())) for _ in range(4)]
        for each in held[:3]:
            each.request("POST", "/predict", *question)
        while "lacuna_queue_depth 2.0" not in server.metrics():
            pass
        held[3].request("POST", "/predict", *question)
        with pytest.raises(ConnectionError):
            server.ask("GET", "/livez")
        server.send_signal(signal.SIGUSR1)
        assert [each.getresponse().status for each in held] == [200] * 4
        assert server.ask("GET", "/livez").status == 200


def test_bodies_that_arrive_slowly_share_a_bounded_memory(server: ServerProcess) -> None:
    """Above the bound, large bodies get 429 with the remedy, and ordinary ones are answered."""
    before = server.peak_bytes
    part = b'{"text": "' + b" " * 1_000_000
    with contextlib.ExitStack() as stack:
        for _ in range(200):
            client = stack.enter_context(connect(server.address))
            client.sendall(HEAD + b"Content-Length: 1000100\r\n\r\n" + part)
            large = server.ask("POST", "/predict", part + b'"}')
            if large.status == 429:
                break
        assert large.status == 429
        assert int(large.headers["retry-after"]) > 0
        assert "send a shorter one" in large.json()["detail"]
        assert server.ask("POST", "/predict", {"text": " " * 9_000}).status == 200
        assert server.peak_bytes - before < 110 * MIB
    while server.ask("POST", "/predict", part + b'"}').status == 429:
        pass  # until the service has noticed that the others are gone


def test_ordinary_connections_are_served(server: ServerProcess) -> None:
    """One connection for many requests, HEAD, ten pipelined requests, and a body of a mebibyte."""
    with contextlib.closing(server.connect()) as client:
        for _ in range(20):
            assert exchange(client, "POST", "/predict", {"text": "a"}).status == 200
        head = exchange(client, "HEAD", "/openapi.json")
        assert (head.status, head.body) == (200, b"")
        long = json.dumps({"text": ["a"] * 64}).encode().ljust(MIB)
        assert exchange(client, "POST", "/predict", long).status == 200
        assert exchange(client, "POST", "/predict", long + b" ").status == 413
    ids = [f"request-{number}".encode() for number in range(10)]
    body = b'{"text": ["a", "slow"]}'
    with connect(server.address) as client:
        fields = b"Content-Length: %d\r\nX-Request-Id: " % len(body)
        client.sendall(b"".join(HEAD + fields + each + b"\r\n\r\n" + body for each in ids))
        received = b""
        while received.count(b"x-request-id") < len(ids):
            received += client.recv(65536)
    assert re.findall(rb"x-request-id: (\S+)", received) == ids


def test_clients_that_do_not_read_delay_the_end_by_the_grace_period_only() -> None:
    """A request that is cancelled while earlier answers are not read ends with its connection."""
    body = b'{"text": "hold"}'
    held = HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body
    with serving(FAKE, "--grace-seconds", "1") as server, connect(server.address, 4096) as client:
        answers = 170_000 // len(server.ask("GET", "/openapi.json").body)
        client.sendall(get("/openapi.json") * answers + held)  # more would keep *held* unread
        while not gauge(server.metrics(), "lacuna_queue_work_seconds"):
            pass
        server.send_signal(signal.SIGTERM)
        assert server.wait() == 0


def test_a_slow_reader_gets_a_long_answer() -> None:
    """A client that reads a little at a time gets all of its answers."""
    with serving(FAKE, "--log-level", "error") as server:
        length = len(server.ask("GET", "/openapi.json").body)
        with connect(server.address, 4096) as client:
            client.sendall(get("/openapi.json") * 12)
            received = 0
            while received < 12 * length:
                assert server.ask("GET", "/livez").status == 200
                received += len(client.recv(4096))


def gauge(metrics: str, series: str) -> float:
    """Return the value of a series."""
    found = re.search(rf"^{re.escape(series)} (\S+)$", metrics, re.MULTILINE)
    assert found, series
    return float(found[1])


def test_bodies_in_tiny_parts_are_refused(server: ServerProcess) -> None:
    """A thousand of them are a body; more cost the service much and the client little."""
    for spaces, status in ((980, b" 200 "), (1000, b"")):
        body = b'{"text": "a"' + spaces * b" " + b"}"
        parts = b"".join(b"1\r\n%c\r\n" % byte for byte in body)
        with connect(server.address) as client:
            sent = HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + parts + b"0\r\n\r\n"
            _, answer = send_until_ended(client, [sent])
        assert answer[8:13] == status
