"""Stable boundaries and token healing: nothing typed later moves the tokens before a cut."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.decoding.token_index import TokenIndex
from model.tokenizer import START
from tests.fakes import hand_tokenizer
from tests.fixtures_checkpoint import tiny_tokenizer

TRAINED = tiny_tokenizer()
INDEX = TokenIndex(TRAINED)
FAMILIAR = st.lists(
    st.sampled_from([s for s in TRAINED.surfaces if s] + ["\n", " ", "€", "x"]), max_size=12
).map("".join)


WORDS = ("the", "the ", "go ", "to ", "迟", "迟到", ",", ", ", "我", "喜欢", "we")


@pytest.mark.parametrize(
    ("tokens", "text", "rest"),
    [
        *((WORDS, text, "") for text in ("go to the ", "", "the\n", "到€")),
        *((WORDS, *pair) for pair in (("go to the", "the"), ("我喜欢迟", "迟"), ("we,", ","))),
        (("ab", "cd", "a", "bc", "b", "de"), "abcd", "abcd"),  # "de" changes what precedes it
    ],
)
def test_the_cut_is_where_a_longer_token_may_begin(
    tokens: tuple[str, ...], text: str, rest: str
) -> None:
    """The rest is the unfinished word, or the part of it that a token may still swallow."""
    assert TokenIndex(hand_tokenizer(tokens)).heal(text)[2].decode() == rest


@given(st.text(max_size=40) | FAMILIAR, FAMILIAR)
@settings(max_examples=200, deadline=None)
def test_nothing_typed_later_moves_the_cut(text: str, further: str) -> None:
    """The parts encode the text, and every longer text begins with the tokens before the cut."""
    left, middle, rest = INDEX.heal(text)
    assert [*left, *middle] == TRAINED.encode(text)
    assert TRAINED.decode(left) + rest.decode() == text
    assert TRAINED.decode(middle) == rest.decode()
    assert TRAINED.encode(text + further)[: len(left)] == left


def test_cost_does_not_grow_with_the_word() -> None:
    """A word of thousands of letters leaves a short rest."""
    _, middle, rest = INDEX.heal("the" * 3000)
    assert len(middle) <= len(rest) <= 4 * INDEX.longest


@given(FAMILIAR, st.data())
@settings(max_examples=100, deadline=None)
def test_text_is_encoded_between_stable_boundaries(text: str, data: st.DataObject) -> None:
    """The encodings before and after any stable boundary are the encoding of the whole."""
    whole = INDEX.encode(text)
    assert TRAINED.decode(whole) == text
    boundaries = [n for n in range(1, len(text)) if INDEX.is_stable_boundary(text, n)]
    assert INDEX.last_stable_boundary(text) == (boundaries or [0])[-1]
    if boundaries:
        boundary = data.draw(st.sampled_from(boundaries))
        assert INDEX.encode(text[:boundary]) + INDEX.encode(text[boundary:]) == whole


def test_tokens_are_found_by_their_bytes() -> None:
    """A byte token and a learned token of the same spelling are both found."""
    index = TokenIndex(hand_tokenizer(("t", "th", "the ")))
    assert sorted(index.spellings[token] for token in index.prefixes(b"the")) == [b"t", b"t", b"th"]
    assert [index.spellings[token] for token in index.extensions(b"the")] == [b"the "]
    assert index.spellings[START] == b"\n"
