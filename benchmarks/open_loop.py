"""Requests that leave at times fixed beforehand, if earlier ones have been answered or not.

Latency counts from the scheduled time, so that everybody who waits for a stalled server counts (no
coordinated omission). The client spins on its own core with bare sockets and reads only status and
length of an answer: some 20 µs a request, without timers that round to milliseconds.
"""

import gc
import math
import random
import select
import socket
import time
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.processes import HOST

# Answers are awaited this long after the last scheduled time. Missing ones have failed.
PATIENCE_SECONDS = 15.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """The results of a schedule.

    Attributes:
        latencies: by request, seconds from the scheduled time to the last byte of a 200, else
        infinite.
        waits: by request, seconds from the scheduled time until it was sent; infinite if it never
        was.
        statuses: how often each came; 0 is a connection that broke.
        seconds: from the first scheduled time to the end.
    """

    latencies: list[float]
    waits: list[float]
    statuses: Counter[int]
    seconds: float

    @property
    def answered(self) -> list[float]:
        """The finite latencies, ascending."""
        return sorted(filter(math.isfinite, self.latencies))

    @property
    def latencies_from_sending(self) -> list[float]:
        """The latencies without the time that a request waited in the client."""
        return [
            latency - wait if math.isfinite(latency) else math.inf
            for latency, wait in zip(self.latencies, self.waits, strict=True)
        ]


def arrivals(rate: float, seconds: float, seed: int) -> list[float]:
    """Return the arrival times of independent users (a Poisson process), in seconds, ascending.

    Args:
        rate: mean number of requests a second.
        seconds: length of the schedule.
        seed: the same seed gives the same times, scaled by *rate*.
    """
    luck = random.Random(seed)  # noqa: S311 - a schedule is no secret
    times: list[float] = []
    now = luck.expovariate(rate)
    while now < seconds:
        times.append(now)
        now += luck.expovariate(rate)
    return times


def percentile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that *share* of all values do not exceed; NaN without values."""
    if not values:
        return math.nan
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def saturate(
    port: int, requests: Sequence[bytes], seconds: float, connections: int = 32, users: int = 1
) -> Outcome:
    """Keep all connections busy for *seconds*, or until there are no more requests; see `run`."""
    return run(port, requests, [0.0] * len(requests), connections, users, give_up_seconds=seconds)


def run(
    port: int,
    requests: Sequence[bytes],
    times: Sequence[float],
    connections: int = 64,
    users: int = 1,
    give_up_seconds: float = math.inf,
) -> Outcome:
    """Send each request at its time, or later, as soon as a connection of its user is free.

    Args:
        port: of loopback.
        requests: bytes of one request for each time; users send them in turn.
        times: seconds from the start, ascending.
        connections: of each user, opened beforehand, each with at most one request on its way.
        users: each has a different source address.
        give_up_seconds: a request that could not be sent for so long is dropped, because its user
        has gone.
    """
    client = _Client(port, connections, users)
    waiting: list[deque[int]] = [deque() for _ in range(users)]
    latencies, waits = [math.inf] * len(times), [math.inf] * len(times)
    statuses: Counter[int] = Counter()
    due = done = 0
    collecting = gc.isenabled()
    gc.disable()
    try:
        start = time.perf_counter() + 0.01
        end = start + (times[-1] if times else 0.0) + PATIENCE_SECONDS
        end += give_up_seconds if math.isfinite(give_up_seconds) else 0.0
        now = time.perf_counter()
        while done < len(times) and now < end:
            ready = []
            while due < len(times) and now - start >= times[due]:
                waiting[due % users].append(due)
                ready.append(due % users)
                due += 1
            for index, status in client.receive():
                statuses[status] += 1
                if status == 200:
                    latencies[index] = time.perf_counter() - start - times[index]
                done += 1
                ready.append(index % users)
            for user in ready:
                while waiting[user] and client.idle[user]:
                    index = waiting[user].popleft()
                    wait = time.perf_counter() - start - times[index]
                    if wait > give_up_seconds:
                        done += 1
                        continue
                    client.idle[user].popleft().send(requests[index], index)
                    waits[index] = wait
            now = time.perf_counter()
        return Outcome(latencies, waits, statuses, now - start)
    finally:
        if collecting:
            gc.enable()
        client.close()


class _Client:
    """Keep-alive connections to one server; `idle` has those of each user."""

    def __init__(self, port: int, connections: int, users: int) -> None:
        self._port = port
        self._poll = select.epoll()
        self._open: dict[int, _Connection] = {}
        self.idle = [
            deque(self._connect(user) for _ in range(connections)) for user in range(users)
        ]

    def receive(self) -> list[tuple[int, int]]:
        """Return index and status of each request that was answered or whose connection broke."""
        ended = []
        for descriptor, _ in self._poll.poll(0):
            connection = self._open[descriptor]
            status = connection.receive()
            if status is None:
                continue
            if status == _BROKEN:
                del self._open[descriptor]
                connection.socket.close()
                replacement = self._connect(connection.user)
                idle = self.idle[connection.user]
                if connection in idle:
                    idle[idle.index(connection)] = replacement
                    continue
                replacement.index, connection = connection.index, replacement
            ended.append((connection.index, status))
            self.idle[connection.user].append(connection)
        return ended

    def close(self) -> None:
        self._poll.close()
        for connection in self._open.values():
            connection.socket.close()

    def _connect(self, user: int) -> "_Connection":
        connection = _Connection(self._port, user)
        self._open[connection.socket.fileno()] = connection
        self._poll.register(connection.socket.fileno(), select.EPOLLIN)
        return connection


_BROKEN = 0


class _Connection:
    """One connection of a user; `index` is that of the last request."""

    def __init__(self, port: int, user: int) -> None:
        self.user, self.index = user, -1
        source = f"127.{1 + (user >> 16)}.{user >> 8 & 255}.{user & 255}"
        self.socket = socket.create_connection((HOST, port), source_address=(source, 0))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 19)
        self.socket.setblocking(False)
        # The bytes of the answer's head so far; once it is complete, the missing bytes of the body.
        self._head, self._missing, self._status = b"", -1, _BROKEN

    def send(self, request: bytes, index: int) -> None:
        self.index = index
        try:
            written = self.socket.send(request)
        except OSError:
            return  # the server hung up; the next receive reports it
        if written < len(request):
            raise RuntimeError(f"a request of {len(request)} bytes is too long for the socket")

    def receive(self) -> int | None:
        """Read what has arrived; return the status of a complete answer, or `_BROKEN`."""
        try:
            received = self.socket.recv(1 << 18)
        except BlockingIOError:
            return None
        except OSError:
            received = b""
        if not received:
            return _BROKEN
        if self._missing < 0:
            self._head += received
            head, separator, rest = self._head.partition(b"\r\n\r\n")
            if not separator:
                return None
            self._status = int(head[9:12])
            self._missing = _content_length(head) - len(rest)
        else:
            self._missing -= len(received)
        if self._missing > 0:
            return None
        self._head, self._missing = b"", -1
        return self._status


def _content_length(head: bytes) -> int:
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
    raise RuntimeError("an answer without Content-Length; the client reads no other")
