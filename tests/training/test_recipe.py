"""Tests of training/recipe.py: a checkpoint learns a text, whatever interrupts it."""

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lacuna import main
from model.checkpoint import WEIGHTS, load_checkpoint
from model.config import EVIDENCE
from model.predictor import Predictor, open_model
from model.queries import PredictQuery
from model.words import read_words
from tests.fixtures_checkpoint import LINES
from training import recipe
from training.__main__ import main as training
from training.evaluation.model_card import ADDED_TEXT
from training.trainer import Trainer

FEW = ("--lines", "4", "--typing-lines", "1", "--learning-rate", "0.03", "--steps", "24")


@pytest.fixture(scope="module")
def diary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sentences of one writer: few words, always in the same order."""
    rng = random.Random(1)
    who = ("Wilma", "Otto", "Berta")
    lines = [f"{rng.choice(who)} saw {rng.randrange(999)} herons again." for _ in range(200)]
    path = tmp_path_factory.mktemp("diary") / "diary.txt"
    path.write_text("\n".join([*lines, *lines[:20]]), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def words(exported: Path, diary: Path) -> list[str]:
    """The command with general text to replay, without its output directory."""
    replay = diary.with_name("general.txt")
    replay.write_text("\n".join(LINES * 3), encoding="utf-8")
    given = [str(diary), "--checkpoint", str(exported), "--replay", str(replay), *FEW]
    return ["train", *given]


@pytest.fixture(scope="module")
def adapted(words: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output directory of an adaptation to the diary; read it, never change it."""
    output = tmp_path_factory.mktemp("recipe") / "out"
    assert main([*words, "--output", str(output)]) == 0
    return output


def bits(output: Path) -> list[float]:
    """Return the bits per character of the lines of the comparison, before and after."""
    report = json.loads((output / "evaluation.json").read_text(encoding="utf-8"))
    values: list[float] = report["languages"]["en"]["metrics"]["bits_per_character"]["values"]
    return values


def test_the_text_becomes_more_probable(adapted: Path) -> None:
    """Lines that training has not seen need fewer bits after it."""
    before, after = bits(adapted)
    assert after < 0.8 * before


