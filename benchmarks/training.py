"""``python -m benchmarks.training``: tokens a second of our trainer and of the usual loop.

The network is the bundled checkpoint's forward tower: embedding 256, two LSTM layers of 480, tied
softmax over 16,000 tokens. The usual loop is that of tutorials and of PyTorch's word-LM example:
one ``nn.LSTM``, batches cut from one stream, cross-entropy over the whole vocabulary, SGD with
clipped gradients. The arms take turns of a few seconds, because the speed of a shared machine
changes.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.machine import cpu
from benchmarks.processes import ROOT
from benchmarks.systems import CHECKPOINT
from model.config import NetworkConfig
from model.tokenizer import END_OF_GAP, Tokenizer
from training.cached_json import check_writable, write_json
from training.config import DataOptions, LossOptions, OptimizerOptions, RunConfig
from training.data.shards import ShardWriter, write_manifest
from training.trainer import Trainer

ROWS, WINDOW, LINE, LINES = 64, 64, 60, 20_000
NEGATIVES = 1500
Ids = np.ndarray[Any, np.dtype[np.uint16]]


class UsualLoop:
    """The same network as a user of ``nn.LSTM`` writes it, and the loop around it."""

    def __init__(self, config: NetworkConfig, ids: Tensor, autocast: bool) -> None:
        self._autocast = autocast
        self._embedding = nn.Embedding(config.vocabulary_size, config.embedding_size)
        self._lstm = nn.LSTM(config.embedding_size, config.hidden_size, config.forward_layers)
        self._project = nn.Linear(config.hidden_size, config.embedding_size)
        self._bias = nn.Parameter(torch.zeros(config.vocabulary_size))
        modules = (self._embedding, self._lstm, self._project)
        self._parameters = [self._bias, *(each for one in modules for each in one.parameters())]
        self._optimizer = torch.optim.SGD(self._parameters, lr=1.0)
        self._stream = ids[: len(ids) // ROWS * ROWS].view(ROWS, -1).t().contiguous()
        self._place = 0
        self._state: tuple[Tensor, Tensor] | None = None

    def step(self) -> int:
        """Train one window of all rows and return its number of tokens."""
        if self._place + WINDOW + 1 > len(self._stream):
            self._place, self._state = 0, None
        inputs = self._stream[self._place : self._place + WINDOW]
        targets = self._stream[self._place + 1 : self._place + WINDOW + 1]
        self._place += WINDOW
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self._autocast):
            outputs, state = self._lstm(self._embedding(inputs), self._state)
            projected = self._project(outputs)
            logits = nn.functional.linear(projected, self._embedding.weight, self._bias)
            loss = nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
        self._state = (state[0].detach(), state[1].detach())
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self._parameters, 0.25)
        self._optimizer.step()
        return inputs.numel()


def main(arguments: list[str] | None = None) -> int:
    """Measure, print and write JSON; 0."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.training", description=(__doc__ or "").split("\n")[0]
    )
    add = parser.add_argument
    add("--repeats", type=int, default=5, help="turns of every arm (default: 5)")
    add("--seconds", type=float, default=6.0, help="of a turn (default: 6)")
    add("--threads", type=int, default=1, help="of torch (default: 1)")
    add("--output", type=Path, required=True, metavar="FILE", help="JSON file to write")
    options = parser.parse_args(arguments)
    check_writable(options.output)
    with tempfile.TemporaryDirectory() as directory:
        found = measure(Path(directory), options.repeats, options.seconds, options.threads)
    write_json(options.output, found)
    sys.stdout.write(json.dumps(found, indent=1) + "\n")
    return 0


def measure(directory: Path, repeats: int, seconds: float, threads: int) -> dict[str, Any]:
    """Return the tokens a second of each arm: all turns, and the median of ratios to the first
    arm's.
    """
    steps = make_arms(directory, threads)
    rates: dict[str, list[float]] = {name: [] for name in steps}
    for step in steps.values():
        step()  # the first one allocates
    for _ in range(repeats):
        for name, step in steps.items():
            rates[name].append(turn(step, seconds))
    usual = next(iter(rates.values()))
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "cpu": cpu(),
        "torch": torch.__version__,
        "threads": threads,
        "arms": [
            {
                "name": name,
                "tokens_per_second": statistics.median(turns),
                "turns": turns,
                "ratio": statistics.median(a / b for a, b in zip(turns, usual, strict=True)),
            }
            for name, turns in rates.items()
        ],
    }


def make_arms(directory: Path, threads: int) -> dict[str, Callable[[], int]]:
    """Return each way to train by name: a function that trains one batch and returns its tokens."""
    tokenizer = Tokenizer.load(ROOT / CHECKPOINT / "tokenizer.model")
    network = NetworkConfig(
        tokenizer.size,
        architecture="forward",
        backward_layers=0,
        gap_hidden_size=0,
        embedding_size=256,
    )
    ids = random_ids(tokenizer.size)
    write_prepared(directory / "prepared", tokenizer, ids)
    config = RunConfig(
        name="speed",
        data=DataOptions(
            str(directory / "prepared"), rows=ROWS, window_tokens=WINDOW, carry_share=1.0
        ),
        network=network,
        optimizer=OptimizerOptions(schedule="constant"),
        steps=10**9,
        threads=threads,
        evaluate_every_steps=0,
    )

    def ours(precision: Any, negatives: int) -> Callable[[], int]:
        run = replace(config, precision=precision, loss=LossOptions(sampled_negatives=negatives))
        trainer = Trainer(run, directory / f"{precision}-{negatives}")
        return lambda: trainer.update(next(trainer.batches))[1]

    stream = torch.from_numpy(ids.astype(np.int64))
    return {
        "usual loop, fp32": UsualLoop(network, stream, autocast=False).step,
        "usual loop, bf16": UsualLoop(network, stream, autocast=True).step,
        "ours, fp32, whole softmax": ours("fp32", 0),
        "ours, bf16, whole softmax": ours("bf16", 0),
        f"ours, bf16, {NEGATIVES:,} negatives": ours("bf16", NEGATIVES),
    }


def turn(step: Callable[[], int], seconds: float) -> float:
    """Return the sum of what *step* returns, by second; at least one step is made."""
    started, done = time.perf_counter(), 0
    while not done or time.perf_counter() - started < seconds:
        done += step()
    return done / (time.perf_counter() - started)


def random_ids(size: int) -> Ids:
    """Return tokens by Zipf's law, without control tokens; the speed does not depend on their
    sense.
    """
    ranks = np.arange(1, size - END_OF_GAP)
    shares = 1.0 / ranks
    luck = np.random.default_rng(1)
    drawn = luck.choice(ranks + END_OF_GAP, LINES * LINE, p=shares / shares.sum())
    return drawn.astype(np.uint16)


def write_prepared(directory: Path, tokenizer: Tokenizer, ids: Ids) -> None:
    """Write the ids as consecutive lines, as `prepare` does."""
    directory.mkdir()
    lines = ids.reshape(-1, LINE)
    entries: dict[str, Any] = {}
    for split, part in (("train", lines), ("heldout", lines[:1])):
        with ShardWriter(directory, "random", split) as writer:  # type: ignore[arg-type]
            for line in part:
                writer.write(line.tolist(), len(line))
            entries[split] = writer.entry()
    source = {"name": "random", "language": "en", "consecutive": True, "weight": 1.0}
    write_manifest(directory, tokenizer, b"", [{**source, "split": entries}])


if __name__ == "__main__":
    sys.exit(main())
