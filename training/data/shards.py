"""Prepared data on disk: flat token ids and a table of lines, memory-mapped. Not how text became ids (``prepare.py``).

    DIRECTORY/
      manifest.json         sources, counts, options, a SHA-256 of every file and one of everything
      tokenizer.model
      NAME.train.ids        uint16 little-endian: token ids, lines back to back, no <s> and no </s>
      NAME.train.lines      uint32 little-endian (lines, 3): tokens, first cut, second cut; 0xFFFFFFFF is no cut
      NAME.heldout.*        the same for the held-out blocks

A cut is a token offset inside its line: the text was divided there before it was encoded, as it is in serving. A line
with two cuts holds a gap [first, second).
"""

import hashlib
import json
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Literal

import numpy as np
import numpy.typing as npt

from model.errors import PreparedDataError, TokenizerError
from model.tokenizer import Tokenizer

FORMAT_VERSION = 1
NO_CUT = 0xFFFFFFFF
Split = Literal["train", "heldout"]
SPLITS: tuple[Split, ...] = ("train", "heldout")

_IDS = np.dtype("<u2")
_TABLE = np.dtype("<u4")
_REMEDY = "run: python -m training prepare"


@dataclass(frozen=True)
class Shard:
    """One split of one source, read from disk as it is used.

    Attributes:
        name: of the source.
        language: ``zh`` or ``en``.
        consecutive: whether neighbouring lines follow on from each other.
        weight: how often an epoch passes over the source.
        ids: (tokens,) uint16, memory-mapped.
        table: (lines, 3) uint32, memory-mapped.
        characters: code points of the text, for bits per character.
    """

    name: str
    language: str
    consecutive: bool
    weight: float
    ids: npt.NDArray[np.uint16]
    table: npt.NDArray[np.uint32]
    characters: int

    @property
    def lines(self) -> int:
        """How many lines there are."""
        return len(self.table)

    @cached_property
    def offsets(self) -> npt.NDArray[np.int64]:
        """Where each line starts in :attr:`ids`, and the end of the last: (lines + 1,) int64."""
        return np.concatenate([[0], np.cumsum(self.table[:, 0], dtype=np.int64)])

    @cached_property
    def cuts(self) -> npt.NDArray[np.int64]:
        """Token offsets inside each line at which its text was cut: (lines, 2) int64, -1 for none."""
        cuts = self.table[:, 1:].astype(np.int64)
        cuts[cuts == NO_CUT] = -1
        return cuts


@dataclass(frozen=True)
class Prepared:
    """A prepared data directory.

    Attributes:
        directory: where it is.
        sources: the training text, a shard a source.
        held_out: the held-out text; only sources that have some.
        tokenizer: the vocabulary of the ids.
        sha256: hash over the manifest's files, the name of this data in a checkpoint.
        manifest: all of ``manifest.json``.
    """

    directory: Path
    sources: tuple[Shard, ...]
    held_out: tuple[Shard, ...]
    tokenizer: Tokenizer
    sha256: str
    manifest: dict[str, Any]


def open_prepared(directory: Path, *, verify: bool = False) -> Prepared:
    """Map a prepared directory and check that the sizes are those of its manifest.

    Args:
        directory: what ``python -m training prepare`` wrote.
        verify: also hash every file (reads all of it).

    Raises:
        PreparedDataError: missing, torn, altered or too new.
    """
    try:
        manifest = json.loads((directory / "manifest.json").read_bytes())
        if manifest["format_version"] != FORMAT_VERSION:
            raise PreparedDataError(
                f"{directory}: format version {manifest['format_version']}, not {FORMAT_VERSION}; {_REMEDY}"
            )
        proto = (directory / "tokenizer.model").read_bytes()
        tokenizer = Tokenizer.from_bytes(proto)
        if tokenizer.digest != manifest["tokenizer_sha256"]:
            raise PreparedDataError(
                f"{directory / 'tokenizer.model'}: not the vocabulary of the manifest; {_REMEDY}"
            )
        shards: dict[Split, list[Shard]] = {"train": [], "heldout": []}
        for source in manifest["sources"]:
            for split in SPLITS:
                shards[split].extend(
                    _map(directory, source, split, part, verify) for part in _parts(source, split)
                )
        if manifest["sha256"] != manifest_digest(manifest):
            raise PreparedDataError(
                f"{directory / 'manifest.json'}: altered since it was written; {_REMEDY}"
            )
    except OSError as error:
        raise PreparedDataError(
            f"{error.filename or directory}: {error.strerror}; {_REMEDY}"
        ) from error
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise PreparedDataError(
            f"{directory / 'manifest.json'}: not a manifest ({error!r}); {_REMEDY}"
        ) from error
    except TokenizerError as error:
        raise PreparedDataError(f"{directory / 'tokenizer.model'}: {error}") from error
    held_out = tuple(shard for shard in shards["heldout"] if shard.lines)
    return Prepared(
        directory, tuple(shards["train"]), held_out, tokenizer, manifest["sha256"], manifest
    )


