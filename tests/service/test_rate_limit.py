"""Tests of service/rate_limit.py, on a clock that stands still until it is moved."""

import pytest

from service.rate_limit import Allowance, TooManyRequests


class Clock:
    """Seconds that a test sets."""

    now = 1_000.0

    def __call__(self) -> float:
        """As time.monotonic."""
        return self.now


def send(allowance: Allowance, texts: int, characters: int) -> tuple[str, int] | None:
    """Send a request; return reason and wait of its refusal, or None."""
    try:
        allowance.charge(texts, characters)
    except TooManyRequests as refused:
        return refused.reason, refused.retry_after
    return None


def test_one_minutes_quota_may_come_at_once() -> None:
    """A key that was quiet may send a minute's quota at once; after that, quota flows in evenly."""
    clock = Clock()
    allowance = Allowance((60, 0), clock)
    assert [send(allowance, 1, 0) for _ in range(61)] == [None] * 60 + [("rate_requests", 1)]
    clock.now += 3
    assert [send(allowance, 1, 0) for _ in range(4)] == [None] * 3 + [("rate_requests", 1)]
    clock.now += 3_600
    assert [send(allowance, 1, 0) for _ in range(61)] == [None] * 60 + [("rate_requests", 1)]


def test_lists_count_by_their_items() -> None:
    """A request with eight texts waits until quota for eight is there."""
    clock = Clock()
    allowance = Allowance((12, 0), clock)
    assert [send(allowance, 8, 0) for _ in range(2)] == [None, ("rate_requests", 20)]
    clock.now += 20
    assert send(allowance, 8, 0) is None


def test_a_refused_request_is_not_charged() -> None:
    """A request that is refused again and again succeeds after the time that the first refusal named."""
    clock = Clock()
    allowance = Allowance((60, 600), clock)
    assert send(allowance, 1, 600) is None
    assert [send(allowance, 1, 100) for _ in range(50)] == [("rate_characters", 10)] * 50
    clock.now += 10
    assert send(allowance, 1, 100) is None
    allowance.refund(1, 100)
    assert send(allowance, 1, 100) is None
    assert send(allowance, 60, 0) is not None
    clock.now += 60
    assert send(allowance, 60, 0) is None


def test_more_than_one_minutes_quota_is_owed() -> None:
    """A request over the limit is accepted when the bucket is full, and delays the next ones."""
    clock = Clock()
    allowance = Allowance((0, 100), clock)
    assert send(allowance, 1, 1) is None
    assert send(allowance, 1, 250) == ("rate_characters", 1)
    clock.now += 1
    assert send(allowance, 1, 250) is None
    assert send(allowance, 1, 1) == ("rate_characters", 91)  # 150 owed, and 1
    assert send(allowance, 1, 0) == ("rate_characters", 90)
    clock.now += 91
    assert send(allowance, 1, 1) is None


def test_the_refusal_names_the_longer_wait() -> None:
    """If both limits are exceeded, the message gives the one that takes longer."""
    allowance = Allowance((30, 6_000), Clock())
    allowance.charge(30, 6_000)
    with pytest.raises(
        TooManyRequests, match="limit is 6000 characters per minute; retry after 30 s"
    ):
        allowance.charge(2, 3_000)
    with pytest.raises(TooManyRequests, match="limit is 30 texts per minute; retry after 4 s"):
        allowance.charge(2, 100)


def test_zero_means_no_limit() -> None:
    """Without limits nothing is refused."""
    allowance = Allowance((0, 0), Clock())
    assert [send(allowance, 64, 1_000_000) for _ in range(1_000)] == [None] * 1_000
