"""Batches: what each tower has read when a gap is asked for, and that any batch can be entered directly."""

from collections import Counter
from dataclasses import fields
from itertools import islice

import numpy as np
import pytest

from model.config import SPAN, TOKEN, WORD
from model.errors import PreparedDataError
from model.tokenizer import BLANK, END, END_OF_GAP, START
from training.config import DataOptions
from training.data.batches import (
    HELD_OUT_LINES,
    NO_TARGET,
    BatchStream,
    Row,
    _window_row,
    assemble,
    heldout_batches,
)
from training.data.gaps import TokenFlags, sample_gaps
from training.data.prefetch import BatchesAhead
from training.data.shards import Shard

V = 60
FIRST = 10  # tokens from here on are text; the last ten are punctuation


def flags() -> TokenFlags:
    """A made-up vocabulary: even tokens end a word, the last ten are punctuation."""
    ids = np.arange(V)
    worded = (ids >= FIRST) & (ids < V - 10)
    return TokenFlags(
        worded & (ids % 2 == 1), worded, worded, worded & (ids % 2 == 0), np.ones(V, dtype=np.int64)
    )


def shard(
    seed: int, lines: int, *, consecutive: bool, weight: float = 1.0, longest: int = 30
) -> Shard:
    """Random lines."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, longest, lines)
    none = 0xFFFFFFFF
    table = np.array([[n, none, none] if n < 4 else [n, 1, 3] for n in lengths], dtype=np.uint32)
    ids = rng.integers(FIRST, V, int(lengths.sum())).astype(np.uint16)
    return Shard(f"s{seed}", "en", consecutive, weight, ids, table, int(lengths.sum()))


def options(**changes: object) -> DataOptions:
    """Small batches with many gaps and blanks."""
    values = {
        "prepared": "",
        "rows": 4,
        "window_tokens": 16,
        "lookahead_tokens": 5,
        "gaps_per_token": 0.5,
    }
    values |= {"forward_blank_share": 0.5, "backward_blank_share": 0.5, **changes}
    return DataOptions(**values)


def collapse(tokens: list[int], read: list[int]) -> bool:
    """Whether *read* is *tokens* with at most one non-empty stretch read as one blank."""
    if BLANK not in read:
        return read == tokens
    at = read.index(BLANK)
    tail = read[at + 1 :]
    return (
        read[:at] == tokens[:at]
        and (not tail or tokens[-len(tail) :] == tail)
        and len(tokens) > len(read) - 1
    )


@pytest.mark.parametrize("seed", range(20))
def test_every_gap_sees_exactly_its_two_sides(seed: int) -> None:
    """A gap's forward step has read all before it and nothing after; its backward step all after it, and no more."""
    rng = np.random.default_rng(seed)
    rows = [
        Row(
            rng.integers(FIRST, V, n),
            START,
            np.array([END]),
            (-1, -1),
            carried=False,
            line_end=True,
        )
        for n in rng.integers(1, 24, 6)
    ]
    batch = assemble(rows, flags(), options(punctuation_dropped_share=0.0), rng, stream=False)
    by_gap: dict[tuple[int, int, int], list[int]] = {}
    start = 0
    for m in range(len(batch.gap_row)):
        row, k = int(batch.gap_row[m]), int(batch.gap_position[m])
        if k == 0:
            start = m
        tokens = rows[row].tokens.tolist()
        read = batch.forward_inputs[: batch.gap_forward[m] + 1, row].tolist()
        assert read[0] == START
        span = batch.gap_target[start:m].tolist()
        assert not span or read[-len(span) :] == span
        before = read[1 : len(read) - len(span)]
        target = int(batch.gap_target[m])
        by_gap.setdefault((row, start, 0), []).append(target)
        if target != END_OF_GAP:
            continue
        assert k > 0
        right: list[int] | None = None
        if batch.gap_backward[m] >= 0:
            seen = batch.backward_inputs[: batch.gap_backward[m] + 1, row].tolist()
            assert seen[0] == END
            right = seen[1:][::-1]
        # The gap must stand somewhere in the row with these sides.
        fits = [
            a
            for a in range(len(tokens) - k + 1)
            if tokens[a : a + k] == span
            and collapse(tokens[:a], before)
            and (right is None or collapse(tokens[a + k :], right))
        ]
        assert fits, (tokens, before, span, right)


