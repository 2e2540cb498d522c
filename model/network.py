"""The recurrent networks in torch: towers and heads. Not their training, nor decoding.

From top to bottom: one layer, then one class for the three architectures. Shapes use B rows, T
steps, H hidden units, e embedding width, V tokens. Sequences are time-major, as torch's fused
kernels expect.

Two towers: a forward tower reads ``<s> x1 x2 …``, a backward tower ``</s> xT … xj``. They meet only
in the gap head, so either state is exact after any prefix and can be cached.
``stacked_bidirectional`` is the tutorial's deep bidirectional network. Its layers mix both
directions, so a position must be masked before it can be predicted.
"""

import warnings
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.config import GAP_CODE_SIZE, GAP_POSITIONS, GATES, Cell, NetworkConfig, Tower
from model.tokenizer import END_OF_GAP, NEVER_PREDICTED

State = tuple[Tensor, ...]  # (h, c) for an LSTM, (h,) otherwise; each (B, H)

# cuDNN copies the weights at every call, which costs little next to a window of text.
warnings.filterwarnings(
    "ignore", message="RNN module weights are not part of single contiguous chunk of memory"
)


class RecurrentLayer(nn.Module):
    """One layer of an Elman RNN, a GRU or an LSTM, over time.

    The raw weights are the parameters, and torch's kernel gets them at every call. So dropping
    recurrent weights is one dropout before the call; no module can silently keep the old weights.

    Elman 1990; Cho et al. 2014, arXiv:1406.1078; Hochreiter and Schmidhuber 1997; weight drop:
    Merity et al. 2017, arXiv:1708.02182.
    """

    def __init__(self, cell: Cell, input_size: int, hidden_size: int) -> None:
        super().__init__()
        gates = GATES[cell] * hidden_size
        self.cell = cell
        self.hidden_size = hidden_size
        self.weight_ih = nn.Parameter(torch.empty(gates, input_size))
        self.weight_hh = nn.Parameter(torch.empty(gates, hidden_size))
        self.bias_ih = nn.Parameter(torch.zeros(gates))
        self.bias_hh = nn.Parameter(torch.zeros(gates))
        bound = hidden_size**-0.5
        nn.init.uniform_(self.weight_ih, -bound, bound)
        nn.init.uniform_(self.weight_hh, -bound, bound)
        if cell == "lstm":
            # A forget gate that starts open lets gradients through (Jozefowicz et al. 2015).
            nn.init.ones_(self.bias_ih[hidden_size : 2 * hidden_size])

    def forward(
        self, inputs: Tensor, state: State, weight_drop: float = 0.0
    ) -> tuple[Tensor, State]:
        """Run the layer over a sequence (T, B, input size), in whose dtype it computes.

        *weight_drop* is the share of recurrent weights set to 0 for this call, in training only.
        Return outputs (T, B, H) and the state after the last step.
        """
        dtype = inputs.dtype
        recurrent = F.dropout(self.weight_hh, weight_drop, self.training)
        weights = [w.to(dtype) for w in (self.weight_ih, recurrent, self.bias_ih, self.bias_hh)]
        # cuDNN refuses a slice of flat states.
        parts = [part.to(dtype).contiguous().unsqueeze(0) for part in state]
        # Everything has its dtype already; on a GPU autocast would compute in float16.
        with torch.autocast("cuda", enabled=False):
            if self.cell == "lstm":
                out, h, c = torch._VF.lstm(
                    inputs, parts, weights, True, 1, 0.0, self.training, False, False
                )
                return out, (h[0], c[0])
            kernel = torch._VF.gru if self.cell == "gru" else torch._VF.rnn_tanh
            out, h = kernel(inputs, parts[0], weights, True, 1, 0.0, self.training, False, False)
            return out, (h[0],)


def locked_dropout(sequence: Tensor, probability: float, training: bool) -> Tensor:
    """Drop the same units at every step of a (T, B, width) sequence.

    Gal and Ghahramani 2016, arXiv:1512.05287.
    """
    if not training or probability == 0:
        return sequence
    mask = torch.empty_like(sequence[:1]).bernoulli_(1 - probability) / (1 - probability)
    return sequence * mask


class GapHead(nn.Module):
    """Predicts the tokens of a gap from both sides: a gated MLP over the two towers' features.

    ``z = W2 (u * sigmoid(v)) + b2 + f + g`` with ``u, v = W1 [f; g; position; kind] + b1`` (gated
    linear unit: Dauphin et al. 2017, arXiv:1612.08083); logits are ``E z + b`` over the tied
    embedding.
    """

    def __init__(self, embedding_size: int, hidden_size: int) -> None:
        super().__init__()
        self.position = nn.Embedding(GAP_POSITIONS, GAP_CODE_SIZE)
        self.kind = nn.Embedding(3, GAP_CODE_SIZE)
        self.hidden = nn.Linear(2 * embedding_size + 2 * GAP_CODE_SIZE, 2 * hidden_size)
        self.output = nn.Linear(hidden_size, embedding_size)

    def forward(self, left: Tensor, right: Tensor, positions: Tensor, kinds: Tensor) -> Tensor:
        """Combine the towers' features (N, e), positions (N,) and kinds (N,) to (N, e).

        *right* may be the learned "unknown" vector; positions above 7 count as 7.
        """
        codes = [self.position(positions.clamp(max=GAP_POSITIONS - 1)), self.kind(kinds)]
        mixed = torch.cat([left, right, *(code.to(left.dtype) for code in codes)], dim=1)
        return cast(Tensor, self.output(F.glu(self.hidden(mixed), dim=1)) + left + right)


