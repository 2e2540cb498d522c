"""``python -m training prepare``: text files to a directory of prepared data.

    1  scan     count lines and blocks, detect languages, choose blocks to read and to hold out
    2  sample   draw lines, as many Chinese as others, and train the tokenizer on them
    3  encode   clean, drop duplicates, cut, encode and write each source

No input is ever held in memory whole. Memory is bounded by the tokenizer's sample and by the hashes
of distinct lines, some 60 bytes each.
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

from model.config import STRICT
from model.errors import CorpusError, TokenizerError
from model.files import replaced_directory
from model.tokenizer import CONTROL_TOKENS, Tokenizer
from training.config import Count
from training.data.cleaning import clean
from training.data.cuts import choose_cuts, half_width
from training.data.shards import NO_CUT, SPLITS, ShardWriter, Split, write_manifest
from training.data.sources import (
    Source,
    SourceOptions,
    load_sources,
    named_sources,
    scan,
    stable_hash,
)
from training.data.text_sources import STDIN, expand_inputs, spool_stdin
from training.data.train_tokenizer import train_tokenizer
from training.options import argument, option

# Distinct lines after which duplicates are no longer noticed: some 1.2 GB.
REMEMBERED_LINES = 20_000_000
CUT_SHARE = 0.25
HALF_WIDTH_SHARE = 0.10
MAX_VOCABULARY_SIZE = 65_536  # ids are uint16

_BATCH_LINES = 4096


@dataclass(frozen=True, slots=True, kw_only=True, config=STRICT)
class PrepareOptions:
    """Options of :func:`prepare`."""

    output: Path = option("directory to make; it must not exist", metavar="DIR")
    vocabulary_size: Annotated[int, Field(ge=len(CONTROL_TOKENS) + 257, le=MAX_VOCABULARY_SIZE)] = (
        option("tokens, control and byte tokens included", 16_000, "N")
    )
    tokenizer: Path | None = option("use this tokenizer.model and train none", None, "FILE")
    held_out_share: Annotated[float, Field(ge=0, le=0.5)] = option(
        "share of the blocks of each source to hold out; at least one block unless it is 0",
        0.005,
        "SHARE",
    )
    max_characters: Annotated[int, Field(ge=16)] = option("split longer lines", 500, "N")
    sentences: bool = option("make a line of each sentence", False)
    seed: Count = option("seed of every random choice", 1)
    vocabulary_lines: int = 400_000  # lines at most that the tokenizer is trained on
    threads: int = 2  # of training the tokenizer; another number may give other tokens


@dataclass(frozen=True, slots=True, kw_only=True, config=STRICT)
class PrepareCommand(PrepareOptions):
    """Options of the command: those of :func:`prepare`, and the sources."""

    inputs: tuple[str, ...] = argument("file, folder, glob, or - for standard input", "INPUT", ())
    sources: Path | None = option("sources with weights and limits", None, "FILE.toml")
    root: Path | None = option(
        "folder that paths in --sources start from (default: the folder of the file)", None, "DIR"
    )
    field: str | None = option("member of JSON Lines that contains the text", None, "NAME")
    language: Literal["zh", "en", "auto"] = option("language of the inputs", "auto")
    consecutive: bool = option("each line of the inputs continues the line before it", False)


def run(options: PrepareCommand) -> int:
    """Run the command; 0 on success."""
    sources = named_sources(options.inputs, options.field, options.language, options.consecutive)
    root = options.root
    if options.sources is not None:
        sources += load_sources(options.sources)
        root = root or options.sources.parent
    sys.stdout.write(f"{prepare(sources, options, root)}\n")
    return 0


def prepare(
    sources: Sequence[SourceOptions], options: PrepareOptions, root: Path | None = None
) -> Path:
    """Make a directory of prepared data and return its path.

    Relative paths of the sources start from *root*, by default from the current directory.

    Raises:
        CorpusError: the text cannot be used (with file, line and remedy), or the output exists.
        TokenizerError: this text allows no tokenizer of this size, or the given one cannot be read.
        OSError: the disk is full or not writable; nothing is left behind.
    """
    if options.output.exists():
        raise CorpusError(f"{options.output}: exists; remove it, or name another --output")
    _check_names(sources)
    with replaced_directory(options.output) as work:
        standard_input = work / "stdin"
        files = [_find_files(source, root, standard_input) for source in sources]
        scanned = [
            scan(source, each, options.held_out_share, options.seed)
            for source, each in zip(sources, files, strict=True)
        ]
        tokenizer = _tokenizer(scanned, options)
        seen: set[int] = set()
        entries = [_encode(source, options, tokenizer, seen, work) for source in scanned]
        standard_input.unlink(missing_ok=True)
        settings = {k: v for k, v in asdict(options).items() if not isinstance(v, Path)}
        write_manifest(work, tokenizer, entries, {"options": settings})
    return options.output


def _check_names(sources: Sequence[SourceOptions]) -> None:
    """Raise CorpusError if sources are missing, or a name or standard input is repeated."""
    if not sources:
        raise CorpusError(
            "no input; name files, folders or globs, - for standard input, or --sources FILE.toml"
        )
    name, times = Counter(source.name for source in sources).most_common(1)[0]
    if times > 1:
        raise CorpusError(f"source name {name} is used {times} times; names must be unique")
    if sum(source.paths.count(STDIN) for source in sources) > 1:
        raise CorpusError(f"{STDIN} is named twice; standard input can be read only once")


def _find_files(
    source: SourceOptions, root: Path | None, standard_input: Path
) -> list[tuple[Path, str]]:
    """Return path and shown name of a source's files; copy standard input to a file."""
    files: list[tuple[Path, str]] = []
    for entry in source.paths:
        if entry == STDIN:
            spool_stdin(standard_input)
            files.append((standard_input, "stdin.jsonl" if source.field else "stdin"))
        else:
            files.extend((path, str(path)) for path in expand_inputs([entry], root))
    return files


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
    for source in sources:
        exponent = 1 / source.options.weight
        reservoir = reservoirs[source.language == "zh"]
        for split, text in source.taken_lines("sample"):
            key = rng.random() ** exponent
            if split == "heldout" or (len(reservoir) == room and key <= reservoir[0][0]):
                continue
            lines = _clean(text, options, Counter())
            if not lines:
                continue
            item = (key, lines[rng.randrange(len(lines))])
            if len(reservoir) < room:
                heapq.heappush(reservoir, item)
            else:
                heapq.heapreplace(reservoir, item)
    # Sorted by text, so that SentencePiece sees the same order whatever the heaps' order.
    return sorted(line for reservoir in reservoirs.values() for _, line in reservoir)


