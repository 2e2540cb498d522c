"""Probabilities of typing errors: P(typed | meant) for many words at once.

An error is a letter that was hit instead of another, left out, added, or swapped with the next one.
Letters that were hit instead are mostly neighbours on the keyboard (QWERTY).
"""

import re
import unicodedata
from collections.abc import Sequence

import numpy as np

from model.runtime import Float64Array, Int64Array

# The probability of one certain error, of a letter.
NEIGHBOUR, OTHER, OMITTED, DOUBLED, ADDED, SWAPPED = 8e-3, 3e-4, 3e-3, 3e-3, 1e-3, 5e-3

_ROWS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
_ALPHABET = "abcdefghijklmnopqrstuvwxyz'"
_CODES = {letter: code for code, letter in enumerate(_ALPHABET)} | {"’": _ALPHABET.index("'")}
_UNKNOWN = len(_ALPHABET)  # of other letters, which nothing matches
_WORD = re.compile("[A-Za-z\u00c0-\u024f'’]+ ?")


def neighbours(letter: str) -> str:
    """Return the letters next to a small one on the keyboard."""
    for number, row in enumerate(_ROWS):
        if (place := row.find(letter)) >= 0:
            near = [row[max(0, place - 1) : place], row[place + 1 : place + 2]]
            near += [_ROWS[number - 1][place : place + 2]] if number else []
            if number + 1 < len(_ROWS):
                near.append(_ROWS[number + 1][max(0, place - 1) : place + 1])
            return "".join(near)
    return ""


def _substitutions() -> Float64Array:
    """Return P(typed letter | meant letter) of errors, (meant, typed)."""
    table = np.full((_UNKNOWN + 1, _UNKNOWN + 1), OTHER)
    for letter in _ALPHABET:
        for near in neighbours(letter):
            table[_CODES[letter], _CODES[near]] = NEIGHBOUR
    np.fill_diagonal(table, 0.0)
    return table


_SUBSTITUTIONS = _substitutions()


class Words:
    """Words of Latin letters, or parts of them, as codes.

    Attributes:
        places: of those of the given texts that are words, (n,); others are left out.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        places = [n for n, text in enumerate(texts) if _WORD.fullmatch(text)]
        spelled = [codes_of(texts[n].rstrip(" ")) for n in places]
        self.places: Int64Array = np.array(places, dtype=np.int64)
        self.lengths: Int64Array = np.array([len(each) for each in spelled], dtype=np.int64)
        self.codes = np.full((len(spelled), max(map(len, spelled), default=0)), _UNKNOWN)
        for row, each in zip(self.codes, spelled, strict=True):
            row[: len(each)] = each


def codes_of(word: str) -> list[int]:
    """Return the codes of the letters of a word; accents do not count."""
    plain = [unicodedata.normalize("NFD", letter)[0].lower() for letter in word]
    return [_CODES.get(letter, _UNKNOWN) for letter in plain]


class Typed:
    """Some typed letters, which the beginning of a word explains.

    A *table* has P(first j typed letters | letters so far) with k errors, (edits + 1, typed + 1).
    """

    def __init__(self, typed: str, edits: int) -> None:
        self._codes = np.array(codes_of(typed))
        self._edits, self._length = edits, len(typed)
        self.start: Float64Array = np.zeros((edits + 1, len(typed) + 1))
        self.start[0, 0] = 1.0
        self._add(self.start[:, None], np.full(1, _UNKNOWN))
        self._equal = np.arange(_UNKNOWN + 1)[:, None] == self._codes
        self._equal[_UNKNOWN] = False
        self._instead = _SUBSTITUTIONS[:, self._codes]

    def explain(
        self, table: Float64Array, codes: Int64Array, lengths: Int64Array
    ) -> tuple[Float64Array, Float64Array]:
        """Go on with words (n, letters); return P(typed | word) with errors (n,), and the tables.

        The typed letters may be only the beginning of the word.
        """
        count = len(lengths)
        now: Float64Array = np.repeat(table[:, None], count, axis=1)
        ends, before = now.copy(), np.zeros_like(now)
        for place in range(int(lengths.max(initial=0))):
            letter = codes[:, place]
            last = codes[:, place - 1] if place else np.full(count, _UNKNOWN)
            before, now = now, self._read(before, now, last, letter)
            live = lengths > place
            ends[:, live] = now[:, live]
        return ends[1:, :, -1].max(axis=0), ends

    def _read(
        self, before: Float64Array, now: Float64Array, last: Int64Array, letter: Int64Array
    ) -> Float64Array:
        """Return tables (edits + 1, n, typed + 1) after one more letter."""
        after = np.zeros_like(now)
        after[:, :, 1:] = now[:, :, :-1] * self._equal[letter]
        if self._edits:
            instead = now[:-1, :, :-1] * self._instead[letter]
            np.maximum(after[1:, :, 1:], instead, out=after[1:, :, 1:])
            np.maximum(after[1:], now[:-1] * OMITTED, out=after[1:])
            if self._length > 1:
                swapped = self._equal[letter][:, :-1] & self._equal[last][:, 1:]
                both = before[:-1, :, :-2] * (swapped * SWAPPED)
                np.maximum(after[1:, :, 2:], both, out=after[1:, :, 2:])
            self._add(after, letter)
        # The letters of a word that is not typed to its end are no errors.
        np.maximum(after[1:, :, -1], now[1:, :, -1], out=after[1:, :, -1])
        return after

    def _add(self, after: Float64Array, letter: Int64Array) -> None:
        """Let letters be typed that belong to no letter of the word."""
        doubled = self._codes == letter[:, None]
        added = np.where(doubled, DOUBLED, ADDED)
        for edits in range(1, self._edits + 1):
            more = after[edits - 1, :, :-1] * added
            np.maximum(after[edits, :, 1:], more, out=after[edits, :, 1:])
