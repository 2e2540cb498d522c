"""Why gates: how far a gradient reaches back, and how far a memory does: `python -m research vanishing-gradients --output DIR`.

The task is recall. A row begins with one of ten symbols, then come distractors, then a question mark: which symbol was
it? Networks of one layer are trained on all distances from 5 to 200 at once and asked at each of a few. Chance is 10 %.
Of each network, before and after, the norm of dL_t/dh_{t-k} is taken for k = 1 to 200: how much of the error at the end
reaches the state k steps earlier. The gradient falls, or grows, by about the same factor at every step (Bengio et al.
1994; Pascanu et al. 2013, arXiv:1211.5063); an open forget gate hands it on unchanged (Hochreiter and Schmidhuber
1997).

Results are kept in DIR a network at a time, so an interrupted run goes on where it was. `--report gates.json` writes
the report again; `--publish` puts it into docs/tutorial.md.
"""

import argparse
import json
import math
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from model.config import Cell
from model.errors import ReportError
from model.network import RecurrentLayer, State
from research.vanishing_gradients_report import write_gates
from training.run_state import keep_to, write_whole

SYMBOLS, DISTRACTORS = 10, 20
QUESTION = SYMBOLS + DISTRACTORS
EMBEDDING_SIZE = 32
FORMAT_VERSION = 1

Clip = Literal["none", "norm", "value"]
CLIP_NORM, CLIP_VALUE = 1.0, 0.01


@dataclass(frozen=True, slots=True)
class Variant:
    """One network of the experiment.

    Attributes:
        name: of its rows and lines.
        cell: of its layer.
        forget_bias: an LSTM's, at the start.
        clip: of gradients in training: none, by their norm, or each number by itself.
    """

    name: str
    cell: Cell
    forget_bias: float = 1.0
    clip: Clip = "norm"


VARIANTS = (
    Variant("RNN", "rnn_tanh"),
    Variant("RNN, unclipped", "rnn_tanh", clip="none"),
    Variant("RNN, clipped by value", "rnn_tanh", clip="value"),
    Variant("GRU", "gru"),
    Variant("LSTM, forget bias 0", "lstm", forget_bias=0.0),
    Variant("LSTM, forget bias 1", "lstm"),
    Variant("LSTM, forget bias 1, unclipped", "lstm", clip="none"),
    Variant("LSTM, forget bias 1, clipped by value", "lstm", clip="value"),
)


@dataclass(frozen=True, slots=True)
class GatesOptions:
    """How much of it.

    Attributes:
        hidden_size: units of the layer.
        steps: updates.
        rows: of a batch, all of one distance, which is drawn anew for each batch.
        learning_rate: of Adam.
        distances: asked for in the end; the least and the greatest bound those that are trained.
        asked_rows: questions at each distance.
        seeds: runs of each variant.
        gradient_rows: rows over which the median gradient is taken.
    """

    hidden_size: int = 128
    steps: int = 2000
    rows: int = 64
    learning_rate: float = 1e-3
    distances: tuple[int, ...] = (5, 10, 20, 50, 100, 200)
    asked_rows: int = 500
    seeds: tuple[int, ...] = (1, 2, 3, 4, 5)
    gradient_rows: int = 64


QUICK = GatesOptions(
    hidden_size=16,
    steps=20,
    rows=16,
    distances=(3, 6, 12),
    asked_rows=50,
    seeds=(1, 2),
    gradient_rows=8,
)


