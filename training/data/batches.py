"""Prepared shards to batches, entered at any point: (epoch, index) determines a batch.

1. ``plan_epoch``   the lines of each batch (epoch.py)
2. ``Row``          a window or a line: its tokens, and the text before and after it
3. ``assemble``     rows to time-major arrays: inputs and targets of both towers, and the gaps

Each batch has its own random generator, seeded by (seed, epoch, index): a resumed run sees what an
uninterrupted one would have seen, bit for bit. Other processes may make batches ahead, so that a
GPU need not wait for them.

A line of four tokens, a b c d, and the gap [1, 3), which asks for b, c and <eog>:

    step                 0     1     2     3     4
    forward reads       <s>    a     b     c     d
            predicts     a     b     c     d     -
    backward reads     </s>    d     c     b
             predicts    d     c     b     a

The gap's left contexts are the forward steps 1, 2 and 3: after <s> a, after b and after c. Its
right context is the backward step 1, which has read </s> d.
"""

import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from model.errors import PreparedDataError
from model.tokenizer import BLANK, END, END_OF_GAP, START
from training.config import DataOptions
from training.data.epoch import BatchPlan, RowPlan, plan_epoch
from training.data.gaps import Gap, TokenFlags, sample_blank, sample_gaps
from training.data.shards import Shard

Int = NDArray[np.int64]

NO_TARGET = -1
HELD_OUT_LINES = 300  # of a language; enough for a curve, and quick to evaluate
_HELD_OUT_ROWS = 32
_BATCHES_AHEAD = 64  # of each process; they last while the next epoch is planned


@dataclass(frozen=True, slots=True)
class Row:
    """One window or line of L tokens."""

    tokens: Int  # (L,); in a window, <s> marks the start of further lines
    before: int  # the token read before the row: <s>, or the last token of the window before
    after: Int  # (K,) the text after the row; ends in </s> at the end of a text
    cuts: tuple[int, int]  # token offsets, -1 for none
    continues: bool  # the forward state goes on from the window before
    line_end: bool  # the row ends where a line ends


@dataclass(frozen=True, slots=True)
class Batch:
    """Arrays of one update: time-major, B rows, M gap targets. A target of -1 has no loss."""

    forward_inputs: Int  # (T, B)
    forward_targets: Int  # (T, B)
    backward_inputs: Int  # (Tb, B), reversed already
    backward_targets: Int  # (Tb, B)
    continues: NDArray[np.bool_]  # (B,) the state goes on from the batch of windows before
    windows: bool  # rows are windows, whose final forward states are kept
    tokens: int  # of text, without <s> between lines
    # Of the next, previous and gap heads; like tokens, of all rows, also if these are a share.
    target_counts: tuple[int, int, int]
    gap_row: Int  # (M,)
    gap_forward: Int  # (M,) time step whose output is the left side
    gap_backward: Int  # (M,) the same of the right side; -1 if it is unknown
    gap_position: Int  # (M,) number of the target in its gap
    gap_kind: Int  # (M,)
    gap_target: Int  # (M,)


class _Side(NamedTuple):
    """Inputs and targets of one tower; ``steps[i]`` is the step that ends at position i."""

    inputs: Int
    targets: Int
    steps: Int


_Position = tuple[int, int, BatchPlan]  # epoch, index in it, and the batch planned there


class BatchStream:
    """Batches of a run, from (epoch, index) on, without end.

    With *processes* above 0, that many make batches ahead, from the first one on until
    :meth:`close`.

    Raises:
        PreparedDataError: at the first batch, if the sources are empty.
    """

    def __init__(
        self,
        sources: Sequence[Shard],
        flags: TokenFlags,
        options: DataOptions,
        seed: int,
        epoch: int = 0,
        index: int = 0,
        processes: int = 0,
    ) -> None:
        self.epoch, self.index = epoch, index  # of the next batch
        self._maker = _BatchMaker(sources, flags, options, seed)
        self._processes = processes
        self._batches: Iterator[tuple[Batch, int, int]] | None = None

    def __iter__(self) -> "BatchStream":
        return self

    def __next__(self) -> Batch:
        if self._batches is None:
            self._batches = self._start()
        batch, self.epoch, self.index = next(self._batches)
        return batch

    def close(self) -> None:
        """End the processes and drop what they made ahead; the next batch starts new ones."""
        self._batches = None

    def _start(self) -> Iterator[tuple[Batch, int, int]]:
        positions = self._maker.positions(self.epoch, self.index)
        if not self._processes:
            return map(self._maker.__getitem__, positions)
        loader: DataLoader[tuple[Batch, int, int]] = DataLoader(
            self._maker,
            batch_size=None,
            sampler=positions,
            num_workers=self._processes,
            collate_fn=lambda batch: batch,
            prefetch_factor=_BATCHES_AHEAD,
            worker_init_fn=_ignore_signals,
            # A fork keeps the shards mapped. Torch's threads do not survive it, but batches are
            # made with numpy alone.
            multiprocessing_context="fork",
            generator=torch.Generator(),  # else it would draw from the run's own
        )
        return iter(loader)


