"""Blanks filled by the stacked bidirectional network: its decoder."""

from typing import Any

import numpy as np
import pytest

from model.checkpoint import Checkpoint
from model.decoding.masked import LENGTH_PROBS
from model.predictor import Predictor
from model.queries import ClozeQuery, ClozeResult
from model.tokenizer import BLANK, START
from model.torch_runtime import open_torch_runtime
from tests.fakes import answer
from tests.fixtures_checkpoint import build_tiny_checkpoint
from tests.reference_network import open_reference

LINE = "我的手机坏了,我打算____一部新手机。"


@pytest.fixture(scope="module")
def stacked(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """A network of three layers of GRUs."""
    sizes: Any = {"hidden_size": 19, "forward_layers": 3, "cell": "gru"}
    directory = tmp_path_factory.mktemp("stacked") / "gru"
    return build_tiny_checkpoint(directory, architecture="stacked_bidirectional", **sizes)


def fill(checkpoint: Checkpoint, text: str, **query: Any) -> ClozeResult:
    """Answer one query exactly."""
    runtime = open_torch_runtime(checkpoint.directory, checkpoint.config.network, "cpu")
    result: ClozeResult = answer(Predictor(checkpoint, runtime), ClozeQuery(text, **query))
    return result


def test_choices_have_the_probability_of_their_tokens(stacked: Checkpoint) -> None:
    """P = P(n) times the probability of each token while the later ones are blanks."""
    tokenizer, network = stacked.tokenizer, open_reference(stacked)
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
    row = open_reference(stacked).fill([START, *left, BLANK, *right], 1 + len(left))
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
