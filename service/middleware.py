"""What surrounds every route, as plain ASGI: identity, measurement, errors; then host and keys. No business of any one.

Starlette's BaseHTTPMiddleware would cost more than the rest of the service and hide that a client hung up.
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
from service.errors import (
    CLIENT_CLOSED,
    Problem,
    as_problem,
    problem_response,
    unavailable,
)
from service.logs import format_exception, log_request
from service.metrics import Metrics
from service.request_context import RequestContext
from service.settings import is_loopback

log = logging.getLogger(__name__)

# Probes carry no keys, and a browser can send none with a page.
OPEN_ROUTES = frozenset({"/livez", "/readyz", "/docs", "/openapi.json"})
# Asked by the address of a container, which has no name.
ANY_HOST = frozenset({"/livez", "/readyz", "/metrics"})
ADMIN = "/admin/"
# What a proxy adds, one of them at least where it was told to: whoever sent the request is not on this machine.
_PROXIED = frozenset(
    {
        b"forwarded",
        b"via",
        b"x-forwarded-for",
        b"x-forwarded-host",
        b"x-forwarded-proto",
        b"x-real-ip",
    }
)
# RFC 9110, 7.2: a name or an address, in brackets where it has colons, and perhaps a port.
_HOST = re.compile(r"(?:\[([0-9a-f:.]+)\]|([^\s:\[\]/]+?)\.?)(?::[0-9]*)?")


class RequestMetricsMiddleware:
    """Gives a request its context, turns what it raises into an answer, and logs and counts it when it ends."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        context = RequestContext(scope)

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
        except ClientDisconnect as error:
            context.status = CLIENT_CLOSED
            _forget_frames(error)
        except asyncio.CancelledError:  # the server's time to finish is over
            if context.status:
                raise
            await _answer(
                unavailable("the service has shut down; ask another one"),
                scope,
                receive,
                send_with_headers,
                context,
            )
        except Exception as error:
            if isinstance(error, TooManyRequests):
                self._metrics.refused(error.reason)
            await _answer(error, scope, receive, send_with_headers, context)
            _forget_frames(error)
        finally:
            seconds = time.monotonic() - context.began
            context.status = context.status or CLIENT_CLOSED  # cancelled before it was answered
            self._metrics.finished(context, seconds)
            log_request(context, seconds)


def _forget_frames(error: BaseException | None) -> None:
    """Let go of the calls that an exception came through.

    What raised it may be reached from them (a job and its future), so that they, and with them the request's body,
    would stay until Python next looks for cycles: here after a hundred thousand more objects, or gigabytes of bodies.
    """
    while error is not None:
        error.__traceback__ = None
        error = error.__context__


async def _answer(
    error: Exception, scope: Scope, receive: Receive, send: Send, context: RequestContext
) -> None:
    problem = as_problem(error)
    if problem.status == 500:
        # Not exc_info: an exception's message may hold a text.
        log.error(
            "failed", extra={"fields": {**context.identity, "exception": format_exception(error)}}
        )
    if context.status:  # the answer has begun, so it cannot become another
        raise error
    await problem_response(problem, context.request_id)(scope, receive, send)


class HostMiddleware:
    """Refuses requests that name a host which is not ours, as a page does whose name was rebound to this machine (DNS
    rebinding): for its browser our answers would be its own.

    Args:
        host: where the service is bound. On loopback, requests must name a loopback host or one that is *allowed*;
            elsewhere nothing is checked, unless hosts are allowed by name.
        allowed: names without ports; ``*`` for any.
    """

    def __init__(self, app: ASGIApp, host: str, allowed: Sequence[str]) -> None:
        self._app = app
        self._checks = bool(is_loopback(host) or allowed) and "*" not in allowed
        self._allowed = frozenset(map(str.lower, allowed))
        # A service has few names, and to take one apart costs more than to keep it.
        self._is_good = lru_cache(maxsize=64)(self._is_ours)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        checked = self._checks and scope["type"] == "http" and scope["path"] not in ANY_HOST
        if checked and not self._is_good(_header(scope, b"host")):
            raise Problem(
                421, "the Host header names another service; the setting allowed_hosts can allow it"
            )
        await self._app(scope, receive, send)

    def _is_ours(self, given: bytes) -> bool:
        found = _HOST.fullmatch(given.decode("latin-1").lower())
        name = (found[1] or found[2]) if found else ""
        return is_loopback(name) or name in self._allowed


class AuthMiddleware:
    """Finds out who asks: demands a key as a bearer token, except on `OPEN_ROUTES`; without keys, anybody may ask.

    What is under `ADMIN` demands a key that may administer. Where no keys are set, it is open to programs on this
    machine: the service must be bound to loopback and allow no other hosts, as it does behind a proxy; and a page in a
    browser (it sends ``Origin``) or what a proxy says that it passes on is refused.

    Args:
        keys: the keys in force.
        host: where the service is bound.
        allowed: as `HostMiddleware` has them.
    """

    def __init__(self, app: ASGIApp, keys: KeyRing, host: str, allowed: Sequence[str] = ()) -> None:
        self._app = app
        self._keys = keys
        self._private = is_loopback(host) and not allowed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
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
        client = self._keys.find(token.strip())
        if client is None:
            challenge = {"WWW-Authenticate": 'Bearer error="invalid_token"'}
            raise Problem(401, "this API key is not known", headers=challenge)
        return client

    def _check_admin(self, scope: Scope, client: Client) -> None:
        if self._keys.required:
            if not client.admin:
                raise Problem(
                    403,
                    "this takes an administrator's key: lacuna keys new NAME --admin",
                )
        elif not self._private:
            raise Problem(
                403,
                "without keys, the service is administered on loopback and without allowed_hosts only; set a keys file",
            )
        elif _header(scope, b"origin") or any(name in _PROXIED for name, _ in scope["headers"]):
            raise Problem(
                403,
                "without keys, the service is not administered by pages or through proxies; set a keys file",
            )


def _header(scope: Scope, wanted: bytes) -> bytes:
    return next((value for name, value in scope["headers"] if name == wanted), b"")
