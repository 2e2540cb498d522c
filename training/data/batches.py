"""Prepared shards to batches, a chain that can be entered at any point: (epoch, index) says all.

1. ``plan_epoch``  which lines, in which order. Lines of consecutive text are in part kept together as *blocks* and
   read through *windows* whose forward state is carried from one to the next; all other lines stand alone and are
   bucketed by length.
2. ``rows``        a window or a line: its tokens, what stands before and after it.
3. ``assemble``    rows to time-major arrays: inputs and targets of both towers, and the gaps with their index maps.

Every batch draws from its own random generator, seeded by (seed, epoch, index): a resumed run sees what an
uninterrupted one would have seen, bit for bit. Nothing here knows torch.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from model.errors import PreparedDataError
from model.tokenizer import BLANK, END, END_OF_GAP, START
from training.config import DataOptions
from training.data.gaps import Gap, TokenFlags, sample_blank, sample_gaps
from training.data.shards import Shard

Int = NDArray[np.int64]

BLOCK_LINES = (
    16  # consecutive lines read with one carried state; short enough that beginnings stay frequent
)
MAX_ROWS = 512  # of a batch of very short lines
NO_TARGET = -1


@dataclass(frozen=True, slots=True)
class Row:
    """One window or line.

    Attributes:
        tokens: (L,) y_1 … y_L; inside a window, ``<s>`` marks the beginnings of further lines.
        before: the token read before y_1: ``<s>``, or the last token of the window before.
        after: (K,) what the backward tower reads first, in reading order of the text; ends with ``</s>`` at a real end.
        cuts: 0-based token offsets of cuts, -1 for none.
        carried: whether the forward state goes on from the row before in the same slot.
        line_end: whether the row ends where a line ends.
    """

    tokens: Int
    before: int
    after: Int
    cuts: tuple[int, int]
    carried: bool
    line_end: bool


@dataclass(frozen=True, slots=True)
class Batch:
    """Arrays of one update; time-major; int64 unless said; target -1 carries no loss.

    Attributes:
        forward_inputs, forward_targets: (T, B).
        backward_inputs, backward_targets: (Tb, B); already reversed.
        carried: (B,) bool: rows whose forward state goes on from the batch before of the same stream.
        stream: whether this is a window batch, whose final forward states are to be kept.
        gap_row, gap_forward, gap_backward: (M,): the row, and the time steps whose outputs are the gap's sides;
            ``gap_backward`` is -1 where the right side is unknown.
        gap_position, gap_kind, gap_target: (M,).
        tokens: tokens of text in the batch, ``<s>`` between lines left out, for counting.
    """

    forward_inputs: Int
    forward_targets: Int
    backward_inputs: Int
    backward_targets: Int
    carried: NDArray[np.bool_]
    stream: bool
    gap_row: Int
    gap_forward: Int
    gap_backward: Int
    gap_position: Int
    gap_kind: Int
    gap_target: Int
    tokens: int


# ---------------------------------------------------------------------------------------------------- 1. the plan


@dataclass(frozen=True, slots=True)
class _Lines:
    """A bucket of single lines: (source index, line index) pairs."""

    lines: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class _Windows:
    """One window of every slot: (source, first line, last line, window number) or None where a slot has run out."""

    slots: tuple[tuple[int, int, int, int] | None, ...]


class EpochPlan:
    """The order of one pass over the sources, each repeated by its weight.

    Args:
        sources: prepared sources.
        options: of the batches.
        seed: of the run.
        epoch: 0-based.

    A fraction of a weight repeats that share of the lines, drawn anew in each epoch.
    """

    def __init__(
        self, sources: Sequence[Shard], options: DataOptions, seed: int, epoch: int
    ) -> None:
        rng = np.random.default_rng([seed, epoch])
        singles: list[tuple[int, int, int]] = []  # (length, source, line)
        blocks: list[tuple[int, int, int, int]] = []  # (windows, source, first line, last line)
        for number, source in enumerate(sources):
            lengths = np.diff(source.offsets)
            for repeat in range(int(np.ceil(source.weight))):
                share = min(1.0, source.weight - repeat)
                for first, last in _spans(lengths, source.consecutive, options, rng):
                    if share < 1 and rng.random() > share:
                        continue
                    length = int(lengths[first:last].sum())
                    if length == 0:
                        continue
                    if last - first == 1 and length <= 2 * options.window_tokens:
                        singles.append((length, number, first))
                    else:
                        total = length + (last - first - 1)
                        blocks.append((-(-total // options.window_tokens), number, first, last))
        self._batches: list[_Lines | _Windows] = []
        line_batches = _bucket(singles, options, rng)
        window_batches = _slots(blocks, options, rng)
        # Windows keep their order among themselves; where they fall between line batches is chance.
        which = rng.permutation(len(line_batches) + len(window_batches)) < len(window_batches)
        windows, lines = iter(window_batches), iter(line_batches)
        for is_window in which:
            self._batches.append(next(windows) if is_window else next(lines))

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, index: int) -> "_Lines | _Windows":
        return self._batches[index]


def _spans(
    lengths: Int, consecutive: bool, options: DataOptions, rng: np.random.Generator
) -> Iterator[tuple[int, int]]:
    """Cut a source into single lines and blocks [first, last)."""
    count = len(lengths)
    if not consecutive:
        for line in range(count):
            yield line, line + 1
        return
    # A new offset every time, so that blocks do not begin at the same lines in every epoch.
    edges = [0, *range(int(rng.integers(1, BLOCK_LINES + 1)), count, BLOCK_LINES), count]
    for first, last in pairwise(edges):
        if rng.random() < options.carry_share:
            yield first, last
        else:
            for line in range(first, last):
                yield line, line + 1


def _bucket(
    singles: list[tuple[int, int, int]], options: DataOptions, rng: np.random.Generator
) -> list[_Lines]:
    """Lines of like length together, about ``rows * window_tokens`` padded tokens to a batch."""
    order = rng.permutation(len(singles))
    # A little noise on the length mixes neighbours in the order without costing padding.
    keys = np.array([singles[i][0] for i in order], dtype=np.float64)
    keys *= 1 + 0.1 * rng.random(len(keys))
    budget = options.rows * options.window_tokens
    batches: list[_Lines] = []
    bucket: list[tuple[int, int]] = []
    longest = 0
    for i in np.argsort(keys, kind="stable"):
        length, source, line = singles[order[i]]
        if bucket and (
            max(longest, length) * (len(bucket) + 1) > budget or len(bucket) == MAX_ROWS
        ):
            batches.append(_Lines(tuple(bucket)))
            bucket, longest = [], 0
        bucket.append((source, line))
        longest = max(longest, length)
    if bucket:
        batches.append(_Lines(tuple(bucket)))
    return [batches[i] for i in rng.permutation(len(batches))]


def _slots(
    blocks: list[tuple[int, int, int, int]], options: DataOptions, rng: np.random.Generator
) -> list[_Windows]:
    """Hand blocks to ``rows`` slots, the least loaded first, and read the slots in step."""
    slots: list[list[tuple[int, int, int, int]]] = [[] for _ in range(options.rows)]
    loads = np.zeros(options.rows, dtype=np.int64)
    for i in rng.permutation(len(blocks)):
        windows, source, first, last = blocks[i]
        slot = int(np.argmin(loads))
        slots[slot] += [(source, first, last, n) for n in range(windows)]
        loads[slot] += windows
    steps = int(loads.max()) if blocks else 0
    return [_Windows(tuple(s[t] if t < len(s) else None for s in slots)) for t in range(steps)]


# ------------------------------------------------------------------------------------------------------ 2. rows


def _line_row(source: Shard, line: int) -> Row:
    tokens = source.ids[source.offsets[line] : source.offsets[line + 1]].astype(np.int64)
    first, second = (int(c) for c in source.cuts[line])
    return Row(tokens, START, np.array([END]), (first, second), carried=False, line_end=True)


def _window_row(source: Shard, first: int, last: int, number: int, options: DataOptions) -> Row:
    """The *number*-th window of a block, its lines joined by ``<s>``."""
    parts: list[Int] = []
    for line in range(first, last):
        if parts:
            parts.append(np.array([START]))
        parts.append(source.ids[source.offsets[line] : source.offsets[line + 1]].astype(np.int64))
    block = np.concatenate(parts)
    begin = number * options.window_tokens
    end = min(begin + options.window_tokens, len(block))
    after = block[end : end + options.lookahead_tokens]
    if end + options.lookahead_tokens >= len(block):
        after = np.append(after, END)
    before = int(block[begin - 1]) if number else START
    return Row(
        block[begin:end], before, after, (-1, -1), carried=number > 0, line_end=end == len(block)
    )


# -------------------------------------------------------------------------------------------------- 3. assembly


class BatchStream:
    """Batches of a run, from (epoch, index) on, without end.

    Args:
        sources: prepared sources, weights included.
        flags: of the vocabulary.
        options: of the batches.
        seed: of the run.
        epoch: where to begin.
        index: where to begin within the epoch.

    Raises:
        PreparedDataError: at the first batch; there are no lines.
    """

    def __init__(
        self,
        sources: Sequence[Shard],
        flags: TokenFlags,
        options: DataOptions,
        seed: int,
        epoch: int = 0,
        index: int = 0,
    ) -> None:
        self._sources = sources
        self._flags = flags
        self._options = options
        self._seed = seed
        self.epoch = epoch
        self.index = index  # of the next batch
        self._plan = EpochPlan(sources, options, seed, epoch)

    @property
    def batches_in_epoch(self) -> int:
        """Batches in the present epoch."""
        return len(self._plan)

    def __iter__(self) -> "BatchStream":
        return self

    def skip(self, batches: int) -> None:
        """Leave out the next *batches*."""
        self.index += batches

    def __next__(self) -> Batch:
        if not len(self._plan):
            raise PreparedDataError(
                "the sources of the run hold no lines; name others, or prepare more text"
            )
        while self.index >= len(self._plan):
            self.epoch, self.index = self.epoch + 1, self.index - len(self._plan)
            self._plan = EpochPlan(self._sources, self._options, self._seed, self.epoch)
        entry = self._plan[self.index]
        rng = np.random.default_rng([self._seed, self.epoch, self.index])
        self.index += 1
        if isinstance(entry, _Lines):
            rows = [_line_row(self._sources[s], n) for s, n in entry.lines]
        else:
            rows = [
                _EMPTY_ROW
                if slot is None
                else _window_row(self._sources[slot[0]], *slot[1:], self._options)
                for slot in entry.slots
            ]
        return assemble(rows, self._flags, self._options, rng, stream=isinstance(entry, _Windows))


_EMPTY_ROW = Row(
    np.array([], dtype=np.int64), START, np.array([END]), (-1, -1), carried=False, line_end=False
)


def assemble(
    rows: Sequence[Row],
    flags: TokenFlags,
    options: DataOptions,
    rng: np.random.Generator,
    *,
    stream: bool,
) -> Batch:
    """Lay rows out as arrays, draw gaps and blanks, and map both towers' positions."""
    forward: list[tuple[Int, Int]] = []
    backward: list[tuple[Int, Int]] = []
    gaps: list[tuple[int, int, int, int, int, int]] = []
    tokens = 0
    for number, given in enumerate(rows):
        row = _without_final_punctuation(given, flags, options, rng)
        length = len(row.tokens)
        breaks = row.tokens == START if stream else None
        tokens += length if breaks is None else length - int(breaks.sum())
        # A window that another follows must end in the state that the next one starts from: no blank, no padding.
        ends = row.line_end and (not stream or length < options.window_tokens)
        blank_f = blank_b = None
        if length and ends and rng.random() < options.forward_blank_share:
            blank_f = sample_blank(row.tokens, flags, rng, breaks)
        if length and rng.random() < options.backward_blank_share:
            blank_b = sample_blank(row.tokens, flags, rng, breaks)
        inputs, targets, forward_step = _forward_side(row, blank_f, ends)
        forward.append((inputs, targets))
        inputs, targets, backward_step = _backward_side(row, blank_b)
        backward.append((inputs, targets))
        if not length:
            continue
        for gap in sample_gaps(row.tokens, flags, row.cuts, options.gaps_per_token, rng, breaks):
            if (
                _overlaps(gap, blank_f)
                or _overlaps(gap, blank_b)
                or (gap.end == length and not ends)
            ):
                continue
            known = rng.random() >= options.right_unknown_share
            right = int(backward_step[gap.end]) if known else -1
            span = row.tokens[gap.start : gap.end].tolist()
            for k, target in enumerate([*span, END_OF_GAP]):
                gaps.append((number, int(forward_step[gap.start + k]), right, k, gap.kind, target))
    table = np.array(gaps, dtype=np.int64).reshape(-1, 6)
    forward_inputs, forward_targets = _pad(forward)
    backward_inputs, backward_targets = _pad(backward)
    return Batch(
        forward_inputs,
        forward_targets,
        backward_inputs,
        backward_targets,
        carried=np.array([row.carried for row in rows], dtype=np.bool_),
        stream=stream,
        gap_row=table[:, 0],
        gap_forward=table[:, 1],
        gap_backward=table[:, 2],
        gap_position=table[:, 3],
        gap_kind=table[:, 4],
        gap_target=table[:, 5],
        tokens=tokens,
    )


