"""Gaps and blanks of a row."""

from collections import Counter

import numpy as np
import pytest

from model.config import SPAN, TOKEN, WORD
from model.tokenizer import START
from tests.fakes import hand_tokenizer
from tests.training.made_up_text import FIRST, V, flags
from training.data.gaps import TokenFlags, sample_blank, sample_gaps


def test_flags_are_those_of_the_surfaces() -> None:
    """Letters, marks, spaces and characters are read off the tokens."""
    tokenizer = hand_tokenizer(("the", "the ", ",", "到", "12"))
    found = TokenFlags.of(tokenizer)
    expected = {  # ends_letter, continues_word, has_word_character, ends_word, characters
        "the": (True, True, True, False, 3),
        "the ": (False, True, True, True, 4),
        ",": (False, False, False, False, 1),
        "到": (False, False, True, False, 1),
        "12": (True, True, True, False, 2),
    }
    for surface, values in expected.items():
        token = tokenizer.surfaces.index(surface)
        assert tuple(getattr(found, name)[token] for name in found.__slots__) == values, surface


def test_words_are_drawn_by_their_tokens_and_the_unfit_are_dropped() -> None:
    """Words of more than 8 tokens and punctuation are dropped, and nothing is drawn instead."""
    end, inner, mark = FIRST, FIRST + 1, V - 1  # an odd token continues, an even one ends its word
    words = [[end], [inner, inner, end], [*[inner] * 8, end], [mark]]
    tokens, count = np.concatenate(words), 20_000
    rng = np.random.default_rng(1)
    gaps = sample_gaps(tokens, flags(), (-1, -1), count / len(tokens), rng)
    kinds = Counter(gap.kind for gap in gaps)
    found = Counter((gap.start, gap.end) for gap in gaps if gap.kind == WORD)
    assert found.keys() == {(0, 1), (1, 4)}
    assert found[1, 4] / found[0, 1] == pytest.approx(3, rel=0.15)
    assert kinds[WORD] / count == pytest.approx(0.6 * 4 / 14, rel=0.05)
    assert kinds[TOKEN] / count == pytest.approx(0.2, rel=0.05)
    assert kinds[SPAN] / count == pytest.approx(0.2 * 13 / 14, rel=0.05)


@pytest.mark.parametrize(
    ("cuts", "gap"),
    [
        ((1, 3), (1, 3, WORD)),  # inside one word
        ((0, 5), (0, 5, SPAN)),  # a word and a part of the next
        ((1, -1), (1, 4, WORD)),  # the rest of the word
        ((-1, -1), None),
        ((9, -1), None),  # the row was shortened
    ],
)
def test_cuts_are_gaps(cuts: tuple[int, int], gap: tuple[int, int, int] | None) -> None:
    """Two cuts enclose a gap, and one begins the rest of a word."""
    end, inner = FIRST, FIRST + 1
    tokens = np.array([inner, inner, inner, end, inner, end])
    gaps = sample_gaps(tokens, flags(), cuts, 0.0, np.random.default_rng(1))
    assert [(each.start, each.end, each.kind) for each in gaps[1:]] == ([gap] if gap else [])


def test_no_gap_and_no_blank_crosses_a_break() -> None:
    """Line boundaries in a window are in no gap and in no blank; a blank leaves something over."""
    rng = np.random.default_rng(1)
    tokens = rng.integers(FIRST, V, 40)
    breaks = np.arange(40) % 7 == 3
    tokens[breaks] = START
    gaps = sample_gaps(tokens, flags(), (-1, -1), 50.0, rng)
    assert len(gaps) > 100
    assert not any(breaks[gap.start : gap.end].any() for gap in gaps)
    blanks = [sample_blank(tokens, flags(), rng) for _ in range(200)]
    assert not any(breaks[blank[0] : blank[1]].any() for blank in blanks if blank)
    assert sample_blank(tokens[:3], flags(), rng) is None
    assert sample_blank(np.full(9, FIRST + 1), flags(), rng) is None
