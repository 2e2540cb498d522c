"""What is known about one request while it is answered: filled in along the way, logged and measured at its end."""

import random
import re
import time

from starlette.types import Scope

from service.rates import Allowance

ROUTES = (
    "/predict", "/cloze", "/score", "/model", "/livez", "/readyz", "/metrics", "/docs", "/openapi.json",
    "/admin/reload", "/admin/rollback",
)  # fmt: skip
UNMATCHED = "unmatched"
_KEY = "lacuna.record"
# Ids must differ, not be hard to guess; asking the system for each would cost more than the rest of the record.
_ids = random.Random()  # noqa: S311
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")


class Record:
    """One request's identity and measurements.

    Attributes:
        request_id: the client's own ``X-Request-Id`` where it is well formed, else a new one.
        route: one of `ROUTES` or `UNMATCHED`: a closed set, since it labels metrics.
        began: monotonic seconds.
        status: HTTP status of the answer; 0 until known.
        items: texts in the request.
        tenant: the name of the key that asks; empty without keys. Names what the cache keeps apart; logged as ``key``.
        allowance: what that key may still send; None where nothing is counted.
        queue_seconds, inference_seconds: as the engine measured them; None where it was not asked.
    """

    __slots__ = (
        "allowance", "began", "inference_seconds", "items", "queue_seconds", "request_id", "route", "status", "tenant",
    )  # fmt: skip

    def __init__(self, scope: Scope) -> None:
        self.began = time.monotonic()
        self.request_id = _request_id(scope)
        self.route = scope["path"] if scope["path"] in ROUTES else UNMATCHED
        self.status = 0
        self.items = 0
        self.tenant = ""
        self.allowance: Allowance | None = None
        self.queue_seconds: float | None = None
        self.inference_seconds: float | None = None
        scope[_KEY] = self

    @classmethod
    def of(cls, scope: Scope) -> "Record":
        """The record of the request that *scope* belongs to."""
        record: Record = scope[_KEY]
        return record

    @property
    def server_timing(self) -> str:
        """The ``Server-Timing`` header (milliseconds), empty where the engine was not asked."""
        if self.queue_seconds is None or self.inference_seconds is None:
            return ""
        return f"queue;dur={1000 * self.queue_seconds:.3f}, inference;dur={1000 * self.inference_seconds:.3f}"


def _request_id(scope: Scope) -> str:
    for name, value in scope["headers"]:
        if name == b"x-request-id" and _REQUEST_ID.fullmatch(value):
            return str(value, "ascii")
    return f"{_ids.getrandbits(128):032x}"
