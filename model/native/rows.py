"""Passes over a row of scores of all tokens, (V,); see rows.cpp."""

import numpy as np

from model.native.library import FLOAT, INT64, address, rows_library
from model.runtime import Float32Array, Int64Array

# Tokens that may be found in addition to twice as many as wanted.
_SPARE = 64


def best_tokens(row: Float32Array, count: int, above: float = -np.inf) -> Int64Array:
    """Return the *count* best tokens with scores above *above*, falling, ties by token."""
    tokens = np.empty(2 * count + _SPARE, dtype=np.int64)
    found: int = rows_library().lacuna_row_best(
        address(row, FLOAT), len(row), count, above, address(tokens, INT64)
    )
    return tokens[:found]


class Raises:
    """Factors 1 + *raises* (n,) of the probabilities of some *tokens*, (n,)."""

    def __init__(self, tokens: Int64Array, raises: Float32Array) -> None:
        self._arrays = tokens, raises, np.log1p(raises)
        floats = [address(each, FLOAT) for each in self._arrays[1:]]
        self._addresses = address(tokens, INT64), *floats

    def apply(self, row: Float32Array, kept: float) -> None:
        """Apply them in place to a row of logarithms, whose probabilities then sum to *kept*."""
        count = len(self._arrays[0])
        rows_library().lacuna_row_raise(
            address(row, FLOAT), len(row), count, *self._addresses, kept
        )
