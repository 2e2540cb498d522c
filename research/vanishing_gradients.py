"""Measure how far gradients and memory reach back in plain and gated recurrent networks.

The task is recall: a row begins with one of ten symbols, then come distractors, then a question
mark that asks for the symbol. Networks of one layer are trained on distances from 5 to 200 and
asked at a few of them; 10 % are right by chance. Before and after training, the norm of
dL_t/dh_{t-k} is measured for k = 1 to 200: the part of the error at the end that reaches the state
k steps earlier. It shrinks or grows by a constant factor per step (Bengio et al. 1994; Pascanu et
al. 2013, arXiv:1211.5063); an open forget gate passes it on unchanged (Hochreiter and Schmidhuber
1997).

Each network's results are kept in the output directory; an interrupted command continues.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from model.config import Cell
from model.network import RecurrentLayer, State
from training.cached_json import cached_json, report_json, require_same_settings
from training.options import option

SYMBOLS, DISTRACTORS = 10, 20
QUESTION = SYMBOLS + DISTRACTORS
EMBEDDING_SIZE = 32
Clip = Literal["none", "norm", "value"]
CLIP_NORM, CLIP_VALUE = 1.0, 0.01
# The summary keeps the gradient of every tenth step back.
SUMMARY_STEPS = 10


@dataclass(frozen=True, slots=True)
class Variant:
    """A network; training clips its gradients by their norm, number by number, or not at all."""

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
class GradientOptions:
    """Options of the command, and the size of the experiment.

    Attributes:
        rows: of a batch; all have one distance, drawn for each batch.
        distances: of the questions; training draws from the smallest to the largest.
        questions: at each distance.
        gradient_rows: rows of the median gradient.
    """

    output: Path = option("directory for the results")
    quick: bool = option("tiny networks and distances, to see that it works", False)
    hidden_size: int = 128
    steps: int = 2000
    rows: int = 64
    learning_rate: float = 1e-3
    distances: tuple[int, ...] = (5, 10, 20, 50, 100, 200)
    questions: int = 500
    seeds: tuple[int, ...] = (1, 2, 3, 4, 5)
    gradient_rows: int = 64


QUICK: dict[str, Any] = {
    "hidden_size": 16,
    "steps": 20,
    "distances": (3, 6, 12),
    "seeds": (1, 2),
}


def run(options: GradientOptions) -> int:
    """Measure every variant with every seed and write the summary; return 0."""
    torch.set_num_threads(1)
    figures = measure(replace(options, **QUICK) if options.quick else options)
    report_json(options.output / "vanishing_gradients.json", figures)
    return 0


class RecallNetwork(nn.Module):
    """An embedding, one recurrent layer, and a guess of the symbol from its last output."""

    def __init__(self, variant: Variant, hidden_size: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(QUESTION + 1, EMBEDDING_SIZE)
        self.layer = RecurrentLayer(variant.cell, EMBEDDING_SIZE, hidden_size)
        self.guess = nn.Linear(hidden_size, SYMBOLS)
        if variant.cell == "lstm":
            forget = self.layer.bias_ih[hidden_size : 2 * hidden_size]
            nn.init.constant_(forget, variant.forget_bias)

    def initial_state(self, rows: int) -> State:
        """Return zeros, (rows, H) each."""
        parts = 2 if self.layer.cell == "lstm" else 1
        return tuple(self.guess.bias.new_zeros(rows, self.layer.hidden_size) for _ in range(parts))

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens (T, N) to logits of the symbol (N, SYMBOLS)."""
        outputs, _ = self.layer(self.embedding(tokens), self.initial_state(tokens.shape[1]))
        return cast(Tensor, self.guess(outputs[-1]))


def measure(options: GradientOptions) -> dict[str, Any]:
    """Measure everything that is missing in ``options.output``; return the summary.

    Raises:
        RunError: the directory has results of other options; further seeds are possible.
    """
    output = options.output
    settings = {k: v for k, v in asdict(options).items() if k not in ("output", "quick")}
    require_same_settings(output, {**settings, "seeds": None})
    runs: dict[str, list[dict[str, Any]]] = {variant.name: [] for variant in VARIANTS}
    todo = [(variant, seed) for seed in options.seeds for variant in VARIANTS]
    for variant, seed in tqdm(todo, desc="networks", disable=None):
        path = output / "runs" / f"{variant.name.replace(', ', '-').replace(' ', '-')}-{seed}.json"
        make = partial(measure_one, variant, seed, options)
        runs[variant.name].append(cached_json(path, make))
    summary = [summarise(name, each) for name, each in runs.items()]
    return {"options": settings, "variants": summary}


