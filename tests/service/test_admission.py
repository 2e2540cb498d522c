"""Tests of service/admission.py, on a simulated engine and clock."""

import random
import sys
from collections import deque
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest

from model.queries import ClozeQuery, PredictQuery, ScoreQuery
from service.admission import (
    FIRST_RATE,
    HEADROOM,
    MAX_BYTES,
    MAX_RETRY_SECONDS,
    Admission,
    Allowance,
    TooManyRequests,
)
from service.estimate import Estimator, Work
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
    outcome = Outcome(Admission(512, 64))
    dice = random.Random(7)
    mean = sum(cost for _, cost in queries) / len(queries) / rate
    waiting: deque[tuple[float, int, int]] = deque()
    now = arrival = 0.0
    while now < seconds:
        now = now if waiting else max(now, arrival)
        while arrival <= now:
            query, cost = dice.choice(queries)
            try:
                (work,) = admit(outcome.admission, query, seconds=deadline)
                waiting.append((arrival, work.total, cost))
            except TooManyRequests:
                outcome.refused += 1
            arrival += dice.expovariate(load / mean)
        if not waiting:
            continue
        arrived, estimate, cost = waiting.popleft()
        outcome.admission.end("", estimate, 0)
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
    admission: Admission, *queries: Any, tenant: str = "", seconds: float = float("inf")
) -> list[Work]:
    """Admit one request; return the work of each text."""
    works = Estimator(LIMITS, 0).estimate(queries, "")
    admission.admit(queries, works, tenant, seconds)
    return works


def refuse(admission: Admission, *queries: Any, **options: Any) -> TooManyRequests:
    """Return the refusal of a request."""
    before = admission.waiting, admission.cost
    with pytest.raises(TooManyRequests) as refused:
        admit(admission, *queries, **options)
    assert (admission.waiting, admission.cost) == before
    return refused.value


def test_a_request_that_takes_longer_than_its_deadline_is_refused(clock: Any) -> None:
    """Even an idle engine refuses it, unless nothing was measured lately: that may be wrong."""
    admission = Admission(512, 64)
    large = [ClozeQuery("____ " * 64)] * 8

    def admit_large() -> None:
        for work in admit(admission, *large, seconds=10.0):
            admission.end("", work.total, 0)

    admit_large()  # while the speed is a guess
    admission.measure(1_000_000, 5.0)
    refused = refuse(admission, *large, seconds=10.0)
    assert (refused.reason, refused.retry_after) == ("deadline", MAX_RETRY_SECONDS)
    clock.now += MAX_RETRY_SECONDS
    admit_large()


def test_a_refusal_says_when_to_come_back() -> None:
    """Retry-After is waiting work by measured speed, in whole seconds from 1 to 30."""
    admission = Admission(10_000, 64)
    admission.measure(10_000_000, 10.0)
    (work,) = admit(admission, BLANK[0])
    for seconds, retry_after in ((2.5, 3), (100.0, 30)):
        admit(admission, *[BLANK[0]] * int(seconds * admission.rate / work.total))
        assert refuse(admission, BLANK[0], seconds=1.0).retry_after == retry_after


def test_lists_count_by_their_items() -> None:
    """Eight texts are eight times the work of one, and eight places in the queue."""
    admission = Admission(9, 0)
    (one,) = admit(admission, SCORE[0])
    assert admit(admission, *[SCORE[0]] * 8) == [one] * 8
    assert (admission.waiting, admission.cost) == (9, 9 * one.total)
    refused = refuse(admission, SCORE[0])
    assert refused.reason == "queue_full"
    assert "9 of 9 texts wait" in refused.detail


def test_work_that_is_being_decoded_counts() -> None:
    """A text that has left the queue still comes before the next one, until it is done."""
    admission = Admission(512, 64)
    works = admit(admission, *[BLANK[0]] * 50)
    seconds, adds = (sum(work.total for work in part) / FIRST_RATE for part in (works, works[:1]))
    assert (admission.waiting, admission.wait_seconds) == (0, seconds)
    admit(admission, BLANK[0], seconds=(seconds + adds) / HEADROOM * 1.001)
    refused = refuse(admission, BLANK[0], seconds=seconds / HEADROOM)
    assert f"{seconds + adds:.1f} s of work are waiting and it adds {adds:.1f} s" in refused.detail


