"""Word documents and e-books to paragraphs."""

import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from model.errors import CorpusError
from training.data import office
from training.data.file_report import FileReport
from training.data.office import read_docx, read_epub

WORD = (
    '<w:document xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"'
    ' xmlns:mc="http://schemas.openxmlformats.org/markup-compatibility/2006"'
    ' xmlns:m="http://schemas.openxmlformats.org/officeDocument/2006/math"><w:body>'
)
END = "</w:body></w:document>"
CONTAINER = (
    '<container xmlns="urn:oasis:names:tc:opendocument:xmlns:container"><rootfiles>'
    '<rootfile full-path="OPS/book.opf"/></rootfiles></container>'
)
PACKAGE = """<package xmlns="http://www.idpf.org/2007/opf"><manifest>
<item id="n" href="nav.xhtml" properties="nav"/><item id="b" href="text/b%20b.xhtml"/>
<item id="a" href="a.xml"/><item id="c" href="gone.html"/></manifest>
<spine><itemref idref="n"/><itemref idref="b"/><itemref idref="a"/>{more}</spine></package>"""


def archive(path: Path, parts: dict[str, str | bytes]) -> Path:
    """Write a zip archive."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, text in parts.items():
            file.writestr(name, text)
    return path


def word(path: Path, body: str, **parts: str) -> Path:
    """Write a Word document."""
    others = {f"word/{name}.xml": f"{WORD}{text}{END}" for name, text in parts.items()}
    return archive(path, {"word/document.xml": f"{WORD}{body}{END}", **others})


def book(path: Path, more: str = "", **parts: str) -> Path:
    """Write an e-book of two pages, whose order in the archive is not that of reading."""
    return archive(
        path,
        {
            "mimetype": "application/epub+zip",
            "META-INF/container.xml": CONTAINER,
            "OPS/book.opf": PACKAGE.format(more=more),
            "OPS/a.xml": '<?xml version="1.0" encoding="gbk"?><p>第二章 正文。</p>'.encode("gbk"),
            "OPS/nav.xhtml": "<p>No contents</p>",
            "OPS/text/b b.xhtml": "<html><head><title>No</title></head><p>First <i>page</i>.</p>",
            **parts,
        },
    )


def run(text: str) -> str:
    """Return a run of text in a paragraph."""
    return f'<w:r><w:rPr><w:b/></w:rPr><w:t xml:space="preserve">{text}</w:t></w:r>'


def read(
    reader: Callable[[Path, FileReport], Iterator[str]], path: Path
) -> tuple[list[str], FileReport]:
    """Return the lines of a file, and the report."""
    report = FileReport(str(path), path.suffix[1:])
    return list(reader(path, report)), report


def test_a_word_document_gives_paragraphs_cells_and_notes(tmp_path: Path) -> None:
    """Runs are joined; tables, insertions, links and forms are read, page headers are not."""
    body = (
        f"<w:p>{run('One ')}{run('paragraph')}<w:r><w:tab/></w:r>{run('goes on.')}</w:p><w:p/>"
        f"<w:p><w:ins>{run('这是')}</w:ins><w:hyperlink>{run('一段话。')}</w:hyperlink></w:p>"
        f"<w:tbl><w:tr><w:tc><w:p>{run('left')}</w:p></w:tc><w:tc><w:p>{run('right')}</w:p></w:tc>"
        f"</w:tr></w:tbl><w:sdt><w:sdtContent><w:p>{run('form')}</w:p></w:sdtContent></w:sdt>"
    )
    path = word(
        tmp_path / "a.docx",
        body,
        header1=f"<w:p>{run('No')}</w:p>",
        footnotes=f"<w:p>{run('A note.')}</w:p>",
    )
    lines, report = read(read_docx, path)
    assert lines == ["One paragraph goes on.", "这是一段话。", "left", "right", "form", "A note."]
    assert report.removed == {"page headers": 1}
    assert report.bytes == path.stat().st_size


def test_a_word_document_gives_nothing_twice(tmp_path: Path) -> None:
    """Deleted and moved text, formulas, and copies of text boxes are left out."""
    box = f"<w:p>{run('In a box.')}</w:p>"
    body = (
        f"<w:p>{run('Kept')}<w:del><w:r><w:delText>no</w:delText></w:r></w:del>"
        f"<w:moveFrom>{run('no')}</w:moveFrom><m:oMath><m:r><m:t>no</m:t></m:r></m:oMath>"
        f"<mc:AlternateContent><mc:Choice><w:txbxContent>{box}</w:txbxContent></mc:Choice>"
        f"<mc:Fallback><w:txbxContent>{box}</w:txbxContent></mc:Fallback></mc:AlternateContent>"
        f"{run('.')}<w:r><w:br/></w:r>{run('Second line.')}</w:p>"
    )
    lines = read(read_docx, word(tmp_path / "a.docx", body))[0]
    assert lines == ["In a box.", "Kept.\nSecond line."]


def test_an_e_book_is_read_in_order(tmp_path: Path) -> None:
    """The spine gives the order, the page the encoding; a page may be missing."""
    assert read(read_epub, book(tmp_path / "a.epub"))[0] == ["First page.", "第二章 正文。"]
    path = book(tmp_path / "b.epub", '<itemref idref="c"/>')
    assert read(read_epub, path)[0] == ["First page.", "第二章 正文。"]


def test_an_e_book_without_a_list_of_pages_is_read(tmp_path: Path) -> None:
    """Pages come in the order of their names if nothing else is known."""
    path = archive(
        tmp_path / "a.epub", {"2.html": "<p>two", "1.xhtml": "<p>one</p>", "x.css": "no"}
    )
    assert read(read_epub, path)[0] == ["one", "two"]


def test_a_protected_e_book_is_named(tmp_path: Path) -> None:
    """Encrypted pages are an error, encrypted fonts are not."""
    cipher = '<e xmlns:c="x"><c:CipherReference URI="{}"/></e>'
    fonts = {"META-INF/encryption.xml": cipher.format("OPS/font.otf")}
    assert read(read_epub, book(tmp_path / "a.epub", **fonts))[0][0] == "First page."
    pages = {"META-INF/encryption.xml": cipher.format("OPS/a.xml")}
    with pytest.raises(CorpusError, match=r"b\.epub: protected against copying"):
        read(read_epub, book(tmp_path / "b.epub", **pages))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600), "protected by a password, or an old"),
        (b"no archive", "damaged or truncated"),
        (b"", "damaged or truncated"),
    ],
)
def test_what_is_no_archive_is_named(tmp_path: Path, data: bytes, message: str) -> None:
    """An old, protected or damaged document is an error with the remedy."""
    path = tmp_path / "a.docx"
    path.write_bytes(data)
    with pytest.raises(CorpusError, match=rf"a\.docx: {message}"):
        read(read_docx, path)


def test_damaged_documents_are_named(tmp_path: Path) -> None:
    """Truncation, broken XML, other contents, and entities that expand are errors."""
    path = word(tmp_path / "a.docx", f"<w:p>{run('text')}</w:p>")
    whole = path.read_bytes()
    for cut in (30, len(whole) // 2, len(whole) - 9):
        path.write_bytes(whole[:cut])
        with pytest.raises(CorpusError, match="damaged or truncated"):
            read(read_docx, path)
    flipped = bytearray(whole)
    flipped[60] ^= 0xFF
    path.write_bytes(flipped)
    with pytest.raises(CorpusError, match="damaged or truncated"):
        read(read_docx, path)
    with pytest.raises(CorpusError, match="damaged or truncated"):
        read(read_docx, archive(path, {"word/document.xml": "<w:p>unclosed"}))
    with pytest.raises(CorpusError, match="without a document; open it and save it again"):
        read(read_docx, archive(path, {"other.xml": "<a/>"}))
    levels = "".join(f'<!ENTITY e{n} "{f"&e{n - 1};" * 50}">' for n in range(1, 9))
    bomb = f'<!DOCTYPE a [<!ENTITY e0 "secret">{levels}]><a><p><t>&e8;</t></p></a>'
    with pytest.raises(CorpusError, match="damaged or truncated"):
        read(read_docx, archive(path, {"word/document.xml": bomb}))
    with pytest.raises(CorpusError, match=r"cannot be read: .*check path and permissions"):
        read(read_docx, tmp_path / "none.docx")


def test_huge_parts_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A small archive does not fill the memory."""
    monkeypatch.setattr(office, "_MAX_PART_BYTES", 10_000)
    path = word(tmp_path / "a.docx", f"<w:p>{run('x' * 20_000)}</w:p>")
    with pytest.raises(CorpusError, match=r"document\.xml unpacks to \d+ bytes, above 10000"):
        read(read_docx, path)
    path = archive(tmp_path / "a.epub", {"a.html": "x" * 20_000})
    with pytest.raises(CorpusError, match=r"a\.html unpacks to 20000 bytes"):
        read(read_epub, path)
