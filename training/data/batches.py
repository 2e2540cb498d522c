"""Prepared shards to batches, entered at any point: (epoch, index) determines a batch.

1. ``plan_epoch``   the lines of each batch (epoch.py)
2. ``Row``          a window or a line: its tokens, and the text before and after it
3. ``assemble``     rows to time-major arrays: inputs and targets of both towers, and the gaps

Each batch has its own random generator, seeded by (seed, epoch, index): a resumed run sees what an
uninterrupted one would have seen, bit for bit. Nothing here needs torch.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from model.errors import PreparedDataError
from model.tokenizer import BLANK, END, END_OF_GAP, START
from training.config import DataOptions
from training.data.epoch import plan_epoch
from training.data.gaps import Gap, TokenFlags, sample_blank, sample_gaps
from training.data.shards import Shard

Int = NDArray[np.int64]

NO_TARGET = -1
HELD_OUT_LINES = 300  # of a language; enough for a curve, and quick to evaluate
_HELD_OUT_ROWS = 32


@dataclass(frozen=True, slots=True)
class Row:
    """One window or line."""

    tokens: Int  # (L,) y_1 … y_L; in a window, <s> marks the start of further lines
    before: int  # the token read before y_1: <s>, or the last token of the window before
    after: Int  # (K,) the text after the row; ends in </s> at the end of a text
    cuts: tuple[int, int]  # 0-based token offsets, -1 for none
    carried: bool  # the forward state goes on from the window before
    line_end: bool  # the row ends where a line ends


@dataclass(frozen=True, slots=True)
class Batch:
    """Arrays of one update: time-major, B rows, M gap targets. A target of -1 has no loss."""

    forward_inputs: Int  # (T, B)
    forward_targets: Int  # (T, B)
    backward_inputs: Int  # (Tb, B), reversed already
    backward_targets: Int  # (Tb, B)
    carried: NDArray[np.bool_]  # (B,) the forward state goes on from the stream batch before
    stream: bool  # True for windows, whose final forward states are kept
    gap_row: Int  # (M,)
    gap_forward: Int  # (M,) time step whose output is the left side
    gap_backward: Int  # (M,) the same of the right side; -1 if it is unknown
    gap_position: Int  # (M,)
    gap_kind: Int  # (M,)
    gap_target: Int  # (M,)
    tokens: int  # of text, without <s> between lines


class BatchStream:
    """Batches of a run, from (epoch, index) on, without end.

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
    ) -> None:
        self._sources, self._flags, self._options, self._seed = sources, flags, options, seed
        self.epoch, self.index = epoch, index  # of the next batch
        self._plan = plan_epoch(sources, options, seed, epoch)

    def __iter__(self) -> "BatchStream":
        return self

    def close(self) -> None:
        """Do nothing, unlike :class:`training.data.prefetch.BatchesAhead`."""

    def skip(self, batches: int) -> None:
        """Leave out the next *batches*."""
        self.index += batches

    def __next__(self) -> Batch:
        if not self._plan:
            raise PreparedDataError(
                "the sources of the run have no lines; name others, or prepare more text"
            )
        while self.index >= len(self._plan):
            self.epoch, self.index = self.epoch + 1, self.index - len(self._plan)
            self._plan = plan_epoch(self._sources, self._options, self._seed, self.epoch)
        plan = self._plan[self.index]
        rng = np.random.default_rng([self._seed, self.epoch, self.index])
        self.index += 1
        rows = []
        for row in plan.rows:
            if row is None:
                rows.append(_EMPTY_ROW)
            elif plan.stream:
                rows.append(window_row(self._sources[row[0]], *row[1:], self._options))
            else:
                rows.append(_line_row(self._sources[row[0]], row[1]))
        return assemble(rows, self._flags, self._options, rng, stream=plan.stream)


_EMPTY_ROW = Row(np.array([], dtype=np.int64), START, np.array([END]), (-1, -1), False, False)


def _line_row(source: Shard, line: int) -> Row:
    first, second = source.cuts[line].tolist()
    return Row(_tokens(source, line), START, np.array([END]), (first, second), False, True)


def window_row(source: Shard, first: int, last: int, number: int, options: DataOptions) -> Row:
    """Return a window of the lines [first, last), which are joined by ``<s>``."""
    parts = [_tokens(source, first)]
    for line in range(first + 1, last):
        parts += [np.array([START]), _tokens(source, line)]
    block = np.concatenate(parts)
    begin = number * options.window_tokens
    end = min(begin + options.window_tokens, len(block))
    after = block[end : end + options.lookahead_tokens]
    if end + options.lookahead_tokens >= len(block):
        after = np.append(after, END)
    before = int(block[begin - 1]) if number else START
    return Row(block[begin:end], before, after, (-1, -1), number > 0, end == len(block))


def _tokens(source: Shard, line: int) -> Int:
    return source.ids[source.offsets[line] : source.offsets[line + 1]].astype(np.int64)


