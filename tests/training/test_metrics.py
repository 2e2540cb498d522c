"""Asking in portions, and judging answers."""

from collections.abc import Sequence

import pytest

from model.errors import LacunaError, QueryError
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
from training.evaluation import metrics
from training.evaluation.metrics import LineResult, answer_all, ask, first_characters
from training.evaluation.systems import EvaluatedSystem
from training.evaluation.test_items import Items, NextQuestion, TextFile


class Scripted:
    """Answers next items with given candidates and scores every text alike."""

    def __init__(self, appends: dict[str, tuple[tuple[str, float], ...]]) -> None:
        self.appends = appends
        self.portions: list[int] = []

    def run(self, queries: Sequence[Query]) -> list[Result | LacunaError]:
        """Answer in order."""
        self.portions.append(len(queries))
        return [self._answer(query) for query in queries]

    def _answer(self, query: Query) -> Result | LacunaError:
        if isinstance(query, ScoreQuery):
            return ScoreResult(-1.0, len(query.text), 1, Usage(1))
        found = self.appends.get(query.text)
        if found is None:
            return QueryError("/text", "not in the script")
        return PredictResult(tuple(Candidate(append, append, p) for append, p in found), Usage(1))


def next_line(
    language: str, text: str, rest: str, answer: str, *found: tuple[str, float]
) -> LineResult:
    """Return the result of one next item."""
    files = [TextFile("a", language, (text + rest,))]
    items = Items(files, [NextQuestion(0, 0, text, rest, answer)], [], [])
    system = EvaluatedSystem("scripted", Scripted({text: found}), {})
    answers, seconds = answer_all(system, items)
    assert seconds.keys() == answers.keys()
    return answers["next"][0]


def test_english_compares_whole_words() -> None:
    """`store` is not `stores`; the rank of the right word counts."""
    line = next_line("en", "to the ", "store now", "store", ("stores", 0.5), ("store", 0.2))
    assert line.sums["next_top1"] == (0, 1)
    assert line.sums["next_top3"] == (1, 1)
    assert line.sums["next_mrr"] == (0.5, 1)
    assert line.judged["next_ece"] == [(0.5, False)]


def test_chinese_compares_first_characters_and_continuations() -> None:
    """`我` and `我们` predict the same next character; only the first is how the line goes on."""
    found = (("你", 0.3), ("我们", 0.25), ("我", 0.15), ("他", 0.1))
    line = next_line("zh", "老师批评了", "我。", "我", *found)
    assert line.sums["next_top1"] == (1, 1)
    assert line.judged["next_ece"] == [(pytest.approx(0.4), True)]
    assert line.sums["append_top1"] == (0, 1)
    assert line.sums["append_mrr"] == (pytest.approx(1 / 3), 1)
    ranked = first_characters([("我们", 0.3), ("你", 0.35), ("我", 0.2)])
    assert ranked == [("我", pytest.approx(0.5)), ("你", 0.35)]


def test_no_candidates_are_a_miss() -> None:
    """A miss counts at every rank and claims no probability."""
    line = next_line("en", "to the ", "store", "store")
    assert line.sums["next_top5"] == (0, 1)
    assert line.sums["next_mrr"] == (0, 1)
    assert "next_ece" not in line.judged


def test_queries_are_asked_in_portions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers are in the order of the queries; the first error is raised."""
    monkeypatch.setattr(metrics, "QUERIES_AT_ONCE", 2)
    predictor = Scripted({str(n): ((f"answer {n}", 0.1),) for n in range(5)})
    system = EvaluatedSystem("scripted", predictor, {})
    results = ask(system, [PredictQuery(str(n)) for n in range(5)], PredictResult)
    assert predictor.portions == [2, 2, 1]
    assert [result.candidates[0].append for result in results] == [f"answer {n}" for n in range(5)]
    with pytest.raises(QueryError, match="not in the script"):
        ask(system, [PredictQuery("x")], PredictResult)
