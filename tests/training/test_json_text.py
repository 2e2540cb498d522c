"""JSON and JSON Lines to lines of text."""

import itertools
import json
from typing import Any

import pytest

from model.errors import CorpusError
from training.data import text_fields
from training.data.file_report import FileReport
from training.data.json_text import read_json


def read(
    value: Any, field: str | None = None, step: int = 5, kind: str = "json"
) -> tuple[list[str], FileReport]:
    """Return the lines of JSON, given as text or a value, in chunks, and the report."""
    text = value if isinstance(value, str) else json.dumps(value)
    report = FileReport("a.json", kind)
    chunks = (text[start : start + step] for start in range(0, len(text), step))
    return list(read_json(chunks, report, field)), report


RECORDS = [
    {"id": "a-1", "text": "这是第一句话。\nAnd a second line.", "url": "http://x.org/1", "n": 1},
    {"id": "a-2", "text": "One more line of text.", "url": "http://x.org/2", "n": 2},
]
LINES = ["这是第一句话。", "And a second line.", "One more line of text."]


@pytest.mark.parametrize(
    ("kinds", "text"),
    [
        (["json", "jsonl"], "\n".join(map(json.dumps, RECORDS))),
        (["json", "jsonl"], "\r\n\r\n".join(map(json.dumps, RECORDS))),
        (["jsonl"], ",\n".join(map(json.dumps, RECORDS))),
        (["json", "jsonl"], json.dumps(RECORDS)),
        (["json", "jsonl"], json.dumps(RECORDS, indent=2, ensure_ascii=False)),
        (["json"], json.dumps({"version": 2, "data": {"train": RECORDS}})),
        (["json"], " ".join(json.dumps(record, indent=1) for record in RECORDS)),
    ],
)
def test_records_are_found_in_any_layout(kinds: list[str], text: str) -> None:
    """Lines, lists, lists within objects and one object after another give the same text."""
    for kind, step in itertools.product(kinds, (1, 1000)):
        lines, report = read(text, step=step, kind=kind)
        assert lines == LINES
        assert [name.rpartition(".")[2] for name in report.fields] == ["text"]
        assert report.removed["other members"] == 4


def test_a_chat_export_gives_messages() -> None:
    """Formatted parts are joined, a text that is there twice is read once, senders are left out."""
    messages = [
        {"type": "message", "from": "Anna Berg", "date": "2020-01-01T10:00:00", "text": text,
         "text_entities": [{"type": "plain", "text": plain}]}
        for text, plain in [
            ("今天下午去哪里吃饭？", "今天下午去哪里吃饭？"),
            (["Look at ", {"type": "link", "text": "this"}, "!"], "Look at this!"),
            ("", ""),
        ]
    ]  # fmt: skip
    lines, report = read({"name": "Our chat", "type": "group", "messages": messages})
    assert lines == ["今天下午去哪里吃饭？", "Look at this!"]
    assert "messages.text" in report.fields


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        ({"conversations": [{"from": "human", "value": "Where is the sea?"},
                            {"from": "gpt", "value": "It is in the north."}]},
         ["Where is the sea?", "It is in the north."]),
        ({"messages": [{"role": "user", "content": "Where is the sea?"},
                       {"role": "assistant", "content": [
                           {"type": "text", "text": "It is in the north."},
                           {"type": "image_url", "image_url": {"url": "http://x.org"}}]}]},
         ["Where is the sea?", "It is in the north."]),
        ({"instruction": "Name three fruits of summer.", "input": "", "output": "苹果、梨和李子。"},
         ["Name three fruits of summer.", "苹果、梨和李子。"]),
        ("A bare string is text too.", ["A bare string is text too."]),
        ({"mapping": {"0f8fad5b-d9cb-469f-a165-70867728950e": {"parts": ["So it goes on."]}}},
         ["So it goes on."]),
        ({f"word{letter}": f"the meaning of {letter} is this" for letter in "abc"},
         [f"the meaning of {letter} is this" for letter in "abc"]),
    ],
)  # fmt: skip
def test_usual_data_sets_are_read(record: Any, expected: list[str]) -> None:
    """Turns, parts, instructions, strings and maps are text; roles and links are not."""
    assert read([record])[0] == expected
    assert read(f"{json.dumps(record)}\n{json.dumps(record)}")[0] == expected * 2


