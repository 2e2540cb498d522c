"""The questions of an evaluation: which words and blanks of which lines. Not how they are asked or judged.

A seed, the files and the vocabulary fix them, so that every contestant gets the same ones. What a word is:

- English: a maximal run of word characters (model/tokenizer.py) that begins and ends with a letter or digit.
- Chinese is not segmented. The next *character* is asked for where it is a Han character. A *blank* covers a token of
  one to three Han characters, chosen at random among those tokens in the segmentation of the whole line.
"""

import random
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from model.errors import CorpusError
from model.text import LANGUAGES, is_han, is_word_character, language_of, normalise
from model.tokenizer import Tokenizer
from training.data.text_sources import expand_inputs, read_lines

MARKER = "____"
POSITIONS_PER_LINE = 2
CHOICES = 5
# Wrong choices are drawn from this many words of the file whose frequency is nearest to the right one's
SIMILAR_WORDS = 20
MAX_BLANK_CHARACTERS = 3
# /score, /predict and /cloze take this many code points
MAX_CHARACTERS = 10_000
_SENTENCE_END = re.compile(r"[.!?]\s|[。！？]")


@dataclass(frozen=True, slots=True)
class TextFile:
    """A held-out file.

    Attributes:
        name: unique among the files.
        language: ``zh`` or ``en``.
        lines: its lines in form C, without empty ones; those that are too long to be asked about in parts.
    """

    name: str
    language: str
    lines: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class NextQuestion:
    """What comes next after ``text``?

    Attributes:
        file: number of its file.
        line: number of its line.
        text: the line up to there; in English it ends with the space before the word.
        continuation: the rest of the line.
        answer: the word (English) or character (Chinese) that the rest begins with.
    """

    file: int
    line: int
    text: str
    continuation: str
    answer: str


@dataclass(frozen=True, slots=True)
class ClozeQuestion:
    """What fills the blank?

    Attributes:
        file: number of its file.
        line: number of its line.
        text: the line with :data:`MARKER` in place of the answer.
        answer: what stood there.
        choices: the answer among others of similar frequency, shuffled; empty where the file has too few words.
    """

    file: int
    line: int
    text: str
    answer: str
    choices: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TypedLine:
    """A line that someone types."""

    file: int
    line: int
    text: str


def read_files(
    inputs: Sequence[str],
    language: str | None,
    limit_per_file: int | None,
    seed: int,
    field: str | None = None,
) -> list[TextFile]:
    """Read held-out files.

    Args:
        inputs: files, folders or globs.
        language: of all of them; None takes it from a folder ``zh`` or ``en`` above the file, else from a name that
            ends in ``_zh`` or ``_en``, else from the script.
        limit_per_file: keep at most this many lines of a file, chosen at random.
        seed: of that choice.
        field: the member of each object of JSON Lines that holds the text.

    Raises:
        CorpusError: nothing to read, or a file without text.
    """
    files = []
    for path in expand_inputs(list(inputs)):
        lines = [
            part
            for _, text, _ in read_lines(path, field)
            for part in _parts(normalise(text).strip())
        ]
        if not lines:
            raise CorpusError(f"{path}: no text; name files with one line an item")
        if limit_per_file is not None and len(lines) > limit_per_file:
            chosen = sorted(
                _generator(seed, path.name, "limit").sample(range(len(lines)), limit_per_file)
            )
            lines = [lines[index] for index in chosen]
        files.append(
            TextFile(path.name.split(".")[0], language or _language_of(path, lines), tuple(lines))
        )
    counts = Counter(file.name for file in files)
    repeated = sorted(name for name, count in counts.items() if count > 1)
    if repeated:
        raise CorpusError(
            f"{len(repeated)} file names occur twice, the first is {repeated[0]}; rename them"
        )
    return files


def _parts(line: str) -> Iterator[str]:
    """A line, in several parts where it is longer than may be asked about: each ends where a sentence does, if any."""
    while len(line) > MAX_CHARACTERS:
        end = MAX_CHARACTERS
        for match in _SENTENCE_END.finditer(line, 0, MAX_CHARACTERS):
            end = match.end()
        yield line[:end].strip()
        line = line[end:].strip()
    if line:
        yield line


def lines_per_file(sizes: Sequence[int], total: int, least: int) -> list[int]:
    """Share *total* lines among files by their size, at least *least* each and no more than each has."""
    everything = sum(sizes)
    return [min(size, max(least, round(total * size / everything))) for size in sizes]


def next_questions(
    files: Sequence[TextFile], total: int, least: int, seed: int
) -> list[NextQuestion]:
    """Two positions of each of about *total* lines of every language, in the order of files and lines."""
    questions = []
    for number, file, quota in _quotas(files, total, least):
        generator = _generator(seed, file.name, "next")
        chosen: list[NextQuestion] = []
        lines = 0
        for index in _shuffled(file.lines, generator):
            line = file.lines[index]
            places = _next_places(line, file.language)
            if not places or lines == quota:
                continue
            lines += 1
            for start, end in generator.sample(places, min(POSITIONS_PER_LINE, len(places))):
                chosen.append(
                    NextQuestion(number, index, line[:start], line[start:], line[start:end])
                )
        questions += sorted(chosen, key=lambda question: (question.line, len(question.text)))
    return questions


