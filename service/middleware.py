"""The pure ASGI middleware around every route: request id, metrics, errors; then host and keys.

Starlette's BaseHTTPMiddleware costs more than the rest, and hides that a client hung up.
"""

import asyncio
import logging
import re
import time
from collections.abc import Sequence
from functools import lru_cache

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.admission import TooManyRequests
from service.auth import Client, KeyRing
from service.errors import CLIENT_CLOSED, Problem, as_problem, problem_response, unavailable
from service.logs import REQUESTS, format_exception
from service.metrics import Metrics
from service.request_context import RequestContext
from service.settings import is_loopback

log = logging.getLogger(__name__)

# Probes carry no keys, and a browser can send none with a page.
OPEN_ROUTES = frozenset({"/livez", "/readyz", "/docs", "/openapi.json"})
# Probes and scrapes use the address of a container, which has no name.
ANY_HOST = frozenset({"/livez", "/readyz", "/metrics"})
ADMIN = "/admin/"
# Headers of proxies. With one of them, the sender is not on this machine.
_PROXIED = frozenset(
    {b"forwarded", b"via", b"x-real-ip"}
    | {b"x-forwarded-" + each for each in (b"for", b"host", b"proto")}
)
# RFC 9110, 7.2: a name or an address, in brackets if it has colons, and perhaps a port.
_HOST = re.compile(r"(?:\[([0-9a-f:.]+)\]|([^\s:\[\]/]+?)\.?)(?::[0-9]*)?")


class RequestMetricsMiddleware:
    """Make a request's context, answer its exceptions, and log and count it when it ends."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        context = RequestContext.begin(scope)

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                context.status = message["status"]
                headers = [
                    *message.get("headers", ()),
                    (b"x-request-id", context.request_id.encode()),
                ]
                if timing := context.server_timing:
                    headers.append((b"server-timing", timing.encode()))
                message = {**message, "headers": headers}
            await send(message)

        try:
            await self._app(scope, receive, send_with_headers)
        except asyncio.CancelledError:  # the grace period after the drain is over
            if context.status:
                raise
            problem = unavailable("the service has shut down; ask another one")
            await problem_response(problem, context.request_id)(scope, receive, send_with_headers)
        except ClientDisconnect as error:
            _forget_frames(error)
        except Exception as error:
            problem = self._problem(error, context)
            if context.status:  # the answer has begun; it cannot become another one
                raise
            await problem_response(problem, context.request_id)(scope, receive, send_with_headers)
            _forget_frames(error)
        finally:
            self._finish(context)

    def _problem(self, error: Exception, context: RequestContext) -> Problem:
        if isinstance(error, TooManyRequests):
            self._metrics.refused(error.reason)
        problem = as_problem(error)
        if problem.status == 500:  # not exc_info: an exception's message may hold a text
            fields = {**context.identity, "exception": format_exception(error)}
            log.error("failed", extra={"fields": fields})
        return problem

    def _finish(self, context: RequestContext) -> None:
        """Count a request, and log it at level info."""
        seconds = time.monotonic() - context.began
        context.status = context.status or CLIENT_CLOSED
        self._metrics.finished(context, seconds)
        if not REQUESTS.isEnabledFor(logging.INFO):
            return
        fields = context.identity | {
            "route": context.route,
            "status": context.status,
            "milliseconds": round(1000 * seconds, 3),
            "items": context.items,
        }
        if context.tenant:
            fields["key"] = context.tenant
        if context.queue_seconds is not None and context.inference_seconds is not None:
            fields["queue_milliseconds"] = round(1000 * context.queue_seconds, 3)
            fields["inference_milliseconds"] = round(1000 * context.inference_seconds, 3)
        if context.tokens is not None:
            fields["tokens"], fields["cached_tokens"] = context.tokens, context.cached_tokens
        # `REQUESTS.info` would look for the calling line, which costs more than all of this.
        record = logging.LogRecord(REQUESTS.name, logging.INFO, "", 0, "request", None, None)
        record.fields = fields
        REQUESTS.handle(record)


def _forget_frames(error: BaseException | None) -> None:
    """Break the cycle of an exception and its frames, which may hold a request's body.

    Python collects cycles only after 100,000 more objects: by then, gigabytes of bodies.
    """
    while error is not None:
        error.__traceback__ = None
        error = error.__context__


class HostMiddleware:
    """Refuse a request for another host: a page whose name was rebound to this machine.

    Args:
        host: address that the service is bound to. On loopback, requests must name a loopback
            host or an allowed one. Elsewhere hosts are checked only if some are allowed.
        allowed: names without ports; ``*`` for any.
    """

    def __init__(self, app: ASGIApp, host: str, allowed: Sequence[str]) -> None:
        self._app = app
        self._checks = bool(is_loopback(host) or allowed) and "*" not in allowed
        self._known = {"localhost", "127.0.0.1", *map(str.lower, allowed)}
        # A service has few names, and parsing one costs more than keeping it.
        self._is_ours = lru_cache(maxsize=64)(self._parse)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        checked = self._checks and scope["type"] == "http" and scope["path"] not in ANY_HOST
        if checked and not self._is_ours(_header(scope, b"host")):
            raise Problem(421, "the Host header names another host; allowed_hosts can allow it")
        await self._app(scope, receive, send)

    def _parse(self, header: bytes) -> bool:
        found = _HOST.fullmatch(header.decode("latin-1").lower())
        name = (found[1] or found[2]) if found else ""
        return name in self._known or is_loopback(name)


class AuthMiddleware:
    """Find the client of a request: a bearer key, required except on `OPEN_ROUTES`.

    Paths under `ADMIN` need a key with ``admin = true``. Without keys, only programs on this
    machine may use them: the service must be on loopback without allowed hosts, and a request from
    a page (``Origin``) or through a proxy is refused.

    Args:
        keys: the keys in force.
        host, allowed: as for `HostMiddleware`.
    """

    def __init__(self, app: ASGIApp, keys: KeyRing, host: str, allowed: Sequence[str] = ()) -> None:
        self._app = app
        self._keys = keys
        self._private = is_loopback(host) and not allowed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] == "http" and scope["path"] not in OPEN_ROUTES:
            client = self._find(scope) if self._keys.required else self._keys.anonymous
            context = RequestContext.of(scope)
            context.tenant, context.allowance = client.name, client.allowance
            if scope["path"].startswith(ADMIN):
                self._check_admin(scope, client)
        await self._app(scope, receive, send)

    def _find(self, scope: Scope) -> Client:
        scheme, _, token = _header(scope, b"authorization").partition(b" ")
        if scheme.lower() != b"bearer":
            challenge = {"WWW-Authenticate": "Bearer"}
            raise Problem(401, "send an API key: Authorization: Bearer KEY", headers=challenge)
        if client := self._keys.find(token.strip()):
            return client
        challenge = {"WWW-Authenticate": 'Bearer error="invalid_token"'}
        raise Problem(401, "this API key is not known", headers=challenge)

    def _check_admin(self, scope: Scope, client: Client) -> None:
        if self._keys.required:
            if not client.admin:
                raise Problem(403, "send an administrator's key: lacuna keys new NAME --admin")
        elif not self._private:
            raise Problem(
                403, "set a keys file: without keys this needs loopback and no other host"
            )
        elif _header(scope, b"origin") or any(name in _PROXIED for name, _ in scope["headers"]):
            raise Problem(403, "set a keys file: without keys no page and no proxy may do this")


def _header(scope: Scope, wanted: bytes) -> bytes:
    for name, value in scope["headers"]:
        if name == wanted:
            found: bytes = value
            return found
    return b""
