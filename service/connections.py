"""Bound what connections cost before, between and after their requests.

uvicorn alone parses all that it has read, keeps heads of any length, waits for clients that do not
read, and accepts connections until no descriptor is left (docs/decisions/0013-connections.md).
"""

import asyncio
import resource
import socket
import struct
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Literal, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

Reason = Literal["malformed", "room", "slow", "unread"]

# Requests of one connection that may wait for their turn.
MAX_PIPELINE = 16
# Header fields, which cost five times their bytes, of a request or of those that wait together.
MAX_FIELDS = 128
# Bytes of the bodies of requests that wait. uvicorn goes on reading after each answer.
MAX_WAITING_BYTES = 16 << 10
# Parts of a body, of fewer bytes than these, that a request may have: each costs as much as a large
# one.
MAX_SMALL_PARTS, SMALL_PART_BYTES = 1000, 64
# Bytes of a head, or of trailers, beyond the read in which they begin.
MAX_HEAD_BYTES = 32 << 10
# Seconds in which a head must be complete.
HEAD_SECONDS = 10.0
# Seconds in which a client must take some bytes of an answer.
UNREAD_SECONDS = 20.0
# Bytes that all clients together may leave unread.
MAX_UNREAD_BYTES = 64 << 20
# Size of the system's buffers, each way, of one connection. Also the longest read.
BUFFER_BYTES = 64 << 10
# Descriptors for all else: files of the checkpoint and of keys, listeners, the event loop.
RESERVED_DESCRIPTORS = 64
# Headers of requests that have a body.
_OF_BODIES = frozenset({b"content-length", b"transfer-encoding"})
# For SO_LINGER: close at once, with a reset.
_NO_LINGER = struct.pack("ii", 1, 0)


class Connections:
    """The open connections of a server, the one that was answered longest ago first.

    At most *limit* are open, and never more than the system's limit on descriptors allows.
    *on_ended* gets the reason whenever a client loses its connection.
    """

    def __init__(self, limit: int, on_ended: Callable[[Reason], None]) -> None:
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft != resource.RLIM_INFINITY:
            limit = max(1, min(limit, soft - RESERVED_DESCRIPTORS))
        self._limit = limit
        self._on_ended = on_ended
        self._open: OrderedDict[Connection, None] = OrderedDict()

    def accept(self, **given: Any) -> "Connection":
        """Make the protocol of a new connection, as uvicorn asks for it."""
        return Connection(self, **given)

    def add(self, connection: "Connection") -> None:
        """Add a connection; if there are too many, end the oldest one that can be spared."""
        self._open[connection] = None
        if len(self._open) > self._limit:  # the new one can be spared, so there is one
            self.end(next(each for each in self._open if not each.is_being_answered), "room")

    def move_to_end(self, connection: "Connection") -> None:
        """Make a connection that was answered the last one to be spared."""
        if connection in self._open:
            self._open.move_to_end(connection)

    def remove(self, connection: "Connection") -> None:
        """Forget a connection that has ended."""
        self._open.pop(connection, None)

    def end(self, connection: "Connection", reason: Reason) -> None:
        """End a connection at once. What its client has not read is lost."""
        if connection in self._open:
            del self._open[connection]
            # Else the system keeps what is unread, for minutes.
            system_socket = connection.transport.get_extra_info("socket")
            system_socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
            connection.transport.abort()
            self._on_ended(reason)

    def sweep(self) -> None:
        """End the connections of clients that do not send or read. To be called every second."""
        now = time.monotonic()
        for each in list(self._open):
            if reason := each.overdue(now):
                self.end(each, reason)
        unread = sum(each.unread_bytes for each in self._open)
        for each in list(self._open) if unread > MAX_UNREAD_BYTES else ():
            if each.unread_bytes and unread > MAX_UNREAD_BYTES:
                unread -= each.unread_bytes
                self.end(each, "unread")


