"""Sizes of a training run, chosen from the amount of text and the minutes.

No clock is read and no speed is measured: the same options and text give the same run, and so the
same checkpoint. Minutes become updates by the speed of a slow core, :func:`step_seconds`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil
from typing import Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass as checked_dataclass

from model.checkpoint import Checkpoint
from model.config import STRICT, NetworkConfig
from training.config import (
    Amount,
    Count,
    DataOptions,
    Device,
    LossOptions,
    OptimizerOptions,
    RunConfig,
    Size,
)
from training.data.shards import Prepared, Shard
from training.options import option

REPLAY_PREFIX = "replay-"
# Replay for each token of the text, so that it is 30 % of what is read
REPLAY = 0.3 / 0.7
# Passes over the text, at most
ADAPTING_PASSES = 4
OTHER_PASSES = 12
STEPS_PER_PASS = 20  # at least, as far as rows allow: a small text is read in small batches
LEAST_ROWS = 8  # of a batch
ADAPTING_ROWS = 16  # at most; more rows make fewer steps of the same text and learn less
OTHER_ROWS = 32
FILLED = 0.95  # of a batch; the rest is padding
WARMUP_SHARE = 0.06
EVALUATIONS = 6  # of held-out text after the first one, at most
EVALUATION_SHARE = 0.15  # of the time for training, at most
EVALUATED_LINES = 300  # of each language, at most
SAMPLED_NEGATIVES = 1500
SAVE_EVERY_SECONDS = 30.0
# Networks to train from nothing, the smallest first; the vocabulary comes from the text
NETWORKS = tuple(
    NetworkConfig(
        1,
        embedding_size=embedding,
        hidden_size=hidden,
        forward_layers=layers,
        gap_hidden_size=gap,
    )
    for embedding, hidden, layers, gap in (
        (96, 160, 1, 128),
        (160, 288, 1, 224),
        (256, 480, 2, 384),
    )
)
# A network is large enough if it cannot read this many tokens for each weight in the time
TOKENS_PER_WEIGHT = 12

# A slow core. A GPU counts as many of them.
MULTIPLICATIONS_PER_SECOND = 2.4e10
SECONDS_PER_STEP = 0.05
GPU_CORES = 20
CHARACTERS_PER_SECOND = 50_000  # read, cleaned and encoded
OTHER_SECONDS = 75.0  # start, export, and the report before and after
LEAST_TRAINING_SHARE = 0.3  # of the minutes, however long the rest takes

Minutes = Annotated[float, Field(ge=0)]


@checked_dataclass(frozen=True, slots=True, kw_only=True, config=STRICT)
class PlanOptions:
    """Choices that a user may make; None is chosen from the text."""

    minutes: Minutes = option("minutes in all on a slow core; 0: only count", 10.0, "N")
    steps: Size | None = option("updates of the network (default: chosen)", None, "N")
    rows: Size | None = option("rows of a batch (default: chosen)", None, "N")
    learning_rate: Amount | None = option("highest learning rate (default: chosen)", None, "RATE")
    threads: Size = option("threads of torch", 1, "N")
    seed: Count = option("seed of every random choice", 1, "N")
    device: Device = option("cpu, or cuda to train on a GPU", "cpu", "DEVICE")

    @property
    def trains(self) -> bool:
        """True if a network is to be trained; else the text is only counted."""
        return self.minutes > 0 or self.steps is not None


@dataclass(frozen=True, slots=True)
class Plan:
    """A run, and the seconds of its parts on a slow core."""

    config: RunConfig
    passes: float  # over the text
    reading_seconds: float
    training_seconds: float

    def to_text(self) -> str:
        """Return every choice and the time, for people."""
        config, network = self.config, self.config.network
        rate, weights = config.optimizer.learning_rate, config.data.source_weights
        replay = [weight for name, weight in weights.items() if name.startswith(REPLAY_PREFIX)]
        seconds = {
            "reading": self.reading_seconds,
            "training": self.training_seconds,
            "export and comparison": OTHER_SECONDS,
        }
        lines = [
            f"steps: {config.steps}, of {config.data.rows} rows of {config.data.window_tokens}"
            f" tokens; {self.passes:.1f} passes over the text",
            f"learning rate: {rate:g} after {config.optimizer.warmup_steps} steps, falling to"
            f" {rate * config.optimizer.floor:g}; dropout {config.dropout:g}",
            f"time: about {minutes(sum(seconds.values()))} in all: "
            + ", ".join(f"{name} {minutes(value)}" for name, value in seconds.items()),
        ]
        if network:
            lines.insert(
                0,
                f"network: {network.hidden_size} cells, layers: {network.forward_layers} forward,"
                f" {network.backward_layers} backward; vocabulary: {network.vocabulary_size}",
            )
        if replay:
            lines.append(f"replay: {100 * max(replay):.0f} % of its text in each pass")
        return "\nChosen:\n" + "".join(f"  {line}\n" for line in lines)


def plan_run(prepared: Prepared, base: Checkpoint | None, options: PlanOptions) -> Plan:
    """Choose the run that fits the text and the minutes; it adapts *base*, if there is one."""
    reading = sum(each.characters for each in prepared.sources) / CHARACTERS_PER_SECOND
    cores = options.threads if options.device == "cpu" else GPU_CORES
    rest = max(60 * options.minutes - reading - OTHER_SECONDS, 0)
    budget = cores * max(rest, 60 * options.minutes * LEAST_TRAINING_SHARE)
    size = prepared.tokenizer.size
    network = base.required_network() if base else _network(size, budget)
    weights = _weights(prepared.sources)
    tokens = round(sum(weights[each.name] * len(each.ids) for each in prepared.sources))
    window = 32 if network.hidden_size < 200 else 64
    most = ADAPTING_ROWS if base else OTHER_ROWS
    rows = options.rows or min(most, max(LEAST_ROWS, tokens // (STEPS_PER_PASS * window)))
    data = DataOptions(str(prepared.directory), rows, window, source_weights=weights)
    pass_steps = max(1, tokens / (FILLED * rows * window))
    step = step_seconds(network, rows * window)
    evaluation = step * _evaluated_tokens(prepared.held_out) / (rows * window)
    evaluations = max(1, min(EVALUATIONS, int(EVALUATION_SHARE * budget / (evaluation + 1e-9))))
    affordable = int((budget - (evaluations + 1) * evaluation) / step)
    passes = ADAPTING_PASSES if base else OTHER_PASSES
    steps = options.steps or max(1, min(round(passes * pass_steps), affordable))
    rate = options.learning_rate
    if rate is None:
        rate = 1e-3 if base else 1.5 / network.hidden_size
    config = RunConfig(
        name=f"{base.name[:56]}-adapted" if base else "own",
        data=data,
        network=network,
        loss=LossOptions(sampled_negatives=SAMPLED_NEGATIVES * (size > 2 * SAMPLED_NEGATIVES)),
        optimizer=OptimizerOptions(rate, "one_cycle", warmup_steps=ceil(WARMUP_SHARE * steps)),
        seed=options.seed,
        steps=steps,
        threads=options.threads,
        device=options.device,
        dropout=0.1,
        evaluate_every_steps=ceil(steps / evaluations),
        keep_best=True,
        save_every_seconds=SAVE_EVERY_SECONDS,
        start_from=str(base.directory) if base else "",
    )
    training = (steps * step + (evaluations + 1) * evaluation) / cores
    return Plan(config, steps / pass_steps, reading, training)


def guess_seconds(size: int, options: PlanOptions) -> float:
    """Return the seconds of the whole command for files of this *size* in bytes, before reading."""
    tokens = size / 4
    step = step_seconds(replace(NETWORKS[-1], vocabulary_size=SAMPLED_NEGATIVES), 2048) / 2048
    training = ADAPTING_PASSES * (1 + REPLAY) * tokens * step
    known = size / 2 / CHARACTERS_PER_SECOND + OTHER_SECONDS
    return min(known + training, max(60 * options.minutes, known))


def minutes(seconds: float) -> str:
    """Return a duration to read, such as 40 s or 8 min."""
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"


def step_seconds(network: NetworkConfig, tokens: int) -> float:
    """Return the seconds of an update from this many tokens on a slow core."""
    heads = min(network.vocabulary_size, SAMPLED_NEGATIVES) * network.embedding_size * 2.5
    products = 3 * tokens * (_tower_weights(network) + heads)
    return SECONDS_PER_STEP + products / MULTIPLICATIONS_PER_SECOND


def _tower_weights(network: NetworkConfig) -> int:
    """Return the weights of both towers, if they are LSTMs."""
    hidden, layers = network.hidden_size, network.forward_layers + network.backward_layers
    first = 2 if network.backward_layers else 1
    return 4 * hidden * (first * network.embedding_size + (2 * layers - first) * hidden)


def _network(vocabulary_size: int, seconds: float) -> NetworkConfig:
    """Return the largest network that can read enough in these seconds, or the smallest."""
    chosen = NETWORKS[0]
    for network in NETWORKS:
        sized = replace(network, vocabulary_size=vocabulary_size)
        batch = 1024
        tokens = seconds / step_seconds(sized, batch) * batch
        if tokens >= TOKENS_PER_WEIGHT * _tower_weights(sized):
            chosen = sized
    return replace(chosen, vocabulary_size=vocabulary_size)


def _weights(sources: Sequence[Shard]) -> dict[str, float]:
    """Return passes over each source in an epoch: replay has its share of the tokens."""
    sizes = {each.name: len(each.ids) for each in sources}
    replay = {name: size for name, size in sizes.items() if name.startswith(REPLAY_PREFIX)}
    own = sum(sizes.values()) - sum(replay.values())
    weight = min(1.0, max(1e-3, REPLAY * own / max(1, sum(replay.values()))))
    return {name: weight if name in replay else 1.0 for name in sizes}


def _evaluated_tokens(held_out: Sequence[Shard]) -> float:
    """Return the tokens of an evaluation, which reads some lines of each language."""
    total = 0.0
    for language in sorted({each.language for each in held_out}):
        shards = [each for each in held_out if each.language == language]
        lines, tokens = sum(each.lines for each in shards), sum(len(each.ids) for each in shards)
        total += tokens * min(1.0, EVALUATED_LINES / max(1, lines))
    return total
