"""The Transformer and the keyboard network: equations, sizes, and the runtime that decoders use."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from model.errors import RunError
from model.runtime import initial_states
from model.tokenizer import START
from research.cifg import KeyboardConfig, KeyboardNetwork
from research.networks import PEERS, SYSTEMS, Peer, ReplayRuntime, parameter_count, sized
from research.transformer import Transformer, TransformerConfig


@pytest.fixture(params=[Transformer, KeyboardNetwork])
def peer(request: pytest.FixtureRequest) -> Peer:
    """Two blocks of two heads, or 24 cells projected to 8."""
    torch.manual_seed(1)
    if request.param is Transformer:
        return Transformer(TransformerConfig(300, 16, 64, 2)).eval()
    return KeyboardNetwork(KeyboardConfig(300, 8, 24)).eval()


def outputs(network: Peer, tokens: list[int]) -> torch.Tensor:
    """Return the outputs after each token of one line."""
    state = network.initial_state("forward", 1)
    with torch.no_grad():
        return network.run_tower("forward", torch.tensor(tokens).unsqueeze(1), state)[0][:, 0]


def test_a_network_reads_from_left_to_right_and_knows_the_order(peer: Peer) -> None:
    """A later token changes no earlier output; two orders of the same tokens differ."""
    before, after = outputs(peer, [1, 7, 8, 9]), outputs(peer, [1, 7, 20, 9])
    assert torch.allclose(before[:2], after[:2], atol=1e-6)
    assert not torch.allclose(before[2:], after[2:], atol=1e-4)
    assert not torch.allclose(before[-1], outputs(peer, [1, 8, 7, 9])[-1], atol=1e-4)


def test_the_keyboard_network_computes_the_published_equations() -> None:
    """The input gate is one minus the forget gate, and the state is projected."""
    torch.manual_seed(1)
    network = KeyboardNetwork(KeyboardConfig(300, 8, 24)).eval()
    h, c = torch.zeros(8), torch.zeros(24)
    expected = []
    with torch.no_grad():
        for token in (7, 8):
            inputs = network.weight_ih @ network.embedding.weight[token]
            mixed = inputs + network.weight_hh @ h + network.bias
            forget, candidate, output = mixed.chunk(3)
            keep = forget.sigmoid()
            c = keep * c + (1 - keep) * candidate.tanh()
            h = network.project @ (output.sigmoid() * c.tanh())
            expected.append(h)
    assert torch.allclose(outputs(network, [7, 8]), torch.stack(expected), atol=1e-6)


def test_the_runtime_gives_the_distribution_of_the_network(peer: Peer) -> None:
    """A line read in two parts, in a batch, has the distribution of the whole line."""
    runtime = ReplayRuntime(peer)
    states = initial_states(runtime.sizes, "forward", 2)
    first, second = np.array([[START, 7], [START, 0]]), np.array([[8, 9], [30, 0]])
    states, _ = runtime.run_tower("forward", states, first, np.array([2, 1]))
    _, found = runtime.run_tower("forward", states, second, np.array([2, 1]))
    rows = runtime.score("next", np.stack([found[0, 1], found[1, 0]]))
    assert np.allclose(rows.sum(axis=1), 1, atol=1e-5)
    for row, line in zip(rows, ([START, 7, 8, 9], [START, 30]), strict=True):
        features = peer.next_features(outputs(peer, line)[-1:])
        logits = F.linear(features, peer.embedding.weight, peer.output_bias)[0].detach()
        known = row > 0
        expected = logits[torch.from_numpy(known)].softmax(0).numpy()
        assert np.allclose(row[known], expected, atol=1e-4)


def test_sizes_are_as_published_and_equal() -> None:
    """The keyboard network has 1.4 M weights; the tutorial's systems differ by less than 2 %."""
    assert round(parameter_count(KeyboardConfig(10_000)), -5) == 1_400_000
    counts = [parameter_count(sized(spec, 16_000, 3_000_000, 128)) for spec in SYSTEMS]
    assert all(abs(count - 3_000_000) < 60_000 for count in counts), counts
    peers = [parameter_count(sized(spec, 16_000, 0, 128)) for spec in PEERS]
    assert max(peers[:3]) - min(peers[:3]) < 40_000
    assert max(peers[3:]) - min(peers[3:]) < 80_000
    with pytest.raises(RunError, match="allow more"):
        sized(SYSTEMS[0], 16_000, 1_000_000, 128)
