"""Files of any kind to lines."""

import bz2
import gzip
import json
import lzma
import random
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from model.errors import CorpusError
from training.data import documents
from training.data.documents import read_lines
from training.data.file_report import FileReport
from training.data.input_files import InputFile, find_files

COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "": lambda data: data,
    ".gz": gzip.compress,
    ".xz": lzma.compress,
    ".zst": zstandard.ZstdCompressor().compress,
    ".bz2": bz2.compress,
}
ARCHIVES = [suffix for suffix in COMPRESS if suffix]


def read(
    path: Path, encoding: str | None = None, field: str | None = None
) -> tuple[list[str], FileReport]:
    """Return the lines of a file, and the report."""
    (file,), _ = find_files([str(path)])
    report = FileReport(str(path), file.kind)
    return list(read_lines(file, report, encoding=encoding, field=field)), report


@pytest.mark.parametrize("suffix", COMPRESS)
def test_lines_come_from_any_compression(tmp_path: Path, suffix: str) -> None:
    """Every compression, in one member or two, gives lines without line ends, BOM and blanks."""
    path = tmp_path / f"text.txt{suffix}"
    first = COMPRESS[suffix]("\ufefffirst line\n第二行。\r\n \n\n".encode())
    path.write_bytes(first + COMPRESS[suffix](b"one\n" * 9000 + b"last"))
    lines, report = read(path)
    assert lines == ["first line", "第二行。", *["one"] * 9000, "last"]
    assert report.lines == 9003
    assert report.bytes == len("\ufefffirst line\n第二行。\r\n \n\n".encode()) + 4 * 9000 + 4


@pytest.mark.parametrize("suffix", ARCHIVES)
@pytest.mark.parametrize("damage", [lambda data: data[:-9], lambda data: b"no archive" + data])
def test_damaged_archives_are_named(
    tmp_path: Path, suffix: str, damage: Callable[[bytes], bytes]
) -> None:
    """A truncated or altered archive is an error with the file and the remedy."""
    path = tmp_path / f"text.txt{suffix}"
    noise = random.Random(1).randbytes(50_000).hex().encode()
    path.write_bytes(damage(COMPRESS[suffix](noise)))
    with pytest.raises(CorpusError, match=rf"text\.txt{suffix}: damaged or truncated.*again"):
        read(path)