def assemble(
    rows: Sequence[Row],
    flags: TokenFlags,
    options: DataOptions,
    rng: np.random.Generator,
    *,
    stream: bool,
) -> Batch:
    """Lay out rows as arrays, draw gaps and blanks, and map the positions of both towers."""
    forward: list[tuple[Int, Int]] = []
    backward: list[tuple[Int, Int]] = []
    gaps: list[tuple[int, int, int, int, int, int]] = []
    tokens = 0
    for number, given in enumerate(rows):
        row = _drop_final_punctuation(given, flags, options, rng)
        length = len(row.tokens)
        breaks = row.tokens == START if stream else None
        tokens += length if breaks is None else length - int(breaks.sum())
        # A window that another follows must end in the state that the next one starts from.
        ends = row.line_end and (not stream or length < options.window_tokens)
        left_blank = right_blank = None
        if length and ends and rng.random() < options.forward_blank_share:
            left_blank = sample_blank(row.tokens, flags, rng, breaks)
        if length and rng.random() < options.backward_blank_share:
            right_blank = sample_blank(row.tokens, flags, rng, breaks)
        *side, forward_steps = _forward_side(row, left_blank, ends)
        forward.append((side[0], side[1]))
        *side, backward_steps = _backward_side(row, right_blank)
        backward.append((side[0], side[1]))
        if not length:
            continue
        for gap in sample_gaps(row.tokens, flags, row.cuts, options.gaps_per_token, rng, breaks):
            beyond = gap.end == length and not ends
            if beyond or _overlaps(gap, left_blank) or _overlaps(gap, right_blank):
                continue
            known = rng.random() >= options.right_unknown_share
            right = int(backward_steps[gap.end]) if known else -1
            span = row.tokens[gap.start : gap.end].tolist()
            for k, target in enumerate([*span, END_OF_GAP]):
                left = int(forward_steps[gap.start + k])
                gaps.append((number, left, right, k, gap.kind, target))
    table = np.array(gaps, dtype=np.int64).reshape(-1, 6)
    carried = np.array([row.carried for row in rows], dtype=np.bool_)
    gap_row, gap_forward, gap_backward, gap_position, gap_kind, gap_target = table.T
    return Batch(
        *_pad(forward), *_pad(backward), carried, stream,
        gap_row, gap_forward, gap_backward, gap_position, gap_kind, gap_target, tokens,
    )  # fmt: skip


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


def _forward_side(row: Row, blank: tuple[int, int] | None, ends: bool) -> tuple[Int, Int, Int]:
    """Return inputs, targets and steps; after ``steps[i]``, y_1 … y_i are read, i = 0 … L.

    If the row does not end (*ends* is False), the next window reads y_L.
    """
    y, length = row.tokens, len(row.tokens)
    targets = np.where(y == START, NO_TARGET, y)
    steps = np.arange(length + 1)
    if blank is None:
        inputs, targets = np.append(row.before, y), np.append(targets, NO_TARGET)
    else:
        start, end = blank
        inputs = np.concatenate([[row.before], y[:start], [BLANK], y[end:]])
        targets = np.concatenate([targets[:start], [NO_TARGET], targets[end:], [NO_TARGET]])
        # The blank is read once: positions inside it have no state of their own.
        steps[end:] -= end - start - 1
    return (inputs, targets, steps) if ends or not length else (inputs[:-1], targets[:-1], steps)


def _backward_side(row: Row, blank: tuple[int, int] | None) -> tuple[Int, Int, Int]:
    """Return the mirror: the text after the row is read first, then y_L … y_2.

    After step ``steps[j]``, y_{j+1} has been read, j = 1 … L.
    """
    y, length, ahead = row.tokens, len(row.tokens), len(row.after)
    # Read backwards, a line boundary is the end of the line before it: </s>, not <s>.
    mirrored = np.where(y == START, END, y)[::-1]
    after = np.where(row.after == START, END, row.after)[::-1]
    targets = np.where(y == START, NO_TARGET, y)[::-1]
    steps = ahead - 1 + length - np.arange(length + 1)
    silent = np.full(ahead - 1, NO_TARGET)
    if blank is None:
        inputs = np.concatenate([after, mirrored])
        targets = np.concatenate([silent, targets, [NO_TARGET]])
    else:
        start, end = length - blank[1], length - blank[0]
        inputs = np.concatenate([after, mirrored[:start], [BLANK], mirrored[end:]])
        targets = np.concatenate([silent, targets[:start], [NO_TARGET], targets[end:], [NO_TARGET]])
        steps[: blank[0] + 1] -= end - start - 1
    # The state that has read y_1 serves no gap and predicts nothing.
    return (inputs[:-1], targets[:-1], steps) if length else (inputs, targets, steps)


def _overlaps(gap: Gap, blank: tuple[int, int] | None) -> bool:
    return blank is not None and gap.start < blank[1] and blank[0] < gap.end


def _pad(sides: list[tuple[Int, Int]]) -> tuple[Int, Int]:
    """Pad to the longest with ``</s>`` and no target; return time-major arrays, (T, B) each."""
    longest = max(len(inputs) for inputs, _ in sides)
    inputs = np.full((longest, len(sides)), END, dtype=np.int64)
    targets = np.full((longest, len(sides)), NO_TARGET, dtype=np.int64)
    for column, (row_inputs, row_targets) in enumerate(sides):
        inputs[: len(row_inputs), column] = row_inputs
        targets[: len(row_targets), column] = row_targets
    return inputs, targets


def heldout_batches(
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
            assemble(rows[start : start + _HELD_OUT_ROWS], flags, plain, rng, stream=False)
            for start in range(0, len(rows), _HELD_OUT_ROWS)
        ]
        characters = sum(int(flags.characters[row.tokens].sum()) for row in rows)
        chosen[language] = batches, characters
    return chosen
