"""The order of the text in an epoch: which lines make up which batch.

Some consecutive lines, and every line longer than two windows, are read as *passages*, through
*windows* whose forward state goes from one to the next. All other lines are single, in batches of
lines of similar length.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from training.config import DataOptions
from training.data.shards import Shard

# Lines of a passage; few, so that beginnings stay frequent.
PASSAGE_LINES = 16
MAX_ROWS = 512  # of a batch of very short lines


class RowPlan(NamedTuple):
    """One row of a batch: a window of the passage of the lines [first, last), or a single line."""

    source: int
    first: int
    last: int
    window: int  # its number in the passage; 0 for a line


class BatchPlan(NamedTuple):
    """The rows of one batch."""

    windows: bool  # row n goes on from row n of the batch of windows before
    rows: tuple[RowPlan | None, ...]  # None: no windows are left


class _Passage(NamedTuple):
    source: int
    first: int
    last: int
    tokens: int


def plan_epoch(
    sources: Sequence[Shard], options: DataOptions, seed: int, epoch: int
) -> list[BatchPlan]:
    """Plan one pass over the sources, each repeated by its weight; *epoch* counts from 0.

    A fraction of a weight repeats that share of the lines, drawn again in each epoch.
    """
    rng = np.random.default_rng([seed, epoch])
    lines: list[_Passage] = []
    passages: list[_Passage] = []
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
                tokens += last - first - 1  # <s> between lines
                is_line = last - first == 1 and tokens <= 2 * options.window_tokens
                (lines if is_line else passages).append(_Passage(number, first, last, tokens))
    line_batches = _batch_lines(lines, options, rng)
    window_batches = _batch_windows(passages, options, rng)
    # Windows keep their order; they fall between batches of lines by chance.
    order = rng.permutation(len(line_batches) + len(window_batches)) < len(window_batches)
    line_iterator, window_iterator = iter(line_batches), iter(window_batches)
    return [next(window_iterator if windows else line_iterator) for windows in order]


def _spans(
    lines: int, consecutive: bool, options: DataOptions, rng: np.random.Generator
) -> Iterator[tuple[int, int]]:
    """Divide a source into single lines and passages [first, last)."""
    if not consecutive:
        yield from pairwise(range(lines + 1))
        return
    # A new offset every time, so that passages do not begin at the same lines in every epoch.
    edges = [0, *range(int(rng.integers(1, PASSAGE_LINES + 1)), lines, PASSAGE_LINES), lines]
    for first, last in pairwise(edges):
        if rng.random() < options.carry_share:
            yield first, last
        else:
            yield from pairwise(range(first, last + 1))


def _batch_lines(
    lines: list[_Passage], options: DataOptions, rng: np.random.Generator
) -> list[BatchPlan]:
    """Batch lines of similar length, with about ``rows * window_tokens`` tokens and padding."""
    order = rng.permutation(len(lines))
    # A little noise on the length mixes neighbours in the order at no cost in padding.
    keys = np.array([lines[n].tokens for n in order], dtype=np.float64)
    keys *= 1 + 0.1 * rng.random(len(keys))
    budget = options.rows * options.window_tokens
    batches: list[list[RowPlan]] = []
    longest = 0
    for n in order[np.argsort(keys, kind="stable")]:
        source, first, last, tokens = lines[n]
        longest = max(longest, tokens)
        rows = len(batches[-1]) if batches else MAX_ROWS
        if rows == MAX_ROWS or longest * (rows + 1) > budget:
            batches.append([])
            longest = tokens
        batches[-1].append(RowPlan(source, first, last, 0))
    return [BatchPlan(False, tuple(batches[n])) for n in rng.permutation(len(batches))]


def _batch_windows(
    passages: list[_Passage], options: DataOptions, rng: np.random.Generator
) -> list[BatchPlan]:
    """Hand passages to ``rows`` rows, the least loaded first, and read the rows in step."""
    rows: list[list[RowPlan]] = [[] for _ in range(options.rows)]
    for n in rng.permutation(len(passages)):
        source, first, last, tokens = passages[n]
        windows = -(-tokens // options.window_tokens)
        shortest = min(rows, key=len)
        shortest += [RowPlan(source, first, last, number) for number in range(windows)]
    return [
        BatchPlan(True, tuple(row[step] if step < len(row) else None for row in rows))
        for step in range(max(map(len, rows)))
    ]