@pytest.mark.parametrize("seed", range(10))
def test_targets_follow_inputs(seed: int) -> None:
    """Each forward target is the token after what has been read; each backward target the one before."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(FIRST, V, 20)
    row = Row(tokens, START, np.array([END]), (-1, -1), carried=False, line_end=True)
    batch = assemble([row], flags(), options(punctuation_dropped_share=0.0), rng, stream=False)
    for inputs, targets, text in (
        (batch.forward_inputs[:, 0], batch.forward_targets[:, 0], tokens.tolist()),
        (batch.backward_inputs[:, 0], batch.backward_targets[:, 0], tokens[::-1].tolist()),
    ):
        assert BLANK not in targets
        for step, target in enumerate(targets.tolist()):
            if target != NO_TARGET:
                following = inputs[step + 1] if step + 1 < len(inputs) else text[-1]
                assert target == following
        assert (targets != NO_TARGET).sum() >= len(text) - 9


def test_windows_of_a_block_read_it_through_once() -> None:
    """Windows with carried state, put end to end, read a block exactly, with <s> between lines."""
    source = shard(3, 12, consecutive=True)
    plain = options(
        carry_share=1.0,
        rows=1,
        forward_blank_share=0.0,
        backward_blank_share=0.0,
        punctuation_dropped_share=0.0,
    )
    stream = BatchStream([source], flags(), plain, seed=1)
    read: list[int] = []
    blocks: list[list[int]] = []
    for batch in islice(stream, stream.batches_in_epoch):
        if not batch.carried[0] and read:
            blocks.append(read)
            read = []
        inputs = batch.forward_inputs[:, 0].tolist()
        targets = batch.forward_targets[:, 0].tolist()
        for given, target, following in zip(inputs, targets, [*inputs[1:], None], strict=True):
            assert target in {NO_TARGET, following} or following is None
            read.append(given)
    blocks.append(read)
    lines = [
        source.ids[a:b].tolist() for a, b in zip(source.offsets, source.offsets[1:], strict=False)
    ]
    text = sorted(tuple(line) for line in lines)
    found: list[tuple[int, ...]] = []
    for block in blocks:
        assert block[0] == START
        joined: list[list[int]] = []
        for token in block:
            if token == START:
                joined.append([])
            elif token != END:
                joined[-1].append(token)
        found += [tuple(line) for line in joined]
    # The last token of a full final window is predicted but never read.
    assert sum(map(len, text)) - sum(map(len, found)) <= len(blocks)


@pytest.mark.parametrize("seed", range(5))
def test_a_gap_of_a_window_sees_the_lookahead_and_crosses_no_line(seed: int) -> None:
    """Left of it stands the window's beginning, right of it the window's rest and the lookahead, line ends as </s>."""
    source = shard(seed, 40, consecutive=True)
    plain = options(
        forward_blank_share=0.0, backward_blank_share=0.0, punctuation_dropped_share=0.0
    )
    gaps = 0
    for number in range(4):
        rows = [_window_row(source, first, first + 10, number, plain) for first in (0, 10, 20, 30)]
        batch = assemble(rows, flags(), plain, np.random.default_rng([seed, number]), stream=True)
        for m in np.flatnonzero(
            (batch.gap_target == END_OF_GAP) & (batch.gap_backward >= 0)
        ).tolist():
            row, length = rows[batch.gap_row[m]], int(batch.gap_position[m])
            start = int(batch.gap_forward[m]) - length
            span = batch.gap_target[m - length : m].tolist()
            assert row.tokens[start : start + length].tolist() == span
            assert START not in span
            read = batch.forward_inputs[: start + 1, batch.gap_row[m]].tolist()
            assert read == [row.before, *row.tokens[:start].tolist()]
            right = [*row.tokens[start + length :].tolist(), *row.after.tolist()]
            read = batch.backward_inputs[: batch.gap_backward[m] + 1, batch.gap_row[m]].tolist()
            assert read == [END if token == START else token for token in reversed(right)]
            gaps += 1
    assert gaps > 20


def test_a_stream_entered_at_any_batch_goes_on_the_same() -> None:
    """Batch (epoch, index) is the same whether reached from the start or entered directly."""
    sources = [shard(1, 40, consecutive=False, weight=2.5), shard(2, 40, consecutive=True)]
    whole = list(islice(BatchStream(sources, flags(), options(), seed=5), 60))
    stream = BatchStream(sources, flags(), options(), seed=5)
    list(islice(stream, 37))
    later = BatchStream(sources, flags(), options(), seed=5, epoch=stream.epoch, index=stream.index)
    for ours, theirs in zip(whole[37:], later, strict=False):
        assert np.array_equal(ours.forward_inputs, theirs.forward_inputs)
        assert np.array_equal(ours.gap_target, theirs.gap_target)
        assert np.array_equal(ours.gap_backward, theirs.gap_backward)


@pytest.mark.filterwarnings(
    "ignore:This DataLoader will create"
)  # more than a small machine has cores
@pytest.mark.parametrize("begin", [0, 5])
def test_batches_made_ahead_are_the_same_in_the_same_order(begin: int) -> None:
    """Three processes by turns give what one stream gives, and say where they stand, over the end of an epoch."""
    sources = [shard(1, 40, consecutive=False), shard(2, 40, consecutive=True)]
    stream = BatchStream(sources, flags(), options(), seed=5, index=begin)
    length = stream.batches_in_epoch
    ahead = BatchesAhead(BatchStream(sources, flags(), options(), seed=5, index=begin), processes=3)
    for number, (ours, theirs) in enumerate(
        zip(islice(ahead, 2 * length + 1), stream, strict=False)
    ):
        if number == length:
            ahead.close()  # another batch begins them anew, where they were
        assert (ahead.epoch, ahead.index) == (stream.epoch, stream.index)
        assert all(
            np.array_equal(getattr(ours, field.name), getattr(theirs, field.name))
            for field in fields(ours)
        )
    assert stream.epoch == 2


def test_batches_are_left_out_over_several_epochs() -> None:
    """Leaving out more than an epoch holds leads where reading them would."""
    sources = [shard(1, 40, consecutive=False), shard(2, 40, consecutive=True)]
    read, left_out = (BatchStream(sources, flags(), options(), seed=5) for _ in range(2))
    count = 2 * read.batches_in_epoch + 3
    list(islice(read, count))
    left_out.skip(count)
    assert np.array_equal(next(read).forward_inputs, next(left_out).forward_inputs)
    assert (read.epoch, read.index) == (left_out.epoch, left_out.index)


def test_a_stream_without_lines_is_refused() -> None:
    """And does not look for one for ever."""
    with pytest.raises(PreparedDataError, match="no lines"):
        next(BatchStream([], flags(), options(), seed=1))


def test_weights_repeat_sources() -> None:
    """A source of weight 3 is read three times in an epoch."""
    once, thrice = shard(1, 30, consecutive=False), shard(1, 30, consecutive=False, weight=3.0)
    read = [
        sum(b.tokens for b in islice(stream, stream.batches_in_epoch))
        for source in (once, thrice)
        for stream in [
            BatchStream([source], flags(), options(punctuation_dropped_share=0.0), seed=1)
        ]
    ]
    assert read[1] == 3 * read[0]


def test_shares_of_gaps_are_those_of_the_draws_less_the_dropped() -> None:
    """Words weigh by their tokens; words of more than 8 and punctuation are dropped, and nothing is drawn instead."""
    end, inner, mark = FIRST, FIRST + 1, V - 1  # an odd token goes on, an even one ends its word
    words = [[end], [inner, inner, end], [*[inner] * 8, end], [mark]]
    tokens, count = np.concatenate(words), 20_000
    gaps = sample_gaps(
        tokens, flags(), (-1, -1), count / len(tokens), False, np.random.default_rng(1)
    )
    kinds = Counter(gap.kind for gap in gaps)
    found = Counter((gap.start, gap.end) for gap in gaps if gap.kind == WORD)
    assert found.keys() == {(0, 1), (1, 4)}
    assert found[1, 4] / found[0, 1] == pytest.approx(3, rel=0.15)
    assert kinds[WORD] / count == pytest.approx(0.6 * 4 / 14, rel=0.05)
    assert kinds[TOKEN] / count == pytest.approx(0.2, rel=0.05)
    assert kinds[SPAN] / count == pytest.approx(0.2 * 13 / 14, rel=0.05)


def test_tokens_are_counted_once_each() -> None:
    """Windows of a block count the tokens of its lines and not the line beginnings between them."""
    source = shard(3, 12, consecutive=True)
    plain = options(carry_share=1.0, punctuation_dropped_share=0.0)
    stream = BatchStream([source], flags(), plain, seed=1)
    batches = list(islice(stream, stream.batches_in_epoch))
    assert any((batch.forward_inputs[1:] == START).any() for batch in batches)
    assert sum(batch.tokens for batch in batches) == len(source.ids)


@pytest.mark.parametrize("lines", [7, 300, 301, 599, 600, 1000])
def test_held_out_lines_are_spread_to_the_end(lines: int) -> None:
    """At most 300 lines at equal distances, from the first to within a distance of the last."""
    ids = (np.arange(lines) + FIRST).astype(np.uint16)  # a line is its number
    table = np.tile(np.array([1, 0xFFFFFFFF, 0xFFFFFFFF], dtype=np.uint32), (lines, 1))
    source = Shard("s", "en", False, 1.0, ids, table, lines)
    ones = np.ones(lines + FIRST, dtype=np.bool_)
    wide = TokenFlags(ones, ones, ones, ones, ones.astype(np.int64))
    batches, characters = heldout_batches([source], wide, options())["en"]
    drawn = np.sort(np.concatenate([batch.forward_inputs[1] for batch in batches])) - FIRST
    step = int(drawn[1] - drawn[0])
    assert np.array_equal(drawn, np.arange(0, lines, step))
    assert min(lines, HELD_OUT_LINES) / 2 < len(drawn) == characters <= HELD_OUT_LINES


def test_gap_at_position_zero_never_asks_for_end_of_gap() -> None:
    """No gap is empty."""
    batch = next(BatchStream([shard(1, 200, consecutive=False)], flags(), options(), seed=1))
    assert len(batch.gap_row) > 0
    assert END_OF_GAP not in batch.gap_target[batch.gap_position == 0]
