"""The ASGI app in front of every route: access, errors, log and metrics."""

import asyncio
import logging
import math
import random
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Annotated

from fastapi import Depends, FastAPI
from fastapi.middleware.asyncexitstack import AsyncExitStackMiddleware
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from model.queries import Usage
from service.admission import Allowance, TooManyRequests
from service.auth import Client, KeyRing
from service.errors import CLIENT_CLOSED, Problem, as_problem, problem_response
from service.logs import REQUESTS, format_exception, log_request
from service.metrics import ROUTES, UNMATCHED
from service.pages import PAGES
from service.settings import Settings, is_address, is_loopback

if TYPE_CHECKING:
    from service.routes import AppState

log = logging.getLogger(__name__)

# Probes carry no keys, and a browser can send none with a page.
OPEN_ROUTES = frozenset({"/livez", "/readyz", "/docs", "/openapi.json", *PAGES})
# Probes use the address of a container, which has no name.
ANY_HOST = frozenset({"/livez", "/readyz"})
METRICS = "/metrics"
ADMIN = "/admin/"
MODELS = "/v1/models/"
# Of two, a proxy could check one and the service the other.
_SENT_ONCE = (b"host", b"authorization", b"content-type", b"content-encoding")
COARSE_MS = 10  # step of Server-Timing without keys
_NOT_ADMIN = "send an administrator's key: lacuna keys new NAME --admin"
_NO_METRICS = (
    "send a key that may read metrics (lacuna keys new NAME --metrics), or set metrics_port"
)
_NO_ADMIN = (
    "set keys_file and send an administrator's key: lacuna keys new NAME --admin; "
    "whoever may signal the process can reload with SIGHUP"
)
# RFC 9110, 7.2: a name or an address, in brackets if it has colons, and perhaps a port.
_HOST = re.compile(r"(?:\[([0-9a-f:.]+)\]|([^\s:\[\]/]+?)\.?)(?::[0-9]*)?")
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
# W3C Trace Context, 3.2: version-trace-parent-flags. Version ff and ids of zeros are invalid. Only
# versions above 00 may go on after the flags.
_TRACEPARENT = re.compile(
    rb"(?!ff|00.{53}.)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(?:-.*)?"
)
# Ids must differ, but need not be hard to guess; asking the system for each costs more.
_ids = random.Random()  # noqa: S311
_NOBODY = Client("", Allowance())


@dataclass(slots=True)
class RequestContext:
    """One request: its identity, and the figures that are logged and counted at its end."""

    state: "AppState"
    receive: Receive
    route: str  # one of `ROUTES` or `UNMATCHED`: a closed set, since it labels metrics
    headers: dict[bytes, bytes]  # by name in lower case; the last one of each name
    request_id: str  # the client's X-Request-Id if it is well formed, else a new one
    trace_id: str  # of the client's traceparent, 32 hexadecimal digits; empty without a valid one
    client: Client = _NOBODY  # the owner of the key
    began: float = field(default_factory=time.monotonic)  # seconds
    status: int = 0  # HTTP status of the answer; 0 until known
    items: int = 0  # number of texts
    usage: Usage | None = None  # of an answer; None without one
    # Seconds in the engine's queue, and of its work; empty if it was not asked.
    timing: tuple[float, ...] = ()

    @classmethod
    def begin(cls, scope: Scope, receive: Receive, state: "AppState") -> "RequestContext":
        """Make the context of a new request; `of` finds it again."""
        route, headers = scope["path"], dict(scope["headers"])
        if route not in ROUTES:
            shown = (f"{MODELS}{{id}}", MODELS), ("/hf/fill-mask", "/models/")
            route = next((name for name, start in shown if route.startswith(start)), UNMATCHED)
        request_id, trace = headers.get(b"x-request-id"), headers.get(b"traceparent")
        known = request_id and _REQUEST_ID.fullmatch(request_id)
        traced = trace and _TRACEPARENT.fullmatch(trace.strip())
        scope["lacuna.request"] = context = cls(
            state,
            receive,
            route,
            headers,
            known[0].decode() if known else f"{_ids.getrandbits(128):032x}",
            traced[1].decode() if traced else "",
        )
        return context

    @classmethod
    def of(cls, scope: Scope) -> "RequestContext":
        """Return the context of the request that *scope* belongs to."""
        context: RequestContext = scope["lacuna.request"]
        return context

    @property
    def identity(self) -> dict[str, object]:
        """The log fields that identify the request, here and in other services."""
        trace = {"trace_id": self.trace_id} if self.trace_id else {}
        return {"request_id": self.request_id, **trace}


