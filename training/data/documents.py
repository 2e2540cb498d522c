"""Files of any kind to lines of readable text. Memory is bounded: text is streamed."""

import re
from collections.abc import Callable, Iterable, Iterator
from itertools import chain

from training.data.boilerplate import BoilerplateFilter, without_licence
from training.data.cleaning import sentences, split_line
from training.data.compression import read_chunks
from training.data.decoding import decode
from training.data.file_report import FileReport
from training.data.html_text import html_charset, read_html
from training.data.input_files import InputFile, Kind
from training.data.json_text import read_json
from training.data.markdown_text import read_markdown
from training.data.office import read_docx, read_epub
from training.data.pdf_text import read_pdf
from training.data.plain_text import read_plain
from training.data.tables import read_csv

# A longer line comes in parts.
MAX_LINE_CHARACTERS = 10_000
# Of a longer line, only the sentences with undecodable bytes are left out.
_LONG_LINE = 200
_LINE_ENDS = tuple("\n\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029")  # of str.splitlines, without CR
_PACKED = ("docx", "epub", "pdf")  # their readers open the file themselves
_RECORDS = ("csv", "tsv", "json", "jsonl")  # their readers take a field
_READERS: dict[Kind, Callable[..., Iterator[str]]] = {
    "docx": read_docx,
    "epub": read_epub,
    "pdf": read_pdf,
    "csv": read_csv,
    "tsv": read_csv,
    "json": read_json,
    "jsonl": read_json,
    "html": read_html,
    "md": read_markdown,
}
# Beginnings of text under another name
_OTHER_KINDS: dict[Kind, re.Pattern[str]] = {
    "html": re.compile(r"\s*<(?:!doctype html|html)\b", re.IGNORECASE),
    "jsonl": re.compile(r'(?:\s*\{\s*"[^"\n]+"\s*:.*\}\s*(?:\n|$)){2}'),
}


def read_lines(
    file: InputFile,
    report: FileReport,
    *,
    encoding: str | None = None,
    field: str | None = None,
) -> Iterator[str]:
    """Read the lines or paragraphs of one file, without line ends, markup and blank lines.

    A line above ``MAX_LINE_CHARACTERS`` comes in parts. *field* is the column or JSON member that
    contains the text; without it, it is found. *report* is filled while the file is read.

    Raises:
        CorpusError: the file is unreadable, damaged or encrypted, in another encoding, or lacks the
            field, or a package that reads it is missing.
    """
    lines = _decodable(_lines(_chunks(file, report, encoding, field)), report)
    if report.kind not in _READERS:
        lines = read_plain(lines, report, file.kind)
    # Records have no page headers.
    boilerplate = BoilerplateFilter(report, numbers=report.kind not in _RECORDS)
    lines = (line for line in lines if line and not line.isspace())
    for line in without_licence(lines, report):
        if boilerplate.passes(line):
            report.lines += 1
            yield line


def _chunks(
    file: InputFile, report: FileReport, encoding: str | None, field: str | None
) -> Iterable[str]:
    """Return readable text in chunks, cut anywhere."""
    if file.kind in _PACKED:
        return (f"{text}\n" for text in _READERS[file.kind](file.path, report))
    text = decode(read_chunks(file.path), report, encoding, html_charset)
    first = next(text, "")
    text = chain([first], text)
    if file.kind in ("txt", "log"):
        for kind, beginning in _OTHER_KINDS.items():
            if beginning.match(first):
                report.kind = kind
                report.warnings.append(f"read as .{kind}, which it is")
    if report.kind not in _READERS:
        return text
    options = (field,) if report.kind in _RECORDS else ()
    return (f"{part}\n" for part in _READERS[report.kind](text, report, *options))


def _lines(chunks: Iterable[str]) -> Iterator[str]:
    """Yield lines without line ends, empty ones included; long ones in parts."""
    pending = ""
    for chunk in chunks:
        text = pending + chunk
        lines = text.splitlines()
        if text.endswith("\r"):  # perhaps the first half of CR LF
            pending = lines.pop() + "\r"
        else:
            pending = lines.pop() if lines and not text.endswith(_LINE_ENDS) else ""
        for line in lines:
            if len(line) <= MAX_LINE_CHARACTERS:
                yield line
            else:
                yield from split_line(line, MAX_LINE_CHARACTERS)
        if len(pending) > 2 * MAX_LINE_CHARACTERS:
            *parts, pending = split_line(pending, MAX_LINE_CHARACTERS)
            yield from parts
    yield from split_line(pending.removesuffix("\r"), MAX_LINE_CHARACTERS)


def _decodable(lines: Iterator[str], report: FileReport) -> Iterator[str]:
    """Leave out lines with undecodable bytes; of long ones, only the sentences that have them."""
    for line in lines:
        if "\ufffd" not in line:
            yield line
            continue
        report.removed["undecodable lines"] += 1
        if len(line) > _LONG_LINE:
            yield from (part for part in sentences(line) if "\ufffd" not in part)
    if count := report.removed["undecodable lines"]:
        report.warnings.append(
            f"lines left out because they are not valid {report.encoding or 'UTF-8'}: {count}; if"
            " that is not the encoding of the file, name it"
        )
