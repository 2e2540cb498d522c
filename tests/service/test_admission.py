"""Tests of service/admission.py, on a simulated engine and clock."""

import random
from collections import deque
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest

from model.queries import ClozeQuery, PredictQuery, ScoreQuery
from service.admission import (
    FIRST_RATE,
    HEADROOM,
    MAX_PREFIXES,
    Admission,
    Allowance,
    TooManyRequests,
)
from service.settings import Settings

LIMITS = Settings().limits
# Queries with their true cost in microseconds; the estimates differ.
KEYSTROKE = (PredictQuery("a" * 30), 1_000)
COLD = (PredictQuery("b" * 60), 2_500)
BLANK = (ClozeQuery(f"{'c' * 100} ____"), 18_000)
SCORE = (ScoreQuery("d" * 200), 7_000)
MIXES = {"keystrokes": [KEYSTROKE], "blanks": [BLANK], "mixed": [KEYSTROKE, COLD, BLANK, SCORE]}


@dataclass
class Outcome:
    """The outcome of a simulation: numbers of requests, and work answered in time."""

    admission: Admission
    answered: int = 0
    late: int = 0
    refused: int = 0
    goodput: float = 0.0  # as a share of what the engine can do


def simulate(
    queries: list[tuple[Any, int]],
    rate: float,
    load: float,
    seconds: float,
    deadline: float = 10.0,
) -> Outcome:
    """Simulate an engine that does *rate* microseconds of work per second, at *load* times that.

    Requests come at random, are answered oldest first, and dropped at their deadline.
    """
    outcome = Outcome(Admission(512, 64, LIMITS))
    dice = random.Random(7)
    mean = sum(cost for _, cost in queries) / len(queries) / rate
    waiting: deque[tuple[float, int, int]] = deque()
    now = arrival = 0.0
    while now < seconds:
        now = now if waiting else max(now, arrival)
        while arrival <= now:
            query, cost = dice.choice(queries)
            try:
                (estimate,) = outcome.admission.admit([query], "", deadline)
                waiting.append((arrival, estimate, cost))
            except TooManyRequests:
                outcome.refused += 1
            arrival += dice.expovariate(load / mean)
        if not waiting:
            continue
        arrived, estimate, cost = waiting.popleft()
        outcome.admission.end(estimate)
        if now - arrived < deadline:
            now += cost / rate
            outcome.admission.measure(estimate, cost / rate)
        if now - arrived < deadline:
            outcome.answered += 1
            outcome.goodput += cost / rate / seconds
        else:
            outcome.late += 1
    return outcome


@pytest.mark.parametrize("rate", [100_000, 400_000])
@pytest.mark.parametrize("deadline", [2.0, 10.0])
@pytest.mark.parametrize("mix", MIXES)
def test_ten_times_the_load_is_answered_at_full_speed_and_in_time(
    mix: str, deadline: float, rate: float
) -> None:
    """At ten times its capacity the engine is useful 90 % of the time, and 99 % are in time."""
    outcome = simulate(MIXES[mix], rate, 10.0, 20.0, deadline)
    assert outcome.goodput > 0.9
    assert outcome.late <= 0.01 * outcome.answered


def test_below_capacity_nothing_is_refused() -> None:
    """At half of the engine's capacity everybody is admitted, even while the speed is a guess."""
    outcome = simulate([KEYSTROKE], 100_000, 0.5, 30.0)
    assert outcome.goodput > 0.45
    assert (outcome.late, outcome.refused) == (0, 0)


@pytest.mark.parametrize("factor", [0.1, 10.0])
def test_a_first_guess_that_is_far_off_is_corrected(factor: float) -> None:
    """However wrong the first guess of the speed is, it is right ten busy seconds later."""
    outcome = simulate([KEYSTROKE], factor * FIRST_RATE, 2.0, 10.0)
    truth = factor * FIRST_RATE * 1_540 / 1_000  # estimates are 1.54 times what it takes
    assert outcome.admission.rate == pytest.approx(truth, rel=0.1)


def admit(
    admission: Admission, *queries: Any, salt: str = "", seconds: float = float("inf")
) -> list[int]:
    """Admit one request; return the cost of each query."""
    return admission.admit(queries, salt, seconds)


