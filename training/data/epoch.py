"""The order of the text in an epoch: which lines make up which batch.

Some consecutive lines are read together as *blocks*, through *windows* whose forward state is
carried from one to the next. All other lines are single, in batches of lines of similar length.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from training.config import DataOptions
from training.data.shards import Shard

# Consecutive lines that are read with one carried state; few, so that beginnings stay frequent.
WINDOW_LINES = 16
MAX_ROWS = 512  # of a batch of very short lines

RowPlan = tuple[int, int, int, int]  # source, first line, line after the last, number of the window


@dataclass(frozen=True, slots=True)
class BatchPlan:
    """The rows of one batch."""

    stream: bool  # windows, whose row n goes on from row n of the stream batch before
    rows: tuple[RowPlan | None, ...]  # windows or single lines; None: no windows are left


def plan_epoch(
    sources: Sequence[Shard], options: DataOptions, seed: int, epoch: int
) -> list[BatchPlan]:
    """Plan one pass over the sources, each repeated by its weight; *epoch* counts from 0.

    A fraction of a weight repeats that share of the lines, drawn again in each epoch.
    """
    rng = np.random.default_rng([seed, epoch])
    singles: list[tuple[int, RowPlan]] = []  # with their tokens
    blocks: list[tuple[int, int, int, int]] = []  # windows, source, first line, line after the last
    for number, source in enumerate(sources):
        lengths = np.diff(source.offsets)
        for repeat in range(int(np.ceil(source.weight))):
            share = min(1.0, source.weight - repeat)
            for first, last in _spans(len(lengths), source.consecutive, options, rng):
                if share < 1 and rng.random() > share:
                    continue
                tokens = int(lengths[first:last].sum())
                if tokens == 0:
                    continue
                if last - first == 1 and tokens <= 2 * options.window_tokens:
                    singles.append((tokens, (number, first, last, 0)))
                else:
                    tokens += last - first - 1  # <s> between lines
                    blocks.append((-(-tokens // options.window_tokens), number, first, last))
    lines = iter(line_batches := _batch_lines(singles, options, rng))
    windows = iter(window_batches := _batch_windows(blocks, options, rng))
    # Windows keep their order; they fall between batches of lines by chance.
    order = rng.permutation(len(line_batches) + len(window_batches)) < len(window_batches)
    return [next(windows) if stream else next(lines) for stream in order]


def _spans(
    lines: int, consecutive: bool, options: DataOptions, rng: np.random.Generator
) -> Iterator[tuple[int, int]]:
    """Divide a source into single lines and blocks [first, last)."""
    if not consecutive:
        yield from pairwise(range(lines + 1))
        return
    # A new offset every time, so that blocks do not begin at the same lines in every epoch.
    edges = [0, *range(int(rng.integers(1, WINDOW_LINES + 1)), lines, WINDOW_LINES), lines]
    for first, last in pairwise(edges):
        if rng.random() < options.carry_share:
            yield first, last
        else:
            yield from pairwise(range(first, last + 1))


def _batch_lines(
    singles: list[tuple[int, RowPlan]], options: DataOptions, rng: np.random.Generator
) -> list[BatchPlan]:
    """Batch lines of similar length, with about ``rows * window_tokens`` tokens and padding."""
    order = rng.permutation(len(singles))
    # A little noise on the length mixes neighbours in the order at no cost in padding.
    keys = np.array([singles[n][0] for n in order], dtype=np.float64)
    keys *= 1 + 0.1 * rng.random(len(keys))
    budget = options.rows * options.window_tokens
    batches: list[BatchPlan] = []
    rows: list[RowPlan] = []
    longest = 0
    for n in np.argsort(keys, kind="stable"):
        tokens, row = singles[order[n]]
        full = max(longest, tokens) * (len(rows) + 1) > budget or len(rows) == MAX_ROWS
        if rows and full:
            batches.append(BatchPlan(False, tuple(rows)))
            rows, longest = [], 0
        rows.append(row)
        longest = max(longest, tokens)
    if rows:
        batches.append(BatchPlan(False, tuple(rows)))
    return [batches[n] for n in rng.permutation(len(batches))]


def _batch_windows(
    blocks: list[tuple[int, int, int, int]], options: DataOptions, rng: np.random.Generator
) -> list[BatchPlan]:
    """Hand blocks to ``rows`` rows, the least loaded first, and read the rows in step."""
    rows: list[list[RowPlan]] = [[] for _ in range(options.rows)]
    loads: NDArray[np.int64] = np.zeros(options.rows, dtype=np.int64)
    for n in rng.permutation(len(blocks)):
        windows, source, first, last = blocks[n]
        row = int(np.argmin(loads))
        rows[row] += [(source, first, last, number) for number in range(windows)]
        loads[row] += windows
    return [
        BatchPlan(True, tuple(row[step] if step < len(row) else None for row in rows))
        for step in range(int(loads.max()))
    ]
