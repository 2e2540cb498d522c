"""Word documents and e-books to paragraphs. Both are zip archives of XML."""

import lzma
import posixpath
import re
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote
from xml.etree import ElementTree as Xml

from model.errors import CorpusError
from training.data.file_report import FileReport
from training.data.html_text import html_charset, read_html

_FAULTS = (
    zipfile.BadZipFile,
    Xml.ParseError,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    ValueError,
)
_MAX_PART_BYTES = 256 << 20  # of one file in the archive, unpacked
_OLD_OFFICE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
_DOCUMENT = re.compile(r"word/(?:document\d*|footnotes|endnotes)\.xml")
_PAGE_HEADER = re.compile(r"word/(?:header|footer)\d*\.xml")
_PAGE = re.compile(r".*\.x?html?", re.IGNORECASE)
# Elements whose text is not read, or is there twice
_REMOVED = {"oMath": "formulas", "Fallback": "", "moveFrom": "", "rt": "annotations"}
_CONTENTS = "\0"  # marks a line of the table of contents
_CHARACTERS = {"tab": " ", "br": "\n", "cr": "\n", "noBreakHyphen": "-"}


def read_docx(path: Path, report: FileReport) -> Iterator[str]:
    """Read the paragraphs and cells of a Word document, and its notes.

    Raises:
        CorpusError: the file is damaged, protected or too large.
    """
    with _opened(path, report) as archive:
        names = sorted(filter(_DOCUMENT.fullmatch, archive.namelist()))
        if not names:
            raise CorpusError(f"{path}: a .docx without a document; open it and save it again")
        if headers := sum(bool(_PAGE_HEADER.fullmatch(name)) for name in archive.namelist()):
            report.removed["page headers"] += headers
        for name in names:
            yield from _paragraphs(archive, name, report)


def read_epub(path: Path, report: FileReport) -> Iterator[str]:
    """Read the paragraphs of an e-book, page after page.

    Raises:
        CorpusError: the file is damaged, protected or too large.
    """
    with _opened(path, report) as archive:
        present = set(archive.namelist())
        pages = _spine(archive) or sorted(filter(_PAGE.fullmatch, present))
        if _encrypted(archive).intersection(pages):
            raise CorpusError(f"{path}: protected against copying; use an unprotected copy")
        for page in pages:
            if page in present:
                data = _read(archive, page)
                text = data.decode(html_charset(data) or "utf-8-sig", "replace")
                yield from read_html((text,), report)
        if missing := len(set(pages) - present):
            report.warnings.append(f"{missing} of {len(pages)} pages are missing")


@contextmanager
def _opened(path: Path, report: FileReport) -> Iterator[zipfile.ZipFile]:
    """Open an archive; its faults become errors with the file and the remedy."""
    try:
        with path.open("rb") as file:
            report.bytes = path.stat().st_size
            if file.read(len(_OLD_OFFICE)) == _OLD_OFFICE:
                raise CorpusError(
                    f"{path}: protected by a password, or an old .doc; save it as .docx without one"
                )
            with zipfile.ZipFile(file) as archive:
                yield archive
    except RuntimeError as error:
        raise CorpusError(f"{path}: protected by a password; save a copy without one") from error
    except _FAULTS as error:
        raise CorpusError(f"{path}: damaged or truncated ({error}); fetch it again") from error
    except OSError as error:
        raise CorpusError(
            f"{path}: cannot be read: {error.strerror or error}; check path and permissions"
        ) from error


def _spine(archive: zipfile.ZipFile) -> list[str]:
    """Return the pages of an e-book in the order of reading; empty if it names none."""
    if "META-INF/container.xml" not in archive.namelist():
        return []
    container = Xml.fromstring(_read(archive, "META-INF/container.xml"))  # noqa: S314
    package = next((_attribute(each, "full-path") for each in _all(container, "rootfile")), "")
    if package not in archive.namelist():
        return []
    root = Xml.fromstring(_read(archive, package))  # noqa: S314
    paths = {
        _attribute(item, "id"): _attribute(item, "href")
        for item in _all(root, "item")
        if "nav" not in _attribute(item, "properties").split()  # the table of contents
    }
    named = (paths.get(_attribute(item, "idref")) for item in _all(root, "itemref"))
    folder = posixpath.dirname(package)
    return [posixpath.normpath(posixpath.join(folder, unquote(path))) for path in named if path]


def _encrypted(archive: zipfile.ZipFile) -> set[str]:
    """Return the files of an e-book that are encrypted, as far as it names them."""
    if "META-INF/encryption.xml" not in archive.namelist():
        return set()
    root = Xml.fromstring(_read(archive, "META-INF/encryption.xml"))  # noqa: S314
    return {unquote(_attribute(each, "URI")) for each in _all(root, "CipherReference")}


def _paragraphs(archive: zipfile.ZipFile, name: str, report: FileReport) -> Iterator[str]:
    """Yield the paragraphs of a part of a Word document, those of a text box by themselves."""
    _check_size(archive, name)
    unfinished: list[list[str]] = []
    removed = 0  # depth in elements that are not read
    with archive.open(name) as part:
        for event, element in Xml.iterparse(part, events=("start", "end")):  # noqa: S314
            tag = element.tag.rpartition("}")[2]
            if tag in _REMOVED:
                removed += 1 if event == "start" else -1
                if event == "start" and _REMOVED[tag]:
                    report.removed[_REMOVED[tag]] += 1
            elif event == "start" and tag == "p":
                unfinished.append([])
            elif event == "end" and unfinished:
                if tag == "p":
                    text = "".join(unfinished.pop()).strip()
                    if _CONTENTS in text:
                        report.removed["table of contents"] += 1
                    elif text:
                        yield text
                    element.clear()
                elif not removed:
                    unfinished[-1].append(_text(element, tag))


def _text(element: Xml.Element, tag: str) -> str:
    if tag == "t":
        return element.text or ""
    # A line of the table of contents has a style of its own, or is a link to a heading.
    if (
        _attribute(element, "val").lower().startswith("toc")
        if tag == "pStyle"
        else (tag == "hyperlink" and _attribute(element, "anchor").startswith("_Toc"))
    ):
        return _CONTENTS
    return _CHARACTERS.get(tag, "")


def _attribute(element: Xml.Element, name: str) -> str:
    """Return an attribute in whatever namespace; empty if there is none."""
    return next((value for key, value in element.items() if key.endswith(name)), "")


def _all(root: Xml.Element, name: str) -> Iterator[Xml.Element]:
    return (element for element in root.iter() if element.tag.rpartition("}")[2] == name)


def _read(archive: zipfile.ZipFile, name: str) -> bytes:
    _check_size(archive, name)
    return archive.read(name)


def _check_size(archive: zipfile.ZipFile, name: str) -> None:
    # zipfile never reads more than the size that the archive declares.
    if (size := archive.getinfo(name).file_size) > _MAX_PART_BYTES:
        raise ValueError(f"{name} unpacks to {size} bytes, above {_MAX_PART_BYTES}")
