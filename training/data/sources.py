"""Sources of text: files that share a weight and a treatment."""

import dataclasses
import itertools
import re
from collections.abc import Container, Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from model.config import STRICT
from training.config import Size, SourceWeight, read_options


@dataclass(frozen=True, slots=True, config=STRICT)
class SourceOptions:
    """A source of text: files that share a weight and a treatment."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]  # unique
    path: str  # file, folder or glob
    language: Literal["zh", "en", "auto"] = "auto"  # auto: each line's own
    weight: SourceWeight = 1.0  # passes over the source in an epoch
    limit_bytes: Size | None = None  # read at most, in blocks spread over the source
    consecutive: bool = False  # each line continues the line before it
    field: str | None = None  # the column or JSON member that contains the text
    held_out: bool = True  # lines of it may be held out or kept for tests


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
    sources: dict[str, SourceOptions] = {}
    for entry in inputs:
        stem = Path(entry).name.split(".")[0]
        name = re.sub(r"[^A-Za-z0-9_-]+", "_", stem).strip("_-")[:50] or "text"
        name = unique_name(name, sources)
        sources[name] = SourceOptions(name, entry, language, field=field)
    return tuple(sources.values())


def unique_name(wanted: str, taken: Container[str]) -> str:
    """Return the name, with a number if it is taken."""
    names = itertools.chain([wanted], (f"{wanted}-{n}" for n in itertools.count(2)))
    return next(name for name in names if name not in taken)