async def _context(request: Request) -> RequestContext:
    return RequestContext.of(request.scope)


# Routes take it as a parameter, which the OpenAPI document does not show.
Context = Annotated[RequestContext, Depends(_context)]


class Front:
    """Make a request's context, check its access, answer it, and log and count it at its end.

    Questions go straight to their *answers*, by path: FastAPI's layers and router cost more than
    all of this, and Starlette's BaseHTTPMiddleware hides that a client hung up.
    """

    def __init__(
        self, app: FastAPI, answers: Mapping[str, ASGIApp], state: "AppState", keys: KeyRing
    ) -> None:
        self._app, self._answers, self._state = app, answers, state
        # Without Starlette's handlers of exceptions, which are answered here.
        self._routes = AsyncExitStackMiddleware(app.router)
        self._access = Access(keys, state.settings)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        scope["app"] = self._app
        if scope["type"] != "http":
            await self._routes(scope, receive, send)
            return
        context = RequestContext.begin(scope, receive, self._state)

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                context.status = message["status"]
                headers = [*message["headers"], (b"x-request-id", context.request_id.encode())]
                if context.timing:
                    headers.append((b"server-timing", _server_timing(context).encode()))
                message = {**message, "headers": headers}
            await send(message)

        try:
            self._access.check(scope, context)
            answer = self._answers.get(scope["path"]) if scope["method"] == "POST" else None
            await (answer or self._routes)(scope, receive, send_with_headers)
        except ClientDisconnect as error:
            forget_frames(error)
        except (Exception, asyncio.CancelledError) as error:
            if isinstance(error, TooManyRequests):
                self._state.metrics.refused(error.reason)
            problem = as_problem(error)
            log_failure(problem, error, context)
            if context.status:  # the answer has begun; it cannot become another one
                raise
            response = problem_response(problem, context.request_id, scope["path"])
            await response(scope, receive, send_with_headers)
            forget_frames(error)
        finally:
            self._finish(context)
            del scope["lacuna.request"]  # the context knows `receive`, and that the scope: a cycle

    def _finish(self, context: RequestContext) -> None:
        """Count a request, and log it at level info."""
        seconds = time.monotonic() - context.began
        context.status = context.status or CLIENT_CLOSED
        self._state.metrics.finished(context, seconds)
        if not REQUESTS.isEnabledFor(logging.INFO):
            return
        fields = context.identity | {
            "route": context.route,
            "status": context.status,
            "milliseconds": round(1000 * seconds, 3),
            "items": context.items,
        }
        if context.client.name:
            fields["key"] = context.client.name
        if context.timing:
            queue, inference = context.timing
            fields["queue_milliseconds"] = round(1000 * queue, 3)
            fields["inference_milliseconds"] = round(1000 * inference, 3)
        if context.usage:
            fields["tokens"] = context.usage.tokens
            fields["cached_tokens"] = context.usage.cached_tokens
        log_request(fields)


@lru_cache(64)
def _host_name(header: bytes) -> str:
    found = _HOST.fullmatch(header.decode("latin-1").lower())
    return (found[1] or found[2]) if found else ""


def log_failure(problem: Problem, error: BaseException, context: RequestContext) -> None:
    """Log the place of a bug, without exc_info: an exception's message may hold a text."""
    if problem.status == 500:
        fields = {**context.identity, "exception": format_exception(error)}
        log.error("failed", extra={"fields": fields})


