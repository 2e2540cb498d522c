"""Sources of text: their options, and which blocks of their lines are read and held out."""

import hashlib
import heapq
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import field as attribute
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field
from pydantic.dataclasses import dataclass

from model.config import STRICT
from model.errors import CorpusError
from model.text import language_of
from training.config import Size, SourceWeight, read_options
from training.data.shards import Split
from training.data.text_sources import STDIN, read_lines

# Neighbouring lines that are taken, held out or set aside together; fewer if a source is small.
BLOCK_LINES = 50
# Lines whose characters show the language.
_DETECTION_LINES = 1000


def _as_tuple(paths: object) -> object:
    if isinstance(paths, str):
        return (paths,)
    return tuple(paths) if isinstance(paths, list) else paths


@dataclass(frozen=True, slots=True, config=STRICT)
class SourceOptions:
    """A source of text: files that share a weight and a treatment.

    Attributes:
        name: unique name of letters, digits and ``. _ -``; it begins the names of files.
        paths: files, folders, globs, or ``-`` for standard input.
        language: ``zh``, ``en``, or ``auto``: detected in the first lines.
        weight: passes over the source in an epoch, relative to other sources.
        limit_bytes: bytes to read at most, in blocks spread over the source; None for all.
        consecutive: True if each line continues the line before it.
        field: the member of JSON Lines that contains the text.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    paths: Annotated[tuple[str, ...], BeforeValidator(_as_tuple), Field(min_length=1)]
    language: Literal["zh", "en", "auto"] = "auto"
    weight: SourceWeight = 1.0
    limit_bytes: Size | None = None
    consecutive: bool = False
    field: str | None = None


@dataclass(frozen=True, slots=True, config=STRICT)
class _SourceList:
    source: Annotated[tuple[SourceOptions, ...], Field(min_length=1)]


def load_sources(path: Path) -> tuple[SourceOptions, ...]:
    """Read a TOML file of ``[[source]]`` tables, whose keys are the fields of :class:`SourceOptions`.

    Raises:
        RunError: the file is unreadable or not TOML, or has an unknown key or a value out of range.
    """
    return read_options(_SourceList, path).source


def named_sources(
    inputs: Sequence[str],
    field: str | None = None,
    language: Literal["zh", "en", "auto"] = "auto",
    consecutive: bool = False,
) -> tuple[SourceOptions, ...]:
    """Make one source of each input, named after its file; equal names get a number."""
    sources: list[SourceOptions] = []
    names: Counter[str] = Counter()
    for entry in inputs:
        stem = "stdin" if entry == STDIN else Path(entry).name.split(".")[0]
        name = re.sub(r"[^A-Za-z0-9_-]+", "_", stem).strip("_-")[:50] or "text"
        names[name] += 1
        if names[name] > 1:
            name = f"{name}-{names[name]}"
        path = entry if entry == STDIN else str(Path(entry).absolute())
        sources.append(SourceOptions(name, (path,), language, consecutive=consecutive, field=field))
    return tuple(sources)


@dataclass(slots=True)
class Source:
    """A source whose files have been read once.

    Attributes:
        options: as given.
        files: path and shown name of each file.
        size: bytes.
        lines: raw lines.
        language: ``zh`` or ``en``.
        block_lines: lines of a block.
        share: share of the blocks that is read.
        held_out: numbers of the blocks that are held out.
    """

    options: SourceOptions
    files: list[tuple[Path, str]]
    size: int = 0
    lines: int = 0
    language: str = ""
    block_lines: int = BLOCK_LINES
    share: float = 1.0
    held_out: frozenset[int] = attribute(default_factory=frozenset)

    @property
    def taken_size(self) -> int:
        """Bytes of the blocks that are read."""
        return round(self.size * self.share)

    def taken_lines(self) -> Iterator[tuple[Split, str, int]]:
        """Yield every raw line of the blocks that are read, with its split and its size in bytes."""
        first_block = 0
        left = self.size if self.options.limit_bytes is None else self.options.limit_bytes
        for path, name in self.files:
            number = 0
            for number, text, size in read_lines(path, self.options.field, name):
                block = first_block + (number - 1) // self.block_lines
                if not _is_taken(block, self.share):
                    continue
                left -= size
                if left < 0:
                    return
                yield ("heldout" if block in self.held_out else "train"), text, size
            first_block += -(-number // self.block_lines)


def scan(
    options: SourceOptions,
    files: list[tuple[Path, str]],
    held_out_share: float,
    seed: int,
    progress: Callable[[int], object],
) -> Source:
    """Read a source once: count, detect its language and choose the blocks to read and to hold out.

    Args:
        options: the source.
        files: path and shown name of each file.
        held_out_share: share of the blocks to hold out; at least one block unless it is 0.
        seed: seed of that choice.
        progress: called with the bytes of each line.

    Raises:
        CorpusError: the source is empty, or a file cannot be read.
    """
    source = Source(options, files, language=options.language)
    counts: list[int] = []
    sample: list[str] = []
    for path, name in files:
        lines = 0
        for number, text, size in read_lines(path, options.field, name):
            lines = number
            source.size += size
            progress(size)
            if len(sample) < _DETECTION_LINES and text.strip():
                sample.append(text[:200])
        counts.append(lines)
    if not sample:
        names = ", ".join(name for _, name in files[:3])
        raise CorpusError(f"source {options.name}: empty ({names}); every source needs text")
    if source.language == "auto":
        source.language = language_of("\n".join(sample))
    source.lines = sum(counts)
    # Small sources get smaller blocks, so that they too have some to hold out.
    source.block_lines = min(BLOCK_LINES, max(1, source.lines // 20))
    if options.limit_bytes is not None:
        source.share = min(1.0, options.limit_bytes / source.size)
    blocks = sum(-(-lines // source.block_lines) for lines in counts)
    taken = [block for block in range(blocks) if _is_taken(block, source.share)]
    if held_out_share > 0 and len(taken) > 1:
        number = max(1, round(held_out_share * len(taken)))
        key = f"{seed}:{options.name}"
        order = heapq.nsmallest(number, taken, key=lambda block: stable_hash(f"{key}:{block}"))
        source.held_out = frozenset(order)
    return source


def _is_taken(block: int, share: float) -> bool:
    """Spread evenly: of any n neighbouring blocks, ``share * n`` are taken, give or take one."""
    return int((block + 1) * share) > int(block * share)


def stable_hash(text: str) -> int:
    """Return a 64-bit hash that is the same in every process."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")
