"""JSON and JSON Lines to lines of text: the members with text are found, at any depth."""

import json
import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from itertools import chain
from typing import Any

from model.errors import CorpusError
from training.data.file_report import FileReport
from training.data.text_fields import (
    MAX_RECORD_CHARACTERS,
    choose_fields,
    is_text_cell,
    physical_lines,
    take_sample,
    text_lines,
    unknown_field,
)

# Dotted path and text of each string in a record
Strings = list[tuple[str, str]]

_HEAD_CHARACTERS = 1 << 20
_STREAMED_DEPTH = 16  # a deeper object is read whole
_MANY_MEMBERS = 50  # more: the keys are data, not names
_MAX_MEMBERS = 1000  # in memory
_MAX_NAMES = 10_000  # remembered
_STRINGS = "strings"  # the name of strings without one
_VARIABLE = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}|\d{2,}|^\d$")
_SURROGATE = re.compile("[\ud800-\udfff]")
# A text in parts, some of them formatted: Telegram's and OpenAI's
_PARTS = frozenset(("text", "text_entities", "content", "caption"))
_DECODER = json.JSONDecoder(strict=False)


def read_json(text: Iterable[str], report: FileReport, field: str | None = None) -> Iterator[str]:
    """Read the text in JSON, or JSON Lines, that comes in chunks, cut anywhere.

    Without *field*, the last name or dotted path of a member, the members that hold text are
    chosen. Lists and objects are streamed; a record of a list is read whole.

    Raises:
        CorpusError: this is not JSON, a record is too long, or no member is named so.
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
                chosen = _is_named(name, field) if field else is_text_cell(name, value)
                if len(is_chosen) < _MAX_NAMES:
                    is_chosen[name] = chosen
            if chosen:
                found.update(dict.fromkeys(text_lines(_without_surrogates(value), report)))
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
    """Yield the strings of each record: a line, or an item of a list."""
    chunks = iter(text)
    head = ""
    while head.strip().count("\n") < 2 and len(head) < _HEAD_CHARACTERS:
        if (chunk := next(chunks, None)) is None:
            break
        head += chunk
    chunks = chain((head,), chunks)
    if _is_json_lines(head):
        return _line_records(chunks, report)
    return _document_records(_Stream(chunks, report.path), report)


def _is_json_lines(head: str) -> bool:
    first, _, rest = head.strip().replace("\r", "\n").partition("\n")
    if not rest.strip():
        return False
    if _is_json(first.rstrip().rstrip(",")):
        return True
    # Else the first line is damaged, or a list or object begins.
    second = rest.lstrip().partition("\n")[0]
    return first.rstrip()[-1] not in "[{,:" and second[0] in "[{" and _is_json(second)


def _is_json(line: str) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


def _line_records(text: Iterable[str], report: FileReport) -> Iterator[Strings]:
    lines = broken = first = 0
    for number, line in enumerate(physical_lines(text, report.path), 1):
        if line := line.strip().rstrip(","):
            lines += 1
            try:
                yield _strings(_DECODER.decode(line))
            except (ValueError, RecursionError):
                broken += 1
                first = first or number
                report.removed["lines that are not JSON"] += 1
    if broken:
        fault = f"{broken} of {lines} lines are not JSON, line {first} first"
        if broken * 2 > lines:
            raise CorpusError(f"{report.path}: {fault}; name the file .txt if it is plain text")
        report.warnings.append(fault)


def _document_records(stream: "_Stream", report: FileReport) -> Iterator[Strings]:
    try:
        while stream.peek():
            for name, value in _items(stream):
                yield _strings(value, name)
    except EOFError:
        report.warnings.append("the JSON ends early; it was read up to there")
    except RecursionError as error:
        raise CorpusError(f"{report.path}: JSON nested too deeply; flatten it") from error


def _items(stream: "_Stream", name: str = "", depth: int = 0) -> Iterator[tuple[str, Any]]:
    """Yield name and value of each item of a list, and of an object without its lists."""
    begin = stream.peek()
    if begin not in ("[", "{") or depth > _STREAMED_DEPTH:
        yield name, stream.value()
        return
    stream.skip(begin)
    members: dict[str, Any] = {}
    while (character := stream.peek()) not in ("]", "}"):
        if character == ",":
            stream.skip(",")
        elif begin == "[":
            yield name, stream.value()
        else:
            key = str(stream.value())
            stream.skip(":")
            if stream.peek() in ("[", "{"):
                yield from _items(stream, _joined(name, key), depth + 1)
            else:
                members[key] = stream.value()
        if len(members) == _MAX_MEMBERS:
            yield name, members
            members = {}
    stream.skip(character)
    if members:
        yield name, members


class _Stream:
    """JSON that comes in chunks, of which one value at a time is in memory."""

    def __init__(self, chunks: Iterable[str], path: str) -> None:
        self._chunks = iter(chunks)
        self._path = path
        self._text = ""
        self._place = 0
        self._passed = 0  # characters before the text

    def peek(self) -> str:
        """Return the next character that is no space, without reading it; empty at the end."""
        while True:
            rest = self._text[self._place : self._place + 64]
            if visible := rest.lstrip():
                self._place += len(rest) - len(visible)
                return visible[0]
            self._place += len(rest)
            if not rest and not self._fill():
                return ""

    def skip(self, character: str) -> None:
        """Read one character.

        Raises:
            EOFError: the text ends.
            CorpusError: it is another.
        """
        found = self.peek()
        if not found:
            raise EOFError
        if found != character:
            raise self._fault()
        self._place += 1

    def value(self) -> Any:
        """Read a whole value.

        Raises:
            EOFError: the text ends.
            CorpusError: this is not JSON, or too long.
        """
        if not self.peek():
            raise EOFError
        while True:
            try:
                value, end = _DECODER.raw_decode(self._text, self._place)
                # A number might go on.
                if end < len(self._text) or not self._fill():
                    self._place = end
                    return value
            except ValueError as error:
                near_end = isinstance(error, json.JSONDecodeError) and (
                    error.pos > len(self._text) - 16 or error.msg.startswith("Unterminated")
                )
                if near_end and self._fill():
                    continue
                raise (EOFError if near_end else self._fault(error)) from error

    def _fill(self) -> bool:
        """Read as much again as there is, at least a chunk; return if there is any."""
        self._text, passed = self._text[self._place :], self._place
        if len(self._text) > MAX_RECORD_CHARACTERS:
            raise CorpusError(
                f"{self._path}: a JSON record above {MAX_RECORD_CHARACTERS} characters; write each"
                " text as a line of JSON Lines (.jsonl)"
            )
        self._passed += passed
        self._place = 0
        parts = [self._text]
        missing = max(1, len(self._text))
        for chunk in self._chunks:
            parts.append(chunk)
            missing -= len(chunk)
            if missing <= 0:
                break
        self._text = "".join(parts)
        return len(parts) > 1

    def _fault(self, error: ValueError | None = None) -> CorpusError:
        place = self._passed + getattr(error, "pos", self._place) + 1
        return CorpusError(
            f"{self._path}: not JSON at character {place}; repair it, or name the file .txt if it"
            " is plain text"
        )


def _strings(value: Any, name: str = "") -> Strings:
    """Return name and text of each string in a value."""
    found: Strings = []
    _collect(value, name, found)
    return found


def _collect(value: Any, name: str, found: Strings) -> None:
    if isinstance(value, str):
        found.append((name or _STRINGS, value))
    elif isinstance(value, dict):
        many = len(value) > _MANY_MEMBERS
        for key, member in value.items():
            if isinstance(member, str | list | dict):
                _collect(member, _joined(name, "*" if many else key), found)
    elif isinstance(value, list):
        if name.rpartition(".")[2] in _PARTS and all(map(_is_part, value)):
            parts = (part if isinstance(part, str) else part.get("text") for part in value)
            found.append((name, "".join(part for part in parts if isinstance(part, str))))
        else:
            for item in value:
                _collect(item, name, found)


def _is_part(value: Any) -> bool:
    """Return if a value is a text, or has a type and no parts of its own."""
    return isinstance(value, str) or (
        isinstance(value, dict)
        and "type" in value
        and not any(isinstance(member, list) for member in value.values())
    )


def _without_surrogates(text: str) -> str:
    return text if text.isascii() else _SURROGATE.sub("", text)


@lru_cache(maxsize=10_000)
def _joined(name: str, key: str) -> str:
    key = _VARIABLE.sub("*", key)
    return f"{name}.{key}" if name else key
