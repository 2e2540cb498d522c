"""Probabilities that words end, counted in prepared data."""

import numpy as np
import pytest

from tests.fakes import hand_tokenizer
from training.data.shards import NO_CUT, Shard
from training.word_end_probs import PRIOR, word_end_probs

TOKENIZER = hand_tokenizer(("the", "the ", "atre ", "re", ",", "到"))
THE, ATRE, RE, COMMA, HAN = map(TOKENIZER.surfaces.index, ("the", "atre ", "re", ",", "到"))


def probs(*lines: list[int], weight: float = 1.0, cut: int = NO_CUT) -> np.ndarray:
    """The probabilities of a source whose lines all have the same cut."""
    ids = np.array([token for line in lines for token in line], dtype=np.uint16)
    table = np.array([[len(line), cut, NO_CUT] for line in lines], dtype=np.uint32)
    return word_end_probs((Shard("s", "en", False, weight, ids, table, len(ids)),), TOKENIZER)


def test_no_letter_follows_a_word_end() -> None:
    """A comma, a Chinese character and the end of a line end a word; a letter does not."""
    found = probs([THE, ATRE, THE, COMMA], [THE, HAN], [THE], weight=100.0)
    assert found[THE] == pytest.approx(3 / 4, abs=0.01)
    assert (found.shape, found.dtype) == ((TOKENIZER.size,), np.float32)


def test_rare_tokens_are_near_the_average() -> None:
    """The fewer occurrences a token has, the nearer it is to all tokens that end in letters."""
    found = probs(*[[THE, COMMA]] * 30, *[[THE, ATRE]] * 70, [RE, COMMA])
    average = 31 / 101
    assert found[THE] == pytest.approx((30 + PRIOR * average) / (100 + PRIOR))
    assert found[RE] == pytest.approx((1 + PRIOR * average) / (1 + PRIOR))


def test_the_token_before_a_cut_is_not_counted() -> None:
    """Text encoded apart on both sides of a cut does not show how a word continues."""
    found = probs([THE, RE, COMMA], weight=1e6, cut=1)
    assert found[THE] == pytest.approx(1.0, abs=0.01)  # the prior alone, which RE makes
