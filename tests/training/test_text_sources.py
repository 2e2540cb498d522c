"""Text files to raw lines."""

import gzip
import json
import lzma
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from model.errors import CorpusError
from training.data import text_sources
from training.data.text_sources import expand_inputs, read_lines

COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "": lambda data: data,
    ".gz": gzip.compress,
    ".xz": lzma.compress,
    ".zst": zstandard.ZstdCompressor().compress,
}
ARCHIVES = [suffix for suffix in COMPRESS if suffix]


def lines(path: Path, field: str | None = None) -> list[tuple[int, str]]:
    """Number and text of each line of a file."""
    return [(number, text) for number, text, _ in read_lines(path, field)]


def test_inputs_may_be_files_folders_and_globs(tmp_path: Path) -> None:
    """A folder gives its text files, a glob its matches, a file itself; each file once."""
    for name in ("a.txt", "deep/b.jsonl", "deep/c.txt.gz", "deep/image.png", "other.log"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    entries = (".", "other.log", "*.txt", "deep/*.gz")
    found = expand_inputs([str(tmp_path / entry) for entry in entries])
    names = ["a.txt", "deep/b.jsonl", "deep/c.txt.gz", "other.log"]
    assert [path.relative_to(tmp_path).as_posix() for path in found] == names


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("nowhere.txt", "no such file, folder or match; check the path"),
        ("*.nothing", "no such file, folder or match; check the path"),
        (".", r"no file below it ends in \.txt or \.jsonl"),
    ],
)
def test_inputs_without_text_are_named(tmp_path: Path, entry: str, message: str) -> None:
    """An input that matches nothing, or a folder without text, is an error with its path."""
    (tmp_path / "image.png").write_bytes(b"x")
    with pytest.raises(CorpusError, match=message):
        expand_inputs([str(tmp_path / entry)])


@pytest.mark.parametrize("suffix", COMPRESS)
def test_lines_come_numbered_from_any_compression(tmp_path: Path, suffix: str) -> None:
    """Every compression, in one member or two, gives lines without line ends and BOM."""
    path = tmp_path / f"text.txt{suffix}"
    first = COMPRESS[suffix]("\ufefffirst line\n第二行。\r\n\n".encode())
    path.write_bytes(first + COMPRESS[suffix](b"one\n" * 9000 + b"last"))
    found = lines(path)
    assert found[:4] == [(1, "first line"), (2, "第二行。"), (3, ""), (4, "one")]
    assert found[-1] == (9004, "last")


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
        lines(path)


def test_unreadable_text_is_named(tmp_path: Path) -> None:
    """Another encoding is an error with file, line and byte, but no text."""
    path = tmp_path / "gbk.txt"
    path.write_bytes("好\n".encode() + "秘密".encode("gbk"))
    with pytest.raises(CorpusError, match=r"gbk\.txt:2: not UTF-8 \(byte 0 .*convert") as caught:
        lines(path)
    assert "秘" not in str(caught.value)
    with pytest.raises(CorpusError, match=r"cannot be read: .*check path and permissions"):
        lines(tmp_path)


def test_endless_lines_are_read_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A line without end comes in bounded parts that divide no character; their sizes add up."""
    monkeypatch.setattr(text_sources, "MAX_RAW_BYTES", 1000)
    monkeypatch.setattr(text_sources, "_CHUNK", 77)
    path = tmp_path / "long.txt"
    path.write_bytes(("我😀a" * 900 + "\nend\n").encode())
    found = list(read_lines(path))
    assert "".join(text for number, text, _ in found if number == 1) == "我😀a" * 900
    assert max(len(text.encode()) for _, text, _ in found) <= 1000 + 77
    assert found[-1][:2] == (2, "end")
    assert sum(size for _, _, size in found) == path.stat().st_size


def test_json_lines_give_the_named_member(tmp_path: Path) -> None:
    """Blank lines are skipped, and line ends inside a text end lines."""
    path = tmp_path / "text.jsonl.gz"
    rows = [json.dumps({"text": "一\ntwo", "id": 1}), "", json.dumps({"text": "😀"})]
    path.write_bytes(gzip.compress("\n".join(rows).encode()))
    assert lines(path, "text") == [(1, "一"), (1, "two"), (3, "😀")]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ('{"body": "secret"}', r"no text in a member 'text'.*--field"),
        ('{"text": 5}', "no text in a member 'text'"),
        ('{"text": "secret', "not JSON; each line must be one JSON object"),
        ('{"text": "secret \\ud800"}', "lone surrogate; repair"),
        ("[" * 90_000, "not JSON"),
        (json.dumps({"text": "secret" * 20_000}), "a JSON line above 100000 bytes; split"),
    ],
)
def test_bad_json_lines_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, row: str, message: str
) -> None:
    """A line without text in the member is an error with file, line and remedy, but no text."""
    monkeypatch.setattr(text_sources, "MAX_RAW_BYTES", 100_000)
    path = tmp_path / "text.jsonl"
    path.write_text('{"text": "fine"}\n' + row)
    with pytest.raises(CorpusError, match=rf"text\.jsonl:2: .*{message}") as caught:
        lines(path, "text")
    assert "secret" not in str(caught.value)
    with pytest.raises(CorpusError, match=r"add --field NAME"):
        lines(path)
