"""Tests of service/requests.py: what the kinds in ``bad_inputs.py`` do not show."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.errors import Problem
from service.requests import MAX_ERRORS, parse
from service.schemas import ClozeRequest, PredictRequest, ScoreRequest
from tests.service.client import ask, post

_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(st.text() | st.sampled_from(["text", "top_k", "choices"]), inner)
    ),
)


@given(_JSON)
@settings(max_examples=100, deadline=None)
def test_any_json_is_a_request_or_a_named_problem(document: Any) -> None:
    """Whatever JSON comes, it is parsed or refused with 422; there is no third way."""
    try:
        request = parse(json.dumps(document).encode(), ClozeRequest)
    except Problem as problem:
        assert problem.status == 422
        assert 1 <= len(problem.errors) <= MAX_ERRORS
    else:
        assert request.texts


@given(st.binary(max_size=200))
@settings(max_examples=100, deadline=None)
def test_any_bytes_are_a_request_or_a_named_problem(body: bytes) -> None:
    """Whatever bytes come, they are parsed or refused with 400 or 422."""
    with pytest.raises(Problem) as refused:
        parse(body, PredictRequest)
    assert refused.value.status in (400, 422)


@given(st.text(min_size=4), st.sampled_from(["value", "key", "item"]))
@settings(deadline=None)
def test_no_problem_holds_a_text(text: str, place: str) -> None:
    """Wherever a text stands in a wrong body, the problem does not repeat it."""
    secret = f"鬼{text}"
    body = {"value": {"top_k": secret}, "key": {secret: 1}, "item": {"text": [1, secret]}}[place]
    with pytest.raises(Problem) as refused:
        parse(json.dumps(body).encode(), PredictRequest)
    assert "鬼" not in refused.value.detail
    assert all("鬼" not in error.pointer + error.detail for error in refused.value.errors)


def test_all_wrong_fields_are_named_at_once() -> None:
    """Several mistakes in one body come back in one answer."""
    with pytest.raises(Problem) as refused:
        parse(b'{"text": 1, "top_k": "x", "blnk": 1}', ClozeRequest)
    assert [error.pointer for error in refused.value.errors] == ["/text", "/top_k", "/blnk"]
    assert refused.value.detail.endswith("(and 2 more)")


def test_surrogate_pair_is_a_character() -> None:
    """An escaped pair of surrogates is one character and no mistake."""
    assert parse(b'{"text": "\\ud83d\\ude00"}', ScoreRequest).texts == ["\U0001f600"]


@pytest.mark.parametrize(
    "content_type",
    [
        "application/json",
        "Application/JSON",
        "application/json;charset=UTF-8",
        'application/json; charset="utf8"',
    ],
)
def test_media_type_is_compared_as_http_does(content_type: str) -> None:
    """Case and a UTF-8 charset make no difference."""

    async def question(client: Any) -> Any:
        return await client.post(
            "/predict", content=b'{"text": "a"}', headers={"Content-Type": content_type}
        )

    assert ask(question).status_code == 200


def test_body_at_its_limit_is_read() -> None:
    """A body of exactly the limit is read, one byte more is not."""
    body = json.dumps({"text": "a"}).encode()

    async def question(client: Any) -> Any:
        headers = {"Content-Type": "application/json"}
        return [
            (await client.post("/predict", content=sent, headers=headers)).status_code
            for sent in (body, body + b" ")
        ]

    assert ask(question, max_body_bytes=len(body)) == [200, 413]


def test_limits_are_settable() -> None:
    """A smaller limit on texts is the one that is enforced and told."""
    answer = post("/predict", {"text": ["a", "b", "c"]}, max_texts=2)
    assert answer.status_code == 422
    assert answer.json()["errors"] == [
        {"pointer": "/text", "detail": "has 3 texts; at most 2 are allowed"}
    ]
