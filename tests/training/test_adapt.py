"""Adapting teaches a checkpoint a text, keeps what it knew, and reports on lines that decided nothing."""

import json
import random
from pathlib import Path

import pytest
import torch

from model.checkpoint import load_checkpoint
from model.config import NetworkConfig
from model.errors import CorpusError, RunError
from model.queries import ClozeQuery, PredictQuery, Query, Result, ScoreQuery
from research.toy_corpus import write_corpus
from training.__main__ import main
from training.adapt import AdaptOptions, WithHistory, adapt
from training.config import DataOptions, OptimizerOptions, RunConfig
from training.data.prepare import PrepareOptions, SourceOptions, prepare
from training.export import ExportOptions, export
from training.trainer import Trainer, train

SIZE = 600


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A small English and a small Chinese text."""
    return write_corpus(tmp_path_factory.mktemp("general"), 300, 1)


@pytest.fixture(scope="session")
def base(corpus: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of a few steps on that text."""
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("base")
    english, chinese = corpus
    sources = (
        SourceOptions("english", (str(english),), "en"),
        SourceOptions("chinese", (str(chinese),), "zh"),
    )
    data = prepare(
        PrepareOptions(
            root / "prepared", sources, vocabulary_size=SIZE, held_out_share=0.1, threads=1
        )
    )
    config = RunConfig(
        name="tiny",
        data=DataOptions(prepared=str(data), rows=8, window_tokens=16, lookahead_tokens=6),
        network=NetworkConfig(
            SIZE, embedding_size=24, hidden_size=32, forward_layers=2, gap_hidden_size=16
        ),
        optimizer=OptimizerOptions(learning_rate=1e-2, schedule="constant", warmup_steps=2),
        steps=60,
        evaluate_every_steps=0,
    )
    train(config, root / "run")
    return export(ExportOptions(root / "run", root / "checkpoint", version="2")).directory


@pytest.fixture(scope="session")
def diary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sentences of one writer: few words, always in the same order."""
    rng = random.Random(1)
    who, what, where = (
        ("Wilma", "Otto", "Berta"),
        ("herons", "lanterns", "kettles"),
        ("attic", "harbour", "orchard"),
    )
    lines = [
        f"{rng.choice(who)} counted {rng.randrange(400)} {rng.choice(what)} in the {rng.choice(where)} again."
        for _ in range(600)
    ]
    path = tmp_path_factory.mktemp("diary") / "diary.txt"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def adapted(
    base: Path, diary: Path, corpus: list[Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The output directory of an adaptation to the diary; read it, never change it."""
    output = tmp_path_factory.mktemp("adapt") / "out"
    arguments = [
        "adapt",
        str(base),
        str(diary),
        "--replay",
        *map(str, corpus),
        "--output",
        str(output),
    ]
    assert (
        main(
            [
                *arguments,
                "--ngram",
                "--passes",
                "3",
                "--learning-rate",
                "0.01",
                "--typing-lines",
                "10",
            ]
        )
        == 0
    )
    return output


def test_the_text_becomes_more_probable_and_the_report_says_so(adapted: Path) -> None:
    """Held-out lines and the lines set aside need far fewer bits after adaptation; all contestants are asked alike."""
    journal = json.loads((adapted / "adapt.json").read_text())
    assert journal["passes"][journal["best"] - 1]["own"] < 0.8 * journal["before"]["own"]
    assert all("replay" in entry for entry in (journal["before"], *journal["passes"]))
    report = json.loads((adapted / "evaluation.json").read_text())
    names = [contestant["name"] for contestant in report["contestants"]]
    assert names[:4] == ["adapted", "before", "before, with history", "adapted, with history"]
    assert names[4].startswith("5-gram")
    bits = report["languages"]["en"]["metrics"]["bits_per_character"]["values"]
    assert bits[0] < 0.8 * bits[1]
    saved = report["languages"]["en"]["metrics"]["saved"]["values"]
    assert saved[0] > saved[1] and saved[2] > saved[1]


def test_what_a_small_text_cannot_tell_stays_the_checkpoints_own(base: Path, adapted: Path) -> None:
    """Languages, word ends and the weights of rescoring are kept; version and provenance tell of the adaptation."""
    before, after = load_checkpoint(base), load_checkpoint(adapted / "checkpoint")
    assert (after.name, after.version, after.languages) == (
        before.name,
        "2-adapted",
        before.languages,
    )
    assert after.word_end_probs == before.word_end_probs
    assert after.calibration.cloze_temperature == before.calibration.cloze_temperature
    assert after.training["adapted_from"] == {
        "name": "tiny",
        "version": "2",
        "digest": before.digest,
    }
    assert [stage["run"] for stage in after.training["stages"]] == ["tiny", "tiny-adapted"]
    assert after.training["tokens_seen"] > before.training["tokens_seen"]