def _without_final_punctuation(
    row: Row, flags: TokenFlags, options: DataOptions, rng: np.random.Generator
) -> Row:
    ends_in_mark = (
        row.line_end and len(row.tokens) > 1 and not flags.has_word_character[row.tokens[-1]]
    )
    if not ends_in_mark or rng.random() >= options.punctuation_dropped_share:
        return row
    return Row(row.tokens[:-1], row.before, row.after, row.cuts, row.carried, row.line_end)


def _forward_side(row: Row, blank: tuple[int, int] | None, ends: bool) -> tuple[Int, Int, Int]:
    """Inputs, targets, and the index map: steps[i] is the step after which y_1 … y_i have been read, i = 0 … L.

    Where the row does not end (*ends* false), y_L is left for the next window to read.
    """
    y, length = row.tokens, len(row.tokens)
    aims = np.where(y == START, NO_TARGET, y)
    steps = np.arange(length + 1)
    if blank is None:
        inputs, targets = np.append(row.before, y), np.append(aims, NO_TARGET)
    else:
        start, end = blank
        inputs = np.concatenate([[row.before], y[:start], [BLANK], y[end:]])
        targets = np.concatenate([aims[:start], [NO_TARGET], aims[end:], [NO_TARGET]])
        # The blank is read once: positions inside it have no state of their own.
        steps[end:] -= end - start - 1
    return (inputs, targets, steps) if ends or not length else (inputs[:-1], targets[:-1], steps)


