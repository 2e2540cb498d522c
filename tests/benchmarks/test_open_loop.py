"""The open-loop client: its schedule, its percentiles, and that latency counts from the scheduled time."""

import math
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise

import pytest

from benchmarks.open_loop import Outcome, arrivals, one_by_one, percentile, post, run

ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"
REFUSAL = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"


@contextmanager
def answering(*answers: bytes) -> Iterator[int]:
    """A server for one connection after the other: each answer follows a request; an empty one hangs up instead.

    Yields:
        Its port.
    """
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


def test_arrivals_are_seeded_ascending_and_at_the_rate() -> None:
    """The same seed gives the same Poisson schedule, whose mean rate is the rate asked for."""
    times = arrivals(1000, 20, seed=3)
    assert times == arrivals(1000, 20, seed=3) != arrivals(1000, 20, seed=4)
    assert times == sorted(times)
    assert 0 < times[0] < times[-1] < 20
    assert len(times) == pytest.approx(20_000, rel=0.03)
    gaps = [later - earlier for earlier, later in pairwise(times)]
    assert sum(gap > 0.001 for gap in gaps) / len(gaps) == pytest.approx(math.exp(-1), abs=0.02)


def test_percentile_is_the_nearest_rank() -> None:
    """A percentile is one of the values: the smallest that the share does not exceed."""
    values = list(range(1, 101))
    assert [percentile(values, share) for share in (0.0, 0.5, 0.99, 0.999, 1.0)] == [
        1,
        50,
        99,
        100,
        100,
    ]
    assert percentile([7.0], 0.999) == 7.0
    assert math.isnan(percentile([], 0.5))


def test_outcome_counts_what_failed_as_not_good() -> None:
    """A request without an answer is no good answer, and no latency either."""
    outcome = Outcome([0.001, 0.019, 0.021, math.inf], [], 1.0)
    assert outcome.answered == [0.001, 0.019, 0.021]
    assert (outcome.failures, outcome.good_share) == (1, 0.5)


def test_every_request_is_sent_and_answered() -> None:
    """Answers that come in parts are put together, and a status other than 200 is a failure."""
    with answering(ANSWER, REFUSAL, ANSWER) as port:
        outcome = run(port, [post("/predict", b"{}")] * 3, [0.0, 0.001, 0.002], connections=1)
    assert [math.isfinite(latency) for latency in outcome.latencies] == [True, False, True]


def test_latency_counts_from_the_scheduled_time() -> None:
    """Two requests due at once over one connection: the second is charged for its wait behind the first."""
    with answering(ANSWER, ANSWER) as port:
        outcome = run(port, [post("/predict", b"{}")] * 2, [0.0, 0.0], connections=1)
    first, second = outcome.latencies
    assert second > first > 0
    assert len(outcome.lateness) == 1


def test_latency_counts_from_sending_as_well() -> None:
    """What the second of two requests waits for their one connection is told apart from what its answer took."""
    with answering(ANSWER, REFUSAL) as port:
        outcome = run(port, [post("/predict", b"{}")] * 2, [0.0, 0.0], connections=1)
    assert (outcome.sent, outcome.abandoned) == (2, 0)
    assert outcome.waits[1] >= outcome.latencies[0] > outcome.waits[0] >= 0
    assert outcome.latencies_from_sending == [outcome.latencies[0] - outcome.waits[0], math.inf]


def test_what_is_overdue_is_given_up_unsent() -> None:
    """Nobody waits any more for a request that was due an hour ago; the one after it is sent in its place."""
    with answering(ANSWER) as port:
        outcome = run(
            port, [post("/predict", b"{}")] * 2, [-3600.0, 0.0], connections=1, give_up_seconds=1800
        )
    assert (outcome.sent, outcome.abandoned, outcome.statuses) == (1, 1, {200: 1})
    assert outcome.waits[0] == outcome.latencies[0] == math.inf
    assert outcome.latencies_from_sending[1] > 0


def test_a_connection_that_was_closed_is_opened_again() -> None:
    """A server may close a connection that was idle; the request is sent once more, on the same clock."""
    with answering(ANSWER, b"", ANSWER) as port:
        outcome = run(port, [post("/predict", b"{}")] * 2, [0.0, 0.001], connections=1)
    assert outcome.failures == 0


def test_one_by_one_stops_when_time_is_up() -> None:
    """No request begins after the time given; what was answered is kept."""
    with answering(ANSWER, ANSWER) as port:
        assert len(one_by_one(port, [post("/predict", b"{}")] * 2, seconds=60)) == 2
    with answering(ANSWER) as port:
        began = time.perf_counter()
        assert one_by_one(port, [post("/predict", b"{}")], seconds=-1) == []
        assert time.perf_counter() > began
        with socket.create_connection(("127.0.0.1", port)) as spare:  # lets the server end
            spare.sendall(b"x")
            while spare.recv(1 << 16):
                pass
