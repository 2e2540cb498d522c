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

COMPRESSIONS = (".gz", ".xz", ".zst", ".bz2")
CHUNK_BYTES = 1 << 16
# zstd expands 4 bytes into as much as 128 KiB: small chunks keep a hostile file from filling the
# memory.
_ZSTD_CHUNK_BYTES = 1 << 8
_OPENERS: dict[str, Any] = {".gz": gzip.open, ".xz": lzma.open, ".bz2": bz2.open}


def read_chunks(path: Path) -> Iterator[bytes]:
    """Read a file in chunks, decompressed according to its suffix.

    Raises:
        CorpusError: the file is unreadable, or a damaged archive.
    """
    suffix = path.suffix.lower()
    try:
        if suffix == ".zst":
            for data in _zstd_chunks(path):
                for start in range(0, len(data), CHUNK_BYTES):
                    yield data[start : start + CHUNK_BYTES]
            return
        with _OPENERS.get(suffix, io.open)(path, "rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                yield chunk
    except (EOFError, lzma.LZMAError, gzip.BadGzipFile, zlib.error, zstandard.ZstdError) as error:
        raise _damaged(path, error) from error
    except OSError as error:
        if error.errno is None:  # bz2's word for damage
            raise _damaged(path, error) from error
        raise unreadable(path, error) from error


def unreadable(path: Path, error: OSError) -> CorpusError:
    """Return the error of a file that the system does not read."""
    return CorpusError(
        f"{path}: cannot be read: {error.strerror or error}; check path and permissions"
    )


def _damaged(path: Path, error: Exception) -> CorpusError:
    return CorpusError(
        f"{path}: damaged or truncated {path.suffix} archive ({error}); fetch or compress it again"
    )


def _zstd_chunks(path: Path) -> Iterator[bytes]:
    # The library's stream reader takes a truncated frame for the end of the file.
    decompressor: Any = None
    with path.open("rb") as file:
        while chunk := file.read(_ZSTD_CHUNK_BYTES):
            while chunk:
                decompressor = decompressor or zstandard.ZstdDecompressor().decompressobj()
                if data := decompressor.decompress(chunk):
                    yield data
                chunk = decompressor.unused_data if decompressor.eof else b""
                if decompressor.eof:
                    decompressor = None
    if decompressor is not None:
        raise EOFError("the last frame is not complete")
