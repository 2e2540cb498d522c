"""Batches: what each tower has read when a gap is asked for, and entry at any batch."""

from dataclasses import fields, replace
from itertools import islice

import numpy as np
import pytest

from model.errors import PreparedDataError
from model.tokenizer import BLANK, END, END_OF_GAP, START
from tests.training.made_up_text import FIRST, V, flags, options, shard
from training.config import DataOptions
from training.data.batches import (
    HELD_OUT_LINES,
    NO_TARGET,
    Batch,
    BatchStream,
    Row,
    assemble,
    held_out_batches,
    window_row,
)
from training.data.epoch import plan_epoch
from training.data.gaps import TokenFlags
from training.data.shards import NO_CUT, Shard

PLAIN = options(forward_blank_share=0.0, backward_blank_share=0.0, punctuation_dropped_share=0.0)
SOURCES = [shard(1, 40, consecutive=False, weight=2.5), shard(2, 40, consecutive=True)]


def line(tokens: np.ndarray) -> Row:
    """Return a line without context."""
    return Row(tokens, START, np.array([END]), (-1, -1), continues=False, line_end=True)


def epoch(source: Shard, settings: DataOptions) -> list[Batch]:
    """Return the batches of one epoch over a source."""
    batches = len(plan_epoch([source], settings, 1, 0))
    return list(islice(BatchStream([source], flags(), settings, seed=1), batches))


def is_read_with_a_blank(tokens: list[int], read: list[int]) -> bool:
    """Return True if *read* is *tokens* with at most one stretch read as one blank."""
    if BLANK not in read:
        return read == tokens
    before, after = read[: read.index(BLANK)], read[read.index(BLANK) + 1 :]
    ends_alike = not after or tokens[-len(after) :] == after
    return tokens[: len(before)] == before and ends_alike and len(tokens) >= len(read)


@pytest.mark.parametrize("seed", range(10))
def test_every_gap_sees_exactly_its_two_sides(seed: int) -> None:
    """A gap's left context is all before it, its right context all after it; none is empty."""
    rng = np.random.default_rng(seed)
    rows = [line(rng.integers(FIRST, V, n)) for n in rng.integers(1, 24, 6)]
    batch = assemble(rows, flags(), options(punctuation_dropped_share=0.0), rng, windows=False)
    assert END_OF_GAP not in batch.gap_target[batch.gap_position == 0]
    start = 0
    for m, (row, k) in enumerate(zip(batch.gap_row, batch.gap_position, strict=True)):
        start = m if k == 0 else start
        read = batch.forward_inputs[: batch.gap_forward[m] + 1, row].tolist()
        span = batch.gap_target[start:m].tolist()
        assert read[0] == START
        assert not span or read[-len(span) :] == span
        if batch.gap_target[m] != END_OF_GAP:
            continue
        before = read[1 : len(read) - len(span)]
        after: list[int] | None = None
        if batch.gap_backward[m] >= 0:
            seen = batch.backward_inputs[: batch.gap_backward[m] + 1, row].tolist()
            assert seen[0] == END
            after = seen[:0:-1]
        # There must be a place in the row with these sides.
        tokens = rows[row].tokens.tolist()
        assert any(
            tokens[a : a + k] == span
            and is_read_with_a_blank(tokens[:a], before)
            and (after is None or is_read_with_a_blank(tokens[a + k :], after))
            for a in range(len(tokens) - k + 1)
        ), (tokens, before, span, after)


