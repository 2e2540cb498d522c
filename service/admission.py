"""Admission: the quota of a key, and the work that the engine can do in time.

The cost of a query is estimated from its kind and its lengths before anything is decoded. Its unit
is a microsecond on the machine where the constants below were measured. The speed of this machine,
in units per busy second, is measured all the time, so only proportions matter
(docs/decisions/0012-admission.md).

The event loop admits, and the engine's thread reports what has ended. Each number has one writer,
so no lock is needed.
"""

import math
import re
import time
from collections.abc import Sequence
from typing import Literal

from model.queries import ClozeQuery, Limits, Query, ScoreQuery

# Microseconds of one core, many texts side by side.
PREDICT = 1_000
PREDICT_CHARACTER = 18
SCORE = 500
SCORE_CHARACTER = 30
CLOZE_CHARACTER = 25
OPEN_BLANK = 15_000
# Several blanks are each filled for several fillings of the others, and then once more.
JOINT_BLANK = 36_000
CHOSEN_BLANK = 4_500
CHOICE = 260
HISTORY_CHARACTERS_PER_MICROSECOND = 2
# A text that shares whole blocks of this many code points with an earlier one is probably cached.
BLOCK = 64
# Prefixes and histories that are remembered, as hashes: about as many as the prefix cache holds.
MAX_PREFIXES = 4_096

# Share of the time to the deadline that admitted work may fill. The rest covers wrong estimates.
HEADROOM = 0.5
# First guess of the speed: a quarter of the measured machine's. If it is too low, the first texts
# correct it; if it is too high, requests are admitted that are then late.
FIRST_RATE = 250_000.0
# Busy seconds that the first guess weighs, and busy seconds after which a measurement weighs 1/e.
FIRST_SECONDS = 0.25
MEMORY_SECONDS = 5.0
MAX_RETRY_SECONDS = 30

# One pattern per marker: each then searches for its first characters, 40 times faster than one
# alternation over a long text.
_MARKERS = tuple(map(re.compile, ("__+", "＿＿+", r"\[MASK\]", "<mask>", "<blank>", r"\{blank\}")))
Reason = Literal["queue_full", "deadline", "rate_requests", "rate_characters", "bodies"]


class TooManyRequests(Exception):  # noqa: N818 - a state, not a fault
    """A request is refused for *seconds*; *reason* labels a metric."""

    def __init__(self, reason: Reason, detail: str, seconds: float) -> None:
        self.reason = reason
        self.retry_after = max(1, math.ceil(seconds))
        self.detail = f"{detail}; retry after {self.retry_after} s"
        super().__init__(self.detail)


class Allowance:
    """The quota of one key. Used on the event loop only.

    A full bucket may go into debt, so a request larger than one minute's quota succeeds once and is
    then paid back.

    *limits* are texts and characters per minute; 0 means no limit.
    """

    def __init__(self, limits: tuple[int, int] = (0, 0)) -> None:
        self.limits = limits
        self._levels = [float(limit) for limit in limits]
        self._updated = time.monotonic()

    def charge(self, texts: int, characters: int) -> None:
        """Charge a request, or refuse it and charge nothing.

        *characters* are the code points of texts, history and choices.

        Raises:
            TooManyRequests: names the limit for which the request has to wait longer.
        """
        now = time.monotonic()
        minutes, self._updated = (now - self._updated) / 60, now
        amounts, waits = (texts, characters), [0.0, 0.0]
        for kind, limit in enumerate(self.limits):
            if limit:
                level = min(float(limit), self._levels[kind] + minutes * limit)
                self._levels[kind] = level
                waits[kind] = max(0.0, (min(amounts[kind], limit) - level) * 60 / limit)
        if any(waits):
            kind = waits.index(max(waits))
            reason: Reason = ("rate_requests", "rate_characters")[kind]
            detail = f"the limit is {self.limits[kind]} {('texts', 'characters')[kind]} per minute"
            raise TooManyRequests(reason, detail, max(waits))
        self._levels[0] -= texts
        self._levels[1] -= characters

    def refund(self, texts: int, characters: int) -> None:
        """Give back what `charge` took, for a request that the engine refused."""
        self._levels[0] += texts
        self._levels[1] += characters


