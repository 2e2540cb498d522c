"""Typing with suggestions."""

from model.queries import Candidate, PredictQuery, PredictResult, Usage
from training.evaluation.typing import continues, keys_pressed


def suggest(*appends: str) -> PredictResult:
    """Candidates that append these."""
    return PredictResult(tuple(Candidate(append, append, 0.1) for append in appends), Usage(0))


def test_without_suggestions_every_character_costs_a_key() -> None:
    """The worst case is the length of each line."""
    keys = keys_pressed(["abc", "", "我们"], lambda queries: [suggest() for _ in queries])
    assert keys == [3, 0, 2]


def test_a_right_suggestion_costs_one_key() -> None:
    """`he` typed, `llo` accepted, the space typed, `world` accepted: 5 keys for 11 characters."""
    known = {"he": "llo", "hello ": "world"}

    def predict(queries: list[PredictQuery]) -> list[PredictResult]:
        assert all(query.top_k == 3 for query in queries)
        return [
            suggest("xy", known[query.text]) if query.text in known else suggest("xy")
            for query in queries
        ]

    assert keys_pressed(["hello world"], predict) == [5]


def test_the_longest_right_suggestion_is_taken_and_progress_told() -> None:
    """Rank does not matter, length does; the characters of all rounds sum to those of the lines."""
    told: list[int] = []
    keys = keys_pressed(
        ["天气很好"], lambda queries: [suggest("天气", "天气很好") for _ in queries], told.append
    )
    assert keys == [1]
    assert sum(told) == 4


def test_a_suggestion_must_end_where_the_word_does() -> None:
    """`the` is not accepted where `there` stands, nor anything of one character; Chinese needs no boundary."""
    assert not continues("there", "the")
    assert continues("the cat", "the")
    assert continues("the cat", "the cat")
    assert not continues("a cat", "a")
    assert not continues("cat", "cats")
    assert continues("天气很好", "天气")
    assert continues(" cat sat", " cat")
