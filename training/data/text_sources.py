"""Text files to clean lines: reading, cleaning, masking, splitting, and where to cut. Not encoding, nothing on disk.

    inputs -> expand_inputs -> read_lines (decompress, decode, JSON field) -> clean (NFC, masks, long lines split)

Everything streams: memory is bounded by the longest part of a line (``MAX_RAW_BYTES``), whatever the size of a file.
"""

import glob
import gzip
import json
import lzma
import random
import re
import sys
import zlib
from collections import Counter
from collections.abc import Container, Iterator
from pathlib import Path
from typing import IO, Any, cast

import zstandard

from model.errors import CorpusError
from model.text import HAN_CHARACTER, LETTER, is_han, is_word_character, normalise

STDIN = "-"
COMPRESSIONS = (".gz", ".xz", ".zst")
TEXT_SUFFIXES = (".txt", ".text")
JSON_SUFFIXES = (".jsonl", ".ndjson")
# A longer physical line is read in parts; JSON Lines must stay below it.
MAX_RAW_BYTES = 4 << 20
MASKED_MAIL = "name@example.com"

_CHUNK = 1 << 16
# zstd expands 4 bytes into as much as 128 KiB: small chunks keep an unfriendly file from filling the memory.
_ZSTD_CHUNK = 1 << 12
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
# Invisible marks, private use and replacement characters. U+200C and U+200D stay: some scripts and emoji need them.
_INVISIBLE = re.compile(
    "[\u00ad\u061c\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ufeff\ufff9-\uffff\ue000-\uf8ff"
    "\U000e0000-\U000e0fff\U000f0000-\U0010ffff]"
)
_SPACES = re.compile(r"\s+")
_MAIL = re.compile(r"[A-Za-z0-9._%+-]{1,64}@(?:[A-Za-z0-9-]{1,63}\.){1,8}[A-Za-z]{2,24}")
_PHONE = re.compile(
    r"(?<![\d.,])(?:"
    r"\+\d{1,3}[-. ]?(?:\(?\d{1,4}\)?[-. ]?){1,5}\d{2,}"  # international
    r"|\(?0\d{2,3}\)?[- ]?\d{3,4}[- ]?\d{4}"  # with an area code
    r"|(?:1[-. ])?\(?\d{3}\)?[-. ]\d{3}[-. ]\d{4}"  # 3-3-4
    r"|1\d{2}[- ]\d{4}[- ]\d{4}"  # 3-4-4
    r"|\d{3}-\d{4}"  # 3-4
    r"|\d{7,15}"  # unbroken
    r")(?![\d]|[.,]\d)"
)
_DIGIT = re.compile(r"\d")
# Where one sentence ends and another begins: not after an abbreviated title or an initial, nor before a small letter.
_SENTENCE_BREAK = re.compile(
    r"[。！？]+[\"'”’」』）)\]]*\s*"
    r"|(?<!\bMr)(?<!\bMrs)(?<!\bMs)(?<!\bDr)(?<!\bSt)(?<!\bRev)(?<!\bHon)(?<!\bCapt)(?<!\bCol)(?<!\bGen)(?<!\bProf)"
    r"(?<!\b[A-Z])[.!?]+[\"'”’)\]]*\s+(?=[\"'“‘(\[]*[A-Z0-9])"
)
# The end of a sentence, its closing quotes and the space after it included.
_SENTENCE_END = re.compile(r"(?:[。！？…；]|[.!?;](?=[\"'”’)\]]*\s))[\"'”’」』）)\]]*\s*")
_SOFT_BREAK = re.compile(r"[，、：,:]\s*|\s+")
_FULL_WIDTH = re.compile("[，。！？：；（）]")
_HALF_WIDTH = str.maketrans("，！？：；（）", ",!?:;()")
# Lengths of a gap in Chinese text: characters, and how often.
_HAN_SPANS = ((1, 2, 3, 4), (0.35, 0.45, 0.1, 0.1))
_CUT_ATTEMPTS = 4


def expand_inputs(inputs: list[str], root: Path | None = None) -> list[Path]:
    """Turn files, folders and globs into files, sorted within each input.

    Args:
        inputs: paths or patterns; a folder means every text file below it, by suffix.
        root: what relative ones are relative to; None for the current directory.

    Raises:
        CorpusError: nothing there, or a folder without text.
    """
    found: list[Path] = []
    for entry in inputs:
        path = (root or Path()) / entry
        if path.is_dir():
            files = sorted(
                file for file in path.rglob("*") if file.is_file() and _is_text_name(file)
            )
            if not files:
                raise CorpusError(
                    f"{path}: no file below it ends in .txt or .jsonl (or these with .gz, .xz, .zst)"
                )
        elif path.exists():
            files = [path]
        else:
            names = glob.glob(str(path), recursive=True)  # noqa: PTH207 (Path.glob takes no absolute pattern)
            files = sorted(file for name in names if (file := Path(name)).is_file())
            if not files:
                raise CorpusError(f"{path}: no such file, folder or match; check the path")
        found.extend(files)
    return list(dict.fromkeys(found))


