"""Tests of service/rate_limit.py, on a clock that stands still until it is moved."""

import pytest

from service.rate_limit import Allowance, RateExceeded


class Clock:
    """Seconds that a test sets."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        """As time.monotonic."""
        return self.now


def send(allowance: Allowance, texts: int, characters: int) -> tuple[str, int] | None:
    """Send a request; the reason and the wait of its refusal, or None."""
    try:
        allowance.check(texts, characters)
    except RateExceeded as refused:
        return refused.reason, refused.retry_after
    allowance.charge(texts, characters)
    return None


def test_a_minutes_worth_may_come_at_once_and_then_the_rate_holds() -> None:
    """A key that was quiet may send a minute's worth at once; from then on texts flow in evenly."""
    clock = Clock()
    allowance = Allowance(60, 0, clock)
    assert [send(allowance, 1, 0) for _ in range(60)] == [None] * 60
    assert send(allowance, 1, 0) == ("rate_requests", 1)
    clock.now += 3
    assert [send(allowance, 1, 0) for _ in range(4)] == [None] * 3 + [("rate_requests", 1)]
    clock.now += 3_600
    assert [send(allowance, 1, 0) for _ in range(61)] == [None] * 60 + [("rate_requests", 1)]


def test_lists_count_by_their_items() -> None:
    """A request with eight texts is eight; it waits until eight are there."""
    clock = Clock()
    allowance = Allowance(12, 0, clock)
    assert send(allowance, 8, 0) is None
    assert send(allowance, 8, 0) == ("rate_requests", 20)
    clock.now += 20
    assert send(allowance, 8, 0) is None


def test_a_refused_request_is_not_charged() -> None:
    """However often a request is refused, it can be sent after the time that the first refusal named."""
    clock = Clock()
    allowance = Allowance(60, 600, clock)
    assert send(allowance, 1, 600) is None
    refused = [send(allowance, 1, 100) for _ in range(50)]
    assert refused == [("rate_characters", 10)] * 50
    clock.now += 10
    assert send(allowance, 1, 100) is None
    assert send(allowance, 60, 0) is not None
    clock.now += 60  # the texts of the refusals were not charged either
    assert send(allowance, 60, 0) is None


def test_more_than_a_minutes_worth_is_owed() -> None:
    """A request that is larger than the limit is taken from a full bucket, and holds up the next ones for its size."""
    clock = Clock()
    allowance = Allowance(0, 100, clock)
    assert send(allowance, 1, 1) is None
    assert send(allowance, 1, 250) == ("rate_characters", 1)
    clock.now += 1
    assert send(allowance, 1, 250) is None
    assert send(allowance, 1, 1) == ("rate_characters", 91)  # 150 owed, and 1
    assert send(allowance, 1, 0) == ("rate_characters", 90)
    clock.now += 91
    assert send(allowance, 1, 1) is None


def test_the_longer_wait_is_told() -> None:
    """Where both limits are exceeded the refusal names the one that takes longer, its size, and when to come back."""
    allowance = Allowance(30, 6_000, Clock())
    allowance.charge(30, 6_000)
    with pytest.raises(RateExceeded) as refused:
        allowance.check(2, 3_000)
    assert refused.value.retry_after == 30
    assert str(refused.value) == (
        "the limit is 6000 characters a minute, of texts, history and choices; come back in 30 s"
    )
    with pytest.raises(
        RateExceeded, match="30 texts a minute, each text of a list counted; come back in 4 s"
    ):
        allowance.check(2, 100)


def test_no_limit_is_none() -> None:
    """0 means without limit, whatever is sent."""
    allowance = Allowance(0, 0, Clock())
    assert [send(allowance, 64, 1_000_000) for _ in range(1_000)] == [None] * 1_000
