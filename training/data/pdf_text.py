"""PDF to paragraphs: wrapped lines joined, page headers and numbers removed."""

import logging
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from model.errors import CorpusError
from model.text import HAN
from training.data.compression import unreadable
from training.data.file_report import FileReport
from training.data.html_text import one_line

if TYPE_CHECKING:
    from pypdf import PageObject

_EDGE_LINES = 2  # of a page, at its top and at its bottom, that may be headers
# Pages with the same header: without a number, and with one that counts
_MIN_REPEATED, _MIN_NUMBERED = 3, 2
_FULL_LINE = 0.75  # of the usual width; a shorter line ends a paragraph
_DIGITS = re.compile(r"\d+")
_PAGE_NUMBER = re.compile(
    r"\W*(?:page|第)?\s*(?:\d+|[ivxlc]+)\s*(?:[页頁]|of\s*\d+|/\s*\d+)?\W*", re.IGNORECASE
)
_WIDE = re.compile(f"[{HAN}\u3000-\u30ff\uff00-\uff60]")
_HYPHEN = re.compile(r"(?<=[^\W\d_])[-\u00ad\u2010]$")
_SENTENCE_END = re.compile(r"[.!?。！？…:：][\"'”’」』）)\]]*$")
_BULLET = re.compile(r"^[•▪●◦‣■□]\s*")
_NEVER_FIRST = frozenset("，。、；：！？）》」』”’…,.;:!?)]")
_ITEM = re.compile(r"[•▪●◦‣■□–-]\s|\(?\d{1,3}[.)]\s")


def read_pdf(path: Path, report: FileReport) -> Iterator[str]:
    """Read the paragraphs of the pages of a PDF.

    Raises:
        CorpusError: pypdf is missing, or the file is damaged, protected or has no text.
    """
    try:
        from pypdf import PdfReader
    except ImportError as error:
        raise CorpusError(
            f"{path}: reading .pdf needs pypdf; run: pip install 'lacuna[documents]'"
        ) from error
    logging.getLogger("pypdf").setLevel(logging.CRITICAL)  # what it repairs
    try:
        report.bytes = path.stat().st_size
        reader = PdfReader(path)
        if reader.is_encrypted and not reader.decrypt(""):
            raise CorpusError(f"{path}: protected by a password; save a copy without one")
        pages = [_page_lines(page) for page in reader.pages]
    except CorpusError:
        raise
    except OSError as error:
        raise unreadable(path, error) from error
    except Exception as error:  # of many kinds, where a file is damaged
        raise CorpusError(f"{path}: damaged or encrypted; open it and save a copy") from error
    empty = sum(not page for page in pages)
    if empty == len(pages):
        raise CorpusError(
            f"{path}: {empty} pages without text, perhaps scanned; recognise the text first (OCR)"
        )
    if empty:
        report.warnings.append(f"{empty} of {len(pages)} pages have no text, perhaps scanned")
    yield from _paragraphs(_without_headers(pages, report))


def _page_lines(page: "PageObject") -> list[str]:
    """Return the lines of a page that are not blank; none if the page is damaged."""
    try:
        lines = page.extract_text().splitlines()
    except Exception:  # of many kinds
        return []
    return [line.strip() for line in lines if line.strip()]


def _without_headers(pages: Sequence[Sequence[str]], report: FileReport) -> list[list[str]]:
    """Leave out numbers, and lines that repeat but for numbers, at the edges of pages."""
    edges = [{*range(len(page))[:_EDGE_LINES], *range(len(page))[-_EDGE_LINES:]} for page in pages]
    patterns = Counter(
        pattern
        for page, places in zip(pages, edges, strict=True)
        for pattern in {_DIGITS.sub("0", page[place]) for place in places}
    )
    kept: list[list[str]] = []
    for page, places in zip(pages, edges, strict=True):
        kept.append([])
        for place, line in enumerate(page):
            least = _MIN_NUMBERED if _DIGITS.search(line) else _MIN_REPEATED
            repeats = patterns[_DIGITS.sub("0", line)] >= least
            if place in places and (repeats or _PAGE_NUMBER.fullmatch(line)):
                report.removed["page headers"] += 1
            else:
                kept[-1].append(line)
    return kept


def _paragraphs(pages: Sequence[Sequence[str]]) -> Iterator[str]:
    """Join lines, also across pages, until a short one or the end of a sentence."""
    widths: dict[bool, list[int]] = {False: [], True: []}
    lines = [line for page in pages for line in page]
    for line in lines:
        widths[_is_wide(line)].append(len(line))
    full = {
        kind: _FULL_LINE * sorted(each)[len(each) * 3 // 4] for kind, each in widths.items() if each
    }
    paragraph: list[str] = []
    for line in lines:
        if paragraph and _ends(paragraph[-1], line, full[_is_wide(paragraph[-1])]):
            yield _joined(paragraph)
            paragraph = []
        if paragraph and line[0].islower() and _HYPHEN.search(paragraph[-1]):
            line = _HYPHEN.sub("", paragraph.pop()) + line
        paragraph.append(line)
    if paragraph:
        yield _joined(paragraph)


def _joined(paragraph: Sequence[str]) -> str:
    return _BULLET.sub("", one_line("\n".join(paragraph)))


def _ends(line: str, following: str, full: float) -> bool:
    """Return if a paragraph ends between two lines."""
    if _ITEM.match(following):
        return True
    if following[0].islower() or following[0] in _NEVER_FIRST:
        return False
    return len(line) < full or bool(_SENTENCE_END.search(line))


def _is_wide(line: str) -> bool:
    """Return if a line is of characters that are twice as wide as Latin ones."""
    return 2 * len(_WIDE.findall(line)) > len(line)
