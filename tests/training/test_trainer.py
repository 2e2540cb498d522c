"""The training loop: it learns, resumes bit for bit, stops on signals, and never loses a saved state."""

import errno
import json
import math
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import training.run_state
from model.config import NetworkConfig
from model.errors import DivergedError, ExportError, RunError
from research.toy_corpus import write_corpus
from research.word_lm import WordRun
from training.config import (
    DataOptions,
    LossOptions,
    OptimizerOptions,
    RunConfig,
    load_run,
    read_options,
)
from training.data.batches import BatchStream
from training.data.prepare import PrepareOptions, SourceOptions, prepare
from training.data.shards import manifest_digest, open_prepared
from training.export import ExportOptions, export
from training.run_log import RunLog, read_records
from training.run_state import snapshot_directory
from training.trainer import Trainer, train

SIZE = 600


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few hundred lines of the toy corpus, prepared; one source is consecutive, so states are carried."""
    root = tmp_path_factory.mktemp("data")
    english, chinese = write_corpus(root / "text", 300, 1)
    sources = (
        SourceOptions("english", (str(english),), "en", consecutive=True),
        SourceOptions("chinese", (str(chinese),), "zh", weight=1.5),
    )
    return prepare(
        PrepareOptions(
            root / "prepared", sources, vocabulary_size=SIZE, held_out_share=0.1, threads=1
        )
    )


def config(prepared: Path, **changes: Any) -> RunConfig:
    """A tiny run with every ingredient of a real one."""
    values: dict[str, Any] = {
        "name": "tiny",
        "data": DataOptions(prepared=str(prepared), rows=4, window_tokens=16, lookahead_tokens=6),
        "network": NetworkConfig(
            SIZE,
            embedding_size=12,
            hidden_size=16,
            forward_layers=2,
            backward_layers=1,
            gap_hidden_size=12,
        ),
        "loss": LossOptions(sampled_negatives=40),
        "optimizer": OptimizerOptions(learning_rate=1e-2, warmup_steps=3, decay_steps=5),
        "steps": 12,
        "dropout": 0.1,
        "weight_drop": 0.2,
        "full_softmax_steps": 2,
        "log_every_steps": 2,
        "evaluate_every_steps": 6,
    }
    return RunConfig(**{**values, **changes})


def weights(run: Path) -> dict[str, torch.Tensor]:
    """All tensors of a run's state: weights, moments, carried states, random state."""
    return {
        **load_file(run / "state" / "weights.safetensors"),
        **load_file(run / "state" / "optimizer.safetensors"),
    }


def test_interrupted_and_resumed_equals_uninterrupted(prepared: Path, tmp_path: Path) -> None:
    """Five steps, a stop, and seven more give the weights, moments and states of twelve, bit for bit."""
    whole = config(prepared)
    train(whole, tmp_path / "whole")
    trainer = Trainer(whole, tmp_path / "parts")
    stopping: list[int] = []
    update = trainer.update

    def counted(batch: Any) -> Any:
        if trainer.progress.step == 4:
            stopping.append(signal.SIGTERM)
        return update(batch)

    trainer.update = counted  # type: ignore[method-assign]
    trainer.run(stopping)
    assert trainer.progress.step == 5
    train(whole, tmp_path / "parts", resume=True)
    ours, theirs = weights(tmp_path / "parts"), weights(tmp_path / "whole")
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name]), name
    steps = [
        r["step"] for r in read_records(tmp_path / "parts" / "metrics.jsonl") if "loss_next" in r
    ]
    assert steps == [2, 4, 6, 8, 10, 12]


def test_stacked_bidirectional_learns_to_fill_masks(prepared: Path, tmp_path: Path) -> None:
    """The tutorial's deep bidirectional network of three mixing layers learns what stands under a mask."""
    network = NetworkConfig(
        SIZE,
        "stacked_bidirectional",
        embedding_size=24,
        hidden_size=24,
        forward_layers=3,
        backward_layers=0,
        gap_hidden_size=0,
    )
    optimizer = OptimizerOptions(learning_rate=1e-2, warmup_steps=3, decay_steps=20)
    data = replace(config(prepared).data, rows=32, masked_share=0.3)
    trainer = Trainer(
        config(
            prepared,
            steps=150,
            network=network,
            optimizer=optimizer,
            data=data,
            dropout=0.0,
            weight_drop=0.0,
        ),
        tmp_path / "run",
    )
    before = trainer.evaluate()
    trainer.run([])
    after = trainer.evaluate()
    assert after.keys() == {"heldout_gap_nats_en", "heldout_gap_nats_zh"}
    assert all(after[name] < 0.95 * before[name] for name in after), (before, after)


