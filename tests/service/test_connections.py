"""Tests of service/connections.py: time and order, without sockets."""

import asyncio
import gc
import re
import time
import weakref
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import uvicorn
from uvicorn.server import ServerState

from service.__main__ import _KEEP_ALIVE_SECONDS
from service.connections import MAX_UNREAD_BYTES, UNREAD_SECONDS, Connection, Connections
from tests.service.server_process import ROOT


class FakeTransport(asyncio.Transport):
    """A client that reads only as much as a test lets it."""

    def __init__(self) -> None:
        address = lambda: ("127.0.0.1", 8000)  # noqa: E731
        system_socket = SimpleNamespace(
            getsockname=address, getpeername=address, setsockopt=lambda *_: None
        )
        super().__init__({"socket": system_socket})
        self.unread = 0
        self.closing = False
        self.written: list[bytes] = []

    def write(self, data: Any) -> None:
        """Accept an answer."""
        self.written.append(data)

    def pause_reading(self) -> None:
        """Do nothing."""

    def resume_reading(self) -> None:
        """Do nothing."""

    def get_write_buffer_size(self) -> int:
        """Return what the client has not taken."""
        return self.unread

    def is_closing(self) -> bool:
        """Return whether the connection was ended."""
        return self.closing

    def abort(self) -> None:
        """End it."""
        self.closing = True

    close = abort


class Server:
    """Connections without a network; `ended` has the reasons."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.ended: list[str] = []
        self.connections = Connections(8, self.ended.append)

    async def _answer(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/wait":
            while (message := await receive())["type"] != "http.disconnect":
                pass
            self.ended.append(message["type"])
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    def connect(self) -> tuple[Connection, FakeTransport]:
        """Return a new connection and its client."""
        config = uvicorn.Config(
            self._answer,
            interface="asgi3",
            ws="none",
            log_config=None,
            timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        )
        connection = self.connections.accept(
            config=config, server_state=ServerState(), app_state={}, _loop=self.loop
        )
        transport = FakeTransport()
        connection.connection_made(transport)
        return connection, transport

    def run(self) -> None:
        """Let requests be answered."""
        self.loop.run_until_complete(asyncio.sleep(0))


@pytest.fixture
def server() -> Iterator[Server]:
    """A server with an event loop."""
    with asyncio.Runner() as runner:
        yield Server(runner.get_loop())


def test_only_clients_that_take_nothing_lose_their_connection(server: Server) -> None:
    """However slowly a client reads, it goes on if it takes some bytes in `UNREAD_SECONDS`."""
    connection, transport = server.connect()
    now = time.monotonic()
    for step in range(100):
        transport.unread = 200_000 - step
        now += UNREAD_SECONDS - 1
        assert connection.overdue(now) is None
    assert connection.overdue(now + UNREAD_SECONDS + 1) == "unread"


def test_idle_connections_are_kept_longer_than_by_haproxy(server: Server) -> None:
    """HAProxy closes an idle connection first, so that it never sends a request into a closed one.

    After that the connection ends, also if its client has never sent anything.
    """
    settings = (ROOT / "deploy" / "haproxy.cfg").read_text()
    kept = max(int(found) for found in re.findall(r"timeout \S*keep-alive (\d+)s", settings))
    connection, _ = server.connect()
    now = time.monotonic()
    assert connection.overdue(now + kept + 1) is None
    assert connection.overdue(now + _KEEP_ALIVE_SECONDS + 1) == "slow"


def test_unread_answers_share_a_bounded_memory(server: Server) -> None:
    """If all answers together are too many bytes, the clients answered longest ago lose theirs."""
    clients = [server.connect()[1] for _ in range(5)]
    for client in clients[1:]:
        client.unread = MAX_UNREAD_BYTES // 3
    server.connections.sweep()
    assert [client.closing for client in clients] == [False, True, False, False, False]
    assert server.ended == ["unread"]


def test_a_body_is_dropped_when_it_is_answered(server: Server) -> None:
    """A connection that waits for its next request holds nothing of the last one's body."""
    connection, _ = server.connect()
    connection.data_received(b"POST / HTTP/1.1\r\nContent-Length: 60000\r\n\r\n" + b" " * 50_000)
    assert len(connection.cycle.body) == 50_000
    server.run()
    assert connection.cycle.response_complete
    assert not connection.cycle.body


