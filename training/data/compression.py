"""Bytes of plain and compressed files, in chunks; hostile archives do not fill the memory."""

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import zstandard

from model.errors import CorpusError

_OPENERS: dict[str, Any] = {".gz": gzip.open, ".xz": lzma.open, ".bz2": bz2.open}
COMPRESSIONS = (*_OPENERS, ".zst")
_CHUNK_BYTES = 1 << 16
# zstd expands 4 bytes into as much as 128 KiB.
_ZSTD_CHUNK_BYTES = 1 << 8


def read_chunks(path: Path) -> Iterator[bytes]:
    """Read a file in chunks, decompressed according to its suffix.

    Raises:
        CorpusError: the file is unreadable, or a damaged archive.
    """
    suffix = path.suffix.lower()
    try:
        if suffix == ".zst":
            yield from _zstd_chunks(path)
            return
        with _OPENERS.get(suffix, io.open)(path, "rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                yield chunk
    except (EOFError, lzma.LZMAError, zlib.error, zstandard.ZstdError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise unreadable(path, error) from error
        # gzip and bz2 report damage as an OSError without a number.
        raise CorpusError(
            f"{path}: damaged or truncated {suffix} archive ({error}); fetch or compress it again"
        ) from error


def unreadable(path: Path, error: OSError) -> CorpusError:
    """Return the error of a file that the system does not read."""
    return CorpusError(f"{path}: cannot be read: {error.strerror}; check path and permissions")


def _zstd_chunks(path: Path) -> Iterator[bytes]:
    # The library's stream reader takes a truncated frame for the end of the file.
    decompressor: Any = None
    with path.open("rb") as file:
        while chunk := file.read(_ZSTD_CHUNK_BYTES):
            while chunk:
                decompressor = decompressor or zstandard.ZstdDecompressor().decompressobj()
                data = decompressor.decompress(chunk)
                for start in range(0, len(data), _CHUNK_BYTES):
                    yield data[start : start + _CHUNK_BYTES]
                chunk = decompressor.unused_data if decompressor.eof else b""
                if decompressor.eof:
                    decompressor = None
    if decompressor is not None:
        raise EOFError("the last frame is not complete")
