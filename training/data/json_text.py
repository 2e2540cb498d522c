"""JSON and JSON Lines to lines of text: the members with text are found, at any depth."""

import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from itertools import chain, islice
from typing import Any

import ijson

from model.errors import CorpusError
from training.data.file_report import FileReport
from training.data.text_fields import (
    choose_fields,
    is_text,
    physical_lines,
    take_sample,
    text_lines,
    unknown_field,
)

# Dotted path and text of each string in a record
Strings = list[tuple[str, str]]

_BATCH_LINES = 200  # parsed together
_MAX_DEPTH = 500
_MAX_NAMES = 10_000  # remembered
_VARIABLE = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}|\d{2,}|^\d$")
_NO_NUMBER = re.compile(r"(?<=[:,\[])\s*(?:NaN|-?Infinity)(?=\s*[,}\]])")
# A text may come in parts, some of them formatted: Telegram's and OpenAI's
_PARTS = frozenset(("text", "text_entities", "content", "caption"))


def read_json(text: Iterable[str], report: FileReport, field: str | None = None) -> Iterator[str]:
    """Read the text in JSON, or JSON Lines, that comes in chunks, cut anywhere.

    Without *field*, the last name or dotted path of a member, the members that hold text are
    chosen. The text is streamed; one record of a list is in memory.

    Raises:
        CorpusError: this is not JSON, or no member is named so.
    """
    records = _records(text, report)
    sample = take_sample(records, lambda record: sum(len(value) for _, value in record))
    strings = list(chain.from_iterable(sample))
    likely = set() if field else set(choose_fields(strings, report))
    # By name; a name that comes later is judged by its first string.
    is_chosen = {name: _is_named(name, field) or name in likely for name, _ in strings}
    others = 0
    for record in chain(sample, records):
        found: dict[str, None] = {}  # a member may repeat another
        for name, value in record:
            chosen = is_chosen.get(name)
            if chosen is None:
                chosen = _is_named(name, field) if field else is_text(name, [value])
                if len(is_chosen) < _MAX_NAMES:
                    is_chosen[name] = chosen
            if chosen:
                found.update(dict.fromkeys(text_lines(value, report)))
            else:
                others += 1
        if not found:
            report.removed["records without text"] += 1
        yield from found
    if others:
        report.removed["other members"] = others
    report.fields = tuple(name for name, chosen in is_chosen.items() if chosen)
    if field and not report.fields:
        raise unknown_field(field, is_chosen, report)
    if not report.fields:
        report.warnings.append("no member holds text")


def _is_named(name: str, field: str | None) -> bool:
    return field is not None and field.lower() in (name.lower(), name.lower().rpartition(".")[2])


def _records(text: Iterable[str], report: FileReport) -> Iterator[Strings]:
    """Yield the strings of each record: a line, or an item of the outermost list."""
    chunks = (_NO_NUMBER.sub("null", chunk) if "N" in chunk else chunk for chunk in text)
    first = next((chunk for chunk in chunks if chunk.strip()), "")
    everything = chain((first,), chunks)
    if report.kind == "jsonl" and first.lstrip()[:1] != "[":
        yield from _line_records(physical_lines(everything, report.path), report)
    elif first:
        count = 0
        try:
            for record in _strings(ijson.from_iter(map(str.encode, everything)), report.path):
                yield record
                count += 1
        except ijson.JSONError as error:
            if "EOF" not in str(error):
                raise CorpusError(
                    f"{report.path}: not JSON after {count} records; repair it, or name the file"
                    " .txt if it is plain text"
                ) from error
            report.warnings.append("the JSON ends early; it was read up to there")


def _line_records(lines: Iterator[str], report: FileReport) -> Iterator[Strings]:
    broken: list[int] = []  # numbers of lines
    count = 0
    while batch := [line.strip().rstrip(",") for line in islice(lines, _BATCH_LINES)]:
        try:
            yield from list(_strings("\n".join(batch).encode(), report.path))
        except (ijson.JSONError, CorpusError):  # one is broken
            for number, line in enumerate(batch, count + 1):
                try:
                    yield from list(_strings(line.encode(), report.path)) if line else ()
                except (ijson.JSONError, CorpusError):
                    broken.append(number)
        count += len(batch)
    if broken:
        report.removed["lines that are not JSON"] = len(broken)
        fault = f"{len(broken)} of {count} lines are not JSON, line {broken[0]} first"
        if len(broken) * 2 > count:
            raise CorpusError(f"{report.path}: {fault}; name the file .txt if it is plain text")
        report.warnings.append(fault)


def _strings(source: Any, path: str) -> Iterator[Strings]:
    """Yield the strings of each item of the outermost list, and of each value outside of lists."""
    record: Strings = []
    names = [""]  # of the open lists and objects
    name, list_depth, had_list = "", 0, False
    parts: list[str] = []
    parts_depth, is_typed = 0, False
    for event, value in ijson.basic_parse(source, multiple_values=True):
        depth = len(names)
        if event == "map_key":
            name = _joined(names[-1], value)
            is_typed = is_typed or (value == "type" and depth == parts_depth + 1)
            continue
        if event.startswith("start"):
            if depth > _MAX_DEPTH:
                raise CorpusError(f"{path}: JSON nested above {_MAX_DEPTH} levels; flatten it")
            names.append(name)
            if event == "start_array":
                if record and not list_depth:
                    yield record
                    record = []
                list_depth, had_list = list_depth or depth + 1, True
                if name.rpartition(".")[2] in _PARTS:
                    parts, parts_depth, is_typed = [], depth + 1, False
            continue
        if event == "string":
            is_part = depth == parts_depth or (depth == parts_depth + 1 and name.endswith(".text"))
            if is_part and parts_depth:
                parts.append(value)
            else:
                record.append((name or "strings", value))
        elif event.startswith("end"):
            name = names.pop()
            if depth == parts_depth:
                texts = ["".join(parts)] if is_typed else parts
                record += [(name, text) for text in texts]
                parts_depth = 0
            depth -= 1
            list_depth = list_depth if depth >= list_depth else 0
        if depth == (list_depth or 1):
            if record or list_depth or not had_list:
                yield record
            record, had_list = [], list_depth > 0


@lru_cache(maxsize=_MAX_NAMES)
def _joined(name: str, key: str) -> str:
    key = _VARIABLE.sub("*", key)
    return f"{name}.{key}" if name else key