def _encode(
    source: Source, options: PrepareOptions, tokenizer: Tokenizer, seen: set[int], work: Path
) -> dict[str, Any]:
    """Write the shards of a source; return its entry in the manifest."""
    name = source.options.name
    counts: Counter[str] = Counter()
    lines = _new_lines(source, options, seen, counts)
    divided = _divide(lines, source, tokenizer, random.Random(f"{options.seed}:{name}"), counts)
    with ShardWriter(work, name, "train") as train, ShardWriter(work, name, "heldout") as held_out:
        writers: dict[Split, ShardWriter] = {"train": train, "heldout": held_out}
        while batch := list(itertools.islice(divided, _BATCH_LINES)):
            _write_batch(batch, tokenizer, writers)
        shards = {split: {"shards": [writers[split].close()]} for split in SPLITS}
    if not train.lines:
        raise CorpusError(
            f"source {name}: no line of {sum(source.counts)} is left for training"
            f" ({counts['without_letters']} without letters, {counts['duplicates']} duplicates);"
            " remove the source"
        )
    return {
        "name": name,
        "language": source.language,
        "consecutive": source.options.consecutive,
        "weight": source.options.weight,
        "files": [Path(shown).name for _, shown in source.files],
        "bytes": source.size,
        "block_lines": source.block_lines,
        "counts": dict(counts),
        "split": shards,
    }


def _clean(text: str, options: PrepareOptions, counts: Counter[str]) -> list[str]:
    return clean(text, options.max_characters, counts, split_sentences=options.sentences)


def _new_lines(
    source: Source, options: PrepareOptions, seen: set[int], counts: Counter[str]
) -> Iterator[tuple[Split, str]]:
    """Yield the clean lines that no source has had yet; *seen* receives their hashes."""
    for split, text in source.taken_lines("encode"):
        counts["lines"] += 1
        for line in _clean(text, options, counts):
            key = stable_hash(line)
            if key in seen:
                counts["duplicates"] += 1
                continue
            if len(seen) < REMEMBERED_LINES:
                seen.add(key)
            yield split, line


def _divide(
    lines: Iterator[tuple[Split, str]],
    source: Source,
    tokenizer: Tokenizer,
    rng: random.Random,
    counts: Counter[str],
) -> Iterator[tuple[Split, list[str]]]:
    """Yield the parts of each line, divided at its cuts, and of the half-width copies of some."""
    surfaces = frozenset(surface for surface in tokenizer.surfaces if surface)
    for split, line in lines:
        copies = [line]
        if split == "train" and rng.random() < HALF_WIDTH_SHARE:
            changed = half_width(line, rng)
            if changed is not None:
                counts["half_width"] += 1
                # Where lines continue each other, the copy takes the place of the line.
                copies = [changed] if source.options.consecutive else [line, changed]
        for text in copies:
            cuts = choose_cuts(text, surfaces, rng) if rng.random() < CUT_SHARE else ()
            edges = itertools.pairwise([0, *cuts, len(text)])
            yield split, [text[start:end] for start, end in edges]


def _write_batch(
    batch: list[tuple[Split, list[str]]], tokenizer: Tokenizer, writers: dict[Split, ShardWriter]
) -> None:
    """Encode the parts of each line apart, as in serving, and write their tokens and cuts."""
    rows: dict[Split, list[tuple[list[int], tuple[int, int]]]] = {split: [] for split in SPLITS}
    characters: Counter[Split] = Counter()
    for split, parts in batch:
        tokens: list[int] = []
        ends = []
        for part in parts:
            tokens += tokenizer.encode(part)
            ends.append(len(tokens))
            characters[split] += len(part)
        first, second = [*ends[:-1], NO_CUT, NO_CUT][:2]
        rows[split].append((tokens, (first, second)))
    for split in SPLITS:
        writers[split].write(rows[split], characters[split])
