"""The library of ``model/native/*.cpp``, called by ctypes.

Functions take addresses of arrays that the caller keeps, and hold Python's lock while they run.
"""

import ctypes
from functools import cache
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from model.errors import CheckpointError

LIBRARY = "liblacuna.so"
_ADDRESS, _SIZE = ctypes.c_void_p, ctypes.c_int64
_FUNCTIONS = {
    "lacuna_counts_mix": (None, [_ADDRESS, _SIZE, _ADDRESS, _ADDRESS, _SIZE, _ADDRESS]),
    "lacuna_counts_probs": (_SIZE, [_ADDRESS, _ADDRESS, _SIZE, _SIZE, _ADDRESS, _ADDRESS]),
    "lacuna_counts_log_probs_of_next": (
        None,
        [_ADDRESS, _ADDRESS, _SIZE, _SIZE, _ADDRESS, _SIZE, _ADDRESS, _ADDRESS],
    ),
}


class Order(ctypes.Structure):
    """See counts.cpp."""

    _fields_ = [
        *((name, _ADDRESS) for name in ("flags", "before", "pages", "first", "backoffs")),
        *((name, _ADDRESS) for name in ("tokens", "shares", "totals")),
        *((name, _SIZE) for name in ("page_count", "contexts", "ngrams")),
    ]


class Counts(ctypes.Structure):
    """See counts.cpp."""

    _fields_ = [
        *((name, _ADDRESS) for name in ("orders", "unigram", "shares", "backoffs")),
        *((name, _SIZE) for name in ("order_count", "vocabulary_size")),
    ]


@cache
def load() -> ctypes.PyDLL:
    """Load the library.

    Raises:
        CheckpointError: it is not built, or not for this system.
    """
    path = Path(__file__).with_name(LIBRARY)
    try:
        loaded = ctypes.PyDLL(str(path))
    except OSError as error:
        raise CheckpointError(
            f"{path} cannot be loaded: {error}; install again: `make setup` or pip"
        ) from error
    for name, (result, arguments) in _FUNCTIONS.items():
        function = getattr(loaded, name)
        function.restype, function.argtypes = result, arguments
    return loaded


def address(array: NDArray[Any], kind: str) -> int:
    """Return the address of an array's first item; the array must outlive its use.

    Raises:
        ValueError: it is not contiguous, or its items are not of the *kind*, such as ``<f4``.
    """
    described = array.__array_interface__
    if described["strides"] is not None or described["typestr"] != kind:
        raise ValueError(f"not a contiguous array of {kind}")
    found: int = described["data"][0]
    return found
