"""Admission: the rate of a key, and the work that the engine can do in time.

Work is estimated before anything is decoded (estimate.py). The speed of this machine, in estimated
work per busy second, is measured all the time, so only proportions matter
(docs/decisions/0012-admission.md). Every tenant, the owner of a key, has a share of the engine and
of the places to wait, and is refused for its own work only.

The event loop admits, and the engine's thread reports what has ended. Each number has one writer,
so no lock is needed.
"""

import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from model.completions import CompletionQuery
from model.queries import ClozeQuery, Query, ScoreQuery
from service.estimate import Work

# Share of the time to the deadline that admitted work may fill. The rest covers wrong estimates.
HEADROOM = 0.5
# First guess of the speed, in estimated microseconds per second: a quarter of the reference
# machine's. If it is too low, the first texts correct it; if it is too high, requests are admitted
# that are then late.
FIRST_RATE = 250_000.0
# Busy seconds that the first guess weighs, and busy seconds after which a measurement weighs 1/e.
FIRST_SECONDS = 0.25
MEMORY_SECONDS = 5.0
MAX_RETRY_SECONDS = 30
# Bytes of all texts, histories and choices in the engine, as Python strings.
MAX_BYTES = 32 << 20
# Bytes of a token id: a reference and an object.
TOKEN_BYTES = 36
# One of several tenants may hold so much of what is free.
SHARE = 0.5

