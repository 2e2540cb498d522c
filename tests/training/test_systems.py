"""Opening systems under evaluation."""

import shutil
from pathlib import Path

import pytest

from model.decoding.cloze import RESCORED_BLIND
from model.errors import CheckpointError
from model.queries import (
    ClozeQuery,
    ClozeResult,
    PredictQuery,
    PredictResult,
    ScoreQuery,
    ScoreResult,
)
from tests.fixtures_checkpoint import build_tiny_checkpoint
from training.evaluation.systems import open_system


def test_an_ngram_answers_every_question(tiny_ngram: Path) -> None:
    """The decoders of the service run over it."""
    system = open_system(tiny_ngram)
    queries = [PredictQuery("I like the cat that s"), ClozeQuery("I like the ____ that sat")]
    predicted, filled, scored = system.predictor.run([*queries, ScoreQuery("I like the cat")])
    assert isinstance(predicted, PredictResult)
    assert predicted.candidates[0].append == "at"
    assert isinstance(filled, ClozeResult)
    assert filled.blanks[0].candidates[0].word == "cat"
    assert isinstance(scored, ScoreResult)
    assert 0 < scored.bits_per_character < 8
    assert system.name == "3-gram"
    assert system.about["bytes"] > 0
    assert "tokens, each once" in system.about["saw"]


def test_the_size_of_a_checkpoint_is_that_of_its_files(tiny_checkpoint: Path) -> None:
    """Every file counts; an edition is named."""
    system = open_system(tiny_checkpoint)
    files = [path for path in tiny_checkpoint.rglob("*") if path.is_file()]
    assert system.about["bytes"] == sum(path.stat().st_size for path in files)
    assert system.name == "tiny 1"


def test_a_forward_only_checkpoint_fills_blanks(tmp_path: Path) -> None:
    """Five candidates are the best of as many as are ranked."""
    build_tiny_checkpoint(tmp_path / "forward", fp32=False, architecture="forward")
    system = open_system(tmp_path / "forward")
    assert system.capabilities == ("predict", "score", "cloze")
    text = "I like the ____ that sat"
    few, many = system.predictor.run([ClozeQuery(text, 5), ClozeQuery(text, RESCORED_BLIND)])
    assert isinstance(few, ClozeResult) and isinstance(many, ClozeResult)
    assert len(many.blanks[0].candidates) > 5
    assert few.blanks[0].candidates == many.blanks[0].candidates[:5]


def test_an_ngram_without_its_tokenizer_is_a_named_error(tiny_ngram: Path, tmp_path: Path) -> None:
    """The message contains the remedy."""
    shutil.copytree(tiny_ngram, tmp_path / "torn")
    (tmp_path / "torn" / "tokenizer.model").unlink()
    with pytest.raises(CheckpointError, match="build the n-gram again"):
        open_system(tmp_path / "torn")
