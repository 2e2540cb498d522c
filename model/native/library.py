"""The library of ``model/native/*.cpp``, called by ctypes.

Functions take addresses of arrays that the caller keeps. Those of counts and rows take
microseconds, so they hold Python's lock; those of a network let other threads run.
"""

import ctypes
import zlib
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from model.errors import CheckpointError

LIBRARY = "liblacuna.so"
BYTE, INT8, TOKEN, RANK, INT32, INT64, FLOAT, DOUBLE = map(
    np.dtype, ("u1", "i1", "u2", "u4", "i4", "i8", "f4", "f8")
)
_Library = TypeVar("_Library", bound=ctypes.CDLL)
_ADDRESS, _SIZE = ctypes.c_void_p, ctypes.c_int64
_Functions = dict[str, tuple[Any, list[Any]]]
_COUNTS_FUNCTIONS: _Functions = {
    "lacuna_counts_mix": (None, [_ADDRESS, _SIZE, _ADDRESS, _ADDRESS, _SIZE, _ADDRESS]),
    "lacuna_counts_probs": (_SIZE, [_ADDRESS, _ADDRESS, _SIZE, _SIZE, _ADDRESS, _ADDRESS]),
    "lacuna_counts_log_probs_of_next": (
        None,
        [_ADDRESS, _ADDRESS, _SIZE, _SIZE, _ADDRESS, _SIZE, _ADDRESS, _ADDRESS],
    ),
    "lacuna_row_best": (_SIZE, [_ADDRESS, _SIZE, _SIZE, _ADDRESS]),
}
_NETWORK_FUNCTIONS: _Functions = {
    "lacuna_network_supported": (ctypes.c_int32, []),
    "lacuna_tower_bytes": (_SIZE, [_ADDRESS, _SIZE, _SIZE]),
    "lacuna_head_bytes": (_SIZE, [_ADDRESS, _SIZE]),
    "lacuna_run_tower": (ctypes.c_int32, [_ADDRESS, _SIZE, _SIZE, _SIZE, *[_ADDRESS] * 5]),
    "lacuna_score": (None, [_ADDRESS, _SIZE, _SIZE, *[_ADDRESS] * 4]),
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


class Matrix(ctypes.Structure):
    """See network.cpp."""

    _fields_ = [
        *((name, _ADDRESS) for name in ("weights", "corrections", "scales")),
        *((name, _SIZE) for name in ("inputs", "outputs")),
    ]


class Layer(ctypes.Structure):
    """See network.cpp."""

    _fields_ = [("input", Matrix), ("recurrent", Matrix), ("bias", _ADDRESS)]


class Tower(ctypes.Structure):
    """See network.cpp."""

    _fields_ = [("layers", _ADDRESS), ("layer_count", _SIZE)]


class Network(ctypes.Structure):
    """See network.cpp."""

    _fields_ = [
        ("towers", Tower * 2),
        ("embedding", Matrix),
        ("features", Matrix * 2),
        *((name, Matrix) for name in ("gap_left", "gap_right", "gap_output")),
        ("feature_biases", _ADDRESS * 2),
        *((name, _ADDRESS) for name in ("output_bias", "gap_bias", "first_gap_bias")),
        *((name, _ADDRESS) for name in ("unknown_right", "gap_output_bias")),
        *((name, _ADDRESS) for name in ("gap_positions", "gap_kinds")),
        *((name, _SIZE) for name in ("hidden_size", "embedding_size", "vocabulary_size")),
        ("position_count", _SIZE),
        *((name, _SIZE) for name in ("kind_count", "use_amx")),
    ]


class GapInputs(ctypes.Structure):
    """See network.cpp."""

    _fields_ = [(name, _ADDRESS) for name in ("backward", "right_known", "positions", "kinds")]


@cache
def counts_library() -> ctypes.PyDLL:
    """Load the functions of counts.cpp and rows.cpp; see :func:`load`."""
    return load(ctypes.PyDLL, _COUNTS_FUNCTIONS)


@cache
def network_library() -> ctypes.CDLL:
    """Load the functions of network.cpp; see :func:`load`."""
    return load(ctypes.CDLL, _NETWORK_FUNCTIONS)


def load(
    kind: type[_Library], functions: _Functions, folder: Path = Path(__file__).parent
) -> _Library:
    """Load functions of the library in a folder.

    Raises:
        CheckpointError: it is not built, not for this system, or from other sources than those
            next to it. It would then read arrays as what they are not.
    """
    path = folder / LIBRARY
    sources = b"".join(each.read_bytes() for each in sorted(folder.glob("*.?pp")))
    try:
        loaded = kind(str(path))
        built_from = loaded.lacuna_sources
        built_from.restype = ctypes.c_uint32
        if built_from() != zlib.crc32(sources):
            raise OSError("it is built from other sources")
        for name, (result, arguments) in functions.items():
            function = getattr(loaded, name)
            function.restype, function.argtypes = result, arguments
    except (AttributeError, OSError) as error:
        raise CheckpointError(
            f"{path} cannot be used: {error}; install Lacuna again"
            " (in its folder: .venv/bin/python -m pip install -e .)"
        ) from error
    return loaded


def address(array: NDArray[Any], kind: np.dtype[Any], size: int | None = None) -> int:
    """Return the address of an array's first item; the array must outlive its use.

    Raises:
        ValueError: it is not contiguous, its items are not of a *kind*, or it has not *size* items.
    """
    if size is not None and array.size != size:
        raise ValueError(f"an array of {array.size} items, not {size}")
    if not array.flags.c_contiguous or array.dtype != kind:
        raise ValueError(f"not a contiguous array of {kind}")
    try:  # a third of the time of the other way, which read-only and empty arrays need
        return ctypes.addressof(ctypes.c_char.from_buffer(array))  # type: ignore[arg-type]
    except (TypeError, ValueError):
        found: int = array.__array_interface__["data"][0]
        return found


def row_address(array: NDArray[Any], kind: np.dtype[Any], start: int, rows: int, width: int) -> int:
    """Return the address of row *start* of an array (N, *width*).

    Raises:
        ValueError: other items than those of *rows* rows would be read or written.
    """
    if array.ndim != 2 or array.shape[1] != width or len(array) < start + rows:
        raise ValueError(f"an array {array.shape} has no {rows} rows of {width} from {start} on")
    return address(array, kind) + start * array.strides[0]
