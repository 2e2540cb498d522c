"""Opens what can be evaluated: a checkpoint, or an n-gram as if it were one. Asks nothing.

Both run behind model/predictor.py, the predictor that serves, and are asked for as many words as users ask for.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from model.checkpoint import Capability, Checkpoint
from model.errors import LacunaError
from model.ngram import size_in_bytes
from model.predictor import Predictor, is_ngram, open_model
from model.queries import Query, Result

CAPABILITIES: tuple[Capability, ...] = ("predict", "score", "cloze")


class Answering(Protocol):
    """What is measured: model/predictor.py, or a test's stand-in."""

    def run(self, queries: Sequence[Query]) -> Sequence[Result | LacunaError]:
        """Answer queries in order."""
        ...


@dataclass(frozen=True, slots=True)
class EvaluatedSystem:
    """One predictor under evaluation.

    Attributes:
        name: what the report calls it.
        predictor: answers queries.
        about: architecture, size and what text it saw, for the report.
        capabilities: questions that it can answer.
    """

    name: str
    predictor: Answering
    about: dict[str, Any]
    capabilities: tuple[Capability, ...] = CAPABILITIES


def open_contestant(
    directory: Path,
    device: Literal["cpu", "cuda"] = "cpu",
    threads: int = 1,
    *,
    use_cache_lm: bool = True,
) -> EvaluatedSystem:
    """Open a checkpoint or an n-gram behind a predictor, which may do without its memory of the text.

    Raises:
        CheckpointError: it cannot be read.
    """
    checkpoint, runtime = open_model(directory, device, threads)
    predictor = Predictor(checkpoint, runtime, use_cache_lm=use_cache_lm)
    return EvaluatedSystem(
        _called(checkpoint), predictor, _about(checkpoint), checkpoint.capabilities
    )


def _called(checkpoint: Checkpoint) -> str:
    """Editions of one checkpoint have one name; an n-gram's says all."""
    return (
        checkpoint.name
        if is_ngram(checkpoint.directory)
        else f"{checkpoint.name} {checkpoint.version}"
    )


def _about(checkpoint: Checkpoint) -> dict[str, Any]:
    about: dict[str, Any] = {
        "digest": checkpoint.digest,
        "calibration": checkpoint.calibration.to_dict(),
    }
    if is_ngram(checkpoint.directory):
        description = checkpoint.training
        text = description["text"]
        once = all(source["counted"] == 1 for source in text["sources"])
        saw = f"{text['tokens']:,} tokens{', each once' if once else ', weighted sources more than once'}"
        return about | {
            "architecture": f"{checkpoint.name}, {description['smoothing']}, {sum(description['counts']):,} n-grams",
            "bytes": size_in_bytes(checkpoint.directory),
            "saw": saw,
            "text": text,
        }
    network = checkpoint.network
    tokens = checkpoint.training.get("tokens_seen")
    return about | {
        "architecture": f"{network.architecture}, {network.cell}, layers {network.forward_layers} forward"
        f" and {network.backward_layers} backward of {network.hidden_size}",
        "bytes": sum(
            path.stat().st_size for path in checkpoint.directory.rglob("*") if path.is_file()
        ),
        "saw": f"{tokens:,} tokens, those seen again included" if isinstance(tokens, int) else "",
        "text": checkpoint.training,
    }
