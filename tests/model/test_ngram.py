"""Looking up an n-gram through the runtime's calls."""

from pathlib import Path

import numpy as np
import pytest

from model.errors import CheckpointError
from model.ngram import DESCRIPTION, NGramRuntime, open_ngram
from model.tokenizer import START
from tests.fixtures_checkpoint import tiny_tokenizer

# Contexts of tokens that occur, of <s>, of <blank>, of none, and at random.
CONTEXTS = np.random.default_rng(2).integers(261, 364, (24, 2)).astype(np.float32)
CONTEXTS[:5] = [[0, 0], [0, START], [3, 270], [363, 363], [START, tiny_tokenizer().encode("I ")[0]]]


@pytest.fixture(scope="module")
def ngram(tiny_ngram: Path) -> NGramRuntime:
    """A 3-gram of a few lines."""
    return open_ngram(tiny_ngram)


def test_every_distribution_sums_to_one_in_any_batch(ngram: NGramRuntime) -> None:
    """Only control tokens have probability 0; a row alone is bit for bit that row in a batch."""
    log_probabilities = ngram.score("next", CONTEXTS)
    np.testing.assert_allclose(np.exp(log_probabilities).sum(axis=1, dtype=float), 1, atol=2e-6)
    assert np.isneginf(log_probabilities[:, :5]).all()
    assert np.isfinite(log_probabilities[:, 5:]).all()
    for context, expected in zip(CONTEXTS, log_probabilities, strict=True):
        assert np.array_equal(ngram.score("next", context[None])[0], expected)


def test_state_holds_the_last_tokens(ngram: NGramRuntime) -> None:
    """Outputs are the last order - 1 tokens; the state is the output after the row's own length."""
    states, tokens = np.zeros((2, 2), dtype=np.float32), np.array([[START, 6, 7], [START, 8, 0]])
    states, contexts = ngram.run_tower("forward", states, tokens, np.array([3, 2]))
    assert states.tolist() == [[6, 7], [START, 8]]
    assert contexts[0].tolist() == [[0, START], [START, 6], [6, 7]]
    later, _ = ngram.run_tower("forward", states, tokens, np.array([0, 1]))
    assert later.tolist() == [[6, 7], [8, START]]


def test_tokens_before_a_control_token_do_not_matter(ngram: NGramRuntime) -> None:
    """N-grams hold <s> at their start only, so tokens before <s> change nothing."""
    with_past = ngram.distribution([300, START])
    assert np.array_equal(with_past, ngram.distribution([0, START]))
    assert not np.array_equal(with_past, ngram.distribution([300, 301]))


def test_a_torn_directory_is_a_named_error(tiny_ngram: Path, tmp_path: Path) -> None:
    """A missing description, another version and a short array are CheckpointErrors."""
    with pytest.raises(CheckpointError, match="not readable"):
        open_ngram(tmp_path)
    (tmp_path / DESCRIPTION).write_text('{"format_version": 99}')
    with pytest.raises(CheckpointError, match="format_version is not 1"):
        open_ngram(tmp_path)
    for path in tiny_ngram.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    np.save(tmp_path / "tokens.2.npy", np.zeros(2, dtype=np.uint16))
    with pytest.raises(CheckpointError, match=r"tokens\.2"):
        open_ngram(tmp_path)
