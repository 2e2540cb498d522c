"""Where a text is cut so that nothing typed after it can move the tokens before the cut."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.decoding.token_index import TokenIndex
from model.tokenizer import START, Tokenizer
from tests.fakes import hand_tokenizer
from tests.fixtures_checkpoint import tiny_tokenizer

TRAINED = tiny_tokenizer()
INDEX = TokenIndex(TRAINED)
FAMILIAR = st.lists(
    st.sampled_from([s for s in TRAINED.surfaces if s] + ["\n", " ", "€", "x"]), max_size=12
).map("".join)


@pytest.mark.parametrize(
    ("text", "rest"),
    [
        ("go to the", "the"),
        ("go to the ", ""),
        ("", ""),
        ("我喜欢迟", "迟"),
        ("the\n", ""),
        ("we,", ","),
        ("到€", ""),
    ],
)
def test_cut_is_where_a_longer_token_may_begin(text: str, rest: str) -> None:
    """The rest is the unfinished word, or the part of it that a token could still swallow; after a space nothing."""
    tokenizer = hand_tokenizer(
        ("the", "the ", "go ", "to ", "迟", "迟到", ",", ", ", "我", "喜欢", "we")
    )
    assert TokenIndex(tokenizer).heal(text)[2].decode() == rest


def test_cut_respects_what_a_later_token_does_to_earlier_ones() -> None:
    """A token that may begin at the last letter changes how those before it are encoded: the cut is before them."""
    tokenizer = hand_tokenizer(("ab", "cd", "a", "bc", "b", "de"))
    left, middle, rest = TokenIndex(tokenizer).heal("abcd")
    assert (left, rest) == ([], b"abcd")
    assert tokenizer.decode(middle) == "abcd"


@given(st.text(max_size=40) | FAMILIAR)
@settings(max_examples=300, deadline=None)
def test_parts_encode_the_text(text: str) -> None:
    """Left, middle and rest are the text's own encoding, cut between two characters."""
    left, middle, rest = INDEX.heal(text)
    assert left + middle == TRAINED.encode(text)
    assert TRAINED.decode(left) + rest.decode() == text
    assert TRAINED.decode(middle) == rest.decode()


@given(FAMILIAR, FAMILIAR)
@settings(max_examples=500, deadline=None)
def test_nothing_typed_later_moves_the_cut(text: str, further: str) -> None:
    """Whatever follows, the longer text's encoding begins with the same tokens."""
    left, _, _ = INDEX.heal(text)
    assert TRAINED.encode(text + further)[: len(left)] == left


def test_cost_does_not_grow_with_the_word() -> None:
    """A word of thousands of letters leaves a short rest, so that few tokens are looked at."""
    _, middle, rest = INDEX.heal("the" * 3000)
    assert len(rest) <= 4 * INDEX.longest
    assert len(middle) <= 4 * INDEX.longest


def test_prefixes_and_extensions_are_found_by_bytes() -> None:
    """A byte token and a learned token of the same spelling are both found."""
    tokenizer: Tokenizer = hand_tokenizer(("t", "th", "the "))
    index = TokenIndex(tokenizer)
    surfaces = [index.spellings[token] for token in index.prefixes(b"the")]
    assert sorted(surfaces) == [b"t", b"t", b"th"]
    assert [index.spellings[token] for token in index.extensions(b"the")] == [b"the "]
    assert index.spellings[START] == b"\n"
