"""The published keyboard network, a peer in the comparison: trained and evaluated, never exported or served.

Hard et al. 2018, arXiv:1811.03604: one LSTM layer whose input gate is what the forget gate leaves (CIFG), its state
projected to the width of a tied embedding; 670 units and 96 numbers a word there. It answers to what the training loop
asks of a network, and to the runtime protocol a step at a time.
"""

import warnings
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.config import ForwardSizes, Tower
from model.network import locked_dropout, mask_next
from model.runtime import Float32Array, ForwardRuntime, Int64Array, unsupported


@dataclass(frozen=True, slots=True)
class KeyboardConfig:
    """Sizes of a keyboard network: ``hidden_size`` cells, projected to ``embedding_size``."""

    vocabulary_size: int
    embedding_size: int = 96
    hidden_size: int = 670


class KeyboardNetwork(nn.Module):
    """Embedding, one CIFG layer with a recurrent projection, and the embedding again.

    Args:
        config: its sizes.
        dropout: locked, on embeddings and outputs, in training mode.

    CIFG: Greff et al. 2015, arXiv:1503.04069. Projection: Sak et al. 2014, arXiv:1402.1128.
    """

    def __init__(self, config: KeyboardConfig, dropout: float = 0.0) -> None:
        super().__init__()
        self.config = config
        self.dropout = dropout
        e, cells = config.embedding_size, config.hidden_size
        self.embedding = nn.Embedding(config.vocabulary_size, e)
        nn.init.normal_(self.embedding.weight, std=e**-0.5)
        self.output_bias = nn.Parameter(torch.zeros(config.vocabulary_size))
        # Forget gate, candidate and output gate.
        self.weight_ih = nn.Parameter(
            torch.empty(3 * cells, e).uniform_(-(cells**-0.5), cells**-0.5)
        )
        self.weight_hh = nn.Parameter(
            torch.empty(3 * cells, e).uniform_(-(cells**-0.5), cells**-0.5)
        )
        self.bias = nn.Parameter(torch.zeros(3 * cells))
        nn.init.ones_(self.bias[:cells])  # as the recurrent layers of model/network.py begin
        self.project = nn.Parameter(torch.empty(e, cells).uniform_(-(cells**-0.5), cells**-0.5))

    def initial_state(self, tower: Tower, rows: int) -> Tensor:  # noqa: ARG002
        """Zeros, (rows, e + cells) float32: the projected state, then the cell."""
        return self.output_bias.new_zeros(
            rows, self.config.embedding_size + self.config.hidden_size
        )

    def run_tower(
        self, tower: Tower, tokens: Tensor, states: Tensor, dtype: torch.dtype = torch.float32
    ) -> tuple[Tensor, Tensor]:
        """Read a sequence: tokens (T, B) int64 to projected states (T, B, e) in *dtype*, and states (B, e + cells).

        Raises:
            UnsupportedError: the backward tower was asked for.
        """
        if tower != "forward":
            raise unsupported("two_towers")
        sequence = locked_dropout(self.embedding(tokens).to(dtype), self.dropout, self.training)
        h, c = (
            part.to(dtype).unsqueeze(0)
            for part in torch.split(states, list(self.project.shape), dim=1)
        )
        weights = [_coupled(self.weight_ih), _coupled(self.weight_hh), _coupled(self.bias)]
        weights += [torch.zeros_like(weights[2]), self.project]
        with warnings.catch_warnings():
            warnings.filterwarnings(
                "ignore", "LSTM with projections"
            )  # are computed by another kernel, which is well
            out, h, c = torch._VF.lstm(
                sequence,
                [h, c],
                [weight.to(dtype) for weight in weights],
                True,
                1,
                0.0,
                self.training,
                False,
                False,
            )
        after = torch.cat([h[0], c[0]], dim=1).float()
        return locked_dropout(out, self.dropout, self.training), after

    def next_features(self, outputs: Tensor) -> Tensor:
        """Outputs are as wide as the embedding already: (N, e) to the same."""
        return outputs

    def logits(self, features: Tensor, bias: Tensor) -> Tensor:
        """Logits over all tokens, (N, V)."""
        return F.linear(features, self.embedding.weight, bias)


def _coupled(weights: Tensor) -> Tensor:
    """An LSTM's gates (input, forget, candidate, output) of the three: sigma(-x) is what sigma(x) leaves of 1."""
    forget, candidate, output = weights.chunk(3)
    return torch.cat([-forget, forget, candidate, output])


class KeyboardRuntime(ForwardRuntime):
    """A keyboard network behind the protocol of model/runtime.py. Outputs are whole states, of which heads read h.

    Rows are computed one by one, so no answer depends on its batch.

    Args:
        network: put into evaluation mode.

    Attributes:
        sizes: outputs are as wide as states.
        head_rows: rows of one head's call.
    """

    def __init__(self, network: KeyboardNetwork) -> None:
        self._network = network.eval()
        self.head_rows = 64
        size = network.config.embedding_size + network.config.hidden_size
        self.sizes = ForwardSizes(network.config.vocabulary_size, size)

    @torch.inference_mode()
    def advance(
        self, tower: Tower, states: Float32Array, tokens: Int64Array, lengths: Int64Array
    ) -> tuple[Float32Array, Float32Array]:
        """See :meth:`model.runtime.Runtime.advance`.

        Raises:
            UnsupportedError: the backward tower was asked for.
        """
        after = states.copy()
        outputs = np.zeros((*tokens.shape, states.shape[1]), dtype=np.float32)
        for row, length in enumerate(lengths.tolist()):
            for step in range(length):
                token = torch.tensor([[int(tokens[row, step])]])
                _, state = self._network.run_tower(
                    tower, token, torch.from_numpy(after[row : row + 1])
                )
                outputs[row, step] = after[row] = state[0].numpy()
        return after, outputs

    @torch.inference_mode()
    def next_log_probabilities(self, outputs: Float32Array) -> Float32Array:
        """Log-probabilities (N, V) of the next token after states (N, e + cells)."""
        network = self._network
        features = torch.from_numpy(outputs[:, : network.config.embedding_size])
        rows = [network.logits(row.unsqueeze(0), network.output_bias) for row in features]
        return np.concatenate([mask_next(row).log_softmax(1).numpy() for row in rows])
