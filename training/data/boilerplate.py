"""Lines of a file that are not its text: page headers, notices, chapter ends, links, licences."""

import re
from collections import Counter
from collections.abc import Iterator
from itertools import chain, islice

from model.text import HAN_CHARACTER
from training.data.cleaning import ENDS_SENTENCE
from training.data.file_report import FileReport

_PASSED = 3  # occurrences of a pattern that are kept
_MAX_SHARE = 0.1  # of the lines so far; a more frequent pattern is what the file is about
_MAX_CHARACTERS = 200  # of a line that may be boilerplate
_MIN_WIDTH = 12  # shorter lines are replies, unless they number a page or are decorated
_MAX_PATTERNS = 200_000  # remembered
_DIGIT = re.compile(r"[\d第]")  # quick: any line that may have a number
_NUMBER = re.compile(r"\d+|(?<=第)[〇零一二三四五六七八九十百千两]+(?=\s*[章节回卷部集页])")
_SHORT = re.compile(
    r"\W*(?:page|chapter|part|section|第)?\s*0\W*(?:of\s*0|[页頁章节節回卷集](?:\W*共\W*0\W*[页頁])?)?\W*"
    r"|[-=*—~_#+<>·•【\[].*[-=*—~_#+<>·•】\]]",
    re.IGNORECASE,
)
_LINK = re.compile(r"\W*(?:https?://|www\.)\S+\W*", re.IGNORECASE)
# Begin and end of the text in a book of Project Gutenberg, and lines in which it begins
_BOOK_MARK = re.compile(
    r"\W*(?:(START)|END) OF (?:THE |THIS )?PROJECT GUTENBERG|\*END\*(THE SMALL PRINT)",
    re.IGNORECASE,
)
_BOOK_HEAD_LINES = 60


class BoilerplateFilter:
    """Decides which lines of a file pass; the others are counted in its report.

    The first lines of a pattern pass. Two lines have the same pattern if they are equal, or, with
    *numbers*, if they are not sentences and only numbers differ.
    """

    def __init__(self, report: FileReport, *, numbers: bool = True) -> None:
        self._report = report
        self._numbers = numbers
        self._counts: Counter[int] = Counter()
        self._lines = 0

    def passes(self, line: str) -> bool:
        """Return True if a line, the next of the file, is text."""
        self._lines += 1
        if len(line) > _MAX_CHARACTERS:
            return True
        line = line.strip()
        if ("//" in line or "www." in line.lower()) and _LINK.fullmatch(line):
            self._report.removed["links"] += 1
            return False
        is_numbered = self._numbers and _DIGIT.search(line) and not ENDS_SENTENCE.search(line)
        pattern = _NUMBER.sub("0", line) if is_numbered else line
        key = hash(pattern.casefold())
        self._counts[key] += 1
        if len(self._counts) > _MAX_PATTERNS:
            frequent = {key: count for key, count in self._counts.items() if count > 1}
            self._counts = Counter(frequent if len(frequent) < _MAX_PATTERNS // 2 else {})
        if not _PASSED < self._counts[key] <= _MAX_SHARE * self._lines:
            return True
        width = len(pattern) + len(HAN_CHARACTER.findall(pattern))
        if width < _MIN_WIDTH and not _SHORT.fullmatch(pattern):
            return True
        self._report.removed["repeated lines"] += 1
        return False


def without_licence(lines: Iterator[str], report: FileReport) -> Iterator[str]:
    """Leave out the notices around books of Project Gutenberg, of which a file may have several."""
    head = list(islice(lines, _BOOK_HEAD_LINES))
    marks = [(place, _book_mark(line)) for place, line in enumerate(head, 1)]
    removed = next((place for place, mark in marks if mark and (mark[1] or mark[2])), 0)
    is_text = True
    for line in chain(head[removed:], lines):
        if mark := _book_mark(line):
            is_text = bool(mark[1] or mark[2])
        if mark or not is_text:
            removed += 1
        else:
            yield line
    if removed:
        report.removed["licence"] += removed


def _book_mark(line: str) -> re.Match[str] | None:
    return _BOOK_MARK.match(line.strip()) if len(line) < _MAX_CHARACTERS else None
