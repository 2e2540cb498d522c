"""Export: a trained state to a checkpoint that serves, or a named error and no output."""

import json
import math
import re
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import training.export
from model.checkpoint import load_checkpoint
from model.errors import CheckpointError, ExportError, LacunaError, PreparedDataError
from model.words import words_in
from tests.fixtures_checkpoint import LINES, tiny_tokenizer
from training.__main__ import main
from training.config import DataOptions, RunConfig, options_from_dict
from training.data.prepare import PrepareOptions, prepare
from training.data.shards import open_prepared
from training.data.sources import SourceOptions
from training.export import ExportOptions, export
from training.run_state import read_state
from training.trainer import train


@pytest.fixture
def copied_run(tiny_run: Path, tmp_path: Path) -> Path:
    """A copy of the run that a test may change."""
    return Path(shutil.copytree(tiny_run, tmp_path / "run"))


def edit_config(run: Path, **changes: Any) -> dict[str, Any]:
    """Change the configuration in the state of a run; return the state."""
    path = run / "state" / "state.json"
    values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    values["config"] |= changes
    path.write_text(json.dumps(values), encoding="utf-8")
    return values


def test_a_run_becomes_a_checkpoint(tiny_prepared: Path, exported: Path) -> None:
    """Name, languages, provenance and the cost of int8 are in the checkpoint and its card."""
    checkpoint = load_checkpoint(exported)
    history = checkpoint.training
    assert (checkpoint.name, checkpoint.version) == ("tiny", "2")
    assert checkpoint.languages == ("en", "zh"), "most tokens first"
    assert checkpoint.capabilities == ("predict", "score", "cloze")
    assert len(checkpoint.word_end_probs) == checkpoint.tokenizer.size
    assert len(checkpoint.words) == len(set(words_in(" ".join(LINES))))
    assert history["data_sha256"] == open_prepared(tiny_prepared).sha256
    assert history["tokens_seen"] == history["stages"][0]["tokens"] > 0
    assert {entry["source"] for entry in history["data"]} == {"talk_en", "talk_zh"}
    cost = history["quantisation_cost"]
    assert {"tokens", "perplexity", "top3", "gap_perplexity"} == set(cost)
    assert set(history["git_commit"].removesuffix("-dirty")) <= set("0123456789abcdef")


def test_the_command_line_exports(
    tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A state directory is exported under a new name; only --overwrite replaces a checkpoint."""
    target = tmp_path / "new"
    options = ["--output", str(target), "--name", "mine", "--version", "1.2"]
    assert main(["export", str(tiny_run / "state"), *options]) == 0
    checkpoint = load_checkpoint(target)
    assert (checkpoint.name, checkpoint.version) == ("mine", "1.2")
    assert capsys.readouterr().out == f"{target}\n"
    assert main(["export", str(tiny_run), *options]) == 2
    assert "exists" in capsys.readouterr().err
    assert main(["export", str(tiny_run), "--overwrite", *options]) == 0


def test_int8_graphs_that_cost_too_much_are_refused(
    tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Graphs that expect a wrong token close the gate, and no output is written."""
    build = training.export.build_graphs

    def worse(network: Any, weights: Any) -> dict[str, bytes]:
        bias = weights["output_bias"].copy()
        bias[-1] += 20
        return build(network, {**weights, "output_bias": bias})

    monkeypatch.setattr(training.export, "build_graphs", worse)
    with pytest.raises(ExportError, match=r"int8 graphs cost .* % of perplexity on \d+ held-out"):
        export(ExportOptions(tiny_run, tmp_path / "new"))
    assert list(tmp_path.iterdir()) == []
    assert export(ExportOptions(tiny_run, tmp_path / "new", gate=False)).name == "tiny"


def test_stages_are_followed_to_the_first(copied_run: Path, tmp_path: Path) -> None:
    """The tokens of a run that another one started from count, and the first run comes first."""
    first = shutil.copytree(copied_run, tmp_path / "first")
    start = {"start_from": str(first / "state"), "name": "second"}
    values = edit_config(copied_run, **start)
    checkpoint = export(ExportOptions(copied_run, tmp_path / "new"))
    history = checkpoint.training
    assert history["tokens_seen"] == 2 * values["progress"]["tokens"]
    assert [stage["run"] for stage in history["stages"]] == ["tiny", "second"]
    assert {entry["source"] for entry in history["data"]} == {"talk_en", "talk_zh"}


def test_a_run_that_began_with_a_checkpoint_continues_its_history(
    copied_run: Path, tmp_path: Path
) -> None:
    """The history is that of the first checkpoint, even if another one has replaced it."""
    first = export(ExportOptions(copied_run, tmp_path / "first"))
    config = options_from_dict(RunConfig, read_state(copied_run / "state").config, "state.json")
    second = replace(config, start_from=str(first.directory), name="second", steps=2)
    train(second, tmp_path / "second")
    export(ExportOptions(tmp_path / "second", first.directory, version="2", overwrite=True))
    history = export(ExportOptions(tmp_path / "second", tmp_path / "again")).training
    assert history["adapted_from"]["digest"] == first.digest
    assert [stage["run"] for stage in history["stages"]] == ["tiny", "second"]
    assert history["tokens_seen"] > first.training["tokens_seen"]
    assert sorted(entry["source"] for entry in history["data"]) == ["talk_en", "talk_zh"]


def edit_weights(run: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    """Change the weights of a run."""
    path = run / "state" / "weights.safetensors"
    weights = load_file(path)
    edit(weights)
    save_file(weights, path)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda run: edit_weights(run, lambda values: values.update(extra=np.zeros(3))), "extra"),
        (
            lambda run: edit_weights(run, lambda values: values["output_bias"].__imul__(1e4)),
            r"the run diverged: .* nats per held-out token, where a uniform guess has \d",
        ),
        (lambda run: (run / "tokenizer.model").write_bytes(b"not a model"), r"tokenizer\.model"),
        (
            lambda run: (run / "tokenizer.model").write_bytes(tiny_tokenizer(size=350).model_proto),
            "another tokenizer",
        ),
    ],
)
def test_states_that_cannot_be_exported_are_named(
    copied_run: Path, tmp_path: Path, damage: Any, message: str
) -> None:
    """A named error gives the reason, and no output is written."""
    damage(copied_run)
    with pytest.raises(LacunaError, match=message):
        export(ExportOptions(copied_run, tmp_path / "new"))
    assert not (tmp_path / "new").exists()


