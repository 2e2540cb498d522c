"""``python -m benchmarks.training``: our trainer and the usual loop on the same network, and how busy they keep a core.

The network is the bundled checkpoint's forward tower: embedding 256, two LSTM layers of 480, tied softmax over 16,000
tokens. The usual loop is what tutorials and PyTorch's word-LM example do: one ``nn.LSTM``, batches cut from one stream,
cross-entropy over the whole vocabulary, SGD with clipped gradients, fp32. Arms take turns, a few seconds each, so that
what else the machine does hits all alike. ``operations`` counts matrix products only, six a weight and token (two
forwards, four backwards), against the rate at which the same machine multiplies large square matrices.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks import machine
from model.config import NetworkConfig
from model.tokenizer import END_OF_GAP, Tokenizer
from training.cached_json import check_writable, write_json
from training.config import DataOptions, LossOptions, OptimizerOptions, RunConfig
from training.data.shards import NO_CUT, ShardWriter, write_manifest
from training.trainer import Trainer

ROOT = Path(__file__).resolve().parent.parent
TOKENIZER = ROOT / "model" / "pretrained" / "default" / "tokenizer.model"
ROWS, WINDOW, LINE = 64, 64, 60
NEGATIVES = 1500
SQUARE = 2048
LINES = 20_000


@dataclass(frozen=True, slots=True)
class Arm:
    """A way to train.

    Attributes:
        name: in the report.
        precision: of its matrix products.
        classes: tokens that its softmax is over.
        step: trains one batch and returns how many tokens it read.
    """

    name: str
    precision: str
    classes: int
    step: Callable[[], int]


class UsualLoop:
    """The same network as a user of ``nn.LSTM`` writes it, and the loop around it."""

    def __init__(self, config: NetworkConfig, ids: Tensor, autocast: bool) -> None:
        self._autocast = autocast
        self._embedding = nn.Embedding(config.vocabulary_size, config.embedding_size)
        self._lstm = nn.LSTM(config.embedding_size, config.hidden_size, config.forward_layers)
        self._project = nn.Linear(config.hidden_size, config.embedding_size)
        self._bias = nn.Parameter(torch.zeros(config.vocabulary_size))
        modules = (self._embedding, self._lstm, self._project)
        self._parameters = [
            self._bias,
            *(each for module in modules for each in module.parameters()),
        ]
        self._optimizer = torch.optim.SGD(self._parameters, lr=1.0)
        self._stream = ids[: len(ids) // ROWS * ROWS].view(ROWS, -1).t().contiguous()
        self._place = 0
        self._state: tuple[Tensor, Tensor] | None = None

    def step(self) -> int:
        """One window of 64 rows."""
        if self._place + WINDOW + 1 > len(self._stream):
            self._place, self._state = 0, None
        inputs = self._stream[self._place : self._place + WINDOW]
        targets = self._stream[self._place + 1 : self._place + WINDOW + 1]
        self._place += WINDOW
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self._autocast):
            outputs, state = self._lstm(self._embedding(inputs), self._state)
            logits = nn.functional.linear(
                self._project(outputs), self._embedding.weight, self._bias
            )
            loss = nn.functional.cross_entropy(
                logits.view(-1, logits.shape[-1]), targets.reshape(-1)
            )
        self._state = (state[0].detach(), state[1].detach())
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self._parameters, 0.25)
        self._optimizer.step()
        return inputs.numel()


def main(arguments: list[str] | None = None) -> int:
    """Measure and write JSON; 0."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.training", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--repeats", type=int, default=5, help="turns of every arm (5)")
    parser.add_argument("--seconds", type=float, default=6.0, help="of a turn (6)")
    parser.add_argument("--threads", type=int, default=1, help="of torch (1)")
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write")
    options = parser.parse_args(arguments)
    check_writable(options.output)
    with tempfile.TemporaryDirectory() as directory:
        found = measure(Path(directory), options.repeats, options.seconds, options.threads)
    write_json(options.output, found)
    sys.stdout.write(json.dumps(found, indent=1) + "\n")
    return 0