def test_endless_lines_are_read_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A line without end comes in bounded parts that divide no character and lose nothing."""
    monkeypatch.setattr(documents, "MAX_LINE_CHARACTERS", 300)
    path = tmp_path / "long.txt"
    path.write_bytes(("我😀a" * 90_000 + "\nend\n").encode())
    lines, _ = read(path)
    assert "".join(lines) == "我😀a" * 90_000 + "end"
    assert max(map(len, lines)) == 300


def test_json_lines_give_the_named_member(tmp_path: Path) -> None:
    """Blank lines are skipped, and line ends inside a text end lines."""
    path = tmp_path / "text.jsonl.gz"
    rows = [json.dumps({"text": "一\ntwo", "id": 1}), "", json.dumps({"text": "😀"})]
    path.write_bytes(gzip.compress("\n".join(rows).encode()))
    assert read(path, field="text")[0] == ["一", "two", "😀"]


CHINESE = ("夜里下了一场大雨，早上起来，院子里的花都开了。", "他说他不知道这件事。")
MANY = [f"{chr(0x4E00 + number)}，{CHINESE[0]}" for number in range(100)]
ENGLISH = ("“It’s late,” she said – and closed the door…", "The café’s menu hadn’t changed.")


@pytest.mark.parametrize(
    ("codec", "name", "lines"),
    [
        ("gb18030", "gb18030", CHINESE),
        ("gbk", "gb18030", CHINESE),
        ("utf-8", "utf-8", CHINESE),
        ("utf-16", "utf-16", CHINESE),
        ("utf-16-le", "utf-16-le", CHINESE),
        ("utf-16-be", "utf-16-be", ENGLISH),
        ("cp1252", "cp1252", ENGLISH),
        ("ascii", "utf-8", ("one", "two")),
    ],
)
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_encoding_and_line_ends_are_found(
    tmp_path: Path, codec: str, name: str, lines: tuple[str, ...], end: str
) -> None:
    """Text in each encoding, with any line end, gives the same lines."""
    path = tmp_path / "text.txt"
    path.write_bytes(end.join(lines).encode(codec))
    found, report = read(path)
    assert found == list(lines)
    assert (report.encoding, report.lines, report.removed) == (name, 2, {})


def test_separators_of_unicode_end_lines(tmp_path: Path) -> None:
    """Separators of lines and paragraphs, and form feeds, end lines."""
    path = tmp_path / "text.txt"
    path.write_text("one\u2028two\u2029three\x0cfour\x85five\x0bsix", encoding="utf-8")
    assert read(path)[0] == ["one", "two", "three", "four", "five", "six"]


def test_ascii_before_the_first_other_character_does_not_count(tmp_path: Path) -> None:
    """The encoding is detected in the first text that is not ASCII, wherever it begins."""
    path = tmp_path / "text.txt"
    path.write_bytes(b"plain text\n" * 30_000 + "\n".join(MANY).encode("gb18030"))
    found, report = read(path)
    assert found[30_000:] == MANY
    assert report.encoding == "gb18030"


@pytest.mark.parametrize("codec", ["utf-8", "gb18030", "big5", "utf-16-le"])
def test_characters_are_whole_at_the_ends_of_chunks(tmp_path: Path, codec: str) -> None:
    """A line of several chunks has no broken character, whatever the offset."""
    for offset in range(4):
        path = tmp_path / f"{offset}.txt"
        text = "a" * offset + "我們會後再討論這個問題，謝謝大家的參與。" * 5_000
        path.write_bytes(text.encode(codec))
        found, report = read(path)
        assert "".join(found) == text
        assert report.removed == {}
        assert all(line.endswith("。") for line in found)


def test_broken_bytes_cost_their_line_or_sentence(tmp_path: Path) -> None:
    """Text with broken bytes stays UTF-8; broken lines go, of long lines only the sentence."""
    path = tmp_path / "text.txt"
    lines = [line.encode() for line in MANY]
    lines[3] = lines[3][:10] + b"\xff" + lines[3][10:]
    sentences = [f"这个很长的段落有许多句子，这是第{chr(0x4E00 + n)}句。" for n in range(20)]
    long = "".join(sentences).encode()
    lines.append(long[:-20] + b"\xe4\xb8" + long[-20:])
    path.write_bytes(b"\n".join(lines))
    found, report = read(path)
    assert found == [*MANY[:3], *MANY[4:], *sentences[:-1]]
    assert report.encoding == "utf-8"
    assert report.removed == {"undecodable lines": 2}
    assert "not valid utf-8: 2;" in report.warnings[0]


def test_zero_characters_are_left_out(tmp_path: Path) -> None:
    """Zero bytes in text are removed and counted."""
    path = tmp_path / "text.txt"
    path.write_bytes("这一行文字中间有一个\0零，其余的都还是好的。\n".encode() * 3)
    assert read(path)[0] == ["这一行文字中间有一个零，其余的都还是好的。"] * 3
    assert read(path)[1].removed == {"zero characters": 3}


@pytest.mark.parametrize(
    ("encoding", "message"),
    [
        ("klingon", "unknown encoding 'klingon'; name utf-8, .* or name none to detect"),
        ("hex", "unknown encoding"),
        ("utf-8", "not in the encoding utf-8: .* cannot be decoded; name another, or none"),
        ("ascii", "not in the encoding ascii"),
    ],
)
def test_a_wrong_encoding_is_named(tmp_path: Path, encoding: str, message: str) -> None:
    """An encoding that is insisted on must exist and fit; the error has no text."""
    path = tmp_path / "text.txt"
    path.write_bytes("\n".join(CHINESE).encode("gb18030"))
    with pytest.raises(CorpusError, match=message) as caught:
        read(path, encoding=encoding)
    assert CHINESE[0][:2] not in str(caught.value)


def test_an_encoding_may_be_insisted_on(tmp_path: Path) -> None:
    """A named encoding is used, even if the text looks like another."""
    path = tmp_path / "text.txt"
    path.write_bytes("ÄãºÃ".encode("cp1252"))
    assert read(path)[0] == ["你好"]
    assert read(path, encoding="cp1252")[0] == ["ÄãºÃ"]
    assert read(path, encoding="GBK")[0] == ["你好"]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"%PDF-1.7 ...", "a PDF; name it .pdf"),
        (b"PK\x03\x04....", "a zip archive"),
        (gzip.compress(b"text"), "compressed; name it .gz"),
        (random.Random(1).randbytes(5000), "not text"),
    ],
)
def test_other_files_under_the_name_of_text_are_named(
    tmp_path: Path, data: bytes, message: str
) -> None:
    """Binary data with the suffix of text are an error with the file and the remedy."""
    path = tmp_path / "text.txt"
    path.write_bytes(data)
    with pytest.raises(CorpusError, match=rf"text\.txt: {message}"):
        read(path)


def test_an_archive_that_expands_without_end_is_read_in_bounded_memory(tmp_path: Path) -> None:
    """A small archive of a very long line is read in parts."""
    path = tmp_path / "bomb.txt.zst"
    path.write_bytes(zstandard.ZstdCompressor().compress(b"a" * 30_000_000))
    (file,), _ = find_files([str(path)])
    tracemalloc.start()
    try:
        count = sum(len(line) for line in read_lines(file, FileReport(str(path), file.kind)))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert count == 30_000_000
    assert peak < 30_000_000


def test_a_page_may_name_its_encoding(tmp_path: Path) -> None:
    """The charset that a page declares decides between encodings that fit equally well."""
    page = "<html><meta charset='iso-8859-15'><p>Prix : 5 €.</p>"
    path = tmp_path / "page.html"
    path.write_bytes(page.encode("iso-8859-15"))
    assert read(path)[0] == ["Prix : 5 €."]
    assert read(path)[1].encoding == "iso8859-15"


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("html", "\n<!DOCTYPE html><html><script>var x;</script><p>He said</p><p>no.</p></html>"),
        ("jsonl", '{"text": "He said", "id": 1}\n{"text": "no.", "id": 2}\n'),
    ],
)
def test_text_of_another_kind_is_read_as_what_it_is(tmp_path: Path, kind: str, text: str) -> None:
    """A page or JSON Lines under the name of plain text are recognised, with a warning."""
    path = tmp_path / "text.txt"
    path.write_text(text)
    lines, report = read(path)
    assert lines == ["He said", "no."]
    assert report.kind == kind
    assert report.warnings == [f"read as .{kind}, which it is"]


def test_lines_in_a_second_encoding_go(tmp_path: Path) -> None:
    """If another program has appended lines in its encoding, those are left out and counted."""
    path = tmp_path / "text.txt"
    appended = "\n".join(line[:12] for line in MANY[:30]).encode("gb18030")
    path.write_bytes("\n".join([*MANY, ""]).encode() + appended)
    lines, report = read(path)
    assert lines == MANY
    assert report.removed == {"undecodable lines": 30}


def test_a_block_of_zeros_goes(tmp_path: Path) -> None:
    """Zeros that a crash has left in a text do not make it refused."""
    path = tmp_path / "text.txt"
    path.write_bytes("\n".join(MANY[:50]).encode() + b"\0" * 4096 + "\n".join(MANY[50:]).encode())
    lines, report = read(path)
    assert "".join(lines) == "".join(MANY)
    assert report.removed == {"zero characters": 4096}


def test_codes_of_terminals_go(tmp_path: Path) -> None:
    """Colours that a program has printed into a log or text leave nothing."""
    path = tmp_path / "build.log"
    path.write_text("\x1b[1;31m2023-01-02 10:22:33 ERROR\x1b[0m No room is left\n" * 3)
    assert read(path)[0] == ["No room is left"] * 3


def test_mojibake_is_named(tmp_path: Path) -> None:
    """UTF-8 that was saved again as Latin-1 is an error that says so."""
    path = tmp_path / "text.txt"
    path.write_bytes("\n".join(MANY).encode().decode("latin-1").encode())
    with pytest.raises(CorpusError, match="mojibake: saved in the wrong encoding; take the file"):
        read(path)


def test_broken_bytes_in_a_book_are_left_out(tmp_path: Path) -> None:
    """A paragraph of an .epub that cannot be decoded is counted and not learned."""
    path = tmp_path / "book.epub"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("mimetype", "application/epub+zip")
        file.writestr("a.xhtml", b"<p>Whole words.</p><p>Half a w\xff\xfe word.</p>")
    report = FileReport(str(path), "epub")
    assert list(read_lines(InputFile(path, "epub", named=True), report)) == ["Whole words."]
    assert report.removed["undecodable lines"] == 1


def test_a_wrong_encoding_that_decodes_most_characters_is_refused(tmp_path: Path) -> None:
    """Big5 decodes 90 % of this text in GB18030: too little for an encoding that is insisted on."""
    path, line = tmp_path / "a.txt", "我们的车坏了，只好坐公交车去火车站。"
    path.write_bytes("\n".join([line] * 20).encode("gb18030"))
    with pytest.raises(CorpusError, match="not in the encoding big5"):
        read(path, encoding="big5")
    assert line in read(path, encoding="gb18030")[0]
