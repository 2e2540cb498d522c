"""Decide which continuations of a text are candidates, and which of them are complete.

A continuation is left out if it is wrong after any text:

- a closing mark whose opening mark is not open in the last line;
- directly after the mark that ends a sentence, any mark but an opening or closing one, unless the
  text repeats its marks (``!!``) or its last word has a period inside (``e.g.``);
- directly after the end of a sentence, anything else but small letters (``lacuna.org``);
- a space before a mark that follows its word directly;
- a word that ends in an apostrophe, unless it ends in ``s'`` or a quotation is open;
- an unknown Latin word: the network made it up from tokens.
"""

import re
import unicodedata
from collections.abc import Callable
from functools import lru_cache

from model.text import APOSTROPHES, LATIN_LETTER, is_east_asian, is_word_character
from model.words import KnownWords

# Characters of an unfinished word, and of the last line, that are read.
MAX_STEM, MAX_LINE = 64, 1_000

SENTENCE_ENDS = ".!?。！？"
_OPENING, _CLOSING = "([{“‘「『（【《〈〔", ")]}”’」』）】》〉〕"
_PAIRS = tuple(zip(_OPENING, _CLOSING, strict=True))
# Marks that do not fit after any word.
UNFITTING = '"' + _CLOSING
_FOLLOWS_WORD = SENTENCE_ENDS + ",;:…%，、；：％" + _CLOSING
_MARKS = re.compile(f"[\"'{re.escape(_OPENING + _CLOSING)}]")
_OPEN_APOSTROPHE = re.compile(r"(?<![^\s(\"“])'\w|‘")
_SMILEY = re.compile("[:;=]-?[()]$")
_PLURAL = re.compile(f"[^{APOSTROPHES}][sS].$")
_LOWER_CASE = re.compile("[a-z][.!?]")
_ABBREVIATION = re.compile(r"\w\.\w+\.$")


class CandidateRules:
    """The rules after one text, in normal form, whose unfinished word begins at *start*.

    Known words are those of *is_known*, and the writer's own by *is_own*.

    Attributes:
        stem: the unfinished word at the end of the text; empty if it ends in none.
        sentence_ended: the text ends in a mark that ends a sentence.
    """

    def __init__(
        self,
        text: str,
        start: int,
        is_known: Callable[[str], bool],
        is_own: Callable[[str], bool] = lambda _: False,
    ) -> None:
        self.stem = text[start:]
        self._is_known, self._is_own = is_known, is_own
        self._line = line = text[-MAX_LINE:].rpartition("\n")[2]
        self._end = line[-2:]
        self._marks: str | None = None  # what _open returned
        self.sentence_ended = (
            line[-1:] in SENTENCE_ENDS
            and line[-2:-1] not in SENTENCE_ENDS
            and not _ABBREVIATION.search(line[-MAX_STEM:])
        )

    @property
    def asks_marks(self) -> bool:
        """True if what precedes a mark, or an apostrophe at an end, decides about it."""
        return self._line == " " or _MARKS.search(self._line) is not None

    @property
    def _open(self) -> str:
        """The closing marks whose opening marks are open at the end of the line."""
        if self._marks is None:
            line, self._marks = self._line, ""
            if _MARKS.search(line):
                pairs = [last for first, last in _PAIRS if line.count(first) > line.count(last)]
                quote = '"' if line.count('"') % 2 else ""
                self._marks = (
                    "".join(pairs) + quote + ("’" if _OPEN_APOSTROPHE.search(line) else "")
                )
        return self._marks

    def allow(self, append: str) -> bool:
        """Return True if *append*, a word or the rest of one, may be a candidate."""
        body, word, end = append, self.stem + append, self._end
        if append[0] == " ":
            body = word = append.lstrip(" ")
            end = " "
        if body.isalpha() and not self.sentence_ended:  # most are plain words
            return self._is_known(word) or self._is_own(word)
        if not is_word_character(body[0]):
            return body.isalnum() or _marks_fit(body, end, self._open, self.sentence_ended)
        is_known = self._is_known(word) or self._is_own(word)
        if body[-1] in APOSTROPHES:
            return "’" in self._open or (is_known and _PLURAL.search(word) is not None)
        if self.sentence_ended and not body[0].islower() and _LOWER_CASE.match(end):
            return False
        return is_known

    def is_complete(self, append: str, spaced_share: float) -> bool:
        """Return True if a client may add a space after a candidate.

        Complete are words in Latin letters or without spaces between them, numbers, closing marks,
        the end of a sentence (a period after a digit is none) and Chinese marks that open nothing.
        Any other mark or word is complete if its spellings with a space after it have a share of
        its probability, *spaced_share*, of at least half.
        """
        last = append[-1]
        if "a" <= last <= "z":  # most are
            return True
        if last.isalnum() or last in APOSTROPHES:
            latin = last.isdecimal() or last == "'" or LATIN_LETTER.match(last) is not None
            return latin or not is_word_character(last)
        if last in _OPENING:
            return False
        if last in SENTENCE_ENDS and not (append == "." and self.stem[-1:].isdigit()):
            return True
        closes = last in _CLOSING or (last == '"' and last in self._open)
        return closes or is_east_asian(last) or spaced_share >= 0.5


def start_of_word(text: str) -> int:
    """Return where the unfinished word at the end of a text begins, at most `MAX_STEM` before."""
    start = len(text)
    first = max(0, start - MAX_STEM)
    while start > first and is_word_character(text[start - 1]):
        start -= 1
    return start


def is_known(words: KnownWords, word: str) -> bool:
    """Return True for one of *words*, and for a word without Latin letters."""
    return not LATIN_LETTER.search(word) or word in words


@lru_cache(maxsize=1 << 12)
def _marks_fit(body: str, end: str, closing: str, sentence_ended: bool) -> bool:
    """Return True if the marks *body* fit a text with this *end*, of one or two characters.

    *closing* marks may come. The end is a space if one precedes the marks.
    """
    first = body[0]
    if end == " ":
        if first in _FOLLOWS_WORD and not _SMILEY.match(body):
            return False
    elif (
        sentence_ended and unicodedata.category(first)[0] == "P" and first not in _OPENING + closing
    ):
        return False
    for number, mark in enumerate(body):
        before = end + body[:number]
        if mark == '"' and mark not in closing:  # it opens
            last = before[-1:]
            if not (last.isspace() or last in _OPENING or is_east_asian(last)):
                return False
        elif mark in _CLOSING and mark not in closing:
            opening = _OPENING[_CLOSING.index(mark)]
            if opening not in body[:number] and not _SMILEY.search(before + mark):
                return False
    return True
