"""Best tokens of a row, checked against numpy."""

import numpy as np
import pytest

from model.native.rows import best_tokens


@pytest.mark.parametrize("size", [1, 100, 256, 300, 5000])
@pytest.mark.parametrize("count", [1, 14, 300])
def test_the_best_tokens_are_those_of_a_stable_sort(size: int, count: int) -> None:
    """Equal scores are in the order of their tokens, and impossible ones are left out."""
    generator = np.random.default_rng(size + count)
    for digits in (0, 1, 9):
        row = generator.normal(-12, 3, size).astype(np.float32).round(digits)
        row[generator.random(size) < 0.2] = -np.inf
        expected = (-row).argsort(kind="stable")
        expected = expected[row[expected] > -np.inf][:count]
        assert best_tokens(row, count).tolist() == expected.tolist()
