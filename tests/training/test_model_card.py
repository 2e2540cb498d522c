"""Scores and cards of a checkpoint: what is known is said, what is not is said to be missing."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from model.checkpoint import count_parameters, load_checkpoint
from model.errors import ExportError
from training.__main__ import main
from training.evaluation.model_card import model_card, read_scores

REPORT: dict[str, Any] = {
    "languages": {
        "en": {
            "metrics": {
                "next_top3": {
                    "values": [0.41, 0.3],
                    "intervals": [[0.4, 0.42], [0.29, 0.31]],
                    "n": 1000,
                },
                "ece": {
                    "values": [0.02],
                    "intervals": [[0.01, 0.03]],
                    "n": 900,
                    "by_chance": [0.01],
                },
            }
        },
        "zh": {"metrics": {"next_top3": {"values": [0.5], "intervals": [[0.45, 0.55]], "n": 800}}},
    }
}


@pytest.fixture
def copy(tmp_path: Path, tiny_checkpoint: Path) -> Path:
    """A copy of the tiny checkpoint that a test may change."""
    return Path(shutil.copytree(tiny_checkpoint, tmp_path / "copy"))


def test_scores_and_notes_go_into_the_checkpoint(
    copy: Path, tmp_path: Path, tiny_checkpoint: Path
) -> None:
    """The command puts the first contestant's figures into config.json and, with the notes, into the card."""
    (tmp_path / "evaluation.json").write_text(json.dumps(REPORT), encoding="utf-8")
    (tmp_path / "notes.md").write_text("All text is in the public domain.\n", encoding="utf-8")
    arguments = [
        "--scores",
        str(tmp_path / "evaluation.json"),
        "--notes",
        str(tmp_path / "notes.md"),
    ]
    assert main(["card", str(copy), *arguments]) == 0
    checkpoint = load_checkpoint(copy)
    assert checkpoint.scores["en"]["next_top3"] == {
        "value": 0.41,
        "interval": [0.4, 0.42],
        "n": 1000,
    }
    assert checkpoint.digest != load_checkpoint(tiny_checkpoint).digest
    card = (copy / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert "| en | next_top3 | 0.41 | 0.4 – 0.42 | 1,000 |" in card
    assert "All text is in the public domain." in card
    assert "# tiny 1" in card
    assert (
        "of blanks: zh 1.000, en 1.000; of choices: zh 1.000, en 1.000; lapse rates of choices: zh 0"
        in card
    )
    assert f"{count_parameters(copy) / 1e6:.2f} million parameters" in card

    assert main(["card", str(copy)]) == 0
    again = load_checkpoint(copy)
    assert again.scores == checkpoint.scores, "scores stay where no new ones are given"


def test_a_card_without_scores_says_so(copy: Path) -> None:
    """Scores and licences that nobody has given are named as missing."""
    assert main(["card", str(copy)]) == 0
    card = (copy / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert "None yet" in card
    assert "none were recorded" in card


def test_a_card_tells_of_the_memory_where_there_is_one(copy: Path) -> None:
    """A stacked network is asked without counts of what was written (model/decoding/masked.py); others with them."""
    checkpoint = load_checkpoint(copy)
    stacked = replace(
        checkpoint.network,
        architecture="stacked_bidirectional",
        backward_layers=0,
        gap_hidden_size=0,
    )
    for network, told in ((checkpoint.network, True), (stacked, False)):
        card = model_card(
            name="a",
            version="1",
            network=network,
            calibration=checkpoint.calibration,
            languages=checkpoint.languages,
            scores={},
            training={},
            parameters=1,
        )
        assert "far back fades" in card
        assert ("are counted and come" in card) is told


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{}", '{"languages": {"en": {}}}', '{"languages": {"en": {"metrics": 3}}}'],
)
def test_what_is_no_evaluation_is_refused(tmp_path: Path, content: str) -> None:
    """Any other file than an evaluation.json is an ExportError with its path."""
    path = tmp_path / "other.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(ExportError, match=r"other\.json: not an evaluation\.json"):
        read_scores(path)
    with pytest.raises(ExportError, match="cannot be read"):
        read_scores(tmp_path / "missing.json")