def test_records_without_text_are_counted() -> None:
    """null, numbers and objects without the text do not fail."""
    lines, report = read("\n".join(map(json.dumps, [None, 5, *RECORDS, {"n": 3}, {}, True])))
    assert lines == LINES
    assert report.removed["records without text"] == 5


def test_members_that_come_late_are_judged_by_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    """A text member is read and a name is not, though the first records have neither."""
    monkeypatch.setattr(text_fields, "SAMPLE_RECORDS", 2)
    late = {"caption": "A boat that lies on the beach.", "editor": "Li Wei"}
    assert read([*RECORDS, late])[0] == [*LINES, "A boat that lies on the beach."]


def test_a_member_can_be_named() -> None:
    """The last name or the dotted path insists on a member that would not be chosen."""
    records = [{"a": {"tag": "one"}, "text": "This is a text."}, {"text": "Another one is here."}]
    for field in ("tag", "a.tag", "TAG"):
        assert read(records, field)[0] == ["one"]
    with pytest.raises(CorpusError, match=r"a\.json: no text in .*'b'; there are 'a\.tag', 'text'"):
        read(records, "b")


def test_lines_that_are_not_json_are_counted() -> None:
    """A truncated or damaged line is left out with a warning, wherever it is."""
    text = ["{broken", *map(json.dumps, RECORDS), "[" * 90_000, *map(json.dumps, RECORDS), '{"te']
    lines, report = read("\n".join(text), step=1000, kind="jsonl")
    assert lines == LINES * 2
    assert report.removed["lines that are not JSON"] == 3
    assert report.warnings == ["3 of 7 lines are not JSON, line 1 first"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("just secret text", "not JSON after 0 records;"),
        ("1\n2\nsecret\nsecret\nsecret", "3 of 5 lines are not JSON"),
        ('{"text": "fine"}\nsecret\nsecret', "2 of 3 lines are not JSON, line 2 first"),
        ('[{"text": "fine"}, {"text": secret}' + " " * 90 + "]", "not JSON after 1 records;"),
        ("[" * 90_000, "nested above 500 levels"),
        ('{"text": "fine"}\n{"text": "' + "secret" * 300 + '"}', "a line above 1000 characters"),
    ],
)
def test_unusable_json_is_named(monkeypatch: pytest.MonkeyPatch, text: str, message: str) -> None:
    """The error has the place and the remedy, and no text."""
    monkeypatch.setattr(text_fields, "MAX_RECORD_CHARACTERS", 1000)
    with pytest.raises(CorpusError, match=f"a.json: .*{message}") as caught:
        read(text, step=100, kind="jsonl" if "\n" in text else "json")
    assert "secret" not in str(caught.value)


def test_a_truncated_list_is_read_up_to_its_end() -> None:
    """Complete records are read, and a warning says that the rest is missing."""
    lines, report = read(json.dumps(RECORDS)[:-30])
    assert lines == LINES[:2]
    assert report.warnings == ["the JSON ends early; it was read up to there"]


def test_lone_surrogates_and_odd_numbers_do_not_fail() -> None:
    """Half a character becomes a question mark; NaN, as Python writes it, is a number."""
    text = r'[{"n": NaN, "text": "one \ud800 two \ud83d\ude00 three", "m": [1, -Infinity]}]'
    assert read(text, step=1000)[0] == ["one ? two 😀 three"]


@pytest.mark.parametrize("text", ["", "null", "[]", "{}", "[1, 2]", '{"a": 5}'])
def test_json_without_text_gives_nothing(text: str) -> None:
    """No string is a warning and no error."""
    lines, report = read(text)
    assert lines == []
    assert report.warnings == ["no member holds text"]
