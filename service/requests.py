"""Read a request's body: size (413, 429), media type (415), JSON (400) and fields (422).

The model checks each text later (`model.checks.RequestCheck`).
"""

import asyncio
import ctypes
import json
import math
import re
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from service.admission import TooManyRequests
from service.errors import Problem, unprocessable
from service.middleware import RequestContext
from service.schemas import UNION_TAGS, Body, FieldError
from service.settings import Settings

B = TypeVar("B", bound=Body)

# Every body may have so many bytes while it arrives. All bodies together may have so many more.
FREE_BODY_BYTES = 16 << 10
MAX_ARRIVING_BYTES = 64 << 20
# Errors that one answer lists. Listing 100,000 would take 0.4 s on the event loop.
MAX_ERRORS = 16
# An unknown field of the body with such a name is named in the answer. Others may be a user's text,
# as in a lexicon of {word: weight}.
_HUGE = re.compile(rb"[0-9]{20}")  # an integer for `_parse_int`
_FIELD_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,31}")
_MESSAGES = {
    "string_type": "must be a string",
    "string_unicode": "has a lone surrogate; send valid Unicode",
    "int_type": "must be a whole number",
    "list_type": "must be a list",
    "bool_type": "must be true or false",
    "float_type": "must be a number",
    "finite_number": "must be a number",
    "greater_than_equal": "must be at least {ge}",
    "greater_than": "must be above {gt:g}",
    "less_than_equal": "must be at most {le:g}",
    "missing": "is required",
    "model_type": "must be a JSON object",
    "too_short": "is empty; it must hold at least one",
    "string_too_short": "is empty; it must hold at least one",
    "too_long": "is too long; send at most {max_length}",
    "string_too_long": "is too long; send at most {max_length} characters",
}


def _parse_int(digits: str) -> int | float:
    """Return infinity for a huge integer, which no field takes and Python may refuse to read."""
    return int(digits) if len(digits) < 20 else math.inf


_malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc has it
_decode = json.JSONDecoder(parse_int=_parse_int).decode


class BodyReader:
    """Reads the bodies of one service, and bounds the memory of those that are arriving.

    The event loop decodes one body at a time, and drops it. A long one waits for a separate turn,
    so that other clients need not wait for many.
    """

    def __init__(self, settings: Settings) -> None:
        self._limit, self._seconds = settings.max_body_bytes, settings.deadline_seconds
        self._arriving = 0  # bytes, without the first `FREE_BODY_BYTES` of each body
        self._turn = asyncio.Lock()
        self._any_long = False  # since the last trim

    async def read(self, context: RequestContext) -> bytearray:
        """Read a body of JSON, counting its bytes as they arrive: Content-Length may be wrong.

        Raises:
            Problem: 408, 413 or 415.
            TooManyRequests: other bodies need the memory.
            starlette.requests.ClientDisconnect: the client hung up while sending.
        """
        _check_media_type(context.headers)
        body = bytearray()
        received = counted = 0
        refusal: Problem | TooManyRequests | None = None
        is_complete = False
        # `asyncio.timeout` costs four times as much.
        loop = asyncio.get_running_loop()
        task: Any = asyncio.current_task(loop)
        timer = loop.call_later(self._seconds, task.cancel, self)
        try:
            while not is_complete:
                message = await context.receive()
                if message["type"] == "http.disconnect":
                    raise ClientDisconnect
                is_complete = not message.get("more_body", False)
                body += message.get("body", b"")
                received += len(message.pop("body", b""))  # do not keep it while waiting
                adds = max(0, len(body) - FREE_BODY_BYTES) - counted
                if received > self._limit:
                    refusal = Problem(413, f"the body is longer than {self._limit} bytes")
                elif self._arriving + adds > MAX_ARRIVING_BYTES:
                    detail = f"bodies of {self._arriving} bytes are arriving; send a shorter one"
                    refusal = TooManyRequests("bodies", detail, self._seconds)
                if refusal:
                    # Read on: a client may lose an answer that arrives while it still sends.
                    body.clear()
                    adds = -counted
                counted += adds
                self._arriving += adds
            if counted:
                async with self._turn:
                    await asyncio.sleep(0)
        except asyncio.CancelledError as error:
            if error.args != (self,):
                raise
            late = f"the body did not arrive within {self._seconds:g} s"
            raise Problem(408, late, headers={"Connection": "close"}) from None
        finally:
            timer.cancel()
            self._arriving -= counted
            self._any_long |= received > FREE_BODY_BYTES
        if refusal:
            raise refusal
        return body

    def trim(self) -> None:
        """Return the memory of long bodies to the system. To be called every second.

        The C library would keep it: 130 MiB after 1,000 slow bodies.
        """
        if self._any_long and _malloc_trim:
            self._any_long = False
            _malloc_trim(0)


