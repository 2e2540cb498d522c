"""Tests of service/admission.py, on a simulated engine and clock."""

import random
from collections import deque
from dataclasses import dataclass, field
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
class Simulation:
    """An engine that does *rate* microseconds of work per second, at *load* times its capacity.

    Requests come at random. Admitted ones are answered oldest first, up to 64 at a time, a slice
    each per round, and dropped at their deadline, as `service.engine` does.
    """

    queries: list[tuple[Any, int]]
    rate: float
    load: float
    deadline: float = 10.0
    admission: Admission = field(default_factory=lambda: Admission(512, 64, LIMITS))
    seconds: list[float] = field(default_factory=list)  # from arrival to answer
    late: int = 0
    refused: int = 0
    done: int = 0  # microseconds of work answered in time, or on the way to it at the end
    now: float = 0.0

    def run(self, until: float) -> "Simulation":
        """Simulate *until* seconds."""
        dice = random.Random(7)
        mean = sum(cost for _, cost in self.queries) / len(self.queries) / self.rate
        waiting: deque[list[Any]] = deque()
        live: list[list[Any]] = []
        arrival = 0.0

        def arrive() -> None:
            nonlocal arrival
            while arrival <= self.now:
                query, cost = dice.choice(self.queries)
                try:
                    (work,) = self.admission.admit([query], "", self.deadline)
                    waiting.append([arrival, work, cost, cost])
                except TooManyRequests:
                    self.refused += 1
                arrival += dice.expovariate(self.load / mean)

        while self.now < until:
            if not waiting and not live:
                self.now = arrival
            arrive()
            began, expired = self.now, self.now - self.deadline
            for job in [job for job in live if job[0] < expired]:
                live.remove(job)
                self._end(job)
            while waiting and len(live) < 64:
                job = waiting.popleft()
                if job[0] < expired:
                    self._end(job)
                else:
                    live.append(job)
            for job in live:
                token = min(job[2], 3_000)
                job[2] -= token
                self.now += token / self.rate
            arrive()
            finished = [job for job in live if not job[2]]
            live = [job for job in live if job[2]]
            for job in finished:
                self._end(job)
            self.admission.measure(sum(job[1] for job in finished), self.now - began)
        self.done += sum(cost - left for _, _, left, cost in live)
        return self

    def _end(self, job: list[Any]) -> None:
        self.admission.end(job[1])
        answered = self.now - job[0]
        if job[2] or answered > self.deadline:
            self.late += 1
        else:
            self.seconds.append(answered)
            self.done += job[3]

    @property
    def goodput(self) -> float:
        """Work answered in time, as a share of what the engine can do."""
        return self.done / self.rate / self.now


@pytest.mark.parametrize("rate", [100_000, 400_000])
@pytest.mark.parametrize("deadline", [2.0, 10.0])
@pytest.mark.parametrize("mix", MIXES)
def test_ten_times_the_load_is_answered_at_full_speed_and_in_time(
    mix: str, deadline: float, rate: float
) -> None:
    """At ten times its capacity the engine is useful 90 % of the time, and 99 % are in time."""
    simulation = Simulation(MIXES[mix], rate, 10.0, deadline).run(until=20.0)
    assert simulation.goodput > 0.9
    assert simulation.late <= 0.01 * len(simulation.seconds)


def test_without_admission_ten_times_the_load_is_a_collapse() -> None:
    """If only texts are counted, the same load is answered too late: the simulation shows it."""

    class Lenient(Admission):
        def admit(self, queries: Any, tenant: str, seconds: float) -> list[int]:
            del seconds
            return super().admit(queries, tenant, float("inf"))

    simulation = Simulation([BLANK], 100_000, 10.0, admission=Lenient(512, 64, LIMITS)).run(
        until=60.0
    )
    assert simulation.goodput < 0.5


def test_below_capacity_nothing_is_refused() -> None:
    """At half of the engine's capacity everybody is admitted, even while the speed is a guess."""
    simulation = Simulation([KEYSTROKE], 100_000, 0.5).run(until=30.0)
    assert simulation.goodput > 0.45
    assert (simulation.late, simulation.refused) == (0, 0)


@pytest.mark.parametrize("factor", [0.1, 10.0])
def test_a_first_guess_that_is_far_off_is_corrected(factor: float) -> None:
    """However wrong the first guess of the speed is, it is right ten busy seconds later."""
    simulation = Simulation([KEYSTROKE], factor * FIRST_RATE, 2.0).run(until=10.0)
    truth = factor * FIRST_RATE * 1_540 / 1_000  # estimates are 1.54 times what it takes
    assert simulation.admission.rate == pytest.approx(truth, rel=0.1)


def test_an_idle_engine_takes_anything() -> None:
    """A request that seems to take longer than its deadline is accepted if nothing else waits."""
    admission = Admission(512, 64, LIMITS)
    admission.measure(0, 1_000.0)  # as slow as can be
    large = [ClozeQuery("____ " * 64)] * 64
    works = admission.admit(large, "", 0.001)
    with pytest.raises(TooManyRequests) as refused:
        admission.admit(large, "", 0.001)
    assert refused.value.reason == "deadline"
    for work in works:
        admission.end(work)
    assert (admission.waiting, admission.cost) == (0, 0)
    admission.admit(large, "", 0.001)


