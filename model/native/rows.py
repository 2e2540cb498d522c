"""Best tokens of a row of scores, (V,); see rows.cpp."""

import numpy as np

from model.native.library import FLOAT, INT64, address, counts_library
from model.runtime import Float32Array, Int64Array


def best_tokens(row: Float32Array, count: int) -> Int64Array:
    """Return the *count* best tokens, falling, ties by token; none of minus infinity."""
    tokens = np.empty(2 * count, dtype=np.int64)
    found: int = counts_library().lacuna_row_best(
        address(row, FLOAT), len(row), count, address(tokens, INT64)
    )
    return tokens[:found]
