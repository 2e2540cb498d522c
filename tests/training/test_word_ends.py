"""How often words end, counted in prepared data."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.fakes import hand_tokenizer
from training.data.shards import NO_CUT, Prepared, Shard
from training.word_ends import PRIOR, count_word_ends

TOKENIZER = hand_tokenizer(("the", "the ", "atre ", "re", ",", "到"))
THE, THE_END, ATRE, RE, COMMA, HAN = (
    TOKENIZER.surfaces.index(s) for s in ("the", "the ", "atre ", "re", ",", "到")
)


def prepared(*lines: list[int], weight: float = 1.0, cut: int = NO_CUT) -> Prepared:
    """Training lines, all with the same cut."""
    ids = np.array([token for line in lines for token in line], dtype=np.uint16)
    table = np.array([[len(line), cut, NO_CUT] for line in lines], dtype=np.uint32)
    shard = Shard("s", "en", False, weight, ids, table, len(ids))
    nothing: dict[str, Any] = {}
    return Prepared(Path("nowhere"), (shard,), (), TOKENIZER, "", nothing)


def test_share_of_occurrences_without_a_letter_after_them() -> None:
    """A comma, a Chinese character and the end of a line end a word; a letter does not."""
    shares = count_word_ends(
        prepared([THE, ATRE, THE, COMMA], [THE, HAN], [THE], weight=100.0), TOKENIZER
    )
    assert shares[THE] == pytest.approx(3 / 4, abs=0.01)
    assert shares.shape == (TOKENIZER.size,) and shares.dtype == np.float32


def test_rare_token_is_taken_for_an_average_one() -> None:
    """A token that was never seen has the share of all tokens that end in letters; one seen once is near it."""
    shares = count_word_ends(
        prepared(*[[THE, COMMA]] * 30, *[[THE, ATRE]] * 70, [RE, COMMA]), TOKENIZER
    )
    average = 31 / 101
    assert shares[THE] == pytest.approx((30 + PRIOR * average) / (100 + PRIOR))
    assert shares[RE] == pytest.approx((1 + PRIOR * average) / (1 + PRIOR))


def test_place_where_a_text_was_cut_is_not_counted() -> None:
    """What was encoded apart on both sides of a cut does not show how a word goes on."""
    shares = count_word_ends(prepared([THE, RE, COMMA], weight=1e6, cut=1), TOKENIZER)
    assert shares[THE] == pytest.approx(
        1.0, abs=0.01
    )  # nothing but the prior, which RE alone makes


def test_counting_in_stretches_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The end of a stretch of memory is no end of a line."""
    data = prepared([THE, ATRE, THE, COMMA, RE, THE], [THE, RE, THE], cut=2)
    whole = count_word_ends(data, TOKENIZER)
    for chunk in (1, 2, 4):
        monkeypatch.setattr("training.word_ends.CHUNK", chunk)
        assert (count_word_ends(data, TOKENIZER) == whole).all()