def measure_one(variant: Variant, seed: int, options: GradientOptions) -> dict[str, Any]:
    """Train one network; return gradient norms before and after, and recall at each distance."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    network = RecallNetwork(variant, options.hidden_size)
    before = gradient_norms(network, max(options.distances), options.gradient_rows)
    diverged = not train_recall(network, variant.clip, rng, options)
    after = gradient_norms(network, max(options.distances), options.gradient_rows)
    shares = {str(each): recall(network, each, options.questions) for each in options.distances}
    return {"diverged": diverged, "before": before, "after": after, "recall": shares}


def summarise(name: str, runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Reduce the runs of one variant to medians over its seeds.

    Returns:
        ``recall`` by distance; ``half_life`` and ``gradients`` by time (``before``, ``after``) and
        part of the state (``h``, ``c``).
    """
    recalls = {d: [run["recall"][d] for run in runs] for d in runs[0]["recall"]}
    summary: dict[str, Any] = {
        "name": name,
        "diverged": sum(run["diverged"] for run in runs),
        "recall": {d: statistics.median(shares) for d, shares in recalls.items()},
    }
    half_lives: dict[str, dict[str, float]] = {"before": {}, "after": {}}
    gradients: dict[str, dict[str, list[float]]] = {"before": {}, "after": {}}
    for time in ("before", "after"):
        for part in runs[0][time]:
            curves = [run[time][part] for run in runs]
            half_lives[time][part] = statistics.median(map(half_life, curves))
            medians = [statistics.median(at) for at in zip(*curves, strict=True)]
            gradients[time][part] = [float(f"{each:.3g}") for each in medians[::SUMMARY_STEPS]]
    return {**summary, "half_life": half_lives, "gradients": gradients}


def half_life(norms: Sequence[float]) -> float:
    """Return the steps in which an exponential through the first and last norm above 0 halves.

    Infinite if it is level, negative if it grows, NaN if fewer than two norms are above 0.
    """
    logs = [(k, math.log2(x)) for k, x in enumerate(norms) if x > 0 and math.isfinite(x)]
    if len(logs) < 2:
        return math.nan
    (first, high), (last, low) = logs[0], logs[-1]
    return (last - first) / (high - low) if high != low else math.inf


def recall_batch(rng: np.random.Generator, rows: int, distance: int) -> tuple[Tensor, Tensor]:
    """Draw tokens (distance + 1, rows), symbol first, question mark last, and symbols (rows,)."""
    symbols = rng.integers(SYMBOLS, size=rows)
    tokens = rng.integers(SYMBOLS, SYMBOLS + DISTRACTORS, size=(distance + 1, rows))
    tokens[0], tokens[-1] = symbols, QUESTION
    return torch.from_numpy(tokens), torch.from_numpy(symbols)


def train_recall(
    network: RecallNetwork, clip: Clip, rng: np.random.Generator, options: GradientOptions
) -> bool:
    """Train in place; return False if loss or gradient stopped being finite."""
    optimizer = torch.optim.Adam(network.parameters(), options.learning_rate)
    least, greatest = min(options.distances), max(options.distances)
    for _ in range(options.steps):
        # Uniform in the logarithm: short distances are learnt first and lead to the long ones.
        distance = round(math.exp(rng.uniform(math.log(least), math.log(greatest))))
        tokens, symbols = recall_batch(rng, options.rows, distance)
        loss = F.cross_entropy(network(tokens), symbols)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        limit = CLIP_NORM if clip == "norm" else math.inf
        norm = nn.utils.clip_grad_norm_(network.parameters(), limit)
        if not (math.isfinite(loss.item()) and math.isfinite(norm.item())):
            return False
        if clip == "value":
            nn.utils.clip_grad_value_(network.parameters(), CLIP_VALUE)
        optimizer.step()
    return True


@torch.no_grad()
def recall(network: RecallNetwork, distance: int, questions: int) -> float:
    """Return the share of right answers to questions that are the same for every network."""
    tokens, symbols = recall_batch(np.random.default_rng(distance), questions, distance)
    return float((network(tokens).argmax(1) == symbols).float().mean())


def gradient_norms(network: RecallNetwork, distance: int, rows: int) -> dict[str, list[float]]:
    """Return the median norms over *rows* of dL_t/dh_{t-k} for k = 1 to *distance*.

    By part of the state: ``h``, and ``c`` of an LSTM. Each is the total derivative by that part
    while the other one is held fixed. The rows are the same for every network.
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
    loss = F.cross_entropy(network.guess(output[-1]), symbols, reduction="sum")
    loss.backward()  # type: ignore[no-untyped-call]
    network.zero_grad(set_to_none=True)
    norms: dict[str, list[float]] = {}
    for number, name in enumerate("hc"[: len(state)]):
        grads = [states[distance - k][number].grad for k in range(1, distance + 1)]
        norms[name] = [0.0 if g is None else float(g.norm(dim=1).median()) for g in grads]
    return norms
