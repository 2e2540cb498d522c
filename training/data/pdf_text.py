"""PDF to paragraphs: wrapped lines joined, page headers and numbers removed."""

import logging
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from model.errors import CorpusError
from model.text import HAN
from training.data.file_report import FileReport
from training.data.html_text import one_line

_EDGE_LINES = 2  # of a page, at its top and at its bottom, that may be headers
# Pages with the same header: without a number, and with one that counts
_MIN_REPEATED, _MIN_NUMBERED = 3, 2
_FULL_LINE = 0.75  # of the usual width; a shorter line ends a paragraph
_MAX_UNKNOWN = 0.2  # share of characters that have no meaning
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
_UNKNOWN = re.compile("[\ufffd\ue000-\uf8ff\0-\x08]")


def read_pdf(path: Path, report: FileReport) -> Iterator[str]:
    """Read the paragraphs of the pages of a PDF.

    Raises:
        CorpusError: pypdf is missing, or the file is damaged, protected or has no text.
    """
    pages = _pages(path, report)
    if not any(pages):
        raise CorpusError(
            f"{path}: {len(pages)} pages without text, perhaps scanned; recognise the text first"
            " (OCR)"
        )
    if empty := sum(not page for page in pages):
        report.warnings.append(f"{empty} of {len(pages)} pages have no text, perhaps scanned")
    characters = sum(len(line) for page in pages for line in page)
    unknown = sum(len(_UNKNOWN.findall(line)) for page in pages for line in page)
    if unknown > _MAX_UNKNOWN * characters:
        raise CorpusError(
            f"{path}: {unknown} of {characters} characters have no meaning, as the fonts lack it;"
            " recognise the text (OCR)"
        )
    yield from _paragraphs(_without_headers(pages, report))


def _pages(path: Path, report: FileReport) -> list[list[str]]:
    """Return the lines of each page that are not blank."""
    try:
        from pypdf import PdfReader
    except ImportError as error:
        raise CorpusError(
            f"{path}: reading .pdf needs pypdf; run: pip install 'lacuna[documents]'"
        ) from error
    logging.getLogger("pypdf").setLevel(logging.CRITICAL)  # what it repairs
    pages: list[list[str]] = []
    failed = 0
    try:
        report.bytes = path.stat().st_size
        reader = PdfReader(path)
        if reader.is_encrypted and not reader.decrypt(""):
            raise CorpusError(f"{path}: protected by a password; save a copy without one")
        for page in reader.pages:
            try:
                text = page.extract_text()
            except Exception:  # of many kinds, where a page is damaged
                failed += 1
                text = ""
            pages.append([line.strip() for line in text.splitlines() if line.strip()])
    except CorpusError:
        raise
    except OSError as error:
        raise CorpusError(
            f"{path}: cannot be read: {error.strerror or error}; check path and permissions"
        ) from error
    except Exception as error:  # of many kinds, where a file is damaged
        fault = "encrypted" if type(error).__name__ == "DependencyError" else "damaged"
        raise CorpusError(f"{path}: {fault}; open it and save a copy") from error
    if failed:
        report.warnings.append(f"{failed} of {len(pages)} pages are damaged")
    return pages


def _without_headers(pages: Sequence[Sequence[str]], report: FileReport) -> list[list[str]]:
    """Leave out numbers, and lines that repeat but for numbers, at the edges of pages."""
    patterns = Counter(
        pattern for page in pages for pattern in {_pattern(page[place]) for place in _edges(page)}
    )
    kept: list[list[str]] = []
    for page in pages:
        headers = {
            place
            for place in _edges(page)
            if _PAGE_NUMBER.fullmatch(page[place])
            or patterns[_pattern(page[place])]
            >= (_MIN_NUMBERED if _DIGITS.search(page[place]) else _MIN_REPEATED)
        }
        if headers:
            report.removed["page headers"] += len(headers)
        kept.append([line for place, line in enumerate(page) if place not in headers])
    return kept


def _edges(page: Sequence[str]) -> set[int]:
    places = range(len(page))
    return {*places[:_EDGE_LINES], *places[-_EDGE_LINES:]}


def _pattern(line: str) -> str:
    return _DIGITS.sub("0", line)


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
