"""The probabilities of given lines of tokens, which share beginnings and take several rounds."""

import random
from itertools import pairwise

import numpy as np
import pytest

from model.batching import Decoder, Scheduler, Score
from model.decoding.context import DecoderContext
from model.decoding.prefix_cache import PrefixCache
from model.decoding.span_search import GIVEN_LINES, GIVEN_TOKENS, Line, score_lines
from model.runtime import Float32Array
from tests.fakes import TableRuntime, hand_tokenizer, table_predictor

TOKENIZER = hand_tokenizer(("a ", "b ", "c ", "d "))
FIRST, END = TOKENIZER.size - 4, TOKENIZER.size - 1


def made_up_lines(seed: int) -> list[Line]:
    """Return more and longer lines than are scored at once; some begin others."""
    draw = random.Random(seed)
    lines: list[Line] = []
    for _ in range(3 * GIVEN_LINES):
        shared = draw.choice(lines)[: draw.randrange(90)] if lines and draw.random() < 0.7 else ()
        longest = draw.choice((1, 3, 2 * GIVEN_TOKENS + 1))
        added = [draw.randrange(FIRST, END) for _ in range(draw.randrange(1, longest + 1))]
        lines.append((*shared, *added))
    return lines


@pytest.mark.parametrize("ends", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_lines_are_scored_as_if_each_were_alone(seed: int, ends: bool) -> None:
    """However many lines begin alike, each has the sum of its tokens, and of its end if wanted."""
    table = TableRuntime(TOKENIZER, seed=seed)
    checkpoint = table_predictor(table).checkpoint
    context = DecoderContext(checkpoint, table.sizes, PrefixCache(0), use_cache_lm=False)
    rows: list[tuple[Line, int]] = []

    def step(output: Float32Array, line: Line, place: int, following: list[int]) -> Score:
        rows.append((line[:place], len(following)))
        return Score("previous", output, lambda row: (float(row[END]), row[following].tolist()))

    def decoder() -> Decoder[dict[Line, float]]:
        state = context.initial["forward"]
        return (yield from score_lines(context, "forward", state, lines, step, ends=ends))

    lines = made_up_lines(seed)
    scheduler = Scheduler(table)
    scheduler.add("lines", decoder())
    finished: list[tuple[object, dict[Line, float]]] = []
    while not finished:
        finished = scheduler.step()
    ((_, found),) = finished
    assert found.keys() == set(lines)
    for line in set(lines):
        states = np.array([(0.0, 0.0), (0.0, line[0]), *pairwise(line)])
        log_probs = table.score("previous", states.astype(np.float32))
        expected = sum(float(log_probs[n, token]) for n, token in enumerate(line))
        expected += float(log_probs[len(line), END]) if ends else 0.0
        assert found[line] == pytest.approx(expected, rel=1e-12), line
    # Beginnings are shared, but between lines that are not scored together.
    different = {line[:n] for line in lines for n in range(len(line) + ends)}
    assert len(rows) <= 1.2 * len(different)