def read_lines(
    path: Path, field: str | None = None, name: str | None = None
) -> Iterator[tuple[int, str, int]]:
    """Read the lines of one file, decompressed by its suffix.

    Args:
        path: ``.gz``, ``.xz`` and ``.zst`` are decompressed; ``.jsonl`` and ``.ndjson`` are JSON Lines.
        field: the member of each JSON object that holds the text.
        name: what to call the file in errors, and whose suffix counts; the path itself unless given.

    Yields:
        Line number from 1, text without its line end, bytes read for it. A plain line above ``MAX_RAW_BYTES`` comes in
        parts, a JSON text with line ends as several, each under the same number.

    Raises:
        CorpusError: unreadable, truncated, not UTF-8, not JSON, or without the field.
    """
    shown = Path(name or path)
    is_json = _kind(shown) in JSON_SUFFIXES
    if is_json and field is None:
        raise CorpusError(
            f"{shown}: JSON Lines need the name of the member that holds the text; add --field NAME"
        )
    for number, raw, complete in _raw_lines(path, shown):
        try:
            text = raw.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise CorpusError(
                f"{shown}:{number}: not UTF-8 (byte {error.start} of the line); convert it, for instance with iconv"
            ) from error
        size = len(raw) + complete
        if not is_json:
            yield number, text, size
            continue
        if not complete or len(raw) > MAX_RAW_BYTES:
            raise CorpusError(
                f"{shown}:{number}: a JSON line above {MAX_RAW_BYTES} bytes; split its text"
            )
        if not text.strip():
            continue
        for part in _json_text(text, field or "", f"{shown}:{number}").split("\n"):
            yield number, part, size
            size = 0


def clean(text: str, max_characters: int, counts: Counter[str]) -> list[str]:
    """Make the training lines of one raw line; none if it holds no letter.

    Form C; control characters become spaces, invisible marks go, spaces are single; mail addresses and telephone
    numbers are masked; what is longer than *max_characters* is split at sentence ends, else at a comma or space, else
    right there.

    Args:
        text: one raw line.
        max_characters: longest line to return, in code points.
        counts: lines under ``control_characters``, ``masked``, ``long_lines`` and ``without_letters`` are added to it.
    """
    plain = _INVISIBLE.sub("", _CONTROL.sub(" ", text))
    if plain != text:
        counts["control_characters"] += 1
    line = normalise(_SPACES.sub(" ", plain).strip())
    if not LETTER.search(line):
        counts["without_letters"] += 1
        return []
    masked = mask_contacts(line)
    if masked != line:
        counts["masked"] += 1
    if len(masked) <= max_characters:
        return [masked]
    counts["long_lines"] += 1
    return [part for part in _split(masked, max_characters) if LETTER.search(part)]


def sentences(line: str) -> list[str]:
    """The sentences of a clean line, one at least; text without a letter stays with the sentence before it.

    >>> sentences("Mr. Smith left. Who knows why?")
    ['Mr. Smith left.', 'Who knows why?']
    """
    parts: list[str] = []
    begin = start = 0
    for end in [*(match.end() for match in _SENTENCE_BREAK.finditer(line)), len(line)]:
        if LETTER.search(line, start, end):
            begin = start if parts else 0
            parts.append("")
        if parts:
            parts[-1] = line[begin:end].strip()
        start = end
    return parts or [line]


def mask_contacts(text: str) -> str:
    """Replace mail addresses by ``name@example.com`` and the digits of telephone numbers by 0.

    Errs on the side of masking: any unbroken run of 7 to 15 digits counts as a telephone number.
    """
    if "@" in text:
        text = _MAIL.sub(MASKED_MAIL, text)
    return _PHONE.sub(lambda match: _DIGIT.sub("0", match[0]), text)


def half_width(text: str, rng: random.Random) -> str | None:
    """The line with half-width punctuation, as many type it; every second full stop too. None if nothing changes."""
    if _FULL_WIDTH.search(text) is None or HAN_CHARACTER.search(text) is None:
        return None
    changed = text.translate(_HALF_WIDTH)
    if rng.random() < 0.5:
        changed = changed.replace("。", ".")
    return changed if changed != text else None


def choose_cuts(text: str, tokens: Container[str], rng: random.Random) -> tuple[int, ...]:
    """Choose where a user's blank or cursor would divide a line.

    Two cuts in 70 % of cases: around a Chinese span of 1 to 4 characters, rather one that is a token, or around one to
    three words and the space after them. Else one: beside a Chinese character, at a word start, at times inside a word.

    Args:
        text: a clean line.
        tokens: the surfaces of the vocabulary.
        rng: source of chance.

    Returns:
        No, one or two code-point positions, ascending. No cut where the line has fewer than 4 characters.
    """
    if len(text) < 4:
        return ()
    if rng.random() < 0.7:
        return _two_cuts(text, tokens, rng)
    return _one_cut(text, rng)


