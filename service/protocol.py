"""A connection that cannot be held open by sending headers slowly, or without end. Bodies: service/requests.py.

uvicorn waits for headers as long as a client likes and takes as many as it sends. Here they must be complete a fixed
time after their first byte (or after the connection was made), however steadily they trickle in, and within a size.
While nothing could be let in, a question that came whole is refused without being parsed (service/shedding.py).
"""

import asyncio
import logging
from http import HTTPStatus
from typing import Any

from pydantic_core import to_json
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from service.errors import PROBLEM_TYPE, TITLES
from service.request_context import new_id
from service.shedding import Shedder

log = logging.getLogger(__name__)

MAX_HEADER_BYTES = 64 * 1024


class BoundedHeaders(HttpToolsProtocol):
    """uvicorn's protocol with a deadline and a size for headers, and a way around itself for what is refused anyway.

    Args:
        header_seconds: from a request's first byte, or from the connection, to the end of its headers.
        shedder: refuses requests that need not be parsed.
        arguments: uvicorn's own.
    """

    def __init__(self, *, header_seconds: float, shedder: Shedder, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._header_seconds = header_seconds
        self._shedder = shedder
        self._between = True  # a request's last byte was parsed, and no byte of the next one
        self._refused = 0.0  # when a request was last refused unparsed
        self._incomplete = (
            True  # between a request's first byte and the end of its headers, and before the first
        )
        self._timer: asyncio.TimerHandle | None = None
        self._header_bytes = 0
        self._begun = 0  # requests of which the last read had the first byte

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for the first request."""
        super().connection_made(transport)
        self._timer = self.loop.call_later(self._header_seconds, self._too_slow)

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is waited for any more."""
        self._stop_waiting()
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        """A request's first byte."""
        self._between = False
        self._incomplete = True
        self._header_bytes = 0
        self._begun += 1
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """The headers are there."""
        self._incomplete = False
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """A request's last byte."""
        self._between = True
        super().on_message_complete()

    def data_received(self, data: bytes) -> None:
        """Bytes of headers or of a body. Most requests come whole, and need no timer."""
        if self._between:
            if self._shedder.shedding and self._shed(data):
                return
            self._shedder.let_through(self.loop)
        between, self._begun = self._between, 0
        super().data_received(data)
        if self.transport.is_closing():
            return
        if not self._incomplete:
            self._wait_for_rest()
            return
        if self._begun == (1 if between else 0):  # else some of it belongs to the request before
            self._header_bytes += len(data)
        if self._header_bytes > MAX_HEADER_BYTES:
            self._refuse(431, f"the headers are longer than {MAX_HEADER_BYTES} bytes")
        elif self._timer is None and not self.transport.is_closing():
            self._timer = self.loop.call_later(self._header_seconds, self._too_slow)

    def timeout_keep_alive_handler(self) -> None:
        """Close a quiet connection; one whose requests were refused unparsed was not quiet."""
        left = self._refused + self.timeout_keep_alive - self.loop.time()
        if left > 0:
            self.timeout_keep_alive_task = self.loop.call_later(
                left, self.timeout_keep_alive_handler
            )
        else:
            super().timeout_keep_alive_handler()

    def _shed(self, data: bytes) -> bool:
        """Refuse a request that has just come, where nothing stands before it; whether that was done."""
        if self._answering or self.flow.write_paused or self.transport.is_closing():
            return False
        answer = self._shedder.refuse(data, self.loop, self.server_state.default_headers)
        if answer is None:
            return False
        self.transport.write(answer)
        self._refused = self.loop.time()
        self._incomplete = False
        self._stop_waiting()
        if self.timeout_keep_alive_task is None:
            self._keep_alive()
        return True

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002
        """Bytes that are no HTTP: answered in our form, not in uvicorn's."""
        self._refuse(400, "this is not an HTTP request")

    @property
    def _answering(self) -> bool:
        """Whether a request whose headers are there has no answer yet."""
        return self.cycle is not None and not self.cycle.response_complete

    def _wait_for_rest(self) -> None:
        """What came last was not of headers. Nobody may hold a connection whose requests are answered by sending on:
        the rest of a body that nobody reads has a time of its own, which no byte of it renews.
        """
        if not self._between and not self._answering:
            if self._timer is None:
                self._timer = self.loop.call_later(self.timeout_keep_alive, self.transport.close)
            return
        self._stop_waiting()
        if not self._answering and self.timeout_keep_alive_task is None:
            self._keep_alive()

    def _keep_alive(self) -> None:
        self.timeout_keep_alive_task = self.loop.call_later(
            self.timeout_keep_alive, self.timeout_keep_alive_handler
        )

    def _stop_waiting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _too_slow(self) -> None:
        self._timer = None
        if not self._between:
            self._refuse(408, f"the headers did not arrive within {self._header_seconds:g} s")
        else:
            self.transport.close()  # nothing was asked, so there is nobody to answer

    def _refuse(self, status: int, detail: str) -> None:
        """Answer without the app, which has not seen the request, and close."""
        if self.transport.is_closing():
            return
        if (
            self._answering
        ):  # this answer would be taken for that request's; the connection ends after its own
            self.cycle.keep_alive = False
            self.flow.pause_reading()
            return
        title = TITLES.get(status, HTTPStatus(status).phrase)
        problem = {"type": "about:blank", "title": title, "status": status, "detail": detail}
        request_id = new_id()
        content = to_json(problem | {"request_id": request_id})
        head = (
            f"HTTP/1.1 {status} {title}\r\nContent-Type: {PROBLEM_TYPE}\r\nContent-Length: {len(content)}\r\n"
            f"X-Request-Id: {request_id}\r\nConnection: close\r\n\r\n"
        )
        log.info("headers refused", extra={"fields": {"request_id": request_id, "status": status}})
        self.transport.write(head.encode("ascii") + content)
        self.transport.close()
