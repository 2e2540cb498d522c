"""From bytes on the wire to a request: 413 and 415 before the body is parsed, 400 and 422 after.

What is wrong with one text by itself (too long, no blank) the engine finds out: `model.errors.QueryError`.
"""

import asyncio
import json
import math
import re
from collections.abc import Container, Iterator, Sequence
from itertools import islice
from typing import Any, TypeVar

from pydantic import ValidationError
from starlette.requests import Request
from starlette.types import Receive

from service.errors import ClientDisconnected, FieldError, Problem, unprocessable
from service.schemas import TAGS, ClozeRequest, ScoreRequest, Strict
from service.settings import Settings

Body = TypeVar("Body", bound=Strict)
Asking = TypeVar("Asking", bound=ScoreRequest)

# An answer that is sent while the client still sends is often lost (the connection is reset), so a body that is too
# large is read on, and thrown away, up to this many times the limit.
DISCARDED = 16
# Errors that one answer names at most.
MAX_ERRORS = 16
# A list of lists is as deep as any field goes.
LISTS = 2
# A field name of this form may be a misspelt field and is named in the answer; anything else may be a text.
_FIELD_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,31}")
_CHARSET = re.compile(r';\s*charset\s*=\s*"?([^\s;"]+)', re.IGNORECASE)
_WORDS = {
    "string_type": "must be a string",
    "int_type": "must be a whole number",
    "list_type": "must be a list",
    "missing": "is required",
    "model_type": "must be a JSON object",
    "model_attributes_type": "must be a JSON object",
}


async def read_request(request: Request, expected: type[Asking], settings: Settings) -> Asking:
    """Read, parse and check one request body.

    Raises:
        Problem: 400, 408, 413, 415 or 422.
        ClientDisconnected: the client hung up while sending.
    """
    _check_media_type(request)
    parsed = parse(await _read_in_time(request, settings), expected)
    _check_whole(parsed, settings.max_texts)
    return parsed


async def read_optional(request: Request, expected: type[Body], settings: Settings) -> Body:
    """Read and parse a body that may be left out, its fields then being what they are by default.

    Raises:
        Problem, ClientDisconnected: as for `read_request`.
    """
    body = await _read_in_time(request, settings)
    if not body:
        return expected()
    _check_media_type(request)
    return parse(body, expected)


async def _read_in_time(request: Request, settings: Settings) -> bytes:
    try:
        async with asyncio.timeout(settings.deadline_seconds):
            return await _read(request, settings.max_body_bytes)
    except TimeoutError:
        late = f"the body did not arrive within {settings.deadline_seconds:g} s"
        raise Problem(408, late, headers=_CLOSE) from None


def parse(body: bytes, expected: type[Body]) -> Body:
    """Turn *body* into the *expected* request.

    Raises:
        Problem: 400 where it is not JSON in UTF-8, 422 where a field is wrong.
    """
    try:
        return expected.model_validate_json(body)
    except ValidationError as error:
        errors = _field_errors(error)
    if isinstance(errors, list):
        raise unprocessable(errors)
    return _parse_again(body, expected, errors)


def _check_whole(request: ScoreRequest, max_texts: int) -> None:
    """Check what concerns all texts together; each by itself is the model's to check."""
    count = len(request.texts)
    if count > max_texts:
        raise unprocessable(
            [FieldError("/text", f"has {count} texts; at most {max_texts} are answered at once")]
        )
    nested = (
        isinstance(request, ClozeRequest)
        and request.choices
        and isinstance(request.choices[0], list)
    )
    if nested and count > 1:
        raise unprocessable(
            [
                FieldError(
                    "/choices", f"gives one list a blank, which goes with one text, not {count}"
                )
            ]
        )


_CLOSE = {"Connection": "close"}


def _check_media_type(request: Request) -> None:
    content_type = request.headers.get("content-type", "")
    if content_type.partition(";")[0].strip().lower() != "application/json":
        raise Problem(415, "the body must be application/json; set the Content-Type header")
    charset = _CHARSET.search(content_type)
    if charset and charset[1].lower() not in ("utf-8", "utf8"):
        raise Problem(415, "JSON is UTF-8; drop the charset or set it to utf-8")
    if request.headers.get("content-encoding", "identity").strip().lower() != "identity":
        raise Problem(415, "compressed bodies are not read; send the body as it is")


async def _read(request: Request, limit: int) -> bytes:
    """Collect the body, counting as it streams: Content-Length may be absent, or a lie."""
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared[:20]) > limit and "expect" in request.headers:
        raise _too_large(limit)  # the client waits to be asked for the body
    parts: list[bytes] = []
    received = 0
    while True:
        more, part = await _receive(request.receive)
        received += len(part)
        if received <= limit:
            parts.append(part)
        elif received > DISCARDED * limit or not more:
            raise _too_large(limit)
        else:
            parts.clear()
        if not more:
            return b"".join(parts) if len(parts) != 1 else parts[0]


