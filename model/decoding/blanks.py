"""The blanks of a text, and the text around each of them as the network reads it.

A space is the end of the word before it, so the space after a blank belongs to the word that fills
the blank. Next to Chinese, spaces around a blank are layout and are not read.
docs/decisions/0003-space-after-a-blank.md has the table.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from model.errors import QueryError
from model.queries import Blank, ClozeQuery, ClozeResult, Filling, Usage, fit_choices, usual_blanks
from model.text import Language, NormalText, is_east_asian, language_at_end, normalise
from model.tokenizer import START

# Characters after a blank that show its language.
_NEAR = 8


@dataclass(frozen=True, slots=True)
class Slot:
    """One blank and the text up to the next."""

    start: int  # code points of the text as sent
    end: int
    spaced: bool  # a space follows, which belongs to the word that fills the blank
    known: bool  # something follows: text, another blank, or another line
    after: str  # text up to the next blank or the end, without that space
    line: str  # the part of it on the blank's line
    line_ends: bool  # the line ends after it; otherwise another blank follows
    language: Language  # zh if Chinese is near on either side

    def takes(self, span: str) -> bool:
        """Return True if *span*, with the space that it may end in, fits between left and right."""
        if not self.known or not (self.line or self.spaced):
            return True
        if not self.spaced:
            return not span.endswith(" ")
        return span.endswith(" ") or is_east_asian(span[-1])

    def spellings(self, word: str) -> list[str]:
        """Return the spans that put *word* here: with a space, without, or both if both fit."""
        if is_east_asian(word[-1]):
            return [word]
        return [span for span in (word, f"{word} ") if self.takes(span)]


@dataclass(frozen=True, slots=True)
class Layout:
    """A query with its blanks."""

    query: ClozeQuery
    before: str  # normalised text before the first blank
    slots: tuple[Slot, ...]
    choices: Sequence[dict[str, str]] | None  # of each blank: normalised to as sent; None if open

    def result(self, ranked: Sequence[Sequence[tuple[str, float]]], usage: Usage) -> ClozeResult:
        """Fill each blank with the first of its (word, probability); without any it stays."""
        text, shown = self.query.text, self.query.top_k if self.choices is None else None
        filled, position, blanks = "", 0, []
        sent = self.choices or [{}] * len(self.slots)
        for slot, words, names in zip(self.slots, ranked, sent, strict=True):
            filled += text[position : slot.start]
            filled += words[0][0] if words else text[slot.start : slot.end]
            position = slot.end
            fillings = [Filling(names.get(word, word), prob) for word, prob in words[:shown]]
            blanks.append(Blank(slot.start, slot.end, tuple(fillings)))
        return ClozeResult(filled + text[position:], tuple(blanks), usage)


def find_blanks(
    query: ClozeQuery, limit: int, choices: list[dict[str, str]] | None = None
) -> Layout:
    """Find the blanks of a query, at most *limit*, with lists of choices that are checked.

    Its marker is a blank, literally; without one, the :func:`usual_blanks` are.

    Raises:
        QueryError: there is no blank, there are too many, or the lists of choices do not fit them.
    """
    reading = NormalText(query.text, normalise(query.text))
    normalised, offsets = reading.text, reading.offsets
    marker = None if query.blank is None else normalise(query.blank)
    found = usual_blanks(normalised) if marker is None else _places(marker, normalised)
    if not found:
        usual = "two or more underscores, [MASK], <mask>, <blank> or {blank}"
        marks = usual if query.blank is None else "the marker in /blank"
        raise QueryError("/text", f"has no blank; mark each one with {marks}")
    if len(found) > limit:
        raise QueryError(
            "/text", f"has {len(found)} blanks; at most {limit} are filled, split the text"
        )
    before = left = _without_layout(normalised[: found[0][0]])
    slots = []
    for number, (start, end) in enumerate(found, 1):
        last = number == len(found)
        after = normalised[end : None if last else found[number][0]]
        known = not last or bool(after.strip())
        if is_east_asian(after.lstrip(" ")[:1] or " "):
            after = after.lstrip(" ")
        spaced = after.startswith(" ") and known
        after = after[1:] if spaced else after
        after = after if last else _without_layout(after)
        line, line_end, _ = after.partition("\n")
        line_ends = last or bool(line_end)
        line = line.rstrip() if line_ends else line
        near = language_at_end(left), language_at_end(after[:_NEAR])
        language: Language = "zh" if "zh" in near else "en"
        slots.append(
            Slot(offsets[start], offsets[end], spaced, known, after, line, line_ends, language)
        )
        left = after
    if choices is not None:
        choices = fit_choices(query, choices, len(slots))
    return Layout(query, before, tuple(slots), choices)


def count_blanks(query: ClozeQuery) -> int:
    """Return the number of blanks of a query; faster than to find them."""
    text = normalise(query.text)
    return len(usual_blanks(text)) if query.blank is None else text.count(normalise(query.blank))


def last_line(tokens: Sequence[int]) -> Sequence[int]:
    """Return the tokens after the last line end."""
    ends = [n for n, token in enumerate(tokens) if token == START]
    return tokens[ends[-1] + 1 :] if ends else tokens


def _places(marker: str, text: str) -> list[tuple[int, int]]:
    """Find *marker*, literally; a compiled pattern would stay in the cache of :mod:`re`."""
    found, start = [], text.find(marker)
    while start >= 0:
        end = start + len(marker)
        found.append((start, end))
        start = text.find(marker, end)
    return found


def _without_layout(text: str) -> str:
    """Drop the spaces at the end of a text in Chinese, which only set off the blank."""
    bare = text.rstrip(" ")
    return bare if bare and is_east_asian(bare[-1]) else text