def _backward_side(row: Row, blank: tuple[int, int] | None) -> tuple[Int, Int, Int]:
    """The mirror: what follows is read first, then y_L … y_2; steps[j] is the step that has read y_{j+1}, j = 1 … L."""
    y, length, ahead = row.tokens, len(row.tokens), len(row.after)
    # Reading backwards, what is met at a line boundary is the end of the line before: </s>, not <s>.
    mirrored = np.where(y == START, END, y)[::-1]
    after = np.where(row.after == START, END, row.after)[::-1]
    aims = np.where(y == START, NO_TARGET, y)[::-1]
    steps = ahead - 1 + length - np.arange(length + 1)
    silent = np.full(ahead - 1, NO_TARGET)
    if blank is None:
        inputs, targets = (
            np.concatenate([after, mirrored]),
            np.concatenate([silent, aims, [NO_TARGET]]),
        )
    else:
        start, end = blank
        inputs = np.concatenate(
            [after, mirrored[: length - end], [BLANK], mirrored[length - start :]]
        )
        targets = np.concatenate(
            [silent, aims[: length - end], [NO_TARGET], aims[length - start :], [NO_TARGET]]
        )
        steps[: start + 1] -= end - start - 1
    # Nothing stands before y_1 in this row, so the state that has read it serves no gap and predicts nothing.
    return (inputs[:-1], targets[:-1], steps) if length else (inputs, targets, steps)


