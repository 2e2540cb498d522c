"""Opening what is evaluated."""

import shutil
from pathlib import Path

import pytest

from model.errors import CheckpointError
from model.queries import ClozeQuery, ClozeResult, PredictQuery, PredictResult, ScoreQuery, ScoreResult
from tests.fixtures_checkpoint import build_tiny_checkpoint
from training.contestants import FORWARD_CLOZE_CANDIDATES, is_ngram, open_contestant


def test_an_ngram_answers_every_question(tiny_ngram: Path) -> None:
    """The serving decoders run over it: next words, whole scores, and blanks by proposals from the left."""
    contestant = open_contestant(tiny_ngram)
    predicted, filled, scored = contestant.predictor.run(
        [PredictQuery("I like the cat that s"), ClozeQuery("I like the ____ that sat"), ScoreQuery("I like the cat")]
    )
    assert isinstance(predicted, PredictResult)
    assert predicted.candidates[0].append == "at"
    assert isinstance(filled, ClozeResult)
    assert filled.blanks[0].candidates[0].word == "cat"
    assert isinstance(scored, ScoreResult)
    assert 0 < scored.bits_per_character < 8
    assert contestant.name == "3-gram"
    assert contestant.cloze_candidates == FORWARD_CLOZE_CANDIDATES
    assert contestant.about["bytes"] > 0
    assert "pieces, each once" in contestant.about["saw"]


def test_a_checkpoint_is_asked_as_users_ask_it(tiny_checkpoint: Path) -> None:
    """Five candidates, and its size is that of its directory."""
    contestant = open_contestant(tiny_checkpoint)
    assert contestant.cloze_candidates == 5
    assert contestant.about["bytes"] == sum(
        path.stat().st_size for path in tiny_checkpoint.rglob("*") if path.is_file()
    )
    assert not is_ngram(tiny_checkpoint)


def test_a_forward_only_checkpoint_is_asked_for_blanks_too(tmp_path: Path) -> None:
    """It serves no /cloze, but can be compared on it."""
    build_tiny_checkpoint(tmp_path / "forward", fp32=False, architecture="forward")
    contestant = open_contestant(tmp_path / "forward")
    (filled,) = contestant.predictor.run([ClozeQuery("I like the ____ that sat")])
    assert isinstance(filled, ClozeResult)
    assert contestant.cloze_candidates == FORWARD_CLOZE_CANDIDATES


def test_an_ngram_without_its_vocabulary_is_a_named_error(tiny_ngram: Path, tmp_path: Path) -> None:
    """A torn directory says what to do."""
    shutil.copytree(tiny_ngram, tmp_path / "torn")
    (tmp_path / "torn" / "vocabulary.model").unlink()
    with pytest.raises(CheckpointError, match="build the n-gram again"):
        open_contestant(tmp_path / "torn")
