"""Adaptation: a checkpoint learns a text, and a report compares before and after."""

import json
import random
from pathlib import Path
from typing import Any

import pytest

from model.checkpoint import load_checkpoint
from model.errors import CorpusError, RunError
from model.words import read_words
from tests.fixtures_checkpoint import LINES
from training.__main__ import main
from training.adapt import AdaptOptions, adapt
from training.trainer import Trainer

FEW = ("--lines", "5", "--typing-lines", "2", "--learning-rate", "0.03")


@pytest.fixture(scope="session")
def diary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sentences of one writer: few words, always in the same order."""
    rng = random.Random(1)
    who = ("Wilma", "Otto", "Berta")
    lines = [f"{rng.choice(who)} saw {rng.randrange(99)} herons again." for _ in range(200)]
    path = tmp_path_factory.mktemp("diary") / "diary.txt"
    path.write_text("\n".join([*lines, *lines[:20]]), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def words(exported: Path, diary: Path) -> list[str]:
    """The command with general text to replay, without its output directory."""
    replay = diary.with_name("general.txt")
    replay.write_text("\n".join(LINES * 3), encoding="utf-8")
    words = ["adapt", str(exported), str(diary), "--replay", str(replay), *FEW]
    return [*words, "--passes", "2"]


@pytest.fixture(scope="session")
def adapted(words: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output directory of an adaptation to the diary; read it, never change it."""
    output = tmp_path_factory.mktemp("adapt") / "out"
    assert main([*words, "--output", str(output)]) == 0
    return output


def journal(output: Path) -> list[dict[str, Any]]:
    """Return the figures before training and after each pass."""
    return list(json.loads((output / "adapt.json").read_text(encoding="utf-8"))["entries"])


def test_the_text_becomes_more_probable(adapted: Path) -> None:
    """Held-out lines and lines set aside need fewer bits; all systems are asked the same."""
    before, *passes = journal(adapted)
    assert passes[-1]["own"] < 0.9 * before["own"]
    assert all("replay" in entry for entry in (before, *passes))
    report = json.loads((adapted / "evaluation.json").read_text(encoding="utf-8"))
    names = [system["name"] for system in report["contestants"]]
    assert names == ["adapted", "before", "adapted, with history", "before, with history"]
    bits = report["languages"]["en"]["metrics"]["bits_per_character"]["values"]
    assert bits[0] < 0.9 * bits[1]


def test_languages_and_word_ends_stay_those_of_the_base(exported: Path, adapted: Path) -> None:
    """A small text says little about them; its words are known in addition to the old ones."""
    before, after = load_checkpoint(exported), load_checkpoint(adapted / "checkpoint")
    for name in ("name", "languages", "word_end_probs"):
        assert getattr(after, name) == getattr(before, name)
    words = [
        set(read_words((d / "words").read_bytes())) for d in (exported, adapted / "checkpoint")
    ]
    assert words[1] - words[0] == {"wilma", "otto", "berta", "saw", "herons", "again"}
    assert words[0] < words[1]
    assert after.version == "2-adapted"
    assert after.calibration.cloze_temperature == before.calibration.cloze_temperature
    origin = {"name": "tiny", "version": "2", "digest": before.digest}
    assert after.training["adapted_from"] == origin
    assert [stage["run"] for stage in after.training["stages"]] == ["tiny", "tiny-adapted"]
    assert after.training["tokens_seen"] > before.training["tokens_seen"]


def test_lines_set_aside_are_in_no_training_text(adapted: Path, diary: Path) -> None:
    """The two parts are the text without its duplicates."""
    aside, training = (
        (adapted / "text" / part / "text_en.txt").read_text(encoding="utf-8").splitlines()
        for part in ("aside", "training")
    )
    text = set(diary.read_text(encoding="utf-8").splitlines())
    assert sorted([*aside, *training]) == sorted(text)
    assert len(aside) >= 0.1 * len(text)


def test_a_finished_adaptation_returns_its_report(
    words: list[str], adapted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same command changes nothing; other arguments are refused."""
    digest = load_checkpoint(adapted / "checkpoint").digest
    assert main([*words, "--output", str(adapted)]) == 0
    assert capsys.readouterr().out.startswith("# Evaluation: adapted and before")
    assert load_checkpoint(adapted / "checkpoint").digest == digest
    assert main([*words, "--output", str(adapted), "--seed", "2"]) == 2
    assert "other text or options" in capsys.readouterr().err


def test_an_interrupted_adaptation_is_resumed(
    exported: Path, diary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A signal in the second pass ends it with status 130 and keeps the first pass."""
    words = ["adapt", str(exported), str(diary), "--output", str(tmp_path / "out"), *FEW]
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "evaluation.md").write_text("saves the time of a report", encoding="utf-8")
    run, steps = Trainer.run, []

    def interrupted(self: Trainer, stopping: list[int]) -> None:
        steps.append(self.progress.step)
        if len(steps) == 2:
            stopping.append(2)
        run(self, stopping)

    monkeypatch.setattr(Trainer, "run", interrupted)
    assert main([*words, "--passes", "2"]) == 130
    assert len(journal(tmp_path / "out")) == 2
    assert main([*words, "--passes", "2"]) == 0
    assert steps[0] == 0 and steps[1] == steps[2] > 0
    assert len(journal(tmp_path / "out")) == 3


def test_without_a_gain_there_is_no_checkpoint(exported: Path, diary: Path, tmp_path: Path) -> None:
    """The error names the bits before and after."""
    options = AdaptOptions(exported, (str(diary),), tmp_path / "out", passes=1, learning_rate=0.0)
    with pytest.raises(RunError, match="no pass made the held-out lines more probable"):
        adapt(options)
    assert not (tmp_path / "out" / "checkpoint").exists()


def test_too_little_text_is_a_named_error(exported: Path, tmp_path: Path) -> None:
    """The message has the remedy and no text."""
    path = tmp_path / "notes.txt"
    path.write_text("\n".join(f"secret {number}" for number in range(99)), encoding="utf-8")
    with pytest.raises(CorpusError, match=r"99 different lines.*`history`") as caught:
        adapt(AdaptOptions(exported, (str(path),), tmp_path / "out"))
    assert "secret" not in str(caught.value)
