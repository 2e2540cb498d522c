"""Looking up an n-gram through the runtime's calls."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model.checkpoint import load_checkpoint
from model.errors import CheckpointError
from model.ngram import DESCRIPTION, NGramRuntime, open_ngram
from model.onnx_runtime import OnnxRuntime
from model.predictor import open_model
from model.tokenizer import START
from tests.fixtures_checkpoint import put, sums_of, tiny_tokenizer

# Contexts of tokens that occur, of <s>, of <blank>, of none, and at random.
CONTEXTS = np.random.default_rng(2).integers(261, 364, (24, 2)).astype(np.float32)
CONTEXTS[:5] = [[0, 0], [0, START], [3, 270], [363, 363], [START, tiny_tokenizer().encode("I ")[0]]]


@pytest.fixture(scope="module")
def ngram(tiny_ngram: Path) -> NGramRuntime:
    """A 3-gram of a few lines."""
    return open_ngram(tiny_ngram)[1]


def test_every_distribution_sums_to_one_in_any_batch(ngram: NGramRuntime) -> None:
    """Only control tokens have probability 0; a row alone is bit for bit that row in a batch."""
    probs = ngram.score("next", CONTEXTS)
    np.testing.assert_allclose(probs.sum(axis=1, dtype=float), 1, atol=2e-6)
    assert not probs[:, :5].any()
    assert (probs[:, 5:] > 0).all()
    for context, expected in zip(CONTEXTS, probs, strict=True):
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


@pytest.fixture
def copy(tiny_ngram: Path, tmp_path: Path) -> Path:
    """A copy of the 3-gram that a test may damage."""
    return shutil.copytree(tiny_ngram, tmp_path / "copy")


def put_array(name: str, **changes: Any) -> Callable[[Path], None]:
    """Damage: change items of an array, by place, and its sum."""

    def damage(directory: Path) -> None:
        array = np.load(directory / name)
        for place, value in changes.items():
            array[int(place.removeprefix("at"))] = value
        np.save(directory / name, array)
        put(directory, name, (directory / name).read_bytes())

    return damage


def put_description(**changes: Any) -> Callable[[Path], None]:
    """Damage: change fields of ngram.json, and its sum."""

    def damage(directory: Path) -> None:
        values = json.loads((directory / DESCRIPTION).read_text(encoding="utf-8"))
        put(directory, DESCRIPTION, json.dumps(values | changes))

    return damage


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "no sums": (lambda d: (d / "SHA256SUMS").unlink(), "without SHA256SUMS; build it again"),
    "an array without its sum": (lambda d: np.save(d / "tokens.2.npy", np.zeros(2)), "the sum in"),
    "an array of another type": (
        lambda d: put(d, "unigram.npy", (d / "tokens.2.npy").read_bytes()),
        r"unigram\.npy is not an array of 364 float32",
    ),
    "no array": (lambda d: put(d, "unigram.npy", b"no array"), r"unigram\.npy is not an array"),
    "pickled objects": (
        lambda d: (
            np.save(d / "unigram.npy", np.array([{}] * 364), allow_pickle=True),
            put(d, "unigram.npy", (d / "unigram.npy").read_bytes()),
        ),
        r"unigram\.npy is not an array of 364 float32",
    ),
    "an unlisted array": (
        lambda d: (d / "SHA256SUMS").write_text(
            "".join(s for s in sums_of(d).splitlines(True) if "unigram" not in s)
        ),
        r"does not list unigram\.npy",
    ),
    "words out of order": (lambda d: put(d, "words", b"b\na\n"), "words are not in order"),
    "children out of order": (put_array("children.1.npy", at5=9999), "children are not in order"),
    "a last child beyond the end": (put_array("children.2.npy", at0=1), "children are not"),
    "an unknown token": (put_array("tokens.3.npy", at0=364), "not in the vocabulary"),
    "NaN": (put_array("backoff.1.npy", at300=np.nan), "not between 0 and 1"),
    "no distribution": (put_array("unigram.npy", at300=1.0), "do not sum to 1"),
    "a negative weight": (put_array("discounted.3.npy", at0=-0.5), "not between 0 and 1"),
    "another format": (put_description(format_version=99), "format_version"),
    "no such order": (put_description(order=100_000), "order: Input should be less"),
    "counts of another text": (put_description(counts=[364, 5, 5]), r"children\.1\.npy|tokens"),
    "counts of another order": (put_description(order=4), r"does not list children\.3\.npy"),
    "too few counts": (put_description(counts=[364, 5]), "counts are of another order"),
    "counts beyond any file": (
        put_description(counts=[1 << 60] * 3),
        r"unigram\.npy is not an array of 1152921504606846976 float32",
    ),
    "another tokenizer": (
        lambda d: put(d, "tokenizer.model", tiny_tokenizer(size=350).model_proto),
        "has 350 tokens",
    ),
}


@pytest.mark.parametrize("case", DAMAGES)
def test_a_torn_or_altered_directory_is_a_named_error(copy: Path, case: str) -> None:
    """Whatever is missing or altered, with sums or without, is a CheckpointError with the path."""
    damage, message = DAMAGES[case]
    damage(copy)
    with pytest.raises(CheckpointError, match=message) as caught:
        open_model(copy)
    assert str(copy) in str(caught.value)


def test_a_stray_description_makes_no_ngram(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """A checkpoint stays one, and stays verified, whatever unlisted file is next to it."""
    stray = shutil.copytree(tiny_checkpoint, tmp_path / "stray")
    (stray / DESCRIPTION).write_text("{}", encoding="utf-8")
    checkpoint, runtime = open_model(stray)
    assert checkpoint.digest == load_checkpoint(tiny_checkpoint).digest
    assert isinstance(runtime, OnnxRuntime)
    (stray / "onnx" / "int8.weights").write_bytes(b"altered")
    with pytest.raises(CheckpointError, match="the sum in SHA256SUMS"):
        open_model(stray)
