"""Blanks filled by the stacked bidirectional network: its runtimes and its decoder."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from model.checkpoint import Checkpoint
from model.decoding.masked import LENGTH_PROBS
from model.onnx_runtime import OnnxRuntime
from model.predictor import Predictor
from model.queries import ClozeQuery, ClozeResult
from model.runtime import Runtime
from model.tokenizer import BLANK, START
from model.torch_runtime import open_torch_runtime
from tests.fakes import answer
from tests.fixtures_checkpoint import build_tiny_checkpoint
from tests.reference_network import ReferenceNetwork

EXACT = 1e-5  # fp32 runtimes against float64
SAME_ROUNDING = 0.02  # int8 graphs against the same roundings in numpy
LINE = "我的手机坏了,我打算____一部新手机。"


def build(directory: Path, cell: Any) -> Checkpoint:
    """Write a network of three layers that mix both directions, as in the tutorial."""
    sizes: Any = {"embedding_size": 13, "hidden_size": 19, "forward_layers": 3, "cell": cell}
    return build_tiny_checkpoint(directory, architecture="stacked_bidirectional", **sizes)


@pytest.fixture(scope="module")
def stacked(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """Such a network of GRUs."""
    return build(tmp_path_factory.mktemp("stacked") / "gru", "gru")


def runtimes(checkpoint: Checkpoint) -> dict[str, Runtime]:
    """Open every runtime on a checkpoint."""
    directory, network = checkpoint.directory, checkpoint.config.network
    return {
        "int8": OnnxRuntime(directory, network),
        "fp32": OnnxRuntime(directory, network, precision="fp32"),
        "torch": open_torch_runtime(directory, network, "cpu"),
    }


def oracle(checkpoint: Checkpoint, *, quantised: bool = False) -> ReferenceNetwork:
    """Return the numpy network with the checkpoint's weights."""
    weights = load_file(checkpoint.directory / "weights.safetensors")
    return ReferenceNetwork(checkpoint.config.network, weights, quantised=quantised)


def fill(checkpoint: Checkpoint, text: str, **query: Any) -> ClozeResult:
    """Answer one query exactly."""
    runtime = OnnxRuntime(checkpoint.directory, checkpoint.config.network, precision="fp32")
    result: ClozeResult = answer(Predictor(checkpoint, runtime), ClozeQuery(text, **query))
    return result


@pytest.mark.parametrize("cell", ["rnn_tanh", "gru", "lstm"])
def test_runtimes_compute_the_formulas_whatever_the_padding(tmp_path: Path, cell: str) -> None:
    """Every runtime agrees with the numpy network; a line gives the same bits alone and padded."""
    checkpoint = build(tmp_path / cell, cell)
    lines = [[START, 300, BLANK, 301, 9], [START, BLANK], [START, 280, 281, BLANK]]
    places = np.array([2, 1, 3])
    lengths = np.array([len(line) for line in lines])
    padded = np.array([line + [7] * (5 - len(line)) for line in lines])
    for name, runtime in runtimes(checkpoint).items():
        rows = runtime.score("fill", padded, lengths, places)
        reference = oracle(checkpoint, quantised=name == "int8")
        for n, line in enumerate(lines):
            expected = reference.fill(line, int(places[n]))
            tolerance = SAME_ROUNDING if name == "int8" else EXACT
            np.testing.assert_allclose(rows[n], expected, rtol=0, atol=tolerance)
            alone = runtime.score("fill", np.array([line]), lengths[[n]], places[[n]])
            assert np.array_equal(alone[0], rows[n])


def test_choices_have_the_probability_of_their_tokens(stacked: Checkpoint) -> None:
    """P = P(n) times the probability of each token while the later ones are blanks."""
    tokenizer, network = stacked.tokenizer, oracle(stacked)
    words = ("买", "昨天", "学校")
    left, right = (tokenizer.encode(part) for part in LINE.split("____"))
    scores = []
    for word in words:
        tokens = tokenizer.encode(word)
        score = np.log(LENGTH_PROBS[len(tokens) - 1])
        for k, token in enumerate(tokens):
            line = [START, *left, *tokens[:k], *[BLANK] * (len(tokens) - k), *right]
            score += network.fill(line, 1 + len(left) + k)[token]
        scores.append(score)
    expected = np.exp(scores - np.logaddexp.reduce(scores))
    answers = fill(stacked, LINE, choices=words).blanks[0].candidates
    found = {each.word: each.probability for each in answers}
    assert [found[word] for word in words] == pytest.approx(expected.tolist(), abs=1e-4)


def test_the_search_finds_the_best_single_token(stacked: Checkpoint) -> None:
    """The first word is at least as probable as the best one of one token; probabilities fall."""
    tokenizer = stacked.tokenizer
    left, right = (tokenizer.encode(part) for part in LINE.split("____"))
    row = oracle(stacked).fill([START, *left, BLANK, *right], 1 + len(left))
    chinese = [n for n, surface in enumerate(tokenizer.surfaces) if "一" <= surface[-1:] <= "鿿"]
    answers = fill(stacked, LINE, top_k=8).blanks[0].candidates
    probabilities = [each.probability for each in answers]
    assert probabilities[0] >= np.exp(max(row[chinese])) * LENGTH_PROBS[0] - 1e-4
    assert len(probabilities) == 8 and sum(probabilities) <= 1 + 1e-6
    assert probabilities == sorted(probabilities, reverse=True)


@pytest.mark.parametrize(
    "text",
    ["____", "the ____ cat ____ mat ____", "I ____\nshe ____ he", "我" * 99 + "____" + "他" * 99],
)
def test_any_text_with_blanks_is_answered(stacked: Checkpoint, text: str) -> None:
    """Blanks at either end, on several lines and in long lines are filled; the text stays."""
    result = fill(stacked, text)
    for blank in result.blanks:
        text = text.replace("____", blank.candidates[0].word, 1)
    assert result.filled == text and "____" not in text