class RecallNetwork(nn.Module):
    """An embedding, one recurrent layer, and a guess at the symbol from its last output."""

    def __init__(self, variant: Variant, hidden_size: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(QUESTION + 1, EMBEDDING_SIZE)
        self.layer = RecurrentLayer(variant.cell, EMBEDDING_SIZE, hidden_size)
        self.guess = nn.Linear(hidden_size, SYMBOLS)
        if variant.cell == "lstm":
            nn.init.constant_(
                self.layer.bias_ih[hidden_size : 2 * hidden_size], variant.forget_bias
            )

    def initial_state(self, rows: int) -> State:
        """Zeros, (rows, H) each."""
        parts = 2 if self.layer.cell == "lstm" else 1
        return tuple(self.guess.bias.new_zeros(rows, self.layer.hidden_size) for _ in range(parts))

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens (T, N) to logits of the symbol (N, SYMBOLS)."""
        outputs, _ = self.layer(self.embedding(tokens), self.initial_state(tokens.shape[1]))
        return cast(Tensor, self.guess(outputs[-1]))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "--output", type=Path, required=True, help="directory for results and report"
    )
    parser.add_argument(
        "--report", type=Path, metavar="JSON", help="only write the report of these figures again"
    )
    parser.add_argument(
        "--publish", action="store_true", help="figures, tables and plots into docs/tutorial.md"
    )
    parser.add_argument(
        "--quick", action="store_true", help="tiny networks, short distances: does it work?"
    )
    parser.add_argument("--threads", type=int, default=1, help="of torch")


def run(arguments: argparse.Namespace) -> int:
    """Measure, or write a report again; 0 on success."""
    if arguments.report is not None:
        try:
            figures = json.loads(arguments.report.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ReportError(f"{arguments.report}: {error}; name a gates.json") from error
    else:
        torch.set_num_threads(arguments.threads)
        figures = measure(QUICK if arguments.quick else GatesOptions(), arguments.output)
    sys.stdout.write(write_gates(figures, arguments.output, publish=arguments.publish))
    return 0


def measure(options: GatesOptions, output: Path) -> dict[str, Any]:
    """Train and ask every variant with every seed that is not in *output* yet.

    Returns:
        The content of gates.json.

    Raises:
        RunError: *output* holds runs of other options; further seeds are welcome.
    """
    output.mkdir(parents=True, exist_ok=True)
    keep_to(output, {**asdict(options), "seeds": None})
    runs = []
    todo = [(variant, seed) for seed in options.seeds for variant in VARIANTS]
    for variant, seed in tqdm(todo, desc="networks", unit=" runs", disable=None):
        path = output / "runs" / f"{variant.name.replace(', ', '-').replace(' ', '-')}-{seed}.json"
        if not path.exists():
            path.parent.mkdir(exist_ok=True)
            write_whole(path, json.dumps(measure_one(variant, seed, options)).encode())
        runs.append(json.loads(path.read_text(encoding="utf-8")))
    figures = {"format_version": FORMAT_VERSION, "options": asdict(options), "runs": runs}
    write_whole(output / "gates.json", (json.dumps(figures, indent=1) + "\n").encode())
    return figures


def measure_one(variant: Variant, seed: int, options: GatesOptions) -> dict[str, Any]:
    """Train one network: gradient norms before and after, and recall at each distance."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    network = RecallNetwork(variant, options.hidden_size)
    before = gradient_norms(network, max(options.distances), options.gradient_rows)
    diverged = not train_recall(network, variant.clip, rng, options)
    after = gradient_norms(network, max(options.distances), options.gradient_rows)
    return {
        "variant": variant.name,
        "seed": seed,
        "diverged": diverged,
        "gradients_before": before,
        "gradients_after": after,
        "recall": {
            str(distance): recall(network, distance, options.asked_rows)
            for distance in options.distances
        },
    }


def recall_batch(rng: np.random.Generator, rows: int, distance: int) -> tuple[Tensor, Tensor]:
    """Questions: tokens (distance + 1, rows), the symbol first and the question mark last; the symbols (rows,)."""
    symbols = rng.integers(SYMBOLS, size=rows)
    tokens = rng.integers(SYMBOLS, SYMBOLS + DISTRACTORS, size=(distance + 1, rows))
    tokens[0], tokens[-1] = symbols, QUESTION
    return torch.from_numpy(tokens), torch.from_numpy(symbols)


def train_recall(
    network: RecallNetwork, clip: Clip, rng: np.random.Generator, options: GatesOptions
) -> bool:
    """Train in place; False where the loss or the gradient stopped being a number, which ends the training."""
    optimizer = torch.optim.Adam(network.parameters(), options.learning_rate)
    least, greatest = min(options.distances), max(options.distances)
    for _ in range(options.steps):
        # As many short distances as long ones, in octaves: the short are learnt first and show the way to the long
        distance = round(math.exp(rng.uniform(math.log(least), math.log(greatest))))
        tokens, symbols = recall_batch(rng, options.rows, distance)
        loss = F.cross_entropy(network(tokens), symbols)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        norm = nn.utils.clip_grad_norm_(
            network.parameters(), CLIP_NORM if clip == "norm" else math.inf
        )
        if not (math.isfinite(loss.item()) and math.isfinite(norm.item())):
            return False
        if clip == "value":
            nn.utils.clip_grad_value_(network.parameters(), CLIP_VALUE)
        optimizer.step()
    return True


@torch.no_grad()
def recall(network: RecallNetwork, distance: int, rows: int) -> float:
    """Share of *rows* fresh questions that are answered rightly; the same questions for every network."""
    tokens, symbols = recall_batch(np.random.default_rng(distance), rows, distance)
    return float((network(tokens).argmax(1) == symbols).float().mean())


def gradient_norms(network: RecallNetwork, distance: int, rows: int) -> dict[str, list[float]]:
    """How much of the error at the end reaches earlier states.

    Args:
        network: one layer.
        distance: k goes from 1 to this.
        rows: questions; the same for every network.

    Returns:
        For each part of the state (``h``, and ``c`` of an LSTM): the median over rows of the norm of
        dL_t/dh_{t-k}, k = 1 to *distance*. It is the total derivative by that part, the others held fixed.
    """
    tokens, symbols = recall_batch(np.random.default_rng(0), rows, distance)
    inputs = network.embedding(tokens)
    state = network.initial_state(rows)
    states: list[State] = []
    for step in inputs:
        output, state = network.layer(step.unsqueeze(0), state)
        for part in state:
            part.retain_grad()
        states.append(state)
    F.cross_entropy(network.guess(output[-1]), symbols, reduction="sum").backward()  # type: ignore[no-untyped-call]
    network.zero_grad(set_to_none=True)
    norms: dict[str, list[float]] = {}
    for name, number in zip(("h", "c"), range(len(state)), strict=False):
        earlier = [states[distance - k][number].grad for k in range(1, distance + 1)]
        norms[name] = [
            0.0 if grad is None else float(grad.norm(dim=1).median()) for grad in earlier
        ]
    return norms
