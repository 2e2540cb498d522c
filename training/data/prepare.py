"""``python -m training prepare``: text files to a directory of prepared data.

    1  scan     count lines, detect languages, choose blocks of 50 neighbouring lines to read and
                to hold out
    2  sample   draw lines, at most half of them Chinese and half others, and train the tokenizer
    3  encode   clean, drop duplicates, count words, cut, encode and write each source

No input is ever held in memory whole. Memory is bounded by the tokenizer's sample, the hashes of
distinct lines, some 60 bytes each, and the counts of words.
"""

import heapq
import itertools
import random
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass
from tqdm import tqdm

from model.config import STRICT
from model.errors import CorpusError, TokenizerError
from model.files import replaced_directory
from model.tokenizer import CONTROL_TOKENS, Tokenizer
from training.config import Count
from training.data.cleaning import clean
from training.data.cuts import choose_cuts, half_width
from training.data.shards import ShardWriter, Split, write_manifest
from training.data.sources import (
    Source,
    SourceOptions,
    load_sources,
    named_sources,
    scan,
    stable_hash,
)
from training.data.train_tokenizer import train_tokenizer
from training.data.word_counts import WordCounts
from training.options import argument, option

# Distinct lines after which duplicates are no longer noticed: some 1.2 GB.
REMEMBERED_LINES = 20_000_000
CUT_SHARE = 0.25
HALF_WIDTH_SHARE = 0.10
MAX_VOCABULARY_SIZE = 65_536  # ids are uint16


@dataclass(frozen=True, slots=True, kw_only=True, config=STRICT)
class PrepareOptions:
    """Options of :func:`prepare`."""

    output: Path = option("directory to make; it must not exist", metavar="DIR")
    vocabulary_size: Annotated[int, Field(ge=len(CONTROL_TOKENS) + 257, le=MAX_VOCABULARY_SIZE)] = (
        option("tokens, control and byte tokens included", 16_000, "N")
    )
    tokenizer: Path | None = option(
        "use this tokenizer.model instead of training one", None, "FILE"
    )
    held_out_share: Annotated[float, Field(ge=0, le=0.5)] = option(
        "share of the blocks of each source to hold out; at least one block unless it is 0",
        0.005,
        "SHARE",
    )
    max_characters: Annotated[int, Field(ge=16)] = option("split longer lines", 500, "N")
    sentences: bool = option("make a line of each sentence", False)
    known_from: Annotated[int, Field(ge=1)] = option(
        "occurrences in the training text from which a word is known", 3, "N"
    )
    seed: Count = option("seed of every random choice", 1)
    vocabulary_lines: int = 400_000  # lines at most that the tokenizer is trained on
    threads: int = 2  # of training the tokenizer; another number may give other tokens


@dataclass(frozen=True, slots=True, kw_only=True, config=STRICT)
class PrepareCommand(PrepareOptions):
    """Options of the command: those of :func:`prepare`, and the sources."""

    inputs: tuple[str, ...] = argument("file, folder or glob", "INPUT", ())
    sources: Path | None = option("sources with weights and limits", None, "FILE.toml")
    root: Path | None = option(
        "folder that paths in --sources start from (default: the folder of the file)", None, "DIR"
    )
    field: str | None = option("field of each JSON line that has the text", None, "NAME")
    language: Literal["zh", "en", "auto"] = option("language of the inputs", "auto")


def run(options: PrepareCommand) -> int:
    """Run the command; 0 on success."""
    sources = named_sources(options.inputs, options.field, options.language)
    if options.sources is not None:
        sources += load_sources(options.sources, options.root)
    sys.stdout.write(f"{prepare(sources, options)}\n")
    return 0


def prepare(sources: Sequence[SourceOptions], options: PrepareOptions) -> Path:
    """Make a directory of prepared data and return its path.

    Raises:
        CorpusError: the text cannot be used (with file, line and remedy), or the output exists.
        TokenizerError: this text allows no tokenizer of this size, or the given one cannot be read.
        OSError: the disk is full or not writable; nothing is left behind.
    """
    if options.output.exists():
        raise CorpusError(f"{options.output}: exists; remove it, or name another --output")
    if not sources:
        raise CorpusError("no input; name files, folders or globs, or --sources FILE.toml")
    name, times = Counter(source.name for source in sources).most_common(1)[0]
    if times > 1:
        raise CorpusError(f"source name {name} is used {times} times; names must be unique")
    with replaced_directory(options.output) as work:
        scanned = [
            scan(source, options.held_out_share, options.seed)
            for source in tqdm(sources, "scan", disable=None)
        ]
        tokenizer = _tokenizer(scanned, options)
        seen: set[int] = set()
        words = WordCounts()
        entries = [
            _encode(source, options, tokenizer, seen, words, work)
            for source in tqdm(scanned, "encode", disable=None)
        ]
        settings = {k: v for k, v in asdict(options).items() if not isinstance(v, Path)}
        known_words = words.file(options.known_from)
        write_manifest(work, tokenizer, known_words, entries, {"options": settings})
    return options.output


