"""The published keyboard network: coupled gates, a projected state, and the same behind the runtime protocol."""

import numpy as np
import pytest
import torch

from model.errors import UnsupportedError
from model.runtime import initial_states
from model.tokenizer import START
from research.cifg import KeyboardConfig, KeyboardNetwork, KeyboardRuntime
from research.networks import parameter_count

CONFIG = KeyboardConfig(300, embedding_size=8, hidden_size=24)


@pytest.fixture
def keyboard() -> KeyboardNetwork:
    """24 cells, projected to 8."""
    torch.manual_seed(1)
    return KeyboardNetwork(CONFIG).eval()


def test_it_has_as_many_weights_as_was_published() -> None:
    """With ten thousand words, 670 cells and 96 numbers a word there are 1.4 million."""
    assert round(parameter_count(KeyboardConfig(10_000)), -5) == 1_400_000


def test_the_input_gate_is_what_the_forget_gate_leaves(keyboard: KeyboardNetwork) -> None:
    """Two steps by the published equations give the states that the fused kernel gives."""
    tokens = torch.tensor([[7], [8]])
    outputs, after = keyboard.run_tower("forward", tokens, keyboard.initial_state("forward", 1))
    h, c = torch.zeros(8), torch.zeros(24)
    with torch.no_grad():
        for step, token in enumerate(tokens.flatten()):
            mixed = (
                keyboard.weight_ih @ keyboard.embedding.weight[token]
                + keyboard.weight_hh @ h
                + keyboard.bias
            )
            forget, candidate, output = mixed.chunk(3)
            keep = forget.sigmoid()
            c = keep * c + (1 - keep) * candidate.tanh()
            h = keyboard.project @ (output.sigmoid() * c.tanh())
            assert torch.allclose(outputs[step, 0], h, atol=1e-6)
    assert torch.allclose(after[0], torch.cat([h, c]), atol=1e-6)


def test_the_runtime_scores_what_the_network_scores(keyboard: KeyboardNetwork) -> None:
    """Tokens read in two parts, among other rows, give the distribution of the whole line, summing to 1."""
    runtime = KeyboardRuntime(keyboard)
    states = initial_states(runtime.sizes, "forward", 2)
    states, _ = runtime.advance(
        "forward", states, np.array([[START, 7], [START, 0]]), np.array([2, 1])
    )
    _, outputs = runtime.advance("forward", states, np.array([[8, 9], [30, 0]]), np.array([2, 1]))
    rows = runtime.next_log_probabilities(np.stack([outputs[0, 1], outputs[1, 0]]))
    assert np.allclose(np.exp(rows).sum(axis=1), 1, atol=1e-5)
    for row, line in zip(rows, ([START, 7, 8, 9], [START, 30]), strict=True):
        out, _ = keyboard.run_tower(
            "forward", torch.tensor(line).unsqueeze(1), keyboard.initial_state("forward", 1)
        )
        with torch.no_grad():
            logits = keyboard.logits(out[-1], keyboard.output_bias)[0]
        probable = np.isfinite(row)
        expected = logits[torch.from_numpy(probable)].log_softmax(0).numpy()
        assert np.allclose(row[probable], expected, atol=1e-4)


def test_it_has_one_direction_only(keyboard: KeyboardNetwork) -> None:
    """The right side is refused by name."""
    with pytest.raises(UnsupportedError):
        keyboard.run_tower("backward", torch.tensor([[7]]), keyboard.initial_state("backward", 1))
    with pytest.raises(UnsupportedError):
        KeyboardRuntime(keyboard).previous_log_probabilities(np.zeros((1, 32), dtype=np.float32))
