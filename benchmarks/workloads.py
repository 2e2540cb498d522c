"""What is asked: text to request bodies. A source never gives the same text twice while its text lasts.

Every contestant gets the same bodies in the same order; later repeats get others, so that no answer is a stored one.
`peek` shows what comes next, and `advance` moves on by what was used: a fast contestant needs more than a slow one.
"""

import itertools
import json
import random
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Protocol

from model.text import language_of, normalise
from model.tokenizer import Tokenizer

TYPISTS = 64
BLANK = "[MASK]"  # understood by Lacuna and by a fill-mask pipeline alike
# Lines that a person would type in one go, in characters.
_SHORTEST, _LONGEST = 8, 300


class TextError(Exception):
    """The text is missing or too small for the workload."""


class Source(Protocol):
    """Endless request bodies, or texts to make them of."""

    def peek(self, count: int) -> list[str]:
        """The next *count* texts."""
        ...

    def advance(self, count: int) -> None:
        """Never show the first *count* of the texts that `peek` last showed again, while the text lasts."""
        ...


def body(text: str | list[str]) -> bytes:
    """A request with the default ``top_k``, as a browser writes it: one line of UTF-8."""
    return json.dumps({"text": text}, ensure_ascii=False, separators=(",", ":")).encode()


def read_lines(directory: Path, seed: int = 1) -> list[str]:
    """Lines of all ``*.txt`` files under *directory*, shuffled, Chinese and other lines in turn.

    Returns:
        As many Chinese lines as others, each 8 to 300 characters long.

    Raises:
        TextError: there are no lines of one of the two kinds.
    """
    lines: dict[str, None] = {}
    for path in sorted(directory.rglob("*.txt")):
        lines.update(
            dict.fromkeys(normalise(line.strip()) for line in path.read_text("utf-8").splitlines())
        )
    fitting = [line for line in lines if _SHORTEST <= len(line) <= _LONGEST]
    random.Random(seed).shuffle(fitting)  # noqa: S311 - an order is no secret
    chinese, other = (
        [line for line in fitting if is_chinese(line)],
        [line for line in fitting if not is_chinese(line)],
    )
    if not chinese or not other:
        raise TextError(
            f"{len(chinese)} Chinese and {len(other)} other lines of {_SHORTEST} to {_LONGEST} characters"
        )
    return list(itertools.chain.from_iterable(zip(chinese, other, strict=False)))


def is_chinese(line: str) -> bool:
    """Return True for a Chinese line."""
    return language_of(line) == "zh"


class Keystrokes:
    """64 typists press a key each in turn; each types a line to its end, character by character, and then a fresh one.

    A text is what a typist has typed of the current line. Where the text runs out, lines come again with some of their
    first words moved to their end, so that no typed beginning is an old one.
    """

    def __init__(self, lines: Sequence[str], typists: int = TYPISTS) -> None:
        self._lines = lines
        self._typists = typists
        self._next = 0
        self._taken: list[int] = []

    def peek(self, count: int) -> list[str]:
        """The next *count* texts, each typist at the beginning of a fresh line."""
        numbered = self._fresh_lines()
        typing: list[tuple[str, int]] = [("", 0)] * self._typists
        texts: list[str] = []
        self._taken, taken = [], self._next
        for press in range(count):
            line, typed = typing[press % self._typists]
            if typed == len(line):
                (taken, line), typed = next(numbered), 0
            typing[press % self._typists] = line, typed + 1
            texts.append(line[: typed + 1])
            self._taken.append(taken)
        return texts

    def advance(self, count: int) -> None:
        """Never show the lines again that were begun in the first *count* texts."""
        if count and self._taken:
            self._next = self._taken[min(count, len(self._taken)) - 1]

    def _fresh_lines(self) -> Iterator[tuple[int, str]]:
        """Lines from the current one on, each with the number of the one after it."""
        fruitless = 0
        for number in itertools.count(self._next):
            turns, index = divmod(number, len(self._lines))
            line = rotated(self._lines[index], turns)
            fruitless = 0 if line else fruitless + 1
            if fruitless > len(self._lines):
                raise TextError(
                    "the text is too small for so many key presses; give more with --text"
                )
            if line:
                yield number + 1, line


def rotated(line: str, turns: int) -> str:
    """The line with its first *turns* units at its end; empty if it has no more."""
    parts = units(line)
    if turns >= len(parts):
        return ""
    return ("" if is_chinese(line) else " ").join([*parts[turns:], *parts[:turns]])


def units(line: str) -> list[str]:
    """The line's words, or of Chinese its pairs of characters."""
    return (
        [line[start : start + 2] for start in range(0, len(line), 2)]
        if is_chinese(line)
        else line.split(" ")
    )


