"""Processes that share the rows of a batch train as one process does."""

import os
import shutil
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from model.config import NetworkConfig
from model.errors import RunError
from model.network import Network
from tests.training.made_up_text import V, flags, options, shard
from tests.training.test_trainer import assert_same_tensors
from tests.training.tiny_config import SIZE, tiny_config
from training.config import LossOptions, OptimizerOptions, RunConfig
from training.data.batches import Batch, BatchStream
from training.loss import NegativeSampler, batch_losses
from training.ranks import Ranks, joined
from training.run_log import read_records
from training.run_state import read_state
from training.trainer import train

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("negatives", [0, 20])
def test_the_gradients_of_all_shares_add_up_to_those_of_the_batch(negatives: int) -> None:
    """So do the nats, also if some of nine ranks have no row; each row keeps its carried state."""
    torch.set_num_threads(1)
    network = Network(replace(tiny_config(Path()).network, vocabulary_size=V))
    stream = BatchStream([shard(1, 60, consecutive=True)], flags(), options(rows=5), 1)
    kinds = set()
    while kinds != {True, False}:
        batch = next(stream)
        states = torch.rand(batch.forward_inputs.shape[1], network.config.state_size("forward"))
        whole = sums(network, batch, states, negatives, 1)
        for size in (2, 9):
            for one, other in zip(
                sums(network, batch, states, negatives, size), whole, strict=True
            ):
                torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
        kinds.add(batch.windows)


def sums(
    network: Network, batch: Batch, states: torch.Tensor, negatives: int, size: int
) -> list[torch.Tensor]:
    """Return nats, states afterwards and gradients of a batch, by the shares of *size* ranks."""
    sampler = NegativeSampler(np.ones(V, np.int64), negatives, torch.device("cpu"))
    network.zero_grad()
    nats, after = torch.zeros(3), torch.zeros_like(states)
    for rank in range(size):
        ranks = Ranks()
        ranks.rank, ranks.size = rank, size
        losses, ranks.rows(after)[:] = batch_losses(
            network,
            ranks.share(batch),
            ranks.rows(states),
            LossOptions(),
            torch.float32,
            sampler if negatives else None,
            np.random.default_rng(1),
        )
        losses.total.backward()  # type: ignore[no-untyped-call]
        nats += torch.stack([each.detach() for each, _ in losses.by_head.values()])
    return [nats, after, *(p.grad for p in network.parameters() if p.grad is not None)]


def torchrun(*words: str | Path, module: tuple[str, ...] = ("training",)) -> tuple[int, str]:
    """Run a command on two processes; return its status and standard error."""
    launcher = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", *module]
    command = [sys.executable, "-m", *launcher, *map(str, words)]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True
    )
    return done.returncode, done.stderr.decode()


def written(config: RunConfig, path: Path) -> Path:
    """Write a run file."""

    def line(name: str, value: Any) -> str:
        if isinstance(value, dict):
            return f"{name} = {{{', '.join(line(k, v) for k, v in value.items())}}}"
        return f"{name} = {str(value).lower() if isinstance(value, bool) else repr(value)}"

    path.write_text("\n".join(line(*each) for each in asdict(config).items()), encoding="utf-8")
    return path


@pytest.mark.slow
def test_two_processes_train_as_one(prepared: Path, tmp_path: Path) -> None:
    """Fifty steps in fp32, also if one process makes the first 20, differ by rounding only."""
    constant = OptimizerOptions(learning_rate=1e-2, schedule="constant", warmup_steps=3)
    run = tiny_config(
        prepared,
        optimizer=constant,
        dropout=0.0,
        weight_drop=0.0,
        steps=20,
        full_softmax_steps=0,
        evaluate_every_steps=10,
    )
    one, two, mixed = (tmp_path / name for name in ("one", "two", "mixed"))
    train(run, one)
    shutil.copytree(one, mixed)
    run = replace(run, steps=50, full_softmax_steps=15)
    train(run, one, resume=True)
    path = written(run, tmp_path / "run.toml")
    status, errors = torchrun("train", path, "--output", two)
    assert status == 0, errors
    assert errors.count("saved:") == errors.count("step 50: held-out") == 1
    status, errors = torchrun("train", path, "--output", mixed, "--resume")
    assert status == 0, errors
    for name in ("weights.safetensors", "optimizer.safetensors"):
        whole, *others = (load_file(each / "state" / name) for each in (one, two, mixed))
        for other in others:
            if "random_state" in whole:  # two processes seed each step
                whole["random_state"] = other["random_state"]
            torch.testing.assert_close(other, whole, rtol=1e-3, atol=1e-5)
    records, *other_records = (read_records(each / "metrics.jsonl") for each in (one, two, mixed))
    times = {"cpu_seconds", "tokens_per_second"}
    plain = [{k: v for k, v in each.items() if k not in times} for each in records]
    for other in other_records:
        for each, values in zip(other, plain, strict=True):
            assert {k: each[k] for k in values} == pytest.approx(values, rel=1e-4)


@pytest.mark.slow
def test_a_signal_to_one_process_stops_all_and_the_run_resumes_bit_for_bit(
    prepared: Path, tmp_path: Path
) -> None:
    """All end after the same step, one state is saved, and dropout goes on as if nothing was."""
    run = tiny_config(prepared, steps=9)
    path = written(run, tmp_path / "run.toml")
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    accident = ("tests.training.rank_with_accident", "signal")
    status, errors = torchrun("train", path, "--output", whole)
    assert status == 0, errors
    status, errors = torchrun("train", path, "--output", parts, module=accident)
    assert status != 0
    assert errors.count("interrupted; the same command with --resume goes on") == 1, errors
    assert read_state(parts / "state").progress.step == 5
    status, errors = torchrun("train", path, "--output", parts, "--resume")
    assert status == 0, errors
    assert_same_tensors(parts, whole)
    train(run, tmp_path / "one")
    seen = [load_file(each / "state" / "weights.safetensors") for each in (whole, tmp_path / "one")]
    assert not torch.equal(*(each["embedding.weight"] for each in seen)), "dropout is not the same"


@pytest.mark.slow
def test_divergence_on_one_process_stops_all(prepared: Path, tmp_path: Path) -> None:
    """Both report the step; nothing is saved."""
    run = tiny_config(prepared, save_every_seconds=0.0)
    path = written(run, tmp_path / "run.toml")
    accident = ("tests.training.rank_with_accident", "infinity")
    status, errors = torchrun("train", path, "--output", tmp_path / "run", module=accident)
    assert status != 0
    assert errors.count("DivergedError: step 4: diverged: loss") == 2, errors
    assert read_state(tmp_path / "run" / "state").progress.step == 4


def test_a_stacked_network_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its masks are drawn for the rows of a process, which would not be those of a whole batch."""
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "made up")
    stacked = NetworkConfig(SIZE, "stacked_bidirectional", "lstm", 16, 24, 2, 0, 0)
    run = tiny_config(Path(), network=stacked)
    with pytest.raises(RunError, match="trains on one process; omit torchrun"), joined(run):
        pass
