"""Sources of text: their options, and which blocks of their lines are read and held out."""

import hashlib
import itertools
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import field as attribute
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field
from pydantic.dataclasses import dataclass
from tqdm import tqdm

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
    """A source of text: files that share a weight and a treatment."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]  # unique
    # Files, folders, globs, or - for standard input
    paths: Annotated[tuple[str, ...], BeforeValidator(_as_tuple), Field(min_length=1)]
    language: Literal["zh", "en", "auto"] = "auto"  # auto: detected in the first lines
    weight: SourceWeight = 1.0  # passes over the source in an epoch
    limit_bytes: Size | None = None  # read at most, in blocks spread over the source
    consecutive: bool = False  # each line continues the line before it
    field: str | None = None  # the member of JSON Lines that contains the text


@dataclass(frozen=True, slots=True, config=STRICT)
class _SourceList:
    source: Annotated[tuple[SourceOptions, ...], Field(min_length=1)]


def load_sources(path: Path) -> tuple[SourceOptions, ...]:
    """Read a TOML file of ``[[source]]`` tables with the fields of :class:`SourceOptions`.

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
    """A source whose files have been read once."""

    options: SourceOptions
    files: list[tuple[Path, str]]  # path and shown name
    size: int = 0  # bytes
    counts: list[int] = attribute(default_factory=list)  # lines of each file
    language: str = ""  # zh or en
    block_lines: int = BLOCK_LINES
    share: float = 1.0  # of the blocks, which is read
    held_out: frozenset[int] = frozenset()  # numbers of the blocks that are held out

    def taken_lines(self, purpose: str) -> Iterator[tuple[Split, str]]:
        """Yield each raw line of the blocks that are read, with its split; *purpose* is shown."""
        first_blocks = itertools.accumulate(map(self._blocks, self.counts), initial=0)
        left = self.size if self.options.limit_bytes is None else self.options.limit_bytes
        with _progress(purpose, self.options, round(self.size * self.share)) as bar:
            for (path, name), first_block in zip(self.files, first_blocks, strict=False):
                for number, text, size in read_lines(path, self.options.field, name):
                    block = first_block + (number - 1) // self.block_lines
                    if not _is_taken(block, self.share):
                        continue
                    left -= size
                    if left < 0:
                        return
                    bar.update(size)
                    yield ("heldout" if block in self.held_out else "train"), text

    def choose_blocks(self, held_out_share: float, seed: int) -> None:
        """Choose the blocks to read and, at random by *seed*, those to hold out."""
        # Small sources get smaller blocks, so that they too have some to hold out.
        self.block_lines = min(BLOCK_LINES, max(1, sum(self.counts) // 20))
        if self.options.limit_bytes is not None:
            self.share = min(1.0, self.options.limit_bytes / self.size)
        blocks = range(sum(map(self._blocks, self.counts)))
        taken = [block for block in blocks if _is_taken(block, self.share)]
        if held_out_share > 0 and len(taken) > 1:
            number = max(1, round(held_out_share * len(taken)))
            key = f"{seed}:{self.options.name}"
            order = sorted(taken, key=lambda block: stable_hash(f"{key}:{block}"))
            self.held_out = frozenset(order[:number])

    def _blocks(self, lines: int) -> int:
        return -(-lines // self.block_lines)


def scan(
    options: SourceOptions, files: list[tuple[Path, str]], held_out_share: float, seed: int
) -> Source:
    """Read a source once: count, detect its language and choose the blocks to read and to hold out.

    *files* are paths and the names shown in errors. A share above 0 holds out at least one block.

    Raises:
        CorpusError: the source is empty, or a file cannot be read.
    """
    source = Source(options, files, language=options.language)
    sample: list[str] = []
    with _progress("scan", options, None) as bar:
        for path, name in files:
            lines = 0
            for number, text, size in read_lines(path, options.field, name):
                lines = number
                source.size += size
                bar.update(size)
                if len(sample) < _DETECTION_LINES and text.strip():
                    sample.append(text[:200])
            source.counts.append(lines)
    if not sample:
        names = ", ".join(name for _, name in files[:3])
        raise CorpusError(f"source {options.name}: empty ({names}); every source needs text")
    if source.language == "auto":
        source.language = language_of("\n".join(sample))
    source.choose_blocks(held_out_share, seed)
    return source


def _progress(purpose: str, options: SourceOptions, size: int | None) -> "tqdm[Any]":
    """Return a progress bar in bytes; nothing is shown if stderr is not a terminal."""
    title = f"{purpose} {options.name}"
    return tqdm(total=size, desc=title, unit="B", unit_scale=True, disable=None, leave=False)


def _is_taken(block: int, share: float) -> bool:
    """Spread evenly: of any n neighbouring blocks, ``share * n`` are taken, give or take one."""
    return int((block + 1) * share) > int(block * share)


def stable_hash(text: str) -> int:
    """Return a 64-bit hash that is the same in every process."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")
