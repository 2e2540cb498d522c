"""Tests of service/admission.py: what is let in, on a simulated engine and clock."""

import random
from collections import deque
from dataclasses import dataclass, field
from typing import Any

import pytest

from model.queries import ClozeQuery, PredictQuery, ScoreQuery
from service.admission import FIRST_RATE, HEADROOM, MAX_BEGINNINGS, Admission, Busy
from service.settings import Settings

LIMITS = Settings().limits
# Queries with the microseconds that they really take where 1,000,000 are done in a second; the estimates differ.
KEYSTROKE = (PredictQuery("a" * 30), 1_000)
COLD = (PredictQuery("b" * 60), 2_500)
BLANK = (ClozeQuery(f"{'c' * 100} ____"), 18_000)
SCORE = (ScoreQuery("d" * 200), 7_000)
MIXES = {"keystrokes": [KEYSTROKE], "blanks": [BLANK], "mixed": [KEYSTROKE, COLD, BLANK, SCORE]}


@dataclass
class Simulation:
    """An engine that does *rate* microseconds of work in a second, and is offered *load* times that.

    Requests come at random; those that are let in are answered oldest first, up to 64 side by side, a slice each a
    round, and dropped at their deadline, as `service.engine` does.
    """

    queries: list[tuple[Any, int]]
    rate: float
    load: float
    deadline: float = 10.0
    admission: Admission = field(default_factory=lambda: Admission(512, LIMITS))
    seconds: list[float] = field(default_factory=list)  # from arrival to answer
    late: int = 0
    done: int = 0  # microseconds of work answered in time, or on the way to it at the end
    now: float = 0.0

    def run(self, until: float) -> "Simulation":
        """Play so many seconds."""
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
                except Busy:
                    pass
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
                self.admission.begin(1)
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
    """At ten times its capacity the engine does useful work for nine tenths of its time, 99 of 100 answers in time."""
    simulation = Simulation(MIXES[mix], rate, 10.0, deadline).run(until=20.0)
    assert simulation.goodput > 0.9
    assert simulation.late <= 0.01 * len(simulation.seconds)


def test_without_admission_ten_times_the_load_is_a_collapse() -> None:
    """The same load where only texts are counted is answered too late: the simulation can tell the difference."""

    class Lenient(Admission):
        def check(self, seconds: float, items: int = 1, work: int = 0) -> None:
            del seconds
            super().check(float("inf"), items, work)

    simulation = Simulation([BLANK], 100_000, 10.0, admission=Lenient(512, LIMITS)).run(until=60.0)
    assert simulation.goodput < 0.5


def test_below_capacity_nothing_is_refused() -> None:
    """At half of what the engine can do everybody is let in, also while the speed is still a guess."""
    simulation = Simulation([KEYSTROKE], 100_000, 0.5)
    refused = []
    check = simulation.admission.check
    simulation.admission.check = lambda *given: check(*given) or refused.append(0)  # type: ignore[method-assign,func-returns-value]
    simulation.run(until=30.0)
    assert simulation.goodput > 0.45
    assert simulation.late == 0
    assert len(refused) == len(simulation.seconds) + simulation.admission.work // 1_540


@pytest.mark.parametrize("factor", [0.1, 10.0])
def test_a_first_guess_that_is_far_off_is_corrected(factor: float) -> None:
    """However wrong the first guess of the speed, ten busy seconds later it is what was measured."""
    simulation = Simulation([KEYSTROKE], factor * FIRST_RATE, 2.0).run(until=10.0)
    truth = factor * FIRST_RATE * 1_540 / 1_000  # estimates are 1.54 times what it takes
    assert simulation.admission.rate == pytest.approx(truth, rel=0.1)


def test_an_idle_engine_takes_anything() -> None:
    """A request that seems to take longer than its deadline is refused, but not where nothing else waits."""
    admission = Admission(512, LIMITS)
    admission.measure(0, 1_000.0)  # as slow as can be
    large = [ClozeQuery("____ " * 64)] * 64
    works = admission.admit(large, "", 0.001)
    with pytest.raises(Busy) as refused:
        admission.admit(large, "", 0.001)
    assert refused.value.reason == "deadline"
    admission.begin(64)
    admission.end(sum(works))
    assert (admission.waiting, admission.work) == (0, 0)
    admission.admit(large, "", 0.001)


def test_a_refusal_counts_for_nothing_and_says_when_to_come_back() -> None:
    """What was refused adds no work; Retry-After is waiting work by measured speed, whole seconds from 1 to 30."""
    admission = Admission(10_000, LIMITS)
    admission.measure(10_000_000, 10.0)
    (work,) = admission.admit([BLANK[0]], "", 1.0)
    told = []
    for seconds in (2.5, 100.0):
        admission.admit([BLANK[0]] * int(seconds * admission.rate / work), "", float("inf"))
        before = admission.work
        with pytest.raises(Busy) as refused:
            admission.admit([BLANK[0]], "", 1.0)
        assert admission.work == before
        told.append(refused.value.retry_after)
    assert told == [3, 30]
    short = Admission(1, LIMITS)
    short.admit([KEYSTROKE[0]], "", 1.0)
    with pytest.raises(Busy) as refused:
        short.admit([KEYSTROKE[0]], "", 1.0)
    assert (refused.value.reason, refused.value.retry_after) == ("queue_full", 1)


