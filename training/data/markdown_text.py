"""Markdown to paragraphs, without marks, link targets, tables' lines, formulas and code."""

import html
import re
from collections.abc import Iterable, Iterator
from itertools import chain, islice

from model.text import LETTER
from training.data.file_report import FileReport
from training.data.html_text import is_prose, one_line
from training.data.text_fields import physical_lines

_FRONT_MATTER_LINES = 200
_BLOCK_LINES = 200  # of an indented block that are examined together
_PARAGRAPH_LINES = 1000  # a longer one is divided

# Blocks without text: begin, end and reason. A block that ends on its first line is left to
# _REMOVED.
_FENCE = re.compile(r"(?:[-*+] +|\d+[.)] +)?(`{3,}|~{3,})[^`]*$")
_BLOCKS = (
    (re.compile(r"<!--(?!.*-->)"), re.compile("-->"), "comments"),
    (re.compile(r"\$\$(?!.*\$\$)"), re.compile(r"\$\$"), "formulas"),
    (re.compile(r"\\\[(?!.*\\\])"), re.compile(r"\\\]"), "formulas"),
    (re.compile(r"\\begin\{\w+\*?\}(?!.*\\end)"), re.compile(r"\\end\{"), "formulas"),
    *(
        (re.compile(rf"<{tag}\b(?!.*</{tag}>)", re.I), re.compile(f"</{tag}>", re.I), "code")
        for tag in ("script", "style", "pre", "svg")
    ),
)
_QUOTE = re.compile(r"^ {0,3}(?:> ?)+")
_INDENT = re.compile(r" {4}|\t")
_HEADING = re.compile(r" {0,3}#{1,6}(?!#)\s*(.*?)(?:\s+#+)?\s*$")
_ITEM = re.compile(r"\s*(?:[-*+•]|(\d{1,9})[.)])\s+(?:\[[ xX]\]\s+)?")
_NOTE = re.compile(r"\[\^[^\]]+\]:\s*|:\s+")
# A line under a heading or between sections
_RULE = re.compile(r" {0,3}(?:=+|-+|([*_-])(?:\s*\1){2,})\s*$")
_TABLE_RULE = re.compile(r"\s*(?=.*\|)\|?(?:\s*:?-+:?\s*\|?)+\s*$")
_CELL_END = re.compile(r"(?<!\\)\|")
_LINK_TARGET = re.compile(r" {0,3}\[[^\]^]+\]:\s*\S+")
# Marks of dialects: containers, contents, templates, imports
_MARK_LINE = re.compile(
    r"\s*(?::{3,}.*|[!?]{3}\+? .*|\[!\w+\]|\[\[?_?toc_?\]?\]|\{[%{].*[%}]\}"
    r"|(?:import|export) .*from ['\"].*)\s*$",
    re.IGNORECASE,
)
_CONTENTS = re.compile(r"[*_\s]*\[[^\[\]]*\]\(#[^()]*\)[*_\s]*")  # a link to a heading
_HARD_BREAK = re.compile(r"(?: {2,}|\\)$")

