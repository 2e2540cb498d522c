"""First tokens of a blank are weighed by how likely the right side is after them."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from model.config import Calibration
from model.decoding.span_search import RIGHT_WEIGHT
from model.mixture import Mixture, MixtureRuntime
from model.predictor import Predictor
from model.queries import ClozeQuery
from model.runtime import Float64Array
from tests.fakes import TYPING, TableRuntime, answer, table_predictor
from tests.model.test_mixture import GENERAL, OWN, RandomCounts

ONES, ZEROS = {"zh": 1.0, "en": 1.0}, {"zh": 0.0, "en": 0.0}
LIKELY = 16  # times as often
LEFT = tuple(TYPING.encode("I like "))


class Followed(RandomCounts):
    """Random rows; the right side is LIKELY after one token, but the rows do not say so."""

    address = 0  # no next words are searched

    def __init__(self, surface: str) -> None:
        super().__init__(TYPING.size)
        self.token = TYPING.surfaces.index(surface)
        self.asked: set[int] = set()

    def log_probs_of_next(
        self, context: Sequence[int], tokens: Sequence[int], following: Sequence[int]
    ) -> Float64Array:
        """Return the chosen log-probabilities, and note the right side."""
        assert tuple(context) == LEFT
        self.asked.update(following)
        low = len(following) * np.log(0.01)
        return np.array([low + (token == self.token) * np.log(LIKELY) for token in tokens])


def words_after(text: str, counts: Followed) -> dict[str, float]:
    """Probabilities of words for the blank, as they are proposed."""
    table = TableRuntime(TYPING)
    layers: Any = (counts,)
    calibration = Calibration(
        chain_weight=ZEROS, cloze_temperature=ONES, counts_weights=(GENERAL, OWN)
    )
    mixture = Mixture(layers, (GENERAL, OWN), TYPING)
    checkpoint = replace(table_predictor(table, calibration).checkpoint, counts=layers)
    predictor = Predictor(checkpoint, MixtureRuntime(table, mixture), use_cache_lm=False)
    found = answer(predictor, ClozeQuery(text, top_k=40)).blanks[0].candidates
    return {each.word: each.probability for each in found}


def test_a_word_rises_if_the_right_side_often_follows_it() -> None:
    """Its odds rise by the ratio to RIGHT_WEIGHT; two tokens of the right side count."""
    first, second = Followed("上学"), Followed("th")
    one, two = (
        words_after("I like ____ 迟到了。", first),
        words_after("I like ____ 迟到了。", second),
    )
    ratio = one["上学"] / one["th"] / (two["上学"] / two["th"])
    assert ratio == pytest.approx(LIKELY ** (2 * RIGHT_WEIGHT), rel=1e-3)
    assert first.asked == {TYPING.surfaces.index("迟到"), TYPING.surfaces.index("了")}


def test_nothing_rises_at_the_end_of_a_text() -> None:
    """Without a right side counts are not asked."""
    counts = Followed("了")
    words_after("I like ____", counts)
    assert not counts.asked
