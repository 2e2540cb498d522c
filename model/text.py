"""The only definitions of normal form, kinds of characters, and languages.

The model reads text in Unicode normalisation form C. Calibration knows two languages:
``zh`` for text written without spaces, ``en`` for everything else.
"""

import re
import unicodedata
from collections.abc import Iterator
from functools import lru_cache
from typing import Literal

Language = Literal["zh", "en"]
LANGUAGES: tuple[str, ...] = ("zh", "en")

# The Chinese characters, as the inside of a regular expression's [...].
HAN = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af"
HAN_CHARACTER = re.compile(f"[{HAN}]")
LETTER = re.compile(r"[^\W\d_]")
# Scripts without spaces, in which a word may begin at any character: Chinese and kana.
_UNSPACED = re.compile(
    "[\u2e80-\u312f\u31a0-\u31ef\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9f"
    "\U0001b000-\U0001b16f\U00020000-\U000323af]"
)

# Most marks on one letter that are normalised. No language uses more (the limit of Unicode's
# stream-safe format, UAX 15), and the time to put n marks in order grows with n². A mark is a
# character whose decomposition begins with a combining class: U+0F73 has none, but stands for two
# marks.
MAX_MARKS = 30


def normalise(text: str) -> str:
    """Return *text* in Unicode normalisation form C, the only form in which tokens are counted.

    A letter with more than ``MAX_MARKS`` marks stays as it is, and so do its marks.
    """
    parts, end = [], 0
    for start, stop in _long_runs(text):
        letter = max(end, start - 1)
        parts += [unicodedata.normalize("NFC", text[end:letter]), text[letter:stop]]
        end = stop
    return "".join([*parts, unicodedata.normalize("NFC", text[end:])])


def normalise_with_offsets(text: str) -> tuple[str, list[int]]:
    """Return the normalised text, and the place of each of its characters in the original.

    The places never decrease. They are code-point offsets, and one more follows: ``len(text)``.
    """
    whole = normalise(text)
    if whole == text:
        return text, list(range(len(text) + 1))
    parts: list[str] = []
    offsets: list[int] = []
    start = 0
    for end in range(1, len(text) + 1):
        next_ = text[end : end + 1]
        if unicodedata.category(next_ or " ")[0] == "M" or "\u1160" <= next_ <= "\u11ff":
            continue  # form C joins marks and later Korean letters to the left
        part = normalise(text[start:end])
        parts.append(part)
        offsets.extend(min(start + index, end - 1) for index in range(len(part)))
        start = end
    if "".join(parts) != whole:  # a newer Unicode composes more letters
        offsets = [min(index, len(text) - 1) for index in range(len(whole))]
    return whole, [*offsets, len(text)]


@lru_cache(maxsize=1 << 16)
def is_word_character(character: str) -> bool:
    """Return True for a letter, digit, mark, apostrophe or underscore of a script with spaces.

    Chinese characters and kana do not count: each may be a whole word.
    """
    if character in "'’_":
        return True
    return unicodedata.category(character)[0] in "LNM" and _UNSPACED.match(character) is None


def is_han(character: str) -> bool:
    """Return True for a Chinese character (CJK ideograph)."""
    return HAN_CHARACTER.match(character) is not None


@lru_cache(maxsize=1 << 14)
def is_east_asian(character: str) -> bool:
    """Return True for Chinese characters, kana and full-width punctuation: no spaces around them.

    Korean letters and emoji are wide, too (Unicode UAX 11), but do not count.
    """
    wide = unicodedata.east_asian_width(character) in "WF"
    return wide and not is_word_character(character) and unicodedata.category(character) != "So"


def language_at_end(text: str) -> Language:
    """Return ``zh`` if one of the last eight characters of *text* is East Asian, else ``en``."""
    return "zh" if any(map(is_east_asian, text.rstrip()[-8:])) else "en"


def language_of(text: str) -> Language:
    """Return ``zh`` if at least a quarter of the letters are Chinese characters, else ``en``."""
    letters = len(LETTER.findall(text))
    return "zh" if letters and 4 * len(HAN_CHARACTER.findall(text)) >= letters else "en"


def _long_runs(text: str) -> Iterator[tuple[int, int]]:
    """Yield start and end of each run of more than ``MAX_MARKS`` marks."""
    marks, end = _marks(), 0
    # Each such run has one of these places. A regular expression takes ten times as long.
    for place in range(MAX_MARKS, len(text), MAX_MARKS + 1):
        if place < end or text[place] not in marks:
            continue
        start, end = place, place + 1
        while start > 0 and text[start - 1] in marks:
            start -= 1
        while end < len(text) and text[end] in marks:
            end += 1
        if end - start > MAX_MARKS:
            yield start, end


@lru_cache(maxsize=1)
def _marks() -> frozenset[str]:
    every = map(chr, range(0x300, 0x20000))
    return frozenset(
        each for each in every if unicodedata.combining(unicodedata.normalize("NFD", each)[0])
    )