class Connection(HttpToolsProtocol):
    """A connection whose pipeline, heads and slowness are bounded."""

    def __init__(self, connections: Connections, **given: Any) -> None:
        super().__init__(**given)
        self._all = connections
        self._running: RequestResponseCycle | None = None  # the last one begun; `cycle` may wait
        self._head: bytes | None = None  # of its answer; empty if it is written
        self._small_parts = 0  # of the body that is being read
        self._unfinished = 0  # bytes read since the last complete head, part of a body or request
        self._began = 0.0  # when the first of them came
        self._idle_since = self._taken_at = time.monotonic()
        self.unread_bytes = 0  # of answers, at the last sweep

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Make room for the new connection."""
        super().connection_made(transport)
        self.is_closing = transport.is_closing  # as `cycle` asks its transport
        self._all.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Leave the place to others, and drop the work."""
        self._all.remove(self)
        if running := self._running:  # uvicorn reports the end only to its last request
            running.disconnected = not running.response_complete
            running.message_event.set()
        super().connection_lost(exc)
        self._running = self.cycle = None  # type: ignore[assignment]  # they know this connection

    @property
    def _is_busy(self) -> bool:
        return self._running is not None and not self._running.response_complete

    @property
    def is_being_answered(self) -> bool:
        """True if a complete request waits for the service, not for its client."""
        running = self._running
        waits = running and not running.response_complete and not running.more_body
        return bool(waits) and not self.flow.write_paused

    @property
    def _pipeline_is_full(self) -> bool:
        fields = sum(len(list(each.scope["headers"])) for each, _ in self.pipeline)
        return len(self.pipeline) >= MAX_PIPELINE or fields + len(self.headers) > MAX_FIELDS

    def overdue(self, now: float) -> Reason | None:
        """Return why the connection should end *now*. To be called every second."""
        unread = self.transport.get_write_buffer_size()
        if not unread or unread < self.unread_bytes:
            self._taken_at = now
        self.unread_bytes = unread
        if now - self._taken_at > UNREAD_SECONDS:
            return "unread"
        if self._unfinished and now - self._began > HEAD_SECONDS:
            return "slow"
        if unread or self._is_busy:
            self._idle_since = now
        # uvicorn's own timer begins with the first answer, and any byte stops it.
        return "slow" if now - self._idle_since > self.timeout_keep_alive else None

    def data_received(self, data: bytes) -> None:
        """Parse bytes, unless a head gets too long."""
        if not self._unfinished:
            self._began = time.monotonic()
        self._unfinished += len(data)
        super().data_received(data)
        if self._unfinished > MAX_HEAD_BYTES:
            self.send_400_response("The head of the request is too long.")

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a field, unless there are too many."""
        super().on_header(name, value)
        # An exception stops the parser, and `data_received` calls `send_400_response`.
        if len(self.headers) > MAX_FIELDS:
            raise ValueError("too many fields")

    def on_headers_complete(self) -> None:
        """Begin a request, unless too many wait."""
        self._unfinished = self._small_parts = 0
        if self.pipeline and self._pipeline_is_full:
            raise ValueError("too many requests wait")
        # To change protocols, httptools skips the body and then reads it as the next request.
        upgrades = self.parser.should_upgrade()
        if upgrades and _OF_BODIES.intersection(name for name, _ in self.headers):
            raise ValueError("a request to change protocols has a body")
        super().on_headers_complete()
        self.cycle.transport = cast("asyncio.Transport", self)
        self.cycle.keep_alive &= not upgrades
        self.headers = []  # of the request: trailers, which are no headers, come later

    def on_body(self, body: bytes) -> None:
        """Take a part of a body, unless too much waits or there are too many parts."""
        self._unfinished = 0
        self._small_parts += len(body) < SMALL_PART_BYTES
        if self._small_parts > MAX_SMALL_PARTS:
            raise ValueError("too many small parts")
        super().on_body(body)
        if self.pipeline and sum(len(each.body) for each, _ in self.pipeline) > MAX_WAITING_BYTES:
            raise ValueError("too long bodies wait")

    def on_message_complete(self) -> None:
        """Note that a request has arrived."""
        self._unfinished = 0
        super().on_message_complete()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._running, self._head = cycle, None
        super()._start_asgi_task(cycle, app)

    def on_response_complete(self) -> None:
        """Drop the body, which uvicorn keeps until the next request, and go on."""
        if self._running:
            self._running.body = bytearray()
        self.write(b"")  # an answer to HEAD has no body
        self._idle_since = time.monotonic()
        self._all.move_to_end(self)
        super().on_response_complete()
        if self.flow.write_paused:
            self.flow.pause_reading()

    def write(self, data: bytes) -> None:
        """Keep the head of an answer until its body comes; uvloop sends each write at once."""
        if self._head is None and self._running and self._running.response_started:
            self._head = data
        elif head_and_data := (self._head or b"") + data:
            self.transport.write(head_and_data)
            self._head = self._head and b""

    def close(self) -> None:
        """Close the connection after an answer."""
        self.write(b"")
        self.transport.close()

    def pause_writing(self) -> None:
        """Read no further from a client that does not read, unless a request asks for its body."""
        super().pause_writing()
        self.flow.pause_reading()

    def resume_writing(self) -> None:
        """Read on."""
        super().resume_writing()
        self.flow.resume_reading()

    def send_400_response(self, msg: str) -> None:
        """Refuse what cannot be a request, and close."""
        if self._is_busy:  # the client would take it for the answer to an earlier request
            self._all.end(self, "malformed")
        elif not self.transport.is_closing():
            super().send_400_response(msg)
