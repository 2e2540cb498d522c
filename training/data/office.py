"""Word documents and e-books to paragraphs. Both are zip archives of XML."""

import posixpath
import re
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO
from urllib.parse import unquote
from xml.etree import ElementTree as Xml

from model.errors import CorpusError
from training.data.compression import unreadable
from training.data.file_report import FileReport
from training.data.html_text import html_charset, read_html

_FAULTS = (zipfile.BadZipFile, Xml.ParseError, zlib.error, EOFError, ValueError)
_MAX_PART_BYTES = 256 << 20  # of one file in the archive, unpacked
_OLD_OFFICE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
_DOCUMENT = re.compile(r"word/(?:document\d*|footnotes|endnotes)\.xml")
_PAGE_HEADER = re.compile(r"word/(?:header|footer)\d*\.xml")
_PAGE = re.compile(r".*\.x?html?", re.IGNORECASE)
# Elements whose text is not read, or is there twice
_REMOVED = ("oMath", "Fallback", "moveFrom", "rt")
_SIGNS = {"tab": " ", "br": "\n", "cr": "\n", "noBreakHyphen": "-"}


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
            yield from _paragraphs(archive, name)


def read_epub(path: Path, report: FileReport) -> Iterator[str]:
    """Read the paragraphs of an e-book, page after page.

    Raises:
        CorpusError: the file is damaged, protected or too large.
    """
    with _opened(path, report) as archive:
        names = archive.namelist()
        pages = [page for page in _spine(archive) if page in names]
        pages = pages or sorted(filter(_PAGE.fullmatch, names))
        if _encrypted(archive).intersection(pages):
            raise CorpusError(f"{path}: protected against copying; use an unprotected copy")
        for page in pages:
            data = _open(archive, page).read()
            text = data.decode(html_charset(data) or "utf-8-sig", "replace")
            yield from read_html((text,), report)


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
        raise unreadable(path, error) from error


def _spine(archive: zipfile.ZipFile) -> list[str]:
    """Return the pages of an e-book in the order of reading; empty if it names none."""
    container = _xml(archive, "META-INF/container.xml")
    package = next((_attribute(each, "full-path") for each in _all(container, "rootfile")), "")
    root = _xml(archive, package)
    paths = {
        _attribute(item, "id"): posixpath.join(
            posixpath.dirname(package), unquote(_attribute(item, "href"))
        )
        for item in _all(root, "item")
        if "nav" not in _attribute(item, "properties").split()  # the table of contents
    }
    named = (paths.get(_attribute(item, "idref")) for item in _all(root, "itemref"))
    return [posixpath.normpath(path) for path in named if path]


def _encrypted(archive: zipfile.ZipFile) -> set[str]:
    """Return the files of an e-book that are encrypted, as far as it names them."""
    root = _xml(archive, "META-INF/encryption.xml")
    return {unquote(_attribute(each, "URI")) for each in _all(root, "CipherReference")}


def _paragraphs(archive: zipfile.ZipFile, name: str) -> Iterator[str]:
    """Yield the paragraphs of a part of a Word document, those of a text box by themselves."""
    unfinished: list[list[str]] = []
    removed = 0  # depth in elements that are not read
    with _open(archive, name) as part:
        for event, element in Xml.iterparse(part, events=("start", "end")):  # noqa: S314
            tag = element.tag.rpartition("}")[2]
            if tag in _REMOVED:
                removed += 1 if event == "start" else -1
            elif event == "start":
                unfinished += [[]] if tag == "p" else []
            elif tag == "p" and unfinished:
                if text := "".join(unfinished.pop()).strip():
                    yield text
                element.clear()
            elif unfinished and not removed:
                unfinished[-1].append(element.text or "" if tag == "t" else _SIGNS.get(tag, ""))


def _attribute(element: Xml.Element, name: str) -> str:
    """Return an attribute in whatever namespace; empty if it is missing."""
    return next((value for key, value in element.items() if key.endswith(name)), "")


def _all(root: Xml.Element, name: str) -> Iterator[Xml.Element]:
    return (element for element in root.iter() if element.tag.rpartition("}")[2] == name)


def _xml(archive: zipfile.ZipFile, name: str) -> Xml.Element:
    """Return the root of an XML file; an empty one if it is missing."""
    if name not in archive.namelist():
        return Xml.Element("none")
    return Xml.parse(_open(archive, name)).getroot()  # noqa: S314


def _open(archive: zipfile.ZipFile, name: str) -> IO[bytes]:
    # zipfile never reads more than the size that the archive declares.
    if (size := archive.getinfo(name).file_size) > _MAX_PART_BYTES:
        raise ValueError(f"{name} unpacks to {size} bytes, above {_MAX_PART_BYTES}")
    return archive.open(name)
