"""Sources of text: their options, and which blocks of their lines are read and held out."""

import dataclasses
import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from model.config import STRICT
from model.errors import CorpusError
from model.text import language_of
from training.config import Size, SourceWeight, read_options
from training.data.documents import read_lines
from training.data.file_report import FileReport
from training.data.input_files import InputFile, find_files
from training.data.shards import Split

# Neighbouring lines that are taken or held out together; fewer if a source is small.
BLOCK_LINES = 50
# Lines whose characters show the language.
_DETECTION_LINES = 1000


@dataclass(frozen=True, slots=True, config=STRICT)
class SourceOptions:
    """A source of text: files that share a weight and a treatment."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]  # unique
    path: str  # file, folder or glob
    language: Literal["zh", "en", "auto"] = "auto"  # auto: detected in the first lines
    weight: SourceWeight = 1.0  # passes over the source in an epoch
    limit_bytes: Size | None = None  # read at most, in blocks spread over the source
    consecutive: bool = False  # each line continues the line before it
    field: str | None = None  # the member of JSON Lines that contains the text


@dataclass(frozen=True, slots=True, config=STRICT)
class _SourceList:
    source: Annotated[tuple[SourceOptions, ...], Field(min_length=1)]


def load_sources(path: Path, root: Path | None = None) -> tuple[SourceOptions, ...]:
    """Read a TOML file of ``[[source]]`` tables with the fields of :class:`SourceOptions`.

    Relative paths in it start from *root*, by default from the folder of the file.

    Raises:
        RunError: the file is unreadable or not TOML, or has an unknown key or a value out of range.
    """
    root = root or path.parent
    sources = read_options(_SourceList, path).source
    return tuple(dataclasses.replace(each, path=str(root / each.path)) for each in sources)


def named_sources(
    inputs: Sequence[str],
    field: str | None = None,
    language: Literal["zh", "en", "auto"] = "auto",
) -> tuple[SourceOptions, ...]:
    """Make one source of each input, named after its file; equal names get a number."""
    sources: list[SourceOptions] = []
    names: Counter[str] = Counter()
    for entry in inputs:
        stem = Path(entry).name.split(".")[0]
        name = re.sub(r"[^A-Za-z0-9_-]+", "_", stem).strip("_-")[:50] or "text"
        names[name] += 1
        if names[name] > 1:
            name = f"{name}-{names[name]}"
        sources.append(SourceOptions(name, entry, language, field=field))
    return tuple(sources)


@dataclasses.dataclass(frozen=True, slots=True)
class Source:
    """A source whose files have been read once."""

    options: SourceOptions
    language: str  # zh or en
    size: int  # bytes
    line_counts: dict[InputFile, int]  # lines of each file
    block_lines: int
    share: float  # of the blocks, which is read
    held_out: frozenset[int]  # numbers of the blocks that are held out

    def taken_lines(self) -> Iterator[tuple[Split, str]]:
        """Yield each raw line of the blocks that are read, with its split."""
        unread = self.size if self.options.limit_bytes is None else self.options.limit_bytes
        first_block = 0
        for file, lines in self.line_counts.items():
            for number, text, size in _numbered(file, self.options.field):
                block = first_block + (number - 1) // self.block_lines
                if _is_taken(block, self.share):
                    unread -= size
                    if unread < 0:
                        return
                    yield ("heldout" if block in self.held_out else "train"), text
            first_block += _blocks(lines, self.block_lines)


def scan(options: SourceOptions, held_out_share: float, seed: int) -> Source:
    """Read a source once: count, detect its language and choose the blocks to read and to hold out.

    A share above 0 holds out at least one block.

    Raises:
        CorpusError: the source is empty, or a file cannot be read.
    """
    size = 0
    line_counts: dict[InputFile, int] = {}
    sample: list[str] = []
    for file in find_files([options.path])[0]:
        line_counts[file] = 0
        for number, text, read in _numbered(file, options.field):
            line_counts[file] = number
            size += read
            if len(sample) < _DETECTION_LINES and text.strip():
                sample.append(text[:200])
    if not sample:
        raise CorpusError(f"source {options.name}: empty ({options.path}); every source needs text")
    language = options.language
    if language == "auto":
        language = language_of("\n".join(sample))
    # Small sources get smaller blocks, so that they too have some to hold out.
    block_lines = min(BLOCK_LINES, max(1, sum(line_counts.values()) // 20))
    share = 1.0 if options.limit_bytes is None else min(1.0, options.limit_bytes / size)
    blocks = range(sum(_blocks(lines, block_lines) for lines in line_counts.values()))
    taken = [block for block in blocks if _is_taken(block, share)]
    count = max(1, round(held_out_share * len(taken)))
    if held_out_share == 0 or len(taken) == 1:
        count = 0
    key = f"{seed}:{options.name}"
    taken.sort(key=lambda block: stable_hash(f"{key}:{block}"))
    return Source(
        options, language, size, line_counts, block_lines, share, frozenset(taken[:count])
    )


def _numbered(file: InputFile, field: str | None) -> Iterator[tuple[int, str, int]]:
    """Yield number, text and bytes of each line."""
    report = FileReport(str(file.path), file.kind)
    for number, text in enumerate(read_lines(file, report, field=field), 1):
        yield number, text, len(text.encode()) + 1


def _blocks(lines: int, block_lines: int) -> int:
    return -(-lines // block_lines)


def _is_taken(block: int, share: float) -> bool:
    """Spread evenly: of any n neighbouring blocks, ``share * n`` are taken, give or take one."""
    return int((block + 1) * share) > int(block * share)


def stable_hash(text: str) -> int:
    """Return a 64-bit hash that is the same in every process."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")
