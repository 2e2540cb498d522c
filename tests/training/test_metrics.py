"""Judging answers."""

from collections.abc import Sequence

import pytest

from model.errors import LacunaError
from model.queries import (
    Candidate,
    PredictQuery,
    PredictResult,
    Query,
    Result,
    ScoreQuery,
    ScoreResult,
    Usage,
)
from training.evaluation.metrics import LineResult, answer_all
from training.evaluation.systems import EvaluatedSystem
from training.evaluation.test_items import Items, NextQuestion, TextFile


class Scripted:
    """Answers every next item with given candidates and scores every text alike."""

    def __init__(self, candidates: Sequence[tuple[str, float]]) -> None:
        self.candidates = tuple(Candidate(append, append, p) for append, p in candidates)

    def run(self, queries: Sequence[Query]) -> list[Result | LacunaError]:
        """Answer in order."""
        return [
            PredictResult(self.candidates, Usage(1))
            if isinstance(query, PredictQuery)
            else ScoreResult(
                -1.0, len(query.text) if isinstance(query, ScoreQuery) else 0, 1, 1.0, Usage(1)
            )
            for query in queries
        ]


def next_line(language: str, rest: str, answer: str, *found: tuple[str, float]) -> LineResult:
    """Return the result of one next item."""
    files = [TextFile("a", language, ("to the " + rest,))]
    items = Items(files, [NextQuestion(0, 0, "to the ", rest, answer)], [], [])
    return answer_all(EvaluatedSystem("scripted", Scripted(found)), items)["next"][0]


def test_english_compares_whole_words() -> None:
    """`store` is not `stores`; the rank of the right word counts."""
    line = next_line("en", "store now", "store", ("stores", 0.5), ("store", 0.2))
    assert (line.pairs["next_top1"], line.pairs["next_top3"]) == ([(0, 1)], [(1, 1)])
    assert line.pairs["next_ece"] == [(0.5, 0)]


def test_chinese_adds_up_candidates_by_first_character() -> None:
    """`我` and `我们` predict the same next character."""
    found = (("你", 0.3), ("我们", 0.25), ("我", 0.15), ("他", 0.1))
    line = next_line("zh", "我。", "我", *found)
    assert line.pairs["next_top1"] == [(1, 1)]
    assert line.pairs["next_ece"] == [(pytest.approx(0.4), 1)]


def test_no_candidates_are_a_miss() -> None:
    """A miss counts at every rank and claims no probability."""
    line = next_line("en", "store", "store")
    assert line.pairs["next_top5"] == [(0, 1)]
    assert "next_ece" not in line.pairs