class _BatchMaker(Dataset[tuple[Batch, int, int]]):
    """Makes the batch of a position, and adds epoch and index of the batch after it."""

    def __init__(
        self, sources: Sequence[Shard], flags: TokenFlags, options: DataOptions, seed: int
    ) -> None:
        self._sources, self._flags, self._options, self._seed = sources, flags, options, seed

    def positions(self, epoch: int, index: int) -> Iterator[_Position]:
        """Yield the positions from (epoch, index) on."""
        plan = plan_epoch(self._sources, self._options, self._seed, epoch)
        if not plan:
            raise PreparedDataError(
                "the sources of the run have no lines; name others, or prepare more text"
            )
        while True:
            for number in range(index, len(plan)):
                yield epoch, number, plan[number]
            epoch, index = epoch + 1, 0
            plan = plan_epoch(self._sources, self._options, self._seed, epoch)

    def __getitem__(self, position: _Position) -> tuple[Batch, int, int]:
        epoch, index, plan = position
        rng = np.random.default_rng([self._seed, epoch, index])
        rows = [self._row(row, windows=plan.windows) for row in plan.rows]
        batch = assemble(rows, self._flags, self._options, rng, windows=plan.windows)
        return batch, epoch, index + 1

    def _row(self, row: RowPlan | None, *, windows: bool) -> Row:
        if row is None:
            return Row(np.array([], np.int64), START, np.array([END]), (-1, -1), False, False)
        source = self._sources[row.source]
        if windows:
            return window_row(source, row.first, row.last, row.window, self._options)
        return _line_row(source, row.first)