def test_a_refusal_counts_for_nothing_and_says_when_to_come_back() -> None:
    """Retry-After is waiting work by measured speed, in whole seconds from 1 to 30."""
    admission = Admission(10_000, 64, LIMITS)
    admission.measure(10_000_000, 10.0)
    (work,) = admission.admit([BLANK[0]], "", 1.0)
    told = []
    for seconds in (2.5, 100.0):
        admission.admit([BLANK[0]] * int(seconds * admission.rate / work), "", float("inf"))
        before = admission.cost
        with pytest.raises(TooManyRequests) as refused:
            admission.admit([BLANK[0]], "", 1.0)
        assert admission.cost == before
        told.append(refused.value.retry_after)
    assert told == [3, 30]
    short = Admission(1, 0, LIMITS)
    short.admit([KEYSTROKE[0]], "", 1.0)
    with pytest.raises(TooManyRequests) as refused:
        short.admit([KEYSTROKE[0]], "", 1.0)
    assert (refused.value.reason, refused.value.retry_after) == ("queue_full", 1)


def test_work_that_is_being_decoded_counts() -> None:
    """A text that has left the queue still comes before the next one, until it is done."""
    admission = Admission(512, 64, LIMITS)
    works = admission.admit([BLANK[0]] * 50, "", 10.0)
    seconds = sum(works) / FIRST_RATE
    assert (admission.waiting, admission.seconds) == (0, seconds)
    admission.admit([BLANK[0]], "", (seconds + works[0] / FIRST_RATE) / HEADROOM * 1.001)
    with pytest.raises(TooManyRequests, match=r"3\.6 s of work are waiting and it adds 0\.1 s"):
        admission.admit([BLANK[0]], "", seconds / HEADROOM)


def work_of(*queries: Any, tenant: str = "") -> list[int]:
    """Return the cost of each query, admitted one after the other."""
    admission = Admission(512, 64, LIMITS)
    return [admission.admit([query], tenant, float("inf"))[0] for query in queries]


def test_lists_count_by_their_items() -> None:
    """Eight texts are eight times the work of one, and eight places in the queue."""
    admission = Admission(512, 0, LIMITS)
    admission.admit([SCORE[0]], "", 1.0)
    one = admission.cost
    admission.admit([SCORE[0]] * 8, "", 1e9)
    assert (admission.waiting, admission.cost) == (9, 9 * one)


@pytest.mark.parametrize(
    ("less", "more"),
    [
        (PredictQuery("a" * 10), PredictQuery("a" * 1_000)),
        (PredictQuery("a"), PredictQuery("a", history="b" * 10_000)),
        (PredictQuery("a ____"), ClozeQuery("a ____")),
        (ClozeQuery("a ____"), ClozeQuery("a ____ b ____")),
        (ClozeQuery("a [MASK]"), ClozeQuery("a [MASK] b [MASK]")),
        (ClozeQuery("a *", blank="*"), ClozeQuery("a * b *", blank="*")),
        (
            ClozeQuery("a ____", choices=["x", "y"]),
            ClozeQuery("a ____", choices=[str(i) for i in range(256)]),
        ),
        (
            ClozeQuery("a ____", choices=["x"]),
            ClozeQuery("a ____ b ____", choices=[["x"], ["y", "z"]]),
        ),
        (ScoreQuery("a"), ScoreQuery("a" * 1_000)),
    ],
)
def test_more_to_do_is_more_work(less: Any, more: Any) -> None:
    """Length, history, blanks and choices each add to the estimate."""
    assert work_of(less)[0] < work_of(more)[0]


def test_what_was_typed_before_is_not_work_again() -> None:
    """A key press after a long text costs little, for the tenant who sent text and history."""
    text = "some words " * 400
    first, next_key, stranger = (PredictQuery(text + key, history=text) for key in ("", "a", "b"))
    admission = Admission(512, 64, LIMITS)
    (cold,) = admission.admit([first], "one", 1.0)
    (typed,) = admission.admit([next_key], "one", 1e9)
    (unknown,) = admission.admit([stranger], "another", 1e9)
    assert typed < cold / 20
    assert unknown > cold * 0.99


def test_a_refused_text_is_not_remembered() -> None:
    """A long text that was refused costs as much the next time."""
    text = PredictQuery("some words " * 400)
    admission = Admission(512, 64, LIMITS)
    (busy,) = admission.admit([BLANK[0]], "", 1.0)
    with pytest.raises(TooManyRequests):
        admission.admit([text], "", 0.001)
    (work,) = admission.admit([text], "", 1e9)
    assert work == work_of(text)[0] > busy


def test_prefixes_are_forgotten_oldest_first() -> None:
    """The number of remembered prefixes is bounded; one that comes again stays."""
    texts = [PredictQuery(f"{number:064d}") for number in range(MAX_PREFIXES + 1)]
    admission = Admission(1 << 20, 64, LIMITS)
    for text in texts[:-1]:
        admission.admit([text], "", float("inf"))
    (known,) = admission.admit([texts[0]], "", float("inf"))
    admission.admit([texts[-1]], "", float("inf"))
    again, forgotten = (admission.admit([text], "", float("inf"))[0] for text in texts[:2])
    assert again == known < forgotten


def test_what_will_be_refused_is_no_work() -> None:
    """A text over a limit costs nothing, so that a busy engine answers 422 and not 429."""
    too_long, too_many = PredictQuery("a" * 10_001), ClozeQuery("____ " * 65)
    assert work_of(too_long) == [1]
    assert work_of(too_many)[0] < work_of(BLANK[0])[0]


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


def test_a_list_is_charged_by_its_items() -> None:
    """A request with eight texts waits until quota for eight is there."""
    clock = Clock()
    allowance = Allowance((12, 0), clock)
    assert [send(allowance, 8, 0) for _ in range(2)] == [None, ("rate_requests", 20)]
    clock.now += 20
    assert send(allowance, 8, 0) is None


def test_a_refused_request_is_not_charged() -> None:
    """A request that is refused many times succeeds after the time that the first refusal named."""
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
