"""Tests of service/hugging_face.py: Hugging Face's contract, with a model side that answers."""

from typing import Any

import pytest

from tests.service.client import post, synchronous

PATH = "/hf/fill-mask"


def test_masks_are_nested_as_they_were_sent() -> None:
    """A list of words for a mask, a list of these for several masks, and one more for texts."""
    first = {"score": 0.5, "token": 5, "token_str": "word0", "sequence": "a word0"}
    (answer,) = post(PATH, {"inputs": "a ____", "parameters": {"top_k": 1}}).json()
    assert answer == first
    several = post(PATH, {"inputs": "a __ __"}).json()
    assert [mask[0]["sequence"] for mask in several] == ["a word0 __", "a __ word0"]
    texts = post(PATH, {"inputs": ["a ____", "a __ __"], "parameters": None}).json()
    assert texts == [post(PATH, {"inputs": text}).json() for text in ("a ____", "a __ __")]


def test_any_model_may_be_named() -> None:
    """`/models/` and a name, also with a slash, answers, fails and is counted as the task does."""
    with synchronous() as request:
        for text in ("a ____", "none"):
            named, plain = (
                request("POST", path, json={"inputs": text}, headers={"X-Request-Id": "one"})
                for path in ("/models/google-bert/bert-base-chinese", PATH)
            )
            assert (named.status_code, named.json()) == (plain.status_code, plain.json())
        counted = request("GET", "/metrics").text
    assert 'lacuna_requests_total{route="/hf/fill-mask",status="200"} 2.0' in counted


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"inputs": "none"}, "/inputs"),
        ({"inputs": ["a __", "none"]}, "/inputs/1"),
        ({"inputs": ["a __"] * 65}, "/inputs"),
        ({"inputs": "a __", "parameters": {"top_k": 101}}, "/parameters/top_k"),
        ({"inputs": "a __", "parameters": {"targets": ["b", "b"]}}, "/parameters/targets/1"),
        ({"inputs": "a __", "parameters": {"targets": ["b"] * 257}}, "/parameters/targets"),
        ({"inputs": "a __", "options": {}}, "/options"),
    ],
)
def test_an_error_is_shown_by_the_client_of_hugging_face(body: Any, pointer: str) -> None:
    """The member `error` is the text; the rest is a problem document that names the field."""
    response = post(PATH, body)
    assert response.status_code == 422
    problem = response.json()
    assert problem["error"] == problem["detail"]
    assert [error["pointer"] for error in problem["errors"]] == [pointer]