def _two_cuts(text: str, tokens: Container[str], rng: random.Random) -> tuple[int, ...]:
    for attempt in range(1, _CUT_ATTEMPTS + 1):
        start = rng.randrange(len(text))
        if is_han(text[start]):
            end = start + rng.choices(*_HAN_SPANS)[0]
            if end <= len(text) and (attempt == _CUT_ATTEMPTS or text[start:end] in tokens):
                return start, end
        elif is_word_character(text[start]):
            words = rng.choices((1, 2, 3), (0.8, 0.15, 0.05))[0]
            return _words_around(text, start, words)
    return ()


def _words_around(text: str, position: int, words: int) -> tuple[int, int]:
    """The word at *position*, more words while only a space parts them, and the space that follows."""
    start = position
    while start > 0 and is_word_character(text[start - 1]):
        start -= 1
    end = position
    for _ in range(words):
        if end == len(text) or not is_word_character(text[end]):
            break
        while end < len(text) and is_word_character(text[end]):
            end += 1
        if end == len(text) or text[end] != " ":
            break
        end += 1
    return start, end


def _one_cut(text: str, rng: random.Random) -> tuple[int, ...]:
    for _ in range(_CUT_ATTEMPTS):
        cut = rng.randrange(1, len(text))
        beside_han = is_han(text[cut]) or is_han(text[cut - 1])
        inside_word = is_word_character(text[cut]) and is_word_character(text[cut - 1])
        word_start = is_word_character(text[cut]) and not inside_word
        if beside_han or word_start or (inside_word and rng.random() < 0.2):
            return (cut,)
    return ()


def _split(text: str, limit: int) -> Iterator[str]:
    start = 0
    while len(text) - start > limit:
        end = start + limit
        for pattern in (_SENTENCE_END, _SOFT_BREAK):
            # One character more, so that a space just after the limit still ends a sentence.
            breaks = [
                match.end()
                for match in pattern.finditer(text, start, end + 1)
                if match.end() <= end
            ]
            # A lone early break ("Mr. ") would leave a stump of a line.
            if breaks and breaks[-1] > start + limit // 4:
                end = breaks[-1]
                break
        yield text[start:end].strip()
        start = end
    if rest := text[start:].strip():
        yield rest


def _json_text(line: str, field: str, place: str) -> str:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise CorpusError(f"{place}: not JSON; each line must be one JSON object") from error
    if not isinstance(value, dict) or field not in value:
        kind = (
            f"an object with {len(value)} other members"
            if isinstance(value, dict)
            else type(value).__name__
        )
        raise CorpusError(
            f"{place}: no member {field!r} ({kind}); name the member that holds the text with --field"
        )
    text = value[field]
    if not isinstance(text, str):
        raise CorpusError(
            f"{place}: member {field!r} is {type(text).__name__}, not text; choose another --field"
        )
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise CorpusError(
            f"{place}: member {field!r} holds a lone surrogate at {error.start}; repair the file"
        ) from error
    return text


def _raw_lines(path: Path, shown: Path) -> Iterator[tuple[int, bytes, bool]]:
    """Number, bytes and whether the line is complete (else more of it follows)."""
    number = 1
    pending = bytearray()
    chunks = _chunks(path, shown)
    for chunk in chunks:
        *lines, rest = chunk.split(b"\n")
        for line in lines:
            pending += line
            yield number, bytes(pending).removesuffix(b"\r"), True
            number += 1
            pending.clear()
        pending += rest
        if len(pending) > MAX_RAW_BYTES:
            # Never divide a character: keep what follows the last byte that starts one.
            end = len(pending) - 1
            while end > len(pending) - 4 and pending[end] & 0xC0 == 0x80:
                end -= 1
            yield number, bytes(pending[:end]), False
            del pending[:end]
    if pending:
        yield number, bytes(pending).removesuffix(b"\r"), True


def _chunks(path: Path, shown: Path) -> Iterator[bytes]:
    suffix = shown.suffix.lower()
    try:
        if suffix == ".zst":
            yield from _zstd_chunks(path)
            return
        with _open(path, suffix) as file:
            while chunk := file.read(_CHUNK):
                yield chunk
    except (EOFError, lzma.LZMAError, gzip.BadGzipFile, zlib.error, zstandard.ZstdError) as error:
        raise CorpusError(
            f"{shown}: damaged or truncated {suffix} archive ({error}); fetch or compress it again"
        ) from error
    except OSError as error:
        raise CorpusError(
            f"{shown}: cannot be read: {error.strerror or error}; check path and permissions"
        ) from error


def _open(path: Path, suffix: str) -> IO[bytes]:
    if suffix == ".gz":
        return cast("IO[bytes]", gzip.open(path, "rb"))
    if suffix == ".xz":
        return lzma.open(path, "rb")
    return path.open("rb")


def _zstd_chunks(path: Path) -> Iterator[bytes]:
    # The library's stream reader takes a truncated frame for the end of the file, so frames are followed by hand.
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


def _kind(path: Path) -> str:
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in COMPRESSIONS:
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


def _is_text_name(path: Path) -> bool:
    return _kind(path) in (*TEXT_SUFFIXES, *JSON_SUFFIXES)


def spool_stdin(target: Path) -> None:
    """Copy standard input to a file, since preparing reads its text three times."""
    with target.open("wb") as file:
        while chunk := sys.stdin.buffer.read(_CHUNK):
            file.write(chunk)
