"""Cuts and half-width copies of training lines, so that the network learns text as it is typed.

A cut divides a line before it is encoded, as a blank or a cursor divides a user's text.
"""

import random
import re
from collections.abc import Container

from model.text import HAN_CHARACTER, is_han, is_word_character

_FULL_WIDTH = re.compile("[，。！？：；（）]")
_HALF_WIDTH = str.maketrans("，！？：；（）", ",!?:;()")
# Characters of a gap in Chinese text, and their shares.
_HAN_SPANS = ((1, 2, 3, 4), (0.35, 0.45, 0.1, 0.1))
_ATTEMPTS = 4


def half_width(text: str, rng: random.Random) -> str | None:
    """Return a Chinese line with half-width punctuation, as many people type it.

    In half of the cases the full stop becomes half-width, too. None if nothing changes.
    """
    if _FULL_WIDTH.search(text) is None or HAN_CHARACTER.search(text) is None:
        return None
    changed = text.translate(_HALF_WIDTH)
    if rng.random() < 0.5:
        changed = changed.replace("。", ".")
    return changed if changed != text else None


def choose_cuts(text: str, tokens: Container[str], rng: random.Random) -> tuple[int, ...]:
    """Choose where a user's blank or cursor would divide a line.

    In 70 % of cases there are two cuts: around a Chinese span of 1 to 4 characters, preferably one
    of the surfaces in *tokens*, or around one to three words and the space after them. Else there
    is one: next to a Chinese character, at the start of a word, or sometimes inside a word.
    Return code-point positions, ascending. A line of fewer than 4 characters has no cut.
    """
    if len(text) < 4:
        return ()
    return _two_cuts(text, tokens, rng) if rng.random() < 0.7 else _one_cut(text, rng)


def _two_cuts(text: str, tokens: Container[str], rng: random.Random) -> tuple[int, ...]:
    for attempt in range(1, _ATTEMPTS + 1):
        start = rng.randrange(len(text))
        if is_han(text[start]):
            end = start + rng.choices(*_HAN_SPANS)[0]
            if end <= len(text) and (attempt == _ATTEMPTS or text[start:end] in tokens):
                return start, end
        elif is_word_character(text[start]):
            words = rng.choices((1, 2, 3), (0.8, 0.15, 0.05))[0]
            return _words_around(text, start, words)
    return ()


def _words_around(text: str, position: int, words: int) -> tuple[int, int]:
    """Return the bounds of *words* words from *position* on, and the space after them."""
    start = position
    while start > 0 and is_word_character(text[start - 1]):
        start -= 1
    end = position
    for _ in range(words):
        if end == len(text) or not is_word_character(text[end]):
            break
        while end < len(text) and is_word_character(text[end]):
            end += 1
        if end == len(text) or text[end] != " ":
            break
        end += 1
    return start, end


def _one_cut(text: str, rng: random.Random) -> tuple[int, ...]:
    for _ in range(_ATTEMPTS):
        cut = rng.randrange(1, len(text))
        next_to_han = is_han(text[cut]) or is_han(text[cut - 1])
        inside_word = is_word_character(text[cut]) and is_word_character(text[cut - 1])
        word_start = is_word_character(text[cut]) and not inside_word
        if next_to_han or word_start or (inside_word and rng.random() < 0.2):
            return (cut,)
    return ()