class Admission:
    """Counts the work that was admitted and has not ended, and measures the engine's speed.

    At most *queue_items* texts wait for the engine, whatever their cost: a bound on memory. It
    decodes *batch_items* at the same time. A text over one of the *limits* costs nothing: the
    engine refuses it at once.
    """

    def __init__(self, queue_items: int, batch_items: int, limits: Limits) -> None:
        self._queue_items = queue_items
        self._batch_items = batch_items
        self._limits = limits
        # Written on the event loop.
        self._admitted_items = 0
        self._admitted_cost = 0
        self._prefixes: dict[int, None] = {}
        # Written on the engine's thread.
        self._ended_items = 0
        self._ended_cost = 0
        self._done = FIRST_RATE * FIRST_SECONDS
        self._busy = FIRST_SECONDS
        self.rate = FIRST_RATE  # cost that the engine finishes in a busy second

    def admit(self, queries: Sequence[Query], cache_salt: str, seconds: float) -> list[int]:
        """Admit one request that has *seconds* until its deadline. Called on the event loop.

        Return the cost of each query; hand each to `end` when the query has ended.

        Raises:
            TooManyRequests: it would have to wait too long; nothing is counted.
        """
        costs = [self._estimate(query, cache_salt) for query in queries]
        cost, wait = sum(costs), self.wait_seconds
        if self.waiting + len(costs) > self._queue_items:
            detail = f"the queue is full: {self.waiting} of {self._queue_items} texts wait"
            raise TooManyRequests("queue_full", detail, min(MAX_RETRY_SECONDS, wait))
        # An idle engine accepts anything: else a wrong guess of the speed would never be corrected.
        adds = cost / self.rate
        if wait and wait + adds > HEADROOM * seconds:
            work = f"{wait:.1f} s of work are waiting and it adds {adds:.1f} s"
            detail = f"it would miss its deadline: {work}"
            raise TooManyRequests("deadline", detail, min(MAX_RETRY_SECONDS, wait))
        self._admitted_items += len(costs)
        self._admitted_cost += cost
        for query in queries:
            self._remember(query, cache_salt)
        return costs

    def end(self, cost: int) -> None:
        """Report that one text has ended in any way. Called on the engine's thread."""
        self._ended_items += 1
        self._ended_cost += cost

    def measure(self, cost: int, seconds: float) -> None:
        """Report the cost finished in the last busy *seconds*. Called on the engine's thread."""
        kept = math.exp(-seconds / MEMORY_SECONDS)
        self._done = self._done * kept + cost
        self._busy = self._busy * kept + seconds
        self.rate = max(1.0, self._done / self._busy)

    @property
    def waiting(self) -> int:
        """Number of texts beyond those that the engine decodes at the same time."""
        return max(0, self._admitted_items - self._ended_items - self._batch_items)

    @property
    def cost(self) -> int:
        """Cost of all texts that wait or are being decoded."""
        return self._admitted_cost - self._ended_cost

    @property
    def wait_seconds(self) -> float:
        """Estimated seconds until all admitted work has ended."""
        return self.cost / self.rate

    def _estimate(self, query: Query, cache_salt: str) -> int:
        length = len(query.text)
        if length > self._limits.characters:
            return 1
        if isinstance(query, ScoreQuery):
            return SCORE + SCORE_CHARACTER * length
        if len(query.history) > self._limits.history:
            return 1
        if isinstance(query, ClozeQuery):
            cost = self._estimate_blanks(query) + CLOZE_CHARACTER * length
        else:
            cached = self._cached_length(query.text, cache_salt)
            cost = PREDICT + PREDICT_CHARACTER * (length - cached)
        if query.history and hash((cache_salt, query.history)) not in self._prefixes:
            cost += len(query.history) // HISTORY_CHARACTERS_PER_MICROSECOND
        return cost

    def _estimate_blanks(self, query: ClozeQuery) -> int:
        text, marker = query.text, query.blank
        found = text.count(marker) if marker else sum(len(each.findall(text)) for each in _MARKERS)
        blanks = max(1, found)
        if blanks > self._limits.blanks:
            return 1
        if not query.choices:
            return OPEN_BLANK if blanks == 1 else JOINT_BLANK * blanks
        shared = isinstance(query.choices[0], str)
        choices = blanks * len(query.choices) if shared else sum(map(len, query.choices))
        cost = CHOSEN_BLANK * blanks + CHOICE * choices
        return cost if blanks == 1 else 2 * cost

    def _cached_length(self, text: str, cache_salt: str) -> int:
        """Return how many code points at the start of *text* have come before with this salt."""
        end = len(text) // BLOCK * BLOCK
        for length in (end, end - BLOCK):
            if length > 0 and hash((cache_salt, text[:length])) in self._prefixes:
                return length
        return 0

    def _remember(self, query: Query, cache_salt: str) -> None:
        if isinstance(query, ScoreQuery):
            return
        for prefix in (query.text[: len(query.text) // BLOCK * BLOCK], query.history):
            if prefix:
                key = hash((cache_salt, prefix))
                self._prefixes.pop(key, None)  # the newest is last
                self._prefixes[key] = None
                if len(self._prefixes) > MAX_PREFIXES:
                    del self._prefixes[next(iter(self._prefixes))]
