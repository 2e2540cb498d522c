"""Bytes of a file to text, in the encoding that is detected or named."""

import codecs
import re
from collections.abc import Callable, Iterable, Iterator
from itertools import chain

from model.errors import CorpusError
from training.data.encodings import codec_of, detect, is_codec, is_in, looks_binary
from training.data.file_report import FileReport
from training.data.input_files import named_by_beginning

_SAMPLE_BYTES = 1 << 18  # from the first chunk on that is not ASCII
_NO_TEXT = "not text, or in an encoding that must be named: --encoding NAME"
# Of the characters beyond ASCII, in an encoding that the user names; Big5 decodes 95 % of GBK
_MAX_UNDECODABLE = 0.02
_MOJIBAKE = "mojibake: saved in the wrong encoding; take the file as it was before that"
# UTF-8 that was read as Latin-1: the first bytes of é and of a Chinese character with the next
_UTF8_AS_LATIN = re.compile("[Ãä-é][\x80-\xbf]")
_COLOUR = re.compile(r"\x1b\[[\d;?]*[A-Za-z]")  # and other codes of terminals
_ASCII = bytes({*range(1, 128)} - {0x1B})


def decode(
    chunks: Iterable[bytes],
    report: FileReport,
    encoding: str | None = None,
    declared: Callable[[bytes], str | None] = lambda _: None,
) -> Iterator[str]:
    """Decode the chunks of a file; the text comes cut anywhere.

    Undecodable bytes become U+FFFD. A byte order mark and zero characters are left out. The
    encoding is detected without *encoding*; *declared* returns the one that the text itself
    names in its first bytes.

    Raises:
        CorpusError: the encoding is unknown or not that of the text, or the file is not text.
    """
    if encoding is not None and not is_codec(encoding):
        raise CorpusError(
            f"unknown encoding {encoding!r}; name utf-8, utf-16, gb18030, big5 or cp1252, or name"
            " none to detect it"
        )
    rest = iter(chunks)
    first = sample = next(rest, b"")
    if kind := named_by_beginning(first):
        raise CorpusError(f"{report.path}: {kind}")
    report.encoding = "utf-8"
    while encoding is None and sample and not sample.translate(None, _ASCII):
        report.bytes += len(sample)
        yield sample.decode("ascii")
        sample = next(rest, b"")
    parts = [sample]
    while parts[-1] and sum(map(len, parts)) < _SAMPLE_BYTES:
        parts.append(next(rest, b""))
    sample = b"".join(parts)
    name = encoding or detect(sample, declared(first))
    if encoding is not None and not is_in(sample, name, _MAX_UNDECODABLE):
        raise CorpusError(
            f"{report.path}: not in the encoding {name}: many characters cannot be decoded; name"
            " another, or none to detect it"
        )
    if looks_binary(sample, name):
        mojibake = name == "utf-8" and _UTF8_AS_LATIN.search(sample.decode("utf-8", "replace"))
        raise CorpusError(f"{report.path}: {_MOJIBAKE if mojibake else _NO_TEXT}")
    report.encoding = name.lower().replace("_", "-")
    decoder = codecs.getincrementaldecoder(codec_of(name))("replace")
    for number, chunk in enumerate(chain([sample], rest, [b""])):
        report.bytes += len(chunk)
        text = decoder.decode(chunk, final=not chunk and number > 0)
        if number == 0:
            text = text.removeprefix("\ufeff")
        if "\x1b" in text:
            text, count = _COLOUR.subn("", text)
            report.removed["colour codes"] += count
        if "\0" in text:
            report.removed["zero characters"] += text.count("\0")
            text = text.replace("\0", "")
        yield text
