"""Bytes of a file to text, in the encoding that is detected or named."""

import codecs
from collections.abc import Callable, Iterable, Iterator
from itertools import chain

from model.errors import CorpusError
from training.data.encodings import (
    MAX_UNDECODABLE,
    codec_of,
    detect,
    is_codec,
    looks_binary,
    share_undecodable,
)
from training.data.file_report import FileReport
from training.data.file_types import name_by_content

# A sample begins with the first chunk that is not ASCII. It is longer if nearly all of it is ASCII.
_SAMPLE_BYTES = 1 << 18
_MAX_SAMPLE_BYTES = 1 << 22
_MIN_NON_ASCII = 200
_ASCII = bytes(range(1, 128))


def decode(
    chunks: Iterable[bytes],
    report: FileReport,
    encoding: str | None = None,
    declared: Callable[[bytes], str | None] | None = None,
) -> Iterator[str]:
    """Decode the chunks of a file; the text comes cut anywhere.

    Undecodable bytes become U+FFFD. A byte order mark and zero characters are left out.

    Args:
        chunks: the bytes of the file.
        report: receives size and encoding.
        encoding: the encoding to insist on; None to detect it.
        declared: returns the encoding that the text itself names, from its first bytes.

    Raises:
        CorpusError: the encoding is unknown or not that of the text, or the file is not text.
    """
    if encoding is not None and not is_codec(encoding):
        raise CorpusError(
            f"unknown encoding {encoding!r}; name utf-8, utf-16, gb18030, big5 or cp1252, or name"
            " none to detect it"
        )
    rest = _counted(chunks, report)
    first = next(rest, b"")
    if kind := name_by_content(first):
        raise CorpusError(f"{report.path}: {kind}")
    charset = declared(first) if declared else None
    rest = chain([first] if first else [], rest)
    report.encoding = "utf-8"
    sample = b""
    for chunk in rest:
        if encoding is None and not chunk.translate(None, _ASCII):
            yield chunk.decode("ascii")
        else:
            sample = _sample(chunk, rest)
            break
    else:
        return
    name = encoding or detect(sample, charset)
    _check(sample, name, report, insisted=encoding is not None)
    report.encoding = name.lower().replace("_", "-")
    decoder = codecs.getincrementaldecoder(codec_of(name))("replace")
    begins = True
    for chunk in chain([sample], rest, [b""]):
        text = decoder.decode(chunk, final=not chunk)
        if begins:
            text = text.removeprefix("\ufeff")
            begins = False
        if "\0" in text:
            report.removed["zero characters"] += text.count("\0")
            text = text.replace("\0", "")
        yield text


def _counted(chunks: Iterable[bytes], report: FileReport) -> Iterator[bytes]:
    for chunk in chunks:
        report.bytes += len(chunk)
        yield chunk


def _sample(first: bytes, rest: Iterator[bytes]) -> bytes:
    """Return the first chunk with as many more as are needed to detect the encoding."""
    parts, size, non_ascii = [first], len(first), len(first.translate(None, _ASCII))
    while size < _SAMPLE_BYTES or (non_ascii < _MIN_NON_ASCII and size < _MAX_SAMPLE_BYTES):
        chunk = next(rest, b"")
        if not chunk:
            break
        parts.append(chunk)
        size += len(chunk)
        non_ascii += len(chunk.translate(None, _ASCII))
    return b"".join(parts)


def _check(sample: bytes, name: str, report: FileReport, *, insisted: bool) -> None:
    """Refuse a sample that is not text, or not in the encoding *name*."""
    share = share_undecodable(sample, name)
    if insisted and share > MAX_UNDECODABLE:
        raise CorpusError(
            f"{report.path}: not in the encoding {name}: {share:.0%} of the characters beyond ASCII"
            " cannot be decoded; name another, or none to detect it"
        )
    if looks_binary(sample, name):
        raise CorpusError(f"{report.path}: not text, or in an unusual encoding; name its encoding")
