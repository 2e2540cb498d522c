"""Text as people have it, from the command line to the report and the prepared data."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from lacuna import main as lacuna
from tests.end_to_end import odd_files as odd
from training.__main__ import main
from training.data.shards import open_prepared
from training.evaluation import evaluate

ENGLISH, CHINESE, TRADITIONAL = odd.english(60), odd.chinese(60), odd.traditional(60)
MIXED = [line for pair in zip(CHINESE, ENGLISH, strict=True) for line in pair]
HALF_WIDTH = str.maketrans("，。", ",.")


@dataclass(frozen=True)
class File:
    """A file that contains sentences."""

    name: str
    content: bytes
    lines: Sequence[str]
    encoding: str = "utf-8"  # as reported
    extra_lines: int = 0  # headings
    words: tuple[str, ...] = ()  # of the command line


def plain(name: str, lines: Sequence[str], encoding: str, end: str = "\n") -> File:
    """A plain text file."""
    reported = "utf-8" if encoding == "utf-8-sig" else encoding
    return File(name, odd.joined(lines, end).encode(encoding), lines, reported)


FILES = [
    plain("lf.txt", MIXED, "utf-8"),
    plain("bom-crlf.txt", MIXED, "utf-8-sig", "\r\n"),
    plain("mac.txt", ENGLISH, "utf-8", "\r"),
    plain("separators.txt", CHINESE, "utf-8", "\u2028"),
    plain("gbk.txt", CHINESE, "gb18030"),
    plain("gbk-mac.txt", MIXED, "gb18030", "\r"),
    plain("rare.txt", [*CHINESE, "字典里有𠀀和㐀两个字。"], "gb18030", "\r\n"),
    plain("big5.txt", TRADITIONAL, "big5", "\r\n"),
    plain("windows.txt", [*ENGLISH, "“It’s a café – in Zürich.”"], "cp1252", "\r\n"),
]
# UTF-16 with and without a byte order mark
for order in ("le", "be"):
    for mark in ("", "\ufeff"):
        content = (mark + odd.joined(MIXED, "\r\n")).encode(f"utf-16-{order}")
        name = "utf-16" if mark else f"utf-16-{order}"
        FILES.append(File(f"{order}-{len(mark)}.txt", content, MIXED, name))

HEADER = ("id", "comment", "date", "user")
STRUCTURED = {
    "table.csv": (odd.table(HEADER, MIXED), MIXED),
    "semicolons.csv": (odd.table(HEADER, ENGLISH, ";"), ENGLISH),
    "tabs.csv": (odd.table(HEADER, CHINESE, "\t"), CHINESE),
    "table.tsv": (odd.table(HEADER, ENGLISH, "\t"), ENGLISH),
    "cells.csv": (
        odd.table(HEADER, ["\n".join(MIXED[i : i + 3]) for i in range(0, 120, 3)]),
        MIXED,
    ),
    "no-header.csv": (odd.joined(f'{n},"{line}"' for n, line in enumerate(MIXED)), MIXED),
    "lines.jsonl": (odd.json_lines(MIXED), MIXED),
    "lines.json": (odd.json_lines(MIXED), MIXED),
    "lines-in.txt": (odd.json_lines(MIXED), MIXED),
    "page-in.txt": (odd.web_page(ENGLISH), ENGLISH),
    "array.json": (json.dumps(MIXED), MIXED),
    "objects.json": (json.dumps([{"id": "quokka", "body": line} for line in ENGLISH]), ENGLISH),
    "telegram.json": (odd.telegram(MIXED), MIXED),
    "subtitles.srt": (odd.subtitles(ENGLISH), ENGLISH),
    "two-languages.srt": (
        odd.subtitles([f"{a}\n{b}" for a, b in zip(CHINESE, ENGLISH, strict=True)], "\r\n"),
        MIXED,
    ),
    "subtitles-in.txt": (odd.subtitles(CHINESE), CHINESE),
    "web.vtt": (odd.web_subtitles(ENGLISH), ENGLISH),
    "page.html": (odd.web_page(MIXED), MIXED),
    "page.md": (odd.markdown(ENGLISH), ENGLISH),
    "chinese.md": (odd.markdown(CHINESE), CHINESE),
    "WhatsApp Chat with Q.txt": (odd.whatsapp(MIXED), MIXED),
    "聊天记录.txt": (odd.wechat(CHINESE), CHINESE),
    "server.log": (
        odd.joined(f"2031-04-01 10:00:{n:02},123 INFO {line}" for n, line in enumerate(ENGLISH)),
        ENGLISH,
    ),
}
FILES += [File(name, text.encode(), lines) for name, (text, lines) in STRUCTURED.items()]
FILES += [
    File("page-big5.html", odd.web_page(TRADITIONAL, "big5").encode("big5"), TRADITIONAL, "big5"),
    File(
        "excel.csv",
        ("\ufeff" + odd.table(HEADER, MIXED, "\t")).encode("utf-16-le"),
        MIXED,
        "utf-16",
    ),
    File("gbk.srt", odd.subtitles(CHINESE, "\r\n").encode("gbk"), CHINESE, "gb18030"),
    File("field.csv", odd.table(("comment", "id", "body"), ENGLISH).encode(), ENGLISH),
    File("letter.docx", odd.word_document(MIXED), MIXED, ""),
    File("book.epub", odd.electronic_book(CHINESE), CHINESE, ""),
]
for suffix, compress in odd.COMPRESSORS.items():
    FILES.append(File(f"a.txt{suffix}", compress(odd.joined(MIXED).encode()), MIXED))
    FILES.append(File(f"a.srt{suffix}", compress(odd.subtitles(ENGLISH).encode()), ENGLISH))


def dry_run(directory: Path, *words: str) -> dict[str, Any]:
    """Run ``prepare --dry-run`` and return its report."""
    output = directory / "prepared"
    assert main(["prepare", *words, "--output", str(output), "--dry-run"]) == 0
    assert [path.name for path in output.iterdir()] == ["report.json"]
    return dict(json.loads((output / "report.json").read_text(encoding="utf-8")))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_a_file_is_read_as_its_sentences(file: File, tmp_path: Path) -> None:
    """Exactly the sentences are counted by language, the encoding is reported, no mark is left."""
    path = tmp_path / file.name
    path.write_bytes(file.content)
    report = dry_run(tmp_path, str(path), *file.words)
    chinese = [line for line in file.lines if ord(line[0]) > 0x2E80]
    counts = {"zh": len(chinese), "en": len(file.lines) - len(chinese)}
    assert {name: n for name, n in report["lines"].items() if n} == {
        k: n for k, n in counts.items() if n
    }
    assert sum(report["characters"].values()) == sum(map(len, file.lines))
    assert report["files"][0]["encoding"] == file.encoding
    assert not [line for line in report["samples"] for mark in odd.MARKS if mark in line]


def write(directory: Path, files: dict[str, bytes]) -> Path:
    """Write files into a folder and return it."""
    for name, content in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return directory


EVERYTHING = {
    "小说 [第一章].txt": "".join(odd.chinese(280)).encode("gbk"),
    "films/cats.srt": odd.subtitles(odd.english(50), "\r\n").encode(),
    "chat/messages.csv": odd.table(HEADER, odd.chinese(40, start=300)).encode(),
    "notes.md": odd.markdown(odd.english(30, start=300)).encode(),
    "deep/er/page.htm": odd.web_page(odd.english(20, start=400)).encode(),
    "old.jsonl.xz": odd.COMPRESSORS[".xz"](odd.json_lines(odd.chinese(20, start=500)).encode()),
}
SKIPPED = {
    "cat.png": (odd.PICTURE, "picture"),
    "tune.mp3": (b"ID3\3" + bytes(100), "sound"),
    "letter.doc": (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600), "docx"),
    "empty.txt": (b"", "empty"),
    "archive.zip": (b"PK\3\4" + bytes(100), "archive"),
    "names.txt.gz": (odd.COMPRESSORS[".gz"](b"quokka " * 99)[:-9], "damaged"),
    "script.py": (b"import quokka\n", "program"),
}


def test_a_folder_with_a_bit_of_everything(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Languages are counted by line, no mark is learned, and each skipped file has its reason."""
    folder = write(tmp_path / "a folder", EVERYTHING)
    write(folder, {name: content for name, (content, _) in SKIPPED.items()})
    (folder / "deep/loop").symlink_to(folder)
    report = dry_run(tmp_path, str(folder))
    assert report["lines"] == {"zh": 340, "en": 100}
    assert min(report["held_out_lines"].values()) > 0
    assert {Path(file["path"]).name for file in report["files"]} == {
        Path(name).name for name in EVERYTHING
    }
    reasons = {Path(each["path"]).name: each["reason"] for each in report["skipped"]}
    printed = capsys.readouterr().out
    assert reasons.keys() == SKIPPED.keys()
    for name, (_, word) in SKIPPED.items():
        assert word in reasons[name]
        assert name in printed


