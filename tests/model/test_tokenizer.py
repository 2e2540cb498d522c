"""Text to tokens and back."""

import io
from pathlib import Path

import pytest
import sentencepiece
from hypothesis import given
from hypothesis import strategies as st

from model.errors import TokenizerError
from model.text import normalise
from model.tokenizer import (
    BLANK,
    CONTROL_TOKENS,
    END,
    END_OF_GAP,
    FIRST_BYTE,
    START,
    UNKNOWN,
    Tokenizer,
)
from training.data.prepare import train_tokenizer

ANY_TEXT = st.text(alphabet=st.characters(exclude_categories=["Cs"]))


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    """A small vocabulary of both languages."""
    lines = [
        "I go to the store.",
        "They like the theatre, don't they?",
        "go to the",
        "我喜欢旅游。",
        "老师批评了我,我很难过。",
    ]
    return train_tokenizer(lines * 20, 300, threads=1)


@given(text=ANY_TEXT)
def test_any_text_round_trips(tokenizer: Tokenizer, text: str) -> None:
    """Whatever Unicode text is encoded, decoding gives it back, one by one and in batches."""
    text = normalise(text)
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert tokenizer.encode_many([text, "a", text]) == [ids, tokenizer.encode("a"), ids]


@pytest.mark.parametrize(
    "text",
    [
        "\u2581",
        "a\u2581\u2581 b",
        "\x00",
        "a\x00b",
        "\r\n\t",
        "  two  spaces  ",
        "\ufeff",
        "<s>",
        "<0x41>",
    ],
)
def test_characters_special_to_sentencepiece_round_trip(tokenizer: Tokenizer, text: str) -> None:
    """The space mark, NUL, control characters and texts that look like tokens are plain text."""
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert not {UNKNOWN, END, BLANK, END_OF_GAP} & set(ids)


def test_a_word_says_that_it_ends(tokenizer: Tokenizer) -> None:
    """The space belongs to the word before it, so a last word without one is another token sequence."""
    complete, open_ended = tokenizer.encode("go to the "), tokenizer.encode("go to the")
    assert "".join(tokenizer.surfaces[i] for i in complete) == "go to the "
    assert tokenizer.ends_word[complete[-1]]
    assert not tokenizer.ends_word[open_ended[-1]]
    assert tokenizer.decode(tokenizer.encode("go ")) == "go "
    assert all(not surface.strip() or not surface.startswith(" ") for surface in tokenizer.surfaces)


def test_ids_are_laid_out_as_promised(tokenizer: Tokenizer) -> None:
    """Controls come first, then the 256 bytes, then tokens that have a surface."""
    assert CONTROL_TOKENS == ("<unk>", "<s>", "</s>", "<blank>", "<eog>")
    assert (UNKNOWN, START, END, BLANK, END_OF_GAP) == (0, 1, 2, 3, 4)
    assert tokenizer.size == 300 == len(tokenizer.surfaces)
    assert tokenizer.byte_values[FIRST_BYTE : FIRST_BYTE + 256].tolist() == list(range(256))
    assert (tokenizer.byte_values >= 0).sum() == 256
    assert tokenizer.surfaces[: FIRST_BYTE + 256] == [""] * (FIRST_BYTE + 256)
    assert all(tokenizer.surfaces[FIRST_BYTE + 256 :])
    assert tokenizer.never_predicted.tolist() == [UNKNOWN, START, END, BLANK]


def test_line_end_is_a_start(tokenizer: Tokenizer) -> None:
    """A line end is the start of the next line and decodes to a line end."""
    ids = tokenizer.encode("go\nto")
    assert ids == [*tokenizer.encode("go"), START, *tokenizer.encode("to")]
    assert tokenizer.decode(ids) == "go\nto"


def test_bytes_that_are_not_text_decode_to_replacement_characters(tokenizer: Tokenizer) -> None:
    """A torn byte run gives U+FFFD and spoils nothing around it."""
    torn = [FIRST_BYTE + byte for byte in "😀".encode()[:2]]
    assert (
        tokenizer.decode([*tokenizer.encode("go "), *torn, *tokenizer.encode("to")])
        == "go \ufffdto"
    )
    assert tokenizer.decode([END, BLANK, END_OF_GAP]) == ""


def test_lone_surrogates_are_refused(tokenizer: Tokenizer) -> None:
    """A lone surrogate is not text."""
    with pytest.raises(UnicodeEncodeError):
        tokenizer.encode("a\ud800")
    with pytest.raises(UnicodeEncodeError):
        tokenizer.encode_many(["a\ud800"])


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
    """Letters, digits, apostrophes and the space after them join; punctuation and Chinese characters part."""
    runs: list[list[int]] = []
    for token in tokenizer.encode(text):
        if runs and tokenizer.joins(runs[-1][-1], token):
            runs[-1].append(token)
        else:
            runs.append([token])
    assert [tokenizer.decode(run) for run in runs] == words


@pytest.mark.parametrize(
    "damage",
    [lambda _: b"", lambda _: b"not a model", lambda model: model[:-7]],
    ids=["empty", "other", "truncated"],
)
def test_damaged_models_are_named_errors(
    tokenizer: Tokenizer, tmp_path: Path, damage: object
) -> None:
    """A damaged model file is a TokenizerError that names the file."""
    path = tmp_path / "tokenizer.model"
    path.write_bytes(damage(tokenizer.to_bytes()))  # type: ignore[operator]
    with pytest.raises(TokenizerError, match=r"tokenizer\.model: .*prepare"):
        Tokenizer.load(path)


def test_missing_model_is_a_named_error(tmp_path: Path) -> None:
    """A missing model file is a TokenizerError that names the file."""
    with pytest.raises(TokenizerError, match=r"nowhere\.model"):
        Tokenizer.load(tmp_path / "nowhere.model")


def test_foreign_sentencepiece_models_are_refused() -> None:
    """A SentencePiece model without our control tokens is not one of ours."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["hello world"] * 20),
        model_writer=model,
        vocab_size=20,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    with pytest.raises(TokenizerError, match="<blank>"):
        Tokenizer.from_bytes(model.getvalue())


def test_loading_gives_the_same_vocabulary(tokenizer: Tokenizer, tmp_path: Path) -> None:
    """A vocabulary written to disk encodes as before and keeps its digest."""
    path = tmp_path / "tokenizer.model"
    path.write_bytes(tokenizer.to_bytes())
    loaded = Tokenizer.load(path)
    assert loaded.digest == tokenizer.digest
    assert loaded.encode("我 go\u2581to") == tokenizer.encode("我 go\u2581to")
