"""Text whose lines were broken at a width, as in books of Project Gutenberg: join paragraphs."""

import re
from collections.abc import Iterator, Sequence
from itertools import pairwise

# Columns of a line; a wide (Chinese) character takes two.
_MIN_WIDTH, _MAX_WIDTH = 40, 100
_MIN_PAIRS = 8
# Of neighbouring lines in wrapped text, so many are full: the next word had no room. Fewer end a
# sentence.
_MIN_FULL_SHARE = 0.6
_MAX_ENDED_SHARE = 0.5
_SLACK = 4
_MAX_PARAGRAPH_CHARACTERS = 10_000
_WIDE = re.compile("[\u2e80-\u9fff\uac00-\ud7af\uf900-\ufaff\ufe30-\ufe4f\uff00-\uff60]")
# A Chinese character with marks that may not begin a line, or a word
_FIRST_WORD = re.compile(r"[\u2e80-\u9fff][，。、；：？！”’）》」』…]*|\S+")
_SENTENCE_END = re.compile(r"[.!?。！？…][\"'”’」』）)]*$")


def wrapped_width(lines: Sequence[str]) -> int | None:
    """Return the width at which the lines of a text are broken; None if they are whole."""
    widths = sorted(_columns(line) for line in lines if line.strip())
    if not widths:
        return None
    width = widths[int(len(widths) * 0.95)]
    pairs = [(a, b) for a, b in pairwise(lines) if a.strip() and b.strip() and not _is_deeper(b, a)]
    if not _MIN_WIDTH <= width <= _MAX_WIDTH or len(pairs) < _MIN_PAIRS:
        return None
    full = [(a, b) for a, b in pairs if _is_full(a, b, width)]
    ended = sum(bool(_SENTENCE_END.search(a.rstrip())) for a, _ in full)
    if len(full) < _MIN_FULL_SHARE * len(pairs) or ended > _MAX_ENDED_SHARE * len(full):
        return None
    return width


def join_paragraphs(lines: Iterator[str], width: int) -> Iterator[str]:
    """Join the lines of each paragraph.

    A paragraph ends before a blank or indented line, and after a line that had room for the next
    word.
    """
    paragraph, last = "", ""
    for line in lines:
        text = line.strip()
        if paragraph and (
            not text
            or _is_deeper(line, last)
            or not _is_full(last, line, width)
            or len(paragraph) > _MAX_PARAGRAPH_CHARACTERS
        ):
            yield paragraph
            paragraph = ""
        paragraph = join_lines(paragraph, text)
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
    columns = _columns(line)
    if columns + 1 + (_columns(word[0]) if word else 0) > width - _SLACK:
        return True
    characters = len(line.rstrip())
    return columns > characters and characters >= width // 2


def _is_deeper(line: str, before: str) -> bool:
    """Return True if a line is indented more than the one before it."""
    return len(line) - len(line.lstrip()) > len(before) - len(before.lstrip())
