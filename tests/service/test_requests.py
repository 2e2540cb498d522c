"""Tests of service/requests.py: what the kinds in ``bad_inputs.py`` do not show."""

import asyncio
import json
from typing import Any, cast

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service import requests
from service.errors import Problem
from service.middleware import RequestContext
from service.requests import FREE_BODY_BYTES, MAX_ERRORS, BodyReader, parse
from service.schemas import ClozeRequest
from service.settings import Settings
from tests.service.client import ask

_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(st.text() | st.sampled_from(["text", "top_k", "choices"]), inner)
    ),
)


@given(_JSON | st.binary(max_size=200))
@settings(max_examples=100, deadline=None)
def test_any_body_is_a_request_or_a_named_problem(document: Any) -> None:
    """JSON is parsed or refused with 422, other bytes with 400; nothing else happens."""
    is_json = not isinstance(document, bytes)
    try:
        request = parse(json.dumps(document).encode() if is_json else document, ClozeRequest)
    except Problem as problem:
        assert problem.status == 422 or not is_json
        assert problem.status in (400, 422)
        assert len(problem.errors) <= MAX_ERRORS
    else:
        assert request.texts


_QUESTION = st.fixed_dictionaries(
    {"text": st.text() | st.lists(st.text(), max_size=3)},
    optional={
        "top_k": st.none() | st.integers() | st.floats() | st.just(10**30),
        "history": st.none() | st.text(),
        "lexicon": st.lists(st.text(max_size=3) | st.fixed_dictionaries({"word": st.text()})),
        "choices": st.lists(st.text(), max_size=3) | st.lists(st.lists(st.text(), max_size=2)),
        "other": _JSON,
    },
)


@given(_JSON | _QUESTION, st.booleans())
@settings(max_examples=100, deadline=None)
def test_short_and_long_bodies_are_parsed_alike(document: Any, is_ascii: bool) -> None:
    """Pydantic parses the short ones, unless it refuses them; the standard library the others."""
    body = json.dumps(document, ensure_ascii=is_ascii).encode("utf-8", "surrogatepass")
    outcomes: list[Any] = []
    for each in (body, body + b" " * FREE_BODY_BYTES):
        try:
            outcomes.append(parse(each, ClozeRequest))
        except Problem as problem:
            outcomes.append((problem.status, problem.detail, problem.errors))
    assert outcomes[0] == outcomes[1]


def test_all_wrong_fields_are_named_at_once() -> None:
    """Several mistakes in one body come back in one answer."""
    with pytest.raises(Problem) as refused:
        parse(b'{"text": 1, "top_k": "x", "blnk": 1}', ClozeRequest)
    assert [error.pointer for error in refused.value.errors] == ["/text", "/top_k", "/blnk"]
    assert refused.value.detail.endswith("(and 2 more)")


def test_a_word_that_was_sent_as_a_field_is_not_named() -> None:
    """A lexicon may be mistaken for a list of {word: weight}."""
    with pytest.raises(Problem) as refused:
        parse(b'{"text": "a", "lexicon": [{"word": "b", "Okonkwo": 2}]}', ClozeRequest)
    (error,) = refused.value.errors
    assert error.pointer == "/lexicon/0"
    assert "Okonkwo" not in error.detail


@pytest.mark.parametrize(
    "content_type",
    ["application/json", "Application/JSON", "application/json;charset=UTF-8",
     'application/json; charset="utf8"'],
)  # fmt: skip
def test_media_type_and_length_are_checked(content_type: str) -> None:
    """Case and a UTF-8 charset make no difference; a body may be as long as its limit."""
    body = b'{"text": "a"}'

    async def question(client: httpx.AsyncClient) -> list[int]:
        headers = {"Content-Type": content_type}
        sent = (body, body + b" ")
        return [
            (await client.post("/predict", content=each, headers=headers)).status_code
            for each in sent
        ]

    assert ask(question, max_body_bytes=len(body)) == [200, 413]


def complete(body: bytes) -> RequestContext:
    """Return the context of a request whose body has arrived."""

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    headers = [(b"content-type", b"application/json")]
    scope = {"type": "http", "path": "/predict", "headers": headers}
    return RequestContext.begin(scope, receive, cast("Any", None))


@pytest.mark.parametrize(("length", "together"), [(FREE_BODY_BYTES, 8), (FREE_BODY_BYTES + 1, 1)])
def test_long_bodies_take_turns(length: int, together: int) -> None:
    """Between two long bodies the event loop serves others; short ones need not wait."""
    turn, done = 0, []

    async def count_turns() -> None:
        nonlocal turn
        while len(done) < 8:
            turn += 1
            await asyncio.sleep(0)

    async def read(bodies: BodyReader) -> None:
        await bodies.read(complete(length * b" "))
        done.append(turn)

    async def run() -> None:
        bodies = BodyReader(Settings())
        await asyncio.gather(count_turns(), *(read(bodies) for _ in range(8)))

    asyncio.run(run())
    assert max(map(done.count, done)) == together


def test_memory_of_long_bodies_is_returned_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A trim follows long bodies, and only these."""
    trims: list[int] = []
    monkeypatch.setattr(requests, "_malloc_trim", trims.append)
    bodies = BodyReader(Settings())
    for length, trimmed in ((FREE_BODY_BYTES, 0), (FREE_BODY_BYTES + 1, 1)):
        asyncio.run(bodies.read(complete(length * b" ")))
        bodies.trim()
        bodies.trim()
        assert len(trims) == trimmed
