"""Text files to raw lines. Memory is bounded: files are streamed, long lines come in parts."""

import glob
import gzip
import io
import json
import lzma
import re
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import zstandard

from model.errors import CorpusError

COMPRESSIONS = (".gz", ".xz", ".zst")
# A longer plain line is read in parts; a longer JSON line is refused.
MAX_RAW_BYTES = 4 << 20

_SURROGATE = re.compile("[\ud800-\udfff]")
_CHUNK = 1 << 16
# zstd expands 4 bytes into as much as 128 KiB: small chunks keep a hostile file from filling the
# memory.
_ZSTD_CHUNK = 1 << 12


def expand_inputs(inputs: Iterable[str]) -> list[Path]:
    """Turn files, folders and globs into files, sorted within each input.

    A folder means every ``.txt`` and ``.jsonl`` file below it, also compressed.

    Raises:
        CorpusError: an input matches nothing, or a folder contains no text.
    """
    found: list[Path] = []
    for entry in inputs:
        path = Path(entry)
        if path.is_dir():
            files = sorted(
                file for file in path.rglob("*") if file.is_file() and _kind(file) is not None
            )
            fault = "no file below it ends in .txt or .jsonl, or these and .gz, .xz, .zst"
        else:
            names = [entry] if path.exists() else glob.glob(entry, recursive=True)  # noqa: PTH207 (Path.glob takes no absolute pattern)
            files = sorted(filter(Path.exists, map(Path, names)))
            fault = "no such file, folder or match; check the path"
        if not files:
            raise CorpusError(f"{path}: {fault}")
        found.extend(files)
    return list(dict.fromkeys(found))


def read_lines(path: Path, field: str | None = None) -> Iterator[tuple[int, str, int]]:
    """Read the lines of one file, decompressed according to its suffix.

    In JSON Lines (``.jsonl``), *field* is the member of each object that contains the text.

    Yields:
        Line number from 1, text without its line end, bytes read for it. A plain line above
        ``MAX_RAW_BYTES`` comes in parts, and a JSON text with line ends as several, each with the
        same number.

    Raises:
        CorpusError: the file is unreadable, truncated, not UTF-8, not JSON, or lacks the field.
    """
    is_json = _kind(path) == ".jsonl"
    if is_json and field is None:
        raise CorpusError(f"{path}: JSON Lines need the member with the text; add --field NAME")
    for number, raw, complete in _raw_lines(path):
        try:
            text = raw.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise CorpusError(
                f"{path}:{number}: not UTF-8 (byte {error.start} of the line); convert it, for"
                " instance with iconv"
            ) from error
        size = len(raw) + complete
        if not is_json:
            yield number, text, size
            continue
        if not complete or len(raw) > MAX_RAW_BYTES:
            raise CorpusError(
                f"{path}:{number}: a JSON line above {MAX_RAW_BYTES} bytes; split its text"
            )
        if not text.strip():
            continue
        for part in _json_text(text, field or "", f"{path}:{number}").split("\n"):
            yield number, part, size
            size = 0


def _json_text(line: str, field: str, place: str) -> str:
    """Return the text of a JSON line; errors name the place and no text."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise CorpusError(f"{place}: not JSON; each line must be one JSON object") from error
    text = value.get(field) if isinstance(value, dict) else None
    if not isinstance(text, str):
        raise CorpusError(
            f"{place}: no text in a member {field!r}; name the member with the text: --field NAME"
        )
    if _SURROGATE.search(text):
        raise CorpusError(f"{place}: member {field!r} has a lone surrogate; repair the file")
    return text


def _raw_lines(path: Path) -> Iterator[tuple[int, bytes, bool]]:
    """Yield number and bytes of each line, and False if more of the line follows."""
    number = 1
    pending = b""
    for chunk in _chunks(path):
        *lines, pending = (pending + chunk).split(b"\n")
        for line in lines:
            yield number, line.removesuffix(b"\r"), True
            number += 1
        if len(pending) > MAX_RAW_BYTES:
            # Never divide a character: keep what follows the last byte that starts one.
            end = len(pending) - 1
            while end > len(pending) - 4 and pending[end] & 0xC0 == 0x80:
                end -= 1
            yield number, pending[:end], False
            pending = pending[end:]
    if pending:
        yield number, pending.removesuffix(b"\r"), True


def _chunks(path: Path) -> Iterator[bytes]:
    suffix = path.suffix.lower()
    try:
        if suffix == ".zst":
            yield from _zstd_chunks(path)
            return
        opener: Any = {".gz": gzip.open, ".xz": lzma.open}.get(suffix, io.open)
        with opener(path, "rb") as file:
            while chunk := file.read(_CHUNK):
                yield chunk
    except (EOFError, lzma.LZMAError, gzip.BadGzipFile, zlib.error, zstandard.ZstdError) as error:
        raise CorpusError(
            f"{path}: damaged or truncated {suffix} archive ({error}); fetch or compress it again"
        ) from error
    except OSError as error:
        raise CorpusError(
            f"{path}: cannot be read: {error.strerror or error}; check path and permissions"
        ) from error


def _zstd_chunks(path: Path) -> Iterator[bytes]:
    # The library's stream reader takes a truncated frame for the end of the file.
    decompressor: Any = None
    with path.open("rb") as file:
        while chunk := file.read(_ZSTD_CHUNK):
            while chunk:
                decompressor = decompressor or zstandard.ZstdDecompressor().decompressobj()
                if data := decompressor.decompress(chunk):
                    yield data
                chunk = decompressor.unused_data if decompressor.eof else b""
                if decompressor.eof:
                    decompressor = None
    if decompressor is not None:
        raise EOFError("the last frame is not complete")


def _kind(path: Path) -> str | None:
    """Return ``.txt`` or ``.jsonl``, the suffix before any compression's; None for another."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in COMPRESSIONS:
        suffixes.pop()
    return suffixes[-1] if suffixes and suffixes[-1] in (".txt", ".jsonl") else None
