"""Export turns a trained state into a checkpoint that serves, or says why not and writes nothing."""

import json
import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

import training.export
from model.checkpoint import load_checkpoint
from model.config import NetworkConfig
from model.errors import CheckpointError, ExportError, LacunaError, PreparedDataError
from model.runtime import OnnxRuntime, open_runtime
from model.torch_runtime import open_torch_runtime
from research.toy_corpus import write_corpus
from training.__main__ import main
from training.config import DataOptions, OptimizerOptions, RunConfig, run_from_dict
from training.data.prepare import PrepareOptions, SourceOptions, prepare
from training.data.shards import open_prepared
from training.export import (
    ExportOptions,
    Line,
    Measurement,
    check_cost,
    export,
    held_out_lines,
    measure,
    score_gaps,
    score_lines,
)
from training.run_state import read_progress
from training.trainer import train

SIZE = 600


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a few steps on the toy corpus; read it, never change it."""
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("export")
    english, chinese = write_corpus(root / "text", 300, 1)
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
        steps=30,
        evaluate_every_steps=0,
    )
    train(config, root / "run")
    return root / "run"


@pytest.fixture(scope="session")
def exported(trained: Path) -> Path:
    """The checkpoint of that run, with fp32 graphs."""
    return export(
        ExportOptions(trained, trained.parent / "checkpoint", version="2", fp32=True)
    ).directory


@pytest.fixture
def copied_run(trained: Path, tmp_path: Path) -> Path:
    """A copy of the run that a test may damage."""
    shutil.copytree(trained, tmp_path / "run")
    return tmp_path / "run"


def test_a_run_becomes_a_checkpoint_that_runs(trained: Path, exported: Path) -> None:
    """Name, sizes, languages and provenance are the run's; runtimes open it and agree on held-out text."""
    checkpoint = load_checkpoint(exported)
    assert (checkpoint.name, checkpoint.version) == ("tiny", "2")
    assert set(checkpoint.languages) == {"zh", "en"}
    assert checkpoint.capabilities == ("predict", "score", "cloze")
    prepared = open_prepared(trained.parent / "prepared")
    assert checkpoint.training["data_sha256"] == prepared.sha256
    assert checkpoint.training["tokens_seen"] == checkpoint.training["stages"][0]["tokens"] > 0
    assert {entry["source"] for entry in checkpoint.training["data"]} == {"english", "chinese"}
    lines = held_out_lines(prepared, 500)
    network = checkpoint.network
    int8 = measure(open_runtime(checkpoint), lines)
    fp32 = measure(OnnxRuntime(exported, network, precision="fp32"), lines)
    reference = measure(open_torch_runtime(exported, network, "cpu"), lines)
    assert np.abs(fp32.nats - reference.nats).max() < 1e-4
    assert np.abs(fp32.gap_nats - reference.gap_nats).max() < 1e-4
    assert np.array_equal(fp32.top3, reference.top3)
    assert 0 < np.abs(int8.nats - reference.nats).max() < 0.2
    assert np.exp(reference.nats.mean()) < SIZE / 2, "thirty steps have taught it something to lose"


