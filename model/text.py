"""The only definitions of normal form, kinds of characters, and languages.

The model reads the normal form of a text (:func:`read_text`), and answers in the writing of the
text as sent (:meth:`NormalText.write`). Calibration knows two languages: ``zh`` for text written
without spaces, ``en`` for everything else.
"""

import re
import unicodedata
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Literal

from model.chinese import is_same_character, is_traditional, to_simplified, to_traditional

Language = Literal["zh", "en"]
LANGUAGES: tuple[str, ...] = ("zh", "en")

# The Chinese characters, as the inside of a regular expression's [...].
HAN = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af"
HAN_CHARACTER = re.compile(f"[{HAN}]")
_HAN_RUN = re.compile(f"[{HAN}]+")
LETTER = re.compile(r"[^\W\d_]")
LATIN_LETTER = re.compile(
    "[A-Za-z\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u024f\u1e00-\u1eff\uff21-\uff3a\uff41-\uff5a]"
)
APOSTROPHES = "'’"
_LETTERS = re.compile(r"(?:[^\W\d_]|['’])+")
_I = re.compile(r"(?<![^\W_])i(?![^\W_])")
_SENTENCE_START = re.compile(_I.pattern + r"|(?:^|[.!?][\"'”’)\]]*[ \n]|\n)[\"'“‘(\[]*[^\W\d_]")
# Scripts without spaces, in which a word may begin at any character: Chinese and kana.
_UNSPACED = re.compile(
    "[\u2e80-\u312f\u31a0-\u31ef\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9f"
    "\U0001b000-\U0001b16f\U00020000-\U000323af]"
)

# Insides of [...]. What disappears, in Unicode's basic plane and in all: control characters, soft
# hyphens, zero-width and bidirectional marks, fillers, variation selectors, tags, and the skin
# tones of emoji.
_UNSEEN_BASIC = (
    "\0-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f"
    "\u200b-\u200f\u202a-\u202e\u2060-\u206f\u20e3\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff9-\ufffc"
)
_UNSEEN = (
    _UNSEEN_BASIC
    + "\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U0001f3fb-\U0001f3ff\U000e0000-\U000e0fff"
)
_ODD_SPACE = "\t\xa0\u1680\u2000-\u200a\u202f\u205f\u3000"
_ODD_LINE_END = "\x0b-\r\x85\u2028\u2029"
_FULL_WIDTH = "\uff10-\uff19\uff21-\uff3a\uff41-\uff5a"  # letters and digits
# A run of spaces may hold unseen characters.
_REPLACED = re.compile(
    f"(?P<space>[{_ODD_SPACE}][ {_ODD_SPACE}{_UNSEEN}]*| [ {_ODD_SPACE}{_UNSEEN}]+)"
    f"|(?P<line_end>\\r\\n|[{_ODD_LINE_END}])|(?P<full_width>[{_FULL_WIDTH}])|[{_UNSEEN}]+"
)
# Pictures and flags, and a run of them with spaces.
_EMOJI_BASIC = (
    "\u2194-\u2199\u21a9\u21aa\u231a\u231b\u23e9-\u23fa\u25b6\u25c0\u25fb-\u25fe\u2600-\u2767\u2934\u2935"
    "\u2b05-\u2b07\u2b1b\u2b1c\u2b50\u2b55\u3297\u3299"
)
_EMOJI = _EMOJI_BASIC + "\U0001f000-\U0001faff"
_AN_EMOJI = re.compile(f"[{_EMOJI}]")
_EMOJI_RUN = re.compile(f" ?[{_EMOJI}][ {_EMOJI}]*")
# Whatever may be replaced, by a pattern that is fast: one range beyond the basic plane.
_ODD = re.compile(
    f"[{_UNSEEN_BASIC}{_ODD_SPACE}{_ODD_LINE_END}{_FULL_WIDTH}{_EMOJI_BASIC}\U0001bca0-\U000e0fff]"
)
_ODD_ASCII = re.compile("[\0-\t\x0b-\x1f\x7f]")
_ALPHANUMERIC = re.compile(f"[0-9A-Za-z{_FULL_WIDTH}]")
_TO_FULL_WIDTH = {code: code + 0xFEE0 for code in range(0x30, 0x7B) if chr(code).isalnum()}
_FROM_FULL_WIDTH = {wide: code for code, wide in _TO_FULL_WIDTH.items()}

# Most marks on one letter that are normalised. No language uses more (the limit of Unicode's
# stream-safe format, UAX 15), and the time to put n marks in order grows with n². A mark is a
# character whose decomposition begins with a combining class: U+0F73 has none, but stands for two
# marks.
MAX_MARKS = 30
# Characters at the end of a text among which its last visible one is.
_NEAR = 64