class Prompts:
    """Texts of exactly *size* tokens, Chinese and other in turn, that share no beginning.

    First come texts that all differ in their first token; when these are used up, texts that share no more than one
    token with any before them, then two, and so on. When all are used up they come again.
    """

    def __init__(
        self, lines: Sequence[str], tokenizer: Tokenizer, size: int, seed: int = 1
    ) -> None:
        self._tokenizer = tokenizer
        self._size = size
        encoded = [tokenizer.encode(stream) for stream in _streams(lines)]
        starts = [self._starts(ids) for ids in encoded]
        for language in starts:
            random.Random(seed).shuffle(language)  # noqa: S311 - an order is no secret
        paired = itertools.zip_longest(
            *([(ids, start) for start in s] for ids, s in zip(encoded, starts, strict=True))
        )
        self._windows = [window for pair in paired for window in pair if window is not None]
        self._given = self._give()
        self._texts: list[list[int]] = []
        self._next = 0

    def peek(self, count: int) -> list[str]:
        """The next *count* texts."""
        return [self._tokenizer.decode(tokens) for tokens in self.peek_tokens(count)]

    def peek_tokens(self, count: int) -> list[list[int]]:
        """The next *count* texts as tokens.

        Raises:
            TextError: there is no text of that size.
        """
        missing = self._next + count - len(self._texts)
        self._texts += itertools.islice(self._given, max(0, missing))
        if not self._texts:
            raise TextError(
                f"the text has no stretch of {self._size} tokens; give more with --text"
            )
        return [
            self._texts[index % len(self._texts)] for index in range(self._next, self._next + count)
        ]

    def advance(self, count: int) -> None:
        """Move on."""
        self._next += count

    def _starts(self, ids: list[int]) -> list[int]:
        """Where a text may begin: at a token with a letter, digit or ideograph that begins a word."""
        tokenizer = self._tokenizer
        return [
            start
            for start in range(1, len(ids) - self._size)
            if tokenizer.surfaces[ids[start]][:1].isalnum()
            and not tokenizer.joins(ids[start - 1], ids[start])
        ]

    def _give(self) -> Iterator[list[int]]:
        waiting = self._windows
        given: list[list[int]] = []
        for shared in range(1, self._size + 1):
            seen = {tuple(tokens[:shared]) for tokens in given}
            left = []
            for ids, start in waiting:
                beginning = tuple(ids[start : start + shared])
                if beginning in seen:
                    left.append((ids, start))
                    continue
                tokens = ids[start : start + self._size]
                # Cut out of its sentence a text may be read as other tokens; then it is not used.
                if self._tokenizer.encode(self._tokenizer.decode(tokens)) == tokens:
                    seen.add(beginning)
                    given.append(tokens)
                    yield tokens
            waiting = left


class Clozes:
    """Texts of about *size* tokens with one word in the middle left out."""

    def __init__(self, prompts: Prompts, tokenizer: Tokenizer) -> None:
        self._prompts = prompts
        self._tokenizer = tokenizer

    def peek(self, count: int) -> list[str]:
        """The next *count* texts."""
        return [self._with_blank(tokens) for tokens in self._prompts.peek_tokens(count)]

    def advance(self, count: int) -> None:
        """Move on."""
        self._prompts.advance(count)

    def _with_blank(self, tokens: list[int]) -> str:
        tokenizer = self._tokenizer
        borders = [
            n for n in range(1, len(tokens)) if not tokenizer.joins(tokens[n - 1], tokens[n])
        ]
        words = [
            (n, m) for n, m in pairwise(borders) if tokenizer.surfaces[tokens[n]][:1].isalnum()
        ]
        start, end = min(words, key=lambda word: abs(sum(word) - len(tokens)))
        space = " " if tokenizer.surfaces[tokens[end - 1]].endswith(" ") else ""
        return tokenizer.decode(tokens[:start]) + BLANK + space + tokenizer.decode(tokens[end:])


class Contexts:
    """Long texts that are typed on at their end: the same number of key presses at each length, lengths in turn.

    Args:
        lines: as :func:`read_lines` gives them.
        lengths: characters before the first key press.
        presses: key presses in each text.
    """

    def __init__(self, lines: Sequence[str], lengths: Sequence[int], presses: int) -> None:
        self.lengths = lengths
        self.presses = presses
        self._streams = _streams(lines)
        self._positions = [0, 0]

    def take(self, texts: int) -> tuple[list[str], list[str]]:
        """So many fresh texts of each length, Chinese and other in turn.

        Returns:
            The texts as they stand before the first key press, which cost a reading; and the texts after each press,
            length by length in turn.
        """
        beginnings: list[str] = []
        typed: list[str] = []
        for number in range(texts):
            stretches = [
                self._stretch(number % 2, length + self.presses) for length in self.lengths
            ]
            beginnings += [
                stretch[:length] for stretch, length in zip(stretches, self.lengths, strict=True)
            ]
            for press in range(1, self.presses + 1):
                typed += [
                    stretch[: length + press]
                    for stretch, length in zip(stretches, self.lengths, strict=True)
                ]
        return beginnings, typed

    def _stretch(self, language: int, length: int) -> str:
        stream, start = self._streams[language], self._positions[language]
        if len(stream) < length:
            raise TextError(
                f"the text has {len(stream)} characters in one language, {length} are needed in a row"
            )
        if stream[start].isspace():
            start += 1
        # A second time around, texts begin elsewhere.
        self._positions[language] = (start + length + 7) % len(stream)
        found = stream[start : start + length]
        return found + stream[: length - len(found)]  # around the corner, where the stream ends


def _streams(lines: Sequence[str]) -> list[str]:
    """All Chinese lines, and all others, each as one text."""
    return [
        "".join(line for line in lines if is_chinese(line)),
        " ".join(line for line in lines if not is_chinese(line)),
    ]
