"""The blanks of a text, and the text around each of them as the network reads it.

A space is the end of the word before it, so the space after a blank belongs to the word that fills
the blank. Next to Chinese, spaces around a blank are layout and are not read.
docs/decisions/0003-space-after-a-blank.md has the table.
"""

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate

from model.checks import ReadChoices, fit_choices
from model.decoding.markers import (
    completes_word,
    find_markers,
    read_left,
    read_right,
    with_brackets,
)
from model.errors import QueryError
from model.queries import (
    Blank,
    ClozeQuery,
    ClozeResult,
    Filling,
    JointFilling,
    Usage,
)
from model.text import Language, NormalText, is_east_asian, language_at_end, normalise, read_text
from model.tokenizer import START

# Characters right of a blank that show its language.
_RIGHT_CHARACTERS = 8
# What each marker is read as: neither a letter nor a space.
_MARK = "__"


@dataclass(frozen=True, slots=True)
class Slot:
    """One blank and the text up to the next."""

    start: int  # code points of the text as sent
    end: int
    left_end: int  # code points of the normal form before the blank and its brackets
    lacks: tuple[bool, bool]  # the text as sent lacks a space before the word, or after it
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
    reading: NormalText  # the text with the same mark for every blank
    before: str  # normalised text before the first blank
    slots: tuple[Slot, ...]
    choices: Sequence[ReadChoices] | None  # of each blank; None if open

    def fill(self, words: Sequence[str | None]) -> str:
        """Return the text as sent with a word in each blank, or the marker if there is none."""
        text, filled, position = self.query.text, "", 0
        for slot, word in zip(self.slots, words, strict=True):
            filled += text[position : slot.start]
            position = slot.end
            if word is None:
                filled += text[slot.start : slot.end]
                continue
            lacks_before, lacks_after = slot.lacks
            if lacks_before and not any(map(is_east_asian, (filled[-1:] or "。") + word[0])):
                filled += " "
            filled += word
            if lacks_after and not is_east_asian(word[-1]):
                filled += " "
        return filled + text[position:]

    def result(
        self,
        ranked: Sequence[Sequence[Filling]],
        usage: Usage,
        fillings: Sequence[tuple[Sequence[str | None], float]] = (),
    ) -> ClozeResult:
        """Show the words of each blank, best first, and fill the blanks.

        The first of the *fillings* of all blanks together is filled in; without any, the
        first word of each blank. A blank without a word stays.
        """
        written = [self._write(number, words) for number, words in enumerate(ranked)]
        shown = self.query.top_k if self.choices is None else None
        blanks = tuple(
            Blank(slot.start, slot.end, tuple(fillings[:shown]))
            for slot, fillings in zip(self.slots, written, strict=True)
        )
        first = [words[0].word if words else None for words in ranked]
        filled = self._join(fillings[0][0] if fillings else first, 1.0).filled
        joint = None
        if self.query.fillings > 1:
            joint = tuple(self._join(*each) for each in fillings[: self.query.fillings])
        return ClozeResult(filled, blanks, usage, joint)

    def _join(self, words: Sequence[str | None], prob: float) -> JointFilling:
        """Return a filling of all blanks as it is written."""
        written = [
            self._write(number, [Filling(word, prob)])[0].word if word else None
            for number, word in enumerate(words)
        ]
        sent = self.query.text
        shown = (
            word or sent[slot.start : slot.end]
            for slot, word in zip(self.slots, written, strict=True)
        )
        filled = self.fill([word and word.strip() for word in written])
        return JointFilling(filled, tuple(shown), prob)

    def _write(self, number: int, words: Sequence[Filling]) -> list[Filling]:
        """Return choices as sent, or words in the writing of the text: equal ones add up."""
        if self.choices is not None:
            given = [(sent, each) for each in words for sent in self.choices[number][each.word]]
            share = 1.0
            if len(given) > len(words):  # choices that are read alike are as probable as each other
                total = sum(each.probability for _, each in given)
                share = sum(each.probability for each in words) / (total or 1.0)
            return [Filling(sent, each.probability * share, each.origins) for sent, each in given]
        found: dict[str, Filling] = {}
        for each in words:
            word = self.reading.write(each.word, self.slots[number].left_end)
            before = found.get(word)
            prob = each.probability + (before.probability if before else 0.0)
            found[word] = Filling(word, prob, (before or each).origins)
        return sorted(found.values(), key=lambda each: -each.probability)


