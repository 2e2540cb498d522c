"""Markdown to paragraphs, by way of HTML: marks, link targets, formulas and code go."""

import re
from collections.abc import Iterable, Iterator
from itertools import chain, islice

from markdown_it import MarkdownIt

from training.data.file_report import FileReport
from training.data.html_text import read_html
from training.data.text_fields import physical_lines

_PIECE_CHARACTERS = 1 << 16  # parsed together
_FRONT_MATTER_LINES = 200
_FENCE = re.compile(r"[\s>]*(`{3,}|~{3,})")
_FORMULA = re.compile(
    r"\$\$.+?\$\$|\\\(.+?\\\)|\\\[.+?\\\]|\\begin\{(\w+\*?)\}.+?\\end\{\1\}"
    r"|(?<![\\$\w])\$(?=\S)[^$\n]*?[\\^_={}+<>][^$\n]*?(?<=\S)\$(?![\d$])",
    re.DOTALL,
)
# Marks that CommonMark does not know, such as notes and containers, and bare links
_MARK = re.compile(
    r"\[\^[^\]]+\]:?|^[ >]*(?::{3,}|!{3}).*$|\[!\w+\]|^\[toc\]$|\{\{.*?\}\}|\{[#.:%][^}\n]*\}"
    r"|<(?:https?|mailto|ftp):[^>\s]*>|(?<!\w):[a-z][a-z_]+:(?!\w)",
    re.IGNORECASE | re.MULTILINE,
)
_WIKI_LINK = re.compile(r"\[\[(?:[^\]|\n]*\|)?([^\]\n]*)\]\]")
_HEADING = re.compile(r"^(#{1,6})(?=[^#\s])", re.MULTILINE)  # without a space
# After parsing: emphasis next to Chinese punctuation, a link whose target is in another piece
_PAIR = re.compile(r"(\*\*|==)(?=\S)(.+?)\1|\[([^\]]+)\]\[[^\]]*\]|^\[[ xX]\]\s")


def read_markdown(text: Iterable[str], report: FileReport) -> Iterator[str]:
    """Read the paragraphs, items, headings and cells of Markdown that comes in chunks.

    Words in backquotes stay: they are part of a sentence.
    """
    parser = MarkdownIt("commonmark").enable(["table", "strikethrough"])
    for piece in _pieces(_without_front_matter(physical_lines(text, report.path), report)):
        plain = _WIKI_LINK.sub(r"\1", _HEADING.sub(r"\1 ", piece))
        for pattern, reason in ((_FORMULA, "formulas"), (_MARK, "markup")):
            plain, count = pattern.subn("", plain)
            if count:
                report.removed[reason] += count
        for line in read_html((parser.render(plain),), report):
            yield _PAIR.sub(r"\2\3", line)


def _without_front_matter(lines: Iterator[str], report: FileReport) -> Iterator[str]:
    head = list(islice(lines, _FRONT_MATTER_LINES))
    mark = head[0].strip() if head else ""
    if mark in ("---", "+++") and len(head) > 1 and re.match(r"\w[^:=]*[:=]|#|-", head[1]):
        ends = [place for place, line in enumerate(head) if place and line.strip() == mark]
        if ends:
            report.removed["front matter"] += 1
            del head[: ends[0] + 1]
    return chain(head, lines)


def _pieces(lines: Iterable[str]) -> Iterator[str]:
    """Yield parts of the text that end in a blank line, if possible outside of code."""
    piece: list[str] = []
    size, fence = 0, ""
    for line in lines:
        piece.append(line)
        size += len(line)
        if mark := _FENCE.match(line):
            fence = "" if mark[1].startswith(fence or "no") else fence or mark[1]
        if line.isspace() and size > (16 * _PIECE_CHARACTERS if fence else _PIECE_CHARACTERS):
            yield "".join(piece)
            piece, size, fence = [], 0, ""
    yield "".join(piece)
