"""Where a text is cut so that nothing typed after it can move the pieces before the cut."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.decoding.piece_index import PieceIndex
from model.vocabulary import START, Vocabulary
from tests.fakes import hand_vocabulary
from tests.fixtures_checkpoint import tiny_vocabulary

TRAINED = tiny_vocabulary()
INDEX = PieceIndex(TRAINED)
FAMILIAR = st.lists(st.sampled_from([s for s in TRAINED.surfaces if s] + ["\n", " ", "€", "x"]), max_size=12).map(
    "".join
)


@pytest.mark.parametrize(
    ("text", "rest"),
    [("go to the", "the"), ("go to the ", ""), ("", ""), ("我喜欢迟", "迟"), ("the\n", ""), ("we,", ","), ("到€", "")],
)
def test_cut_is_where_a_longer_piece_may_begin(text: str, rest: str) -> None:
    """The rest is the unfinished word, or the part of it that a piece could still swallow; after a space nothing."""
    vocabulary = hand_vocabulary(("the", "the ", "go ", "to ", "迟", "迟到", ",", ", ", "我", "喜欢", "we"))
    assert PieceIndex(vocabulary).heal(text)[2].decode() == rest


def test_cut_respects_what_a_later_piece_does_to_earlier_ones() -> None:
    """A piece that may begin at the last letter changes how those before it are encoded: the cut is before them."""
    vocabulary = hand_vocabulary(("ab", "cd", "a", "bc", "b", "de"))
    left, middle, rest = PieceIndex(vocabulary).heal("abcd")
    assert (left, rest) == ([], b"abcd")
    assert vocabulary.decode(middle) == "abcd"


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
    """Whatever follows, the longer text's encoding begins with the same pieces."""
    left, _, _ = INDEX.heal(text)
    assert TRAINED.encode(text + further)[: len(left)] == left


def test_cost_does_not_grow_with_the_word() -> None:
    """A word of thousands of letters leaves a short rest, so that few pieces are looked at."""
    _, middle, rest = INDEX.heal("the" * 3000)
    assert len(rest) <= 4 * INDEX.longest
    assert len(middle) <= 4 * INDEX.longest


def test_prefixes_and_extensions_are_found_by_bytes() -> None:
    """A byte piece and a learned piece of the same spelling are both found."""
    vocabulary: Vocabulary = hand_vocabulary(("t", "th", "the "))
    index = PieceIndex(vocabulary)
    surfaces = [index.spellings[piece] for piece in index.prefixes(b"the")]
    assert sorted(surfaces) == [b"t", b"t", b"th"]
    assert [index.spellings[piece] for piece in index.extending(b"the")] == [b"the "]
    assert index.spellings[START] == b"\n"