@dataclass(frozen=True)
class NormalText:
    """A text as sent, and its normal form *text*, which the model reads.

    The normal form is in form C. Unicode's spaces are single spaces, line ends are LF. Invisible
    characters and variants of emoji are gone, and spaces after a Chinese character at the end.
    Full-width letters and digits are ASCII, Traditional Chinese is Simplified.
    """

    sent: str
    text: str
    is_capitals: bool = False  # *text* is what was sent in capitals, in small letters

    @classmethod
    def of(cls, sent: str) -> "NormalText":
        """Return the normal form of *sent* with its capitals and emoji."""
        return cls(sent, normalise(sent))

    @cached_property
    def offsets(self) -> Sequence[int]:
        """The place in *sent* of each character of *text*, never falling, and ``len(sent)``."""
        return array("I", [*self._spans[0], len(self.sent)])

    def span(self, start: int, end: int) -> tuple[int, int]:
        """Return start and end in *sent* of *text* from *start* to *end*.

        Invisible characters around it are left out.
        """
        if start == end:
            return self.offsets[start], self.offsets[start]
        return self._spans[0][start], self._spans[1][end - 1]

    def as_sent(self, start: int) -> str:
        """Return *text* from *start* as it was sent, without invisible characters."""
        if self.sent == self.text:
            return self.text[start:]
        starts, ends = self._spans
        return "".join([self.sent[starts[n] : ends[n]] for n in range(start, len(self.text))])

    def read(self, word: str) -> str:
        """Return *word*, in normal form, as it is read in this text."""
        return _in_small_letters(word) if self.is_capitals else word

    def write(self, answer: str, end: int | None = None) -> str:
        """Return *answer*, which follows *text* up to *end*, in the writing of the text as sent."""
        if self.sent == self.text:
            return answer
        if self._is_traditional:
            answer = to_traditional(self.text[:end], answer)
        answer = self._dress(answer)
        return answer if end is not None else self._join(answer)

    def complete(self, covered: str, answer: str) -> str | None:
        """Return *answer*, the rest of a word that begins with *covered* at the end of *text*.

        It is in the writing of the text as sent; None if that has no such word. Two characters may
        be one in Simplified Chinese: 髮 does not begin 發現.
        """
        if not (covered and self._is_traditional):
            return self.write(answer)
        start = len(self.text) - len(covered)
        near = self.text[max(0, start - _NEAR) : start]
        written = to_traditional(near, covered + answer)
        if not all(map(is_same_character, self.as_sent(start), written)):
            return None
        return self._join(self._dress(written[len(covered) :]))

    def _dress(self, answer: str) -> str:
        if self.is_capitals:
            answer = "".join([c.upper() if len(c.upper()) == 1 else c for c in answer])
        return answer.translate(_TO_FULL_WIDTH) if self._is_full_width else answer

    def _join(self, answer: str) -> str:
        """Leave out a space that *sent* ends in, add one between emoji and word."""
        if self._last == "":
            return answer
        if answer[0] == " ":
            return answer[1:] if self._last == " " else answer
        return f" {answer}" if is_word_character(answer[0]) and self._last != " " else answer

    @cached_property
    def _last(self) -> str:
        """The last character of *sent* in normal form if it is a space or an emoji, else empty."""
        last = normalise(f"{self.sent[-_NEAR:]}.")[-2:-1]
        return last if last == " " or _AN_EMOJI.match(last) else ""

    @cached_property
    def _is_traditional(self) -> bool:
        return is_traditional(self.sent)

    @cached_property
    def _is_full_width(self) -> bool:
        """True if the last Latin letter or digit near the end of *sent* is full-width."""
        found = _ALPHANUMERIC.findall(self.sent, max(0, len(self.sent) - _NEAR))
        return bool(found) and not found[-1].isascii()

    @cached_property
    def _spans(self) -> tuple[Sequence[int], Sequence[int]]:
        """Start and end in *sent* of each character of *text*, as arrays, which are small."""
        sent = self.sent
        if not _is_odd(sent) and _compose(sent) == sent:
            return range(len(self.text)), range(1, len(self.text) + 1)
        spans = [(place, place + 1) for place in range(len(sent))]
        text, spans = _replaced(_REPLACED, _replacement, sent, spans)
        text, spans = _composed(text, spans)
        if not _AN_EMOJI.search(self.text):
            text, spans = _replaced(_EMOJI_RUN, _sentence_end, text, spans)
        spans = spans[: len(self.text)]
        return array("I", [start for start, _ in spans]), array("I", [end for _, end in spans])


def read_text(sent: str) -> NormalText:
    """Bring a text into normal form, and remember it as it was sent.

    Emoji after a word are read as the end of its sentence, others not at all. A text in capitals is
    read in small letters. It has no small letter, and two words of two letters or more, or one of
    five: ``NASA``, ``OK`` and ``A TV`` stay as they are.
    """
    odd = _is_odd(sent)
    text = _normalise(sent, odd)
    if odd and _AN_EMOJI.search(text):
        text = _EMOJI_RUN.sub(_sentence_end, text)
    if text.isupper() and (text.isascii() or not _UNSPACED.search(text)):
        words = [len(word) for word in _LETTERS.findall(text)]
        longest = max(words, default=0)  # Ⓐ is a capital, but no letter
        if sum(length > 1 for length in words) + text.startswith("I ") > 1 or longest > 4:
            return NormalText(sent, _in_small_letters(text, sentences=True), is_capitals=True)
    return NormalText(sent, text)