class MeanNetwork(torch.nn.Module):
    """A network that is not Lacuna's: the mean of the embeddings so far predicts the next token."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = torch.nn.Embedding(SIZE, 8)
        self.output_bias = torch.nn.Parameter(torch.zeros(SIZE))

    def initial_state(self, tower: str, rows: int) -> torch.Tensor:  # noqa: ARG002
        """Carry nothing."""
        return self.output_bias.new_zeros(rows, 0)

    def run_tower(
        self,
        tower: str,  # noqa: ARG002
        tokens: torch.Tensor,
        states: torch.Tensor,
        dtype: torch.dtype,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the mean of the embeddings so far, (T, B, 8)."""
        sums = self.embedding(tokens).cumsum(0)
        return (sums / torch.arange(1, len(tokens) + 1).view(-1, 1, 1)).to(dtype), states

    def next_features(self, outputs: torch.Tensor) -> torch.Tensor:
        """Return the means as they are."""
        return outputs


def test_a_network_of_the_callers_own_is_trained(prepared: Path, tmp_path: Path) -> None:
    """Any network that reads from left to right is trained, saved and resumed; export refuses it."""
    run, network = config(prepared, network=None), MeanNetwork()
    with pytest.raises(RunError, match=r"no \[network\]"):
        train(run, tmp_path / "run")
    trainer = Trainer(run, tmp_path / "run", network=network)
    before = trainer.evaluate()
    trainer.run([])
    assert trainer.evaluate().keys() == before.keys() >= {"heldout_bits_per_character_en"}
    resumed = Trainer(run, tmp_path / "run", resume=True, network=MeanNetwork())
    assert torch.equal(resumed.network.embedding.weight, network.embedding.weight)
    with pytest.raises(ExportError, match="only recurrent networks"):
        export(ExportOptions(tmp_path / "run", tmp_path / "checkpoint"))


@pytest.mark.parametrize("architecture", ["two_towers", "forward"])
@pytest.mark.parametrize("cell", ["rnn_tanh", "gru", "lstm"])
def test_the_loss_falls(prepared: Path, tmp_path: Path, cell: Any, architecture: Any) -> None:
    """A few small steps bring held-out text well below what token frequencies alone give, with every cell."""
    two = architecture == "two_towers"
    network = NetworkConfig(
        SIZE,
        architecture,
        cell,
        embedding_size=24,
        hidden_size=32,
        forward_layers=1,
        backward_layers=int(two),
        gap_hidden_size=16 * two,
    )
    data = replace(config(prepared).data, rows=16)
    optimizer = OptimizerOptions(learning_rate=2e-2, warmup_steps=3, decay_steps=20)
    changes = {
        "network": network,
        "data": data,
        "optimizer": optimizer,
        "dropout": 0.0,
        "weight_drop": 0.0,
    }
    trainer = Trainer(config(prepared, steps=160, **changes), tmp_path / "run")
    before = trainer.evaluate()
    trainer.run([])
    after = trainer.evaluate()
    for language in ("en", "zh"):
        name = f"heldout_bits_per_character_{language}"
        assert after[name] < 0.85 * before[name]
        if two:
            assert (
                after[f"heldout_gap_nats_{language}"]
                < 0.85 * before[f"heldout_gap_nats_{language}"]
            )
    assert (tmp_path / "run" / "loss.png").stat().st_size > 1000


@pytest.mark.filterwarnings(
    "ignore:This DataLoader will create"
)  # more than a small machine has cores
def test_batches_made_ahead_change_nothing(prepared: Path, tmp_path: Path) -> None:
    """With processes that make batches ahead, dropout included, a run ends in the same weights."""
    for processes in (0, 2):
        train(
            config(prepared, steps=7, dropout=0.1, loader_processes=processes),
            tmp_path / str(processes),
        )
    one, other = (load_file(tmp_path / n / "state" / "weights.safetensors") for n in ("0", "2"))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_signal_to_the_whole_group_saves_and_ends_the_processes_that_make_batches(
    prepared: Path, tmp_path: Path
) -> None:
    """As `timeout` and service managers send it: the run ends after its step, saved, and leaves nobody behind."""
    run = config(
        prepared, steps=100_000, loader_processes=2, optimizer=OptimizerOptions(schedule="constant")
    )
    (tmp_path / "run.json").write_text(json.dumps(run.to_dict()), encoding="utf-8")
    program = """
import json, sys, warnings
from pathlib import Path
from training.config import run_from_dict
from training.trainer import train
warnings.filterwarnings("ignore", "This DataLoader will create")
train(run_from_dict(json.loads(Path("run.json").read_text(encoding="utf-8")), "run.json"), Path("run"))
"""
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stderr is not None
    told = ""
    while "loss" not in told:  # steps have been made
        more = process.stderr.read(64)
        assert more, told
        told += more
    os.killpg(process.pid, signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert "Traceback" not in errors
    saved = json.loads((tmp_path / "run" / "state" / "state.json").read_text(encoding="utf-8"))
    assert saved["progress"]["step"] == read_records(tmp_path / "run" / "metrics.jsonl")[-1]["step"]
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)


