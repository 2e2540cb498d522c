"""Systems under evaluation: checkpoints, behind the predictor that serves."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

from tqdm import tqdm

from model.checkpoint import Capability
from model.errors import LacunaError
from model.predictor import Predictor, open_model
from model.queries import (
    ClozeQuery,
    ClozeResult,
    PredictQuery,
    PredictResult,
    Query,
    Result,
    ScoreResult,
)

CAPABILITIES: tuple[Capability, ...] = ("predict", "score", "cloze")
# Queries in one call of the predictor, which decides how many it decodes side by side
QUERIES_AT_ONCE = 256

AnyResult = TypeVar("AnyResult", PredictResult, ClozeResult, ScoreResult)


class QueryRunner(Protocol):
    """A predictor: model/predictor.py, or the double of a test."""

    def run(self, queries: Sequence[Query]) -> Sequence[Result | LacunaError]:
        """Answer queries in order."""
        ...


@dataclass(frozen=True, slots=True)
class EvaluatedSystem:
    """A system under evaluation."""

    name: str  # in the report
    predictor: QueryRunner
    about: dict[str, Any] = field(default_factory=dict)  # for the report
    capabilities: tuple[Capability, ...] = CAPABILITIES
    history: str = ""  # earlier text that goes with every query that takes one

    def ask(self, queries: Sequence[Query], kind: type[AnyResult]) -> list[AnyResult]:
        """Answer queries in order, all with results of one kind.

        Raises:
            LacunaError: the first query that was not answered.
            TypeError: a result is of another kind.
        """
        answers: list[AnyResult] = []
        starts = range(0, len(queries), QUERIES_AT_ONCE)
        for start in tqdm(starts, desc=self.name, leave=False, disable=None):
            portion = [self._with_history(q) for q in queries[start : start + QUERIES_AT_ONCE]]
            for result in self.predictor.run(portion):
                if isinstance(result, LacunaError):
                    raise result
                if not isinstance(result, kind):
                    raise TypeError(f"{self.name}: {type(result).__name__}, not {kind.__name__}")
                answers.append(result)
        return answers

    def _with_history(self, query: Query) -> Query:
        if self.history and isinstance(query, PredictQuery | ClozeQuery):
            return replace(query, history=self.history)
        return query


def open_system(
    directory: Path,
    device: Literal["cpu", "cuda"] = "cpu",
    threads: int = 1,
    *,
    use_cache_lm: bool = True,
) -> EvaluatedSystem:
    """Open a checkpoint.

    Raises:
        CheckpointError: it cannot be read.
    """
    checkpoint, runtime = open_model(directory, device, threads)
    about = {
        "digest": checkpoint.digest,
        "calibration": asdict(checkpoint.calibration),
        "bytes": sum(path.stat().st_size for path in directory.rglob("*") if path.is_file()),
        "training": checkpoint.training,
    }
    predictor = Predictor(checkpoint, runtime, use_cache_lm=use_cache_lm)
    name = f"{checkpoint.name} {checkpoint.version}"
    return EvaluatedSystem(name, predictor, about, checkpoint.capabilities)