def cost_of(query: Any) -> int:
    """Return the cost of a query that comes alone."""
    return admit(Admission(512, 64, LIMITS), query)[0]


def test_an_idle_engine_takes_anything() -> None:
    """A request that seems to take longer than its deadline is accepted if nothing else waits."""
    admission = Admission(512, 64, LIMITS)
    admission.measure(0, 1_000.0)  # as slow as can be
    large = [ClozeQuery("____ " * 64)] * 64
    costs = admit(admission, *large, seconds=0.001)
    with pytest.raises(TooManyRequests) as refused:
        admit(admission, *large, seconds=0.001)
    assert refused.value.reason == "deadline"
    for cost in costs:
        admission.end(cost)
    assert (admission.waiting, admission.cost) == (0, 0)
    admit(admission, *large, seconds=0.001)


def test_a_refusal_counts_for_nothing_and_says_when_to_come_back() -> None:
    """Retry-After is waiting work by measured speed, in whole seconds from 1 to 30."""
    admission = Admission(10_000, 64, LIMITS)
    admission.measure(10_000_000, 10.0)
    (cost,) = admit(admission, BLANK[0])
    for seconds, retry_after in ((2.5, 3), (100.0, 30)):
        admit(admission, *[BLANK[0]] * int(seconds * admission.rate / cost))
        before = admission.cost
        with pytest.raises(TooManyRequests) as refused:
            admit(admission, BLANK[0], seconds=1.0)
        assert (admission.cost, refused.value.retry_after) == (before, retry_after)


def test_lists_count_by_their_items() -> None:
    """Eight texts are eight times the work of one, and eight places in the queue."""
    admission = Admission(9, 0, LIMITS)
    (one,) = admit(admission, SCORE[0])
    assert admit(admission, *[SCORE[0]] * 8) == [one] * 8
    assert (admission.waiting, admission.cost) == (9, 9 * one)
    with pytest.raises(TooManyRequests, match="9 of 9 texts wait") as refused:
        admit(admission, SCORE[0])
    assert refused.value.reason == "queue_full"


def test_work_that_is_being_decoded_counts() -> None:
    """A text that has left the queue still comes before the next one, until it is done."""
    admission = Admission(512, 64, LIMITS)
    costs = admit(admission, *[BLANK[0]] * 50)
    seconds = sum(costs) / FIRST_RATE
    assert (admission.waiting, admission.wait_seconds) == (0, seconds)
    admit(admission, BLANK[0], seconds=(seconds + costs[0] / FIRST_RATE) / HEADROOM * 1.001)
    with pytest.raises(TooManyRequests, match=r"3\.6 s of work are waiting and it adds 0\.1 s"):
        admit(admission, BLANK[0], seconds=seconds / HEADROOM)


@pytest.mark.parametrize(
    ("less", "more"),
    [
        (PredictQuery("a" * 10), PredictQuery("a" * 1_000)),
        (PredictQuery("a"), PredictQuery("a", history="b" * 10_000)),
        (PredictQuery("a ____"), ClozeQuery("a ____")),
        (ClozeQuery("a ____"), ClozeQuery("a ____ b ____")),
        (ClozeQuery("a [MASK]"), ClozeQuery("a [MASK] b [MASK]")),
        (ClozeQuery("a *", blank="*"), ClozeQuery("a * b *", blank="*")),
        (ClozeQuery("a ____", choices=["x"]), ClozeQuery("a ____", choices=["x"] * 256)),
        (
            ClozeQuery("a ____", choices=["x"]),
            ClozeQuery("a ____ b ____", choices=[["x"], ["y", "z"]]),
        ),
        (ScoreQuery("a"), ScoreQuery("a" * 1_000)),
        # A text over a limit is no work, so that a busy engine answers 422 and not 429.
        (PredictQuery("a" * 10_001), PredictQuery("a")),
        (ClozeQuery("____ " * 65), ClozeQuery("____")),
    ],
)
def test_more_to_do_is_more_work(less: Any, more: Any) -> None:
    """Length, history, blanks and choices each add to the estimate."""
    assert cost_of(less) < cost_of(more)


