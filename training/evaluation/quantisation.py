"""The cost of int8: two runtimes score the same held-out lines, and a gate compares them."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from model.config import TOKEN, Tower
from model.errors import ExportError
from model.runtime import (
    Float32Array,
    Float64Array,
    Head,
    Int64Array,
    Runtime,
    initial_states,
    log_of,
)
from model.tokenizer import BLANK, END, START
from training.data.shards import Shard
from training.progress import write_line

# Highest cost against fp32 on the same text
PERPLEXITY_LIMIT = 0.01  # relative
TOP3_LIMIT = 0.002  # share of tokens
# A cost above its limit counts if it is also this many standard errors above 0
STANDARD_ERRORS = 1.96
GATE_TOKENS = 20_000
LINE_TOKENS = 64
LINES_AT_ONCE = 64
MASK_EVERY = 8

Lines = dict[str, list[Int64Array]]  # by language, token ids of each line, at most LINE_TOKENS
# By cost, a number for each token, in the same order for every runtime
Measurement = dict[str, Float64Array]
Scores = Iterator[tuple[Float32Array, Int64Array]]  # log-probabilities (n, V), and targets (n,)


def held_out_lines(held_out: Sequence[Shard]) -> Lines:
    """Draw lines of held-out text, about equally many tokens of each language."""
    languages = sorted({shard.language for shard in held_out})
    lines = {}
    for language in languages:
        shards = [shard for shard in held_out if shard.language == language]
        places = [(shard, number) for shard in shards for number in range(shard.lines)]
        order = np.random.default_rng(1).permutation(len(places))
        chosen = (_line(*places[index]) for index in order)
        lines[language] = take(chosen, GATE_TOKENS // len(languages))
    return lines


def take(lines: Iterable[Int64Array], tokens: int) -> list[Int64Array]:
    """Return the first lines that hold *tokens* together, at least one, without empty ones."""
    chosen: list[Int64Array] = []
    for line in lines:
        if chosen and tokens <= 0:
            break
        if len(line):
            chosen.append(line)
            tokens -= len(line)
    return chosen


def measure(runtime: Runtime, lines: Sequence[Int64Array]) -> Measurement:
    """Score every token of the lines; of a stacked network a few under masks.

    Returns:
        ``perplexity``: minus log-probability of each token after those before it. ``top3``: 1 if it
        is not among the three most probable tokens. For two towers, ``gap_perplexity``: minus
        log-probability of each token between its two sides.
    """
    architecture = runtime.sizes.architecture
    score = score_masked if architecture == "stacked_bidirectional" else score_next
    nats, misses = [], []
    for log_probs, targets in score(runtime, lines):
        found = log_probs[np.arange(len(targets)), targets]
        nats.append(-found.astype(np.float64))
        misses.append((log_probs > found[:, None]).sum(axis=1) >= 3)
    measured = {"perplexity": np.concatenate(nats), "top3": np.concatenate(misses) * 1.0}
    if architecture == "two_towers":
        gap_nats = [-rows[np.arange(len(own)), own] for rows, own in score_gaps(runtime, lines)]
        measured["gap_perplexity"] = np.concatenate(gap_nats).astype(np.float64)
    return measured


def check_cost(
    reference: Measurement, quantised: Measurement, *, gate: bool = True
) -> dict[str, float]:
    """Return the cost of quantisation on the same text.

    It has the ``tokens`` measured; the relative rise of ``perplexity`` and, for two towers, of
    ``gap_perplexity``; and the loss of ``top3``, as a share of tokens.

    Raises:
        ExportError: with *gate*, a cost is above its limit and chance does not explain it. Without,
            that is a warning.
    """
    cost = {"tokens": float(len(reference["perplexity"]))}
    for name in reference:
        difference = quantised[name] - reference[name]
        mean, error = difference.mean(), difference.std() / len(difference) ** 0.5
        cost[name] = float(mean if name == "top3" else np.expm1(mean))
        limit = TOP3_LIMIT if name == "top3" else PERPLEXITY_LIMIT
        # NaN fails too
        if not (cost[name] <= limit or mean <= STANDARD_ERRORS * error):
            fault = (
                f"int8 graphs cost {100 * cost[name]:.2f} % of {name} on {len(difference)} held-out"
                f" tokens, more than {100 * limit:.1f} %; the usual reason is a few outlying"
                " weights: train on with weight_decay or a lower clip_norm, and export again"
            )
            if gate:
                raise ExportError(fault)
            write_line(f"warning: {fault}")
    return cost


def score_next(runtime: Runtime, lines: Sequence[Int64Array]) -> Scores:
    """Score each token of the lines after those before it."""
    for batch in _batches(lines):
        left = tower_outputs(runtime, "forward", [[START, *x[:-1]] for x in batch])
        yield from score_rows(runtime, "next", np.concatenate(batch), np.concatenate(left))


def score_gaps(runtime: Runtime, lines: Sequence[Int64Array]) -> Scores:
    """Score each token of the lines between its two sides."""
    for batch in _batches(lines):
        left = tower_outputs(runtime, "forward", [[START, *x[:-1]] for x in batch])
        right = tower_outputs(runtime, "backward", [[END, *x[:0:-1]] for x in batch])
        sides = np.concatenate(left), np.concatenate([rows[::-1] for rows in right])
        zeros = np.zeros(len(sides[0]), dtype=np.int64)
        places = zeros == 0, zeros, zeros + TOKEN
        yield from score_rows(runtime, "gap", np.concatenate(batch), *sides, *places)


def score_masked(runtime: Runtime, lines: Sequence[Int64Array]) -> Scores:
    """Score every MASK_EVERY-th token of a line under a mask, given the rest of the line.

    Each costs a pass over the line.
    """
    for batch in _batches(lines):
        masked = [
            (place, [START, *line[:place], BLANK, *line[place + 1 :]], line[place])
            for line in batch
            for place in range(0, len(line), MASK_EVERY)
        ]
        places, rows, targets = zip(*masked, strict=True)
        inputs = *_padded(rows), np.array(places, dtype=np.int64) + 1
        yield from score_rows(runtime, "fill", np.array(targets, dtype=np.int64), *inputs)


def tower_outputs(
    runtime: Runtime, tower: Tower, rows: Sequence[Sequence[int]]
) -> list[Float32Array]:
    """Read rows of tokens from the empty state; return the outputs (T, H) of each row of T."""
    tokens, lengths = _padded(rows)
    states = initial_states(runtime.sizes, tower, len(rows))
    _, outputs = runtime.run_tower(tower, states, tokens, lengths)
    return [row[:length] for row, length in zip(outputs, lengths, strict=True)]


def _padded(rows: Sequence[Sequence[int]]) -> tuple[Int64Array, Int64Array]:
    """Return rows of tokens as one array (N, T), and their lengths (N,)."""
    lengths = np.array([len(row) for row in rows], dtype=np.int64)
    tokens = np.zeros((len(rows), lengths.max()), dtype=np.int64)
    for target, row in zip(tokens, rows, strict=True):
        target[: len(row)] = row
    return tokens, lengths


def score_rows(
    runtime: Runtime, head: Head, targets: Int64Array, *inputs: npt.NDArray[Any]
) -> Scores:
    """Return log-probabilities of a head; inputs (n, …) as in :meth:`Runtime.score`."""
    for start in range(0, len(targets), runtime.head_rows):
        rows = slice(start, start + runtime.head_rows)
        scores = runtime.score(head, *(each[rows] for each in inputs))
        yield log_of(scores) if head == "next" else scores, targets[rows]


def _batches(lines: Sequence[Int64Array]) -> Iterator[list[Int64Array]]:
    """Yield lines of similar length together."""
    ordered = sorted(lines, key=len)
    for start in range(0, len(ordered), LINES_AT_ONCE):
        yield ordered[start : start + LINES_AT_ONCE]


def _line(shard: Shard, number: int) -> Int64Array:
    tokens = shard.ids[shard.offsets[number] : shard.offsets[number + 1]]
    return tokens[:LINE_TOKENS].astype(np.int64)
