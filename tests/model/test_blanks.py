"""Finding blanks, and what is read around them."""

import unicodedata

import pytest

from model.decoding.blanks import Layout, find_blanks
from model.errors import QueryError


def blanks(text: str, marker: str | None = None) -> Layout:
    """The layout of a text."""
    return find_blanks(text, marker, 64)


@pytest.mark.parametrize(
    "mark", ["__", "____", "＿＿", "_＿_", "[MASK]", "<mask>", "<blank>", "{blank}"]
)  # fmt: skip
def test_usual_marks_are_blanks(mark: str) -> None:
    """Each of the usual marks is one blank, whatever its length."""
    (slot,) = blanks(f"a {mark} b").slots
    assert (slot.start, slot.end) == (2, 2 + len(mark))


@pytest.mark.parametrize("text", ["", "no blank", "a _ b", "[mask]", "<MASK>", "snake_case"])
def test_text_without_a_blank_is_refused(text: str) -> None:
    """A single underscore is none, nor is a mark in other letters; the error names the field and the remedy."""
    with pytest.raises(QueryError, match="no blank") as caught:
        blanks(text)
    assert caught.value.field == "/text"


def test_named_marker_is_the_only_blank() -> None:
    """A marker is taken literally, and the usual marks are then plain text."""
    layout = blanks("f(.*) is __init__(.*)", ".*")
    assert [(slot.start, slot.end) for slot in layout.slots] == [(2, 4), (18, 20)]
    assert layout.slots[0].after == ") is __init__("


def test_too_many_blanks_are_refused() -> None:
    """The message carries both numbers."""
    with pytest.raises(QueryError, match="65 blanks; at most 64"):
        blanks("__ " * 65)


def test_positions_count_code_points_as_sent() -> None:
    """Text that is not in form C shrinks when normalised; positions still point into what was sent."""
    text = unicodedata.normalize("NFD", "é café ____ né")
    (slot,) = blanks(text).slots
    assert text[slot.start : slot.end] == "____"
    assert blanks(text).before == "é café "


@pytest.mark.parametrize(
    ("text", "before", "after", "spaced", "known"),
    [
        ("go to the ____ now", "go to the ", "now", True, True),
        ("go to the ____.", "go to the ", ".", False, True),
        ("go to the ____", "go to the ", "", False, False),
        ("go to the ____  \n", "go to the ", "  \n", False, False),
        ("un____able", "un", "able", False, True),
        ("要去____。", "要去", "。", False, True),
        ("要去 ____ 。", "要去", "。", False, True),
        ("我 ____ 你", "我", "你", False, True),
        ("我用 ____ phone", "我用", "phone", True, True),
        ("한국 ____ 말", "한국 ", "말", True, True),
    ],
)
def test_spaces_beside_a_blank(
    text: str, before: str, after: str, spaced: bool, known: bool
) -> None:
    """The space after a blank belongs to what fills it; beside Chinese, spaces are layout; at the end none is known."""
    layout = blanks(text)
    (slot,) = layout.slots
    assert (layout.before, slot.after, slot.spaced, slot.known) == (before, after, spaced, known)


def test_right_side_ends_with_its_line() -> None:
    """What follows on other lines is read by the forward tower only, on its way to the next blank."""
    first, second, third = blanks("a ____ b\nc ____ d ____").slots
    assert (first.line, first.line_ends, first.after) == ("b", True, "b\nc ")
    assert (second.line, second.line_ends) == ("d ", False)
    assert (third.known, third.line_ends) == (False, True)


def test_blank_before_a_line_end_is_known_to_end_its_line() -> None:
    """Another line follows, so the writer ended this one: that is something known."""
    (slot,) = blanks("the ____\nnext").slots
    assert (slot.known, slot.line) == (True, "")


@pytest.mark.parametrize(
    ("text", "fits", "not_"),
    [
        ("the ____ is", ["store ", "云南"], ["store"]),
        ("the ____.", ["store", "云南"], ["store "]),
        ("the ____", ["store", "store "], []),
        ("the ____[MASK]", ["store", "store "], []),
    ],
)
def test_spans_must_fit_the_spaces(text: str, fits: list[str], not_: list[str]) -> None:
    """A word before a space carries it, a word before a full stop carries none, at the end both will do."""
    slot = blanks(text).slots[0]
    assert [span for span in (*fits, *not_) if slot.takes(span)] == fits


def test_choice_is_spelled_as_its_place_asks() -> None:
    """A choice gets the space that its place has; where nothing tells, both spellings count."""
    assert blanks("the ____ is").slots[0].spellings("store") == ["store "]
    assert blanks("the ____.").slots[0].spellings("store") == ["store"]
    assert blanks("the ____").slots[0].spellings("store") == ["store", "store "]
    assert blanks("去 ____ is").slots[0].spellings("云南") == ["云南"]