def test_signal_saves_and_stops(prepared: Path, tmp_path: Path) -> None:
    """SIGTERM in mid-run ends it after the step, saved, with the handlers put back."""
    run = config(prepared, steps=100_000, optimizer=OptimizerOptions(schedule="constant"))
    before = signal.getsignal(signal.SIGTERM)
    drawn = 0
    draw = BatchStream.__next__

    def signalled(self: BatchStream) -> Any:
        nonlocal drawn
        drawn += 1
        assert drawn <= 3, "no step begins after the signal"
        if drawn == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return draw(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BatchStream, "__next__", signalled)
        train(run, tmp_path / "run")
    assert signal.getsignal(signal.SIGTERM) is before
    assert (
        json.loads((tmp_path / "run" / "state" / "state.json").read_text())["progress"]["step"] == 3
    )
    assert read_records(tmp_path / "run" / "metrics.jsonl")[-1]["step"] == 3


@pytest.mark.parametrize("signalled", [False, True])
def test_the_last_step_is_scored_once(prepared: Path, tmp_path: Path, signalled: bool) -> None:
    """Where the last step is one of evaluation, or a signal comes in it, the held-out text is scored once."""
    trainer = Trainer(
        config(prepared, steps=50 if signalled else 4, evaluate_every_steps=2), tmp_path / "run"
    )
    evaluate, stopping = trainer.evaluate, list[int]()

    def interrupted() -> dict[str, float]:
        if trainer.progress.step == 4 and signalled:
            stopping.append(signal.SIGTERM)
        return evaluate()

    trainer.evaluate = interrupted  # type: ignore[method-assign]
    trainer.run(stopping)
    records = read_records(tmp_path / "run" / "metrics.jsonl")
    assert [record["step"] for record in records if "heldout_gap_nats_en" in record] == [2, 4]


@pytest.mark.parametrize("device", ["gpu", "meta", "cuda", "cuda:3"])
def test_a_device_that_is_not_there_is_a_named_error(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: str
) -> None:
    """The message names the device and what to choose, and nothing is written."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(RunError, match=f"device is '{device}'.*choose cpu"):
        Trainer(config(prepared, device=device), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_nan_stops_the_run_and_keeps_the_last_state(prepared: Path, tmp_path: Path) -> None:
    """A weight that is no longer a number raises DivergedError and leaves the saved state untouched."""
    run = config(prepared)
    trainer = Trainer(run, tmp_path / "run")
    with torch.no_grad():
        good_weight = trainer.network.embedding.weight.clone()
        trainer.network.embedding.weight[5:] = float("nan")
    with pytest.raises(DivergedError, match=r"or clip harder$"):
        trainer.run([])  # nothing was saved yet, and no state is promised
    with torch.no_grad():
        trainer.network.embedding.weight.copy_(good_weight)
    trainer.save()
    good = weights(tmp_path / "run")
    with torch.no_grad():
        trainer.network.embedding.weight[5:] = float("nan")
    with pytest.raises(DivergedError, match="last good state"):
        trainer.run([])
    assert all(
        torch.equal(tensor, good[name]) for name, tensor in weights(tmp_path / "run").items()
    )


def test_full_disk_keeps_the_snapshot_before(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that fills up while saving raises RunError; the state saved before can be resumed."""
    trainer = Trainer(config(prepared, steps=3), tmp_path / "run")
    trainer.save()

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(training.run_state, "save_file", full)
    with pytest.raises(RunError, match="No space left"):
        trainer.save()
    monkeypatch.undo()
    train(config(prepared, steps=3), tmp_path / "run", resume=True)
    assert (
        json.loads((tmp_path / "run" / "state" / "state.json").read_text())["progress"]["step"] == 3
    )


