"""The peers that run on what the project installs: the reference, and the same checkpoint in torch."""

import asyncio
from pathlib import Path

import numpy as np
import pytest

from benchmarks.contestants import CONTESTANTS, FIRST_QUESTION, has_five_candidates, top_tokens
from benchmarks.servers import reference
from benchmarks.servers.torch_predictor import TorchPredictor
from model.checkpoint import load_checkpoint
from model.runtime import OnnxRuntime, initial_states
from service.schemas import ClozeRequest, PredictRequest


def test_the_reference_answers_in_the_products_shape() -> None:
    """Its answers pass the check that every contestant's first answer must pass."""
    predicted = asyncio.run(reference.predict(PredictRequest(**FIRST_QUESTION["/predict"])))
    assert has_five_candidates(predicted.model_dump())
    filled = asyncio.run(reference.cloze(ClozeRequest(**FIRST_QUESTION["/cloze"])))
    assert has_five_candidates(filled.model_dump())


def test_torch_computes_the_products_network(tiny_checkpoint: Path) -> None:
    """The peer's probabilities are those of the product's fp32 graphs, up to the tokens that it does not show."""
    checkpoint = load_checkpoint(tiny_checkpoint)
    predictor = TorchPredictor(tiny_checkpoint)
    tokens = np.array([predictor.encode("我们去书店买")], dtype=np.int64)
    runtime = OnnxRuntime(tiny_checkpoint, checkpoint.network, precision="fp32")
    lengths = np.array([tokens.shape[1]], dtype=np.int64)
    _, outputs = runtime.advance(
        "forward", initial_states(runtime.config, "forward", 1), tokens, lengths
    )
    expected = np.exp(runtime.next_log_probabilities(outputs[:, -1])[0])
    shown = np.array([bool(surface.strip()) for surface in checkpoint.tokenizer.surfaces])
    best = np.argsort(np.where(shown, -expected, 0))[:5]
    found = predictor.predict(tokens.tolist(), 5)[0]
    assert [one.append for one in found] == [
        checkpoint.tokenizer.surfaces[token].rstrip() for token in best
    ]
    expected_probabilities = expected[best] / expected[shown].sum()
    assert [one.probability for one in found] == pytest.approx(
        expected_probabilities.tolist(), rel=1e-3
    )


def test_torch_answers_the_same_in_a_batch(tiny_checkpoint: Path) -> None:
    """Padding a short text to the length of a long one changes no answer."""
    predictor = TorchPredictor(tiny_checkpoint)
    texts = [predictor.encode("我"), predictor.encode("我们去书店买一本书")]
    together = predictor.predict(texts, 5)
    for text, row in zip(texts, together, strict=True):
        (alone,) = predictor.predict([text], 5)
        assert [one.word for one in row] == [one.word for one in alone]


@pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::UserWarning"
)  # torch warns of its own recipe
def test_quantised_torch_answers(tiny_checkpoint: Path) -> None:
    """Torch's own dynamic quantisation applies to the network as it is written."""
    (found,) = TorchPredictor(tiny_checkpoint, "int8").predict([[1]], 3)
    assert len(found) == 3


def test_the_products_top_tokens_are_shown_ones(tiny_checkpoint: Path) -> None:
    """What peers are checked against is one token a text, never empty."""
    found = top_tokens(tiny_checkpoint, ["我们", "go to "])
    assert len(found) == 2
    assert all(found)


def test_every_contestant_takes_its_port_and_checkpoint() -> None:
    """Commands leave nothing to be filled in but those two."""
    for name, contestant in CONTESTANTS.items():
        assert contestant.name == name
        filled = [part.format(port=1, checkpoint="c") for part in contestant.arguments]
        assert "1" in filled
        assert "c" in filled
