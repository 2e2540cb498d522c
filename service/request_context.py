"""The context of one request: identity and measurements, logged at its end."""

import random
import re
import time
from dataclasses import dataclass, field

from starlette.types import Scope

from service.admission import Allowance

ROUTES = (
    "/predict", "/cloze", "/score", "/model", "/livez", "/readyz", "/metrics", "/docs",
    "/openapi.json", "/admin/reload",
)  # fmt: skip
UNMATCHED = "unmatched"
_KEY = "lacuna.request"
_UNLIMITED = Allowance((0, 0))
# Ids must differ, but need not be hard to guess; asking the system for each costs more.
_ids = random.Random()  # noqa: S311
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
# W3C Trace Context, 3.2: version-trace-parent-flags. Version ff and ids of zeros are invalid. Only
# versions above 00 may go on after the flags.
_TRACEPARENT = re.compile(
    rb"(?!ff|00.{53}.)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(?:-.*)?"
)


@dataclass(slots=True)
class RequestContext:
    """One request.

    Attributes:
        route: one of `ROUTES` or `UNMATCHED`: a closed set, since it labels metrics.
        request_id: the client's ``X-Request-Id`` if it is well formed, else a new one.
        trace_id: of the client's ``traceparent``, 32 hexadecimal digits; empty without a valid one.
        tenant: name of the key; empty without keys. Tenants share no cache. Logged as ``key``.
        allowance: what that key may still send.
        began: monotonic seconds.
        status: HTTP status of the answer; 0 until known.
        items: number of texts.
        tokens, cached_tokens: of an answer; None without one.
        queue_seconds, inference_seconds: as the engine measured them; None if it was not asked.
    """

    route: str
    request_id: str
    trace_id: str = ""
    tenant: str = ""
    allowance: Allowance = _UNLIMITED
    began: float = field(default_factory=time.monotonic)
    status: int = 0
    items: int = 0
    tokens: int | None = None
    cached_tokens: int | None = None
    queue_seconds: float | None = None
    inference_seconds: float | None = None

    @classmethod
    def begin(cls, scope: Scope) -> "RequestContext":
        """Make the context of a new request; `of` finds it again."""
        request_id, parents = "", []
        for name, value in scope["headers"]:
            if name == b"x-request-id" and not request_id and _REQUEST_ID.fullmatch(value):
                request_id = str(value, "ascii")
            elif name == b"traceparent":
                parents.append(value)
        # Of two parents neither is trusted.
        trace = _TRACEPARENT.fullmatch(parents[0].strip()) if len(parents) == 1 else None
        path: str = scope["path"]
        scope[_KEY] = context = cls(
            path if path in ROUTES else UNMATCHED,
            request_id or f"{_ids.getrandbits(128):032x}",
            str(trace[1], "ascii") if trace else "",
        )
        return context

    @classmethod
    def of(cls, scope: Scope) -> "RequestContext":
        """Return the context of the request that *scope* belongs to."""
        context: RequestContext = scope[_KEY]
        return context

    @property
    def identity(self) -> dict[str, object]:
        """The log fields that identify the request, here and in other services."""
        ids: dict[str, object] = {"request_id": self.request_id}
        return ids | {"trace_id": self.trace_id} if self.trace_id else ids

    @property
    def server_timing(self) -> str:
        """The ``Server-Timing`` header, in milliseconds; empty if the engine was not asked."""
        if self.queue_seconds is None or self.inference_seconds is None:
            return ""
        queue, inference = 1000 * self.queue_seconds, 1000 * self.inference_seconds
        return f"queue;dur={queue:.3f}, inference;dur={inference:.3f}"