def test_a_full_disk_keeps_the_log_and_the_vocabulary(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Resuming on a full disk is a RunError, and what the run directory held is still whole."""
    train(config(prepared, steps=3), tmp_path / "run")
    names = ("config.json", "tokenizer.model", "metrics.jsonl")
    before = [(tmp_path / "run" / name).read_bytes() for name in names]

    def full(self: Path, *_: object, **__: object) -> None:
        self.open("wb").close()  # to write is to empty the file first
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", full)
        patch.setattr(Path, "write_bytes", full)
        with pytest.raises(RunError, match="No space left"):
            Trainer(config(prepared, steps=3), tmp_path / "run", resume=True)
        with pytest.raises(RunError, match="No space left"):
            RunLog(tmp_path / "run", 3)
    assert [(tmp_path / "run" / name).read_bytes() for name in names] == before


def test_a_snapshot_left_between_two_renames_is_not_lost(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a crash left the old snapshot only, no new run begins there, and a save that fails keeps it."""
    trainer = Trainer(config(prepared), tmp_path / "run")
    trainer.save()
    (tmp_path / "run" / "state").rename(tmp_path / "run" / "state.old")
    with pytest.raises(RunError, match="--resume"):
        Trainer(config(prepared), tmp_path / "run")
    resumed = Trainer(config(prepared), tmp_path / "run", resume=True)
    rename = Path.rename

    def fail_to_arrive(self: Path, target: Path) -> Path:
        if self.name == "state.new":
            raise OSError(errno.EIO, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail_to_arrive)
    with pytest.raises(RunError, match="Input/output"):
        resumed.save()
    assert (snapshot_directory(tmp_path / "run") / "weights.safetensors").is_file()


def test_the_state_is_saved_before_the_last_figures(prepared: Path, tmp_path: Path) -> None:
    """Whoever sent SIGTERM may send SIGKILL while held-out text is scored: the state is there by then."""
    trainer = Trainer(config(prepared, evaluate_every_steps=0, steps=2), tmp_path / "run")

    def killed() -> dict[str, float]:
        raise KeyboardInterrupt

    trainer.evaluate = killed  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        trainer.run([])
    trainer.log.close()
    assert (
        json.loads((tmp_path / "run" / "state" / "state.json").read_text())["progress"]["step"] == 2
    )


@pytest.mark.parametrize(("first", "second"), [("adamw", "sgd"), ("sgd", "adamw")])
def test_moments_of_another_optimizer_are_refused(
    prepared: Path, tmp_path: Path, first: Any, second: Any
) -> None:
    """Neither --resume nor start_from takes up what the other optimizer left."""
    train(
        config(prepared, steps=2, optimizer=OptimizerOptions(name=first, schedule="constant")),
        tmp_path / "run",
    )
    other = config(prepared, steps=4, optimizer=OptimizerOptions(name=second, schedule="constant"))
    with pytest.raises(RunError, match="another optimizer"):
        Trainer(other, tmp_path / "run", resume=True)
    with pytest.raises(RunError, match="another optimizer"):
        Trainer(replace(other, start_from=str(tmp_path / "run" / "state")), tmp_path / "second")


def test_a_run_is_not_overwritten(prepared: Path, tmp_path: Path) -> None:
    """Starting anew where a run lies is refused, and so is resuming it with another network."""
    Trainer(config(prepared), tmp_path / "run").save()
    with pytest.raises(RunError, match="--resume"):
        Trainer(config(prepared), tmp_path / "run")
    other = replace(config(prepared).network, hidden_size=20)
    with pytest.raises(RunError, match="network"):
        Trainer(config(prepared, network=other), tmp_path / "run", resume=True)
    with pytest.raises(RunError, match="no saved state"):
        Trainer(config(prepared), tmp_path / "elsewhere", resume=True)


def test_a_run_is_not_resumed_on_other_data(prepared: Path, tmp_path: Path) -> None:
    """The state knows its data: others at the same place are refused by both digests; an older state takes any."""
    data = Path(shutil.copytree(prepared, tmp_path / "data"))
    run = config(data, steps=2)
    train(run, tmp_path / "run")
    state = tmp_path / "run" / "state" / "state.json"
    values = json.loads(state.read_text(encoding="utf-8"))
    own = open_prepared(data).sha256
    assert values["data_sha256"] == own
    manifest = json.loads((data / "manifest.json").read_text(encoding="utf-8"))
    manifest["sources"][0]["weight"] = 2.5
    manifest["sha256"] = other = manifest_digest(manifest)
    (data / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    with pytest.raises(
        RunError, match=f"{own[:12]}.*{other[:12]}; prepare the same data again, or .* start_from"
    ):
        Trainer(run, tmp_path / "run", resume=True)
    Trainer(replace(run, start_from=str(state.parent)), tmp_path / "second")
    del values["data_sha256"]
    state.write_text(json.dumps(values), encoding="utf-8")
    assert Trainer(run, tmp_path / "run", resume=True).progress.step == 2


def test_vocabulary_must_fit(prepared: Path, tmp_path: Path) -> None:
    """A network of another vocabulary size is refused with both sizes."""
    network = replace(config(prepared).network, vocabulary_size=640)
    with pytest.raises(RunError, match=r"640.*600"):
        Trainer(config(prepared, network=network), tmp_path / "run")


def test_clip_by_value_bounds_each_gradient(prepared: Path, tmp_path: Path) -> None:
    """With clip_value c no gradient that reaches the optimizer is larger than c, as the tutorial describes."""
    options = OptimizerOptions(
        name="sgd", learning_rate=0.1, schedule="constant", clip_norm=0.0, clip_value=1e-4
    )
    trainer = Trainer(config(prepared, steps=1, optimizer=options), tmp_path / "run")
    trainer.run([])
    largest = max(
        float(p.grad.abs().max()) for p in trainer.network.parameters() if p.grad is not None
    )
    assert 0 < largest <= 1e-4


def test_clip_by_value_does_not_hide_an_infinite_gradient(prepared: Path, tmp_path: Path) -> None:
    """A gradient that is infinite before it is cut to c is divergence, and the weights stay as they were."""
    options = OptimizerOptions(
        name="sgd", learning_rate=0.1, schedule="constant", clip_norm=0.0, clip_value=1e-4
    )
    trainer = Trainer(config(prepared, steps=1, optimizer=options), tmp_path / "run")
    trainer.network.output_bias.register_hook(lambda gradient: torch.full_like(gradient, math.inf))
    before = trainer.network.output_bias.detach().clone()
    with pytest.raises(DivergedError, match="gradient norm inf"):
        trainer.run([])
    assert torch.equal(trainer.network.output_bias, before)


def test_both_clips_hold(prepared: Path, tmp_path: Path) -> None:
    """Given both, gradients are cut by value and then scaled down to the norm."""
    options = OptimizerOptions(
        name="sgd", learning_rate=0.1, schedule="constant", clip_norm=1e-3, clip_value=1e-4
    )
    trainer = Trainer(config(prepared, steps=1, optimizer=options), tmp_path / "run")
    trainer.run([])
    gradients = torch.cat(
        [p.grad.flatten() for p in trainer.network.parameters() if p.grad is not None]
    )
    assert float(gradients.norm()) == pytest.approx(1e-3, rel=1e-2)
    assert float(gradients.abs().max()) < 1e-4


def test_start_from_takes_weights_and_moments(prepared: Path, tmp_path: Path) -> None:
    """A second stage begins with the first one's weights, and counts its own steps."""
    train(config(prepared, steps=4), tmp_path / "first")
    second = Trainer(
        config(prepared, start_from=str(tmp_path / "first" / "state")), tmp_path / "second"
    )
    first = load_file(tmp_path / "first" / "state" / "weights.safetensors")
    assert all(torch.equal(p, first[n]) for n, p in second.network.state_dict().items())
    assert second.progress.step == 0
    assert all(float(s["step"]) == 4 for s in second.optimizer.state.values())


def test_a_stage_can_teach_the_forward_tower_alone(prepared: Path, tmp_path: Path) -> None:
    """With the other losses weighed 0 the backward tower and the gap head stay; the forward tower learns."""
    train(config(prepared, steps=2), tmp_path / "first")
    alone = LossOptions(sampled_negatives=40, previous_weight=0.0, gap_weight=0.0)
    start = str(tmp_path / "first" / "state")
    train(
        config(prepared, steps=3, loss=alone, start_from=start, full_softmax_steps=0),
        tmp_path / "second",
    )
    before, after = (
        load_file(tmp_path / run / "state" / "weights.safetensors") for run in ("first", "second")
    )
    for name in before:
        rests = name.startswith(("backward_tower", "previous", "gap", "unknown_right"))
        assert torch.equal(before[name], after[name]) == rests, name
    records = read_records(tmp_path / "second" / "metrics.jsonl")
    assert all("loss_gap" not in r and "heldout_gap_nats_en" not in r for r in records)


def test_a_stage_can_weigh_sources_anew(prepared: Path, tmp_path: Path) -> None:
    """A run's own weight of a source takes the place of the prepared one: three passes an epoch instead of one."""
    data = config(prepared).data
    once = Trainer(config(prepared), tmp_path / "once")
    thrice = Trainer(
        config(prepared, data=replace(data, weights={"english": 3.0})), tmp_path / "thrice"
    )
    weights = {source.name: source.weight for source in thrice.sources}
    assert weights == {"english": 3.0, "chinese": 1.5}
    assert thrice.batches.batches_in_epoch > 1.5 * once.batches.batches_in_epoch
    with pytest.raises(RunError, match=r"\[data.weights\]: 'latin' is not in"):
        Trainer(config(prepared, data=replace(data, weights={"latin": 2.0})), tmp_path / "unknown")


def test_run_files_name_their_mistakes(tmp_path: Path) -> None:
    """Unknown, ill-typed and impossible fields of a run file are errors that name the field."""
    good = '[data]\nprepared = "x"\n[network]\nvocabulary_size = 300\n'
    constant = "[optimizer]\nschedule = 'constant'\n"
    for text, message in (
        ("nmae = 1\nsteps = 1\nname = 'a'\n" + good, "nmae"),
        ("steps = 1.5\nname = 'a'\n" + good, "steps"),
        ("steps = true\nname = 'a'\n" + good, "steps"),
        ("name = 'a'\n" + good, "give the run an end"),
        ("name = 'a'\nsteps = 1\n" + good + "cell = 'lstmm'\n", "cell"),
        ("name = 'a'\nsteps = 1\n" + good + "hidden_size = 0\n", "hidden_size"),
        (
            "name = 'a'\nminutes = 1\nfull_softmax_steps = 9\n" + good + constant,
            "full_softmax_steps",
        ),
        (
            "name = 'a'\nsteps = 1\ndropout = 1\n" + good,
            "dropout is 1.0; it must be at least 0 and below 1",
        ),
        (
            "name = 'a'\nsteps = 1\nlog_every_steps = 0\n" + good,
            "log_every_steps is 0; it must be at least 1",
        ),
        (
            "name = 'a'\nsteps = 1\n" + good + "[loss]\nsampled_negatives = -1\n",
            r"\[loss\]: sampled_negatives is -1",
        ),
        (
            "name = 'a'\nsteps = 1\n" + good.replace("[net", "carry_share = 1.5\n[net"),
            r"\[data\]: carry_share is 1.5",
        ),
        (
            "name = 'a'\nsteps = 1\n" + good.replace("[net", "lookahead_tokens = 0\n[net"),
            "lookahead_tokens is 0",
        ),
        (
            "name = 'a'\nsteps = 1\n" + good + "[data.weights]\nnovels = 0\n",
            r"\[data\]: weights: novels is 0.0",
        ),
        (
            "name = 'a'\nsteps = 1\n" + good + "[data.weights]\nnovels = 'x'\n",
            "weights.novels is a str",
        ),
        ("name = 'a'\nsteps = 1\nseed = -1\n" + good, "seed is -1; it must be at least 0"),
        ("name = 'a'\nsteps = 1\nfull_softmax_steps = -5\n" + good, "full_softmax_steps is -5"),
        (
            "name = 'a'\nsteps = 1\n" + good + "[optimizer]\nlearning_rate = -1\n",
            "learning_rate is -1.0",
        ),
        (
            "name = 'a'\nsteps = 1\n" + good + "[optimizer]\nlearning_rate = inf\n",
            "learning_rate is inf",
        ),
        ("name = 'a'\nsteps = 1\n" + good + "[optimizer]\nbeta2 = 3.0\n", "beta2 is 3.0"),
        ("name = ", "TOML"),
    ):
        path = tmp_path / "run.toml"
        path.write_text(text, encoding="utf-8")
        with pytest.raises(RunError, match=message):
            load_run(path)


def test_every_run_file_in_the_project_loads() -> None:
    """The committed run files are valid."""
    runs = Path(__file__).parents[2] / "training" / "runs"
    files = sorted(runs.glob("*.toml"))
    assert len(files) >= 4
    assert all(np.isfinite(load_run(path).optimizer.learning_rate) for path in files)
    assert all(read_options(WordRun, path).epochs for path in (runs / "words").glob("*.toml"))
