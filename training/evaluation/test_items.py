"""The items of an evaluation: which words and blanks of which lines. A seed fixes them.

- English: a word is a maximal run of word characters (model/text.py) that begins and ends with a
  letter or digit.
- Chinese is not segmented. A *next* item asks for the next Han character. A *blank* covers a token
  of one to three Han characters, drawn from the tokens of the whole line.
"""

import hashlib
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from model.errors import CorpusError
from model.text import LANGUAGES, is_han, is_word_character, language_of, normalise
from model.tokenizer import Tokenizer
from training.data.cleaning import split_line
from training.data.documents import read_lines
from training.data.file_report import FileReport
from training.data.input_files import find_files
from training.data.splits import group_languages

MARKER = "____"
POSITIONS_PER_LINE = 2
CHOICES = 5
# Wrong choices are drawn from this many words of the file whose frequency is nearest
SIMILAR_WORDS = 20
MAX_BLANK_CHARACTERS = 3
MAX_TYPED_CHARACTERS = 100
# Code points that one query may have
MAX_CHARACTERS = 10_000
# Every file has at least this many lines with items, and typed lines, or all that it has
MIN_LINES = 20
MIN_TYPED_LINES = 6


@dataclass(frozen=True, slots=True)
class TextFile:
    """A held-out file; lines that are too long for a query are divided."""

    name: str  # unique among the files
    language: str  # zh or en
    lines: tuple[str, ...]  # normalised, without empty ones


@dataclass(frozen=True, slots=True)
class TypedLine:
    """A line that is typed with suggestions, and the numbers of its file and line."""

    file: int
    line: int
    text: str


@dataclass(frozen=True, slots=True)
class NextQuestion:
    """A question for the next word, with the numbers of its file and line."""

    file: int
    line: int
    text: str  # the line up to the word; in English it ends with a space
    continuation: str  # the rest of the line
    answer: str  # the word (English) or character (Chinese) at the start of the rest


@dataclass(frozen=True, slots=True)
class ClozeQuestion:
    """A question for a blank, with the numbers of its file and line."""

    file: int
    line: int
    text: str  # the line with MARKER in place of the answer
    answer: str  # the hidden word
    # The answer and others of similar frequency, shuffled; empty if the file has too few words
    choices: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Items:
    """All items of an evaluation; the same for every system."""

    files: list[TextFile]
    next: list[NextQuestion]
    cloze: list[ClozeQuestion]
    typed: list[TypedLine]

    def of_file(self, number: int) -> "Items":
        """Return the items of one file, which becomes file 0."""
        return Items(
            [self.files[number]],
            [replace(each, file=0) for each in self.next if each.file == number],
            [replace(each, file=0) for each in self.cloze if each.file == number],
            [replace(each, file=0) for each in self.typed if each.file == number],
        )

    @property
    def digest(self) -> str:
        """SHA-256 of files and items, to recognise reports on the same ones."""
        content = repr([self.files, self.next, self.cloze, self.typed])
        return hashlib.sha256(content.encode()).hexdigest()


def choose_items(
    files: list[TextFile], tokenizer: Tokenizer, lines: int, typing_lines: int, seed: int
) -> Items:
    """Choose items from about *lines* lines a language, and *typing_lines* lines to type."""
    return Items(
        files,
        next_questions(files, lines, MIN_LINES, seed),
        cloze_questions(files, tokenizer, lines, MIN_LINES, seed),
        typed_lines(files, typing_lines, MIN_TYPED_LINES, seed),
    )


def read_files(inputs: Sequence[str], field: str | None = None) -> list[TextFile]:
    """Read held-out files. A file with lines of both languages gives a file of each.

    The one of the rarer language is called ``NAME-LANGUAGE``.

    Raises:
        CorpusError: there is nothing to read, or two files have the same name.
    """
    files = []
    for file in find_files(inputs)[0]:
        report = FileReport(str(file.path), file.kind)
        texts = (normalise(text).strip() for text in read_lines(file, report, field=field))
        parts = (part.strip() for text in texts for part in split_line(text, MAX_CHARACTERS))
        lines = tuple(filter(None, parts))
        if not lines:
            raise CorpusError(f"{file.path}: no text; name files with one line an item")
        name = file.path.name.split(".")[0]
        files += [
            TextFile(f"{name}-{language}" if number else name, language, chosen)
            for number, (language, chosen) in enumerate(_by_language(lines))
        ]
    (name, count), *_ = Counter(file.name for file in files).most_common(1)
    if count > 1:
        raise CorpusError(f"{count} files are called {name}; rename them")
    return files


def _by_language(lines: Sequence[str]) -> list[tuple[str, tuple[str, ...]]]:
    """Divide lines by their languages, the common one first; a rare one counts as the other."""
    languages = [language_of(line) for line in lines]
    return [
        (group[0], tuple(line for line, own in zip(lines, languages, strict=True) if own in group))
        for group in group_languages(Counter(languages))
    ]