def manifest_digest(manifest: dict[str, Any]) -> str:
    """SHA-256 over the vocabulary and, in order, each source's settings and file hashes: the identity of the data."""
    digest = hashlib.sha256(manifest["tokenizer_sha256"].encode())
    for source in manifest["sources"]:
        settings = [source["name"], source["language"], source["consecutive"], source["weight"]]
        hashes = [
            (part["sha256"], part["lines_sha256"])
            for split in SPLITS
            for part in _parts(source, split)
        ]
        digest.update(json.dumps([settings, hashes]).encode())
    return digest.hexdigest()


def weigh(
    sources: Sequence[Shard], names: Container[str], weights: Mapping[str, float]
) -> list[Shard]:
    """The sources that a run reads: those of *names*, or all where there are none, by *weights* where it gives some."""
    return [
        replace(s, weight=weights.get(s.name, s.weight))
        for s in sources
        if not names or s.name in names
    ]


class ShardWriter:
    """Writes one split of one source; under a temporary name until :meth:`close`.

    Use as a context manager: an error inside leaves no file behind.
    """

    def __init__(self, directory: Path, name: str, split: Split) -> None:
        self._paths = {kind: directory / f"{name}.{split}.{kind}" for kind in ("ids", "lines")}
        self._files: dict[str, BinaryIO] = {
            kind: _partial(path).open("wb") for kind, path in self._paths.items()
        }
        self._hashes = {kind: hashlib.sha256() for kind in self._paths}
        self.lines = 0
        self.tokens = 0
        self.characters = 0

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for file in self._files.values():
            file.close()
        if error is not None:
            for path in self._paths.values():
                _partial(path).unlink(missing_ok=True)

    def write(self, lines: Iterable[tuple[list[int], tuple[int, int]]], characters: int) -> None:
        """Append lines.

        Args:
            lines: token ids and the two cuts (``NO_CUT`` for none) of each.
            characters: code points of the text of all of them.
        """
        ids: list[int] = []
        table: list[int] = []
        for tokens, cuts in lines:
            ids.extend(tokens)
            table.extend((len(tokens), *cuts))
        self._append("ids", np.array(ids, dtype=_IDS).tobytes())
        self._append("lines", np.array(table, dtype=_TABLE).tobytes())
        self.lines += len(table) // 3
        self.tokens += len(ids)
        self.characters += characters

    def close(self) -> dict[str, Any]:
        """Put the files under their final names and return their entry in the manifest."""
        for kind, path in self._paths.items():
            self._files[kind].close()
            _partial(path).replace(path)
        return {
            "file": self._paths["ids"].name,
            "sha256": self._hashes["ids"].hexdigest(),
            "lines_file": self._paths["lines"].name,
            "lines_sha256": self._hashes["lines"].hexdigest(),
            "tokens": self.tokens,
            "lines": self.lines,
            "characters": self.characters,
        }

    def _append(self, kind: str, data: bytes) -> None:
        self._files[kind].write(data)
        self._hashes[kind].update(data)


def _parts(source: dict[str, Any], split: Split) -> list[dict[str, Any]]:
    parts: list[dict[str, Any]] = source["split"][split]["shards"]
    return parts


def _map(
    directory: Path, source: dict[str, Any], split: Split, part: dict[str, Any], verify: bool
) -> Shard:
    for key, hash_key, size in (
        ("file", "sha256", part["tokens"] * _IDS.itemsize),
        ("lines_file", "lines_sha256", part["lines"] * 3 * _TABLE.itemsize),
    ):
        path = directory / part[key]
        if path.stat().st_size != size:
            raise PreparedDataError(
                f"{path}: {path.stat().st_size} bytes where the manifest has {size}; {_REMEDY}"
            )
        if verify:
            with path.open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != part[hash_key]:
                    raise PreparedDataError(
                        f"{path}: altered since it was written ({split}); {_REMEDY}"
                    )
    return Shard(
        name=source["name"],
        language=source["language"],
        consecutive=source["consecutive"],
        weight=source["weight"],
        ids=_memory_map(directory / part["file"], _IDS),
        table=_memory_map(directory / part["lines_file"], _TABLE).reshape(-1, 3),
        characters=part["characters"],
    )


def _memory_map(path: Path, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    # An empty file cannot be mapped.
    return (
        np.memmap(path, dtype=dtype, mode="r") if path.stat().st_size else np.zeros(0, dtype=dtype)
    )


def _partial(path: Path) -> Path:
    return path.with_name(path.name + ".partial")
