"""Typing with suggestions."""

import pytest

from model.queries import Candidate, PredictQuery, PredictResult, Usage
from training.evaluation.typing import continues, keys_pressed


def suggest(*appends: str) -> PredictResult:
    """Return candidates that append these."""
    return PredictResult(tuple(Candidate(append, append, 0.1) for append in appends), Usage(0))


def test_without_suggestions_every_character_costs_a_key() -> None:
    """The worst case is the length of each line."""
    keys = keys_pressed(["abc", "", "我们"], lambda queries: [suggest() for _ in queries])
    assert keys == [3, 0, 2]


def test_a_right_suggestion_costs_one_key() -> None:
    """Keys for `hello world`: h, e, accept, space, accept."""
    known = {"he": "llo", "hello ": "world"}

    def predict(queries: list[PredictQuery]) -> list[PredictResult]:
        assert all(query.top_k == 3 for query in queries)
        return [suggest("xy", known.get(query.text, "xy")) for query in queries]

    assert keys_pressed(["hello world"], predict) == [5]


def test_the_longest_right_suggestion_is_taken() -> None:
    """Rank does not matter."""
    answers = [suggest("天气", "天气很好")]
    assert keys_pressed(["天气很好"], lambda _: answers) == [1]


@pytest.mark.parametrize(
    ("rest", "append", "right"),
    [
        ("there", "the", False),  # in mid-word
        ("the cat", "the", True),
        ("the cat", "the cat", True),
        ("a cat", "a", False),  # saves no key
        ("cat", "cats", False),
        ("天气很好", "天气", True),
        (" cat sat", " cat", True),
    ],
)
def test_a_suggestion_must_end_with_the_word(rest: str, append: str, right: bool) -> None:
    """English suggestions end at a word boundary; Chinese needs none."""
    assert continues(rest, append) is right
