"""Who is let in: how much work waits, how fast it goes, and what would come too late. No threads, no clocks, no HTTP.

The work of a query is estimated before anything is decoded, from its kind and its lengths. Its unit is a microsecond of
the machine that the constants below were measured on; how many of them this machine does in a second is measured all
the time, so only their proportions matter. docs/decisions/0012-admission.md says why it is done so.

The event loop admits; the engine's thread begins, ends and measures. Each number has one writer, so there is no lock.
"""

import math
import re
from collections.abc import Sequence
from typing import Any, Literal

from model.queries import ClozeQuery, ScoreQuery
from service.settings import Limits

# Microseconds of one core, many texts side by side, checkpoint 0.4.1 (docs/decisions/0012-admission.md).
PREDICT = 1_000
PREDICT_CHARACTER = 18
SCORE = 500
SCORE_CHARACTER = 30
CLOZE_CHARACTER = 25
OPEN_BLANK = 15_000
# Of several blanks each is filled beside several fillings of the others, and then once more.
JOINT_BLANK = 36_000
CHOSEN_BLANK = 4_500
CHOICE = 260
HISTORY_CHARACTERS_A_MICROSECOND = 2
# A text that shares a whole number of blocks of so many code points with an earlier one is likely to be in the cache.
BLOCK = 64
# Beginnings that are remembered, as hashes: the order of what the prefix cache holds.
MAX_BEGINNINGS = 4_096

# Work that is taken in, as a share of what can be done before the deadline. The rest is for what estimates get wrong.
HEADROOM = 0.5
# What a new engine is thought to do in a second: a quarter of the machine above. Too low a guess is refuted by the
# first texts; too high a one is paid for by whoever was let in.
FIRST_RATE = 250_000.0
# Busy seconds that the first guess counts for, and busy seconds after which what was measured counts for a third.
FIRST_SECONDS = 0.25
MEMORY_SECONDS = 5.0
# Requests after which the work of one counts for a third in what the next, unread one is taken to be.
MEMORY_REQUESTS = 16
# Seconds a client is told to wait at most; past this, a guess of how long the queue takes is no longer one.
MAX_RETRY = 30

# One pattern for each usual marker of a blank, as each is then looked for by its first characters: an alternation is 40
# times slower on a long text. What normalisation makes of a text is not looked at; this is an estimate.
_MARKERS = tuple(map(re.compile, ("__+", "＿＿+", r"\[MASK\]", "<mask>", "<blank>", r"\{blank\}")))


class Busy(Exception):  # noqa: N818 - a state, not a fault
    """There is no room for the request; the message says why, in numbers.

    Args:
        reason: `queue_full` or `deadline`.
        retry_after: whole seconds after which there may be.
    """

    def __init__(
        self, reason: Literal["queue_full", "deadline"], detail: str, retry_after: int
    ) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail
        self.retry_after = retry_after


