"""Lines that are no text of a file: page headers, notices, chapter ends, links, licences."""

import re
from collections.abc import Iterable, Iterator

from model.text import HAN_CHARACTER, LETTER
from training.data.file_report import FileReport

_PASSED = 3  # occurrences of a pattern that are kept
# Of the lines so far; a more frequent pattern is what the file is about. A line that differs in
# numbers is the header of a page, among many lines.
_MAX_SHARE, _MAX_NUMBERED_SHARE = 0.25, 0.05
_MAX_CHARACTERS = 200  # of a line that may be boilerplate
_MIN_WIDTH = 12  # shorter lines are replies, unless they look like the number of a page
_MAX_PATTERNS = 200_000  # remembered
_DIGIT = re.compile(r"[\d第]")  # quick: any line that may have a number
_NUMBER = re.compile(r"\d+|(?<=第)[〇零一二三四五六七八九十百千两]+(?=\s*[章节回卷部集页])")
_PAGE = re.compile(
    r"\W*(?:page|p\.?|chapter|part|section|第)?\s*0\W*(?:of\s*0|[页頁章节節回卷集](?:\W*共\W*0\W*[页頁])?)?\W*",
    re.IGNORECASE,
)
_SENTENCE_END = re.compile(r"[.!?。！？…][\"'”’」』）)\]]*$")
_DECORATED = re.compile(r"[-=*—~_#+<>·•【\[]{1,}.*[-=*—~_#+<>·•】\]]{1,}")
_LINK = re.compile(r"\W*(?:https?://|www\.)\S+\W*", re.IGNORECASE)

# Begin and end of the text in a book of Project Gutenberg
_BOOK_MARK = re.compile(
    r"\W*(?:(?P<start>START)|END) OF (?:THE |THIS )?PROJECT GUTENBERG"
    r"|\*END\*(?P<old>THE SMALL PRINT)",
    re.IGNORECASE,
)
_BOOK_WORDS = re.compile("Gutenberg|GUTENBERG|SMALL PRINT")
_BOOK_NAME_LINES, _BOOK_HEAD_LINES = 40, 500  # that name it, and before its text


class BoilerplateFilter:
    """Decides which lines of a file pass; the others are counted in its report.

    The first lines of a pattern pass. Two lines have the same pattern if they are equal, or, with
    *numbers*, if they are no sentences and only numbers differ.
    """

    def __init__(self, report: FileReport, *, numbers: bool = True) -> None:
        self._report = report
        self._numbers = numbers
        self._counts: dict[int, int] = {}
        self._lines = 0

    def passes(self, line: str) -> bool:
        """Return if a line, the next of the file, is no boilerplate."""
        self._lines += 1
        if len(line) > _MAX_CHARACTERS:
            return True
        line = line.strip()
        if ("//" in line or "www." in line.lower()) and _LINK.fullmatch(line):
            self._report.removed["links"] += 1
            return False
        pattern = line
        if self._numbers and _DIGIT.search(line) and not _SENTENCE_END.search(line):
            pattern = _NUMBER.sub("0", line)
        key = hash(pattern.casefold())
        count = self._counts[key] = self._counts.get(key, 0) + 1
        if len(self._counts) > _MAX_PATTERNS:
            self._forget()
        if count <= _PASSED or count > _max_share(line, pattern) * self._lines:
            return True
        self._report.removed["repeated lines"] += 1
        return False

    def _forget(self) -> None:
        """Forget the rare patterns, at least half of them."""
        least = 1
        while len(self._counts) > _MAX_PATTERNS // 2:
            least += 1
            self._counts = {key: count for key, count in self._counts.items() if count >= least}


def _max_share(line: str, pattern: str) -> float:
    """Return the share of the lines up to which a pattern is boilerplate; 0 if it is none."""
    if _PAGE.fullmatch(pattern) or _DECORATED.fullmatch(pattern):
        return _MAX_SHARE
    width = len(pattern) + len(HAN_CHARACTER.findall(pattern))
    if width < _MIN_WIDTH or not LETTER.search(pattern):
        return 0
    return _MAX_SHARE if pattern == line else _MAX_NUMBERED_SHARE


def without_licence(lines: Iterable[str], report: FileReport) -> Iterator[str]:
    """Leave out the notices around books of Project Gutenberg, of which a file may have several."""
    head: list[str] | None = []
    is_text, removed = True, 0
    for line in lines:
        if _BOOK_WORDS.search(line) and (mark := _BOOK_MARK.match(line.strip())):
            is_text = bool(mark["start"] or mark["old"])
            if not is_text:
                yield from head or ()
            removed += 1 + (len(head or ()) if is_text else 0)
            head = None
        elif not is_text:
            removed += 1
        elif head is None:
            yield line
        else:
            head.append(line)
            if len(head) == _BOOK_HEAD_LINES or (
                len(head) == _BOOK_NAME_LINES and not any("Gutenberg" in each for each in head)
            ):
                yield from head
                head = None
    yield from head or ()
    if removed:
        report.removed["licence"] += removed