_SPECIAL = re.compile(r"[*_`\[<&$\\~={:]")
_BREAK = re.compile(r"<br\s*/?>", re.IGNORECASE)
_FORMULA = re.compile(r"(?<![\\$\w])\$(?=\S)([^$\n]{1,200}?)(?<=\S)\$(?![\d$])")
_FORMULA_SIGN = re.compile(r"[\\^_={}+<>]|^\S$")
_CODE = re.compile(r"(`+) ?(.+?) ?\1", re.DOTALL)
_ESCAPED = re.compile(r"\\([!-/:-@\[-`{-~])")
# Marks that are meant as they are, while others are removed
_PROTECTED = {mark: 0xF0000 + mark for mark in range(0x21, 0x7F) if not chr(mark).isalnum()}
_RESTORED = {safe: mark for mark, safe in _PROTECTED.items()}
# Pattern, replacement, reason that is counted; in this order
_REMOVED = (
    (re.compile(r"<!--.*?-->", re.DOTALL), "", "comments"),
    (re.compile(r"\$\$.+?\$\$|\\\(.+?\\\)|\\\[.+?\\\]", re.DOTALL), "", "formulas"),
    (re.compile(r"!\[[^\]]*\](?:\([^)]*\)|\[[^\]]*\])"), "", "images"),
    (re.compile(r"\[\^[^\]]+\]"), "", "footnote marks"),
    (re.compile(r"\{\{.*?\}\}|\s*\{[#.:%][^}]*\}"), "", "markup"),
    (re.compile(r"(?<!\w):[a-z][a-z_]+:(?!\w)"), "", "markup"),
)
_UNWRAPPED = (
    (re.compile(r"\[\[(?:[^\]|]*\|)?([^\]]*)\]\]"), r"\1", "link targets"),
    (
        re.compile(r"\[([^\[\]]*)\]\((?:[^()\s]|\([^()]*\))*(?:\s+[\"'(][^)]*)?\)"),
        r"\1",
        "link targets",
    ),
    (re.compile(r"\[([^\[\]]+)\]\[[^\]]*\]"), r"\1", "link targets"),
    (re.compile(r"<(?:https?:|mailto:|ftp:)[^>\s]*>|<\S+@\S+>"), "", "link targets"),
    (re.compile(r"</?(?!br\b)[A-Za-z][^<>]*>", re.IGNORECASE), "", "markup"),
    *[(re.compile(r"(\*{1,3}|~~|==)(?=\S)(.{1,2000}?)(?<=\S)\1", re.DOTALL), r"\2", "markup")] * 2,
    (re.compile(r"(?<!\w)(_{1,3})(?=\S)(.{1,2000}?)(?<=\S)\1(?!\w)", re.DOTALL), r"\2", "markup"),
)


def read_markdown(text: Iterable[str], report: FileReport) -> Iterator[str]:
    """Read the paragraphs, items, headings and cells of Markdown that comes in chunks.

    Removed parts are counted. Words in backquotes stay: they are part of a sentence.
    """
    lines = (line.rstrip("\n") for line in physical_lines(text, report.path))
    content = _without_indented_code(_without_blocks(lines, report), report)
    for paragraph in _paragraphs(content, report):
        if _CONTENTS.fullmatch(paragraph):
            report.removed["table of contents"] += 1
            continue
        plain = _without_marks(paragraph, report) if _SPECIAL.search(paragraph) else paragraph
        yield from filter(None, map(one_line, plain.split("\0")))


def _without_blocks(lines: Iterator[str], report: FileReport) -> Iterator[str]:
    """Yield the lines outside of front matter, code, formulas and comments, without quote marks."""
    end: re.Pattern[str] | None = None
    for line in _without_front_matter(lines, report):
        if end:
            if end.search(line):
                end = None
            continue
        text = _QUOTE.sub("", line, count=1)
        visible = text.lstrip()
        if fence := _FENCE.match(visible):
            end = re.compile(rf"^[\s>]*{fence[1]}{fence[1][0]}*\s*$")
            report.removed["code"] += 1
            yield ""
            continue
        for begin, block_end, reason in _BLOCKS if visible[:1] in "<$\\" else ():
            if begin.match(visible):
                end = block_end
                report.removed[reason] += 1
                break
        else:
            yield text


def _without_front_matter(lines: Iterator[str], report: FileReport) -> Iterator[str]:
    head = list(islice(lines, _FRONT_MATTER_LINES))
    mark = head[0].strip() if head else ""
    if mark in ("---", "+++") and len(head) > 1 and re.match(r"\w[^:=]*[:=]|#|-", head[1]):
        ends = [place for place, line in enumerate(head) if place and line.strip() == mark]
        if ends:
            report.removed["front matter"] += 1
            del head[: ends[0] + 1]
    return chain(head, lines)