def _too_large(limit: int) -> Problem:
    return Problem(413, f"the body is longer than {limit} bytes", headers=_CLOSE)


async def _receive(receive: Receive) -> tuple[bool, bytes]:
    message = await receive()
    if message["type"] == "http.disconnect":
        raise ClientDisconnected
    return message.get("more_body", False), message.get("body", b"")


def _parse_again(body: bytes, expected: type[Body], reason: str) -> Body:
    """Find out, slowly, why the fast parser refused: bytes, grammar, or a field that it cannot hold.

    A lone surrogate and an integer of thousands of digits are grammatical JSON, so they are 422 with a field's name
    and not 400; the fast parser does not tell where they stand.
    """
    if body.startswith(b"\xef\xbb\xbf"):
        raise Problem(400, "the body begins with a byte order mark; send UTF-8 without one")
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Problem(400, f"the body is not UTF-8 at byte {error.start}") from None
    if "recursion limit" in reason:
        raise Problem(400, "the body is nested too deeply")
    try:
        document = json.loads(text, parse_int=_integer)
    except (ValueError, RecursionError):
        raise Problem(400, f"the body is not JSON: {reason}") from None
    pointers = islice(_lone_surrogates(document, expected.model_fields), MAX_ERRORS)
    if errors := [FieldError(pointer, "holds a lone surrogate") for pointer in pointers]:
        raise unprocessable(errors)
    try:
        return expected.model_validate(document)
    except ValidationError as error:
        found = _field_errors(error)
    raise unprocessable(found if isinstance(found, list) else [FieldError("", found)])


def _integer(digits: str) -> int | float:
    """Python refuses to read integers of more than 4,300 digits; as far as any field goes they are infinite."""
    return int(digits) if len(digits) < 20 else math.inf


def _lone_surrogates(document: Any, known: Container[str]) -> Iterator[str]:
    """Pointers of what is not well-formed Unicode: strings of known fields, or the object if a name of its is none.

    What stands in other fields is not looked at: they are refused whatever they hold.
    """
    if not isinstance(document, dict):
        return
    if not all(map(_well_formed, document)):
        yield ""
    for name, value in document.items():
        if name in known:
            yield from _within(f"/{name}", value, LISTS)


def _within(pointer: str, value: Any, lists: int) -> Iterator[str]:
    """The same for one value, through so many lists in lists."""
    if isinstance(value, str):
        if not _well_formed(value):
            yield pointer
    elif isinstance(value, list) and lists:
        for index, item in enumerate(value):
            if isinstance(item, str | list):  # a million numbers cost next to nothing
                yield from _within(f"{pointer}/{index}", item, lists - 1)


def _well_formed(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _field_errors(error: ValidationError) -> list[FieldError] | str:
    """What is wrong with which fields; or, where the fast parser could not read the body at all, its reason."""
    count = error.error_count()
    if (
        count > MAX_ERRORS
    ):  # to write out a hundred thousand would hold up everybody else's requests
        return [FieldError("", f"has {count} fields that are unknown or wrong")]
    found = error.errors(include_input=False, include_url=False)
    if found[0]["type"] == "json_invalid":
        return found[0]["msg"].removeprefix("Invalid JSON: ")
    return [
        _field_error(item["type"], item["loc"], item["msg"], item.get("ctx", {})) for item in found
    ]


def _field_error(
    kind: str, location: Sequence[int | str], message: str, context: dict[str, Any]
) -> FieldError:
    if kind == "extra_forbidden":
        name = str(location[-1])
        if _FIELD_NAME.fullmatch(name):
            return FieldError(f"/{name}", "is no field of this request")
        return FieldError("", f"has a field that is unknown; its name has {len(name)} characters")
    steps = [step for index, step in enumerate(location) if not (index == 1 and step in TAGS)]
    pointer = "".join(_step(step) for step in steps)
    if kind in ("too_short", "string_too_short"):
        return FieldError(pointer, "is empty; it must hold at least one")
    if kind == "greater_than_equal":
        return FieldError(pointer, f"must be at least {context['ge']}")
    return FieldError(pointer, _WORDS.get(kind, message))


def _step(step: int | str) -> str:
    """One step of a JSON pointer; a key that may be a text is left out, so the pointer stops at its object."""
    return f"/{step}" if isinstance(step, int) or _FIELD_NAME.fullmatch(step) else ""
