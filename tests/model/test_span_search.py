"""The probabilities of given spans and what follows, which may take several rounds."""

import random
from itertools import pairwise

import numpy as np
import pytest

from model.batching import Decoder, Scheduler
from model.decoding.cache_lm import CacheLM
from model.decoding.context import DecoderContext
from model.decoding.prefix_cache import PrefixCache
from model.decoding.span_search import (
    EXTENDED,
    GIVEN_LINES,
    GIVEN_TOKENS,
    SpanHead,
    is_word,
    score_spans,
)
from model.runtime import Float64Array
from tests.fakes import TableRuntime, hand_tokenizer, table_predictor

TOKENIZER = hand_tokenizer(("a ", "b ", "c ", "d", "."))
FIRST = TOKENIZER.size - 5


def made_up_spans(seed: int, count: int) -> list[tuple[int, ...]]:
    """Return spans of which some are longer than a round."""
    draw = random.Random(seed)
    lengths = [draw.choice((1, 3, 2 * GIVEN_TOKENS + 1)) for _ in range(count)]
    return [tuple(draw.choices(range(FIRST, FIRST + 4), k=length)) for length in lengths]


@pytest.mark.parametrize("right", [(), (FIRST,), (FIRST, FIRST + 1, FIRST + 3)])
@pytest.mark.parametrize("count", [EXTENDED, 2 * GIVEN_LINES + 1])
def test_spans_are_scored_token_by_token(count: int, right: tuple[int, ...]) -> None:
    """Each has the sum of its tokens, and of the right side or the end of its last word.

    Beyond the first token of the right side, all but the best have the mean of the best.
    """
    table = TableRuntime(TOKENIZER, seed=count)
    checkpoint = table_predictor(table).checkpoint
    context = DecoderContext(checkpoint, table.sizes, PrefixCache(0), use_cache_lm=False)
    nothing = CacheLM(np.zeros(0, dtype=np.int64), TOKENIZER.background)
    head, spans = SpanHead(context, None, nothing, ()), made_up_spans(count, count)
    bias = np.random.default_rng(count).normal(0, 9, count)

    def decoder() -> Decoder[Float64Array]:
        state = context.initial["forward"]
        return (yield from score_spans(head, state, spans, right, bias))

    scheduler = Scheduler(table)
    scheduler.add("spans", decoder())
    finished: list[tuple[object, Float64Array]] = []
    while not finished:
        finished = scheduler.step()

    def log_probs(line: tuple[int, ...]) -> list[float]:
        states = np.array([(0.0, 0.0), (0.0, line[0]), *pairwise(line)], dtype=np.float32)
        rows = table.score("next", states)
        probs = [rows[n, token] for n, token in enumerate(line)]
        if not right and TOKENIZER.ends_letter[line[-1]]:
            probs.append(rows[-1][~TOKENIZER.continues_word].sum())
        return [float(each) for each in np.log(probs)]

    expected = bias + [sum(log_probs((*span, *right[:1]))) for span in spans]
    if right[1:]:
        best = (-expected).argsort()[:EXTENDED]
        more = np.array([sum(log_probs((*spans[n], *right))[-len(right) + 1 :]) for n in best])
        expected += more.mean()
        expected[best] += more - more.mean()
    ((_, found),) = finished
    assert found == pytest.approx(expected, rel=1e-5)


def test_first_tokens_that_were_searched_are_not_run_again() -> None:
    """Their states give the same probabilities with fewer rows."""
    table = TableRuntime(TOKENIZER)
    context = DecoderContext(
        table_predictor(table).checkpoint, table.sizes, PrefixCache(0), use_cache_lm=False
    )
    nothing = CacheLM(np.zeros(0, dtype=np.int64), TOKENIZER.background)
    spans = [(FIRST,), (FIRST, FIRST + 3), (FIRST + 1,)]
    found, work = [], {False: 0, True: 0}
    for is_searched in work:
        head = SpanHead(context, None, nothing, ())
        if is_searched:
            head.states = {(FIRST,): np.array([0, FIRST], dtype=np.float32)}
        state = context.initial["forward"]
        table.calls.clear()
        scheduler = Scheduler(table)
        scheduler.add(0, score_spans(head, state, spans, (FIRST + 2,), np.zeros(3)))
        while scheduler.pending:
            finished = scheduler.step()
        found.append(finished[0][1])
        work[is_searched] = sum(rows for kind, rows in table.calls if kind == "forward")
    assert np.array_equal(*found)
    assert work == {False: 3, True: 2}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("旅游", True), ("旅游 ", True), ("旅游,", False), ("3月", True), (",", False),
        ("U.S.", True), ("don't ", True), ("caf\ufffd", False),
    ],
)  # fmt: skip
def test_a_chinese_word_has_no_marks(text: str, expected: bool) -> None:
    """English words may have them, and text of marks alone is not a word."""
    assert is_word(text) == expected