def _tokenizer(sources: Sequence[Source], options: PrepareOptions) -> Tokenizer:
    """Load the given tokenizer, or train one."""
    if options.tokenizer is not None:
        tokenizer = Tokenizer.load(options.tokenizer)
        if tokenizer.size > MAX_VOCABULARY_SIZE:
            raise TokenizerError(
                f"{options.tokenizer}: {tokenizer.size} tokens; at most {MAX_VOCABULARY_SIZE} fit"
            )
        return tokenizer
    lines = sample_lines(sources, options)
    if not lines:
        raise CorpusError("no line of the input has a letter; nothing can be learned from it")
    return train_tokenizer(lines, options.vocabulary_size, options.threads)


def sample_lines(sources: Sequence[Source], options: PrepareOptions) -> list[str]:
    """Draw training lines, at most half of them Chinese, each source in proportion to its weight.

    Weighted reservoir sampling with a heap of u^(1/w): Efraimidis & Spirakis 2006.
    """
    rng = random.Random(f"{options.seed}:vocabulary")
    room = max(1, options.vocabulary_lines // 2)
    reservoirs: dict[bool, list[tuple[float, str]]] = {True: [], False: []}
    for source in tqdm(sources, "sample", disable=None):
        exponent = 1 / source.options.weight
        reservoir = reservoirs[source.language == "zh"]
        for split, text in source.taken_lines():
            key = rng.random() ** exponent
            if split == "heldout" or (len(reservoir) == room and key <= reservoir[0][0]):
                continue
            lines = clean(text, options.max_characters, split_sentences=options.sentences)
            if not lines:
                continue
            heapq.heappush(reservoir, (key, lines[rng.randrange(len(lines))]))
            if len(reservoir) > room:
                heapq.heappop(reservoir)
    # Sorted by text, so that SentencePiece sees the same order whatever the heaps' order.
    return sorted(line for reservoir in reservoirs.values() for _, line in reservoir)


def _encode(
    source: Source,
    options: PrepareOptions,
    tokenizer: Tokenizer,
    seen: set[int],
    words: WordCounts,
    work: Path,
) -> dict[str, Any]:
    """Write the shards of a source and count its words; return its entry in the manifest."""
    name = source.options.name
    counts: Counter[str] = Counter()
    lines = _new_lines(source, options, seen, counts)
    surfaces = frozenset(surface for surface in tokenizer.surfaces if surface)
    rng = random.Random(f"{options.seed}:{name}")
    with ShardWriter(work, name, "train") as train, ShardWriter(work, name, "heldout") as held_out:
        for split, line in lines:
            writer = train if split == "train" else held_out
            if split == "train":
                words.add(line)
            for text in _copies(source, split, line, rng):
                cuts = choose_cuts(text, surfaces, rng) if rng.random() < CUT_SHARE else ()
                tokens: list[int] = []
                ends = []
                # Each part is encoded apart, as in serving.
                for start, end in itertools.pairwise([0, *cuts, len(text)]):
                    tokens += tokenizer.encode(text[start:end])
                    ends.append(len(tokens))
                writer.write(tokens, len(text), ends[:-1])
        entries = {"train": train.entry(), "heldout": held_out.entry()}
    if not train.lines:
        raise CorpusError(
            f"source {name}: no line of {counts['lines']} is left for training"
            f" ({counts['without_letters']} without letters, {counts['duplicates']} duplicates);"
            " remove the source"
        )
    return {
        "name": name,
        "language": source.language,
        "consecutive": source.options.consecutive,
        "weight": source.options.weight,
        "files": [file.path.name for file in source.line_counts],
        "bytes": source.size,
        "block_lines": source.block_lines,
        "counts": dict(counts),
        "split": entries,
    }


def _new_lines(
    source: Source, options: PrepareOptions, seen: set[int], counts: Counter[str]
) -> Iterator[tuple[Split, str]]:
    """Yield the clean lines that no source has had yet; *seen* receives their hashes."""
    for split, text in source.taken_lines():
        lines = clean(text, options.max_characters, split_sentences=options.sentences)
        counts["lines"] += 1
        counts["without_letters"] += not lines
        for line in lines:
            key = stable_hash(line)
            if key in seen:
                counts["duplicates"] += 1
                continue
            if len(seen) < REMEMBERED_LINES:
                seen.add(key)
            yield split, line


def _copies(source: Source, split: Split, line: str, rng: random.Random) -> list[str]:
    """Return the line, for some training lines with or as a half-width copy."""
    if split == "train" and rng.random() < HALF_WIDTH_SHARE:
        changed = half_width(line, rng)
        if changed is not None:
            # If lines continue each other, the copy takes the place of the line.
            return [changed] if source.options.consecutive else [line, changed]
    return [line]
