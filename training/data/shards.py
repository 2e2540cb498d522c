"""Prepared data on disk: token ids and a table of lines, memory-mapped.

    DIRECTORY/
      manifest.json         sources, counts, options, SHA-256 of every file and of everything
      tokenizer.model
      words                 known words of the training text (model/words.py)
      NAME.train.ids        uint16 little-endian: lines of token ids, without <s> and </s>
      NAME.train.lines      uint32 little-endian (lines, 3): tokens, first cut, second cut
      NAME.heldout.*        the same for the held-out blocks

A cut is a token offset inside its line: the text was divided there before it was encoded, as in
serving. A line with two cuts has a gap [first, second). 0xFFFFFFFF means no cut.
"""

import hashlib
import json
import mmap
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt

from model.errors import PreparedDataError, TokenizerError
from model.tokenizer import Tokenizer

FORMAT_VERSION = 3
# Of a shard that is read in blocks
BLOCK_TOKENS = 1 << 23
NO_CUT = 0xFFFFFFFF
Split = Literal["train", "heldout"]
SPLITS: tuple[Split, ...] = ("train", "heldout")

_IDS = np.dtype("<u2")
_TABLE = np.dtype("<u4")
_REMEDY = "run: python -m training prepare"


@dataclass(frozen=True)
class Shard:
    """One split of one source, memory-mapped."""

    name: str  # of the source
    language: str  # zh or en
    consecutive: bool  # each line continues the line before it
    weight: float  # passes over the source in an epoch
    ids: npt.NDArray[np.uint16]  # (tokens,)
    table: npt.NDArray[np.uint32]  # (lines, 3), see above
    characters: int  # code points of the text

    @property
    def lines(self) -> int:
        """Number of lines."""
        return len(self.table)

    @cached_property
    def offsets(self) -> npt.NDArray[np.int64]:
        """Start of each line in :attr:`ids`, and the end of the last: (lines + 1,) int64."""
        return np.concatenate([[0], np.cumsum(self.table[:, 0], dtype=np.int64)])

    @cached_property
    def cuts(self) -> npt.NDArray[np.int64]:
        """Token offsets of the cuts inside each line: (lines, 2) int64, -1 for none."""
        cuts = self.table[:, 1:].astype(np.int64)
        cuts[cuts == NO_CUT] = -1
        return cuts

    def blocks(self, tokens: int) -> Iterator["Shard"]:
        """Yield the shard in blocks of whole lines, with some *tokens* each."""
        line = start = 0
        while line < self.lines:
            ends = np.cumsum(self.table[line : line + tokens // 4 + 1, 0], dtype=np.int64)
            lines = max(1, int(ends.searchsorted(tokens, side="right")))
            end = start + int(ends[lines - 1])
            yield replace(
                self, ids=self.ids[start:end], table=self.table[line : line + lines], characters=0
            )
            line, start = line + lines, end
        release(self.table)


@dataclass(frozen=True)
class Prepared:
    """A directory of prepared data."""

    directory: Path
    sources: tuple[Shard, ...]  # training text, one shard of each source
    held_out: tuple[Shard, ...]  # of the sources that have some
    tokenizer: Tokenizer
    words: bytes  # content of the file
    sha256: str  # manifest_digest(), the name of the data in a checkpoint


def open_prepared(directory: Path, *, verify: bool = True) -> Prepared:
    """Map a prepared directory; check that sizes and, if *verify*, sums are those of its manifest.

    Sums take about a second for each gigabyte.

    Raises:
        PreparedDataError: the directory is missing, damaged, altered or of another format.
    """
    path = directory / "manifest.json"
    try:
        manifest = json.loads(path.read_bytes())
        if manifest["format_version"] != FORMAT_VERSION:
            raise PreparedDataError(
                f"{directory}: format version {manifest['format_version']} is unknown; {_REMEDY}"
            )
        tokenizer = Tokenizer.load(directory / "tokenizer.model")
        if tokenizer.digest != manifest["tokenizer_sha256"]:
            raise PreparedDataError(
                f"{directory / 'tokenizer.model'}: not the tokenizer of the manifest; {_REMEDY}"
            )
        words = (directory / "words").read_bytes()
        if hashlib.sha256(words).hexdigest() != manifest["words_sha256"]:
            raise PreparedDataError(
                f"{directory / 'words'}: not the words of the manifest; {_REMEDY}"
            )
        train, held_out = (
            tuple(_map(directory, source, split, verify) for source in manifest["sources"])
            for split in SPLITS
        )
        if manifest["sha256"] != manifest_digest(manifest):
            raise PreparedDataError(f"{path}: altered since it was written; {_REMEDY}")
    except OSError as error:
        place = error.filename or directory
        raise PreparedDataError(f"{place}: {error.strerror}; {_REMEDY}") from error
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise PreparedDataError(f"{path}: not a manifest ({error!r}); {_REMEDY}") from error
    except TokenizerError as error:
        raise PreparedDataError(f"{error}; {_REMEDY}") from error
    held_out = tuple(shard for shard in held_out if shard.lines)
    return Prepared(directory, train, held_out, tokenizer, words, manifest["sha256"])


def _map(directory: Path, source: dict[str, Any], split: Split, verify: bool) -> Shard:
    entry = source["split"][split]
    stem = f"{source['name']}.{split}"
    ids = _memory_map(directory / f"{stem}.ids", _IDS, entry["tokens"])
    table = _memory_map(directory / f"{stem}.lines", _TABLE, 3 * entry["lines"])
    sums = {"ids": entry["sha256"], "lines": entry["lines_sha256"]}
    for end, expected in sums.items() if verify else ():
        path = directory / f"{stem}.{end}"
        with path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != expected:
                raise PreparedDataError(f"{path}: altered since it was written; {_REMEDY}")
    return Shard(
        name=source["name"],
        language=source["language"],
        consecutive=source["consecutive"],
        weight=source["weight"],
        ids=ids,
        table=table.reshape(-1, 3),
        characters=entry["characters"],
    )


def _memory_map(path: Path, dtype: np.dtype[Any], numbers: int) -> npt.NDArray[Any]:
    size, expected = path.stat().st_size, numbers * dtype.itemsize
    if size != expected:
        raise PreparedDataError(f"{path}: {size} bytes, but the manifest has {expected}; {_REMEDY}")
    if not size:  # an empty file cannot be mapped
        return np.zeros(0, dtype=dtype)
    return np.memmap(path, dtype=dtype, mode="r")


def release(*arrays: npt.NDArray[Any]) -> None:
    """Drop the pages of mapped arrays that were read; they count as memory of the process."""
    for array in arrays:
        base: Any = array
        while isinstance(base, np.ndarray):
            base = base.base
        if isinstance(base, mmap.mmap):
            base.madvise(mmap.MADV_DONTNEED)


def languages_of(sources: Sequence[Shard]) -> tuple[str, ...]:
    """Return the languages of sources, most tokens first."""
    totals: Counter[str] = Counter()
    for shard in sources:
        totals[shard.language] += round(shard.weight * len(shard.ids))
    return tuple(language for language, _ in totals.most_common())


def weigh_sources(sources: Sequence[Shard], weights: Mapping[str, float]) -> list[Shard]:
    """Return the sources with the *weights* of a run, by name, in place of the prepared ones."""
    return [replace(each, weight=weights.get(each.name, each.weight)) for each in sources]


class ShardWriter:
    """Writes one split of one source. Use it as a context manager."""

    def __init__(self, directory: Path, name: str, split: Split) -> None:
        self._ids = (directory / f"{name}.{split}.ids").open("wb+")
        self._table = (directory / f"{name}.{split}.lines").open("wb+")
        self.lines = 0
        self.characters = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._ids.close()
        self._table.close()

    def write(self, tokens: list[int], characters: int, cuts: Sequence[int] = ()) -> None:
        """Append a line of this many *characters*, with up to two cuts."""
        first, second = [*cuts, NO_CUT, NO_CUT][:2]
        self._ids.write(np.array(tokens, dtype=_IDS).tobytes())
        self._table.write(np.array([len(tokens), first, second], dtype=_TABLE).tobytes())
        self.lines += 1
        self.characters += characters

    def entry(self) -> dict[str, Any]:
        """Return what :func:`write_manifest` needs to know of the split, once it is written."""
        tokens = self._ids.tell() // _IDS.itemsize
        self._ids.seek(0)
        self._table.seek(0)
        return {
            "sha256": hashlib.file_digest(self._ids, "sha256").hexdigest(),
            "lines_sha256": hashlib.file_digest(self._table, "sha256").hexdigest(),
            "tokens": tokens,
            "lines": self.lines,
            "characters": self.characters,
        }


def write_manifest(
    directory: Path,
    tokenizer: Tokenizer,
    words: bytes,
    sources: Sequence[dict[str, Any]],
    details: Mapping[str, Any] | None = None,
) -> None:
    """Write all but the shards of a directory whose shards are written.

    Each source has name, language, consecutive, weight and ``split``, which is
    ``{split: ShardWriter.entry()}`` for both splits. *details* are further members.
    """
    (directory / "tokenizer.model").write_bytes(tokenizer.model_proto)
    (directory / "words").write_bytes(words)
    manifest: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "tokenizer_sha256": tokenizer.digest,
        "words_sha256": hashlib.sha256(words).hexdigest(),
        "vocabulary_size": tokenizer.size,
        "sources": list(sources),
        **(details or {}),
    }
    manifest["sha256"] = manifest_digest(manifest)
    text = json.dumps(manifest, indent=1, ensure_ascii=False)
    # Names of files may be bytes that are not UTF-8.
    (directory / "manifest.json").write_text(text, encoding="utf-8", errors="replace")


def manifest_digest(manifest: dict[str, Any]) -> str:
    """Return the SHA-256 over the tokenizer, and settings and file hashes of each source."""
    digest = hashlib.sha256(manifest["tokenizer_sha256"].encode())
    for source in manifest["sources"]:
        settings = [source["name"], source["language"], source["consecutive"], source["weight"]]
        entries = [source["split"][split] for split in SPLITS]
        hashes = [[entry["sha256"], entry["lines_sha256"]] for entry in entries]
        digest.update(json.dumps([settings, hashes]).encode())
    return digest.hexdigest()
