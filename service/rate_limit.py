"""Limits on what one key may send per minute, as token buckets. Knows neither keys nor HTTP."""

import math
import time
from collections.abc import Callable
from typing import Literal

Reason = Literal["queue_full", "deadline", "rate_requests", "rate_characters"]


class TooManyRequests(Exception):  # noqa: N818 - a state, not a fault
    """A request is refused for now; *retry_after* is in whole seconds, *reason* labels a metric."""

    def __init__(self, reason: Reason, detail: str, retry_after: int) -> None:
        self.reason = reason
        self.detail = f"{detail}; retry after {retry_after} s"
        self.retry_after = retry_after
        super().__init__(self.detail)


class Allowance:
    """What one key may still send. Used on the event loop only.

    A full bucket may go into debt, so a request larger than one minute's quota succeeds once and is
    then paid back.

    Args:
        limits: texts and characters per minute; 0 means no limit.
        clock: monotonic seconds.
    """

    def __init__(
        self, limits: tuple[int, int], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.limits = limits
        self.clock = clock
        self._levels = [float(limit) for limit in limits]
        self._updated = clock()

    def charge(self, texts: int, characters: int) -> None:
        """Charge a request, or refuse it and charge nothing.

        Args:
            texts: each text of a list is counted.
            characters: code points of texts, history and choices.

        Raises:
            TooManyRequests: names the limit for which the request has to wait longer.
        """
        now = self.clock()
        minutes, self._updated = (now - self._updated) / 60, now
        waits = [0.0, 0.0]  # minutes
        for kind, (limit, amount) in enumerate(zip(self.limits, (texts, characters), strict=True)):
            if limit:
                level = min(float(limit), self._levels[kind] + minutes * limit)
                self._levels[kind] = level
                waits[kind] = max(0.0, (min(amount, limit) - level) / limit)
        if any(waits):
            kind = waits.index(max(waits))
            reason: Reason = ("rate_requests", "rate_characters")[kind]
            detail = f"the limit is {self.limits[kind]} {('texts', 'characters')[kind]} per minute"
            raise TooManyRequests(reason, detail, max(1, math.ceil(60 * max(waits))))
        self.refund(-texts, -characters)

    def refund(self, texts: int, characters: int) -> None:
        """Give back what `charge` took, for a request that the engine refused."""
        self._levels[0] += texts
        self._levels[1] += characters
