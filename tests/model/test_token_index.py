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


@pytest.mark.parametrize(
    ("text", "rest"),
    [("go to the", "the"), ("go to the ", ""), ("", ""), ("我喜欢迟", "迟"), ("the\n", ""),
     ("we,", ","), ("到€", "")],
)  # fmt: skip
def test_the_cut_is_where_a_longer_token_may_begin(text: str, rest: str) -> None:
    """The rest is the unfinished word, or the part of it that a token may still swallow."""
    tokens = ("the", "the ", "go ", "to ", "迟", "迟到", ",", ", ", "我", "喜欢", "we")
    assert TokenIndex(hand_tokenizer(tokens)).heal(text)[2].decode() == rest


def test_the_cut_is_before_tokens_that_a_longer_one_changes() -> None:
    """A token that begins at the last letter changes the encoding of the letters before it."""
    tokenizer = hand_tokenizer(("ab", "cd", "a", "bc", "b", "de"))
    left, middle, rest = TokenIndex(tokenizer).heal("abcd")
    assert (left, tokenizer.decode(middle), rest) == ([], "abcd", b"abcd")


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