@pytest.fixture(scope="session")
def bare(tiny_prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data with the tokenizer of the run, but other text, none of it held out."""
    root = tmp_path_factory.mktemp("bare")
    (root / "talk.txt").write_text("\n".join(LINES), encoding="utf-8")
    source = SourceOptions("talk", str(root / "talk.txt"))
    tokenizer = tiny_prepared / "tokenizer.model"
    options = PrepareOptions(output=root / "data", tokenizer=tokenizer, held_out_share=0.0)
    return prepare((source,), options)


def test_data_without_held_out_text_are_refused(
    copied_run: Path, bare: Path, tmp_path: Path
) -> None:
    """The gate needs text; the error names the remedy."""
    path = copied_run / "state" / "state.json"
    values = json.loads(path.read_text(encoding="utf-8"))
    values["data_sha256"] = open_prepared(bare).sha256
    path.write_text(json.dumps(values), encoding="utf-8")
    with pytest.raises(ExportError, match="no held-out text; prepare with --held-out-share"):
        export(ExportOptions(copied_run, tmp_path / "new", prepared=bare))


def test_data_are_known_by_their_hash(
    copied_run: Path, tiny_prepared: Path, bare: Path, tmp_path: Path
) -> None:
    """Others are refused with both hashes; moved data are found next to the run, or asked for."""
    with pytest.raises(ExportError, match=r"has data \w{12}, .* trained on \w{12}; .* --prepared"):
        export(ExportOptions(copied_run, tmp_path / "new", prepared=bare))
    gone = replace(tiny_data(copied_run), prepared="gone/moved")
    edit_config(copied_run, data=asdict(gone))
    with pytest.raises(PreparedDataError, match=r"gone/moved: .* name .* with --prepared"):
        export(ExportOptions(copied_run, tmp_path / "new"))
    shutil.copytree(tiny_prepared, copied_run.parent / "moved")
    assert export(ExportOptions(copied_run, tmp_path / "new")).name == "tiny"


def tiny_data(run: Path) -> DataOptions:
    """Return the data options of a run."""
    return options_from_dict(RunConfig, read_state(run / "state").config, "state.json").data


def test_the_best_state_of_a_run_is_exported(copied_run: Path, tmp_path: Path) -> None:
    """RUN/best, if there is one, is what RUN means; RUN/state still names the last state."""
    shutil.copytree(copied_run / "state", copied_run / "best")
    edit_weights(copied_run, lambda values: values["gap_bias"].__setitem__(3, math.nan))
    assert export(ExportOptions(copied_run, tmp_path / "new")).name == "tiny"
    with pytest.raises(ExportError, match="gap_bias is not finite: the run diverged"):
        export(ExportOptions(copied_run / "state", tmp_path / "other"))


def test_no_clock_is_exported(copied_run: Path, tmp_path: Path) -> None:
    """A run that took longer, or is exported another day, gives the same bytes."""
    first = export(ExportOptions(copied_run, tmp_path / "first"))
    path = copied_run / "state" / "state.json"
    values = json.loads(path.read_text(encoding="utf-8"))
    values["progress"] |= {"cpu_seconds": 1e6, "wall_seconds": 1e6}
    path.write_text(json.dumps(values), encoding="utf-8")
    assert export(ExportOptions(copied_run, tmp_path / "second")).digest == first.digest
    assert "date" not in first.training


def test_little_held_out_text_is_worth_a_warning(
    tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """The number of tokens is given for each language that has too few."""
    export(ExportOptions(tiny_run, tmp_path / "new"))
    err = capsys.readouterr().err
    assert re.search(r"warning: \d+ held-out tokens of zh: too few", err)
    monkeypatch.setattr(training.export, "MIN_TOKENS", 1)
    export(ExportOptions(tiny_run, tmp_path / "other"))
    assert "warning" not in capsys.readouterr().err


def test_names_are_checked_before_the_work(
    tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wrong name is refused before any graph is built."""
    monkeypatch.setattr(training.export, "build_graphs", None)
    with pytest.raises(CheckpointError, match="letters, digits"):
        export(ExportOptions(tiny_run, tmp_path / "new", name="has space"))
