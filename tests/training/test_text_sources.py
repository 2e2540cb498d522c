"""Text files to raw lines."""

import gzip
import io
import json
import lzma
import random
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from model.errors import CorpusError
from training.data import text_sources
from training.data.text_sources import expand_inputs, read_lines, spool_stdin

COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "": lambda data: data,
    ".gz": gzip.compress,
    ".xz": lzma.compress,
    ".zst": zstandard.ZstdCompressor().compress,
}
TEXT = "first line\n第二行。\r\n\nlast"


def texts(path: Path, field: str | None = None) -> list[str]:
    """The lines of a file."""
    return [text for _, text, _ in read_lines(path, field)]


def test_inputs_may_be_files_folders_and_globs(tmp_path: Path) -> None:
    """A folder gives its text files by suffix, a glob its matches, a file itself whatever its name; each file once."""
    for name in ("a.txt", "deep/b.jsonl", "deep/c.txt.gz", "deep/image.png", "other.log"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    found = expand_inputs([".", "other.log", "*.txt", "deep/*.gz"], tmp_path)
    assert [path.relative_to(tmp_path).as_posix() for path in found] == [
        "a.txt",
        "deep/b.jsonl",
        "deep/c.txt.gz",
        "other.log",
    ]


@pytest.mark.parametrize("entry", ["nowhere.txt", "*.nothing"])
def test_missing_inputs_are_named(tmp_path: Path, entry: str) -> None:
    """What matches nothing is an error with its path."""
    with pytest.raises(CorpusError, match=r"no such file, folder or match; check the path"):
        expand_inputs([entry], tmp_path)


def test_folders_without_text_are_named(tmp_path: Path) -> None:
    """A folder without any text file is an error that says which names count."""
    (tmp_path / "image.png").write_bytes(b"x")
    with pytest.raises(CorpusError, match=r"no file below it ends in \.txt or \.jsonl"):
        expand_inputs([str(tmp_path)])


def test_standard_input_is_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Standard input is kept in a file, byte for byte."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("我\n".encode() * 50_000)))
    spool_stdin(tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == "我\n".encode() * 50_000


@pytest.mark.parametrize("suffix", COMPRESS)
def test_lines_come_numbered_from_any_compression(tmp_path: Path, suffix: str) -> None:
    """Every compression gives the same numbered lines, without line ends."""
    path = tmp_path / f"text.txt{suffix}"
    path.write_bytes(COMPRESS[suffix](TEXT.encode()))
    lines = list(read_lines(path))
    assert [(number, text) for number, text, _ in lines] == [
        (1, "first line"),
        (2, "第二行。"),
        (3, ""),
        (4, "last"),
    ]


@pytest.mark.parametrize("suffix", [".gz", ".xz", ".zst"])
def test_archives_of_several_members_are_read_whole(tmp_path: Path, suffix: str) -> None:
    """Concatenated archives, as parallel compressors write them, are read to their end."""
    path = tmp_path / f"text.txt{suffix}"
    path.write_bytes(COMPRESS[suffix](b"one\n" * 9000) + COMPRESS[suffix](b"two\n"))
    assert Counter(texts(path)) == {"one": 9000, "two": 1}


@pytest.mark.parametrize("suffix", [".gz", ".xz", ".zst"])
@pytest.mark.parametrize(
    "damage", [lambda data: data[:-9], lambda data: b"no archive" + data], ids=["short", "other"]
)
def test_damaged_archives_are_named(
    tmp_path: Path, suffix: str, damage: Callable[[bytes], bytes]
) -> None:
    """A truncated archive, or what is none, is an error that names the file and the remedy."""
    path = tmp_path / f"text.txt{suffix}"
    noise = random.Random(1).randbytes(50_000).hex().encode()
    path.write_bytes(damage(COMPRESS[suffix](noise)))
    with pytest.raises(
        CorpusError, match=rf"text\.txt{suffix}: damaged or truncated {suffix} archive.*again"
    ):
        texts(path)


def test_text_that_is_not_utf8_is_named_with_its_line(tmp_path: Path) -> None:
    """Another encoding is an error with file, line and byte, and no text of the file."""
    path = tmp_path / "gbk.txt"
    path.write_bytes("好\n".encode() + "秘密".encode("gbk"))
    with pytest.raises(
        CorpusError, match=r"gbk\.txt:2: not UTF-8 \(byte 0 of the line\); convert it"
    ) as caught:
        texts(path)
    assert "秘" not in str(caught.value)


def test_a_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    """A byte order mark at the start is dropped."""
    path = tmp_path / "bom.txt"
    path.write_bytes("\ufeff一\n二".encode())
    assert texts(path) == ["一", "二"]


def test_unreadable_files_are_named(tmp_path: Path) -> None:
    """What cannot be read is an error that names it."""
    with pytest.raises(CorpusError, match=r"cannot be read: .*check path and permissions"):
        texts(tmp_path)


def test_endless_lines_are_read_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A line without end comes in bounded parts that divide no character."""
    monkeypatch.setattr(text_sources, "MAX_RAW_BYTES", 1000)
    monkeypatch.setattr(text_sources, "_CHUNK", 77)
    path = tmp_path / "long.txt"
    path.write_bytes(("我😀a" * 900 + "\nend").encode())
    lines = list(read_lines(path))
    assert "".join(text for number, text, _ in lines if number == 1) == "我😀a" * 900
    assert max(len(text.encode()) for _, text, _ in lines) <= 1000 + 77
    assert lines[-1][:2] == (2, "end")
    assert (
        sum(size for _, _, size in lines) == path.stat().st_size + 1
    )  # the last line end is counted though missing


def test_json_lines_give_the_named_member(tmp_path: Path) -> None:
    """The text of the named member is read; blank lines are passed over, line ends inside a text end lines."""
    path = tmp_path / "text.jsonl.gz"
    rows = [json.dumps({"text": "一\ntwo", "id": 1}), "", json.dumps({"text": "😀"})]
    path.write_bytes(gzip.compress("\n".join(rows).encode()))
    assert [(number, text) for number, text, _ in read_lines(path, "text")] == [
        (1, "一"),
        (1, "two"),
        (3, "😀"),
    ]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ('{"body": "secret"}', r"no text in a member 'text'.*--field"),
        ('["secret"]', r"no text in a member 'text'"),
        ('{"text": 5}', r"no text in a member 'text'"),
        ('{"text": "secret', r"not JSON; each line must be one JSON object"),
        ('{"text": "secret \\ud800"}', r"lone surrogate; repair"),
        ("[" * 100_000, r"not JSON"),
    ],
)
def test_bad_json_lines_are_named(tmp_path: Path, row: str, message: str) -> None:
    """What is not an object with text in the member is an error with file, line and remedy, and no text."""
    path = tmp_path / "text.jsonl"
    path.write_text('{"text": "fine"}\n' + row)
    with pytest.raises(CorpusError, match=rf"text\.jsonl:2: .*{message}") as caught:
        texts(path, "text")
    assert "secret" not in str(caught.value)


def test_json_lines_need_a_field(tmp_path: Path) -> None:
    """Without the member's name JSON Lines cannot be read."""
    path = tmp_path / "text.jsonl"
    path.write_text("{}")
    with pytest.raises(CorpusError, match=r"add --field NAME"):
        texts(path)


def test_endless_json_lines_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A JSON line above the bound is an error, not memory."""
    monkeypatch.setattr(text_sources, "MAX_RAW_BYTES", 1000)
    path = tmp_path / "text.jsonl"
    path.write_text(json.dumps({"text": "a" * 200_000}))
    with pytest.raises(CorpusError, match=r"text\.jsonl:1: a JSON line above 1000 bytes; split"):
        texts(path, "text")
