"""Looking up an n-gram through the runtime's calls."""

import json
from pathlib import Path

import numpy as np
import pytest

from model.errors import CheckpointError
from model.ngram import DESCRIPTION, NGRAM_FORMAT_VERSION, NGramRuntime, open_ngram
from model.tokenizer import START
from training.ngram import Text, estimate

TOKENIZER, ORDER = 40, 4


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An n-gram of 300 lines."""
    directory = tmp_path_factory.mktemp("ngram")
    generator = np.random.default_rng(1)
    ids = (5 + np.minimum(generator.geometric(0.15, 3000) - 1, TOKENIZER - 6)).astype(np.uint16)
    offsets = np.arange(0, 3001, 10)
    result = estimate([Text(ids, offsets)], np.arange(TOKENIZER) >= 5, ORDER, directory)
    description = {"format_version": NGRAM_FORMAT_VERSION, "order": ORDER, **result}
    (directory / DESCRIPTION).write_text(json.dumps(description))
    return directory


@pytest.fixture(scope="module")
def ngram(directory: Path) -> NGramRuntime:
    """The same, open."""
    return open_ngram(directory)


def random_contexts(rows: int) -> np.ndarray:
    """Contexts of tokens that occur."""
    return np.random.default_rng(2).integers(5, 15, (rows, ORDER - 1)).astype(np.float32)


def test_every_distribution_sums_to_one(ngram: NGramRuntime) -> None:
    """After seen and unseen contexts and control tokens; only controls have probability 0."""
    contexts = random_contexts(50)
    contexts[:4] = [[0, 0, 0], [0, 0, START], [6, 3, 7], [39, 39, 39]]  # 3 is <blank>
    log_probabilities = ngram.score("next", contexts)
    np.testing.assert_allclose(np.exp(log_probabilities).sum(axis=1, dtype=float), 1, atol=2e-6)
    assert np.isneginf(log_probabilities[:, :5]).all()
    assert np.isfinite(log_probabilities[:, 5:]).all()


def test_state_holds_the_last_tokens(ngram: NGramRuntime) -> None:
    """Outputs are the last order - 1 tokens; the state is the output after the row's own length."""
    states = np.zeros((2, ORDER - 1), dtype=np.float32)
    tokens = np.array([[START, 6, 7, 8, 9], [START, 8, 0, 0, 0]])
    states, contexts = ngram.run_tower("forward", states, tokens, np.array([5, 2]))
    assert states.tolist() == [[7, 8, 9], [0, START, 8]]
    assert contexts[0, :3].tolist() == [[0, 0, START], [0, START, 6], [START, 6, 7]]
    later, _ = ngram.run_tower("forward", states, tokens, np.array([0, 1]))
    assert later.tolist() == [[7, 8, 9], [START, 8, START]]


def test_answer_does_not_depend_on_the_batch(ngram: NGramRuntime) -> None:
    """A row alone is bit for bit the same row in a batch."""
    contexts = random_contexts(20)
    together = ngram.score("next", contexts)
    for row in (0, 7, 19):
        assert np.array_equal(ngram.score("next", contexts[row : row + 1])[0], together[row])


def test_tokens_before_a_control_token_do_not_matter(ngram: NGramRuntime) -> None:
    """N-grams hold <s> at their start only, so tokens before <s> change nothing."""
    with_past = ngram.distribution([6, START, 7])
    assert np.array_equal(with_past, ngram.distribution([START, 7]))
    assert not np.array_equal(with_past, ngram.distribution([6, 5, 7]))


def test_a_torn_directory_is_a_named_error(directory: Path, tmp_path: Path) -> None:
    """A missing description, another version and a short array are CheckpointErrors."""
    with pytest.raises(CheckpointError, match="not readable"):
        open_ngram(tmp_path)
    (tmp_path / DESCRIPTION).write_text('{"format_version": 99}')
    with pytest.raises(CheckpointError, match="format_version is not 1"):
        open_ngram(tmp_path)
    for path in directory.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    np.save(tmp_path / "tokens.3.npy", np.zeros(2, dtype=np.uint16))
    with pytest.raises(CheckpointError, match=r"tokens\.3"):
        open_ngram(tmp_path)
