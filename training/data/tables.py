"""CSV and TSV to lines of text: delimiter, header and the columns with text are found."""

import csv
import re
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Any

from training.data.file_report import FileReport
from training.data.text_fields import (
    MAX_RECORD_CHARACTERS,
    choose_fields,
    is_field_name,
    physical_lines,
    take_sample,
    text_lines,
    unknown_field,
)

_DELIMITERS = ("\t", ",", ";", "|")
_NO_DELIMITER = "\x1f"  # each line is one cell
_CONSISTENT = 0.7  # least share of the rows with equally many cells
_ROWS_BEFORE_HEADER = 5
_HEADER_CHARACTERS = 40
_NUMBER = re.compile(r"[\d\W]+|.*\d[-/:.年]\d.*", re.DOTALL)  # or a date
# Numbers, dates, addresses and sentences are no names of columns.
_NO_NAME = re.compile(_NUMBER.pattern + r"|\w+://.*|\S+@\S+|.*[.!?。！？，,]", re.DOTALL)


def read_csv(text: Iterable[str], report: FileReport, field: str | None = None) -> Iterator[str]:
    """Read the text of a table that comes in chunks, cut anywhere.

    Without *field*, the name or number of a column, the columns that hold text are chosen.

    Raises:
        CorpusError: no column is named so, or a row is too long.
    """
    lines = physical_lines(text, report.path)
    head = take_sample(lines, len)
    style = _find_format(head)
    rows = _rows(chain(head, lines), style, report)
    sample = take_sample(rows, lambda row: sum(map(len, row)))
    width = Counter(map(len, sample)).most_common(1)[0][0] if sample else 0
    names, first = _header(sample, width, field, report)
    width = len(names)
    columns = _columns(names, sample[first:], report, field)
    report.fields = tuple(names[column] for column in columns)
    place = columns[0] if len(columns) == 1 else width - 1
    longer = others = 0
    for row in chain(sample[first:], rows):
        if row == names:  # again, where files were joined
            continue
        if len(row) > width:
            longer += 1
            end = place + 1 + len(row) - width
            # Usually a delimiter in text without quotes, else superfluous cells at the end
            if not any(map(_NUMBER.fullmatch, row[place:end])):
                row = [*row[:place], style["delimiter"].join(row[place:end]), *row[end:]]
        cells = [row[column] for column in columns if column < len(row)]
        others += sum(map(bool, row)) - sum(map(bool, cells))
        found = [line for cell in cells for line in text_lines(cell, report)]
        if not found:
            report.removed["records without text"] += 1
        yield from found
    if others:
        report.removed["other columns"] = others
    if not columns:
        report.warnings.append("no column holds text")
    if longer:
        report.warnings.append(f"{longer} rows have more cells than the {width} columns")


def _find_format(head: Sequence[str]) -> dict[str, Any]:
    """Return the arguments of ``csv.reader`` that fit the first lines."""
    text = "".join(head)
    escape = "\\" if text.count('\\"') > text.count('""') else None
    shares = {_NO_DELIMITER: _CONSISTENT}
    for delimiter in _DELIMITERS:
        style = {"delimiter": delimiter, "escapechar": escape}
        rows = list(_rows(iter(head), style, FileReport("", "csv")))
        width, usual = Counter(map(len, rows)).most_common(1)[0] if rows else (0, 0)
        if rows and len(rows[0]) > 1 and _is_header(rows[0]):
            # Text may have the delimiter, and no quotes; the last cells may be missing.
            usual = max(usual, round(0.95 * sum(len(row) > 1 for row in rows)))
        elif width < 2 or text.count(f"{delimiter} ") > 0.9 * text.count(delimiter):
            continue  # one cell in a row, or commas of prose
        shares[delimiter] = usual / len(rows)
    return {"delimiter": max(shares, key=lambda each: shares[each]), "escapechar": escape}


def _rows(lines: Iterator[str], style: dict[str, Any], report: FileReport) -> Iterator[list[str]]:
    """Yield the rows that are not blank. A line with a stray quote is read without quotes."""
    csv.field_size_limit(MAX_RECORD_CHARACTERS)
    again: deque[str] = deque()  # lines to read once more
    while True:
        pending: list[str] = []
        reader = csv.reader(_recorded(lines, again, pending), strict=True, **style)
        try:
            for row in reader:
                pending.clear()
                if any(row):
                    yield row
            return
        except csv.Error:
            first, *rest = pending
            report.removed["stray quotes"] += 1
            # Text after a closing quote does no harm; a quote that is not closed does.
            strays: dict[str, Any] = {"quoting": csv.QUOTE_NONE} if rest else {}
            yield next(csv.reader([first], **style, **strays))
            again.extendleft(reversed(rest))


def _recorded(lines: Iterator[str], again: deque[str], record: list[str]) -> Iterator[str]:
    while line := again.popleft() if again else next(lines, ""):
        record.append(line)
        yield line


def _header(
    sample: Sequence[Sequence[str]], width: int, field: str | None, report: FileReport
) -> tuple[list[str], int]:
    """Return the names of the columns, else their numbers, and the number of the first row."""
    for number, row in enumerate(sample[: _ROWS_BEFORE_HEADER + 1]):
        names = [name.strip() for name in row]
        if (len(row) == width or not number) and (
            _is_header(names) or (field or "\0").lower() in map(str.lower, names)
        ):
            if number:
                report.removed["rows before the header"] += number
            return names, number + 1
    return [str(number + 1) for number in range(width)], 0


def _is_header(row: Sequence[str]) -> bool:
    """Return if a row has names of columns rather than values."""
    names = [cell for cell in row if cell]
    return (
        len(set(names)) == len(names)
        and any(map(is_field_name, names))
        and not any(len(name) > _HEADER_CHARACTERS or _NO_NAME.fullmatch(name) for name in names)
    )


def _columns(
    names: Sequence[str], rows: Iterable[Sequence[str]], report: FileReport, field: str | None
) -> list[int]:
    """Return the numbers, from 0, of the columns to read."""
    if field is None:
        cells = ((name, cell) for row in rows for name, cell in zip(names, row, strict=False))
        chosen = choose_fields(cells, report)
        return [column for column, name in enumerate(names) if name in chosen]
    found = [column for column, name in enumerate(names) if name.lower() == field.lower()]
    if not found and field.isdecimal() and 0 < int(field) <= len(names):
        found = [int(field) - 1]
    if not found:
        raise unknown_field(field, names, report)
    return found
