"""Files, folders and globs to the files that are read, each with its kind."""

import glob
import os
import re
import stat
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from model.errors import CorpusError
from training.data.compression import COMPRESSIONS, read_chunks
from training.data.encodings import detect, looks_binary
from training.data.file_types import CODE_SUFFIXES, REASONS, name_by_content

Kind = Literal[
    "txt", "log", "srt", "vtt", "md", "html", "csv", "tsv", "json", "jsonl", "docx", "epub", "pdf"
]
_KINDS: dict[str, Kind] = {
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
_PACKED = ("docx", "epub", "pdf")  # read as they are, never compressed once more
_SNIFFED_BYTES = 1 << 10
_HTML = re.compile(rb"\s*<(?:!doctype html|html)\b", re.IGNORECASE)


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

    Hidden files and folders are left out of folders. A file with an unknown suffix is read if its
    beginning is text.

    Raises:
        CorpusError: an input matches nothing or contains no text, or a file that is named itself
            cannot be read.
    """
    found: dict[Path, InputFile] = {}
    skipped: dict[Path, SkippedFile] = {}
    for entry in inputs:
        path = Path(entry)
        files = list(dict.fromkeys(_expand(entry, skipped)))
        readable = False
        for file in files:
            kind, reason = _inspect(file, named=file == path)
            if kind is None:
                if file == path:
                    raise CorpusError(f"{file}: {reason}")
                skipped[file] = SkippedFile(file, reason)
                continue
            readable = True
            if file == path or file.resolve() not in found:
                found[file.resolve()] = InputFile(file, kind, named=file == path)
        if not readable:
            raise CorpusError(f"{path}: {_nothing_found(path, files, skipped)}")
    return list(found.values()), list(skipped.values())


def _nothing_found(path: Path, files: Sequence[Path], skipped: dict[Path, SkippedFile]) -> str:
    if not files:
        fault = "no file in this folder" if path.is_dir() else "no such file, folder or match"
        return f"{fault}; check the path"
    reasons = Counter(skipped[file].reason for file in files if file in skipped)
    listed = "; ".join(f"{count}: {reason}" for reason, count in reasons.most_common(5))
    return f"no file with text among {len(files)} ({listed})"


def _expand(entry: str, skipped: dict[Path, SkippedFile]) -> Iterator[Path]:
    """Yield the files of an input; folders that cannot be listed are added to *skipped*."""
    names = [entry] if os.path.lexists(entry) else sorted(glob.glob(entry, recursive=True))  # noqa: PTH207 (Path.glob takes no absolute pattern)
    for path in map(Path, names):
        if path.is_dir():
            yield from _walk(path, skipped)
        else:
            yield path


def _walk(folder: Path, skipped: dict[Path, SkippedFile]) -> Iterator[Path]:
    """Yield the files below a folder, in the order of their paths, each folder once."""

    def skip(error: OSError) -> None:
        path = Path(error.filename)
        skipped[path] = SkippedFile(path, f"folder cannot be listed: {error.strerror}")

    entered: set[Path] = set()
    files: list[Path] = []
    for root, folders, names in os.walk(folder, followlinks=True, onerror=skip):
        real = Path(root).resolve()
        if real in entered:  # a loop of links
            folders.clear()
            continue
        entered.add(real)
        folders[:] = sorted(name for name in folders if not _is_hidden(name))
        files += [Path(root, name) for name in names if not _is_hidden(name)]
    yield from sorted(files)


def _is_hidden(name: str) -> bool:
    return name.startswith((".", "~$", "__MACOSX")) or name in {"Thumbs.db", "desktop.ini"}


def _inspect(path: Path, *, named: bool) -> tuple[Kind | None, str]:
    """Return the kind of a file, or None and the reason that it is not read."""
    try:
        status = path.stat()
    except OSError as error:
        return None, f"cannot be read: {error.strerror}; check path and permissions"
    if not stat.S_ISREG(status.st_mode):
        return None, "not a regular file; write its text to a file first"
    if status.st_size == 0:
        return None, "empty"
    if not os.access(path, os.R_OK):
        return None, "no permission to read it"
    suffixes = [suffix.lower() for suffix in path.suffixes]
    compressed = bool(suffixes) and suffixes[-1] in COMPRESSIONS
    if compressed:
        suffixes.pop()
    suffix = suffixes[-1] if suffixes else ""
    kind = _KINDS.get(suffix)
    if kind in _PACKED and compressed:
        return None, f"a compressed .{kind}; unpack it"
    if kind is not None:
        return kind, ""
    if suffix in REASONS and not (named and suffix in CODE_SUFFIXES):
        return None, REASONS[suffix]
    return _sniff(path)


def _sniff(path: Path) -> tuple[Kind | None, str]:
    """Return ``txt`` if the beginning of a file is text, or None and the reason."""
    try:
        head = next(read_chunks(path), b"")[:_SNIFFED_BYTES]
    except CorpusError as error:
        return None, str(error).removeprefix(f"{path}: ")
    if reason := name_by_content(head):
        return None, reason
    if not head or looks_binary(head, detect(head)):
        return None, "not text" if head else "empty"
    return ("html" if _HTML.match(head) else "txt"), ""
