"""The list of known words."""

from itertools import groupby

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.text import is_word_character
from model.words import MAX_BYTES, KnownWords, read_words, spelled_words, words_file, words_in


def test_words_are_found_however_they_are_written() -> None:
    """Capitals, quotes around a word, a possessive and either apostrophe make no difference."""
    found = list(words_in("Don't say ‘theatre’ to Tom's 2nd café, dogs' one, in 2024"))
    assert found == ["don't", "say", "theatre", "to", "tom", "2nd", "café", "dogs", "one", "in"]
    words = KnownWords(found)
    for word in (
        "THEATRE",
        "'theatre",
        "theatre’s",
        "Don’t",
        "Tom",
        "CAFÉ",
        "dogs'",
        "'one'",
        "Tom’ll",
    ):
        assert word in words
    unknown = "theatr theatres cafe do dont 3rd one_ one1 don'ts theatreS Tom'S a zoo"
    assert not any(word in words for word in unknown.split())


@given(st.text(st.sampled_from("aZ09_'’ -.,，。“…é中〇か①क\u0301\u302a０Ａ𝔘")) | st.text())
def test_words_are_maximal_runs_of_word_characters(text: str) -> None:
    """Common and rare characters are treated alike."""
    runs = groupby(text, is_word_character)
    assert spelled_words(text) == ["".join(run) for is_word, run in runs if is_word]


def test_numbers_are_known_and_an_empty_list_knows_every_word() -> None:
    """The filter is meant for spellings of letters, and for text that has such words."""
    words = KnownWords(["a"])
    assert all(word in words for word in ("1987", "__", "'", "’s", ""))
    assert all(word in KnownWords() for word in ("theatre", "1987"))
    assert len(KnownWords()) == 0


def test_the_first_words_that_fit_are_listed() -> None:
    """The file never has more bytes than may be read."""
    words = [f"{number:07}" for number in reversed(range(MAX_BYTES // 8 + 2))]
    data = words_file(words)
    assert len(data) == MAX_BYTES
    assert read_words(data) == sorted(words[:-2])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"a\nb", "a line is blank or has no end"),
        (b"\n", "a line is blank"),
        (b"\na\n", "a line is blank"),
        (b"a\n\nb\n", "not in order"),
        (b"b\na\n", "not in order"),
        (b"a\na\n", "not in order"),
        (b"a\n\xff\n", "not UTF-8"),
        (b"a" * MAX_BYTES + b"\n", "more than 1048576 bytes"),
    ],
)
def test_other_content_is_refused(data: bytes, message: str) -> None:
    """The message has no text of the file."""
    with pytest.raises(ValueError, match=message):
        read_words(data)
