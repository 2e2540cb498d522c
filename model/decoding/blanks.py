"""Where the blanks of a text are, and what stands around each of them as the network shall read it.

Spaces (docs/decisions/0003-space-after-a-blank.md): a space is the end of the word before it, so the one that follows a
blank belongs to what fills it. Around Chinese, spaces beside a blank are layout and are not read at all.
"""

import re
from dataclasses import dataclass

from model.errors import QueryError
from model.text import is_east_asian, normalise, normalise_with_offsets

_USUAL = re.compile(r"[_＿]{2,}|\[MASK\]|<mask>|<blank>|\{blank\}")


@dataclass(frozen=True, slots=True)
class Slot:
    """One blank and the text up to the next.

    Attributes:
        start: code point of the text as sent at which the blank begins.
        end: code point after it.
        spaced: a space follows, and belongs to what fills the blank.
        known: something follows the blank: text, another blank, or another line.
        after: text between this blank and the next one or the end, without that space.
        line: the part of *after* on the blank's own line.
        line_ends: the line ends after *line*; otherwise another blank follows.
    """

    start: int
    end: int
    spaced: bool
    known: bool
    after: str
    line: str
    line_ends: bool

    def takes(self, span: str) -> bool:
        """Whether *span*, with the space that it may end in, can stand here between what is left and right."""
        if not self.known or not (self.line or self.spaced):
            return True
        if not self.spaced:
            return not span.endswith(" ")
        return span.endswith(" ") or is_east_asian(span[-1])

    def spellings(self, word: str) -> list[str]:
        """The spans that put *word* here: with or without a space after it, or both where nothing tells."""
        if is_east_asian(word[-1]):
            return [word]
        return [span for span in (word, f"{word} ") if self.takes(span)]


@dataclass(frozen=True, slots=True)
class Layout:
    """A text with its blanks: normalised text before the first one, and the slots."""

    before: str
    slots: tuple[Slot, ...]


def find_blanks(text: str, marker: str | None, limit: int) -> Layout:
    """Find the blanks of a text.

    Args:
        text: as sent.
        marker: what stands for a blank, literally; None for the usual ones: two or more ``_`` or ``＿``, ``[MASK]``,
            ``<mask>``, ``<blank>``, ``{blank}``.
        limit: blanks that are allowed.

    Raises:
        QueryError: there is no blank, or there are too many.
    """
    normalised, offsets = normalise_with_offsets(text)
    pattern = _USUAL if marker is None else re.compile(re.escape(normalise(marker)))
    found = [match.span() for match in pattern.finditer(normalised)]
    if not found:
        wanted = (
            "two or more underscores, [MASK], <mask>, <blank> or {blank}"
            if marker is None
            else "the marker in /blank"
        )
        raise QueryError("/text", f"has no blank; mark each one with {wanted}")
    if len(found) > limit:
        raise QueryError(
            "/text", f"has {len(found)} blanks; at most {limit} are filled, split the text"
        )
    slots = []
    for number, (start, end) in enumerate(found):
        last = number + 1 == len(found)
        after = normalised[end : None if last else found[number + 1][0]]
        slots.append(_slot(offsets[start], offsets[end], after, last))
    return Layout(_before_blank(normalised[: found[0][0]]), tuple(slots))


def _slot(start: int, end: int, after: str, last: bool) -> Slot:
    known = not last or bool(after.strip())
    if is_east_asian(after.lstrip(" ")[:1] or " "):
        after = after.lstrip(" ")
    spaced = after.startswith(" ") and known
    if spaced:
        after = after[1:]
    if not last:
        after = _before_blank(after)
    line, line_end, _ = after.partition("\n")
    line_ends = last or bool(line_end)
    return Slot(start, end, spaced, known, after, line.rstrip() if line_ends else line, line_ends)


def _before_blank(text: str) -> str:
    """What is read before a blank: all of it, but for spaces that only set the blank off from Chinese."""
    bare = text.rstrip(" ")
    return bare if bare and is_east_asian(bare[-1]) else text
