"""A small Transformer for the comparison with recurrent networks: trained and evaluated, never exported or served.

It answers to what the training loop asks of a recurrent network (``run_tower``, ``next_features``, ``logits``), and to
the runtime protocol by reading its whole context again for every token: right, and slow.
"""

from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.config import ForwardSizes, Tower
from model.errors import UnsupportedError
from model.network import mask_next
from model.runtime import Float32Array, ForwardRuntime, Int64Array, unsupported

# Tokens of context that the runtime keeps; lines of the training batches are no longer than that.
CONTEXT_TOKENS = 128
# Of the rotary position code
ROTARY_BASE = 10_000.0
# Width of an attention head
HEAD_SIZE = 32


@dataclass(frozen=True, slots=True)
class TransformerConfig:
    """Sizes of a Transformer.

    Attributes:
        vocabulary_size: tokens.
        embedding_size: width of the tied embedding.
        hidden_size: width of a block; a multiple of :data:`HEAD_SIZE`.
        layers: blocks.

    Raises:
        ValueError: *hidden_size* is not a multiple.
    """

    vocabulary_size: int
    embedding_size: int
    hidden_size: int
    layers: int

    def __post_init__(self) -> None:
        if self.hidden_size % HEAD_SIZE:
            raise ValueError(f"hidden_size is {self.hidden_size}; give a multiple of {HEAD_SIZE}")


class Block(nn.Module):
    """Causal self-attention and an MLP, each behind a layer norm and added to what came in.

    Vaswani et al. 2017, arXiv:1706.03762; norm before: Xiong et al. 2020, arXiv:2002.04745; rotary positions: Su et al.
    2021, arXiv:2104.09864.
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
        """(B, T, width) to the same; *rotation* is the cosine and sine of every position, (T, HEAD_SIZE / 2) each."""
        B, T, width = inputs.shape
        parts = self.attention_in(self.attention_norm(inputs)).view(
            B, T, 3, width // HEAD_SIZE, HEAD_SIZE
        )
        query, key, value = parts.permute(2, 0, 3, 1, 4)  # (B, heads, T, HEAD_SIZE) each
        read = F.scaled_dot_product_attention(
            _rotate(query, rotation), _rotate(key, rotation), value, is_causal=True
        )
        read = self.attention_out(read.transpose(1, 2).reshape(B, T, width))
        inputs = inputs + F.dropout(read, dropout, self.training)
        mixed = self.mlp_out(F.gelu(self.mlp_in(self.mlp_norm(inputs))))
        return inputs + F.dropout(mixed, dropout, self.training)


class Transformer(nn.Module):
    """A decoder-only Transformer with the recurrent networks' tied embedding, so that only what is between differs.

    Args:
        config: its sizes.
        dropout: on embeddings and on what each half of a block adds, in training mode.
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

    def initial_state(self, tower: Tower, rows: int) -> Tensor:  # noqa: ARG002
        """Nothing is carried from batch to batch: (rows, 0)."""
        return self.output_bias.new_zeros(rows, 0)

    def run_tower(
        self, tower: Tower, tokens: Tensor, states: Tensor, dtype: torch.dtype = torch.float32
    ) -> tuple[Tensor, Tensor]:
        """Read a sequence: tokens (T, B) int64 to outputs (T, B, width) and the states as they came.

        Raises:
            UnsupportedError: the backward tower was asked for.
        """
        if tower != "forward":
            raise UnsupportedError("/text", "this network has no backward tower")
        with torch.autocast(tokens.device.type, torch.bfloat16, enabled=dtype == torch.bfloat16):
            sequence = F.dropout(
                self.widen(self.embedding(tokens.t())), self.dropout, self.training
            )  # (B, T, width)
            rotation = _rotation(len(tokens), tokens.device)
            for block in self.blocks:
                sequence = block(sequence, rotation, self.dropout)
            return self.norm(sequence).transpose(0, 1).to(dtype), states

    def next_features(self, outputs: Tensor) -> Tensor:
        """Project outputs (N, width) to the embedding's width, (N, e)."""
        return cast(Tensor, self.next(outputs))

    def logits(self, features: Tensor, bias: Tensor) -> Tensor:
        """Logits over all tokens, (N, V)."""
        return F.linear(features, self.embedding.weight, bias)


class TransformerRuntime(ForwardRuntime):
    """A Transformer behind the protocol of model/runtime.py, so that the decoders that serve also run over it.

    A state row, and an output row, holds the last tokens read as float32, raised by 1, oldest first, 0 = none yet;
    every distribution reads them anew. Rows are computed one by one, so no answer depends on its batch.

    Args:
        network: put into evaluation mode.

    Attributes:
        sizes: ``hidden_size`` is the context's length.
        head_rows: rows of one head's call.
    """

    def __init__(self, network: Transformer) -> None:
        self._network = network.eval()
        self.head_rows = 64
        self.sizes = ForwardSizes(network.config.vocabulary_size, CONTEXT_TOKENS)

    def advance(
        self, tower: Tower, states: Float32Array, tokens: Int64Array, lengths: Int64Array
    ) -> tuple[Float32Array, Float32Array]:
        """See :meth:`model.runtime.Runtime.advance`.

        Raises:
            UnsupportedError: the backward tower was asked for.
        """
        if tower != "forward":
            raise unsupported("two_towers")
        read = np.concatenate([states, (tokens + 1).astype(np.float32)], axis=1)
        windows = np.lib.stride_tricks.sliding_window_view(read, states.shape[1], axis=1)
        return windows[np.arange(len(states)), lengths].copy(), windows[:, 1:].copy()

    @torch.inference_mode()
    def next_log_probabilities(self, outputs: Float32Array) -> Float32Array:
        """Log-probabilities (N, V) of the next token after contexts (N, CONTEXT_TOKENS)."""
        answers = np.empty((len(outputs), self.sizes.vocabulary_size), dtype=np.float32)
        network = self._network
        for answer, context in zip(answers, outputs.astype(np.int64), strict=True):
            tokens = torch.from_numpy(context[context > 0] - 1).unsqueeze(1)
            out, _ = network.run_tower("forward", tokens, network.initial_state("forward", 1))
            logits = network.logits(network.next_features(out[-1]), network.output_bias)
            answer[:] = mask_next(logits)[0].log_softmax(0).numpy()
        return answers


def _rotation(positions: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Cosines and sines of every position's angles, (positions, HEAD_SIZE / 2) each."""
    frequencies = ROTARY_BASE ** (-torch.arange(0, HEAD_SIZE, 2, device=device) / HEAD_SIZE)
    angles = torch.arange(positions, device=device).unsqueeze(1) * frequencies
    return angles.cos(), angles.sin()


def _rotate(vectors: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """Turn each pair of a head's two halves by its position's angle; (B, heads, T, HEAD_SIZE) to the same."""
    cosine, sine = (part.to(vectors.dtype) for part in rotation)
    first, second = vectors.chunk(2, dim=-1)
    return torch.cat([first * cosine - second * sine, first * sine + second * cosine], dim=-1)