@pytest.mark.parametrize("letter", ["a", "é", "鬼", "😀"])
@pytest.mark.parametrize("kind", ["texts", "history", "choices"])
def test_the_bytes_of_all_that_waits_are_bounded(kind: str, letter: str) -> None:
    """Texts, histories and choices count by their size in memory."""
    long = letter * 4_000
    queries: list[Any] = {
        "texts": [PredictQuery(long)] * 10,
        "history": [PredictQuery("a", history=long * 10)] * 2,
        "choices": [ClozeQuery("__", choices=[long] * 10)] * 2,
    }[kind]
    admission, admitted = Admission(100_000, 64), 0
    works = [Work(1, 1)] * len(queries)
    while True:
        try:
            admission.admit(queries, works, "", 10.0)
            admitted += 1
        except TooManyRequests as refused:
            assert refused.reason == "queue_full"
            break
    assert admitted * sys.getsizeof(long * 10) == pytest.approx(MAX_BYTES, rel=0.03)


def test_an_idle_engine_takes_a_large_request() -> None:
    """A request with more bytes than may wait is accepted when nothing else is there."""
    large = [ScoreQuery("a" * 2 * MAX_BYTES)]
    admission = Admission(512, 64)
    admit(admission, *large)
    assert refuse(admission, KEYSTROKE[0]).reason == "queue_full"


# Several tenants.


def shared(queue_items: int = 512) -> Admission:
    """Return the admission of a service with several keys, at the speed of the reference."""
    admission = Admission(queue_items, 64, lambda: True)
    admission.measure(1_000_000_000, 1_000.0)
    return admission


def fill(admission: Admission, tenant: str, *queries: Any) -> TooManyRequests:
    """Send requests until one is refused."""
    while True:
        try:
            admit(admission, *queries, tenant=tenant, seconds=10.0)
        except TooManyRequests as refused:
            return refused


@pytest.mark.parametrize("hogs", [1, 2, 5])
@pytest.mark.parametrize("query", [KEYSTROKE[0], BLANK[0], PredictQuery("x", history="y" * 20_000)])
def test_others_always_find_room(hogs: int, query: Any) -> None:
    """However much some tenants send, another one's list is accepted and waits for no time."""
    admission = shared()
    for number in range(hogs):
        fill(admission, f"hog {number}", *[query] * 8)
        admission.active_tenants += 1
    admit(admission, *[KEYSTROKE[0]] * 64, tenant="other", seconds=2.0)


def test_a_tenant_alone_has_everything() -> None:
    """With one key, or none, all places and all time may be one tenant's."""
    alone, admission = Admission(512, 64), shared()
    assert "512 of 512 texts wait" in fill(alone, "one", KEYSTROKE[0]).detail
    fill(admission, "one", KEYSTROKE[0])
    assert admission.waiting == (512 + 64) // 3 - 64


def test_a_tenant_waits_for_its_own_work_only() -> None:
    """Others' work slows a tenant down as its own share shrinks, and adds nothing to its wait."""
    admission = shared(100_000)
    refused = fill(admission, "hog", BLANK[0])
    assert (refused.reason, refused.retry_after) == ("deadline", 5)
    waiting = admission.cost
    admission.active_tenants = 2
    refused = fill(admission, "other", BLANK[0])
    assert refused.retry_after == 5
    assert admission.cost == pytest.approx(1.5 * waiting, rel=0.01)
    assert refuse(admission, BLANK[0], tenant="hog", seconds=10.0).retry_after == 10


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The clock of allowances; set its ``now``."""
    clock = SimpleNamespace(now=1_000.0)
    clock.monotonic = lambda: clock.now
    monkeypatch.setattr("service.admission.time", clock)
    return clock


# Seconds since the step before, texts, seconds of work, and reason and wait of the refusal.
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
        [(0, 1, 600, None), *[(0, 1, 100, ("rate_work", 10))] * 9, (10, 1, 100, None)],
    ),
    "more than a minute's quota is owed": (
        (0, 100),
        [
            (0, 1, 1, None),
            (0, 1, 250, ("rate_work", 1)),
            (1, 1, 250, None),
            (0, 1, 1, ("rate_work", 91)),  # 150 owed, and 1
            (0, 1, 0, ("rate_work", 90)),
            (91, 1, 1, None),
        ],
    ),
    "the longer wait is named": (
        (30, 6_000),
        [
            (0, 30, 6_000, None),
            (0, 2, 3_000, ("rate_work", 30)),
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
    for seconds, texts, work_seconds, expected in steps:
        clock.now += seconds
        refusal = None
        try:
            allowance.charge(texts, work_seconds)
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
    with pytest.raises(
        TooManyRequests, match="limit is 600 seconds of work per minute; retry after 10"
    ):
        allowance.charge(1, 100)
