"""What surrounds every route, as plain ASGI: identity, measurement, errors; then keys. No business of any one route.

Starlette's BaseHTTPMiddleware would cost more than the rest of the service and hide that a client hung up.
"""

import hashlib
import hmac
import logging
import time
from collections.abc import Sequence

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import CLIENT_CLOSED, ClientDisconnected, Problem, as_problem, problem_response
from service.logs import describe, log_request
from service.metrics import Metrics
from service.records import Record

log = logging.getLogger(__name__)

# Probes carry no keys, and a browser can send none with a page.
OPEN_ROUTES = frozenset({"/livez", "/readyz", "/docs", "/openapi.json"})


class Observe:
    """Gives a request its record, turns what it raises into an answer, and logs and counts it when it ends."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        record = Record(scope)

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                record.status = message["status"]
                headers = [*message.get("headers", ()), (b"x-request-id", record.request_id.encode())]
                if timing := record.server_timing:
                    headers.append((b"server-timing", timing.encode()))
                message = {**message, "headers": headers}
            await send(message)

        try:
            await self._app(scope, receive, send_with_headers)
        except ClientDisconnected:
            record.status = CLIENT_CLOSED
        except Exception as error:
            await _answer(error, scope, receive, send_with_headers, record)
        finally:
            seconds = time.monotonic() - record.began
            record.status = record.status or CLIENT_CLOSED  # cancelled before it was answered
            self._metrics.finished(record, seconds)
            log_request(record, seconds)


async def _answer(error: Exception, scope: Scope, receive: Receive, send: Send, record: Record) -> None:
    problem = as_problem(error)
    if problem.status >= 500 and not isinstance(error, Problem):
        # Not exc_info: an exception's message may hold a text.
        log.error("failed", extra={"fields": {**record.identity, "exception": describe(error)}})
    if record.status:  # the answer has begun, so it cannot become another
        raise error
    await problem_response(problem, record.request_id)(scope, receive, send)


class Authorise:
    """Demands one of *keys* as a bearer token, except on `OPEN_ROUTES`; without keys, of nobody."""

    def __init__(self, app: ASGIApp, keys: Sequence[str]) -> None:
        self._app = app
        self._digests = [hashlib.sha256(key.encode()).digest() for key in keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if self._digests and scope["type"] == "http" and scope["path"] not in OPEN_ROUTES:
            self._check(scope)
        await self._app(scope, receive, send)

    def _check(self, scope: Scope) -> None:
        given = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
        scheme, _, token = given.partition(b" ")
        if scheme.lower() != b"bearer":
            challenge = {"WWW-Authenticate": "Bearer"}
            raise Problem(401, "send an API key: Authorization: Bearer KEY", headers=challenge)
        digest = hashlib.sha256(token.strip()).digest()
        # Every key is compared, in constant time, so that the time taken says nothing about any of them.
        found = [hmac.compare_digest(digest, known) for known in self._digests]
        if not any(found):
            challenge = {"WWW-Authenticate": 'Bearer error="invalid_token"'}
            raise Problem(401, "this API key is not known", headers=challenge)
        Record.of(scope).tenant = digest.hex()
