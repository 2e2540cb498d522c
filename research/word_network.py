"""The language model of the word benchmarks: an LSTM with the regularisation that made LSTMs good at them.

It shares the recurrent layer with the product's network and nothing else: on a million words dropout decides the
figure, and on a hundred million it hardly matters. After Merity et al. 2017, arXiv:1708.02182 (AWD-LSTM).
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import cast

import torch
from pydantic.dataclasses import dataclass as pydantic_dataclass
from torch import Tensor, nn
from torch.nn import functional as F

from model.network import RecurrentLayer, State, locked_dropout
from training.config import STRICT


@pydantic_dataclass(frozen=True, slots=True, config=STRICT)
class WordNetworkOptions:
    """Sizes and what is dropped in training.

    Attributes:
        embedding_size: width of the tied embedding and of the last layer.
        hidden_size: width of the other layers.
        layers: LSTM layers.
        embedding_dropout: share of words whose vector is 0 in a window (Gal and Ghahramani 2016, arXiv:1512.05287).
        input_dropout, hidden_dropout, output_dropout: locked, on embeddings, between layers, on the last outputs.
        weight_drop: share of recurrent weights.
    """

    embedding_size: int
    hidden_size: int
    layers: int
    embedding_dropout: float = 0.0
    input_dropout: float = 0.0
    hidden_dropout: float = 0.0
    output_dropout: float = 0.0
    weight_drop: float = 0.0

    def __post_init__(self) -> None:
        for name in ("embedding_size", "hidden_size", "layers"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        for name in (
            "embedding_dropout",
            "input_dropout",
            "hidden_dropout",
            "output_dropout",
            "weight_drop",
        ):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(
                    f"{name} is {getattr(self, name)}; it must be at least 0 and below 1"
                )


@dataclass(frozen=True, slots=True)
class WordOutputs:
    """What a window gives.

    Attributes:
        dropped: last outputs after dropout, (T, B, e): what the softmax reads.
        raw: the same before dropout; keys of the neural cache.
        states: after the last step, one (h, c) a layer, detached.
    """

    dropped: Tensor
    raw: Tensor
    states: list[State]


class WordNetwork(nn.Module):
    """LSTM layers between a tied embedding and itself (Press and Wolf 2017, arXiv:1608.05859).

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
        """Zeros: one (h, c) a layer, (rows, width) each."""
        widths = [cast(RecurrentLayer, layer).hidden_size for layer in self.layers]
        zeros = self.output_bias.new_zeros
        return [(zeros(rows, width), zeros(rows, width)) for width in widths]

    def forward(
        self, words: Tensor, states: list[State], dtype: torch.dtype = torch.float32
    ) -> WordOutputs:
        """Read a window: words (T, B) int64, from *states*; layers compute in *dtype*."""
        options = self.options
        vectors = self.embedding(words)
        if self.training and options.embedding_dropout:
            kept = vectors.new_empty(self.embedding.num_embeddings, 1).bernoulli_(
                1 - options.embedding_dropout
            )
            vectors = vectors * kept[words] / (1 - options.embedding_dropout)
        sequence = locked_dropout(vectors.to(dtype), options.input_dropout, self.training)
        raw, after = sequence, []
        for number, (layer, state) in enumerate(zip(self.layers, states, strict=True)):
            raw, new = layer(sequence, state, options.weight_drop)
            after.append(tuple(part.detach().float() for part in new))
            last = number == len(self.layers) - 1
            sequence = locked_dropout(
                raw, options.output_dropout if last else options.hidden_dropout, self.training
            )
        return WordOutputs(sequence, raw, after)

    def logits(self, outputs: Tensor) -> Tensor:
        """Outputs (N, e) to logits over words (N, V), float32."""
        product = F.linear(outputs, self.embedding.weight.to(outputs.dtype))
        return product.float() + self.output_bias
