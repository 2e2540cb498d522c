"""What is known about one request while it is answered: filled in along the way, logged and measured at its end."""

import random
import re
import time

from starlette.types import Scope

from service.admission import Allowance

ROUTES = (
    "/predict", "/cloze", "/score", "/model", "/livez", "/readyz", "/metrics", "/docs", "/openapi.json",
    "/admin/reload",
)  # fmt: skip
UNMATCHED = "unmatched"
_KEY = "lacuna.request"
_UNLIMITED = Allowance((0, 0))
# Ids must differ, not be hard to guess; asking the system for each would cost more than the rest of the record.
_ids = random.Random()  # noqa: S311
REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
# W3C Trace Context, 3.2: version-trace-parent-flags. Version ff is none, 00 ends after the flags, a later one may go on
# after a hyphen; zeros alone are no id.
_TRACEPARENT = re.compile(
    rb"(?!ff|00.{53}.)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(?:-.*)?"
)


def new_id() -> str:
    """An id for a request that has none of its own: 32 hexadecimal digits."""
    return f"{_ids.getrandbits(128):032x}"


class RequestContext:
    """One request's identity and measurements.

    Attributes:
        request_id: the client's own ``X-Request-Id`` where it is well formed, else a new one.
        trace_id: of the client's ``traceparent``, 32 hexadecimal digits; empty where there is none, or no valid one.
        route: one of `ROUTES` or `UNMATCHED`: a closed set, since it labels metrics.
        began: monotonic seconds.
        status: HTTP status of the answer; 0 until known.
        items: texts in the request.
        tokens, cached_tokens: what its texts came to, and what of it the cache knew; None where it was not answered.
        tenant: the name of the key that asks; empty without keys. Names what the cache keeps apart; logged as ``key``.
        allowance: what that key may still send; unlimited until it is known.
        queue_seconds, inference_seconds: as the engine measured them; None where it was not asked.
    """

    __slots__ = (
        "allowance",
        "began",
        "cached_tokens",
        "inference_seconds",
        "items",
        "queue_seconds",
        "request_id",
        "route",
        "status",
        "tenant",
        "tokens",
        "trace_id",
    )  # fmt: skip

    def __init__(self, scope: Scope) -> None:
        self.began = time.monotonic()
        self.request_id, self.trace_id = _ids_of(scope)
        self.route = scope["path"] if scope["path"] in ROUTES else UNMATCHED
        self.status = 0
        self.items = 0
        self.tokens: int | None = None
        self.cached_tokens: int | None = None
        self.tenant = ""
        self.allowance = _UNLIMITED
        self.queue_seconds: float | None = None
        self.inference_seconds: float | None = None
        scope[_KEY] = self

    @classmethod
    def of(cls, scope: Scope) -> "RequestContext":
        """The context of the request that *scope* belongs to."""
        context: RequestContext = scope[_KEY]
        return context

    @property
    def identity(self) -> dict[str, object]:
        """The fields that tell a request's log lines from those of others, here and in other services."""
        ids: dict[str, object] = {"request_id": self.request_id}
        if self.trace_id:
            ids["trace_id"] = self.trace_id
        return ids

    @property
    def server_timing(self) -> str:
        """The ``Server-Timing`` header (milliseconds), empty where the engine was not asked."""
        if self.queue_seconds is None or self.inference_seconds is None:
            return ""
        return f"queue;dur={1000 * self.queue_seconds:.3f}, inference;dur={1000 * self.inference_seconds:.3f}"


def _ids_of(scope: Scope) -> tuple[str, str]:
    """The request's id and that of its trace."""
    request_id, parents = "", []
    for name, value in scope["headers"]:
        if name == b"x-request-id" and not request_id and REQUEST_ID.fullmatch(value):
            request_id = str(value, "ascii")
        elif name == b"traceparent":
            parents.append(value)
    # Of two parents neither can be believed.
    found = _TRACEPARENT.fullmatch(parents[0].strip()) if len(parents) == 1 else None
    return request_id or new_id(), str(found[1], "ascii") if found else ""