def _refuse_repeated(headers: Sequence[tuple[bytes, bytes]]) -> None:
    names = [name for name, _ in headers]
    for name in _SENT_ONCE:
        if (count := names.count(name)) > 1:
            raise Problem(400, f"the header {name.decode()} came {count} times; send it once")


def _server_timing(context: RequestContext) -> str:
    """Return milliseconds, rounded up to tens without keys: exact times reveal cached texts."""
    queue, inference = [1000 * seconds for seconds in context.timing]
    if not context.client.name:
        queue = COARSE_MS * math.ceil(queue / COARSE_MS)
        inference = COARSE_MS * math.ceil(inference / COARSE_MS)
    return f"queue;dur={queue:.3f}, inference;dur={inference:.3f}"


def forget_frames(error: BaseException | None) -> None:
    """Break the cycle of an exception and its frames, which may hold a request's body.

    Python collects cycles only after 100,000 more objects: by then, gigabytes of bodies.
    """
    while error is not None:
        error.__traceback__ = None
        error = error.__context__


class Access:
    """Refuse a request for another host, without a key, or without a right.

    - On loopback, requests must name a loopback host or an allowed one: a page could rebind its own
      name to this machine. Elsewhere, hosts are checked only if some are allowed. For `METRICS`,
      any address will do: Prometheus scrapes addresses, and a page has a name.
    - If there are keys, all but `OPEN_ROUTES` need one, and `METRICS` one with the right to it:
      counts of cached tokens can show what others typed.
    - Paths under `ADMIN` need a key with ``admin = true``, always.
    - A port for metrics answers `METRICS` and nothing else, without keys; the other port has no
      such path then.
    """

    def __init__(self, keys: KeyRing, settings: Settings) -> None:
        self._metrics_port = port = settings.metrics_port
        self._open = OPEN_ROUTES if port is None else OPEN_ROUTES | {METRICS}
        self._keys = keys
        allowed = settings.allowed_hosts
        self._checks_host = bool(is_loopback(settings.host) or allowed) and "*" not in allowed
        self._known = {"localhost", "127.0.0.1", *map(str.lower, allowed)}

    def check(self, scope: Scope, context: RequestContext) -> None:
        """Find the client of a request, or raise 400, 401, 403, 404 or 421."""
        if len(context.headers) != len(scope["headers"]):
            _refuse_repeated(scope["headers"])
        path, port = scope["path"], self._metrics_port
        if port is not None and (path == METRICS) != (scope["server"][1] == port):
            raise HTTPException(404)
        host = context.headers.get(b"host", b"")
        if self._checks_host and path not in ANY_HOST and not self._is_ours(host, path == METRICS):
            raise Problem(421, "the Host header names another host; allowed_hosts can allow it")
        if path in self._open:
            return
        required = self._keys.required
        context.client = self._find(context.headers) if required else self._keys.anonymous
        if path.startswith(ADMIN) and not context.client.admin:
            raise Problem(403, _NOT_ADMIN if required else _NO_ADMIN)
        if required and path == METRICS and not (context.client.metrics or context.client.admin):
            raise Problem(403, _NO_METRICS)

    def _is_ours(self, header: bytes, any_address: bool) -> bool:
        name = _host_name(header)
        return name in self._known or is_loopback(name) or (any_address and is_address(name))

    def _find(self, headers: dict[bytes, bytes]) -> Client:
        scheme, _, token = headers.get(b"authorization", b"").partition(b" ")
        if scheme.lower() != b"bearer":
            challenge = {"WWW-Authenticate": "Bearer"}
            raise Problem(401, "send an API key: Authorization: Bearer KEY", headers=challenge)
        if client := self._keys.find(token.strip()):
            return client
        challenge = {"WWW-Authenticate": 'Bearer error="invalid_token"'}
        raise Problem(401, "this API key is not known", headers=challenge)