Reason = Literal["queue_full", "deadline", "rate_requests", "rate_work", "bodies"]


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

    *limits* are texts and seconds of estimated work per minute; 0 means no limit.
    """

    def __init__(self, limits: tuple[int, int] = (0, 0)) -> None:
        self.limits = limits
        self._levels = [float(limit) for limit in limits]
        self._updated = time.monotonic()

    def charge(self, texts: int, work_seconds: float) -> None:
        """Charge a request, or refuse it and charge nothing.

        Raises:
            TooManyRequests: names the limit for which the request has to wait longer.
        """
        if self.limits == (0, 0):
            return
        now = time.monotonic()
        minutes, self._updated = (now - self._updated) / 60, now
        amounts, waits = (texts, work_seconds), [0.0, 0.0]
        for kind, limit in enumerate(self.limits):
            if limit:
                level = min(float(limit), self._levels[kind] + minutes * limit)
                self._levels[kind] = level
                waits[kind] = max(0.0, (min(amounts[kind], limit) - level) * 60 / limit)
        if any(waits):
            kind = waits.index(max(waits))
            reason: Reason = ("rate_requests", "rate_work")[kind]
            unit = ("texts", "seconds of work")[kind]
            detail = f"the limit is {self.limits[kind]} {unit} per minute"
            raise TooManyRequests(reason, detail, max(waits))
        self._levels[0] -= texts
        self._levels[1] -= work_seconds

    def refund(self, texts: int, work_seconds: float) -> None:
        """Give back what `charge` took, for a request that the engine refused."""
        self._levels[0] += texts
        self._levels[1] += work_seconds


@dataclass(slots=True, eq=False)
class Share:
    """The texts, their work and their bytes that were admitted, and those that have ended."""

    # Written on the event loop.
    admitted_items: int = 0
    admitted_cost: int = 0
    admitted_bytes: int = 0
    # Written on the engine's thread.
    ended_items: int = 0
    ended_cost: int = 0
    ended_bytes: int = 0

    @property
    def items(self) -> int:
        """Number of texts that wait or are being decoded."""
        return self.admitted_items - self.ended_items

    @property
    def cost(self) -> int:
        """Estimated work of these texts, in microseconds of the reference machine."""
        return self.admitted_cost - self.ended_cost

    @property
    def bytes(self) -> int:
        """Bytes of these texts, with their histories and choices."""
        return self.admitted_bytes - self.ended_bytes


class Admission:
    """Counts the work that was admitted and has not ended, and measures the engine's speed.

    At most *queue_items* texts wait for the engine, whatever their cost: a bound on memory. It
    decodes *batch_items* at the same time. If *is_shared* returns True there are several tenants.
    Then each may hold half as many places, and bytes, as are free, so that there are always some
    for another one (dynamic thresholds: Choudhury and Hahne 1998).
    """

    def __init__(
        self,
        queue_items: int,
        batch_items: int,
        is_shared: Callable[[], bool] = lambda: False,
    ) -> None:
        self._places = queue_items + batch_items
        self._batch_items = batch_items
        self.is_shared = is_shared
        self._all = Share()
        self._shares: dict[str, Share] = {}  # by tenant; kept, since there are only as many as keys
        # Written on the engine's thread.
        self.active_tenants = 0  # with texts in the engine
        self._done = FIRST_RATE * FIRST_SECONDS
        self._busy = FIRST_SECONDS
        self._measured = -math.inf  # monotonic seconds
        self.rate = FIRST_RATE  # estimated microseconds that the engine finishes in a busy second

    def admit(
        self,
        queries: Sequence[Query],
        works: Sequence[Work],
        tenant: str,
        seconds: float,
    ) -> int:
        """Admit one request that has *seconds* until its deadline. Called on the event loop.

        *works* are the estimates of its texts.

        Return the bytes that each text counts for; hand them to `end` when the text has ended.

        Raises:
            TooManyRequests: it would have to wait too long; nothing is counted.
        """
        own = self._shares.get(tenant) or self._shares.setdefault(tenant, Share())
        items, size = len(works), size_of(queries)
        cost = sum([work.total for work in works])
        # Everybody with texts in the engine gets the same share of its time.
        rate = self.rate / max(1, self.active_tenants + (own.items == 0))
        wait, adds = own.cost / rate, cost / rate
        retry = min(MAX_RETRY_SECONDS, wait)
        self._check_places(own, items, size, retry)
        if wait and wait + adds > HEADROOM * seconds:
            work = f"{wait:.1f} s of work are waiting and it adds {adds:.1f} s"
            raise TooManyRequests("deadline", f"it would miss its deadline: {work}", retry)
        # An old measurement may be wrong: one request in a while may try.
        known = time.monotonic() < self._measured + MAX_RETRY_SECONDS
        if adds > seconds and known:
            detail = f"it would take {adds:.1f} s and miss its deadline; send less at once"
            raise TooManyRequests("deadline", detail, MAX_RETRY_SECONDS)
        for share in (own, self._all):
            share.admitted_items += items
            share.admitted_cost += cost
            share.admitted_bytes += items * (size // items)
        return size // items

    def _check_places(self, own: Share, items: int, size: int, retry: float) -> None:
        """Refuse a request for which no places, or too few bytes, are left."""
        taken = self._all
        shared = self.is_shared()
        if taken.items + items > self._places:
            places = self._places - self._batch_items
            detail = f"the queue is full: {self.waiting} of {places} texts wait"
        elif shared and own.items and own.items + items > SHARE * (self._places - taken.items):
            detail = f"the queue is full: {own.items} texts of this key are in it"
        elif taken.items and taken.bytes + size > MAX_BYTES:
            detail = f"the queue is full: its texts have {taken.bytes} of {MAX_BYTES} bytes"
        elif shared and own.items and own.bytes + size > SHARE * (MAX_BYTES - taken.bytes):
            detail = f"the queue is full: its texts of this key have {own.bytes} bytes"
        else:
            return
        raise TooManyRequests("queue_full", detail, retry)

    def end(self, tenant: str, cost: int, size: int) -> None:
        """Report that one text has ended in any way. Called on the engine's thread."""
        for share in (self._shares[tenant], self._all):
            share.ended_items += 1
            share.ended_cost += cost
            share.ended_bytes += size

    def measure(self, cost: int, seconds: float) -> None:
        """Report finished texts and the busy *seconds* they took. Called on the engine's thread."""
        kept = math.exp(-seconds / MEMORY_SECONDS)
        self._done = self._done * kept + cost
        self._busy = self._busy * kept + seconds
        self.rate = max(1.0, self._done / self._busy)
        self._measured = time.monotonic()

    @property
    def waiting(self) -> int:
        """Number of texts beyond those that the engine decodes at the same time."""
        return max(0, self._all.items - self._batch_items)

    @property
    def cost(self) -> int:
        """Estimated work of all texts that wait or are being decoded."""
        return self._all.cost

    @property
    def wait_seconds(self) -> float:
        """Estimated seconds until all admitted work has ended."""
        return self.cost / self.rate


def size_of(queries: Sequence[Query]) -> int:
    """Return the bytes of the strings of one request, whose queries share all but their texts."""
    first = queries[0]
    strings = [query.text for query in queries]
    if isinstance(first, ScoreQuery):
        strings.append(first.context)
    elif isinstance(first, CompletionQuery):
        strings += first.stop
        tokens = sum([len(query.tokens) for query in queries if isinstance(query, CompletionQuery)])
        return sum(map(sys.getsizeof, strings)) + TOKEN_BYTES * tokens
    else:
        strings += [first.history, *first.block, *[each.word for each in first.lexicon]]
    if isinstance(first, ClozeQuery) and first.choices is not None:
        for choice in first.choices:
            strings += [choice] if isinstance(choice, str) else choice
    return sum(map(sys.getsizeof, strings))
