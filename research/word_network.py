"""The LSTM of the word benchmarks, with the regularisation of AWD-LSTM (arXiv:1708.02182).

It shares the recurrent layer with the product's network and nothing else. Dropout decides the
result on a million words and matters little on a hundred million.
"""

from itertools import pairwise
from typing import cast

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor, nn
from torch.nn import functional as F

from model.config import STRICT
from model.network import RecurrentLayer, State, locked_dropout
from training.config import ShareBelowOne, Size


@dataclass(frozen=True, slots=True, config=STRICT)
class WordNetworkOptions:
    """Sizes, and what training drops.

    Attributes:
        embedding_size: width of the tied embedding and of the last layer.
        hidden_size: width of the other layers.
        layers: LSTM layers.
        embedding_dropout: share of words whose vector is 0 in a window (arXiv:1512.05287).
        input_dropout, hidden_dropout, output_dropout: locked dropout of embeddings, between layers,
            and of the last outputs.
        weight_drop: share of recurrent weights.
    """

    embedding_size: Size
    hidden_size: Size
    layers: Size
    embedding_dropout: ShareBelowOne = 0.0
    input_dropout: ShareBelowOne = 0.0
    hidden_dropout: ShareBelowOne = 0.0
    output_dropout: ShareBelowOne = 0.0
    weight_drop: ShareBelowOne = 0.0


class WordNetwork(nn.Module):
    """LSTM layers whose output weights are the embedding (Press and Wolf 2017, arXiv:1608.05859).

    Args:
        words: size of the vocabulary.
        options: sizes and dropout.
    """

    def __init__(self, words: int, options: WordNetworkOptions) -> None:
        super().__init__()
        self.options = options
        e = options.embedding_size
        widths = [e, *[options.hidden_size] * (options.layers - 1), e]
        self.embedding = nn.Embedding(words, e)
        nn.init.uniform_(self.embedding.weight, -0.1, 0.1)
        self.output_bias = nn.Parameter(torch.zeros(words))
        self.layers = nn.ModuleList(
            RecurrentLayer("lstm", before, after) for before, after in pairwise(widths)
        )

    def initial_states(self, rows: int) -> list[State]:
        """Return zeros: one (h, c) per layer, (rows, width) each."""
        widths = [cast(RecurrentLayer, layer).hidden_size for layer in self.layers]
        zeros = self.output_bias.new_zeros
        return [(zeros(rows, width), zeros(rows, width)) for width in widths]

    def forward(
        self, words: Tensor, states: list[State], dtype: torch.dtype = torch.float32
    ) -> tuple[Tensor, Tensor, list[State]]:
        """Read a window of words (T, B) int64 from *states*; layers compute in *dtype*.

        Returns:
            The last outputs (T, B, e) after dropout, which the softmax reads, and before it, which
            the neural cache compares; states after the last step, detached.
        """
        options = self.options
        vectors = self.embedding(words)
        if self.training and options.embedding_dropout:
            keep = 1 - options.embedding_dropout
            mask = vectors.new_empty(self.embedding.num_embeddings, 1).bernoulli_(keep)
            vectors = vectors * mask[words] / keep
        sequence = locked_dropout(vectors.to(dtype), options.input_dropout, self.training)
        raw, after = sequence, []
        for number, (layer, state) in enumerate(zip(self.layers, states, strict=True), start=1):
            raw, new = layer(sequence, state, options.weight_drop)
            after.append(tuple(part.detach().float() for part in new))
            last = number == len(self.layers)
            share = options.output_dropout if last else options.hidden_dropout
            sequence = locked_dropout(raw, share, self.training)
        return sequence, raw, after

    def logits(self, outputs: Tensor) -> Tensor:
        """Map outputs (N, e) to logits of all words (N, V), float32."""
        product = F.linear(outputs, self.embedding.weight.to(outputs.dtype))
        return product.float() + self.output_bias
