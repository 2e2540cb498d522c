"""Write a small corpus of everyday English and Chinese sentences from a seeded grammar.

`make newcomer` and several tests train on it. It shows that training works; it is too small to
learn a language from, and the bundled checkpoint has seen none of it. The grammar is
research/sources/toy_corpus.toml.
"""

import random
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model.errors import CorpusError
from training.options import argument, option

SOURCE = Path(__file__).parent / "sources" / "toy_corpus.toml"
# Draws per wanted sentence before the grammar counts as exhausted.
MAX_DRAWS = 20
Row = dict[str, list[str]]


@dataclass(frozen=True, slots=True)
class Grammar:
    """Sentences of one language.

    Attributes:
        free: values of the slots that fit every sentence.
        scenes: templates and the rows that fill their slots; a slot of a row has one or more
        values.
    """

    free: Row
    scenes: list[tuple[list[str], list[Row]]]


@dataclass(frozen=True, slots=True)
class ToyOptions:
    """Options of the command."""

    directory: Path = argument("folder for en.txt and zh.txt")
    lines: int = option("different sentences of each language", 4000)
    seed: int = option("the same seed writes the same text", 1)


def run(options: ToyOptions) -> int:
    """Write the corpus; return 0."""
    write_corpus(options.directory, options.lines, options.seed)
    return 0


def read_grammar(language: str) -> Grammar:
    """Read the grammar of ``en`` or ``zh``."""
    found = tomllib.loads(SOURCE.read_text(encoding="utf-8"))[language]
    free = {slot: values.split(", ") for slot, values in found["free"].items()}
    return Grammar(free, [(scene["templates"], _rows(scene)) for scene in found["scenes"]])


def _rows(scene: dict[str, Any]) -> list[Row]:
    slots = scene["slots"].split(", ")
    values = [[value.split("/") for value in row.split(", ")] for row in scene["rows"]]
    return [dict(zip(slots, row, strict=True)) for row in values]


def sentences(grammar: Grammar, seed: int) -> Iterator[str]:
    """Yield sentences without end; every scene is equally likely, and so are its rows."""
    rng = random.Random(seed)
    while True:
        templates, rows = rng.choice(grammar.scenes)
        row = rng.choice(rows)
        slots = {slot: rng.choice(values) for slot, values in (row | grammar.free).items()}
        sentence = rng.choice(templates).format_map(slots)
        yield sentence[:1].upper() + sentence[1:]


def different_sentences(grammar: Grammar, count: int, seed: int) -> list[str]:
    """Return *count* different sentences in the order in which they are drawn.

    Raises:
        CorpusError: the grammar seems to have fewer.
    """
    unique: dict[str, None] = {}
    for draws, sentence in enumerate(sentences(grammar, seed)):
        if len(unique) == count:
            break
        if draws == MAX_DRAWS * count:
            raise CorpusError(
                f"{draws} draws gave only {len(unique)} different sentences of {count}; use fewer"
            )
        unique[sentence] = None
    return list(unique)


def write_corpus(directory: Path, lines: int, seed: int) -> list[Path]:
    """Write ``en.txt`` and ``zh.txt`` with *lines* different sentences each, one a line.

    Raises:
        CorpusError: a grammar has fewer different sentences.
    """
    directory.mkdir(parents=True, exist_ok=True)
    paths = []
    for language in ("en", "zh"):
        paths.append(directory / f"{language}.txt")
        text = different_sentences(read_grammar(language), lines, seed)
        paths[-1].write_text("".join(f"{line}\n" for line in text), encoding="utf-8")
    return paths
