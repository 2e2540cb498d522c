"""Text whose lines were broken at a width, as in books of Project Gutenberg: join paragraphs."""

import re
from collections.abc import Iterator, Sequence
from itertools import pairwise

from training.data.cleaning import ENDS_SENTENCE

# Columns of a line; a wide (Chinese) character takes two.
_MIN_WIDTH, _MAX_WIDTH = 40, 100
# Of neighbouring lines in wrapped text, so many are full: the next word had no room. Fewer end a
# sentence.
_MIN_FULL, _MIN_FULL_SHARE, _MAX_ENDED_SHARE = 8, 0.6, 0.5
_SLACK = 4
_MAX_CHARACTERS = 10_000  # of a paragraph
_WIDE = re.compile("[\u2e80-\u9fff\uac00-\ud7af\uf900-\ufaff\ufe30-\ufe4f\uff00-\uff60]")
# A Chinese character with marks that may not begin a line, or a word
_FIRST_WORD = re.compile(r"[\u2e80-\u9fff][，。、；：？！”’）》」』…]*|\S+")


def wrapped_width(lines: Sequence[str]) -> int | None:
    """Return the width at which the lines of a text are broken; None if they are whole."""
    widths = sorted(_columns(line) for line in lines if line.strip())
    width = widths[int(len(widths) * 0.95)] if widths else 0
    if not _MIN_WIDTH <= width <= _MAX_WIDTH:
        return None
    pairs = [(a, b) for a, b in pairwise(lines) if a.strip() and b.strip() and not _is_deeper(b, a)]
    full = [a for a, b in pairs if _is_full(a, b, width)]
    ended = sum(bool(ENDS_SENTENCE.search(line)) for line in full)
    enough = len(full) >= max(_MIN_FULL, _MIN_FULL_SHARE * len(pairs))
    return width if enough and ended <= _MAX_ENDED_SHARE * len(full) else None


def join_paragraphs(lines: Iterator[str], width: int) -> Iterator[str]:
    """Join the lines of each paragraph.

    A paragraph ends before a blank or indented line, and after a line that had room for the next
    word.
    """
    paragraph, last = "", ""
    for line in lines:
        goes_on = line.strip() and not _is_deeper(line, last) and _is_full(last, line, width)
        if paragraph and (not goes_on or len(paragraph) > _MAX_CHARACTERS):
            yield paragraph
            paragraph = ""
        paragraph = join_lines(paragraph, line.strip())
        last = line
    if paragraph:
        yield paragraph


def join_lines(first: str, second: str) -> str:
    """Join two lines by a space; Chinese, and words at a hyphen, without one."""
    if not first or not second:
        return first or second
    glued = _WIDE.match(first[-1]) or _WIDE.match(second[0]) or first[-1] in "-—"
    return first + second if glued else f"{first} {second}"


def _columns(line: str) -> int:
    return len(line.rstrip()) + len(_WIDE.findall(line))


def _is_full(line: str, following: str, width: int) -> bool:
    """Return True if the next word had no room in a line, by columns or by Chinese characters."""
    word = _FIRST_WORD.search(following)
    columns, characters = _columns(line), len(line.rstrip())
    if columns + 1 + (_columns(word[0]) if word else 0) > width - _SLACK:
        return True
    return columns > characters >= width // 2


def _is_deeper(line: str, before: str) -> bool:
    """Return True if a line is indented more than the one before it."""
    return len(line) - len(line.lstrip()) > len(before) - len(before.lstrip())
