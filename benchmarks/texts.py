"""Request texts for measurements, from a folder of text or from the project's own toy corpus.

All systems get the same texts in the same order. Streams are endless, and later measurements
continue
them, so that no answer comes from a cache that an earlier measurement filled.
"""

import itertools
import json
import random
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from model.text import language_of, normalise
from model.tokenizer import Tokenizer
from research.toy_corpus import write_corpus

TYPISTS = 64
# Lacuna and a fill-mask pipeline both read this marker.
BLANK = "[MASK]"
# Lines that a person would type in one go, in characters.
_SHORTEST_LINE, _LONGEST_LINE = 8, 300
_TOY_LINES = 4000


class TextError(Exception):
    """The text is missing or too small."""


def read_lines(folder: Path | None) -> list[str]:
    """Read the lines of all ``*.txt`` files under *folder*, or of the toy corpus without one.

    Returns:
        Chinese and other lines in turn, shuffled, as many of each, 8 to 300 characters long.

    Raises:
        TextError: lines of one of the two kinds are missing.
    """
    if folder is None:
        with tempfile.TemporaryDirectory() as own:
            write_corpus(Path(own), _TOY_LINES, seed=1)
            return read_lines(Path(own))
    lines: dict[str, None] = {}
    for path in sorted(folder.rglob("*.txt")):
        for line in path.read_text("utf-8").splitlines():
            lines[normalise(line.strip())] = None
    fitting = [line for line in lines if _SHORTEST_LINE <= len(line) <= _LONGEST_LINE]
    random.Random(1).shuffle(fitting)  # noqa: S311 - an order is no secret
    chinese = [line for line in fitting if language_of(line) == "zh"]
    other = [line for line in fitting if language_of(line) != "zh"]
    if not chinese or not other:
        raise TextError(
            f"{folder}: {len(chinese)} Chinese and {len(other)} other lines of {_SHORTEST_LINE} to"
            f" {_LONGEST_LINE} characters; both kinds are needed"
        )
    return [line for pair in zip(chinese, other, strict=False) for line in pair]


def keystrokes(lines: Sequence[str], typists: int = TYPISTS) -> Iterator[str]:
    """Yield what a number of typists have typed, who press a key each in turn.

    Each types a line to its end, character by character, and then a fresh one.
    """
    fresh = _fresh(lines)
    typing = [("", 0)] * typists
    while True:
        for typist, (line, typed) in enumerate(typing):
            if typed == len(line):
                line, typed = next(fresh), 0
            typing[typist] = line, typed + 1
            yield line[: typed + 1]


def lines_with_blank(lines: Sequence[str]) -> Iterator[str]:
    """Yield lines without their middle word, or two of their Chinese characters."""
    return map(with_blank, _fresh(lines))


def with_blank(text: str) -> str:
    """Replace the middle word of *text*, or its two middle Chinese characters, by a blank."""
    parts = _units(text)
    parts[len(parts) // 2] = BLANK
    return _joined(text, parts)


def stretches(lines: Sequence[str], tokenizer: Tokenizer, size: int) -> Iterator[str]:
    """Yield texts of about *size* tokens that begin at a word, Chinese and other in turn.

    Texts begin at random places, so that few share more than a word with an earlier one.
    """
    sources = [tokenizer.encode(text) for text in running_texts(lines)]
    luck = random.Random(1)  # noqa: S311 - a place is no secret
    for ids in itertools.cycle(sources):
        while True:
            start = luck.randrange(1, max(2, len(ids) - size))
            if not tokenizer.joins(ids[start - 1], ids[start]):
                break
        yield tokenizer.decode(ids[start : start + size]).strip()


def running_texts(lines: Sequence[str]) -> list[str]:
    """Return all Chinese lines, and all others, each as one text."""
    return [
        "".join(line for line in lines if language_of(line) == "zh"),
        " ".join(line for line in lines if language_of(line) != "zh"),
    ]


def post(route: str, text: str | list[str]) -> bytes:
    """Return the bytes of one request with the default ``top_k``."""
    body = json.dumps({"text": text}, ensure_ascii=False, separators=(",", ":")).encode()
    head = (
        f"POST {route} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def _fresh(lines: Sequence[str]) -> Iterator[str]:
    """Yield all lines, then each with its first word moved to its end, then with two, and so on."""
    for turn in itertools.count():
        for line in lines:
            parts = _units(line)
            turned = turn % len(parts)
            yield _joined(line, parts[turned:] + parts[:turned])


def _units(line: str) -> list[str]:
    """Return the words of a line, or its pairs of Chinese characters."""
    if language_of(line) == "zh":
        return [line[start : start + 2] for start in range(0, len(line), 2)]
    return line.split(" ")


def _joined(line: str, parts: Sequence[str]) -> str:
    return ("" if language_of(line) == "zh" else " ").join(parts)
