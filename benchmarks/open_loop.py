"""Latency as users feel it: requests leave at times fixed beforehand, whether or not earlier ones have been answered.

Latency counts from the scheduled time, so that a server that stalls is charged for everybody who waited (no coordinated
omission). The client spins on its own core with bare sockets and reads of an answer no more than status and length:
some 20 µs a request, without timers that round to milliseconds.
"""

import gc
import math
import random
import select
import socket
import time
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from benchmarks.process import HOST

CONNECTIONS = 64
# After the last scheduled time, answers are awaited this long; those that are missing then have failed.
PATIENCE_SECONDS = 15.0
# A key press that is answered within 20 ms feels instant (Hard et al. 2018, arXiv:1811.03604).
GOOD_SECONDS = 0.020


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a schedule.

    Attributes:
        latencies: by request, seconds from the scheduled time to the last byte of a 200; infinite where there was none.
        lateness: seconds by which the client itself was late, for the requests that found a free connection.
        seconds: from the first scheduled time to the end.
        statuses: how often each came; 0 is a connection that broke twice.
        waits: by request, seconds from the scheduled time until it was sent; infinite where it never was.
        abandoned: requests that were given up before they were sent.
    """

    latencies: list[float]
    lateness: list[float]
    seconds: float
    statuses: Counter[int] = field(default_factory=Counter)
    waits: list[float] = field(default_factory=list)
    abandoned: int = 0

    @property
    def answered(self) -> list[float]:
        """The finite latencies, ascending."""
        return sorted(latency for latency in self.latencies if math.isfinite(latency))

    @property
    def sent(self) -> int:
        """Requests that went out."""
        return sum(map(math.isfinite, self.waits))

    @property
    def latencies_from_sending(self) -> list[float]:
        """`latencies` without what a request waited in the client."""
        return [
            latency - wait if math.isfinite(latency) else math.inf
            for latency, wait in zip(self.latencies, self.waits, strict=True)
        ]

    @property
    def failures(self) -> int:
        """Requests without a 200."""
        return sum(not math.isfinite(latency) for latency in self.latencies)

    @property
    def good_share(self) -> float:
        """Share of all requests that were answered within `GOOD_SECONDS`."""
        return sum(latency <= GOOD_SECONDS for latency in self.latencies) / max(
            1, len(self.latencies)
        )


def arrivals(rate: float, seconds: float, seed: int) -> list[float]:
    """Scheduled times of independent users (a Poisson process), in seconds from the start, ascending.

    Args:
        rate: requests a second, on average.
        seconds: length of the schedule.
        seed: the same seed gives the same times, scaled by *rate*.
    """
    random_source = random.Random(seed)  # noqa: S311 - a schedule is no secret
    times: list[float] = []
    now = random_source.expovariate(1.0) / rate
    while now < seconds:
        times.append(now)
        now += random_source.expovariate(1.0) / rate
    return times


def percentile(ascending: Sequence[float], share: float) -> float:
    """The smallest value that *share* of all values do not exceed (nearest rank); NaN of nothing."""
    if not ascending:
        return math.nan
    return ascending[max(0, math.ceil(share * len(ascending)) - 1)]


def post(path: str, body: bytes) -> bytes:
    """The bytes of one request."""
    head = f"POST {path} HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def run(
    port: int,
    requests: Sequence[bytes],
    times: Sequence[float],
    connections: int = CONNECTIONS,
    give_up_seconds: float = math.inf,
) -> Outcome:
    """Send each request at its time, or as soon after it as one of *connections* connections is free.

    Args:
        port: of loopback.
        requests: from :func:`post`, at least as many as *times*.
        times: seconds from the start, ascending.
        connections: opened beforehand; one whose server hung up is opened again.
        give_up_seconds: a request that could not be sent for longer is not sent any more, as nobody waits for it;
            else a client that has fallen behind would offer the later ones too late.
    """
    opened = [_Connection(port) for _ in range(connections)]
    poll = select.epoll()
    by_descriptor = {}
    for connection in opened:
        poll.register(connection.descriptor, select.EPOLLIN)
        by_descriptor[connection.descriptor] = connection
    idle, due, done, abandoned = deque(opened), 0, 0, 0
    latencies, waits, lateness = [math.inf] * len(times), [math.inf] * len(times), []
    statuses: Counter[int] = Counter()
    waited = False  # whether the next request was due while no connection was free
    collecting = gc.isenabled()
    gc.disable()
    try:
        start = time.perf_counter() + 0.01
        end = start + (times[-1] if times else 0.0) + PATIENCE_SECONDS
        now = time.perf_counter()
        while done < len(times) and now < end:
            while due < len(times) and (wait := now - start - times[due]) >= 0:
                if wait > give_up_seconds:
                    abandoned, done = abandoned + 1, done + 1
                elif idle:
                    idle.popleft().send(requests[due], due)
                    waits[due] = wait
                    if not waited:
                        lateness.append(wait)
                    waited = False
                    now = time.perf_counter()
                else:
                    waited = True
                    break
                due += 1
            for descriptor, _ in poll.poll(0):
                connection = by_descriptor[descriptor]
                index, status = connection.receive()
                if (
                    connection.descriptor != descriptor
                ):  # opened anew: the system forgot the old one
                    del by_descriptor[descriptor]
                    by_descriptor[connection.descriptor] = connection
                    poll.register(connection.descriptor, select.EPOLLIN)
                if status is not None:
                    statuses[status] += 1
                    if status == 200:
                        latencies[index] = time.perf_counter() - start - times[index]
                    done += 1
                    idle.append(connection)
            now = time.perf_counter()
        return Outcome(latencies, lateness, now - start, statuses, waits, abandoned)
    finally:
        if collecting:
            gc.enable()
        poll.close()
        for connection in opened:
            connection.close()


def one_by_one(port: int, requests: Sequence[bytes], seconds: float) -> list[float]:
    """Send each request when the one before it has been answered, on one connection, for at most *seconds*.

    Returns:
        By request, seconds from sending to the last byte of a 200; infinite where the status is another. Shorter than
        *requests* if time ran out.
    """
    connection = _Connection(port)
    latencies: list[float] = []
    end = time.perf_counter() + seconds
    try:
        for index, request in enumerate(requests):
            began = time.perf_counter()
            if began > end:
                break
            connection.send(request, index)
            status: int | None = None
            while (
                status is None
                and select.select([connection.descriptor], [], [], PATIENCE_SECONDS)[0]
            ):
                _, status = connection.receive()
            latencies.append(time.perf_counter() - began if status == 200 else math.inf)
            if status is None:  # a late answer would be taken for the next one's
                break
    finally:
        connection.close()
    return latencies


# What `_Connection.receive` reports as status where a connection broke twice under the same request.
_BROKEN = 0
# Bytes that are missing of an answer whose length has not come yet.
_UNKNOWN = -1


class _Connection:
    """One keep-alive connection with at most one request on its way."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._request, self._index, self._tries = b"", -1, 0
        # Of the answer: what has come of its head, the bytes of its body that have not, and its status.
        self._received, self._missing, self._status = b"", _UNKNOWN, _BROKEN
        self._open()

    @property
    def descriptor(self) -> int:
        return self._socket.fileno()

    def send(self, request: bytes, index: int) -> None:
        self._request, self._index, self._tries = request, index, 1
        self._write()

    def receive(self) -> tuple[int, int | None]:
        """Read what is there: the request's index, and its status once its answer is complete."""
        try:
            received = self._socket.recv(1 << 18)
        except BlockingIOError:
            return self._index, None
        except OSError:
            received = b""
        if not received:
            return self._index, self._again()
        if self._missing == _UNKNOWN:
            self._received += received
            head, separator, rest = self._received.partition(b"\r\n\r\n")
            if not separator:
                return self._index, None
            self._status = int(head[9:12])
            self._missing = _content_length(head) - len(rest)
        else:
            self._missing -= len(received)
        if self._missing > 0:
            return self._index, None
        self._received, self._missing, self._request = b"", _UNKNOWN, b""
        return self._index, self._status

    def close(self) -> None:
        self._socket.close()

    def _open(self) -> None:
        self._socket = socket.create_connection((HOST, self._port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 19)
        self._socket.setblocking(False)
        self._received, self._missing = b"", _UNKNOWN

    def _write(self) -> None:
        try:
            written = self._socket.send(self._request)
        except OSError:
            return  # hung up; the next receive sees it, and opens and sends again
        if written < len(self._request):
            raise RuntimeError(
                f"{len(self._request)} bytes do not fit into the socket's buffer; send shorter texts"
            )

    def _again(self) -> int | None:
        """The server hung up: open anew, and once send again what was on its way."""
        old = self._socket
        self._open()  # before the old one is closed, so that the descriptor differs
        old.close()
        if not self._request:
            return None
        if self._tries > 1:
            self._request = b""
            return _BROKEN
        self._tries += 1
        self._write()
        return None


def _content_length(head: bytes) -> int:
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
    raise RuntimeError("an answer without Content-Length; the client reads no other")
