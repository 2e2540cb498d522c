"""Finding blanks, and the text that is read around them."""

import unicodedata

import pytest

from model.decoding.blanks import Layout, find_blanks
from model.errors import QueryError
from model.queries import ClozeQuery


def blanks(text: str, marker: str | None = None) -> Layout:
    """Return the layout of a text."""
    return find_blanks(ClozeQuery(text, blank=marker), 64)


@pytest.mark.parametrize(
    "mark", ["__", "____", "＿＿", "_＿_", "[MASK]", "<mask>", "<blank>", "{blank}"]
)
def test_usual_marks_are_blanks(mark: str) -> None:
    """Each is one blank; its position counts code points as sent, before the text is normalised."""
    text = unicodedata.normalize("NFD", "é café ") + f"{mark} b"
    layout = blanks(text)
    (slot,) = layout.slots
    assert text[slot.start : slot.end] == mark
    assert layout.before == "é café "


@pytest.mark.parametrize("text", ["", "no blank", "a _ b", "[mask]", "<MASK>", "snake_case"])
def test_text_without_a_blank_is_refused(text: str) -> None:
    """A single underscore is no blank."""
    with pytest.raises(QueryError, match="no blank"):
        blanks(text)


def test_a_given_marker_is_the_only_blank() -> None:
    """A marker is taken literally, and the usual marks are then plain text."""
    layout = blanks("f(.*) is __init__(.*)", ".*")
    assert [(slot.start, slot.end) for slot in layout.slots] == [(2, 4), (18, 20)]
    assert layout.slots[0].after == ") is __init__("


@pytest.mark.parametrize(
    ("text", "before", "after", "spaced", "known"),
    [
        ("go to the ____ now", "go to the ", "now", True, True),
        ("go to the ____.", "go to the ", ".", False, True),
        ("go to the ____", "go to the ", "", False, False),
        ("go to the ____  \n", "go to the ", " \n", False, False),
        ("un____able", "un", "able", False, True),
        ("要去____。", "要去", "。", False, True),
        ("要去 ____ 。", "要去", "。", False, True),
        ("我 ____ 你", "我", "你", False, True),
        ("我用 ____ phone", "我用", "phone", True, True),
        ("한국 ____ 말", "한국 ", "말", True, True),
    ],
)
def test_spaces_next_to_a_blank(
    text: str, before: str, after: str, spaced: bool, known: bool
) -> None:
    """The space after a blank belongs to its word; next to Chinese, spaces are layout."""
    layout = blanks(text)
    (slot,) = layout.slots
    assert (layout.before, slot.after, slot.spaced, slot.known) == (before, after, spaced, known)


def test_the_right_side_ends_with_its_line() -> None:
    """A blank is followed by the rest of its line, which may be empty."""
    first, second, third = blanks("a ____ b\nc ____ d ____").slots
    assert (first.line, first.line_ends, first.after) == ("b", True, "b\nc ")
    assert (second.line, second.line_ends) == ("d ", False)
    assert (third.known, third.line_ends) == (False, True)
    (slot,) = blanks("the ____\nnext").slots
    assert (slot.known, slot.line) == (True, "")


@pytest.mark.parametrize(
    ("text", "word", "spans"),
    [
        ("the ____ is", "store", ["store "]),
        ("the ____ is", "云南", ["云南"]),
        ("the ____.", "store", ["store"]),
        ("the ____.", "云南", ["云南"]),
        ("the ____", "store", ["store", "store "]),
        ("the ____[MASK]", "store", ["store", "store "]),
    ],
)
def test_spans_fit_the_spaces(text: str, word: str, spans: list[str]) -> None:
    """A word before a space has it, a word before a full stop does not; at the end both fit."""
    slot = blanks(text).slots[0]
    assert slot.spellings(word) == spans
    assert all(slot.takes(span) for span in spans)
    assert word in spans or not slot.takes(word)


@pytest.mark.parametrize(
    ("text", "language"),
    [("我要去____ open park open.", "zh"), ("open park open ____我要去", "zh"),
     ("open park ____ open park open.", "en"), ("我要去,open park ____ open park.", "en")],
)  # fmt: skip
def test_eight_characters_on_either_side_show_the_language(text: str, language: str) -> None:
    """The language is Chinese if Chinese is near the blank, on either side."""
    assert blanks(text).slots[0].language == language
