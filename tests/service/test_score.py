"""Tests of /score on the bundled checkpoint, as its clients use it."""

from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from service.settings import DEFAULT_CHECKPOINT
from tests.service.client import real_model, synchronous

Score = Callable[..., list[dict[str, Any]]]


@pytest.fixture(scope="module")
def score() -> Iterator[Score]:
    """A function from a body to results."""
    with synchronous(real_model(DEFAULT_CHECKPOINT)) as send:

        def ask(**body: Any) -> list[dict[str, Any]]:
            response: httpx.Response = send("POST", "/score", json=body)
            results: list[dict[str, Any]] = response.json()["results"]
            return results

        yield ask


@pytest.mark.parametrize(
    ("context", "text"),
    [
        ("I bought a new", "phone"),
        ("I bought a new", " phone"),
        ("I bought a new ", "phone"),
        ("I bought a new\u00a0", "\u200bphone"),
    ],
)
def test_a_word_after_a_context_gets_its_own_probability(
    score: Score, context: str, text: str
) -> None:
    """It does not matter which side sends the space."""
    (result,) = score(text=text, context=context)
    assert result["log_probability"] == pytest.approx(-7.38, abs=0.05)
    assert (result["tokens"], result["characters"]) == (1, 5)
    assert "details" not in result


@pytest.mark.parametrize(
    ("context", "texts"),
    [
        ("She drank a cup of", [" coffee", " phone", " cof"]),
        ("Last night we went to the theat", ["re", "e", "rum"]),
        ("我很喜", ["欢你", "剧你", "的"]),
        ("Is the sky blue? Answer:", ["yes", "yet", "phone"]),
        ("It is late.", ["I am tired.", "I am tried.", "I am tyred."]),
    ],
)
def test_the_right_text_is_the_most_probable(score: Score, context: str, texts: list[str]) -> None:
    """Texts after the same context can be compared, and those inside a word as well."""
    found = [result["log_probability"] for result in score(text=texts, context=context)]
    assert max(found) == found[0] < 0
    alone = [score(text=text, context=context)[0]["log_probability"] for text in texts]
    assert found == alone


def test_no_context_is_the_start_of_a_text(score: Score) -> None:
    """An empty context, and null, change nothing."""
    text = "How are you?"
    assert score(text=text) == score(text=text, context="") == score(text=text, context=None)


def test_details_show_which_token_is_improbable(score: Score) -> None:
    """Their places are those of the text as sent, whatever its normal form."""
    text = "I have \u200btwo\u3000apple\u0301s.\r\n我們很好😀"
    (result,) = score(text=text, details=True)
    entries = result["details"]
    assert "".join(text[each["start"] : each["end"]] for each in entries) == text
    assert all(text[each["start"] : each["end"]] == each["text"] for each in entries)
    total = sum(each["log_probability"] for each in entries)
    assert total == pytest.approx(result["log_probability"], abs=1e-4)
    costs = {each["text"]: each["log_probability"] for each in entries}
    assert costs["\r\n"] == 0 and costs["😀"] == min(costs.values())


def test_line_ends_of_any_system_cost_nothing(score: Score) -> None:
    """A text with CR LF has the probability of the same text with LF."""
    lines = ["I am a student.", "我很好。", "Goodbye"]
    found = [score(text=end.join(lines))[0]["log_probability"] for end in ("\n", "\r\n", "\r")]
    assert found[0] == found[1] == found[2]
