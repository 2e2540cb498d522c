"""The vocabulary as the native search reads it."""

import codecs
import ctypes
from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.decoding.candidates import UNFITTING
from model.decoding.token_index import TokenIndex
from model.native import search as native
from model.native.library import BYTE, DOUBLE, INT64, RANK, address
from model.runtime import Int64Array
from model.text import is_han, is_word_character, normalise
from model.tokenizer import Tokenizer
from model.words import KnownWords


class NativeVocabulary:
    """Arrays of a vocabulary; they live as long as this.

    *is_word* and *word_end_probs* are by token.

    Attributes:
        address: of the structure.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        index: TokenIndex,
        words: KnownWords,
        is_word: Sequence[bool],
        word_end_probs: Sequence[float],
    ) -> None:
        text = np.frombuffer("".join(tokenizer.surfaces).encode("utf-32-le"), dtype=RANK)
        different, places = np.unique(text, return_inverse=True)
        marked = np.array([marked_character(chr(each)) for each in different.tolist()], dtype=RANK)
        spelled = np.frombuffer(b"".join(index.spellings), dtype=BYTE)
        masks = tokenizer.starts_letter, index.is_byte, is_word
        self._arrays: list[tuple[NDArray[Any], np.dtype[Any]]] = [
            (spelled, BYTE),
            (_places(index.spellings), INT64),
            (marked[places] if len(text) else text, RANK),
            (_places(tokenizer.surfaces), INT64),
            (index.tokens, INT64),
            *((np.array(mask, dtype=BYTE), BYTE) for mask in masks),
            (np.array(word_end_probs, dtype=DOUBLE), DOUBLE),
            (words.hashes, native.HASH),
        ]
        self._native = native.Vocabulary(
            *(address(array, kind) for array, kind in self._arrays),
            *(tokenizer.size, len(index.tokens), len(words)),
        )
        self.address = ctypes.addressof(self._native)


def marked_character(character: str) -> int:
    """Return the code point of a character, with bits for its kind."""
    is_letter, is_alnum, is_space = (
        is_word_character(character),
        character.isalnum(),
        character == " ",
    )
    is_mark = not (is_letter or is_alnum or is_space or character in UNFITTING)
    return (
        ord(character)
        + native.SPACE * is_space
        + native.LETTER * is_letter
        + native.DIGIT * character.isdigit()
        + native.ALNUM * is_alnum
        + native.MARK * is_mark
    )


@lru_cache(maxsize=1 << 12)
def spelled_character(data: bytes) -> int:
    """Return the marked character that *data* spells: 0 if it has not ended, -1 for invalid bytes.

    Nor is there one that no text in normal form has, such as a full-width digit or an odd space.
    """
    try:
        character = codecs.getincrementaldecoder("utf-8")().decode(data)
    except UnicodeDecodeError:
        return -1
    if not character:
        return 0
    is_normal = is_han(character) or normalise(character) == character
    return marked_character(character) if is_normal else -1


def _places(parts: Sequence[bytes] | Sequence[str]) -> Int64Array:
    return np.array([0, *accumulate(map(len, parts))], dtype=INT64)
