"""A small decoder-only Transformer, a peer for comparison with recurrent networks; not served."""

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.config import Tower
from training.loss import LanguageModel

HEAD_SIZE = 32
# Base of the rotary position code.
ROTARY_BASE = 10_000.0


@dataclass(frozen=True, slots=True)
class TransformerConfig:
    """Sizes of a Transformer.

    Attributes:
        vocabulary_size: tokens.
        embedding_size: width of the tied embedding.
        hidden_size: width of a block; a multiple of :data:`HEAD_SIZE`.
        layers: blocks.
    """

    vocabulary_size: int
    embedding_size: int
    hidden_size: int
    layers: int


class Block(nn.Module):
    """Causal self-attention and an MLP, each after a layer norm and added to its input.

    Vaswani et al. 2017, arXiv:1706.03762; norm before: Xiong et al. 2020, arXiv:2002.04745; rotary
    positions: Su et al. 2021, arXiv:2104.09864.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.attention_in = nn.Linear(width, 3 * width)
        self.attention_out = nn.Linear(width, width)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp_in = nn.Linear(width, 4 * width)
        self.mlp_out = nn.Linear(4 * width, width)

    def forward(self, inputs: Tensor, rotation: tuple[Tensor, Tensor], dropout: float) -> Tensor:
        """Map (B, T, width) to the same; *rotation* is cosine and sine, (T, HEAD_SIZE / 2)."""
        B, T, width = inputs.shape
        parts = self.attention_in(self.attention_norm(inputs))
        parts = parts.view(B, T, 3, width // HEAD_SIZE, HEAD_SIZE)
        query, key, value = parts.permute(2, 0, 3, 1, 4)  # (B, heads, T, HEAD_SIZE) each
        query, key = _rotate(query, rotation), _rotate(key, rotation)
        read = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        read = self.attention_out(read.transpose(1, 2).reshape(B, T, width))
        inputs = inputs + F.dropout(read, dropout, self.training)
        mixed = self.mlp_out(F.gelu(self.mlp_in(self.mlp_norm(inputs))))
        return inputs + F.dropout(mixed, dropout, self.training)


class Transformer(LanguageModel):
    """Blocks between the tied embedding that the recurrent networks have, too.

    Args:
        config: its sizes.
        dropout: of embeddings and of what each half of a block adds, in training mode.
    """

    def __init__(self, config: TransformerConfig, dropout: float = 0.0) -> None:
        super().__init__()
        self.config = config
        self.dropout = dropout
        e, width = config.embedding_size, config.hidden_size
        self.embedding = nn.Embedding(config.vocabulary_size, e)
        nn.init.normal_(self.embedding.weight, std=e**-0.5)
        self.output_bias = nn.Parameter(torch.zeros(config.vocabulary_size))
        self.widen = nn.Linear(e, width)
        self.blocks = nn.ModuleList(Block(width) for _ in range(config.layers))
        self.norm = nn.LayerNorm(width)
        self.next = nn.Linear(width, e)

    def initial_state(self, tower: Tower, rows: int) -> Tensor:
        """Return an empty state, (rows, 0): nothing is carried from batch to batch."""
        return self.output_bias.new_zeros(rows, 0)

    def run_tower(
        self, tower: Tower, tokens: Tensor, states: Tensor, dtype: torch.dtype = torch.float32
    ) -> tuple[Tensor, Tensor]:
        """Read tokens (T, B); return outputs (T, B, width) and *states* unchanged."""
        with torch.autocast(tokens.device.type, torch.bfloat16, enabled=dtype == torch.bfloat16):
            vectors = self.widen(self.embedding(tokens.t()))  # (B, T, width)
            sequence = F.dropout(vectors, self.dropout, self.training)
            rotation = _rotation(len(tokens), tokens.device)
            for block in self.blocks:
                sequence = block(sequence, rotation, self.dropout)
            return self.norm(sequence).transpose(0, 1).to(dtype), states

    def next_features(self, outputs: Tensor) -> Tensor:
        """Project outputs (N, width) to the width of the embedding, (N, e)."""
        return cast(Tensor, self.next(outputs))


def _rotation(positions: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return cosine and sine of every position's angles, (positions, HEAD_SIZE / 2) each."""
    frequencies = ROTARY_BASE ** (-torch.arange(0, HEAD_SIZE, 2, device=device) / HEAD_SIZE)
    angles = torch.arange(positions, device=device).unsqueeze(1) * frequencies
    return angles.cos(), angles.sin()


def _rotate(vectors: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """Rotate pairs of a head's halves by the angle of their position, (B, heads, T, HEAD_SIZE)."""
    cosine, sine = (part.to(vectors.dtype) for part in rotation)
    first, second = vectors.chunk(2, dim=-1)
    return torch.cat([first * cosine - second * sine, first * sine + second * cosine], dim=-1)