def _check_media_type(headers: Mapping[bytes, bytes]) -> None:
    """Refuse anything but JSON in UTF-8, uncompressed."""
    given = headers.get(b"content-type", b"")
    if given != b"application/json":  # as most clients write it
        media_type, _, parameters = given.decode("latin-1").lower().partition(";")
        if media_type.strip() != "application/json":
            raise Problem(415, "the body must be application/json; set the Content-Type header")
        if "charset" in parameters and not re.search("utf-?8", parameters):
            raise Problem(415, "JSON is UTF-8; drop the charset or set it to utf-8")
    if headers.get(b"content-encoding", b"identity").lower() != b"identity":
        raise Problem(415, "compressed bodies are not read; send the body as it is")


def parse(body: bytes | bytearray, expected: type[B]) -> B:
    """Turn *body* into the *expected* request.

    Raises:
        Problem: 400 if it is not JSON in UTF-8, 422 if a field is wrong.
    """
    # pydantic's own parser takes a third of the time, but its errors are less clear, and null is
    # no default for it.
    if len(body) <= FREE_BODY_BYTES and not _HUGE.search(body):
        try:
            request: B = expected.__pydantic_validator__.validate_json(body)
            return request
        except ValidationError:
            pass
    try:
        document = _decode(body.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise Problem(400, f"the body is not UTF-8 at byte {error.start}") from None
    except json.JSONDecodeError as error:
        raise Problem(400, f"the body is not JSON: {error}") from None
    except RecursionError:
        raise Problem(400, "the body is nested too deeply") from None
    try:
        return expected.model_validate(expected.without_nulls(document))
    except ValidationError as error:
        count = error.error_count()
        if count > MAX_ERRORS:
            summary = FieldError("", f"has {count} fields that are unknown or wrong")
            raise unprocessable(summary) from None
        errors = error.errors(include_input=False, include_url=False)
    raise unprocessable(*map(_field_error, errors))


def _field_error(error: ErrorDetails) -> FieldError:
    location = error["loc"]
    # pydantic adds the chosen member of a union to the location, after a field or its item.
    steps = [
        f"/{step}"
        for index, step in enumerate(location)
        if not 0 < index < 3 or step not in UNION_TAGS
    ]
    if error["type"] == "extra_forbidden":
        name = str(location[-1])
        if len(location) == 1 and _FIELD_NAME.fullmatch(name):
            return FieldError("".join(steps), "is not a field of this request")
        detail = f"has an unknown field; its name has {len(name)} characters"
        return FieldError("".join(steps[:-1]), detail)
    message = _MESSAGES.get(error["type"])
    detail = message.format(**error.get("ctx", {})) if message else error["msg"]
    return FieldError("".join(steps), detail)


class JSONRoute(APIRoute):
    """A route that FastAPI declares and documents, with a faster handler for JSON.

    The endpoint takes ``body``, a `Body`, and ``context``. It returns a model, or a response that
    is sent as it is.
    FastAPI's own handler costs too much (docs/decisions/0006-http-layer.md).
    """

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        super().__init__(path, endpoint, **options)
        self._expected: type[Body] = endpoint.__annotations__["body"]
        self.app = self.answer  # Starlette calls it instead of FastAPI's handler

    async def answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request (ASGI)."""
        context = RequestContext.of(scope)
        # In one line: a variable would keep the body while the engine works.
        answer: BaseModel | Response = await self.endpoint(
            parse(await context.state.bodies.read(context), self._expected), context
        )
        if isinstance(answer, Response):
            await answer(scope, receive, send)
            return
        body = answer.__pydantic_serializer__.to_json(answer)
        headers = [(b"content-length", b"%d" % len(body)), (b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})