def cloze_questions(
    files: Sequence[TextFile], tokenizer: Tokenizer, total: int, least: int, seed: int
) -> list[ClozeQuestion]:
    """One blank in each of about *total* lines of every language, in the order of files and lines."""
    questions = []
    for number, file, quota in _quotas(files, total, least):
        generator = _generator(seed, file.name, "cloze")
        words = Counter(
            line[start:end]
            for line in file.lines
            for start, end in blank_places(line, file.language, tokenizer)
        )
        chosen: list[ClozeQuestion] = []
        for index in _shuffled(file.lines, generator):
            line = file.lines[index]
            places = blank_places(line, file.language, tokenizer)
            if not places or MARKER in line or len(chosen) == quota:
                continue
            start, end = generator.choice(places)
            answer = line[start:end]
            choices = _choices(answer, words, file.language, generator)
            chosen.append(
                ClozeQuestion(number, index, line[:start] + MARKER + line[end:], answer, choices)
            )
        questions += sorted(chosen, key=lambda question: question.line)
    return questions


def typed_lines(
    files: Sequence[TextFile], total: int, least: int, seed: int, max_characters: int = 100
) -> list[TypedLine]:
    """About *total* lines of every language, cut after *max_characters*."""
    lines = []
    for number, file, quota in _quotas(files, total, least):
        order = _shuffled(file.lines, _generator(seed, file.name, "typing"))[:quota]
        lines += [
            TypedLine(number, index, file.lines[index][:max_characters]) for index in sorted(order)
        ]
    return lines


def blank_places(line: str, language: str, tokenizer: Tokenizer) -> list[tuple[int, int]]:
    """Spans (start, end) in code points that may be blanked: words of letters, or tokens of 1-3 Han characters."""
    if language == "en":
        return [
            (start, end)
            for start, end in word_places(line)
            if not any(map(str.isdigit, line[start:end]))
        ]
    places: list[tuple[int, int]] = []
    start = 0
    for token in tokenizer.encode(line):
        surface = tokenizer.surfaces[token]
        if not surface:  # a byte token: its character is not in the vocabulary, find the next place by decoding anew
            return [*places, *_places_after_bytes(line, start, tokenizer)]
        end = start + len(surface)
        if len(surface) <= MAX_BLANK_CHARACTERS and all(map(is_han, surface)):
            places.append((start, end))
        start = end
    return places


def word_places(line: str) -> list[tuple[int, int]]:
    """Spans of the words of a spaced script that begin and end with a letter or digit."""
    places: list[tuple[int, int]] = []
    start: int | None = None
    for index, character in enumerate([*line, " "]):
        if is_word_character(character):
            start = index if start is None else start
        elif start is not None:
            if line[start].isalnum() and line[index - 1].isalnum():
                places.append((start, index))
            start = None
    return places


def _places_after_bytes(line: str, start: int, tokenizer: Tokenizer) -> list[tuple[int, int]]:
    """The places after a character spelt in bytes: bytes are not code points, so the rest is encoded by itself."""
    rest = blank_places(line[start + 1 :], "zh", tokenizer)
    return [(start + 1 + first, start + 1 + last) for first, last in rest]


def _next_places(line: str, language: str) -> list[tuple[int, int]]:
    if language == "en":
        return [
            (start, end) for start, end in word_places(line) if start > 0 and line[start - 1] == " "
        ]
    return [(index, index + 1) for index in range(1, len(line)) if is_han(line[index])]


def _choices(
    answer: str, words: Counter[str], language: str, generator: random.Random
) -> tuple[str, ...]:
    others = [word for word in words if word.casefold() != answer.casefold()]
    if language == "zh":
        same_length = [word for word in others if len(word) == len(answer)]
        others = same_length if len(same_length) >= CHOICES - 1 else others
    if len(others) < CHOICES - 1:
        return ()
    generator.shuffle(others)  # so that ties are broken at random
    others.sort(key=lambda word: abs(words[word] - words[answer]))
    choices = [answer, *generator.sample(others[:SIMILAR_WORDS], CHOICES - 1)]
    generator.shuffle(choices)
    return tuple(choices)


def _quotas(
    files: Sequence[TextFile], total: int, least: int
) -> Iterable[tuple[int, TextFile, int]]:
    """(number, file, lines to ask) of every file; *total* is shared among the files of each language."""
    for language in LANGUAGES:
        numbered = [
            (number, file) for number, file in enumerate(files) if file.language == language
        ]
        quotas = lines_per_file([len(file.lines) for _, file in numbered], total, least)
        for (number, file), quota in zip(numbered, quotas, strict=True):
            yield number, file, quota


def _shuffled(lines: Sequence[str], generator: random.Random) -> list[int]:
    order = list(range(len(lines)))
    generator.shuffle(order)
    return order


def _generator(seed: int, file: str, purpose: str) -> random.Random:
    """Chance that depends on the file's name and not on which other files take part."""
    return random.Random(f"{seed}/{file}/{purpose}")


def _language_of(path: Path, lines: Sequence[str]) -> str:
    for parent in path.parents:
        if parent.name in LANGUAGES:
            return parent.name
    for language in LANGUAGES:
        if path.name.split(".")[0].endswith(f"_{language}"):
            return language
    return language_of("\n".join(lines[:200]))
