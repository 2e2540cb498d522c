"""Files, folders and globs to the files that are read, each with its kind."""

import glob
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from model.errors import CorpusError

Kind = Literal[
    "txt",
    "log",
    "srt",
    "vtt",
    "md",
    "html",
    "csv",
    "tsv",
    "json",
    "jsonl",
    "docx",
    "epub",
    "pdf",
]
KINDS: dict[str, Kind] = {
    ".txt": "txt",
    ".text": "txt",
    ".log": "log",
    ".srt": "srt",
    ".vtt": "vtt",
    ".md": "md",
    ".markdown": "md",
    ".html": "html",
    ".htm": "html",
    ".xhtml": "html",
    ".csv": "csv",
    ".tsv": "tsv",
    ".json": "json",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".docx": "docx",
    ".epub": "epub",
    ".pdf": "pdf",
}
COMPRESSIONS = (".gz", ".xz", ".zst", ".bz2")


@dataclass(frozen=True, slots=True)
class InputFile:
    """A file to read; *named* if it was given itself, not found in a folder or by a glob."""

    path: Path
    kind: Kind
    named: bool


@dataclass(frozen=True, slots=True)
class SkippedFile:
    """A file that is not read, and the reason."""

    path: Path
    reason: str


def find_files(inputs: Sequence[str]) -> tuple[list[InputFile], list[SkippedFile]]:
    """Find the files to read in files, folders and globs, each once, sorted within each input.

    Raises:
        CorpusError: an input matches nothing, or contains no text.
    """
    found: dict[Path, InputFile] = {}
    skipped: dict[Path, SkippedFile] = {}
    for entry in inputs:
        path = Path(entry)
        if path.is_dir():
            files = sorted(file for file in path.rglob("*") if file.is_file())
        else:
            names = [entry] if path.exists() else glob.glob(entry, recursive=True)  # noqa: PTH207 (Path.glob takes no absolute pattern)
            files = sorted(filter(Path.exists, map(Path, names)))
        if not files:
            raise CorpusError(f"{path}: no such file, folder or match; check the path")
        for file in files:
            named = file == path
            kind = _kind(file)
            if kind is None and not named:
                skipped[file] = SkippedFile(file, "not a kind of text that is read")
            else:
                found.setdefault(file, InputFile(file, kind or "txt", named))
        if not any(file in found for file in files):
            raise CorpusError(f"{path}: no text among {len(files)} files")
    return list(found.values()), list(skipped.values())


def _kind(path: Path) -> Kind | None:
    """Return the kind that the suffix before any compression's names; None for another."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in COMPRESSIONS:
        suffixes.pop()
    return KINDS.get(suffixes[-1]) if suffixes else None