def _without_indented_code(lines: Iterable[str], report: FileReport) -> Iterator[str]:
    """Leave out indented blocks, unless they belong to a list or are prose."""
    block: list[str] = []
    after_blank, in_list = True, False
    for line in lines:
        is_blank = not line.strip()
        if not is_blank and _INDENT.match(line) and (block or (after_blank and not in_list)):
            block.append(line.strip())
            if len(block) == _BLOCK_LINES:
                yield from _prose(block, report)
                block = []
            continue
        if block:
            yield from _prose(block, report)
            block = []
        if not is_blank:
            goes_on = in_list and (line[0] == " " or not after_blank)
            in_list = goes_on or bool(_ITEM.match(line) or _NOTE.match(line))
        after_blank = is_blank
        yield line
    if block:
        yield from _prose(block, report)


def _prose(block: list[str], report: FileReport) -> Iterator[str]:
    if is_prose("\n".join(block)):
        yield from block
    else:
        report.removed["code"] += 1
        yield ""


def _paragraphs(lines: Iterable[str], report: FileReport) -> Iterator[str]:
    """Yield paragraphs with their inline marks; wrapped lines are joined by line ends."""
    paragraph: list[str] = []
    in_list = in_table = False
    for line in chain(lines, ("",)):
        visible = line.strip()
        if (
            visible[:1].isalpha()
            and visible[0] not in "ie"
            and not in_table
            and line[-1] not in " \\"
        ):
            paragraph.append(visible)  # most lines
            if len(paragraph) < _PARAGRAPH_LINES:
                continue
            visible = ""
        begun, paragraph = paragraph, []  # unless this line goes on with them
        if _TABLE_RULE.match(line):
            in_table = True
            header = _cells(begun.pop()) if begun else ()
            yield from _whole(begun)
            yield from header
            report.removed["markup"] += 1
        elif visible[:1] == "|" or (in_table and "|" in visible):
            yield from _whole(begun)
            yield from _cells(visible)
        elif not visible or _RULE.match(line) or _MARK_LINE.match(line):
            yield from _whole(begun)
            in_list = in_table = False
            report.removed["markup"] += bool(visible)
        elif _LINK_TARGET.match(line):
            yield from _whole(begun)
            report.removed["link targets"] += 1
        elif heading := _HEADING.match(line):
            yield from _whole(begun)
            yield heading[1]
        else:
            item = _ITEM.match(line) or _NOTE.match(line)
            # A number within a paragraph is no item: a year at the start of a line.
            if item and (in_list or not begun or item.lastindex is None or item[1] == "1"):
                yield from _whole(begun)
                begun = []
                in_list = True
                line = line[item.end() :]
            paragraph = [*begun, line.strip()]
            if _HARD_BREAK.search(line):
                yield from _whole(paragraph)
                paragraph = []


def _whole(paragraph: list[str]) -> Iterator[str]:
    if paragraph:
        yield "\n".join(paragraph).rstrip("\\")


def _cells(row: str) -> Iterator[str]:
    return (cell.strip() for cell in _CELL_END.split(row.strip("|")) if LETTER.search(cell))


def _without_marks(text: str, report: FileReport) -> str:
    """Remove the marks within a paragraph; NUL divides it where it has a line break."""
    for pattern, replacement, reason in _REMOVED:
        text, count = pattern.subn(replacement, text)
        if count:
            report.removed[reason] += count
    text = _CODE.sub(lambda code: code[2].translate(_PROTECTED), text)
    text = _ESCAPED.sub(lambda escape: escape[1].translate(_PROTECTED), text)
    text = _FORMULA.sub(lambda each: "" if _FORMULA_SIGN.search(each[1]) else each[0], text)
    for pattern, replacement, reason in _UNWRAPPED:
        text, count = pattern.subn(replacement, text)
        if count:
            report.removed[reason] += count
    return html.unescape(_BREAK.sub("\0", text)).translate(_RESTORED)
