"""Text to tokens and back."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sentencepiece import sentencepiece_model_pb2

from model.errors import TokenizerError
from model.text import normalise
from model.tokenizer import BLANK, END, END_OF_GAP, FIRST_BYTE, START, UNKNOWN, Tokenizer
from tests.fixtures_checkpoint import tiny_tokenizer


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    """A small vocabulary of both languages."""
    return tiny_tokenizer()


# The space mark, NUL, control characters and texts that look like tokens are plain text.
SPECIAL = ["\u2581", "a\u2581 b", "\x00", "a\x00b", "\r\n\t", "  two  ", "\ufeff", "<s>", "<0x41>"]


@given(st.sampled_from(SPECIAL) | st.text(alphabet=st.characters(exclude_categories=["Cs"])))
def test_any_text_round_trips(tokenizer: Tokenizer, text: str) -> None:
    """Decoding gives back any Unicode text, encoded alone or with others."""
    text = normalise(text)
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert tokenizer.encode_all(["go", text]) == [tokenizer.encode("go"), ids]
    assert not {UNKNOWN, END, BLANK, END_OF_GAP} & set(ids)


def test_space_belongs_to_the_word_before_it(tokenizer: Tokenizer) -> None:
    """A last word with a space is another token sequence than one without."""
    complete, open_ended = tokenizer.encode("go to the "), tokenizer.encode("go to the")
    assert "".join(tokenizer.surfaces[i] for i in complete) == "go to the "
    assert tokenizer.ends_word[complete[-1]]
    assert not tokenizer.ends_word[open_ended[-1]]
    assert all(not surface.strip() or not surface.startswith(" ") for surface in tokenizer.surfaces)


def test_ids_are_in_order(tokenizer: Tokenizer) -> None:
    """Controls come first, then the 256 bytes, then tokens with a surface."""
    assert tokenizer.size == len(tokenizer.surfaces) == len(tokenizer.byte_values) > 261
    assert tokenizer.byte_values[5:261].tolist() == list(range(256))
    assert (tokenizer.byte_values >= 0).sum() == 256
    assert tokenizer.surfaces[:261] == [""] * 261
    assert all(tokenizer.surfaces[261:])


def test_torn_bytes_decode_to_replacement_characters(tokenizer: Tokenizer) -> None:
    """A torn byte run gives U+FFFD, a start a line end, other control tokens nothing."""
    torn = [FIRST_BYTE + byte for byte in "😀".encode()[:2]]
    ids = [*tokenizer.encode("go\n"), *torn, *tokenizer.encode("to")]
    assert START in ids
    assert tokenizer.decode(ids) == "go\n\ufffdto"
    assert tokenizer.decode([END, BLANK, END_OF_GAP]) == ""


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("don't they", ["don't ", "they"]),
        ("我喜go了", ["我", "喜", "go", "了"]),
        ("go_to, like", ["go_to", ",", " ", "like"]),
        ("the.to", ["the", ".", "to"]),
    ],
)
def test_joined_tokens_make_words(tokenizer: Tokenizer, text: str, words: list[str]) -> None:
    """Letters, digits, apostrophes and the space after them join; punctuation and Chinese part."""
    runs: list[list[int]] = []
    for token in tokenizer.encode(text):
        if runs and tokenizer.joins(runs[-1][-1], token):
            runs[-1].append(token)
        else:
            runs.append([token])
    assert [tokenizer.decode(run) for run in runs] == words


def with_token(**changes: Any) -> Callable[[bytes], bytes]:
    """Damage: change the last token."""

    def damage(content: bytes) -> bytes:
        model = sentencepiece_model_pb2.ModelProto.FromString(content)
        for field, value in changes.items():
            setattr(model.pieces[-1], field, value)
        changed: bytes = model.SerializeToString()
        return changed

    return damage


def with_tokens(content: bytes) -> bytes:
    """Damage: add more tokens than ids have bits for."""
    model = sentencepiece_model_pb2.ModelProto.FromString(content)
    for number in range(1 << 16):
        model.pieces.add(piece=f"{number} ", score=-9.0)
    changed: bytes = model.SerializeToString()
    return changed


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (with_token(piece="x" * 1000), "a token has 1000 characters; at most 64"),
        (with_token(score=math.nan), r"\d+ bytes are not"),
        (with_tokens, "it has 65900 tokens; at most 65536"),
        (lambda _: b"", r"tokenizer\.model: .*prepare"),
        (lambda _: b"not a model", r"tokenizer\.model: .*prepare"),
        (lambda model: model.replace("我".encode(), b"\xe6\x88a"), r"r\.model: \d+ bytes are not"),
        (lambda model: model[:-7], r"tokenizer\.model: .*prepare"),
        (lambda model: model.replace(b"<blank>", b"<other>"), r"r\.model: .*<blank>.*prepare"),
        (None, r"tokenizer\.model: No such file"),
    ],
)
def test_unreadable_models_are_named(
    tokenizer: Tokenizer, tmp_path: Path, damage: Callable[[bytes], bytes] | None, message: str
) -> None:
    """A damaged, foreign or missing model file is a TokenizerError with its path."""
    path = tmp_path / "tokenizer.model"
    if damage is not None:
        path.write_bytes(damage(tokenizer.model_proto))
    with pytest.raises(TokenizerError, match=message):
        Tokenizer.load(path)
