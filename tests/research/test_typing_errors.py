"""Typing errors of the simulated writer, and the keys that it presses."""

import random

import pytest

from research.typing_errors import keys_of, mistype


def test_about_one_letter_in_20_is_mistyped() -> None:
    """The same seed makes the same errors, of all kinds; marks and digits have none."""
    words = ["weather"] * 2_000
    typed, again = ([mistype(word, draw) for word in words] for draw in map(random.Random, (1, 1)))
    assert typed == again
    errors = [each for each in typed if each != "weather"]
    assert len(errors) / len(words) == pytest.approx(1 - 0.95**7, abs=0.04)
    assert {len(each) for each in errors} >= {6, 7, 8} and "wetaher" in errors
    assert mistype("12, 34!" * 100, random.Random(1)) == "12, 34!" * 100


@pytest.mark.parametrize(
    ("typed", "offers", "expected"),
    [
        ("word", [False, True, True, False, False], (2, True)),
        ("word", [False, False, False, True, False], (4, True)),  # saves no key
        ("worf", [False, False, False, False, True], (5, True)),
        ("worf", [False] * 5, (4, False)),
    ],
)
def test_a_right_word_is_accepted_if_it_helps(
    typed: str, offers: list[bool], expected: tuple[int, bool]
) -> None:
    """Accepting costs a key; an error that nothing corrects stays."""
    assert keys_of("word", typed, offers) == expected