class Admission:
    """Counts the work that was let in and is not done yet, and knows how fast it goes.

    Args:
        queue_items: texts that may wait for the engine, whatever their work: a bound on memory.
        limits: of one request; what exceeds them is refused by the engine, which takes no time to speak of.

    Attributes:
        rate: work done in a busy second, lately.
    """

    def __init__(self, queue_items: int, limits: Limits) -> None:
        self._queue_items = queue_items
        self._limits = limits
        # Written on the event loop.
        self._admitted_items = 0
        self._admitted_work = 0
        self._usual_work = 0.0  # of a request
        self._beginnings: dict[int, None] = {}
        # Written on the engine's thread.
        self._begun_items = 0
        self._ended_work = 0
        self._done = FIRST_RATE * FIRST_SECONDS
        self._busy = FIRST_SECONDS
        self.rate = FIRST_RATE

    # On the event loop.

    def admit(self, queries: Sequence[Any], tenant: str, seconds: float) -> list[int]:
        """Let one request in.

        Args:
            queries: what is asked.
            tenant: who asks.
            seconds: until its deadline.

        Returns:
            The work of each query, to be handed back by `end`.

        Raises:
            Busy: it would have to wait too long; nothing is counted.
        """
        works = [self._estimate(query, tenant) for query in queries]
        self.check(seconds, len(works), sum(works))
        self._admitted_items += len(works)
        self._admitted_work += sum(works)
        self._usual_work += (sum(works) - self._usual_work) / MEMORY_REQUESTS
        for query in queries:
            self._remember(query, tenant)
        return works

    def check(self, seconds: float, items: int = 1, work: float | None = None) -> None:
        """Refuse a request of so many texts and so much work; by default, one that nobody has read yet.

        What nobody has read is taken to be as large as what was let in before: if each were refused only once it was
        parsed, that would take a good part of what an answer takes.

        Raises:
            Busy: there are too many texts, or too much work, to answer it within *seconds*.
        """
        reason = self._lack(seconds, items, work)
        if reason == "queue_full":
            raise Busy(
                reason, f"{self.waiting} texts are waiting; the queue is full", self._retry_after()
            )
        if reason == "deadline":
            adds = f", and this request adds {work / self.rate:.1f} s" if work else ""
            late = f"{self.seconds:.1f} s of work are waiting{adds}: it would be answered too late; send it later"
            raise Busy(reason, late, self._retry_after())

    def is_full(self, seconds: float, items: int = 1) -> bool:
        """Whether `check` would refuse the last of so many texts that nobody has read yet."""
        return self._lack(seconds, items, None) is not None

    def _lack(
        self, seconds: float, items: int, work: float | None
    ) -> Literal["queue_full", "deadline"] | None:
        """What there is no room in. An idle engine takes anything: else a wrong guess would never be found out."""
        if self.waiting + items > self._queue_items:
            return "queue_full"
        adds = self._usual_work * items if work is None else work
        if self.work > 0 and self.work + adds > HEADROOM * seconds * self.rate:
            return "deadline"
        return None

    @property
    def waiting(self) -> int:
        """Texts that wait for a place among those being decoded."""
        return self._admitted_items - self._begun_items

    @property
    def work(self) -> int:
        """Work of all texts that wait or are being decoded."""
        return self._admitted_work - self._ended_work

    @property
    def seconds(self) -> float:
        """Seconds that this work will take."""
        return self.work / self.rate

    def _retry_after(self) -> int:
        return min(MAX_RETRY, max(1, math.ceil(self.seconds)))

    def _estimate(self, query: Any, tenant: str) -> int:
        length = len(query.text)
        if length > self._limits.characters:
            return 1
        if isinstance(query, ScoreQuery):
            return SCORE + SCORE_CHARACTER * length
        if len(query.history) > self._limits.history:
            return 1
        if isinstance(query, ClozeQuery):
            work = self._estimate_blanks(query) + CLOZE_CHARACTER * length
        else:
            work = PREDICT + PREDICT_CHARACTER * (length - self._known(query.text, tenant))
        if query.history and hash((tenant, query.history)) not in self._beginnings:
            work += len(query.history) // HISTORY_CHARACTERS_A_MICROSECOND
        return work

    def _estimate_blanks(self, query: ClozeQuery) -> int:
        blanks = max(1, _count_blanks(query.text, query.blank))
        if blanks > self._limits.blanks:
            return 1
        if not query.choices:
            return OPEN_BLANK if blanks == 1 else JOINT_BLANK * blanks
        shared = isinstance(query.choices[0], str)
        choices = blanks * len(query.choices) if shared else sum(map(len, query.choices))
        work = CHOSEN_BLANK * blanks + CHOICE * choices
        return work if blanks == 1 else 2 * work

    def _known(self, text: str, tenant: str) -> int:
        """Code points at the beginning of *text* that this tenant has sent before."""
        end = len(text) // BLOCK * BLOCK
        for known in (end, end - BLOCK):
            if known > 0 and hash((tenant, text[:known])) in self._beginnings:
                return known
        return 0

    def _remember(self, query: Any, tenant: str) -> None:
        if isinstance(query, ScoreQuery):
            return
        whole = query.text[: len(query.text) // BLOCK * BLOCK]
        for beginning in (whole, query.history):
            if beginning:
                key = hash((tenant, beginning))
                self._beginnings.pop(key, None)  # the newest is last
                self._beginnings[key] = None
                if len(self._beginnings) > MAX_BEGINNINGS:
                    del self._beginnings[next(iter(self._beginnings))]

    # On the engine's thread.

    def begin(self, items: int) -> None:
        """So many texts wait no longer: they are being decoded, or were dropped."""
        self._begun_items += items

    def end(self, work: int) -> None:
        """So much work is left to do no longer: it was done, failed, or was dropped."""
        self._ended_work += work

    def measure(self, work: int, seconds: float) -> None:
        """So much work was finished in the last so many *seconds*, in which the engine was never idle."""
        kept = math.exp(-seconds / MEMORY_SECONDS)
        self._done = self._done * kept + work
        self._busy = self._busy * kept + seconds
        self.rate = max(1.0, self._done / self._busy)


def _count_blanks(text: str, marker: str | None) -> int:
    """How many blanks a text has, more or less."""
    if marker:
        return text.count(marker)
    return sum(len(pattern.findall(text)) for pattern in _MARKERS)