def next_questions(
    files: Sequence[TextFile], total: int, least: int, seed: int
) -> list[NextQuestion]:
    """Return two positions of each of about *total* lines a language, at least *least* a file."""
    questions = []
    for number, file, quota, generator, order in _draw(files, total, least, f"{seed}/{{}}/next"):
        chosen: list[NextQuestion] = []
        for index in order:
            line = file.lines[index]
            places = _next_places(line, file.language) if quota else []
            quota -= bool(places)
            for start, end in generator.sample(places, min(POSITIONS_PER_LINE, len(places))):
                answer = line[start:end]
                chosen.append(NextQuestion(number, index, line[:start], line[start:], answer))
        questions += sorted(chosen, key=lambda question: (question.line, len(question.text)))
    return questions


def cloze_questions(
    files: Sequence[TextFile], tokenizer: Tokenizer, total: int, least: int, seed: int
) -> list[ClozeQuestion]:
    """Return one blank in each of about *total* lines a language, at least *least* a file."""
    questions = []
    for number, file, quota, generator, order in _draw(files, total, least, f"{seed}/{{}}/cloze"):
        places = [blank_places(line, file.language, tokenizer) for line in file.lines]
        lines = list(zip(file.lines, places, strict=True))
        words = Counter(line[start:end] for line, spans in lines for start, end in spans)
        chosen: list[ClozeQuestion] = []
        for index in order:
            line, spans = lines[index]
            if not spans or MARKER in line or len(chosen) == quota:
                continue
            start, end = generator.choice(spans)
            answer, text = line[start:end], line[:start] + MARKER + line[end:]
            choices = _choices(answer, words, file.language, generator)
            chosen.append(ClozeQuestion(number, index, text, answer, choices))
        questions += sorted(chosen, key=lambda question: question.line)
    return questions


def typed_lines(files: Sequence[TextFile], total: int, least: int, seed: int) -> list[TypedLine]:
    """Return the beginnings of about *total* lines a language, at least *least* a file."""
    return [
        TypedLine(number, index, file.lines[index][:MAX_TYPED_CHARACTERS])
        for number, file, quota, _, order in _draw(files, total, least, f"{seed}/{{}}/typing")
        for index in sorted(order[:quota])
    ]


def blank_places(line: str, language: str, tokenizer: Tokenizer) -> list[tuple[int, int]]:
    """Return spans of code points that may be blanks: words of letters, or Han tokens."""
    if language == "en":
        return [
            (start, end)
            for start, end in word_places(line)
            if not any(map(str.isdigit, line[start:end]))
        ]
    places: list[tuple[int, int]] = []
    start = 0
    while start < len(line):
        for token in tokenizer.encode(line[start:]):
            surface = tokenizer.surfaces[token]
            if not surface:  # the first byte of a character that is not a token
                break
            if len(surface) <= MAX_BLANK_CHARACTERS and all(map(is_han, surface)):
                places.append((start, start + len(surface)))
            start += len(surface)
        start += 1
    return places


def word_places(line: str) -> list[tuple[int, int]]:
    """Return spans of the words of a spaced script."""
    places, start = [], 0
    for is_word, group in groupby(line, is_word_character):
        word = "".join(group)
        if is_word and word[0].isalnum() and word[-1].isalnum():
            places.append((start, start + len(word)))
        start += len(word)
    return places


def lines_per_file(sizes: Sequence[int], total: int, least: int) -> list[int]:
    """Divide *total* lines among files by size; each gets at least *least*, or all that it has."""
    everything = sum(sizes)
    return [min(size, max(least, round(total * size / everything))) for size in sizes]


def _next_places(line: str, language: str) -> list[tuple[int, int]]:
    if language == "en":
        return [place for place in word_places(line) if line[: place[0]].endswith(" ")]
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
    generator.shuffle(others)  # breaks ties at random
    others.sort(key=lambda word: abs(words[word] - words[answer]))
    choices = [answer, *generator.sample(others[:SIMILAR_WORDS], CHOICES - 1)]
    generator.shuffle(choices)
    return tuple(choices)


def _draw(
    files: Sequence[TextFile], total: int, least: int, seed: str
) -> Iterator[tuple[int, TextFile, int, random.Random, list[int]]]:
    """Yield number, file, quota of lines, random generator and shuffled line numbers, by language.

    The name of the file goes into *seed*, so items of a file do not depend on the other files.
    """
    for language in LANGUAGES:
        numbers = [number for number, file in enumerate(files) if file.language == language]
        quotas = lines_per_file([len(files[number].lines) for number in numbers], total, least)
        for number, quota in zip(numbers, quotas, strict=True):
            generator = random.Random(seed.format(files[number].name))
            order = list(range(len(files[number].lines)))
            generator.shuffle(order)
            yield number, files[number], quota, generator, order