def test_what_was_typed_before_is_not_work_again() -> None:
    """A key press after a long text costs little if text and history came with the same salt."""
    text = "some words " * 400
    first, next_key, stranger = (PredictQuery(text + key, history=text) for key in ("", "a", "b"))
    admission = Admission(512, 64, LIMITS)
    (cold,) = admit(admission, first, salt="one")
    with pytest.raises(TooManyRequests):
        admit(admission, stranger, salt="another", seconds=0.001)
    # What was refused is not remembered.
    (unknown,) = admit(admission, stranger, salt="another")
    (typed,) = admit(admission, next_key, salt="one")
    assert typed < cold / 20
    assert unknown > cold * 0.99


def test_prefixes_are_forgotten_oldest_first() -> None:
    """The number of remembered prefixes is bounded; one that comes again stays."""
    texts = [PredictQuery(f"{number:064d}") for number in range(MAX_PREFIXES + 1)]
    admission = Admission(1 << 20, 64, LIMITS)
    for text in texts[:-1]:
        admit(admission, text)
    (known,) = admit(admission, texts[0])
    admit(admission, texts[-1])
    again, forgotten = (admit(admission, text)[0] for text in texts[:2])
    assert again == known < forgotten


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The clock of allowances; set its ``now``."""
    clock = SimpleNamespace(now=1_000.0)
    clock.monotonic = lambda: clock.now
    monkeypatch.setattr("service.admission.time", clock)
    return clock


# Seconds since the step before, texts, characters, and reason and wait of the refusal.
STEPS: dict[str, tuple[tuple[int, int], list[tuple[int, int, int, Any]]]] = {
    "a minute's quota at once, then evenly": (
        (60, 0),
        [
            *[(0, 1, 0, None)] * 60,
            (0, 1, 0, ("rate_requests", 1)),
            (3, 3, 0, None),
            (0, 1, 0, ("rate_requests", 1)),
            (3_600, 60, 0, None),
            (0, 1, 0, ("rate_requests", 1)),
        ],
    ),
    "each text of a list counts": (
        (12, 0),
        [(0, 8, 0, None), (0, 8, 0, ("rate_requests", 20)), (20, 8, 0, None)],
    ),
    "a refused request is not charged": (
        (60, 600),
        [(0, 1, 600, None), *[(0, 1, 100, ("rate_characters", 10))] * 9, (10, 1, 100, None)],
    ),
    "more than a minute's quota is owed": (
        (0, 100),
        [
            (0, 1, 1, None),
            (0, 1, 250, ("rate_characters", 1)),
            (1, 1, 250, None),
            (0, 1, 1, ("rate_characters", 91)),  # 150 owed, and 1
            (0, 1, 0, ("rate_characters", 90)),
            (91, 1, 1, None),
        ],
    ),
    "the longer wait is named": (
        (30, 6_000),
        [
            (0, 30, 6_000, None),
            (0, 2, 3_000, ("rate_characters", 30)),
            (0, 2, 100, ("rate_requests", 4)),
        ],
    ),
    "zero is no limit": ((0, 0), [(0, 64, 1_000_000, None)] * 9),
}


@pytest.mark.parametrize(("limits", "steps"), STEPS.values(), ids=STEPS)
def test_a_key_may_send_its_quota(
    clock: Any, limits: tuple[int, int], steps: list[tuple[int, int, int, Any]]
) -> None:
    """A quota flows in evenly, up to one minute's, and a full bucket may go into debt."""
    allowance = Allowance(limits)
    for seconds, texts, characters, expected in steps:
        clock.now += seconds
        refusal = None
        try:
            allowance.charge(texts, characters)
        except TooManyRequests as refused:
            refusal = refused.reason, refused.retry_after
        assert refusal == expected


@pytest.mark.usefixtures("clock")
def test_a_refund_gives_back_the_charge() -> None:
    """A request that the engine refused may come again at once; the message names the limit."""
    allowance = Allowance((60, 600))
    for _ in range(9):
        allowance.charge(60, 600)
        allowance.refund(60, 600)
    allowance.charge(60, 600)
    with pytest.raises(TooManyRequests, match="limit is 600 characters per minute; retry after 10"):
        allowance.charge(1, 100)