@pytest.mark.parametrize("seed", range(10))
def test_targets_follow_inputs(seed: int) -> None:
    """Each forward target is the next token of the row, each backward target the previous one."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(FIRST, V, 20)
    settings = options(punctuation_dropped_share=0.0)
    batch = assemble([line(tokens)], flags(), settings, rng, windows=False)
    for inputs, targets, text in (
        (batch.forward_inputs[:, 0], batch.forward_targets[:, 0], tokens),
        (batch.backward_inputs[:, 0], batch.backward_targets[:, 0], tokens[::-1]),
    ):
        has_target = targets != NO_TARGET
        following = np.append(inputs[1:], text[-1])
        assert np.array_equal(targets[has_target], following[has_target])
        assert BLANK not in targets
        assert has_target.sum() >= len(text) - 9


def test_windows_read_a_passage_once() -> None:
    """The windows of a passage, joined, are its lines joined by <s>, each token counted once."""
    source = shard(3, 12, consecutive=True)
    batches = epoch(source, replace(PLAIN, carry_share=1.0, rows=1))
    passages: list[list[int]] = []
    for batch in batches:
        if not batch.continues[0]:
            passages.append([])
        targets = batch.forward_targets[:, 0]
        following = np.append(batch.forward_inputs[1:, 0], targets[-1])
        assert all(t in (NO_TARGET, f) for t, f in zip(targets, following, strict=True))
        passages[-1] += batch.forward_inputs[:, 0].tolist()
    lines = np.split(source.ids.astype(int), source.offsets[1:-1])
    text = [token for each in lines for token in [START, *each.tolist()]]
    read = [token for passage in passages for token in passage if token != END]
    # The last token of a full final window is predicted but never read.
    assert len(text) - len(read) <= len(passages)
    assert read.count(START) == text.count(START) == 12
    assert sum(batch.tokens for batch in batches) == len(source.ids)


@pytest.mark.parametrize("seed", range(5))
def test_a_gap_of_a_window_sees_the_lookahead_and_crosses_no_line(seed: int) -> None:
    """Its right context is the rest of the window and the lookahead, with line ends as </s>."""
    source = shard(seed, 40, consecutive=True)
    gaps = 0
    for number in range(4):
        rows = [window_row(source, first, first + 10, number, PLAIN) for first in (0, 10, 20, 30)]
        batch = assemble(rows, flags(), PLAIN, np.random.default_rng([seed, number]), windows=True)
        known = (batch.gap_target == END_OF_GAP) & (batch.gap_backward >= 0)
        for m in np.flatnonzero(known).tolist():
            column = batch.gap_row[m]
            row, length = rows[column], int(batch.gap_position[m])
            start = int(batch.gap_forward[m]) - length
            span = batch.gap_target[m - length : m].tolist()
            assert row.tokens[start : start + length].tolist() == span
            assert START not in span
            read = batch.forward_inputs[: start + 1, column].tolist()
            assert read == [row.before, *row.tokens[:start].tolist()]
            right = [*row.tokens[start + length :].tolist(), *row.after.tolist()]
            read = batch.backward_inputs[: batch.gap_backward[m] + 1, column].tolist()
            assert read == [END if token == START else token for token in reversed(right)]
            gaps += 1
    assert gaps > 20


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # more processes than cores
@pytest.mark.parametrize("processes", [0, 3])
def test_any_batch_can_be_entered_directly(processes: int) -> None:
    """Batch (epoch, index) is the same from any start, also if processes make batches ahead."""
    length = len(plan_epoch(SOURCES, options(), 5, 0))
    whole = BatchStream(SOURCES, flags(), options(), seed=5)
    list(islice(whole, length - 5))
    entered = BatchStream(SOURCES, flags(), options(), 5, 0, length - 5, processes)
    for number, (expected, batch) in enumerate(zip(islice(whole, 20), entered, strict=False)):
        if number == 10:
            entered.close()  # the next batch starts new processes at the same place
        assert (entered.epoch, entered.index) == (whole.epoch, whole.index)
        for field in fields(batch):
            assert np.array_equal(getattr(expected, field.name), getattr(batch, field.name))
    entered.close()
    assert whole.epoch == 1


def test_a_stream_without_lines_is_refused() -> None:
    """No sources, or none with lines, is an error instead of an endless search."""
    with pytest.raises(PreparedDataError, match="no lines"):
        next(BatchStream([], flags(), options(), seed=1))


def test_weights_repeat_sources() -> None:
    """A source of weight 3 is read three times in an epoch."""
    once, thrice = (shard(1, 30, consecutive=False, weight=weight) for weight in (1.0, 3.0))
    read = [sum(batch.tokens for batch in epoch(source, PLAIN)) for source in (once, thrice)]
    assert read == [len(once.ids), 3 * len(once.ids)]


def test_some_lines_lose_their_final_mark() -> None:
    """A share of the lines that end in punctuation is read without it."""
    rows = [line(np.array([FIRST, V - 1]))] * 400
    settings = replace(PLAIN, punctuation_dropped_share=0.25)
    batch = assemble(rows, flags(), settings, np.random.default_rng(1), windows=False)
    assert 0.15 < 2 - batch.tokens / 400 < 0.35


@pytest.mark.parametrize("lines", [7, 300, 301, 600, 1000])
def test_held_out_lines_are_spread_to_the_end(lines: int) -> None:
    """At most 300 lines at equal distances, from the first to within a distance of the last."""
    ids = (np.arange(lines) + FIRST).astype(np.uint16)  # a line is its number
    table = np.tile(np.array([1, NO_CUT, NO_CUT], dtype=np.uint32), (lines, 1))
    source = Shard("s", "en", False, 1.0, ids, table, lines)
    ones = np.ones(lines + FIRST, dtype=np.bool_)
    wide = TokenFlags(ones, ones, ones, ones, ones.astype(np.int64))
    batches, characters = held_out_batches([source], wide, options())["en"]
    drawn = np.sort(np.concatenate([batch.forward_inputs[1] for batch in batches])) - FIRST
    assert np.array_equal(drawn, np.arange(0, lines, int(drawn[1] - drawn[0])))
    assert min(lines, HELD_OUT_LINES) / 2 < len(drawn) == characters <= HELD_OUT_LINES
