"""The log-probability of a text."""

import math

import numpy as np
import pytest

from model.queries import ScoreQuery, ScoreResult
from model.text import normalise
from model.tokenizer import START
from tests.fakes import TableRuntime, answer, hand_tokenizer, table_predictor

TOKENIZER = hand_tokenizer(("the ", "cat ", "cat", "a", "。", "我"))
RUNTIME = TableRuntime(TOKENIZER, range(5, TOKENIZER.size))


def score(text: str) -> ScoreResult:
    """Score one text."""
    result: ScoreResult = answer(table_predictor(RUNTIME), ScoreQuery(text))
    return result


@pytest.mark.parametrize(
    "text", ["the cat", "我。", "a", "é", "the cat " * 100, "the\ncat\n", "\n"]
)
def test_score_is_the_sum_over_the_tokens_of_the_text(text: str) -> None:
    """The end is not counted; line ends are read and cost nothing, also in long texts."""
    expected, read = 0.0, [0, START]
    for token in TOKENIZER.encode(normalise(text)):
        (row,) = RUNTIME.score("next", np.array([read[-2:]], dtype=np.float32))
        expected += 0.0 if token == START else float(row[token])
        read.append(token)
    assert score(text).log_probability == pytest.approx(expected, rel=1e-6)


def test_bits_are_counted_by_normalised_characters() -> None:
    """A decomposed text costs as much as its composed form, in total and per character."""
    composed, decomposed = score("é"), score("e\u0301")
    assert composed == decomposed
    assert (composed.characters, composed.tokens) == (1, 2)
    assert composed.bits_per_character == pytest.approx(-composed.log_probability / math.log(2))
