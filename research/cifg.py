"""The keyboard network of Hard et al. 2018 (arXiv:1811.03604), a peer for comparison; not served.

One LSTM layer whose input gate is one minus the forget gate (CIFG, Greff et al. 2015,
arXiv:1503.04069), and whose state is projected to the width of the tied embedding (Sak et al. 2014,
arXiv:1402.1128). The published one has 670 cells and an embedding of 96.
"""

import warnings
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from model.config import Tower
from model.network import locked_dropout
from training.loss import LanguageModel


@dataclass(frozen=True, slots=True)
class KeyboardConfig:
    """Sizes of a keyboard network: ``hidden_size`` cells, projected to ``embedding_size``."""

    vocabulary_size: int
    embedding_size: int = 96
    hidden_size: int = 670


class KeyboardNetwork(LanguageModel):
    """Embedding, one CIFG layer with a recurrent projection, and the embedding again.

    Args:
        config: its sizes.
        dropout: locked, of embeddings and outputs, in training mode.
    """

    def __init__(self, config: KeyboardConfig, dropout: float = 0.0) -> None:
        super().__init__()
        self.config = config
        self.dropout = dropout
        e, cells = config.embedding_size, config.hidden_size
        bound = cells**-0.5
        self.embedding = nn.Embedding(config.vocabulary_size, e)
        nn.init.normal_(self.embedding.weight, std=e**-0.5)
        self.output_bias = nn.Parameter(torch.zeros(config.vocabulary_size))
        # Rows: forget gate, candidate, output gate.
        self.weight_ih = nn.Parameter(torch.empty(3 * cells, e).uniform_(-bound, bound))
        self.weight_hh = nn.Parameter(torch.empty(3 * cells, e).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.zeros(3 * cells))
        nn.init.ones_(self.bias[:cells])  # forget gates start open, as in model/network.py
        self.project = nn.Parameter(torch.empty(e, cells).uniform_(-bound, bound))

    def initial_state(self, tower: Tower, rows: int) -> Tensor:
        """Return zeros, (rows, e + cells): the projected state, then the cells."""
        return self.output_bias.new_zeros(rows, sum(self.project.shape))

    def run_tower(
        self, tower: Tower, tokens: Tensor, states: Tensor, dtype: torch.dtype = torch.float32
    ) -> tuple[Tensor, Tensor]:
        """Read tokens (T, B) from *states*; return outputs (T, B, e) and states (B, e + cells)."""
        sequence = locked_dropout(self.embedding(tokens).to(dtype), self.dropout, self.training)
        parts = torch.split(states, list(self.project.shape), dim=1)
        h, c = (part.to(dtype).unsqueeze(0) for part in parts)
        weights = [_coupled(each) for each in (self.weight_ih, self.weight_hh, self.bias)]
        weights += [torch.zeros_like(weights[2]), self.project]
        weights = [weight.to(dtype) for weight in weights]
        with warnings.catch_warnings():
            # torch notes that LSTMs with projections run on another kernel.
            warnings.filterwarnings("ignore", "LSTM with projections")
            out, h, c = torch._VF.lstm(
                sequence, [h, c], weights, True, 1, 0.0, self.training, False, False
            )
        after = torch.cat([h[0], c[0]], dim=1).float()
        return locked_dropout(out, self.dropout, self.training), after

    def next_features(self, outputs: Tensor) -> Tensor:
        """Return outputs (N, e) as they are: they have the width of the embedding."""
        return outputs


def _coupled(weights: Tensor) -> Tensor:
    """Return the four gates of an LSTM: the input gate is sigmoid(-x) if the forget gate is
    sigmoid(x).
    """
    forget, candidate, output = weights.chunk(3)
    return torch.cat([-forget, forget, candidate, output])