def _ignore_signals(_: int) -> None:
    """Leave Ctrl-C and signals to the group to the training process, which saves and ends these."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _line_row(source: Shard, line: int) -> Row:
    first, second = source.cuts[line].tolist()
    return Row(_tokens(source, line), START, np.array([END]), (first, second), False, True)


def window_row(source: Shard, first: int, last: int, number: int, options: DataOptions) -> Row:
    """Return a window of the passage of the lines [first, last), which are joined by ``<s>``."""
    parts = [_tokens(source, first)]
    for line in range(first + 1, last):
        parts += [np.array([START]), _tokens(source, line)]
    passage = np.concatenate(parts)
    begin = number * options.window_tokens
    end = min(begin + options.window_tokens, len(passage))
    after = passage[end : end + options.lookahead_tokens]
    if end + options.lookahead_tokens >= len(passage):
        after = np.append(after, END)
    before = int(passage[begin - 1]) if number else START
    return Row(passage[begin:end], before, after, (-1, -1), number > 0, end == len(passage))


def _tokens(source: Shard, line: int) -> Int:
    return source.ids[source.offsets[line] : source.offsets[line + 1]].astype(np.int64)


def assemble(
    rows: Sequence[Row],
    flags: TokenFlags,
    options: DataOptions,
    rng: np.random.Generator,
    *,
    windows: bool,
) -> Batch:
    """Lay out rows as arrays, draw gaps and blanks, and map the positions of both towers."""
    forward: list[_Side] = []
    backward: list[_Side] = []
    gaps: list[tuple[int, ...]] = []  # the gap_* of a batch, for each target
    tokens = 0
    for number, given in enumerate(rows):
        row = _drop_final_punctuation(given, flags, options, rng)
        length = len(row.tokens)
        tokens += int((row.tokens != START).sum())
        # A window that another follows must end in the state that the next one starts from.
        ends = row.line_end and (not windows or length < options.window_tokens)
        left_blank = right_blank = None
        if length and ends and rng.random() < options.forward_blank_share:
            left_blank = sample_blank(row.tokens, flags, rng)
        if length and rng.random() < options.backward_blank_share:
            right_blank = sample_blank(row.tokens, flags, rng)
        forward.append(_forward_side(row, left_blank, ends))
        backward.append(_backward_side(row, right_blank))
        if not length:
            continue
        for gap in sample_gaps(row.tokens, flags, row.cuts, options.gaps_per_token, rng):
            outside = gap.end == length and not ends
            if outside or _overlaps(gap, left_blank) or _overlaps(gap, right_blank):
                continue
            known = rng.random() >= options.right_unknown_share
            right = int(backward[-1].steps[gap.end]) if known else -1
            span = row.tokens[gap.start : gap.end].tolist()
            for k, target in enumerate([*span, END_OF_GAP]):
                left = int(forward[-1].steps[gap.start + k])
                gaps.append((number, left, right, k, gap.kind, target))
    table = np.array(gaps, dtype=np.int64).reshape(-1, 6)
    continues = np.array([row.continues for row in rows], dtype=np.bool_)
    sides = *_pad(forward), *_pad(backward)
    following, previous = (int((each != NO_TARGET).sum()) for each in sides[1::2])
    counts = following, previous, len(gaps)
    return Batch(*sides, continues, windows, tokens, counts, *table.T)


def _drop_final_punctuation(
    row: Row, flags: TokenFlags, options: DataOptions, rng: np.random.Generator
) -> Row:
    """Drop the final mark of a share of the lines, so that text without one is known too."""
    ends_in_mark = (
        row.line_end and len(row.tokens) > 1 and not flags.has_word_character[row.tokens[-1]]
    )
    if not ends_in_mark or rng.random() >= options.punctuation_dropped_share:
        return row
    return replace(row, tokens=row.tokens[:-1])


def _forward_side(row: Row, blank: tuple[int, int] | None, ends: bool) -> _Side:
    """Return the side on which ``steps[i]`` has read the first i tokens.

    If the row does not end (*ends* is False), the next window reads its last token.
    """
    length = len(row.tokens)
    inputs, targets = _read_blank(row.tokens, _targets(row), blank)
    inputs, targets = np.append(row.before, inputs), np.append(targets, NO_TARGET)
    steps = np.arange(length + 1)
    if blank is not None:
        # The blank is read once: positions inside it have no state of their own.
        steps[blank[1] :] -= blank[1] - blank[0] - 1
    keep = None if ends or not length else -1
    return _Side(inputs[:keep], targets[:keep], steps)


def _backward_side(row: Row, blank: tuple[int, int] | None) -> _Side:
    """Return the mirror: the text after the row is read first, then the row from its end.

    After ``steps[j]``, the token at j has been read, or for j = L only the text after the row.
    """
    length, ahead = len(row.tokens), len(row.after)
    # Read backwards, a line boundary is the end of the line before it: </s>, not <s>.
    mirrored, after = (np.where(each == START, END, each) for each in (row.tokens, row.after))
    inputs, targets = _read_blank(mirrored, _targets(row), blank)
    inputs = np.concatenate([after[::-1], inputs[::-1]])
    targets = np.concatenate([np.full(ahead - 1, NO_TARGET), targets[::-1], [NO_TARGET]])
    steps = ahead - 1 + length - np.arange(length + 1)
    if blank is not None:
        steps[: blank[0] + 1] -= blank[1] - blank[0] - 1
    # The state that has read the first token serves no gap and predicts nothing.
    keep = -1 if length else None
    return _Side(inputs[:keep], targets[:keep], steps)


def _targets(row: Row) -> Int:
    return np.where(row.tokens == START, NO_TARGET, row.tokens)


def _read_blank(inputs: Int, targets: Int, blank: tuple[int, int] | None) -> tuple[Int, Int]:
    """Replace the tokens of the blank by one ``<blank>``, which is not a target."""
    if blank is None:
        return inputs, targets
    start, end = blank
    return (
        np.concatenate([inputs[:start], [BLANK], inputs[end:]]),
        np.concatenate([targets[:start], [NO_TARGET], targets[end:]]),
    )


def _overlaps(gap: Gap, blank: tuple[int, int] | None) -> bool:
    return blank is not None and gap.start < blank[1] and blank[0] < gap.end


def _pad(sides: list[_Side]) -> tuple[Int, Int]:
    """Pad to the longest with ``</s>`` and no target; return time-major arrays, (T, B) each."""
    longest = max(len(side.inputs) for side in sides)
    inputs = np.full((longest, len(sides)), END, dtype=np.int64)
    targets = np.full((longest, len(sides)), NO_TARGET, dtype=np.int64)
    for column, side in enumerate(sides):
        inputs[: len(side.inputs), column] = side.inputs
        targets[: len(side.targets), column] = side.targets
    return inputs, targets


def held_out_batches(
    sources: Sequence[Shard], flags: TokenFlags, options: DataOptions
) -> dict[str, tuple[list[Batch], int]]:
    """Return the same few held-out lines of each language every time, with their characters.

    Lines are spread evenly over a language's sources, are read alone and have no blanks. Lines of
    more than four windows are left out.
    """
    plain = replace(
        options, punctuation_dropped_share=0.0, forward_blank_share=0.0, backward_blank_share=0.0
    )
    chosen: dict[str, tuple[list[Batch], int]] = {}
    for language in sorted({source.language for source in sources}):
        lines = [
            (source, n)
            for source in sources
            if source.language == language
            for n in range(source.lines)
            if 0 < source.table[n, 0] <= 4 * options.window_tokens
        ]
        kept = lines[:: max(1, -(-len(lines) // HELD_OUT_LINES))]
        kept.sort(key=lambda line: int(line[0].table[line[1], 0]))
        rows = [_line_row(*line) for line in kept]
        rng = np.random.default_rng(0)
        batches = [
            assemble(rows[start : start + _HELD_OUT_ROWS], flags, plain, rng, windows=False)
            for start in range(0, len(rows), _HELD_OUT_ROWS)
        ]
        characters = sum(int(flags.characters[row.tokens].sum()) for row in rows)
        chosen[language] = batches, characters
    return chosen
