"""PDF to paragraphs."""

import sys
from pathlib import Path

import pytest
from pypdf import PdfReader, PdfWriter

from model.errors import CorpusError
from training.data.file_report import FileReport
from training.data.pdf_text import read_pdf


def write_pdf(path: Path, pages: list[list[str]]) -> Path:
    """Write a PDF of Latin and Chinese lines, in the smallest form that readers accept."""
    count = len(pages)
    kids = " ".join(f"{5 + number} 0 R" for number in range(count))
    objects = [
        "<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Count {count} /Kids [{kids}] >>",
        "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding >>",
        "<< /Type /Font /Subtype /Type0 /BaseFont /STSong-Light /Encoding /UniGB-UCS2-H"
        " /DescendantFonts [<< /Type /Font /Subtype /CIDFontType0 /BaseFont /STSong-Light"
        " /CIDSystemInfo << /Registry (Adobe) /Ordering (GB1) /Supplement 0 >> >>] >>",
        *(
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 600 800] /Contents {5 + count + n} 0 R"
            " /Resources << /Font << /F 3 0 R /G 4 0 R >> >> >>"
            for n in range(count)
        ),
    ]
    for lines in pages:
        shown = "".join(
            f"/F 12 Tf ({line}) Tj T* "
            if line.isascii()
            else f"/G 12 Tf <{line.encode('utf-16-be').hex()}> Tj T* "
            for line in lines
        )
        stream = f"BT 14 TL 50 750 Td {shown}ET"
        objects.append(f"<< /Length {len(stream)} >>\nstream\n{stream}\nendstream")
    text = "%PDF-1.4\n"
    offsets = []
    for number, each in enumerate(objects, 1):
        offsets.append(len(text))
        text += f"{number} 0 obj\n{each}\nendobj\n"
    start = len(text)
    text += f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n"
    text += "".join(f"{offset:010} 00000 n \n" for offset in offsets)
    text += f"trailer\n<< /Size {len(objects) + 1} /Root 1 0 R >>\nstartxref\n{start}\n%%EOF\n"
    path.write_bytes(text.encode("latin-1"))
    return path


def read(path: Path) -> tuple[list[str], FileReport]:
    """Return the lines of a PDF, and the report."""
    report = FileReport(str(path), "pdf")
    return list(read_pdf(path, report)), report


def test_lines_are_joined_to_paragraphs(tmp_path: Path) -> None:
    """A short line or a sentence end ends a paragraph, a page does not; hyphens are undone."""
    path = write_pdf(
        tmp_path / "a.pdf",
        [
            [
                "A heading",
                "This is the first line of a paragraph that is hyphen-",
                "ated and goes on for two more lines of equal length and",
                "ends here.",
                "The next paragraph begins on this page, and it continues",
            ],
            [
                "on the second page with a well known word, well-known",
                "and the",
                "- first item",
                "- second item",
            ],
        ],
    )
    assert read(path)[0] == [
        "A heading",
        "This is the first line of a paragraph that is hyphenated and goes on for two more lines"
        " of equal length and ends here.",
        "The next paragraph begins on this page, and it continues on the second page with a well"
        " known word, well-known and the",
        "- first item",
        "- second item",
    ]


def test_chinese_lines_are_joined_without_a_space(tmp_path: Path) -> None:
    """The width of a full line is that of lines in the same script; no line begins with a comma."""
    path = write_pdf(
        tmp_path / "a.pdf",
        [
            [
                "第一章",
                "春天来了，小鸟在枝头歌唱，孩子们在草地上奔跑",
                "，老人们坐在长椅上晒太阳，谈论着过去的日子和",
                "远处的山。",
                "This is a line of English text that is much longer than the Chinese lines are,",
                "and it goes on here.",
            ]
        ],
    )
    assert read(path)[0] == [
        "第一章",
        "春天来了，小鸟在枝头歌唱，孩子们在草地上奔跑，老人们坐在长椅上晒太阳，谈论着过去的日子和"
        "远处的山。",
        "This is a line of English text that is much longer than the Chinese lines are, and it goes"
        " on here.",
    ]


def test_page_headers_and_numbers_are_removed(tmp_path: Path) -> None:
    """Lines that repeat at the edges of pages go, with their count; a line within pages stays."""
    texts = [f"The text of a page that has {'very ' * n}much to say." for n in range(6)]
    pages = [
        ["The Annual Report", f"Chapter {n // 3}: Results  {n}", "Yes.", text, "Yes.", f"- {n} -"]
        for n, text in enumerate(texts)
    ]
    lines, report = read(write_pdf(tmp_path / "a.pdf", pages))
    assert [line for line in lines if line != "Yes."] == texts
    assert lines.count("Yes.") == 6  # the second of each page is near its edge
    assert report.removed == {"page headers": 24}


def test_pages_without_text_are_named(tmp_path: Path) -> None:
    """A scanned file is an error with the remedy, a scanned page is a warning."""
    with pytest.raises(CorpusError, match=r"a\.pdf: 2 pages without text.*OCR"):
        read(write_pdf(tmp_path / "a.pdf", [[], []]))
    lines, report = read(write_pdf(tmp_path / "b.pdf", [["Some text."], []]))
    assert lines == ["Some text."]
    assert report.warnings == ["1 of 2 pages have no text, perhaps scanned"]


@pytest.mark.parametrize(("password", "readable"), [("", True), ("secret", False)])
def test_protected_files_are_named(tmp_path: Path, password: str, readable: bool) -> None:
    """A file that opens without a password is read; another is an error."""
    writer = PdfWriter()
    writer.append(PdfReader(write_pdf(tmp_path / "a.pdf", [["Some text."]])))
    writer.encrypt(password, "owner", algorithm="RC4-128")
    writer.write(tmp_path / "b.pdf")
    if readable:
        assert read(tmp_path / "b.pdf")[0] == ["Some text."]
    else:
        with pytest.raises(CorpusError, match=r"b\.pdf: protected by a password; save a copy"):
            read(tmp_path / "b.pdf")


def test_damaged_files_are_named(tmp_path: Path) -> None:
    """Neither noise nor a truncated file nor a missing one gives a traceback."""
    path = write_pdf(tmp_path / "a.pdf", [["Some text."]])
    whole = path.read_bytes()
    for data in (b"", b"no PDF", whole[:50], whole[:300].replace(b"Catalog", b"Nothing")):
        path.write_bytes(data)
        with pytest.raises(CorpusError, match=r"a\.pdf: (?:damaged|\d pages)"):
            read(path)
    with pytest.raises(CorpusError, match=r"cannot be read: .*check path and permissions"):
        read(tmp_path / "none.pdf")


def test_a_missing_library_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error has the command that installs it."""
    monkeypatch.setitem(sys.modules, "pypdf", None)
    with pytest.raises(CorpusError, match=r"needs pypdf; run: pip install 'lacuna\[documents\]'"):
        read(write_pdf(tmp_path / "a.pdf", [["Some text."]]))