class Network(nn.Module):
    """A recurrent language model of any of the three architectures.

    In training mode *dropout* is a locked dropout on embeddings, between layers and on outputs, and
    *weight_drop* the share of recurrent weights dropped per call.

    Tied input and output embedding: Press and Wolf 2017, arXiv:1608.05859. Two towers joined by an
    MLP: after context2vec (Melamud et al. 2016).
    """

    def __init__(
        self, config: NetworkConfig, dropout: float = 0.0, weight_drop: float = 0.0
    ) -> None:
        super().__init__()
        self.config = config
        self.dropout = dropout
        self.weight_drop = weight_drop
        e, hidden = config.embedding_size, config.hidden_size
        stacked = config.architecture == "stacked_bidirectional"
        width = 2 * hidden if stacked else hidden  # of a layer's outputs
        self.embedding = nn.Embedding(config.vocabulary_size, e)
        nn.init.normal_(self.embedding.weight, std=e**-0.5)
        self.output_bias = nn.Parameter(torch.zeros(config.vocabulary_size))

        def tower(layers: int) -> nn.ModuleList:
            return nn.ModuleList(
                RecurrentLayer(config.cell, width if n else e, hidden) for n in range(layers)
            )

        self.forward_tower = tower(config.forward_layers)
        self.next = nn.Linear(width, e)
        if stacked:
            self.backward_tower = tower(config.forward_layers)
        if config.architecture == "two_towers":
            self.backward_tower = tower(config.backward_layers)
            self.previous = nn.Linear(hidden, e)
            self.gap = GapHead(e, config.gap_hidden_size)
            self.gap_bias = nn.Parameter(torch.zeros(config.vocabulary_size))
            self.unknown_right = nn.Parameter(torch.zeros(e))

    def initial_state(self, tower: Tower, rows: int) -> Tensor:
        """Return the flat states before the first token, (rows, S) float32: zeros."""
        return self.output_bias.new_zeros(rows, self.config.state_size(tower))

    def run_tower(
        self, tower: Tower, tokens: Tensor, states: Tensor, dtype: torch.dtype = torch.float32
    ) -> tuple[Tensor, Tensor]:
        """Read tokens (T, B), reversed for the backward tower, from flat states (B, S).

        States are float32, laid out layer by layer, h before c. Return outputs of the top layer
        (T, B, H), computed in *dtype*, and the last states (B, S).
        """
        layers = self.forward_tower if tower == "forward" else self.backward_tower
        sequence = self._embed(tokens, dtype)
        parts = torch.split(states, self.config.hidden_size, dim=1)
        kept: list[Tensor] = []
        per_layer = self.config.state_parts
        for n, layer in enumerate(layers):
            sequence, state = layer(
                sequence, parts[n * per_layer : (n + 1) * per_layer], self.weight_drop
            )
            sequence = locked_dropout(sequence, self.dropout, self.training)
            kept += [part.float() for part in state]
        return sequence, torch.cat(kept, dim=1)

    def run_stacked(
        self, tokens: Tensor, lengths: Tensor, dtype: torch.dtype = torch.float32
    ) -> Tensor:
        """Read whole right-padded lines (T, B) of *lengths* (B,) with the stacked network.

        Layer 2 sees both neighbours of a position, and so the position itself. Only positions that
        hold ``<blank>`` may be predicted from the outputs, (T, B, 2H) in *dtype*.
        """
        T, B = tokens.shape
        steps = torch.arange(T, device=tokens.device).unsqueeze(1)  # (T, 1)
        # Reverses each row within its own length and keeps the padding; it is its own inverse.
        mirror = torch.where(steps < lengths, lengths - 1 - steps, steps)  # (T, B)
        sequence = self._embed(tokens, dtype)
        zeros = tuple(
            sequence.new_zeros(B, self.config.hidden_size) for _ in range(self.config.state_parts)
        )
        for ahead, back in zip(self.forward_tower, self.backward_tower, strict=True):
            left, _ = ahead(sequence, zeros, self.weight_drop)
            right, _ = back(_reorder(sequence, mirror), zeros, self.weight_drop)
            sequence = torch.cat([left, _reorder(right, mirror)], dim=2)
            sequence = locked_dropout(sequence, self.dropout, self.training)
        return sequence

    def _embed(self, tokens: Tensor, dtype: torch.dtype) -> Tensor:
        return locked_dropout(self.embedding(tokens).to(dtype), self.dropout, self.training)

    def next_features(self, outputs: Tensor) -> Tensor:
        """Project forward outputs (N, H) to the embedding's width, (N, e)."""
        return cast(Tensor, self.next(outputs))

    def gap_features(
        self, forward: Tensor, backward: Tensor, known: Tensor, positions: Tensor, kinds: Tensor
    ) -> Tensor:
        """Return features (N, e) of the inputs of :meth:`model.runtime.Runtime.score`.

        A learned vector replaces backward features that are not known.
        """
        right = torch.where(known.unsqueeze(1), self.previous(backward), self.unknown_right)
        return cast(Tensor, self.gap(self.next(forward), right, positions, kinds))


def mask_next(logits: Tensor) -> Tensor:
    """Set controls and ``<eog>``, which are never next, to minus infinity. (..., V) to (..., V)."""
    masked = mask_controls(logits)
    masked[..., END_OF_GAP] = float("-inf")
    return masked


def mask_controls(logits: Tensor) -> Tensor:
    """Set controls to minus infinity, but not ``<eog>``. (..., V) to (..., V)."""
    masked = logits.clone()
    masked[..., list(NEVER_PREDICTED)] = float("-inf")
    return masked


def _reorder(sequence: Tensor, order: Tensor) -> Tensor:
    return sequence.gather(0, order.unsqueeze(2).expand_as(sequence))
