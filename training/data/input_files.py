"""Files, folders and globs to the files that are read, each with its kind."""

import glob
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from model.errors import CorpusError
from training.data.compression import COMPRESSIONS, read_chunks
from training.data.encodings import detect, looks_binary

Kind = Literal[
    "txt", "log", "srt", "vtt", "md", "html", "csv", "tsv", "json", "jsonl", "docx", "epub", "pdf"
]
_KINDS: dict[str, Kind] = {kind: kind for kind in get_args(Kind)} | {
    "text": "txt",
    "markdown": "md",
    "htm": "html",
    "xhtml": "html",
    "ndjson": "jsonl",
}
_SNIFFED_BYTES = 1 << 10
_HTML = re.compile(rb"\s*<(?:!doctype html|html)\b", re.IGNORECASE)

_SAVE = "save it as .docx or .txt"
_CODE = "program code or settings"
# Reasons not to read files, with their suffixes
_REASONS = {
    suffix: reason
    for reason, suffixes in {
        "a picture": "png jpg jpeg gif bmp tif tiff webp heic svg ico psd",
        "sound or film": "mp3 wav flac m4a aac ogg wma mp4 mkv avi mov wmv flv webm m4v mpg",
        "an archive; unpack it": "zip rar 7z tar tgz tbz2 txz iso jar lz4 lzma",
        f"legacy Word; {_SAVE}": "doc dot wps",
        f"a word processor's file; {_SAVE}": "rtf odt pages wpd hwp",
        "an e-book of another kind; convert it to .epub or .txt": "mobi azw azw3 fb2 djvu chm caj",
        "a spreadsheet; save it as .csv": "xls xlsx ods numbers",
        "slides; save them as .txt": "ppt pptx odp key",
        "subtitles of another kind; convert them to .srt": "ass ssa sub",
        "mail; save the messages as .txt": "eml mbox msg pst",
        "a program": "exe dll so o a bin apk pyc class",
        "numbers or a database": "npy npz pt safetensors onnx pkl parquet db sqlite",
        _CODE: (
            "py js ts c h cc cpp cs java go rs rb php sh bat ps1 swift kt lua sql css ipynb"
            " xml yaml yml toml ini cfg conf lock"
        ),
    }.items()
    for suffix in suffixes.split()
}
# The same of files under another name, by their first bytes
_BEGINNINGS = {
    b"%PDF-": "a PDF; name it .pdf",
    b"PK\x03\x04": "a zip archive, .docx or .epub; unpack or rename it",
    b"\xd0\xcf\x11\xe0": f"a legacy Office file; {_SAVE}",
    b"{\\rtf": f"RTF; {_SAVE}",
    b"\x1f\x8b": "compressed; name it .gz",
    b"\xfd7zXZ": "compressed; name it .xz",
    b"\x28\xb5\x2f\xfd": "compressed; name it .zst",
    b"BZh": "compressed; name it .bz2",
    b"\x89PNG": "a picture",
    b"\xff\xd8\xff": "a picture",
}


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
        path, readable, reasons = Path(entry), False, Counter[str]()
        for file in _expand(entry, skipped):
            kind, reason = _inspect(file, named=file == path)
            if kind is not None:
                readable = True
                if file == path or file.resolve() not in found:
                    found[file.resolve()] = InputFile(file, kind, named=file == path)
            elif file == path:
                raise CorpusError(f"{file}: {reason}")
            else:
                skipped[file] = SkippedFile(file, reason)
                reasons[reason] += 1
        if not readable:
            fault = "no file in this folder" if path.is_dir() else "no such file, folder or match"
            if reasons:
                listed = (f"{count}: {reason}" for reason, count in reasons.most_common(5))
                fault = f"no file with text among {reasons.total()} ({'; '.join(listed)})"
            raise CorpusError(f"{path}: {fault}; check the path")
    return list(found.values()), list(skipped.values())


def _expand(entry: str, skipped: dict[Path, SkippedFile]) -> Iterator[Path]:
    """Yield the files of an input; folders that cannot be listed are added to *skipped*."""
    names = [entry] if os.path.lexists(entry) else sorted(glob.glob(entry, recursive=True))  # noqa: PTH207 (Path.glob takes no absolute pattern)
    for path in map(Path, names):
        if not path.is_dir():
            yield path
            continue
        files: list[Path] = []
        entered: set[Path] = set()

        def skip(error: OSError) -> None:
            folder = Path(error.filename)
            skipped[folder] = SkippedFile(folder, f"folder cannot be listed: {error.strerror}")

        for root, folders, children in os.walk(path, followlinks=True, onerror=skip):
            if (real := Path(root).resolve()) in entered:  # a loop of links
                folders.clear()
                continue
            entered.add(real)
            folders[:] = [name for name in folders if not _is_hidden(name)]
            files += [Path(root, name) for name in children if not _is_hidden(name)]
        yield from sorted(files)


def _is_hidden(name: str) -> bool:
    return name.startswith((".", "~$", "__MACOSX"))


def _inspect(path: Path, *, named: bool) -> tuple[Kind | None, str]:
    """Return the kind of a file, or None and the reason that it is not read."""
    try:
        size = path.stat().st_size
    except OSError as error:
        return None, f"cannot be read: {error.strerror}; check path and permissions"
    if not path.is_file():
        return None, "not a regular file; write its text to a file first"
    if size == 0:
        return None, "empty"
    if not os.access(path, os.R_OK):
        return None, "no permission to read it"
    name = path.name.lower()
    while name.endswith(COMPRESSIONS):
        name = name.rpartition(".")[0]
    suffix = name.rpartition(".")[2] if "." in name else ""
    kind = _KINDS.get(suffix)
    if kind in ("docx", "epub", "pdf") and name != path.name.lower():
        return None, f"a compressed .{kind}; unpack it"
    if kind is not None:
        return kind, ""
    if suffix in _REASONS and not (named and _REASONS[suffix] == _CODE):
        return None, _REASONS[suffix]
    try:
        head = next(read_chunks(path), b"")[:_SNIFFED_BYTES]
    except CorpusError as error:
        return None, str(error).removeprefix(f"{path}: ")
    if (reason := named_by_beginning(head)) or looks_binary(head, detect(head)):
        return None, reason or "not text"
    return ("html" if _HTML.match(head) else "txt"), ""


def named_by_beginning(head: bytes) -> str | None:
    """Return the kind and the remedy of a file that is not text, if its first bytes name it.

    >>> named_by_beginning(b"%PDF-1.7")
    'a PDF; name it .pdf'
    """
    return next((kind for mark, kind in _BEGINNINGS.items() if head.startswith(mark)), None)
