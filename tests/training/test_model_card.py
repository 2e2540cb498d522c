"""Scores and model cards of a checkpoint."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from model.checkpoint import load_checkpoint
from model.errors import ExportError
from training.__main__ import main
from training.evaluation.model_card import CardOptions, model_card, notes_of, read_scores, run

FIGURE = {"values": [0.41, 0.3], "intervals": [[0.4, 0.42], [0.29, 0.31]], "n": 1000}
REPORT: dict[str, Any] = {"languages": {"en": {"metrics": {"next_top3": FIGURE}}}}


def test_scores_and_notes_go_into_the_checkpoint(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """The figures of the first system, and the notes, are kept until new ones come."""
    copy = Path(shutil.copytree(tiny_checkpoint, tmp_path / "copy"))
    before = load_checkpoint(copy).digest
    scores, notes = tmp_path / "evaluation.json", tmp_path / "notes.md"
    scores.write_text(json.dumps(REPORT), encoding="utf-8")
    notes.write_text("All text is in the public domain.\n", encoding="utf-8")
    assert main(["card", str(copy), "--scores", str(scores), "--notes", str(notes)]) == 0
    checkpoint = load_checkpoint(copy)
    expected = {"value": 0.41, "interval": [0.4, 0.42], "n": 1000}
    assert checkpoint.scores == {"en": {"next_top3": expected}}
    assert checkpoint.digest != before
    card = (copy / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert "All text is in the public domain." in card
    assert main(["card", str(copy)]) == 0
    assert load_checkpoint(copy).scores == checkpoint.scores
    assert (copy / "MODEL_CARD.md").read_text(encoding="utf-8") == card


def test_known_words_come_from_prepared_data(
    tiny_checkpoint: Path, prepared: Path, tmp_path: Path
) -> None:
    """A checkpoint takes the words of other text, under a new version."""
    copy = Path(shutil.copytree(tiny_checkpoint, tmp_path / "copy"))
    assert main(["card", str(copy), "--prepared", str(prepared), "--version", "1.1"]) == 0
    assert (copy / "words").read_bytes() == (prepared / "words").read_bytes()
    assert load_checkpoint(copy).version == "1.1"
    assert (copy / "MODEL_CARD.md").read_text(encoding="utf-8").startswith("# tiny 1.1\n")


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"languages": {"en": {"metrics": 3}}}'])
def test_other_files_than_an_evaluation_are_refused(tmp_path: Path, content: str) -> None:
    """The error names the file."""
    path = tmp_path / "other.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(ExportError, match=r"other\.json: not an evaluation\.json"):
        read_scores(path)


def test_notes_that_are_not_utf8_are_refused(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """The error names the file and the byte."""
    notes = tmp_path / "notes.md"
    notes.write_bytes(b"caf\xe9")
    with pytest.raises(ExportError, match=r"notes\.md: not UTF-8 at byte 3"):
        run(CardOptions(tiny_checkpoint, notes=notes))


def test_notes_are_taken_from_a_card(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """A card made from an earlier one keeps its remarks on licences."""
    config, path = load_checkpoint(tiny_checkpoint).config, tmp_path / "card.md"
    path.write_text(model_card(config, "Novels: public domain.\n\nChats: CC0."), "utf-8")
    assert notes_of(path) == "Novels: public domain.\n\nChats: CC0."