def test_work_that_is_being_decoded_counts() -> None:
    """A text that has left the queue still stands before the next one, until it is done."""
    admission = Admission(512, LIMITS)
    works = admission.admit([BLANK[0]] * 50, "", 10.0)
    admission.begin(50)
    seconds = sum(works) / FIRST_RATE
    assert (admission.waiting, admission.seconds) == (0, seconds)
    admission.admit([BLANK[0]], "", (seconds + works[0] / FIRST_RATE) / HEADROOM * 1.001)
    with pytest.raises(Busy, match=r"3\.6 s of work are waiting, and this request adds 0\.1 s"):
        admission.admit([BLANK[0]], "", seconds / HEADROOM)


def test_a_full_queue_is_known_before_a_request_is_read() -> None:
    """Without a request at hand, `check` refuses what one like those before it could not get, and nothing else."""
    admission = Admission(512, LIMITS)
    admission.check(10.0)
    works = [admission.admit([BLANK[0]], "", 1000.0)[0] for _ in range(100)]
    just = (sum(works) + works[0]) / FIRST_RATE / HEADROOM
    admission.check(just * 1.001)
    with pytest.raises(Busy, match=r"^7\.0 s of work are waiting: "):
        admission.check(just * 0.999)
    assert [admission.is_full(just * share) for share in (1.001, 0.999)] == [False, True]
    assert [admission.is_full(just * 1.001, items) for items in (1, 2)] == [False, True]


def test_one_large_request_does_not_close_the_door() -> None:
    """What the next request is taken to be follows many of those that were let in, and none that was refused."""
    admission = Admission(512, LIMITS)
    admission.admit([KEYSTROKE[0]], "", 10.0)
    for _ in range(100):
        with pytest.raises(Busy):
            admission.admit([ClozeQuery("____ " * 64)] * 64, "", 10.0)
    admission.check(0.1)


def work_of(*queries: Any, tenant: str = "") -> list[int]:
    """What an admission that has seen nothing makes of each query, one after the other."""
    admission = Admission(512, LIMITS)
    return [admission.admit([query], tenant, float("inf"))[0] for query in queries]


def test_lists_count_by_their_items() -> None:
    """Eight texts are eight times the work of one, and eight places in the queue."""
    admission = Admission(512, LIMITS)
    admission.admit([SCORE[0]], "", 1.0)
    one = admission.work
    admission.admit([SCORE[0]] * 8, "", 1e9)
    assert (admission.waiting, admission.work) == (9, 9 * one)


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
    """A key press after a long text is as little work as after a short one, for whoever sent the text and history."""
    text = "some words " * 400
    first, next_key, stranger = (PredictQuery(text + key, history=text) for key in ("", "a", "b"))
    admission = Admission(512, LIMITS)
    (cold,) = admission.admit([first], "one", 1.0)
    (typed,) = admission.admit([next_key], "one", 1e9)
    (unknown,) = admission.admit([stranger], "another", 1e9)
    assert typed < cold / 20
    assert unknown > cold * 0.99


def test_a_refused_text_is_not_taken_for_read() -> None:
    """A long text that was refused costs as much the next time."""
    text = PredictQuery("some words " * 400)
    admission = Admission(512, LIMITS)
    (busy,) = admission.admit([BLANK[0]], "", 1.0)
    with pytest.raises(Busy):
        admission.admit([text], "", 0.001)
    (work,) = admission.admit([text], "", 1e9)
    assert work == work_of(text)[0] > busy


def test_beginnings_are_forgotten_oldest_first() -> None:
    """What is remembered of texts is bounded; one that comes again and again stays."""
    texts = [PredictQuery(f"{number:064d}") for number in range(MAX_BEGINNINGS + 1)]
    admission = Admission(1 << 20, LIMITS)
    for text in texts[:-1]:
        admission.admit([text], "", float("inf"))
    (known,) = admission.admit([texts[0]], "", float("inf"))
    admission.admit([texts[-1]], "", float("inf"))
    again, forgotten = (admission.admit([text], "", float("inf"))[0] for text in texts[:2])
    assert again == known < forgotten


def test_what_will_be_refused_is_no_work() -> None:
    """A text that exceeds a limit takes no time, so a full queue is no reason to tell its sender to come back."""
    too_long, too_many = PredictQuery("a" * 10_001), ClozeQuery("____ " * 65)
    assert work_of(too_long) == [1]
    assert work_of(too_many)[0] < work_of(BLANK[0])[0]
