"""How probable a text is."""

import math

import numpy as np
import pytest

from model.predictor import Predictor
from model.queries import ScoreQuery, ScoreResult
from model.text import normalise
from model.tokenizer import START
from tests.fakes import TableRuntime, fake_checkpoint, hand_tokenizer

TOKENIZER = hand_tokenizer(("the ", "cat ", "cat", "a", "。", "我"))
RUNTIME = TableRuntime(TOKENIZER, range(5, TOKENIZER.size))
PREDICTOR = Predictor(fake_checkpoint(TOKENIZER, RUNTIME.sizes), RUNTIME)


def score(text: str) -> ScoreResult:
    """Score one text."""
    (result,) = PREDICTOR.run([ScoreQuery(text)])
    assert isinstance(result, ScoreResult)
    return result


def by_hand(text: str) -> float:
    """Sum of the table's log-probabilities, one token at a time."""
    total, read = 0.0, [0, START]
    for token in TOKENIZER.encode(normalise(text)):
        (row,) = RUNTIME.score("next", np.array([read[-2:]], dtype=np.float32))
        total += 0.0 if token == START else float(row[token])
        read.append(token)
    return total


@pytest.mark.parametrize(
    "text", ["the cat", "我。", "a", "é", "the cat " * 100, "the\ncat\n", "\n"]
)
def test_score_is_the_sum_over_the_texts_own_tokens(text: str) -> None:
    """Nothing of the end is counted, line ends are read and cost nothing, long texts are no exception."""
    assert score(text).log_probability == pytest.approx(by_hand(text), rel=1e-6)


def test_bits_are_counted_by_code_points_of_form_c() -> None:
    """A decomposed text costs what its composed form does, in total and per character."""
    composed, decomposed = score("é"), score("e\u0301")
    assert composed == decomposed
    assert composed.characters == 1
    assert composed.tokens == 2
    assert composed.bits_per_character == pytest.approx(-composed.log_probability / math.log(2))


def test_probabilities_of_all_one_token_texts_sum_to_one() -> None:
    """The next head is normalised: single tokens share all there is."""
    row = RUNTIME.score("next", np.array([[0, START]], dtype=np.float32))[0]
    assert math.exp(score("我").log_probability) == pytest.approx(
        float(np.exp(row[TOKENIZER.surfaces.index("我")]))
    )
    assert float(np.exp(row).sum()) == pytest.approx(1)
