"""The comparison of the tutorial's systems, from one command to one report."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import research.compare
from research.__main__ import main
from research.compare import QUICK, CompareOptions
from research.networks import SYSTEMS, sized
from research.toy_corpus import write_corpus
from training.data.prepare import PrepareOptions, prepare
from training.data.sources import SourceOptions


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Return the quick command, with prepared data of a toy corpus and some of its lines."""
    root = tmp_path_factory.mktemp("compare")
    sources, texts = [], []
    for path, language in zip(write_corpus(root / "text", 300, 1), ("en", "zh"), strict=True):
        sources.append(SourceOptions(language, str(path), language))
        texts.append(root / f"talk_{language}.txt")
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        texts[-1].write_text("".join(lines[:40]), encoding="utf-8")
    options = PrepareOptions(
        output=root / "prepared", vocabulary_size=600, held_out_share=0.1, threads=1
    )
    return ["compare", str(prepare(sources, options)), *map(str, texts), "--quick", "--seeds", "1"]


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


def test_chosen_systems_and_peers_are_compared_without_ngrams(
    command: list[str], tmp_path: Path
) -> None:
    """Every seed of a system is a run; an unknown system is an error."""
    figures = compared([*command[:-1], "2"], tmp_path / "two", "--systems", "lstm", "gru")
    runs = [(run["system"], run["seed"]) for run in figures["runs"]]
    assert runs == [("lstm", 1), ("gru", 1), ("lstm", 2), ("gru", 2)]
    figures = compared(command, tmp_path / "peers", "--systems", "keyboard")
    assert [run["system"] for run in figures["runs"]] == ["keyboard"]
    assert main([*command, "--systems", "abacus", "--output", str(tmp_path / "none")]) == 2


def test_a_rate_that_diverges_at_once_is_left_out(command: list[str], tmp_path: Path) -> None:
    """It has no held-out figure, and the other rates continue."""
    options = CompareOptions(Path(command[1]), (), tmp_path)
    options = replace(options, **QUICK | {"log_every_steps": 50})
    network = sized(SYSTEMS[0], 600, options.parameters, options.embedding_size)
    assert research.compare._tune("rnn", network, 1e30, options)["held_out"] is None
