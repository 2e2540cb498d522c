"""Files of any kind to lines."""

import bz2
import gzip
import json
import lzma
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from model.errors import CorpusError
from training.data import documents
from training.data.documents import read_lines
from training.data.file_report import FileReport
from training.data.input_files import find_files

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
    monkeypatch.setattr(documents, "MAX_LINE_CHARACTERS", 100)
    path = tmp_path / "long.txt"
    path.write_bytes(("我😀a" * 90_000 + "\nend\n").encode())
    lines, _ = read(path)
    assert "".join(lines) == "我😀a" * 90_000 + "end"
    assert max(map(len, lines)) == 100


def test_json_lines_give_the_named_member(tmp_path: Path) -> None:
    """Blank lines are skipped, and line ends inside a text end lines."""
    path = tmp_path / "text.jsonl.gz"
    rows = [json.dumps({"text": "一\ntwo", "id": 1}), "", json.dumps({"text": "😀"})]
    path.write_bytes(gzip.compress("\n".join(rows).encode()))
    assert read(path, field="text")[0] == ["一", "two", "😀"]
