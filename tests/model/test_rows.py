"""Passes over a row of scores, checked against numpy."""

import numpy as np
import pytest

from model.native.rows import Raises, best_tokens


@pytest.mark.parametrize("size", [1, 100, 256, 300, 5000])
@pytest.mark.parametrize("count", [1, 14, 300])
@pytest.mark.parametrize("above", [-np.inf, -11.0])
def test_the_best_tokens_are_those_of_a_stable_sort(size: int, count: int, above: float) -> None:
    """Equal scores are in the order of their tokens, and impossible ones are left out."""
    generator = np.random.default_rng(size + count)
    for digits in (0, 1, 9):
        row = generator.normal(-12, 3, size).astype(np.float32).round(digits)
        row[generator.random(size) < 0.2] = -np.inf
        expected = (-row).argsort(kind="stable")
        expected = expected[row[expected] > above][:count]
        assert best_tokens(row, count, above).tolist() == expected.tolist()


def test_raised_probabilities_keep_their_sum() -> None:
    """All are scaled alike, but for the factors of some."""
    probs = np.random.default_rng(1).random(50).astype(np.float32)
    probs /= probs.sum()
    tokens, raises = np.array([3, 40]), np.array([2.0, 0.5], dtype=np.float32)
    expected = probs.copy()
    expected[tokens] *= 1 + raises
    row = np.log(probs)
    Raises(tokens, raises).apply(row, 0.75)
    np.testing.assert_allclose(np.exp(row), 0.75 * expected / expected.sum(), rtol=1e-5)