def measure(directory: Path, repeats: int, seconds: float, threads: int) -> dict[str, Any]:
    """All arms in turns; medians over the turns."""
    tokenizer = Tokenizer.load(TOKENIZER)
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

    def trainer(name: str, precision: Any, negatives: int) -> Arm:
        run = replace(config, precision=precision, loss=LossOptions(sampled_negatives=negatives))
        trained = Trainer(run, directory / name)
        step: Callable[[], int] = lambda: trained.update(next(trained.batches))[1]  # noqa: E731
        return Arm(name, precision, negatives or tokenizer.size, step)

    stream = torch.from_numpy(ids.astype(np.int64))
    arms = [
        Arm(
            "usual loop, fp32",
            "fp32",
            tokenizer.size,
            UsualLoop(network, stream, autocast=False).step,
        ),
        Arm(
            "usual loop, bf16",
            "bf16",
            tokenizer.size,
            UsualLoop(network, stream, autocast=True).step,
        ),
        trainer("ours, fp32, whole softmax", "fp32", 0),
        trainer("ours, bf16, whole softmax", "bf16", 0),
        trainer(f"ours, bf16, {NEGATIVES:,} negatives", "bf16", NEGATIVES),
    ]
    rates: dict[str, list[float]] = {arm.name: [] for arm in arms}
    products: dict[str, list[float]] = {"fp32": [], "bf16": []}
    for arm in arms:
        arm.step()  # the first one allocates
    for _ in range(repeats):
        for precision in products:
            products[precision].append(product_rate(precision, seconds / 4))
        for arm in arms:
            rates[arm.name].append(turn(arm.step, seconds))
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "cpu": machine.cpu(),
        "torch": torch.__version__,
        "threads": threads,
        "repeats": repeats,
        "seconds": seconds,
        "products_per_second": {
            name: statistics.median(values) for name, values in products.items()
        },
        "arms": [
            {
                "name": arm.name,
                "tokens_per_second": statistics.median(rates[arm.name]),
                "turns": rates[arm.name],
                "ratio": statistics.median(
                    [
                        own / usual
                        for own, usual in zip(rates[arm.name], rates[arms[0].name], strict=True)
                    ]
                ),
                "share": statistics.median(rates[arm.name])
                * operations(network, arm.classes)
                / statistics.median(products[arm.precision]),
            }
            for arm in arms
        ],
    }


def operations(network: NetworkConfig, classes: int) -> float:
    """Floating-point operations of matrix products for a token, forwards and backwards, over so many classes."""
    e, h = network.embedding_size, network.hidden_size
    layers = 4 * h * (e + h) + (network.forward_layers - 1) * 4 * h * 2 * h
    return 6.0 * (layers + h * e + e * classes)


def product_rate(precision: str, seconds: float) -> float:
    """Floating-point operations a second of large square matrix products."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    left, right = torch.randn(SQUARE, SQUARE, dtype=dtype), torch.randn(SQUARE, SQUARE, dtype=dtype)

    def product() -> int:
        torch.mm(left, right)
        return 2 * SQUARE**3

    return turn(product, seconds)


def turn(step: Callable[[], int], seconds: float) -> float:
    """What *step* returns, added up, for a second; at least one step."""
    started, done = time.perf_counter(), 0
    while not done or time.perf_counter() - started < seconds:
        done += step()
    return done / (time.perf_counter() - started)


def random_ids(size: int) -> np.ndarray[Any, np.dtype[np.uint16]]:
    """Tokens by Zipf's law, the control tokens left out: speed does not depend on sense."""
    ranks = np.arange(1, size - END_OF_GAP)
    shares = 1.0 / ranks
    drawn = np.random.default_rng(1).choice(
        ranks + END_OF_GAP, LINES * LINE, p=shares / shares.sum()
    )
    return drawn.astype(np.uint16)


def write_prepared(
    directory: Path, tokenizer: Tokenizer, ids: np.ndarray[Any, np.dtype[np.uint16]]
) -> None:
    """The ids as consecutive lines, as `prepare` would write them."""
    directory.mkdir()
    entries: dict[str, Any] = {}
    for split, lines in (
        ("train", ids.reshape(-1, LINE)),
        ("heldout", ids[:LINE].reshape(1, LINE)),
    ):
        with ShardWriter(directory, "random", split) as writer:  # type: ignore[arg-type]
            writer.write([(line.tolist(), (NO_CUT, NO_CUT)) for line in lines], lines.size)
            entries[split] = {"shards": [writer.close()]}
    source = {
        "name": "random",
        "language": "en",
        "consecutive": True,
        "weight": 1.0,
        "split": entries,
    }
    write_manifest(directory, tokenizer, [source])


if __name__ == "__main__":
    sys.exit(main())
