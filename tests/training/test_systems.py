"""Systems under evaluation: opened, and asked in portions."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from model.errors import LacunaError, QueryError
from model.queries import (
    Candidate,
    ClozeQuery,
    PredictQuery,
    PredictResult,
    Query,
    Result,
    ScoreQuery,
    ScoreResult,
    Usage,
)
from training.evaluation import systems
from training.evaluation.systems import EvaluatedSystem, open_system


class Echo:
    """Appends the text of each query; the text `bad` is not answered."""

    def __init__(self) -> None:
        self.asked: list[Sequence[Query]] = []

    def run(self, queries: Sequence[Query]) -> list[Result | LacunaError]:
        """Answer in order."""
        self.asked.append(queries)
        return [self._answer(str(query.text)) for query in queries]

    def _answer(self, text: str) -> Result | LacunaError:
        if text == "bad":
            return QueryError("/text", "not answered")
        return PredictResult((Candidate(text, text, 0.1),), Usage(1))


def test_queries_are_asked_in_portions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers are in the order of the queries; the first error is raised."""
    monkeypatch.setattr(systems, "QUERIES_AT_ONCE", 2)
    echo = Echo()
    system = EvaluatedSystem("echo", echo)
    results = system.ask([PredictQuery(str(n)) for n in range(5)], PredictResult)
    assert [len(portion) for portion in echo.asked] == [2, 2, 1]
    assert [result.candidates[0].append for result in results] == list("01234")
    with pytest.raises(QueryError, match="not answered"):
        system.ask([PredictQuery("bad")], PredictResult)
    with pytest.raises(TypeError, match="PredictResult, not ScoreResult"):
        system.ask([ScoreQuery("a")], ScoreResult)


def test_history_goes_with_queries_that_take_one() -> None:
    """Scores are asked for as they are."""
    echo, history = Echo(), "earlier"
    queries: list[Query] = [PredictQuery("a"), ClozeQuery("a ____"), ScoreQuery("a")]
    EvaluatedSystem("echo", echo, history=history).ask(queries, PredictResult)
    expected = [replace(query, history=history) for query in queries[:2]]
    assert echo.asked == [[*expected, ScoreQuery("a")]]


def test_a_report_describes_a_checkpoint(tiny_checkpoint: Path) -> None:
    """Name, digest and the size of all files."""
    system = open_system(tiny_checkpoint)
    files = [path for path in tiny_checkpoint.rglob("*") if path.is_file()]
    assert system.name == "tiny 1"
    assert system.about["bytes"] == sum(path.stat().st_size for path in files)
    assert len(system.about["digest"]) == 64