def normalise(text: str) -> str:
    """Return the normal form of *text*, the only form in which tokens are counted.

    A letter with more than ``MAX_MARKS`` marks stays as it is, and so do its marks.
    """
    return _normalise(text, _is_odd(text))


def _normalise(text: str, odd: bool) -> str:
    if odd:
        text = _REPLACED.sub(_replacement, text)
    if text.isascii():
        return text
    text = to_simplified(_compose(text))
    bare = text.rstrip(" ")
    return bare if bare and is_east_asian(bare[-1]) else text


def _replacement(match: re.Match[str]) -> str:
    if match.lastgroup == "full_width":
        return chr(_FROM_FULL_WIDTH[ord(match[0])])
    return {"space": " ", "line_end": "\n"}.get(match.lastgroup or "", "")


def _in_small_letters(text: str, *, sentences: bool = False) -> str:
    """Return *text* in small letters, but ``I`` and, with *sentences*, their first letters."""
    small = "".join([c.lower() if len(c.lower()) == 1 else c for c in text])
    return (_SENTENCE_START if sentences else _I).sub(_capital, small)


def _capital(match: re.Match[str]) -> str:
    """Return the match in capitals, if they are as many: ß has two."""
    capital = match[0].upper()
    return capital if len(capital) == len(match[0]) else match[0]


def _sentence_end(emoji: re.Match[str]) -> str:
    """Return the reading of a run of emoji."""
    text, start, end = emoji.string, *emoji.span()
    before, after = text[max(0, start - 1) : start], text[end : end + 1]
    if before in "\n" or (after and after not in "\"'“‘" and _is_closing(after)):
        return ""
    if is_east_asian(before):
        return "。" if is_han(before) else ""
    mark = "." if is_word_character(before) else ""
    return mark if after == "\n" else f"{mark} "


def _is_closing(character: str) -> bool:
    return unicodedata.category(character) in ("Pe", "Pf", "Po")


def _is_odd(text: str) -> bool:
    """Return False if nothing in *text* is replaced one by one or by runs."""
    odd = _ODD_ASCII if text.isascii() else _ODD
    return odd.search(text) is not None or "  " in text


def _compose(text: str) -> str:
    """Return *text* in form C, but for letters with more than ``MAX_MARKS`` marks."""
    if len(text) <= MAX_MARKS:
        return unicodedata.normalize("NFC", text)
    parts, end = [], 0
    for start, stop in _long_runs(text):
        letter = max(end, start - 1)
        parts += [unicodedata.normalize("NFC", text[end:letter]), text[letter:stop]]
        end = stop
    return "".join([*parts, unicodedata.normalize("NFC", text[end:])])


def _replaced(
    pattern: re.Pattern[str],
    replacement: Callable[[re.Match[str]], str],
    text: str,
    spans: list[tuple[int, int]],
) -> tuple[str, list[tuple[int, int]]]:
    """Replace each match of *pattern*; return the text and the span of each character."""
    parts: list[str] = []
    found: list[tuple[int, int]] = []
    position = 0
    for match in pattern.finditer(text):
        start, end = match.span()
        part = replacement(match)
        parts += [text[position:start], part]
        found += spans[position:start]
        found += [(spans[start][0], spans[end - 1][1])] * len(part)
        position = end
    return "".join([*parts, text[position:]]), found + spans[position:]


def _composed(text: str, spans: list[tuple[int, int]]) -> tuple[str, list[tuple[int, int]]]:
    """Return text in form C, and the span of each character, given those of *text*."""
    whole = _compose(text)
    if whole == text:
        return text, spans
    parts: list[str] = []
    found: list[tuple[int, int]] = []
    marks, start = _marks(), 0
    for end in range(1, len(text) + 1):
        next_ = text[end : end + 1]
        if next_ in marks:
            continue
        part = _compose(text[start:end])
        # Form C joins later Korean letters and some vowel signs to the left, too.
        may_join = unicodedata.category(next_ or " ")[0] == "M" or "\u1160" <= next_ <= "\u11ff"
        if may_join and _compose(text[start : end + 1]) != part + _compose(next_):
            continue
        parts.append(part)
        joined = end - start - len(part)
        if joined == 0:
            found += spans[start:end]
        elif joined > 0:  # marks that were joined belong to the first character
            found.append((spans[start][0], spans[start + joined][1]))
            found += spans[start + joined + 1 : end]
        else:
            found += [*spans[start:end], *[spans[end - 1]] * -joined]
        start = end
    if "".join(parts) != whole:  # a newer Unicode composes more letters
        found = [spans[min(index, len(text) - 1)] for index in range(len(whole))]
    return whole, found


@lru_cache(maxsize=1 << 16)
def is_word_character(character: str) -> bool:
    """Return True for a letter, digit, mark, apostrophe or underscore of a script with spaces.

    Chinese characters and kana do not count: each may be a whole word.
    """
    if character in APOSTROPHES or character == "_":
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
    han = 0 if text.isascii() else sum(map(len, _HAN_RUN.findall(text)))
    # Most texts are decided before their letters are counted.
    return "zh" if han and (4 * han >= len(text) or 4 * han >= len(LETTER.findall(text))) else "en"


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