def test_lines_set_aside_are_in_no_training_text(adapted: Path, diary: Path) -> None:
    """No line is in both parts, and together they are the text without its duplicates."""
    parts = [
        [
            line
            for path in (adapted / "text" / part).glob("*.txt")
            for line in path.read_text().splitlines()
        ]
        for part in ("aside", "training")
    ]
    assert not set(parts[0]) & set(parts[1])
    assert set(parts[0]) | set(parts[1]) == set(diary.read_text().splitlines())
    assert len(parts[0]) >= 0.1 * (len(parts[0]) + len(parts[1]))


def test_the_same_command_again_changes_nothing(
    base: Path, diary: Path, corpus: list[Path], adapted: Path
) -> None:
    """A finished adaptation answers with its report; with other arguments it refuses to mix."""
    digest = load_checkpoint(adapted / "checkpoint").digest
    arguments = {"passes": 3, "ngram": True, "typing_lines": 10, "replay": tuple(map(str, corpus))}
    report = adapt(AdaptOptions(base, (str(diary),), adapted, learning_rate=0.01, **arguments))  # type: ignore[arg-type]
    assert report is not None and report.startswith("# Adaptation") and "(kept)" in report
    assert load_checkpoint(adapted / "checkpoint").digest == digest
    with pytest.raises(RunError, match="begun with another checkpoint"):
        adapt(AdaptOptions(base, (str(diary),), adapted, learning_rate=0.02, **arguments))  # type: ignore[arg-type]


def test_an_interrupted_adaptation_goes_on(
    base: Path, diary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A signal in the second pass ends it with status 130; the same command finishes it with the first pass kept."""
    arguments = ["adapt", str(base), str(diary), "--output", str(tmp_path / "out"), "--passes", "2"]
    arguments += ["--learning-rate", "0.01", "--typing-lines", "5", "--lines", "20"]
    run, runs = Trainer.run, []

    def interrupted(self: Trainer, stopping: list[int]) -> None:
        runs.append(self.progress.step)
        if len(runs) == 2:
            stopping.append(2)
        run(self, stopping)

    monkeypatch.setattr(Trainer, "run", interrupted)
    assert main(arguments) == 130
    assert len(json.loads((tmp_path / "out" / "adapt.json").read_text())["passes"]) == 1
    state = tmp_path / "out" / "run" / "state"
    state.rename(state.with_name(".state.old"))  # as a crash between two renames leaves it
    assert main(arguments) == 0
    assert runs[0] == 0 and runs[1] == runs[2] > 0
    assert len(json.loads((tmp_path / "out" / "adapt.json").read_text())["passes"]) == 2


def test_nothing_is_written_where_nothing_was_gained(
    base: Path, diary: Path, tmp_path: Path
) -> None:
    """A rate of nothing gains nothing: a named error with both figures, and no checkpoint."""
    options = AdaptOptions(base, (str(diary),), tmp_path / "out", passes=1, learning_rate=0.0)
    with pytest.raises(RunError, match="no pass made the held-out lines more probable"):
        adapt(options)
    assert not (tmp_path / "out" / "checkpoint").exists()


def test_too_little_text_is_a_named_error(base: Path, tmp_path: Path) -> None:
    """Ninety-nine lines are refused with the remedy, and do not appear in the message."""
    path = tmp_path / "notes.txt"
    path.write_text("\n".join(f"secret {number}" for number in range(99)), encoding="utf-8")
    with pytest.raises(CorpusError, match="99 different lines") as caught:
        adapt(AdaptOptions(base, (str(path),), tmp_path / "out"))
    assert "`history`" in str(caught.value) and "secret" not in str(caught.value)


def test_history_goes_with_every_question_that_knows_one() -> None:
    """Words and blanks are asked for with the history, scores as they are."""

    class Recording:
        asked: list[Query]

        def run(self, queries: list[Query]) -> list[Result]:  # type: ignore[override]
            self.asked = queries
            return []

    recording = Recording()
    WithHistory(recording, "earlier").run(
        [PredictQuery("a"), ClozeQuery("a ____"), ScoreQuery("a")]
    )  # type: ignore[arg-type]
    assert recording.asked == [
        PredictQuery("a", history="earlier"),
        ClozeQuery("a ____", history="earlier"),
        ScoreQuery("a"),
    ]
