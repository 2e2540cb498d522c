"""How much one key may send: texts and characters a minute, as token buckets. Knows neither keys nor HTTP."""

import math
import time
from collections.abc import Callable
from typing import Literal


class RateExceeded(Exception):  # noqa: N818 - a state, not a fault
    """A key has sent as much as it may for now; the message says which limit, and its size.

    Args:
        reason: `rate_requests` or `rate_characters`.
        retry_after: whole seconds after which the same request would be taken.
    """

    def __init__(
        self, reason: Literal["rate_requests", "rate_characters"], detail: str, retry_after: int
    ) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail
        self.retry_after = retry_after


class Bucket:
    """Holds what may be taken at once, at most a minute's worth, and fills evenly.

    A full bucket gives out anything, also more than it holds, and then owes: a large request is neither impossible nor
    free, and in the long run nobody gets more than the rate.

    Args:
        per_minute: how much flows in; 0 means without limit.
        now: seconds of any clock; so are the arguments of that name below.
    """

    __slots__ = ("_level", "_updated", "per_minute")

    def __init__(self, per_minute: int, now: float) -> None:
        self.per_minute = per_minute
        self._level = float(per_minute)
        self._updated = now

    def wait(self, amount: int, now: float) -> float:
        """Seconds until *amount* can be taken; 0 where it can."""
        if not self.per_minute:
            return 0.0
        filled = self._level + (now - self._updated) * self.per_minute / 60
        self._level, self._updated = min(float(self.per_minute), filled), now
        return max(0.0, (min(amount, self.per_minute) - self._level) * 60 / self.per_minute)

    def take(self, amount: int) -> None:
        """Take *amount*, right after `wait` has answered 0 for it."""
        self._level -= amount


class Allowance:
    """What one key may send. Used on the event loop only.

    Args:
        texts_per_minute: texts, each of a list counted; 0 means without limit.
        characters_per_minute: code points of texts, history and choices; 0 means without limit.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        texts_per_minute: int,
        characters_per_minute: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.clock = clock
        self._texts = Bucket(texts_per_minute, clock())
        self._characters = Bucket(characters_per_minute, clock())

    @property
    def limits(self) -> tuple[int, int]:
        """Texts and characters a minute."""
        return self._texts.per_minute, self._characters.per_minute

    def check(self, texts: int, characters: int) -> None:
        """Refuse what exceeds a limit. Nothing is charged.

        Raises:
            RateExceeded: with the limit for which it has to wait longer.
        """
        now = self.clock()
        waits = self._texts.wait(texts, now), self._characters.wait(characters, now)
        if not any(waits):
            return
        retry_after = max(1, math.ceil(max(waits)))
        if waits[0] >= waits[1]:
            limit = f"{self._texts.per_minute} texts a minute, each text of a list counted"
            raise RateExceeded(
                "rate_requests", f"the limit is {limit}; come back in {retry_after} s", retry_after
            )
        limit = f"{self._characters.per_minute} characters a minute, of texts, history and choices"
        raise RateExceeded(
            "rate_characters", f"the limit is {limit}; come back in {retry_after} s", retry_after
        )

    def charge(self, texts: int, characters: int) -> None:
        """Count a request that `check` let through and that was taken."""
        self._texts.take(texts)
        self._characters.take(characters)
