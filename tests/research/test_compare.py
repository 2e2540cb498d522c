"""The comparison of the tutorial's systems, from one command to one report."""

import json
from pathlib import Path
from typing import Any

import pytest

import research.compare
from research.__main__ import main
from research.networks import SYSTEMS
from research.toy_corpus import write_corpus
from training.ngram import NgramOptions, build


@pytest.fixture
def command(prepared: Path, tmp_path: Path) -> list[str]:
    """Return the quick command, with prepared data and texts of a toy corpus."""
    texts = map(str, write_corpus(tmp_path / "text", 40, 2))
    return ["compare", str(prepared), *texts, "--quick", "--seeds", "1"]


def compared(command: list[str], output: Path, *more: str) -> dict[str, Any]:
    """Run the command and return its figures."""
    assert main([*command, "--output", str(output), *more]) == 0
    figures: dict[str, Any] = json.loads((output / "comparison.json").read_text(encoding="utf-8"))
    return figures


def test_every_system_of_the_tutorial_is_trained_and_asked(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """All answer the same questions, stacked ones only blanks; a second call repeats nothing."""
    figures = compared(command, tmp_path)
    runs = {run["system"]: run for run in figures["runs"]}
    assert list(runs) == [*(spec.name for spec in SYSTEMS), "2-gram", "3-gram"]
    for spec in SYSTEMS:
        for language in ("zh", "en"):
            metrics = runs[spec.name]["evaluation"]["languages"][language]
            assert 0 <= metrics["cloze_top5"]["value"] <= 1
            assert ("next_top3" in metrics) == (spec.architecture != "stacked_bidirectional")
    assert len({run["evaluation"]["questions_sha256"] for run in runs.values()}) == 1
    tables = capsys.readouterr().out
    assert all(tables.count(f"| {spec.title} |") == 3 for spec in SYSTEMS)
    for name in ("train", "build", "evaluate", "export"):
        monkeypatch.setattr(research.compare, name, None)
    assert compared(command, tmp_path) == figures
    assert main([*command[:3], *command[4:], "--output", str(tmp_path)]) == 2  # other text
    assert main([*command, "--systems", "abacus", "--output", str(tmp_path / "none")]) == 2


def test_counts_are_mixed_into_networks(command: list[str], prepared: Path, tmp_path: Path) -> None:
    """A mixture is better than a hardly trained network, and its figures are next to it."""
    counts = tmp_path / "counts"
    build(NgramOptions(prepared, counts, order=3))
    command += ["--systems", "keyboard", "word-lm"]
    alone, mixed = (
        [run["evaluation"] for run in compared(command, tmp_path / "out", *more)["runs"]]
        for more in ((), ("--counts", str(counts)))
    )
    for one, other in zip(alone, mixed, strict=True):
        assert other["bytes"] > one["bytes"]
        for language in ("zh", "en"):
            bits = [
                each["languages"][language]["bits_per_character"]["value"] for each in (one, other)
            ]
            assert bits[1] < bits[0]
