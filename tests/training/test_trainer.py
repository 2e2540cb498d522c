"""The training loop learns, resumes bit for bit, stops on signals and never loses a saved state."""

import json
import math
import multiprocessing
import os
import re
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import training.options
from model.config import NetworkConfig
from model.errors import DivergedError, ExportError, RunError
from research.cifg import KeyboardConfig, KeyboardNetwork
from tests.training.tiny_config import SIZE, tiny_config
from training.__main__ import main
from training.config import LossOptions, OptimizerOptions
from training.data.shards import manifest_digest
from training.export import ExportOptions, export
from training.run_log import read_records
from training.run_state import find_state, read_state
from training.trainer import Trainer, train

CONSTANT = OptimizerOptions(schedule="constant")


def assert_same_tensors(one: Path, other: Path) -> None:
    """Two runs have the same weights, moments, carried states and random state, bit for bit."""
    for name in ("weights.safetensors", "optimizer.safetensors"):
        ours, theirs = (load_file(run / "state" / name) for run in (one, other))
        assert ours.keys() == theirs.keys()
        assert not [key for key in ours if not torch.equal(ours[key], theirs[key])]


def test_interrupted_and_resumed_equals_uninterrupted(prepared: Path, tmp_path: Path) -> None:
    """Five steps, a stop, and seven more give the weights, moments and states of twelve."""
    run = tiny_config(prepared)
    train(run, tmp_path / "whole")
    trainer = Trainer(run, tmp_path / "parts")
    stopping: list[int] = []
    update = trainer.update

    def stop_at_5(batch: Any) -> Any:
        if trainer.progress.step == 4:
            stopping.append(signal.SIGTERM)
        return update(batch)

    trainer.update = stop_at_5  # type: ignore[method-assign]
    trainer.run(stopping)
    assert trainer.progress.step == 5
    train(run, tmp_path / "parts", resume=True)
    assert_same_tensors(tmp_path / "parts", tmp_path / "whole")
    records = read_records(tmp_path / "parts" / "metrics.jsonl")
    assert [r["step"] for r in records if "loss_next" in r] == [2, 4, 6, 8, 10, 12]
    assert [r["step"] for r in records if "heldout_gap_nats_en" in r] == [6, 12]