def find_blanks(query: ClozeQuery, limit: int, choices: list[ReadChoices] | None = None) -> Layout:
    """Find the blanks of a query, at most *limit*, with lists of choices that are checked.

    Its marker is a blank, literally; without one, the usual ones of :func:`find_markers` are.

    Raises:
        QueryError: there is no blank, there are too many, or the lists of choices do not fit them.
    """
    sent = _find_sent(query)
    if not sent:
        usual = "two or more underscores, [MASK], <mask>, <blank> or {blank}"
        marks = usual if query.blank is None else "the marker in /blank"
        raise QueryError("/text", f"has no blank; mark each one with {marks}")
    if len(sent) > limit:
        raise QueryError(
            "/text", f"has {len(sent)} blanks; at most {limit} are filled, split the text"
        )
    reading, places = _read_marked(query.text, sent)
    if choices is not None:
        choices = fit_choices(query, _read_choices(reading, choices), len(sent))
    before, slots = _read_slots(reading.text, places, sent, choices)
    return Layout(query, reading, before, slots, choices)


def count_blanks(query: ClozeQuery) -> int:
    """Return the number of blanks of a query; faster than to find them."""
    marker = None if query.blank is None else normalise(query.blank)
    return len(find_markers(normalise(query.text), marker))


def last_line(tokens: Sequence[int]) -> Sequence[int]:
    """Return the tokens after the last line end."""
    ends = [n for n, token in enumerate(tokens) if token == START]
    return tokens[ends[-1] + 1 :] if ends else tokens


def _find_sent(query: ClozeQuery) -> list[tuple[int, int]]:
    """Return the places of the markers in the text as sent."""
    plain = NormalText.of(query.text)
    marker = None if query.blank is None else normalise(query.blank)
    found = find_markers(plain.text, marker)
    return found if plain.text == plain.sent else [plain.span(*place) for place in found]


def _read_marked(
    text: str, sent: Sequence[tuple[int, int]]
) -> tuple[NormalText, list[tuple[int, int]]]:
    """Return the reading of a text with one mark for every blank, and the places of the marks.

    Letters of the markers say nothing about the writing of the text.
    """
    marked, marks, position = "", [], 0
    for start, end in sent:
        marked += text[position:start]
        marks.append(len(marked))
        marked += _MARK
        position = end
    reading = read_text(marked + text[position:])
    if reading.text != reading.sent:
        marks = [bisect_left(reading.offsets, mark) for mark in marks]
    return reading, [(mark, mark + len(_MARK)) for mark in marks]


def _read_choices(reading: NormalText, lists: list[ReadChoices]) -> list[ReadChoices]:
    """Return the lists of choices as they are read in a text."""
    if not reading.is_capitals:
        return lists
    read: list[ReadChoices] = []
    for words in lists:
        read.append({})
        for word, sent in words.items():
            word = reading.read(word)
            read[-1][word] = read[-1].get(word, ()) + sent
    return read


def _read_slots(
    text: str,
    places: Sequence[tuple[int, int]],
    sent: Sequence[tuple[int, int]],
    choices: Sequence[Iterable[str]] | None,
) -> tuple[str, tuple[Slot, ...]]:
    """Return the text before the first blank, and the slots, as they are read."""
    edges: list[tuple[int, int]] = []
    for place, limit in zip(places, [*(start for start, _ in places[1:]), len(text)], strict=True):
        edges.append(with_brackets(text, *place, edges[-1][1] if edges else 0, limit))
    starts, ends = zip(*edges, strict=True)
    gaps = [text[start:end] for start, end in zip((0, *ends), (*starts, len(text)), strict=True)]
    # The text next to each blank, beyond other blanks.
    lefts = list(accumulate(gaps[:-1], _nearest))
    rights = list(accumulate(reversed(gaps[1:]), _nearest))[::-1]
    bare = [edge == place for edge, place in zip(edges, places, strict=True)]
    joins = [completes_word(words) for words in choices] if choices else [False] * len(edges)
    before, lacks_before = read_left(gaps[0], rights[0], joins[0])
    slots, after = [], before
    for number, gap in enumerate(gaps[1:]):
        last = number + 1 == len(edges)
        known = not last or bool(gap.strip())
        near = language_at_end(lefts[number]), language_at_end(rights[number][:_RIGHT_CHARACTERS])
        language: Language = "zh" if "zh" in near else "en"
        lacks_after = lacks_next = False
        if gap.strip(" "):
            after, spaced, lacks_after = read_right(lefts[number], gap, joins[number])
        else:  # the next blank, or the end
            after, spaced = "", not last and language == "en"
            lacks_next = spaced and not gap and bare[number]
        if after and not last:
            after, lacks_next = read_left(after, rights[number + 1], joins[number + 1])
        line, line_end, _ = after.partition("\n")
        line_ends = last or bool(line_end)
        slots.append(
            Slot(
                *sent[number],
                left_end=starts[number],
                lacks=(lacks_before and bare[number], lacks_after and bare[number]),
                spaced=spaced and known,
                known=known,
                after=after,
                line=line.rstrip() if line_ends else line,
                line_ends=line_ends,
                language=language,
            )
        )
        lacks_before = lacks_next
    return before, tuple(slots)


def _nearest(nearest: str, gap: str) -> str:
    return gap if gap.strip(" ") else nearest