def test_what_is_trained_on_has_no_marks(tmp_path: Path) -> None:
    """The prepared lines are the sentences of all files, and nothing else."""
    folder = write(tmp_path / "text", EVERYTHING)
    assert main(["prepare", str(folder), "--output", str(tmp_path / "data")]) == 0
    prepared = open_prepared(tmp_path / "data")
    sources = (*prepared.sources, *prepared.held_out)
    assert {source.language for source in sources} == {"zh", "en"}
    text = "".join(prepared.tokenizer.decode(source.ids.tolist()) for source in sources)
    assert not [mark for mark in odd.MARKS if mark in text]
    text = text.translate(HALF_WIDTH)  # as some lines are, on purpose
    for line in (*odd.english(50), *odd.chinese(280), *odd.chinese(20, start=500)):
        assert line.translate(HALF_WIDTH) in text


# Each is refused by name when it is the only input: the content, and a word of the remedy
REFUSED = {
    "cat.png": (odd.PICTURE, "picture"),
    "cat.txt": (odd.PICTURE, "picture"),
    "letter.doc": (SKIPPED["letter.doc"][0], "docx"),
    "letter.docx": (odd.word_document(ENGLISH)[:400], "damaged"),
    "book.pdf": (b"%PDF-1.7\nquokka", "damaged"),
    "book.epub": (b"PK\3\4quokka", "damaged"),
    "bad.txt.gz": (SKIPPED["names.txt.gz"][0], "damaged"),
    "empty.txt": (b"", "empty"),
    "numbers.txt": (odd.joined(map(str, range(99))).encode(), "letter"),
    "emoji.txt": (("😀🎉\n" * 20).encode(), "letter"),
    "random.txt": (bytes(range(128, 256)) * 20, "encoding"),
    "broken.json": (b'{"text": quokka', "JSON"),
    "numbers.csv": (b"count,price\n" + b"1,2\n" * 50, "letter"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_file_without_text_is_refused(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The last line on standard error names the file and the reason, not the content."""
    content, reason = REFUSED[name]
    path = tmp_path / name
    path.write_bytes(content)
    assert main(["prepare", str(path), "--dry-run"]) == 2
    errors = capsys.readouterr().err
    line = errors.rstrip("\n").rpartition("\n")[2]
    assert line.startswith("CorpusError: ")
    assert reason in line.replace(str(path), "")
    assert str(path) in line
    assert "quokka" not in errors


def test_one_command_from_a_folder_to_a_better_checkpoint(
    tiny_checkpoint: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`lacuna train` reads, reports, adapts, exports, and says how to serve it; both gain."""
    monkeypatch.setattr(evaluate, "BOOTSTRAP_ROUNDS", 20)
    folder, output = write(tmp_path / "my text", EVERYTHING), tmp_path / "out"
    words = f"train --checkpoint {tiny_checkpoint} --steps 6 --lines 2 --typing-lines 1".split()
    assert lacuna([*words, str(folder), "--output", str(output)]) == 0
    printed = capsys.readouterr().out
    assert "warning" in printed  # so little text
    assert f"serve --checkpoint {output / 'checkpoint'}" in printed
    report = json.loads((output / "evaluation.json").read_text(encoding="utf-8"))
    for language in ("zh", "en"):
        bits = report["languages"][language]["metrics"]["bits_per_character"]["values"]
        assert bits[1] < bits[0]


def test_sizes_are_chosen_for_a_text_of_many_characters(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No number needs to be known beforehand for Chinese of 2,000 different characters."""
    characters = "".join(map(chr, range(0x4E00, 0x4E00 + 2000)))
    lines = [characters[i : i + 20] + f"，{line}" for i, line in enumerate(odd.chinese(700))]
    path = tmp_path / "zh.txt"
    path.write_text(odd.joined([*lines, *(line[::-1] for line in lines)]), encoding="utf-8")
    assert main(["prepare", str(path), "--output", str(tmp_path / "data")]) == 0
    report = json.loads((tmp_path / "data/report.json").read_text(encoding="utf-8"))
    assert report["tokens_per_character"]["zh"] < 1.3
    assert "tokens" in capsys.readouterr().out


ONE_LINE = {
    "novel.txt": "".join(odd.chinese(300)).encode("gb18030"),
    "story.txt": " ".join(odd.english(200)).encode(),
    "array.json": json.dumps(odd.english(200)).encode(),
    "mac.txt": odd.joined(odd.english(200), "\r").encode(),
}


@pytest.mark.parametrize("name", ONE_LINE)
def test_a_text_on_one_line_becomes_sentences(name: str, tmp_path: Path) -> None:
    """There are hundreds of lines, and some are held out."""
    (tmp_path / name).write_bytes(ONE_LINE[name])
    report = dry_run(tmp_path, str(tmp_path / name))
    (count,), (held_out,) = report["lines"].values(), report["held_out_lines"].values()
    assert count == 300 if name == "novel.txt" else 200
    assert 10 <= held_out <= count / 4


def test_a_field_may_be_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A column, JSON member or member in an array is read instead of the one that is found."""
    objects = [{"body": line, "title": f"No {i} is it."} for i, line in enumerate(ENGLISH)]
    rows = odd.table(("title", "body"), ENGLISH)
    files = {"a.json": json.dumps(objects), "a.jsonl": odd.joined(map(json.dumps, objects))}
    for name, content in {**files, "a.csv": rows}.items():
        (tmp_path / name).write_text(content, encoding="utf-8")
        report = dry_run(tmp_path, str(tmp_path / name), "--field", "body")
        assert report["lines"]["en"] == len(ENGLISH)
        assert report["files"][0]["fields"] == ["body"]
        capsys.readouterr()
        assert main(["prepare", str(tmp_path / name), "--dry-run", "--field", "boddy"]) == 2
        assert "title" in capsys.readouterr().err


def test_an_encoding_may_be_insisted_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The given encoding is used, and one that does not fit or exist is refused."""
    path = tmp_path / "a.txt"
    path.write_bytes(odd.joined(CHINESE).encode("gbk"))
    report = dry_run(tmp_path, str(path), "--encoding", "gbk")
    assert report["lines"]["zh"] == 60
    for encoding in ("utf-8", "klingon"):
        assert main(["prepare", str(path), "--dry-run", "--encoding", encoding]) == 2
        assert encoding in capsys.readouterr().err


WARNED = {
    "twenty.txt": (odd.joined(ENGLISH[:20]), "20 different lines"),
    "again.txt": (odd.joined(ENGLISH * 4), "occurred before"),
    "mojibake.txt": (odd.joined(CHINESE).encode("gbk").decode("latin-1"), "mojibake"),
    "table.csv": (odd.table(HEADER, ENGLISH[:20]), "20 different lines"),
}


@pytest.mark.parametrize("name", WARNED)
def test_a_text_that_teaches_little_is_warned_of(name: str, tmp_path: Path) -> None:
    """The report says so before anything is trained."""
    content, warning = WARNED[name]
    (tmp_path / name).write_text(content, encoding="utf-8")
    report = dry_run(tmp_path, str(tmp_path / name))
    assert any(warning in each for each in report["warnings"])
