"""Systems under evaluation: a checkpoint or an n-gram, behind the predictor that serves."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from model.checkpoint import Capability, Checkpoint
from model.errors import LacunaError
from model.ngram import size_in_bytes
from model.predictor import Predictor, is_ngram, open_model
from model.queries import Query, Result

CAPABILITIES: tuple[Capability, ...] = ("predict", "score", "cloze")


class QueryRunner(Protocol):
    """A predictor: model/predictor.py, or the double of a test."""

    def run(self, queries: Sequence[Query]) -> Sequence[Result | LacunaError]:
        """Answer queries in order."""
        ...


@dataclass(frozen=True, slots=True)
class EvaluatedSystem:
    """A system under evaluation.

    Attributes:
        name: in the report.
        predictor: answers queries.
        about: architecture, size and the text that it read, for the report.
        capabilities: questions that it can answer.
    """

    name: str
    predictor: QueryRunner
    about: dict[str, Any]
    capabilities: tuple[Capability, ...] = CAPABILITIES


def open_system(
    directory: Path,
    device: Literal["cpu", "cuda"] = "cpu",
    threads: int = 1,
    *,
    use_cache_lm: bool = True,
) -> EvaluatedSystem:
    """Open a checkpoint or an n-gram.

    Raises:
        CheckpointError: it cannot be read.
    """
    checkpoint, runtime = open_model(directory, device, threads)
    predictor = Predictor(checkpoint, runtime, use_cache_lm=use_cache_lm)
    about: dict[str, Any] = {"digest": checkpoint.digest}
    about["calibration"] = asdict(checkpoint.calibration)
    if is_ngram(directory):
        about |= _about_ngram(checkpoint)
        return EvaluatedSystem(checkpoint.name, predictor, about)
    network, tokens = checkpoint.config.network, checkpoint.training.get("tokens_seen")
    layers = f"{network.forward_layers} forward and {network.backward_layers} backward"
    files = [path for path in directory.rglob("*") if path.is_file()]
    about |= {
        "architecture": f"{network.architecture}, {network.cell}, layers {layers}"
        f" of {network.hidden_size}",
        "bytes": sum(path.stat().st_size for path in files),
        "saw": f"{tokens:,} tokens, those seen again included" if isinstance(tokens, int) else "",
        "text": checkpoint.training,
    }
    name = f"{checkpoint.name} {checkpoint.version}"
    return EvaluatedSystem(name, predictor, about, checkpoint.capabilities)


def _about_ngram(checkpoint: Checkpoint) -> dict[str, Any]:
    description = checkpoint.training
    text, count = description["text"], sum(description["counts"])
    return {
        "architecture": f"{checkpoint.name}, {description['smoothing']}, {count:,} n-grams",
        "bytes": size_in_bytes(checkpoint.directory),
        "saw": f"{text['tokens']:,} tokens, each once",
        "text": text,
    }