def test_the_text_is_readable_by_its_owner_only(adapted: Path) -> None:
    """The output contains the text; the card says that its licences are unknown."""
    assert adapted.stat().st_mode & 0o077 == 0
    card = (adapted / "checkpoint" / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert ADDED_TEXT in card


def test_languages_and_word_ends_stay_those_of_the_base(exported: Path, adapted: Path) -> None:
    """A small text says little about them; its words are known in addition to the old ones."""
    before, after = load_checkpoint(exported), load_checkpoint(adapted / "checkpoint")
    for name in ("name", "languages", "word_end_probs"):
        assert getattr(after, name) == getattr(before, name)
    old, new = (set(read_words((d / "words").read_bytes())) for d in (exported, after.directory))
    assert new - old == {"wilma", "otto", "berta", "saw", "herons", "again"}
    assert old < new
    assert after.version == "2-adapted"
    assert after.calibration.cloze_temperature == before.calibration.cloze_temperature
    origin = {"name": "tiny", "version": "2", "digest": before.digest}
    assert after.training["adapted_from"] == origin
    assert [stage["run"] for stage in after.training["stages"]] == ["tiny", "tiny-adapted"]
    assert after.training["tokens_seen"] > before.training["tokens_seen"]


def test_a_finished_command_prints_its_comparison_again(
    words: list[str], adapted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same command changes nothing, also if * names the output; others are refused."""
    digest = load_checkpoint(adapted / "checkpoint").digest
    assert main(["train", str(adapted), *words[1:], "--output", str(adapted)]) == 0
    printed = capsys.readouterr().out
    assert "| English | bits per character |" in printed
    assert f"serve --checkpoint {adapted / 'checkpoint'}" in printed
    assert load_checkpoint(adapted / "checkpoint").digest == digest
    assert main([*words, "--output", str(adapted), "--seed", "2"]) == 2
    assert "other settings: seed was 1, is 2" in capsys.readouterr().err


def interrupt_once(
    monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, act: Callable[[], None]
) -> None:
    """Let the next call of a function do *act* first."""
    original, left = getattr(owner, name), [act]

    def interrupted(*arguments: Any, **options: Any) -> Any:
        if left:
            left.pop()()
        return original(*arguments, **options)

    monkeypatch.setattr(owner, name, interrupted)


def terminate() -> None:
    """Send this process SIGTERM."""
    os.kill(os.getpid(), signal.SIGTERM)


def test_an_interrupted_command_ends_in_the_same_checkpoint(
    words: list[str], adapted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Signals in every step, from reading to comparing, change no byte."""
    here = [*words, "--output", str(tmp_path / "out")]
    places = [
        (recipe, "prepare"),
        (Trainer, "update"),
        (Trainer, "evaluate"),
        (recipe, "_export"),
        (recipe, "fit_counts_weights"),
        (recipe, "_comparison"),
    ]
    for owner, name in places:
        interrupt_once(monkeypatch, owner, name, terminate)
        assert main(here) == 130
    assert main(here) == 0
    digests = [load_checkpoint(out / "checkpoint").digest for out in (adapted, tmp_path / "out")]
    assert digests[0] == digests[1]


def test_the_step_adapt_is_the_same_command(
    words: list[str], adapted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`python -m training adapt CHECKPOINT TEXT` recognises what `lacuna train` has made."""
    _, text, _, checkpoint, *options = words
    options += ["--minutes", "10", "--output", str(adapted)]
    assert training(["adapt", checkpoint, text, *options]) == 0
    assert "| English | bits per character |" in capsys.readouterr().out


def test_a_network_without_a_gain_is_not_written(
    words: list[str], exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An old one stays, and gets counts; a new one is not written, and status 3."""
    given = [*words, "--steps", "2", "--learning-rate", "0", "--output"]
    assert main([*given, str(tmp_path / "old")]) == 0
    assert "stays as it was" in capsys.readouterr().err
    adapted = load_checkpoint(tmp_path / "old" / "checkpoint")
    assert adapted.sums[WEIGHTS] == load_checkpoint(exported).sums[WEIGHTS]
    assert len(adapted.counts) == 1
    assert main([*given, str(tmp_path / "new"), "--from-scratch"]) == 3
    assert "no checkpoint" in capsys.readouterr().err
    assert not (tmp_path / "new" / "checkpoint").exists()


@pytest.fixture(scope="module")
def counted(
    exported: Path, diary: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, ...]:
    """Checkpoints by counts alone: of the diary, then of Chinese lines, then of others."""
    directory = tmp_path_factory.mktemp("counted")
    texts, made, commands = [diary], [exported], []
    for phrase in ("云南的老师很好。", "公园的天气不好。"):
        texts.append(directory / f"{len(texts)}.txt")
        lines = (f"我有{number}本书,{phrase}" for number in range(150))
        texts[-1].write_text("\n".join(lines), encoding="utf-8")
    for number, text in enumerate(texts):
        output = directory / f"out{number}"
        commands.append(["adapt", str(made[-1]), str(text), *FEW[:4], "--output", str(output)])
        made.append(output / "checkpoint")
    program = "import sys; sys.modules['torch'] = None; from training.__main__ import main; "
    program += f"sys.exit(any(map(main, {commands!r})))"
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)
    return tuple(made)


def first_words(checkpoint: Path, *texts: str) -> list[tuple[str, float]]:
    """Return the most probable word after each text, and its probability."""
    predictor = Predictor(*open_model(checkpoint))
    answers = predictor.run([PredictQuery(text, 1) for text in texts])
    return [(each.candidates[0].word, each.candidates[0].probability) for each in answers]  # type: ignore[union-attr]


def test_counts_alone_teach_phrases_without_torch(counted: tuple[Path, ...]) -> None:
    """Words of the text come first at once; a language that it does not have is answered alike."""
    texts = ("Wilma saw 7 herons ", "我喜欢", "我有9本书,云南的")
    base, english, both, other = (first_words(each, *texts) for each in counted)
    assert english[0][0] == both[0][0] == "again" != base[0][0]
    assert english[1] == base[1]
    assert both[0] == english[0]
    assert both[2][0] == "老师" != other[2][0]


def test_counts_of_a_text_replace_those_of_another(counted: tuple[Path, ...]) -> None:
    """The first counts of a checkpoint without any are its general ones, and stay."""
    loaded = [load_checkpoint(each) for each in counted]
    assert [len(each.counts) for each in loaded] == [0, 1, 2, 2]
    folders = [
        {path: digest for path, digest in each.sums.items() if path.startswith("counts/")}
        for each in loaded
    ]
    assert folders[1] == folders[2] == folders[3]
    _, english, both, other = (each.calibration.counts_weights for each in loaded)
    none = (0.0,) * EVIDENCE
    assert english[0]["zh"] == both[1]["en"] == other[1]["en"] == none
    assert english[0]["en"] == both[0]["en"] != none
    assert min(both[1]["zh"]) > 0
    assert loaded[3].counts[1].config != loaded[2].counts[1].config
    assert loaded[1].version == "2-adapted"
    card = (counted[1] / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert ADDED_TEXT in card and "n-grams by order" in card


def test_too_little_text_is_a_named_error(
    exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The message has the remedies and no text; the command may be given again with other text."""
    path = tmp_path / "notes.txt"
    path.write_text("\n".join(f"secret {number}" for number in range(99)), encoding="utf-8")
    given = ["train", str(path), "--checkpoint", str(exported), "--output", str(tmp_path / "out")]
    assert main(given) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("CorpusError: 99 different lines")
    assert "`history`" in error and "`lexicon`" in error
    assert "secret" not in error
    path.write_text("\n".join(f"secret {number}" for number in range(9)), encoding="utf-8")
    assert main(given) == 2
    assert "CorpusError: 9 different lines" in capsys.readouterr().err


def test_an_output_inside_the_text_is_refused(
    diary: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its files would be read as text the next time."""
    output = diary.parent / "runs" / "out"
    assert main(["train", str(diary.parent), "--output", str(output)]) == 2
    assert "name another --output" in capsys.readouterr().err
    assert not output.exists()


def test_a_name_that_export_would_refuse_is_refused_first(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before anything is read or written."""
    assert main([*words, "--output", str(tmp_path / "out"), "--version", "my version"]) == 2
    assert "name, version" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_lines_must_be_held_out(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without them the counts would get no share, and the text would change nothing."""
    with pytest.raises(SystemExit):
        main([*words, "--output", str(tmp_path / "out"), "--held-out-share", "0"])
    assert "--held-out-share" in capsys.readouterr().err


def test_a_dry_run_reports_and_writes_nothing(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The report of the text and the chosen sizes are printed."""
    output = tmp_path / "out"
    assert main([*words, "--output", str(output), "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert "English" in printed and "steps: 24" in printed
    assert not output.exists()


def test_from_scratch_trains_a_network_of_its_own(
    diary: Path, adapted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Vocabulary and network are chosen; a checkpoint that predicts the text better is named.

    A vocabulary cannot be given to an adaptation.
    """
    base, output = adapted / "checkpoint", tmp_path / "out"
    given = ["train", str(diary), *FEW, "--checkpoint", str(base), "--output", str(output)]
    assert main([*given, "--vocabulary-size", "400"]) == 2
    assert "--from-scratch" in capsys.readouterr().err
    given += ["--steps", "2", "--learning-rate", "0.001", "--from-scratch"]
    assert main(given) == 0
    path = output / "evaluation.json"
    report = json.loads(path.read_text(encoding="utf-8"))
    for after, is_worse in ((2.0, True), (1.0, False)):
        report["languages"]["en"]["metrics"]["bits_per_character"]["values"] = [1.0, after]
        path.write_text(json.dumps(report), encoding="utf-8")
        assert main(given) == 0
        assert ("leave out --from-scratch" in capsys.readouterr().out) == is_worse
    made = load_checkpoint(output / "checkpoint")
    assert (made.name, made.version, made.languages) == ("own", "1", ("en",))
    assert made.tokenizer.size != load_checkpoint(base).tokenizer.size
    assert len(made.counts) == 1
    given = ["train", str(diary), "--from-scratch", "--minutes", "0", "--output"]
    assert main([*given, str(tmp_path / "none")]) == 2
    assert "--minutes" in capsys.readouterr().err
