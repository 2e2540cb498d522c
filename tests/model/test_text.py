"""Normal form, character classes and languages."""

import unicodedata
from itertools import groupby
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.text import (
    MAX_MARKS,
    is_east_asian,
    is_han,
    is_word_character,
    language_at_end,
    language_of,
    normalise,
    normalise_with_offsets,
)

ANY_TEXT = st.text(alphabet=st.characters(exclude_categories=["Cs"]))
# Letters that compose, decompose and reorder: Latin marks, a composition exclusion, jamo, a spacing
# vowel sign.
COMPOSING = st.text(
    alphabet=st.sampled_from(
        "aeÅ \u0301\u0323\u0345\u0958\u1100\u1161\u11a8\uac00\u09c7\u09be\u212b我"
    )
)


@given(text=st.one_of(ANY_TEXT, COMPOSING))
def test_offsets_point_into_the_original(text: str) -> None:
    """Offsets never decrease, stay inside the text, and end at its end."""
    normalised, offsets = normalise_with_offsets(text)
    assert normalised == unicodedata.normalize("NFC", text)
    assert len(offsets) == len(normalised) + 1
    assert offsets == sorted(offsets)
    assert offsets[-1] == len(text)
    assert all(0 <= offset < len(text) for offset in offsets[:-1])


@pytest.mark.parametrize(
    ("text", "normalised", "offsets"),
    [
        ("plain", "plain", [0, 1, 2, 3, 4, 5]),
        ("e\u0301a我", "éa我", [0, 2, 3, 4]),
        ("\u1112\u1161\u11ab!", "한!", [0, 3, 4]),
    ],
)
def test_offsets_skip_what_was_composed(text: str, normalised: str, offsets: list[int]) -> None:
    """A letter and its mark become one character; the next keeps its place in the original."""
    assert normalise_with_offsets(text) == (normalised, offsets)


def test_letter_with_too_many_marks_is_left_as_it_is() -> None:
    """30 marks are put in order, 31 and 10,000 are not; a second call changes nothing."""
    ordered = "e\u0301a" + "\u0316\u0301" * 15
    assert normalise(ordered) == unicodedata.normalize("NFC", ordered)
    many = "a" + "\u0301\u0316" * 15 + "\u0301"
    assert normalise(f"e\u0301{many}e\u0301") == f"é{many}é"
    assert normalise(normalise(f"{many} e\u0301 {many}")) == f"{many} é {many}"
    assert normalise_with_offsets(f"e\u0301{many}") == (f"é{many}", [0, *range(2, 35)])
    endless = "a" + "\u0301" * 5_000 + "\u0316" * 5_000  # in order, the second half comes first
    assert normalise_with_offsets(endless) == (endless, [*range(10_002)])


# The longest run of marks that 30 characters can decompose into, after a letter with 3 of its own.
LONGEST_RUN = 2 * MAX_MARKS + 3


def test_normal_form_sorts_no_long_run_of_any_character(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is repeated, alone or among others, a bounded number of marks is sorted at once."""
    every = [chr(code) for code in range(0x110000)]
    combining = set(filter(unicodedata.combining, every))

    def longest_run(text: str) -> int:
        runs = groupby(unicodedata.normalize("NFD", text), combining.__contains__)
        return max((len(list(run)) for is_mark, run in runs if is_mark), default=0)

    parts: list[str] = []

    class Recorder:
        def __getattr__(self, name: str) -> Any:
            return getattr(unicodedata, name)

        def normalize(self, form: Literal["NFC"], text: str) -> str:
            parts.append(text)
            return unicodedata.normalize(form, text)

    # A character that is its own decomposition and has no combining class ends every run.
    characters = [
        character
        for character in every
        if character in combining or unicodedata.normalize("NFD", character) != character
    ]
    assert len(characters) > 13_000
    normalise("")
    monkeypatch.setattr("model.text.unicodedata", Recorder())
    mixed = ("{0}" * 70 + "e" + "{0}\u0316" * 35, "{0}e\u0301" + "{0}" * 15)
    for character in characters:
        for form in mixed:
            text = form.format(character)
            parts.clear()
            normalised = normalise(text)
            assert max(map(longest_run, parts)) <= LONGEST_RUN, hex(ord(character))
            assert normalise(normalised) == normalised, hex(ord(character))
            if longest_run(text) <= MAX_MARKS:
                assert normalised == unicodedata.normalize("NFC", text), hex(ord(character))


@pytest.mark.parametrize(
    ("characters", "word_character", "east_asian", "han"),
    [
        ("aé\u03017’_한я", True, False, False),
        ("我龥㐀𠀀", False, True, True),
        ("々のー。，（", False, True, False),
        (" -.😀", False, False, False),
    ],
)
def test_kinds_of_characters(
    characters: str, word_character: bool, east_asian: bool, han: bool
) -> None:
    """Letters of spaced scripts make words; Chinese, kana and full-width marks are East Asian."""
    for character in characters:
        found = is_word_character(character), is_east_asian(character), is_han(character)
        assert found == (word_character, east_asian, han), character


@pytest.mark.parametrize(
    ("text", "of_all", "at_end"),
    [
        ("我用 Linux 系统", "zh", "zh"),
        ("我们都很喜欢它的 operating system", "zh", "en"),
        ("I say 你好 to everybody", "en", "en"),
        ("I always say 你好。 ", "en", "zh"),
        ("Привет", "en", "en"),
        ("123", "en", "en"),
        ("", "en", "en"),
    ],
)
def test_languages(text: str, of_all: str, at_end: str) -> None:
    """A quarter of the letters decides for a whole text, the last eight characters for its end."""
    assert (language_of(text), language_at_end(text)) == (of_all, at_end)
