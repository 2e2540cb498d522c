"""Opens what can be evaluated: a checkpoint, or an n-gram as if it were one. Asks nothing.

Both run behind model/predictor.py, the predictor that serves, and are asked for as many words as users ask for.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from model.checkpoint import Checkpoint, load_checkpoint
from model.config import Calibration
from model.errors import CheckpointError, LacunaError, VocabularyError
from model.ngram import DESCRIPTION, open_ngram, size_in_bytes
from model.predictor import Predictor
from model.queries import Query, Result
from model.runtime import Runtime, open_runtime
from model.vocabulary import Vocabulary


class Answering(Protocol):
    """What is measured: model/predictor.py, or a test's stand-in."""

    def run(self, queries: Sequence[Query]) -> Sequence[Result | LacunaError]:
        """Answer queries in order."""
        ...


@dataclass(frozen=True, slots=True)
class Contestant:
    """One predictor under evaluation.

    Attributes:
        name: what the report calls it.
        predictor: answers queries.
        about: architecture, size and what text it saw, for the report.
    """

    name: str
    predictor: Answering
    about: dict[str, Any]


def open_contestant(directory: Path, device: Literal["cpu", "cuda"] = "cpu", threads: int = 1) -> Contestant:
    """Open a checkpoint or an n-gram behind a predictor.

    Raises:
        CheckpointError: it cannot be read.
    """
    checkpoint, runtime = open_for_decoding(directory, device, threads)
    return Contestant(checkpoint.name, Predictor(checkpoint, runtime), _about(checkpoint))


def open_for_decoding(
    directory: Path, device: Literal["cpu", "cuda"] = "cpu", threads: int = 1
) -> tuple[Checkpoint, Runtime]:
    """The two things that a predictor is made of; *directory* holds a checkpoint or an n-gram.

    Raises:
        CheckpointError: it cannot be read.
    """
    if not is_ngram(directory):
        checkpoint = load_checkpoint(directory)
        return checkpoint, open_runtime(checkpoint, device, threads)
    ngram = open_ngram(directory)
    try:
        vocabulary = Vocabulary.load(directory / "vocabulary.model")
    except VocabularyError as error:
        raise CheckpointError(f"{error}; build the n-gram again") from error
    checkpoint = Checkpoint(
        directory=directory,
        name=f"{ngram.order}-gram",
        version="1",
        digest=hashlib.sha256((directory / DESCRIPTION).read_bytes()).hexdigest(),
        network=ngram.config,
        calibration=Calibration.from_dict(ngram.description["calibration"]),
        vocabulary=vocabulary,
        languages=("zh", "en"),
        training=ngram.description,
    )
    return checkpoint, ngram


def is_ngram(directory: Path) -> bool:
    """Whether `python -m training ngram` wrote it."""
    return (directory / DESCRIPTION).exists()


def _about(checkpoint: Checkpoint) -> dict[str, Any]:
    about: dict[str, Any] = {"digest": checkpoint.digest, "calibration": checkpoint.calibration.to_dict()}
    if is_ngram(checkpoint.directory):
        description = checkpoint.training
        text = description["text"]
        once = all(source["counted"] == 1 for source in text["sources"])
        saw = f"{text['pieces']:,} pieces{', each once' if once else ', weighted sources more than once'}"
        return about | {
            "architecture": f"{checkpoint.name}, {description['smoothing']}, {sum(description['counts']):,} n-grams",
            "bytes": size_in_bytes(checkpoint.directory),
            "saw": saw,
            "text": text,
        }
    network = checkpoint.network
    pieces = checkpoint.training.get("pieces_seen")
    return about | {
        "architecture": f"{network.architecture}, {network.cell}, layers {network.forward_layers} forward"
        f" and {network.backward_layers} backward of {network.hidden_size}",
        "bytes": sum(path.stat().st_size for path in checkpoint.directory.rglob("*") if path.is_file()),
        "saw": f"{pieces:,} pieces, those seen again included" if isinstance(pieces, int) else "",
        "text": checkpoint.training,
    }