def test_what_it_costs_is_recorded(exported: Path) -> None:
    """config.json and the card say what quantisation cost on how many held-out tokens."""
    cost = load_checkpoint(exported).training["quantisation_cost"]
    assert cost["tokens"] > 100
    assert abs(cost["perplexity"]) < 0.01
    assert {"top3", "gap_perplexity"} < set(cost)
    card = (exported / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert f"int8 costs against fp32 on {cost['tokens']:,.0f} held-out tokens: perplexity " in card


def test_half_precision_weights_unless_asked(trained: Path, exported: Path, tmp_path: Path) -> None:
    """Weights are float16 by default and exactly the run's with --fp32; graphs are quantised from fp32 either way."""
    plain = export(ExportOptions(trained, tmp_path / "plain"))
    state = load_file(trained / "state" / "weights.safetensors")
    full, half = (
        load_file(exported / "weights.safetensors"),
        load_file(plain.directory / "weights.safetensors"),
    )
    assert all(np.array_equal(full[name], value) for name, value in state.items())
    assert {value.dtype for value in half.values()} == {np.dtype(np.float16)}
    assert (plain.directory / "onnx" / "int8.weights").read_bytes() == (
        exported / "onnx" / "int8.weights"
    ).read_bytes()
    assert not (plain.directory / "onnx-fp32").exists()
    assert load_checkpoint(plain.directory).version == "1"


def test_the_command_line_exports(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """``python -m training export RUN/state --output DIR`` writes a checkpoint of the given name and languages."""
    arguments = [
        "--output",
        str(tmp_path / "new"),
        "--name",
        "mine",
        "--version",
        "1.2",
        "--languages",
        "en",
    ]
    assert main(["export", str(trained / "state"), *arguments]) == 0
    checkpoint = load_checkpoint(tmp_path / "new")
    assert (checkpoint.name, checkpoint.version, checkpoint.languages) == ("mine", "1.2", ("en",))
    assert checkpoint.calibration.next_temperature["zh"] == 1.0
    assert capsys.readouterr().out == f"{tmp_path / 'new'}\n"
    assert main(["export", str(trained), *arguments]) == 2
    assert "exists" in capsys.readouterr().err
    assert main(["export", str(trained), "--overwrite", *arguments]) == 0


def test_int8_graphs_that_cost_too_much_are_refused(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With int8 graphs of worse weights than the reference's the gate closes, and nothing is written."""
    build = training.export.build_graphs

    def worse(network: Any, weights: Any, precision: Any) -> dict[str, bytes]:
        return build(
            network, {**weights, "output_bias": np.zeros_like(weights["output_bias"])}, precision
        )

    monkeypatch.setattr(training.export, "build_graphs", worse)
    with pytest.raises(
        ExportError,
        match=r"int8 graphs cost .* % of perplexity on \d+ held-out tokens, more than 1.0 %",
    ):
        export(ExportOptions(trained, tmp_path / "new"))
    assert list(tmp_path.iterdir()) == []


def measurement(
    nats: float, top3: float, gap: float, tokens: int = 20_000, seed: int = 0
) -> Measurement:
    """Tokens with these means, noisy in the same way for the same seed."""
    noise = np.random.default_rng(0).normal(size=tokens)
    own = np.random.default_rng(seed).normal(size=tokens) * 0.02
    hits = np.arange(tokens) < round(top3 * tokens)
    return Measurement(nats + noise + own, hits, gap + noise + own)


@pytest.mark.parametrize(
    ("quantised", "refused"),
    [
        (measurement(5.0, 0.4, 3.0, seed=1), None),
        (measurement(5.005, 0.3985, 3.005, seed=1), None),
        (measurement(4.9, 0.5, 2.9, seed=1), None),
        (measurement(5.012, 0.4, 3.0, seed=1), "of perplexity"),
        (measurement(5.0, 0.397, 3.0, seed=1), "of top3"),
        (measurement(5.0, 0.4, 3.012, seed=1), "of gap_perplexity"),
        (measurement(float("nan"), 0.4, 3.0, seed=1), "of perplexity"),
        (measurement(float("inf"), 0.4, 3.0, seed=1), "of perplexity"),
    ],
)
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_the_gate_holds_its_limits(quantised: Measurement, refused: str | None) -> None:
    """1 % of perplexity and 0.2 points of top-3 are the limits; gains pass, and what is not a number does not."""
    reference = measurement(5.0, 0.4, 3.0)
    if refused is None:
        cost = check_cost(reference, quantised)
        assert cost["tokens"] == 20_000
        assert cost["perplexity"] == pytest.approx(
            np.expm1(quantised.nats.mean() - reference.nats.mean())
        )
    else:
        with pytest.raises(ExportError, match=refused):
            check_cost(reference, quantised)


def test_chance_alone_does_not_close_the_gate() -> None:
    """On little text one lost hit is more than 0.2 points, but no evidence; thirty are."""
    reference = measurement(5.0, 0.4, 3.0, tokens=300)
    check_cost(reference, replace(reference, top3=np.arange(300) < 119))
    with pytest.raises(ExportError, match="top3"):
        check_cost(reference, replace(reference, top3=np.arange(300) < 90))
    ungated = check_cost(reference, replace(reference, top3=np.arange(300) < 90), gate=False)
    assert ungated["top3"] > 0.05


def test_tokens_are_scored_from_their_own_sides(exported: Path) -> None:
    """Batched scoring gives each token the probability that reading its left, or both sides, alone gives."""
    checkpoint = load_checkpoint(exported)
    runtime, network = open_runtime(checkpoint), checkpoint.network
    line = Line("en", np.array(checkpoint.tokenizer.encode("I go to school")))
    others = [
        Line("en", np.array(checkpoint.tokenizer.encode(text)))
        for text in ("I", "I go to the shop today")
    ]
    left = {
        int(t): row
        for rows, targets in score_lines(runtime, [line])
        for row, t in zip(rows, targets, strict=True)
    }
    together = [row for rows, _ in score_lines(runtime, [*others, line]) for row in rows]
    gaps = [row for rows, _ in score_gaps(runtime, [line]) for row in rows]
    start, end = (
        np.zeros((1, network.state_size("forward")), np.float32),
        np.zeros((1, network.state_size("backward")), np.float32),
    )
    for place, token in enumerate(line.tokens):
        before, after = (
            np.array([[1, *line.tokens[:place]]]),
            np.array([[2, *line.tokens[:place:-1]]]),
        )
        _, forward = runtime.advance("forward", start, before, np.array([place + 1]))
        _, backward = runtime.advance("backward", end, after, np.array([len(line.tokens) - place]))
        expected = runtime.next_log_probabilities(forward[:, -1])[0]
        assert any(np.array_equal(expected, row) for row in together)
        if list(line.tokens).count(token) == 1:
            assert np.array_equal(left[int(token)], expected)
        zero = np.zeros(1, dtype=np.int64)
        gap = runtime.gap_log_probabilities(
            forward[:, -1], backward[:, -1], zero == 0, zero, zero + 1
        )[0]
        assert np.array_equal(gaps[place], gap)


def test_development_text_takes_the_place_of_held_out_lines(
    copied_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With --development and the run's own vocabulary, the prepared data may be gone."""
    state = copied_run / "state" / "state.json"
    values = json.loads(state.read_text(encoding="utf-8"))
    values["config"]["data"]["prepared"] = "gone"
    state.write_text(json.dumps(values), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PreparedDataError, match="gone"):
        export(ExportOptions(copied_run, tmp_path / "new"))
    text = tmp_path / "lines.txt"
    text.write_text("I go to school.\nWe like the park.\n" * 20, encoding="utf-8")
    checkpoint = export(ExportOptions(copied_run, tmp_path / "new", development=(str(text),)))
    assert checkpoint.languages == ("en",)
    assert checkpoint.training["data"] == []
    assert checkpoint.training["data_sha256"] == values["data_sha256"], (
        "the state knows what it was trained on"
    )
    assert checkpoint.training["quantisation_cost"]["tokens"] > 100


@pytest.mark.parametrize("known", [True, False])
def test_the_digest_of_the_data_is_that_of_the_state(
    copied_run: Path, tmp_path: Path, known: bool
) -> None:
    """A state's own digest goes into the checkpoint; that of the prepared data only where an older state has none."""
    state = copied_run / "state" / "state.json"
    values = json.loads(state.read_text(encoding="utf-8"))
    prepared = open_prepared(Path(values["config"]["data"]["prepared"])).sha256
    assert values.pop("data_sha256") == prepared
    state.write_text(
        json.dumps(values | ({"data_sha256": "5" * 64} if known else {})), encoding="utf-8"
    )
    training = export(ExportOptions(copied_run, tmp_path / "new")).training
    assert training["data_sha256"] == ("5" * 64 if known else prepared)


def test_stages_are_followed_to_the_first(copied_run: Path, tmp_path: Path) -> None:
    """A run that started from another one counts that one's tokens too, and lists both, first one first."""
    first = tmp_path / "first"
    shutil.copytree(copied_run, first)
    state = copied_run / "state" / "state.json"
    values = json.loads(state.read_text(encoding="utf-8"))
    own = values["progress"]["tokens"]
    values["config"] |= {
        "start_from": str(first / "state"),
        "name": "second",
        "sources": ["english"],
    }
    values["config"]["data"]["weights"] = {"english": 2.5}
    state.write_text(json.dumps(values), encoding="utf-8")
    checkpoint = export(ExportOptions(copied_run, tmp_path / "new"))
    training = checkpoint.training
    card = (checkpoint.directory / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert "Sources weighed otherwise than below in second: english 2.5." in card
    assert training["tokens_seen"] == 2 * own
    assert [stage["run"] for stage in training["stages"]] == ["tiny", "second"]
    assert {entry["source"] for entry in training["data"]} == {"english", "chinese"}


def test_a_run_that_began_with_a_checkpoint_goes_on_from_its_stages(
    copied_run: Path, tmp_path: Path
) -> None:
    """The card of a second edition tells all that its weights have read, and each source once."""
    first = export(ExportOptions(copied_run, tmp_path / "first"))
    state = copied_run / "state" / "state.json"
    values = json.loads(state.read_text(encoding="utf-8"))
    values["config"] |= {"start_from": str(first.directory), "name": "second"}
    state.write_text(json.dumps(values), encoding="utf-8")
    training = export(ExportOptions(copied_run, tmp_path / "new")).training
    assert [stage["run"] for stage in training["stages"]] == ["tiny", "second"]
    assert training["tokens_seen"] == 2 * first.training["tokens_seen"]
    assert sorted(entry["source"] for entry in training["data"]) == ["chinese", "english"]


def test_the_stages_are_those_of_the_checkpoint_that_a_run_began_with(
    copied_run: Path, tmp_path: Path
) -> None:
    """Another checkpoint may lie in its place by the time that the run is exported, as a second edition does."""
    first = export(ExportOptions(copied_run, tmp_path / "first"))
    config = run_from_dict(read_progress(copied_run / "state")[1], "state.json")
    second = replace(config, start_from=str(first.directory), name="second", steps=2)
    train(second, tmp_path / "second")
    train(replace(second, steps=3), tmp_path / "second", resume=True)
    export(ExportOptions(tmp_path / "second", first.directory, version="2", overwrite=True))
    training = export(ExportOptions(tmp_path / "second", tmp_path / "again")).training
    assert training["adapted_from"]["digest"] == first.digest
    assert [stage["run"] for stage in training["stages"]] == ["tiny", "second"]


def truncate_weights(run: Path) -> None:
    """Cut the weights short."""
    os.truncate(run / "state" / "weights.safetensors", 500)


def rename_weight(run: Path) -> None:
    """Misname one parameter."""
    path = run / "state" / "weights.safetensors"
    weights = load_file(path)
    weights["next.weights"] = weights.pop("next.weight")
    save_file(weights, path)


def add_weight(run: Path) -> None:
    """Add a parameter that the network lacks."""
    path = run / "state" / "weights.safetensors"
    save_file({**load_file(path), "extra": np.zeros(3, np.float32)}, path)


def enlarge_weight(run: Path) -> None:
    """Give a bias that float16 cannot hold."""
    path = run / "state" / "weights.safetensors"
    weights = load_file(path)
    weights["gap_bias"] = weights["gap_bias"].copy()
    weights["gap_bias"][3] = 1e6  # a token that is masked: harmless in fp32, infinite in float16
    save_file(weights, path)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda run: shutil.rmtree(run / "state"), "no state.json"),
        (truncate_weights, r"weights\.safetensors cannot be read"),
        (rename_weight, r"next\.weight is missing"),
        (add_weight, "extra"),
        (enlarge_weight, "gap_bias holds values that float16 cannot; export with --fp32"),
        (lambda run: (run / "tokenizer.model").write_bytes(b"not a model"), r"tokenizer\.model"),
    ],
)
def test_states_that_cannot_be_exported_are_named(
    copied_run: Path, tmp_path: Path, damage: Any, message: str
) -> None:
    """What is wrong with a run is said by a named error, and nothing is written."""
    damage(copied_run)
    with pytest.raises(LacunaError, match=message):
        export(ExportOptions(copied_run, tmp_path / "new"))
    assert not (tmp_path / "new").exists()


def test_another_vocabulary_is_refused(trained: Path, exported: Path, tmp_path: Path) -> None:
    """Prepared data of another vocabulary than the run's cannot take the place of its own."""
    english, chinese = write_corpus(tmp_path / "text", 200, 2)
    sources = (
        SourceOptions("english", (str(english),), "en"),
        SourceOptions("chinese", (str(chinese),), "zh"),
    )
    other = prepare(
        PrepareOptions(tmp_path / "other", sources, SIZE, held_out_share=0.1, threads=1)
    )
    with pytest.raises(ExportError, match="another vocabulary"):
        export(ExportOptions(trained, tmp_path / "new", prepared=other))
    own = (trained / "tokenizer.model").read_bytes()
    assert own == (exported / "tokenizer.model").read_bytes()


def test_without_held_out_text_there_is_no_gate(copied_run: Path, tmp_path: Path) -> None:
    """Data prepared without a held-out share cannot gate an export, which says what to name instead."""
    english, chinese = write_corpus(tmp_path / "text", 200, 1)
    sources = (
        SourceOptions("english", (str(english),), "en"),
        SourceOptions("chinese", (str(chinese),), "zh"),
    )
    tokenizer = copied_run / "tokenizer.model"
    bare = prepare(
        PrepareOptions(tmp_path / "bare", sources, SIZE, tokenizer, held_out_share=0.0, threads=1)
    )
    with pytest.raises(
        ExportError, match="no held-out text; prepare with --held-out-share above 0"
    ):
        export(ExportOptions(copied_run, tmp_path / "new", prepared=bare))


def test_names_are_checked_before_the_work(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that cannot be one, or an output that exists, is refused before any graph is built."""
    monkeypatch.setattr(training.export, "build_graphs", None)
    with pytest.raises(CheckpointError, match="letters, digits"):
        export(ExportOptions(trained, tmp_path / "new", name="has space"))
    with pytest.raises(CheckpointError, match="exists"):
        export(ExportOptions(trained, tmp_path))


def test_provenance_names_the_commit(exported: Path) -> None:
    """The program's commit is recorded, with a mark where its files differ from it; nothing outside a repository."""
    head = ""
    if git := shutil.which("git"):
        command = [git, "rev-parse", "--verify", "--quiet", "HEAD"]
        head = subprocess.run(
            command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False
        ).stdout.strip()
    assert load_checkpoint(exported).training["git_commit"] in (head, f"{head}-dirty")
