"""docs/quality.md is what its figures say."""

import json
import shutil
from pathlib import Path

import pytest

from training.__main__ import main
from training.quality import ANCHORS, BEGIN, END, PARTS

ROOT = Path(__file__).parents[2]


def test_the_document_is_what_its_figures_say(tmp_path: Path) -> None:
    """Written again from the committed figures, docs/quality.md is the same."""
    document = tmp_path / "quality.md"
    shutil.copy(ROOT / "docs" / "quality.md", document)
    assert main(["quality", "--results", str(ROOT / "docs" / "results"), "--document", str(document)]) == 0
    assert document.read_text(encoding="utf-8") == (ROOT / "docs" / "quality.md").read_text(encoding="utf-8")


def test_every_part_is_there_even_without_figures(tmp_path: Path) -> None:
    """What was not measured says so."""
    document = tmp_path / "quality.md"
    document.write_text(f"{BEGIN}{END}", encoding="utf-8")
    assert main(["quality", "--results", str(tmp_path), "--document", str(document)]) == 0
    text = document.read_text(encoding="utf-8")
    assert text.count("Not measured yet.") == len(PARTS) - 1  # anchors stand there in any case
    assert text.count("| not measured |") == len(ANCHORS)
    for title in PARTS:
        assert f"## {title}" in text


@pytest.mark.parametrize("content", ["{", "no json"])
def test_torn_figures_are_refused(tmp_path: Path, content: str) -> None:
    """And the document stays as it was."""
    (tmp_path / "everyday.json").write_text(content, encoding="utf-8")
    document = tmp_path / "quality.md"
    document.write_text(f"{BEGIN}{END}", encoding="utf-8")
    assert main(["quality", "--results", str(tmp_path), "--document", str(document)]) == 2
    assert document.read_text(encoding="utf-8") == f"{BEGIN}{END}"


def test_perplexities_of_words_become_rows(tmp_path: Path) -> None:
    """A network's and an n-gram's, each with what it is."""
    both = {"valid": 80.0, "test": 78.0}
    scores = {"parameters": 1000, "continuous": both, "reset": both, "cache": both, "dynamic": both}
    run = {"name": "small", "threads": 2, "network": {"layers": 2, "hidden_size": 650}}
    found = {"scores": scores, "run": run, "progress": {"seconds": 3600.0}}
    (tmp_path / "words-ptb-lstm.json").write_text(json.dumps(found), encoding="utf-8")
    counted = {"order": 5, "ngrams": 3, **both}
    (tmp_path / "words-ptb-5gram.json").write_text(json.dumps(counted), encoding="utf-8")
    document = tmp_path / "quality.md"
    document.write_text(f"{BEGIN}{END}", encoding="utf-8")
    assert main(["quality", "--results", str(tmp_path), "--document", str(document)]) == 0
    text = document.read_text(encoding="utf-8")
    assert "| small: LSTM 2 x 650 | PTB | 1,000 | 2.0 | 80.0 | 78.0 | 78.0 | 78.0 | 78.0 |" in text
    assert "| Kneser-Ney 5-gram | PTB | 3 |  | 80.0 |  | 78.0 |  |  |" in text
    ours = "Kneser-Ney 5-gram 78.0; LSTM 2 x 650 78.0; with cache 78.0; dynamic 78.0"
    assert f"| {ours} | 2.0 CPU hours |" in text
