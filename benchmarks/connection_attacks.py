"""Attacks by connections: unread answers, endless requests, bodies, idle connections.

Each function attacks one fresh service, and raises `FellError` if it succeeds. What the watch sees
counts as well (`benchmarks.target`).
"""

import contextlib
import json
import select
import socket
import time
from collections.abc import Sequence
from contextlib import ExitStack

from benchmarks.processes import HOST
from benchmarks.target import FellError, Target

# Memory that closed connections may leave behind.
LEFT_MIB = 50
# A connection of which nobody reads the answers must have ended by then.
UNREAD_SECONDS = 90.0
IDLE_CONNECTIONS, DESCRIPTORS, IDLE_SECONDS = 5000, 1024, 8.0
_MIB = 1 << 20


def unread_answers(target: Target) -> None:
    """Pipeline 6,000 requests on 20 and then 200 connections, and read no answer."""
    _leave_unread(target, _request("GET", "/openapi.json") * 6000, (20, 200))


def unread_questions(target: Target) -> None:
    """Pipeline questions and wrong requests on 100 connections, and read no answer."""
    body = json.dumps({"text": "How are you "}).encode()
    payload = _request("POST", "/predict", body) + _request("GET", "/" + 2000 * "a")
    _leave_unread(target, payload * 500, (100,))


def _leave_unread(target: Target, payload: bytes, counts: Sequence[int]) -> None:
    start, descriptors = target.resident_mib(), target.server.descriptors()
    with ExitStack() as stack:
        for count in counts:
            push(connect(stack, target.server.port, count), payload, 10)
            time.sleep(2)
        began = time.monotonic()
        target.rest(30)  # it may not even have accepted them
        target.figures["grown_mib"] = round(target.resident_mib() - start)
        while target.server.descriptors() > descriptors + 10:
            time.sleep(0.5)
            if time.monotonic() > began + UNREAD_SECONDS:
                left = target.server.descriptors() - descriptors
                raise FellError(f"{left} connections that do not read last {UNREAD_SECONDS:g} s")
        target.figures["ended_seconds"] = round(time.monotonic() - began)
    target.must_settle(start, LEFT_MIB)


def endless_heads(target: Target) -> None:
    """Send request lines, header fields, a field's value, trailers and chunk extensions without
    end.
    """
    head = b"GET /livez HTTP/1.1\r\nHost: 127.0.0.1\r\n"
    chunked = _request("POST", "/predict", chunked=True)
    openings = (
        (b"GET /", b"a"),
        (head, b"a: b\r\n"),
        (head + b"x: ", b"a"),
        (chunked + b"0\r\n", b"a: b\r\n"),
        (chunked + b"1;", b"a"),
    )
    for opening, part in openings:
        _send(target, opening, part * (16 * _MIB // len(part)), 100, 5)


def slow_bodies(target: Target) -> None:
    """Send all but the last byte of 1,000 bodies of 1 MiB."""
    _send(target, _request("POST", "/predict", _large(b'"a"'))[:-1], b"", 1000, 20)


def bodies_at_once(target: Target) -> None:
    """Complete 300 bodies of 1 MiB, full of empty texts, at the same moment."""
    payload = _request("POST", "/predict", _large(b'""'))
    _send(target, payload[:-1], payload[-1:], 300, 20)


def small_chunks(target: Target) -> None:
    """Send bodies in chunks of one byte."""
    _send(target, _request("POST", "/predict", chunked=True), b"1\r\na\r\n" * _MIB, 100, 10)


def _send(target: Target, opening: bytes, rest: bytes, count: int, seconds: float) -> None:
    """Send *opening* on all connections, then *rest*, for *seconds* at most each."""
    start = target.resident_mib()
    with ExitStack() as stack:
        sockets = connect(stack, target.server.port, count)
        push(sockets, opening, seconds)
        push(sockets, rest, seconds)
        time.sleep(2)
        target.rest(30)
    target.must_settle(start, LEFT_MIB)


def _large(item: bytes) -> bytes:
    """Return a body of 1 MiB with a list of *item*."""
    items = (_MIB - 20) // (len(item) + 1)
    return (b'{"text":[' + b",".join([item] * items) + b"]}").ljust(_MIB)


# Row 8


def idle_connections(target: Target) -> None:
    """Hold connections that send nothing."""
    _hold(target, target.server.port, b"")


def half_requests(target: Target) -> None:
    """Hold connections that send half of a request."""
    _hold(target, target.server.port, b"POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-")


def idle_metrics(target: Target) -> None:
    """Hold connections to the metrics port."""
    _hold(target, target.metrics_port, b"GET /metr")


def _hold(target: Target, port: int, payload: bytes) -> None:
    with ExitStack() as stack:
        sockets = connect(stack, port, IDLE_CONNECTIONS)
        push(sockets, payload, 2)
        before = target.cpu_seconds()
        time.sleep(IDLE_SECONDS)
        used = target.cpu_seconds() - before
    target.figures["idle_cpu_share"] = round(used / IDLE_SECONDS, 2)
    if used > 0.25 * IDLE_SECONDS:
        raise FellError(f"idle connections keep {used / IDLE_SECONDS:.0%} of a core busy")
    for _ in range(20):
        if target.ask("/predict", {"text": "How are "}, timeout=2)[0] == 200:
            return
        time.sleep(0.5)
    raise FellError("no question is answered in the 10 s after the connections have gone")


# Tools


def connect(stack: ExitStack, port: int, count: int) -> list[socket.socket]:
    """Open connections, as many as the service takes, that close with the *stack*."""
    sockets = []
    for _ in range(count):
        each = stack.enter_context(socket.socket())
        each.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        each.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            if each.connect_ex((HOST, port)) not in (0, 115):
                break
        sockets.append(each)
    return sockets


def push(sockets: Sequence[socket.socket], payload: bytes, seconds: float) -> None:
    """Send *payload* on every connection, reading nothing, until all is sent or it takes longer."""
    end = time.monotonic() + seconds
    poll = select.poll()
    left = {each.fileno(): (each, memoryview(payload)) for each in sockets}
    for number in left:
        poll.register(number, select.POLLOUT)
    while left and time.monotonic() < end:
        for number, _ in poll.poll(100):
            each, rest = left[number]
            try:
                rest = rest[each.send(rest[: 1 << 18]) :]
            except BlockingIOError:
                continue
            except OSError:  # the service has ended it
                rest = rest[:0]
            left[number] = each, rest
            if not rest:
                poll.unregister(number)
                del left[number]


def _request(method: str, path: str, body: bytes = b"", chunked: bool = False) -> bytes:
    head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n"
    if body or chunked:
        length = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {len(body)}"
        head += f"Content-Type: application/json\r\n{length}\r\n"
    return f"{head}\r\n".encode() + body
