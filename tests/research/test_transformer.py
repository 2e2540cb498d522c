"""The Transformer of the comparison: causal, counted rightly, and the same behind the runtime protocol."""

import numpy as np
import pytest
import torch

from model.errors import UnsupportedError
from model.runtime import initial_states
from model.tokenizer import START
from research.networks import parameter_count
from research.transformer import Transformer, TransformerConfig, TransformerRuntime

CONFIG = TransformerConfig(300, embedding_size=16, hidden_size=64, layers=2)


@pytest.fixture
def transformer() -> Transformer:
    """Two blocks of two heads."""
    torch.manual_seed(1)
    return Transformer(CONFIG).eval()


def test_it_reads_from_left_to_right(transformer: Transformer) -> None:
    """A later token changes no earlier output, and changes its own."""
    tokens = torch.tensor([[1], [7], [8], [9]])
    changed = tokens.clone()
    changed[2] = 20
    states = transformer.initial_state("forward", 1)
    before, _ = transformer.run_tower("forward", tokens, states)
    after, _ = transformer.run_tower("forward", changed, states)
    assert torch.allclose(before[:2], after[:2], atol=1e-6)
    assert not torch.allclose(before[2:], after[2:], atol=1e-3)


def test_the_order_of_what_was_read_matters(transformer: Transformer) -> None:
    """Without positions, attention would not tell two orders apart."""
    states = transformer.initial_state("forward", 1)
    one, _ = transformer.run_tower("forward", torch.tensor([[1], [7], [8], [9]]), states)
    other, _ = transformer.run_tower("forward", torch.tensor([[1], [8], [7], [9]]), states)
    assert not torch.allclose(one[-1], other[-1], atol=1e-3)


def test_the_runtime_scores_what_the_network_scores(transformer: Transformer) -> None:
    """Tokens read in two parts, among other rows, give the distribution of the whole line, summing to 1."""
    runtime = TransformerRuntime(transformer)
    states = initial_states(runtime.sizes, "forward", 2)
    states, _ = runtime.advance(
        "forward", states, np.array([[START, 7], [START, 0]]), np.array([2, 1])
    )
    _, outputs = runtime.advance("forward", states, np.array([[8, 9], [30, 0]]), np.array([2, 1]))
    rows = runtime.next_log_probabilities(np.stack([outputs[0, 1], outputs[1, 0]]))
    assert np.allclose(np.exp(rows).sum(axis=1), 1, atol=1e-5)
    for row, line in zip(rows, ([START, 7, 8, 9], [START, 30]), strict=True):
        out, _ = transformer.run_tower(
            "forward", torch.tensor(line).unsqueeze(1), transformer.initial_state("forward", 1)
        )
        with torch.no_grad():
            logits = transformer.logits(
                transformer.next_features(out[-1]), transformer.output_bias
            )[0]
        expected = logits[5:].log_softmax(0).numpy()  # controls and <eog> are never next
        assert np.allclose(row[5:], expected, atol=1e-5)


def test_weights_are_counted_without_building_them(transformer: Transformer) -> None:
    """The count is that of the parameters."""
    assert parameter_count(CONFIG) == sum(
        parameter.numel() for parameter in transformer.parameters()
    )


def test_it_has_one_direction_only(transformer: Transformer) -> None:
    """What a backward tower or a gap head would be asked is refused by name."""
    runtime = TransformerRuntime(transformer)
    none = np.zeros((1, 1), dtype=np.int64)
    with pytest.raises(UnsupportedError):
        runtime.advance("backward", initial_states(runtime.sizes, "forward", 1), none, none[0])
    with pytest.raises(UnsupportedError):
        runtime.fill_log_probabilities(none, none[0], none[0])


def test_impossible_sizes_are_refused() -> None:
    """A block consists of whole heads."""
    with pytest.raises(ValueError, match="multiple of 32"):
        TransformerConfig(300, 16, 60, 2)
