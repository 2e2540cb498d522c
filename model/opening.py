"""Opens whatever can answer: a checkpoint directory, or an n-gram as if it were one.

So all systems that the project compares are served by the same service and evaluated by the same commands.
"""

import hashlib
import json
from pathlib import Path
from typing import Literal

from model.checkpoint import Checkpoint, count_parameters, load_checkpoint
from model.config import Calibration, parse
from model.errors import CheckpointError, TokenizerError
from model.ngram import DESCRIPTION, open_ngram, read_description
from model.runtime import Runtime, open_runtime
from model.tokenizer import Tokenizer


def open_model(
    directory: Path, device: Literal["cpu", "cuda"] = "cpu", threads: int = 1
) -> tuple[Checkpoint, Runtime]:
    """The two things that a predictor is made of; *directory* holds a checkpoint or an n-gram.

    Args:
        directory: of either.
        device: of a network; an n-gram runs on the CPU.
        threads: that one call may use on a CPU.

    Raises:
        CheckpointError: it cannot be read, or the device cannot run it.
    """
    if not is_ngram(directory):
        checkpoint = load_checkpoint(directory)
        return checkpoint, open_runtime(checkpoint, device, threads)
    ngram = open_ngram(directory)
    try:
        tokenizer = Tokenizer.load(directory / "tokenizer.model")
    except TokenizerError as error:
        raise CheckpointError(f"{error}; build the n-gram again") from error
    checkpoint = Checkpoint(
        directory=directory,
        name=f"{ngram.order}-gram",
        version="1",
        digest=hashlib.sha256((directory / DESCRIPTION).read_bytes()).hexdigest(),
        network=ngram.config,
        calibration=parse(Calibration, json.dumps(ngram.description["calibration"])),
        tokenizer=tokenizer,
        languages=("zh", "en"),
        word_end_probs=(0.0,) * tokenizer.size,
        training=ngram.description,
    )
    return checkpoint, ngram


def is_ngram(directory: Path) -> bool:
    """Whether `python -m training ngram` wrote it."""
    return (directory / DESCRIPTION).exists()


def size_of(checkpoint: Checkpoint) -> int:
    """Numbers that were trained, or n-grams that were counted.

    Raises:
        CheckpointError: the files that say so cannot be read.
    """
    if is_ngram(checkpoint.directory):
        return sum(map(int, read_description(checkpoint.directory)["counts"]))
    return count_parameters(checkpoint.directory)
