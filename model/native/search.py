"""The structures and functions of the native search; see search.hpp and tree.hpp."""

import ctypes
from functools import cache
from typing import Self

import numpy as np

from model.native.library import load

_ADDRESS, _SIZE, _REAL = ctypes.c_void_p, ctypes.c_int64, ctypes.c_double
CONTEXT = 3  # tokens of the longest context, kContext
LONGEST = 512  # characters of a candidate that Python writes, kLongest
SPACE, LETTER, DIGIT, ALNUM, MARK = (1 << bit for bit in range(24, 29))  # of a character

AskWord = ctypes.CFUNCTYPE(_SIZE, _SIZE, _ADDRESS, _SIZE, _SIZE, _SIZE, _ADDRESS)
AskCharacter = ctypes.CFUNCTYPE(_SIZE, _ADDRESS, _SIZE)
HASH = np.dtype("u8")
SOURCE = np.dtype([("node", "i8"), ("token", "i8"), ("prob", "f8")])
FOUND = 8  # float64 of FoundView
SPELLING = np.dtype([("rest", "i8"), ("prob", "f8"), ("total", "f8"), ("node", "i8")])


class Vocabulary(ctypes.Structure):
    """See vocabulary.hpp."""

    _fields_ = [
        *((name, _ADDRESS) for name in ("spellings", "spelling_places", "surfaces")),
        *((name, _ADDRESS) for name in ("surface_places", "sorted", "starts_letter", "is_byte")),
        *((name, _ADDRESS) for name in ("is_word", "word_end_probs", "known_words")),
        *((name, _SIZE) for name in ("size", "sorted_count", "known_count")),
    ]


class CacheLM(ctypes.Structure):
    """See tree.hpp."""

    _fields_ = [
        *((name, _ADDRESS) for name in ("tokens", "background", "unique", "raises")),
        *((name, _SIZE) for name in ("count", "unique_count", "first_counted", "max_occurrences")),
        *((name, _REAL) for name in ("strength", "rarity", "discount", "other_background")),
    ]


class Node(ctypes.Structure):
    """See NodeView in tree.hpp."""

    _fields_ = [
        ("state", _ADDRESS),
        ("probs", _ADDRESS),
        ("kept", _REAL),
        ("context", ctypes.c_int32 * CONTEXT),
        ("context_size", ctypes.c_int32),
    ]


class SearchLimits(ctypes.Structure):
    """See search.hpp."""

    _fields_ = [
        *((name, _REAL) for name in ("spelling_share", "word_share", "word_floor")),
        *((name, _REAL) for name in ("branch_share", "high_cutoff")),
        *((name, _SIZE) for name in ("max_nodes", "max_mixed", "spelling_rows")),
        *((name, _SIZE) for name in ("spelling_rounds", "width", "word_rows", "word_rounds")),
        *((name, _SIZE) for name in ("branches", "top_tokens")),
    ]


class SearchText(ctypes.Structure):
    """See search.hpp."""

    _fields_ = [
        *((name, ctypes.c_char_p) for name in ("between", "canonical", "typed", "stem", "before")),
        *((name, _SIZE) for name in ("between_size", "canonical_size", "typed_size")),
        *((name, _SIZE) for name in ("stem_size", "before_size", "owner", "sentence_ended")),
        *((name, _SIZE) for name in ("is_plain", "asks_words", "asks_marks")),
        ("ask_word", AskWord),
        ("ask_character", AskCharacter),
    ]


class Mixture(ctypes.Structure):
    """See search.hpp."""

    _fields_ = [
        *((name, _ADDRESS) for name in ("counts", "weights", "languages")),
        *((name, _SIZE) for name in ("layers", "language_count", "class_count", "has_network")),
        *((name, _SIZE) for name in ("window_place", "window_size")),
    ]


class SearchView(ctypes.Structure):
    """See search.hpp."""

    _fields_ = [
        *((name, _REAL) for name in ("total", "cutoff")),
        *((name, _SIZE) for name in ("found", "nodes", "network_rows", "cached_tokens")),
        *((name, _SIZE) for name in ("left_over", "mixed")),
    ]


@cache
def search_library() -> ctypes.PyDLL:
    """Load the functions of the search; see :func:`model.native.library.load`."""
    some = _ADDRESS
    return load(
        ctypes.PyDLL,
        {
            "lacuna_hash_words": (None, [ctypes.c_char_p, _SIZE, some]),
            "lacuna_is_known": (_SIZE, [some, _SIZE, ctypes.c_char_p, _SIZE]),
            "lacuna_tree_new": (some, [_SIZE, _SIZE, some, some, _SIZE, some]),
            "lacuna_tree_free": (None, [some]),
            "lacuna_tree_bytes": (_SIZE, [some]),
            "lacuna_tree_root": (some, [some]),
            "lacuna_node_child": (some, [some, _SIZE]),
            "lacuna_node_add": (some, [some, some, _SIZE, some, some]),
            "lacuna_node_score": (None, [some, some, some]),
            "lacuna_cache_lm_mix": (_SIZE, [some, some, _SIZE, some, _SIZE, some, some]),
            "lacuna_cache_lm_followers": (_SIZE, [some, some, _SIZE, some, some, some]),
            "lacuna_search_new": (some, [some, some, some, some, some]),
            "lacuna_search_free": (None, [some]),
            "lacuna_search_advance": (_SIZE, [some]),
            "lacuna_search_rows": (None, [some, some, some]),
            "lacuna_search_put": (None, [some, some, some]),
            "lacuna_search_spellings": (_SIZE, [some, some]),
            "lacuna_search_read": (None, [some, some]),
            "lacuna_search_find_words": (None, [some, _REAL, _SIZE]),
            "lacuna_search_take_tail": (None, [some, _REAL, _SIZE]),
            "lacuna_search_found": (some, [some, some, _REAL, some, some]),
            "lacuna_search_origins": (None, [some, some, _SIZE, some, some]),
        },
    )


class _Owned(int):
    """The address of native memory that is freed with this number.

    The garbage collector calls ``__del__`` of all objects in a cycle and closes its generators, in
    any order, before it frees them. What a generator still needs must not go in a ``__del__`` that
    the collector calls, so it does not track these.
    """

    __slots__ = ()

    def __new__(cls, value: int) -> Self:
        owned = super().__new__(cls, value)
        ctypes.pythonapi.PyObject_GC_UnTrack(ctypes.py_object(owned))
        return owned


class OwnedTree(_Owned):
    """The address of a tree."""

    __slots__ = ()

    def __del__(self) -> None:
        search_library().lacuna_tree_free(self)


class OwnedSearch(_Owned):
    """The address of a search."""

    __slots__ = ()

    def __del__(self) -> None:
        search_library().lacuna_search_free(self)
