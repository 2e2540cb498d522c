"""All that both clients share: settings, requests, answers, and which failures are tried again."""

import random
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, Generic, TypeVar

import httpx

from lacuna_client.contract import Problem, read

A = TypeVar("A")
# Questions change nothing, so they may be sent twice. Not after a read timeout: the service has too
# much work already.
_RETRIED = (httpx.NetworkError, httpx.RemoteProtocolError, httpx.ConnectTimeout)
_UNREADABLE = "not an answer of Lacuna; check the address, and any proxy"


@dataclass(eq=False)
class Settings:
    """The settings of a client.

    Attributes:
        tries: maximum for a question; another one follows 429, 503 and a lost connection.
        timeout_seconds: limit of each step of a try: connect, send, read.
        total_seconds: limit from the first try to the start of the last one.
    """

    address: str
    _: KW_ONLY
    key: str | None = field(default=None, repr=False)
    tries: int = 3
    timeout_seconds: float = 30
    total_seconds: float = 60
    clock: Callable[[], float] = time.monotonic

    def connection(self) -> dict[str, Any]:
        """Return the arguments of a client of httpx."""
        headers = {"Authorization": f"Bearer {self.key}"} if self.key else {}
        return {"base_url": self.address, "headers": headers}


class Exchange(Generic[A]):
    """One question and its tries. A client sleeps for *pause_seconds* and sends *request*."""

    def __init__(
        self, settings: Settings, form: type[A], path: str, body: Mapping[str, object] | None
    ) -> None:
        self._settings, self._form, self._failures = settings, form, 0
        self._end = settings.clock() + settings.total_seconds
        self.pause_seconds = 0.0
        self.request: dict[str, Any] = {"method": "POST" if body else "GET", "url": path}
        timeout = min(settings.timeout_seconds, settings.total_seconds)
        self.request |= {"json": body, "timeout": timeout}

    def answered(self, response: httpx.Response) -> A | None:
        """Return the answer, or None before another try; raise any other `Problem`."""
        header = response.headers.get("Retry-After", "")  # seconds; dates are not obeyed
        seconds = float(header) if re.fullmatch("[0-9]+", header) else None
        timing = re.findall(r"([\w-]+);dur=([\d.]+)", response.headers.get("Server-Timing", ""))
        # A proxy's errors may be JSON as well, of another form.
        document: dict[str, Any] = {"title": response.reason_phrase, "detail": _UNREADABLE}
        try:
            document |= response.json()
            document |= {"status": response.status_code, "retry_after": seconds}
            document["timing_ms"] = {name: float(ms) for name, ms in timing}
            answer = read(self._form if response.is_success else Problem, document)
        except (TypeError, ValueError):
            answer = Problem(response.status_code, response.reason_phrase, _UNREADABLE)
            answer.retry_after = seconds
        if isinstance(answer, Problem):
            self._pause_or_raise(answer, answer.status in (429, 503), seconds)
            return None
        return answer  # type: ignore[no-any-return]

    def failed(self, error: httpx.TransportError) -> None:
        """Prepare another try, or raise *error*."""
        self._pause_or_raise(error, isinstance(error, _RETRIED), None)

    def _pause_or_raise(self, failure: Exception, is_retried: bool, least: float | None) -> None:
        self._failures += 1
        least = 0.25 * 2**self._failures if least is None else least
        # Clients that failed together must not come back together.
        self.pause_seconds = least * random.uniform(1, 1.25)  # noqa: S311
        left = self._end - self._settings.clock() - self.pause_seconds
        if not is_retried or self._failures >= self._settings.tries or left <= 0:
            raise failure
        self.request["timeout"] = min(self._settings.timeout_seconds, left)