def test_the_best_state_does_not_depend_on_interruptions(
    prepared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run that stops after each of its steps keeps the same best state, and goes on from it."""
    optimizer = OptimizerOptions(learning_rate=0.05, schedule="constant", warmup_steps=0)
    changes = {"steps": 8, "evaluate_every_steps": 2, "keep_best": True, "optimizer": optimizer}
    run = tiny_config(prepared, full_softmax_steps=0, **changes)
    whole, parts = tmp_path / "whole", tmp_path / "parts"

    def trainer_in(directory: Path) -> Trainer:
        trainer = Trainer(run, directory, resume=find_state(directory) is not None)
        del trainer.held_out["en"]  # gets no better in so few steps
        return trainer

    trainer_in(whole).run([])
    lines = [line for line in capsys.readouterr().err.splitlines() if "held-out" in line]
    assert len(lines) == 5
    assert re.search(r"step 0: held-out bits per character: zh \d+\.\d\d$", lines[0])
    for _ in range(run.steps + 1):
        trainer = trainer_in(parts)
        stopping: list[int] = []
        trainer.update = stop_after(trainer.update, stopping)  # type: ignore[method-assign]
        trainer.run(stopping)
    best, again = (read_state(each / "best").progress for each in (whole, parts))
    assert (best.step, best.best_step, best.best_loss) == (again.step, best.step, again.best_loss)
    records = read_records(parts / "metrics.jsonl")
    held_out = {r["step"]: trainer.held_out_loss(r) for r in records if "heldout_gap_nats_zh" in r}
    assert list(held_out) == [0, 2, 4, 6, 8]
    assert min(held_out, key=lambda step: held_out[step]) == best.step
    assert best.step not in (0, 8), held_out
    for name in ("weights.safetensors", "optimizer.safetensors"):
        assert (whole / "best" / name).read_bytes() == (parts / "best" / name).read_bytes()
    shutil.rmtree(parts / "best")
    shutil.copytree(whole / "best", parts / "state", dirs_exist_ok=True)
    Trainer(run, parts, resume=True)
    assert read_state(parts / "best") == read_state(whole / "best"), "a crash before the copy"


def stop_after(update: Callable[[Any], Any], stopping: list[int]) -> Callable[[Any], Any]:
    """Return an update that is followed by a signal."""

    def updated(batch: Any) -> Any:
        stopping.append(signal.SIGTERM)
        return update(batch)

    return updated


def test_keeping_the_best_state_needs_held_out_text(prepared: Path, tmp_path: Path) -> None:
    """The remedy is named before the first step."""
    trainer = Trainer(tiny_config(prepared, keep_best=True), tmp_path / "run")
    trainer.held_out = {}
    with pytest.raises(RunError, match="keep_best needs held-out text; prepare with"):
        trainer.run([])
    assert trainer.progress.step == 0


@pytest.mark.parametrize(
    ("architecture", "cell", "layers"),
    [
        ("forward", "rnn_tanh", 1),
        ("forward", "gru", 1),
        ("two_towers", "lstm", 1),
        ("stacked_bidirectional", "lstm", 3),
    ],
)
def test_the_loss_falls(
    prepared: Path, tmp_path: Path, architecture: Any, cell: Any, layers: int
) -> None:
    """A few steps bring held-out text well below what token frequencies give, with every cell."""
    two, stacked = architecture == "two_towers", architecture == "stacked_bidirectional"
    network = NetworkConfig(SIZE, architecture, cell, 16, 24, layers, int(two), 16 * two)
    run = tiny_config(
        prepared,
        steps=80,
        network=network,
        data=replace(tiny_config(prepared).data, rows=16),
        optimizer=OptimizerOptions(learning_rate=3e-2, warmup_steps=3, decay_steps=20),
        loss=LossOptions(sampled_negatives=0, masked_share=0.3),
        dropout=0.0,
        weight_drop=0.0,
        evaluate_every_steps=0,
    )
    trainer = Trainer(run, tmp_path / "run")
    before = trainer.evaluate()
    trainer.run([])
    after = trainer.evaluate()
    kinds = ["gap_nats"] if stacked else ["bits_per_character"] + ["gap_nats"] * two
    assert after.keys() == {f"heldout_{kind}_{code}" for kind in kinds for code in ("en", "zh")}
    limit = 0.97 if stacked else 0.88
    assert all(after[name] < limit * before[name] for name in after), (before, after)


def test_a_network_of_the_callers_own_is_trained(prepared: Path, tmp_path: Path) -> None:
    """Any network that reads from left to right can be trained and resumed; export refuses it."""
    run = tiny_config(prepared, network=None)
    network, other = (KeyboardNetwork(KeyboardConfig(SIZE, 8, 12)) for _ in range(2))
    with pytest.raises(RunError, match=r"no \[network\]"):
        train(run, tmp_path / "run")
    train(run, tmp_path / "run", network=network)
    resumed = Trainer(run, tmp_path / "run", resume=True, network=other)
    assert torch.equal(resumed.network.embedding.weight, network.embedding.weight)
    assert resumed.evaluate().keys() >= {"heldout_bits_per_character_en"}
    with pytest.raises(ExportError, match="only recurrent networks"):
        export(ExportOptions(tmp_path / "run", tmp_path / "checkpoint"))


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("processes", [0, 2])
def test_signal_saves_and_stops(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, processes: int
) -> None:
    """SIGTERM, also to the whole group, ends a run after its step, saved; no process is left."""
    before, update, steps = signal.getsignal(signal.SIGTERM), Trainer.update, 0

    def signalled(trainer: Trainer, batch: Any) -> Any:
        nonlocal steps
        steps += 1
        children = multiprocessing.active_children()
        assert len(children) == processes
        if steps == 2:
            for child in children:
                os.kill(child.pid or 0, signal.SIGTERM)
        if steps == 4:
            os.kill(os.getpid(), signal.SIGTERM)
        return update(trainer, batch)

    monkeypatch.setattr(Trainer, "update", signalled)
    run = tiny_config(prepared, steps=100_000, loader_processes=processes, optimizer=CONSTANT)
    train(run, tmp_path / "run")
    assert steps == read_state(tmp_path / "run" / "state").progress.step == 4
    assert read_records(tmp_path / "run" / "metrics.jsonl")[-1]["step"] == 4
    assert signal.getsignal(signal.SIGTERM) is before
    assert not multiprocessing.active_children()


def test_the_state_is_saved_before_the_last_evaluation(prepared: Path, tmp_path: Path) -> None:
    """SIGKILL may follow SIGTERM during the last evaluation; the state is saved by then."""
    trainer = Trainer(tiny_config(prepared, evaluate_every_steps=0, steps=2), tmp_path / "run")

    def killed(_: object) -> dict[str, float]:
        raise KeyboardInterrupt

    trainer.evaluate = killed  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        trainer.run([])
    assert read_state(tmp_path / "run" / "state").progress.step == 2


def test_missing_devices_are_named(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A GPU that torch does not find is a RunError, and nothing is written."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(RunError, match=r"device is 'cuda:3'.*choose cpu"):
        Trainer(tiny_config(prepared, device="cuda:3"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_threads_are_those_of_the_machine(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run with more threads than CPUs uses the CPUs, and its state says so."""
    monkeypatch.setattr(training.options, "usable_cpus", lambda: 1)
    trainer = Trainer(tiny_config(prepared, threads=64), tmp_path / "run")
    assert torch.get_num_threads() == trainer.config.threads == 1


def test_divergence_keeps_the_last_state(prepared: Path, tmp_path: Path) -> None:
    """A loss that is not a number raises DivergedError; the saved state is not touched."""
    trainer = Trainer(tiny_config(prepared), tmp_path / "run")
    trainer.save()
    shutil.copytree(tmp_path / "run", tmp_path / "copy")
    trainer.network.embedding.weight.data[5:] = math.nan
    with pytest.raises(DivergedError, match=r"state of step 0 is kept.* `train --resume`"):
        trainer.run([])
    assert_same_tensors(tmp_path / "run", tmp_path / "copy")


@pytest.mark.parametrize("limit", [0.0, 1e-3])
def test_clipping_limits_the_gradients(prepared: Path, tmp_path: Path, limit: float) -> None:
    """Gradients are scaled down to the norm; 0 turns the limit off, not the check for infinity."""
    options = replace(CONSTANT, clip_norm=limit)
    trainer = Trainer(tiny_config(prepared, steps=1, optimizer=options), tmp_path / "run")
    trainer.run([])
    parts = [p.grad.flatten() for p in trainer.network.parameters() if p.grad is not None]
    norm = float(torch.cat(parts).norm())
    assert norm == pytest.approx(limit, rel=1e-2) if limit else norm > 0.01
    bias = trainer.network.output_bias
    bias.register_hook(lambda gradient: torch.full_like(gradient, math.inf))
    before = bias.detach().clone()
    with pytest.raises(DivergedError, match="gradient norm inf"):
        trainer.update(next(trainer.batches))
    assert torch.equal(bias, before)


def test_a_run_is_not_overwritten(prepared: Path, tmp_path: Path) -> None:
    """A new run is refused in the directory of another, and resuming needs the same run file."""
    run = tiny_config(prepared)
    Trainer(run, tmp_path / "run").save()
    with pytest.raises(RunError, match="--resume"):
        Trainer(run, tmp_path / "run")
    other = replace(run, network=replace(run.network, hidden_size=20))
    with pytest.raises(RunError, match="was trained with another"):
        Trainer(other, tmp_path / "run", resume=True)
    with pytest.raises(RunError, match="no saved state"):
        Trainer(run, tmp_path / "elsewhere", resume=True)
    smaller = replace(run, network=replace(run.network, vocabulary_size=640))
    with pytest.raises(RunError, match=r"640.*600"):
        Trainer(smaller, tmp_path / "elsewhere")


def test_a_run_is_not_resumed_on_other_data(prepared: Path, tmp_path: Path) -> None:
    """Other data at the same path are refused with both digests; start_from accepts them."""
    data = Path(shutil.copytree(prepared, tmp_path / "data"))
    run = tiny_config(data, steps=2)
    train(run, tmp_path / "run")
    manifest = json.loads((data / "manifest.json").read_text(encoding="utf-8"))
    own = manifest["sha256"]
    manifest["sources"][0]["weight"] = 2.5
    manifest["sha256"] = other = manifest_digest(manifest)
    (data / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    with pytest.raises(RunError, match=f"{own[:12]}.*{other[:12]}.*start_from"):
        Trainer(run, tmp_path / "run", resume=True)
    Trainer(replace(run, start_from=str(tmp_path / "run" / "state")), tmp_path / "second")


def test_a_stage_starts_from_another_and_can_teach_the_forward_tower_alone(
    prepared: Path, tmp_path: Path
) -> None:
    """Weights and moments are the first stage's; with weights 0, other losses change nothing."""
    train(tiny_config(prepared, steps=4), tmp_path / "first")
    state = tmp_path / "first" / "state"
    alone = LossOptions(sampled_negatives=40, previous_weight=0.0, gap_weight=0.0)
    changes = {"steps": 3, "loss": alone, "start_from": str(state), "full_softmax_steps": 0}
    second = Trainer(tiny_config(prepared, **changes), tmp_path / "second")
    before = load_file(state / "weights.safetensors")
    assert all(torch.equal(p, before[n]) for n, p in second.network.state_dict().items())
    assert second.progress.step == 0
    assert all(float(each["step"]) == 4 for each in second.optimizer.state.values())
    second.run([])
    for name, after in second.network.state_dict().items():
        rests = name.startswith(("backward_tower", "previous", "gap", "unknown_right"))
        assert torch.equal(before[name], after) == rests, name
    records = read_records(tmp_path / "second" / "metrics.jsonl")
    assert not [r for r in records if "loss_gap" in r or "heldout_gap_nats_en" in r]


def test_a_stage_can_weigh_sources_anew(prepared: Path, tmp_path: Path) -> None:
    """The run's own weight of a source replaces the prepared one; unknown sources are refused."""
    data = tiny_config(prepared).data
    thrice = tiny_config(prepared, data=replace(data, source_weights={"english": 3.0}))
    sources = Trainer(thrice, tmp_path / "thrice").sources
    assert {each.name: each.weight for each in sources} == {"english": 3.0, "chinese": 1.5}
    unknown = tiny_config(prepared, data=replace(data, source_weights={"latin": 1.0}))
    with pytest.raises(RunError, match="'latin' is not in"):
        Trainer(unknown, tmp_path / "unknown")


def test_the_command_trains_within_its_minutes(prepared: Path, tmp_path: Path) -> None:
    """--minutes ends a run by CPU time; a second call needs --resume."""
    path = tmp_path / "run.toml"
    path.write_text(
        f'name = "a"\nminutes = 60\ndata = {{prepared = "{prepared}", rows = 4}}\n'
        f"network = {{vocabulary_size = {SIZE}, hidden_size = 8}}\n"
        'optimizer = {schedule = "constant", warmup_steps = 0}\n',
        encoding="utf-8",
    )
    command = ["train", str(path), "--output", str(tmp_path / "run"), "--minutes", "1e-9"]
    assert main(command) == 0
    assert read_state(tmp_path / "run" / "state").progress.step == 1
    assert main(command) == 2
    assert main([*command, "--resume"]) == 0
    assert main([*command[:-1], "-1"]) == 2


def test_an_interrupted_command_says_so(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The status is 130 until the run is finished."""
    path = tmp_path / "run.toml"
    path.write_text(
        f'name = "a"\nsteps = 3\ndata = {{prepared = "{prepared}", rows = 4}}\n'
        f"network = {{vocabulary_size = {SIZE}, hidden_size = 8}}\n"
        'optimizer = {schedule = "constant", warmup_steps = 0}\n',
        encoding="utf-8",
    )
    update = Trainer.update

    def signalled(trainer: Trainer, batch: Any) -> Any:
        os.kill(os.getpid(), signal.SIGINT)
        return update(trainer, batch)

    monkeypatch.setattr(Trainer, "update", signalled)
    command = ["train", str(path), "--output", str(tmp_path / "run")]
    assert main(command) == 130
    monkeypatch.undo()
    assert main([*command, "--resume"]) == 0
