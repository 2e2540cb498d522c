"""Networks of the comparison, their sizes, and a runtime for those that are not exported."""

import itertools
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional as F

from model.config import Architecture, Cell, NetworkConfig, Tower, WindowSizes
from model.errors import RunError
from model.network import Network, mask_next
from model.runtime import Float32Array, Head, Int64Array, append_tokens
from research.cifg import KeyboardConfig, KeyboardNetwork
from research.transformer import HEAD_SIZE, Transformer, TransformerConfig

PeerConfig = TransformerConfig | KeyboardConfig
AnyConfig = NetworkConfig | PeerConfig
Peer = Transformer | KeyboardNetwork
# Tokens of context that the runtime keeps; the Transformer trains on lines of at most 128.
CONTEXT_TOKENS: dict[type[Peer], int] = {Transformer: 128, KeyboardNetwork: 512}


@dataclass(frozen=True, slots=True)
class SystemSpec:
    """A network of the comparison.

    Attributes:
        name: of its runs; *title* is for tables.
        cell: of every layer; ``attention`` is a Transformer's block, ``cifg`` a keyboard network.
        layers: of the forward tower, or of the stacked network.
        embedding_size: 0 for that of the comparison.
        hidden_size: 0 for the width that gives the wanted number of weights.
    """

    name: str
    title: str
    architecture: Architecture
    cell: Cell | Literal["attention", "cifg"]
    layers: int
    backward_layers: int = 0
    embedding_size: int = 0
    hidden_size: int = 0


SYSTEMS = (
    SystemSpec("rnn", "RNN", "forward", "rnn_tanh", 1),
    SystemSpec("deep-rnn", "deep RNN, 3 layers", "forward", "rnn_tanh", 3),
    SystemSpec("birnn", "bidirectional RNN", "stacked_bidirectional", "rnn_tanh", 1),
    SystemSpec(
        "deep-birnn", "deep bidirectional RNN, 3 layers", "stacked_bidirectional", "rnn_tanh", 3
    ),
    SystemSpec("gru", "GRU, 2 layers", "forward", "gru", 2),
    SystemSpec("lstm", "LSTM, 2 layers", "forward", "lstm", 2),
    SystemSpec("two-towers", "two LSTM towers", "two_towers", "lstm", 2, 1),
    SystemSpec("transformer", "Transformer, 3 blocks", "forward", "attention", 3),
)
# Published shapes, and ours with as many weights at 16,000 tokens.
PEERS = (
    SystemSpec("keyboard", "keyboard's CIFG-LSTM", "forward", "cifg", 1, 0, 96, 670),
    SystemSpec("lstm-96", "ours: LSTM", "forward", "lstm", 2, 0, 96, 176),
    SystemSpec("two-towers-96", "ours: two towers", "two_towers", "lstm", 2, 1, 96, 128),
    SystemSpec("word-lm", "PyTorch's word-LM example", "forward", "lstm", 2, 0, 200, 200),
    SystemSpec("gru-128", "ours: GRU", "forward", "gru", 2, 0, 128, 424),
    SystemSpec("two-towers-128", "ours: larger towers", "two_towers", "lstm", 2, 1, 128, 288),
)


def sized(
    spec: SystemSpec, vocabulary_size: int, parameters: int, embedding_size: int
) -> AnyConfig:
    """Return the network of a system with its fixed width, or with nearly *parameters* weights.

    Raises:
        RunError: the smallest network has more weights.
    """
    embedding_size = spec.embedding_size or embedding_size
    if spec.hidden_size:
        return _network(spec, vocabulary_size, embedding_size, spec.hidden_size)
    step = HEAD_SIZE if spec.cell == "attention" else 8
    smaller = None
    for hidden_size in itertools.count(step, step):
        larger = _network(spec, vocabulary_size, embedding_size, hidden_size)
        if parameter_count(larger) >= parameters:
            break
        smaller = larger
    if smaller is None:
        raise RunError(
            f"parameters is {parameters}, but the smallest {spec.name} with embedding_size"
            f" {embedding_size} has {parameter_count(larger)}; allow more"
        )
    return min(smaller, larger, key=lambda one: abs(parameter_count(one) - parameters))


def _network(
    spec: SystemSpec, vocabulary_size: int, embedding_size: int, hidden_size: int
) -> AnyConfig:
    if spec.cell == "attention":
        return TransformerConfig(vocabulary_size, embedding_size, hidden_size, spec.layers)
    if spec.cell == "cifg":
        return KeyboardConfig(vocabulary_size, embedding_size, hidden_size)
    return NetworkConfig(
        vocabulary_size=vocabulary_size,
        architecture=spec.architecture,
        cell=spec.cell,
        embedding_size=embedding_size,
        hidden_size=hidden_size,
        forward_layers=spec.layers,
        backward_layers=spec.backward_layers,
        gap_hidden_size=embedding_size if spec.architecture == "two_towers" else 0,
    )


def build_peer(config: PeerConfig) -> Peer:
    """Return a network that is not exported, with fresh weights."""
    return Transformer(config) if isinstance(config, TransformerConfig) else KeyboardNetwork(config)


def parameter_count(config: AnyConfig) -> int:
    """Count the weights of a network without allocating them."""
    with torch.device("meta"):
        network = Network(config) if isinstance(config, NetworkConfig) else build_peer(config)
        return sum(parameter.numel() for parameter in network.parameters())


class ReplayRuntime:
    """A peer behind the protocol of model/runtime.py, so that the decoders that serve run over it.

    States, which are also outputs, are the last tokens, oldest first; 0 = none yet. Every
    distribution reads them again, row by row: slow, and independent of the batch.
    """

    name = "torch"

    def __init__(self, network: Peer) -> None:
        self._network = network.eval()
        self.head_rows = 64
        self.sizes = WindowSizes(network.config.vocabulary_size, CONTEXT_TOKENS[type(network)])

    def run_tower(
        self,
        tower: Tower,
        states: Float32Array,
        tokens: Int64Array,
        lengths: Int64Array,
    ) -> tuple[Float32Array, Float32Array]:
        """Append tokens to the states."""
        return append_tokens(states, tokens, lengths)

    @torch.inference_mode()
    def score(self, head: Head, *inputs: npt.NDArray[Any]) -> Float32Array:
        """Return probabilities (N, V) of the next token after the last ones (N, H)."""
        network = self._network
        rows = []
        for context in inputs[0].astype(np.int64):
            tokens = torch.from_numpy(context[context > 0]).unsqueeze(1)
            out, _ = network.run_tower("forward", tokens, network.initial_state("forward", 1))
            features = network.next_features(out[-1])
            logits = F.linear(features, network.embedding.weight, network.output_bias)
            rows.append(mask_next(logits).softmax(1).numpy())
        return np.concatenate(rows)