def _overlaps(gap: Gap, blank: tuple[int, int] | None) -> bool:
    return blank is not None and gap.start < blank[1] and blank[0] < gap.end


def _pad(sides: list[tuple[Int, Int]]) -> tuple[Int, Int]:
    """Right-pad to the longest and turn time-major, (T, B) each. Padding reads ``</s>`` and carries no loss."""
    longest = max(len(inputs) for inputs, _ in sides)
    inputs = np.full((longest, len(sides)), END, dtype=np.int64)
    targets = np.full((longest, len(sides)), NO_TARGET, dtype=np.int64)
    for column, (row_inputs, row_targets) in enumerate(sides):
        inputs[: len(row_inputs), column] = row_inputs
        targets[: len(row_targets), column] = row_targets
    return inputs, targets


HELD_OUT_LINES = 300  # a language; enough for a curve, cheap enough to draw often


def heldout_batches(
    sources: Sequence[Shard], flags: TokenFlags, options: DataOptions
) -> dict[str, tuple[list[Batch], int]]:
    """The same few held-out lines a language every time, alone and unmasked, with their characters.

    Lines are spread evenly over each language's sources; ones beyond four windows are left out.
    """
    plain = replace(
        options, punctuation_dropped_share=0.0, forward_blank_share=0.0, backward_blank_share=0.0
    )
    chosen: dict[str, tuple[list[Batch], int]] = {}
    for language in sorted({s.language for s in sources}):
        lines = [
            (source, n)
            for source in sources
            if source.language == language
            for n in range(source.lines)
            if 0 < source.table[n, 0] <= 4 * options.window_tokens
        ]
        kept = lines[:: max(1, -(-len(lines) // HELD_OUT_LINES))]
        kept.sort(key=lambda line: int(line[0].table[line[1], 0]))
        rng = np.random.default_rng(0)
        batches, characters = [], 0
        for i in range(0, len(kept), 32):
            rows = [_line_row(source, n) for source, n in kept[i : i + 32]]
            batches.append(assemble(rows, flags, plain, rng, stream=False))
            characters += sum(int(flags.characters[row.tokens].sum()) for row in rows)
        chosen[language] = (batches, characters)
    return chosen