def test_a_connection_is_freed_without_the_collector(server: Server) -> None:
    """Nothing of a connection that was lost waits until Python looks for cycles."""
    connection, _ = server.connect()
    connection.data_received(b"GET / HTTP/1.1\r\n\r\n")
    server.run()
    connection.connection_lost(None)
    server.run()
    left = weakref.ref(connection)
    gc.disable()
    try:
        del connection
        assert left() is None
    finally:
        gc.enable()


def test_head_and_body_of_an_answer_are_one_packet(server: Server) -> None:
    """A packet costs the server as much as to parse a request."""
    connection, transport = server.connect()
    connection.data_received(b"GET / HTTP/1.1\r\n\r\n" * 2)
    server.run()
    server.run()
    first, second = transport.written
    assert first == second
    assert first.startswith(b"HTTP/1.1 200 OK") and first.endswith(b"0\r\n\r\n")


def test_clients_that_do_not_read_are_not_read(server: Server) -> None:
    """A body that no request asks for stays with its client until that has read the answers."""
    connection, _ = server.connect()
    connection.data_received(b"GET / HTTP/1.1\r\n\r\n")
    connection.pause_writing()
    assert connection.flow.read_paused
    connection.resume_writing()
    server.run()
    connection.pause_writing()
    connection.on_response_complete()
    assert connection.flow.read_paused
    connection.resume_writing()
    assert not connection.flow.read_paused


def test_the_connection_answered_longest_ago_makes_room(server: Server) -> None:
    """A connection that is answered moves behind those that wait."""
    all_of_them = [server.connect() for _ in range(8)]
    all_of_them[0][0].data_received(b"GET / HTTP/1.1\r\n\r\n")
    server.run()
    server.connect()
    assert [transport.closing for _, transport in all_of_them] == [False, True] + [False] * 6
    assert server.ended == ["room"]


@pytest.mark.parametrize(
    ("requests", "fields", "ends"), [(17, 7, False), (18, 1, True), (3, 65, True)]
)
def test_requests_that_wait_are_few_and_small(
    server: Server, requests: int, fields: int, ends: bool
) -> None:
    """Behind the request that is answered, 16 may wait, with 128 header fields."""
    connection, transport = server.connect()
    connection.data_received((b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * fields + b"\r\n") * requests)
    assert transport.closing is ends
    server.run()


def test_all_requests_of_a_connection_end_with_it(server: Server) -> None:
    """A request hears of the end of its connection even if others wait behind it."""
    connection, _ = server.connect()
    connection.data_received(b"GET /wait HTTP/1.1\r\n\r\n" * 2)
    server.run()
    connection.connection_lost(None)
    server.run()
    assert server.ended == ["http.disconnect"]


@pytest.mark.parametrize(("size", "ends"), [(16 << 10, False), (9_000, True)])
def test_bodies_of_requests_that_wait_are_short(server: Server, size: int, ends: bool) -> None:
    """All requests of a connection that wait have few bytes of bodies together."""
    connection, transport = server.connect()
    connection.data_received(b"GET / HTTP/1.1\r\n\r\n")
    for _ in range(1 + ends):
        connection.data_received(b"GET / HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % size)
        connection.data_received(b" " * size)
    assert transport.closing is ends
    server.run()


@pytest.mark.parametrize(
    ("head", "is_answered"),
    [
        (b"POST / HTTP/1.1\r\nUpgrade: h2c\r\nContent-Length: 18\r\n", False),
        (b"POST / HTTP/1.1\r\nUpgrade: h2c\r\nTransfer-Encoding: chunked\r\n", False),
        (b"CONNECT / HTTP/1.1\r\nContent-Length: 18\r\n", False),
        (b"CONNECT / HTTP/1.1\r\n", True),
        (b"GET / HTTP/1.1\r\nUpgrade: websocket\r\n", True),
    ],
)
def test_what_follows_a_change_of_protocols_is_no_request(
    server: Server, head: bytes, is_answered: bool
) -> None:
    """No body is read as another request, and the connection ends."""
    connection, transport = server.connect()
    connection.data_received(head + b"Connection: upgrade\r\n\r\n")
    if is_answered:
        server.run()
        assert connection.cycle.response_complete
    assert transport.closing


def test_trailers_are_no_headers(server: Server) -> None:
    """Trailers are not fields of the request, even if they arrive with it."""
    connection, _ = server.connect()
    connection.data_received(
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nAuthorization: a\r\n\r\n"
    )
    assert connection.cycle.scope["headers"] == [(b"transfer-encoding", b"chunked")]
    server.run()
