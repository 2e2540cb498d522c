"""The open-loop client: its schedule, and latency that counts from the scheduled time."""

import math
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise

import pytest

from benchmarks.open_loop import arrivals, percentile, run, saturate
from benchmarks.texts import post

ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"
REFUSAL = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"
REQUEST = post("/predict", "text")


@contextmanager
def answering(*answers: bytes) -> Iterator[int]:
    """Serve connections in turn: each answer follows a request; an empty one hangs up."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            waiting = list(answers)
            while waiting:
                connection, _ = listener.accept()
                with connection:
                    while waiting and connection.recv(1 << 16):
                        answer = waiting.pop(0)
                        if not answer:
                            break
                        for start in range(0, len(answer), 20):  # in parts, as networks do
                            connection.sendall(answer[start : start + 20])

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        thread.join(5)


def test_arrivals_are_a_seeded_poisson_process() -> None:
    """The same seed gives the same ascending times, whose mean rate is the given rate."""
    times = arrivals(1000, 20, seed=3)
    assert times == arrivals(1000, 20, seed=3) != arrivals(1000, 20, seed=4)
    assert times == sorted(times)
    assert 0 < times[0] < times[-1] < 20
    assert len(times) == pytest.approx(20_000, rel=0.03)
    gaps = [later - earlier for earlier, later in pairwise(times)]
    assert sum(gap > 0.001 for gap in gaps) / len(gaps) == pytest.approx(math.exp(-1), abs=0.02)


def test_percentile_is_the_nearest_rank() -> None:
    """A percentile is one of the values."""
    values = list(range(100, 0, -1))
    shares = (0.0, 0.5, 0.99, 0.999, 1.0)
    assert [percentile(values, share) for share in shares] == [1, 50, 99, 100, 100]
    assert math.isnan(percentile([], 0.5))


def test_latency_counts_from_the_scheduled_time() -> None:
    """Of two requests due at once on one connection, the second waits for the first."""
    with answering(ANSWER, ANSWER, REFUSAL) as port:
        outcome = run(port, [REQUEST] * 3, [0.0, 0.0, 0.001], connections=1)
    first, second, refused = outcome.latencies
    assert second > first > 0
    assert refused == math.inf
    assert outcome.statuses == Counter({200: 2, 503: 1})
    assert outcome.answered == [first, second]
    assert outcome.waits[1] >= first > outcome.waits[0] >= 0
    assert outcome.latencies_from_sending[1] == second - outcome.waits[1]


def test_overdue_requests_are_not_sent() -> None:
    """A request that was due long ago is dropped, and the next one is sent."""
    with answering(ANSWER) as port:
        outcome = run(port, [REQUEST] * 2, [-3600.0, 0.0], connections=1, give_up_seconds=1800)
    assert outcome.statuses == Counter({200: 1})
    assert outcome.waits[0] == outcome.latencies[0] == math.inf
    assert math.isfinite(outcome.latencies[1])


def test_a_broken_connection_fails_one_request() -> None:
    """A connection that the server closes counts as status 0, and a new one is opened."""
    with answering(ANSWER, b"", ANSWER) as port:
        outcome = saturate(port, [REQUEST] * 3, 60.0, connections=1)
    assert outcome.statuses == Counter({200: 2, 0: 1})
    assert [math.isfinite(each) for each in outcome.latencies] == [True, False, True]
