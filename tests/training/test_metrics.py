"""Judging answers, and typing with suggestions."""

from collections.abc import Sequence

import pytest

from model.errors import LacunaError
from model.queries import Candidate, PredictQuery, PredictResult, Query, Result, Usage
from training.evaluation.metrics import answer_all, continues, keys_pressed
from training.evaluation.systems import EvaluatedSystem
from training.evaluation.test_items import Items, NextQuestion, TextFile


class Scripted:
    """Answers every next item with given candidates."""

    def __init__(self, candidates: Sequence[tuple[str, float]]) -> None:
        self.candidates = tuple(Candidate(append, append, p) for append, p in candidates)

    def run(self, queries: Sequence[Query]) -> list[Result | LacunaError]:
        """Answer in order."""
        return [PredictResult(self.candidates, Usage(1)) for _ in queries]


@pytest.mark.parametrize(
    ("language", "rest", "answer", "found", "hits", "claimed"),
    [
        # `store` is not `stores`
        ("en", "store now", "store", [("stores", 0.5), ("store", 0.2)], (0, 1, 1), [(0.5, 0)]),
        # `我` and `我们` predict the same next character
        ("zh", "我。", "我", [("你", 0.3), ("我们", 0.25), ("我", 0.15)], (1, 1, 1), [(0.4, 1)]),
        # No candidates are a miss at every rank
        ("en", "store", "store", [], (0, 0, 0), []),
    ],
)
def test_next_words_are_compared(
    language: str,
    rest: str,
    answer: str,
    found: list[tuple[str, float]],
    hits: tuple[int, ...],
    claimed: list[tuple[float, float]],
) -> None:
    """English compares whole words; Chinese adds up candidates by first character."""
    files = [TextFile("a", language, ("to the " + rest,))]
    items = Items(files, [NextQuestion(0, 0, "to the ", rest, answer)], [], [])
    (line,) = answer_all(EvaluatedSystem("scripted", Scripted(found)), items, ["predict"])["next"]
    assert tuple(line.pairs[f"next_top{depth}"][0][0] for depth in (1, 3, 5)) == hits
    assert line.pairs.get("next_ece", []) == [pytest.approx(pair) for pair in claimed]


@pytest.mark.parametrize(
    ("line", "known", "keys"),
    [
        ("abc", {}, 3),
        ("", {}, 0),
        ("我们", {}, 2),
        ("hello world", {"he": ["llo"], "hello ": ["world"]}, 5),
        ("天气很好", {"": ["天气", "天气很好"]}, 1),
    ],
)
def test_a_right_suggestion_costs_one_key(
    line: str, known: dict[str, list[str]], keys: int
) -> None:
    """A typed character costs a key, and so does the longest right suggestion of any rank."""

    def predict(queries: list[PredictQuery]) -> list[PredictResult]:
        assert all(query.top_k == 3 for query in queries)
        return [
            PredictResult(
                tuple(Candidate(append, append, 0.1) for append in known.get(query.text, ["xy"])),
                Usage(0),
            )
            for query in queries
        ]

    assert keys_pressed([line], predict) == [keys]


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
