"""Blanks filled by the stacked bidirectional network: runtimes, decoder, and what it refuses."""

import itertools
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from model.checkpoint import Checkpoint, load_checkpoint
from model.config import Cell
from model.decoding.masked import LENGTHS
from model.errors import LacunaError, UnsupportedError
from model.onnx_runtime import OnnxRuntime
from model.predictor import Predictor
from model.queries import ClozeQuery, ClozeResult
from model.runtime import Runtime
from model.tokenizer import BLANK, START
from model.torch_runtime import open_torch_runtime
from tests.fixtures_checkpoint import build_tiny_checkpoint
from tests.reference_network import ReferenceNetwork

EXACT = 1e-5  # fp32 runtimes against float64
SAME_ROUNDING = 0.02  # int8 graphs against the same roundings in numpy
CELLS: tuple[Cell, ...] = ("rnn_tanh", "gru", "lstm")
LINE = "我的手机坏了,我打算____一部新手机。"


@pytest.fixture(scope="module", params=CELLS)
def stacked(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """Three layers that mix both directions, as in the tutorial, once with every cell."""
    return build_tiny_checkpoint(
        tmp_path_factory.mktemp("stacked") / request.param,
        architecture="stacked_bidirectional",
        cell=request.param,
        embedding_size=13,
        hidden_size=19,
        forward_layers=3,
    )


def runtimes(checkpoint: Checkpoint) -> dict[str, Runtime]:
    """Every runtime on a checkpoint."""
    return {
        "int8": OnnxRuntime(checkpoint.directory, checkpoint.network),
        "fp32": OnnxRuntime(checkpoint.directory, checkpoint.network, precision="fp32"),
        "torch": open_torch_runtime(checkpoint.directory, checkpoint.network, "cpu"),
    }


def oracle(checkpoint: Checkpoint, *, quantised: bool = False) -> ReferenceNetwork:
    """The numpy network with the checkpoint's weights."""
    weights = load_file(checkpoint.directory / "weights.safetensors")
    return ReferenceNetwork(checkpoint.network, weights, quantised=quantised)


def fill(checkpoint: Checkpoint, query: ClozeQuery) -> ClozeResult:
    """One answer."""
    predictor = Predictor(
        checkpoint, OnnxRuntime(checkpoint.directory, checkpoint.network, precision="fp32")
    )
    (answer,) = predictor.run([query])
    assert isinstance(answer, ClozeResult), answer
    return answer


def test_runtimes_compute_the_formulas_whatever_the_padding(stacked: Checkpoint) -> None:
    """Each runtime agrees with the numpy network; a line alone gives bit for bit what it gives among longer ones."""
    lines = [[START, 300, BLANK, 301, 9], [START, BLANK], [START, 280, 281, BLANK]]
    places = np.array([2, 1, 3])
    lengths = np.array([len(line) for line in lines])
    padded = np.array([line + [7] * (5 - len(line)) for line in lines])
    for name, runtime in runtimes(stacked).items():
        rows = runtime.score("fill", padded, lengths, places)
        bound = SAME_ROUNDING if name == "int8" else EXACT
        for number, line in enumerate(lines):
            expected = oracle(stacked, quantised=name == "int8").fill(line, int(places[number]))
            finite = np.isfinite(expected)
            assert np.array_equal(finite, np.isfinite(rows[number]))
            assert np.abs(rows[number][finite] - expected[finite]).max() < bound
            alone = runtime.score("fill", np.array([line]), lengths[[number]], places[[number]])
            assert np.array_equal(alone[0], rows[number])


def test_choices_have_the_probability_of_their_tokens_one_after_the_other(
    stacked: Checkpoint,
) -> None:
    """P = P(n) times each token's share while the later ones are still blanks; shares over the choices sum to 1."""
    tokenizer, network = stacked.tokenizer, oracle(stacked)
    words = ("买", "昨天", "学校")
    left, right = (tokenizer.encode(part) for part in LINE.split("____"))
    masses = []
    for word in words:
        tokens = tokenizer.encode(word)
        mass = np.log(LENGTHS[len(tokens) - 1])
        for k, token in enumerate(tokens):
            line = [START, *left, *tokens[:k], *[BLANK] * (len(tokens) - k), *right]
            mass += network.fill(line, 1 + len(left) + k)[token]
        masses.append(mass)
    expected = np.exp(masses - np.logaddexp.reduce(masses))
    answer = fill(stacked, ClozeQuery(LINE, choices=words)).blanks[0].candidates
    found = {candidate.word: candidate.probability for candidate in answer}
    assert [found[word] for word in words] == pytest.approx(expected.tolist(), abs=1e-4)


def test_the_search_finds_the_best_single_token(stacked: Checkpoint) -> None:
    """The first candidate is at least as probable as the best word of one token, and shares never sum above 1."""
    tokenizer = stacked.tokenizer
    left, right = (tokenizer.encode(part) for part in LINE.split("____"))
    row = oracle(stacked).fill([START, *left, BLANK, *right], 1 + len(left))
    answer = fill(stacked, ClozeQuery(LINE, top_k=8)).blanks[0].candidates
    one_token = {tokenizer.decode([token]).strip(): value for token, value in enumerate(row)}
    spelled = {
        word: value
        for word, value in one_token.items()
        if word and word.isalpha() and "\ufffd" not in word
    }
    takes = {word: value for word, value in spelled.items() if "一" <= word[-1] <= "鿿"}
    best = max(takes.values()) + np.log(LENGTHS[0])
    assert answer[0].probability >= np.exp(best) - 1e-4
    assert len(answer) == 8
    assert sum(candidate.probability for candidate in answer) <= 1 + 1e-6
    assert all(
        first.probability >= second.probability for first, second in itertools.pairwise(answer)
    )


@pytest.mark.parametrize(
    ("text", "blanks"),
    [
        ("____", 1),
        ("the ____ cat ____ mat ____", 3),
        ("I ____\nshe ____ he", 2),
        ("我" * 300 + "____" + "他" * 300, 1),
    ],
)
def test_any_text_with_blanks_is_answered(stacked: Checkpoint, text: str, blanks: int) -> None:
    """Blanks at either end, several of them, on several lines, and in long lines are filled, and the text stays."""
    answer = fill(stacked, ClozeQuery(text))
    assert len(answer.blanks) == blanks
    parts = text.split("____")
    position = 0
    for part in parts:
        position = answer.filled.index(part, position) + len(part)
    again = fill(stacked, ClozeQuery(text))
    assert again == answer


def test_other_networks_refuse_whole_lines(tiny_checkpoint: Path) -> None:
    """A network of towers answers no such step, and says which does."""
    checkpoint = load_checkpoint(tiny_checkpoint)
    one = np.array([1])
    for runtime in runtimes(checkpoint).values():
        with pytest.raises((UnsupportedError, LacunaError), match="stacked_bidirectional"):
            runtime.score("fill", np.array([[START, BLANK]]), one + 1, one)
