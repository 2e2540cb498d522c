"""Opening what is evaluated."""

import shutil
from pathlib import Path

import pytest

from model.checkpoint import Checkpoint
from model.decoding.cloze import RESCORED_BLIND
from model.errors import CheckpointError
from model.predictor import is_ngram, open_model
from model.queries import (
    ClozeQuery,
    ClozeResult,
    PredictQuery,
    PredictResult,
    ScoreQuery,
    ScoreResult,
)
from tests.fixtures_checkpoint import build_tiny_checkpoint
from training.evaluation.systems import open_contestant


def test_an_ngram_answers_every_question(tiny_ngram: Path) -> None:
    """The serving decoders run over it: next words, whole scores, and blanks by proposals from the left."""
    contestant = open_contestant(tiny_ngram)
    predicted, filled, scored = contestant.predictor.run(
        [
            PredictQuery("I like the cat that s"),
            ClozeQuery("I like the ____ that sat"),
            ScoreQuery("I like the cat"),
        ]
    )
    assert isinstance(predicted, PredictResult)
    assert predicted.candidates[0].append == "at"
    assert isinstance(filled, ClozeResult)
    assert filled.blanks[0].candidates[0].word == "cat"
    assert isinstance(scored, ScoreResult)
    assert 0 < scored.bits_per_character < 8
    assert contestant.name == "3-gram"
    assert contestant.about["bytes"] > 0
    assert "tokens, each once" in contestant.about["saw"]


def test_the_size_of_a_checkpoint_is_that_of_its_directory(tiny_checkpoint: Path) -> None:
    """Every file counts, and a checkpoint is no n-gram."""
    contestant = open_contestant(tiny_checkpoint)
    assert contestant.about["bytes"] == sum(
        path.stat().st_size for path in tiny_checkpoint.rglob("*") if path.is_file()
    )
    assert not is_ngram(tiny_checkpoint)


def test_a_forward_only_checkpoint_is_asked_for_blanks_too(tmp_path: Path) -> None:
    """It is opened as what serves, and asked for five it answers the best of as many as it would rank for 32."""
    build_tiny_checkpoint(tmp_path / "forward", fp32=False, architecture="forward")
    checkpoint, _ = open_model(tmp_path / "forward")
    assert type(checkpoint) is Checkpoint
    assert checkpoint.capabilities == ("predict", "score", "cloze")
    predictor = open_contestant(tmp_path / "forward").predictor
    text = "I like the ____ that sat"
    few, many = predictor.run([ClozeQuery(text, 5), ClozeQuery(text, RESCORED_BLIND)])
    assert isinstance(few, ClozeResult) and isinstance(many, ClozeResult)
    assert len(many.blanks[0].candidates) > 5
    assert few.blanks[0].candidates == many.blanks[0].candidates[:5]


def test_an_ngram_without_its_vocabulary_is_a_named_error(tiny_ngram: Path, tmp_path: Path) -> None:
    """A torn directory says what to do."""
    shutil.copytree(tiny_ngram, tmp_path / "torn")
    (tmp_path / "torn" / "tokenizer.model").unlink()
    with pytest.raises(CheckpointError, match="build the n-gram again"):
        open_contestant(tmp_path / "torn")
