"""The networks a second time, one row and one step at a time in numpy, as an oracle.

In float64 it is what the formulas say. With ``quantised=True`` it repeats, in float32, the
roundings of the int8 graphs: docs/decisions/0004-int8-per-row.md.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from model.checkpoint import Checkpoint
from model.config import NetworkConfig, Tower
from model.onnx_graphs import read_weights
from tests.fixtures_checkpoint import random_weights

Array = np.ndarray[Any, Any]
Product = Callable[[Array, Array], Array]


class ReferenceNetwork:
    """A network with its weights, for one row at a time."""

    def __init__(
        self, config: NetworkConfig, weights: Mapping[str, Array], *, quantised: bool = False
    ) -> None:
        self.config = config
        self.dtype: type = np.float32 if quantised else np.float64
        self.product: Product = quantised_product if quantised else lambda x, w: w @ x
        self.weights = {name: np.asarray(value, self.dtype) for name, value in weights.items()}

    def run_tower(
        self, tower: Tower, state: Array, tokens: Sequence[int]
    ) -> tuple[Array, list[Array]]:
        """Return the state (S,) after the tokens, and the top layer's h after each."""
        states = state.astype(self.dtype).reshape(
            self.config.layers(tower), self.config.state_parts, self.config.hidden_size
        )
        outputs = []
        for token in tokens:
            x = self.weights["embedding.weight"][token]
            for layer in range(len(states)):
                states[layer] = self._step(f"{tower}_tower.{layer}", x, states[layer])
                x = states[layer][0].copy()
            outputs.append(x)
        return states.reshape(-1), outputs

    def fill(self, tokens: Sequence[int], place: int) -> Array:
        """Return log-probabilities (V,) at *place* of a whole line, by a stacked network."""
        rows = [self.weights["embedding.weight"][token] for token in tokens]
        for layer in range(self.config.forward_layers):
            sides = []
            for name, order in (("forward_tower", rows), ("backward_tower", rows[::-1])):
                state = np.zeros((self.config.state_parts, self.config.hidden_size), self.dtype)
                outputs = []
                for x in order:
                    state = np.array(self._step(f"{name}.{layer}", x, state))
                    outputs.append(state[0])
                sides.append(outputs)
            rows = [np.concatenate(pair) for pair in zip(sides[0], sides[1][::-1], strict=True)]
        return self.score("next", rows[place])

    def _step(self, name: str, x: Array, state: Array) -> list[Array]:
        from_x = self._linear(f"{name}.weight_ih", f"{name}.bias_ih", x)
        from_h = self._linear(f"{name}.weight_hh", f"{name}.bias_hh", state[0])
        if self.config.cell == "rnn_tanh":
            return [np.tanh(from_x + from_h)]
        if self.config.cell == "gru":
            (rx, zx, nx), (rh, zh, nh) = np.split(from_x, 3), np.split(from_h, 3)
            z = sigmoid(zx + zh)
            return [(1 - z) * np.tanh(nx + sigmoid(rx + rh) * nh) + z * state[0]]
        i, f, g, o = np.split(from_x + from_h, 4)
        c = sigmoid(f) * state[1] + sigmoid(i) * np.tanh(g)
        return [sigmoid(o) * np.tanh(c), c]

    def _linear(self, weight: str, bias: str, x: Array) -> Array:
        return self.product(x.astype(self.dtype), self.weights[weight]) + self.weights[bias]

    def score(self, head: str, output: Array) -> Array:
        """Return log-probabilities (V,) of the next or the previous token."""
        features = self._linear(f"{head}.weight", f"{head}.bias", output)
        return self._scores("output_bias", features, masked=5)

    def gap(self, forward: Array, backward: Array | None, position: int, kind: int) -> Array:
        """Return log-probabilities (V,) of a gap's next token; *backward* may be unknown."""
        weights = self.weights
        f = self._linear("next.weight", "next.bias", forward)
        g = weights["unknown_right"]
        if backward is not None:
            g = self._linear("previous.weight", "previous.bias", backward)
        positions, kinds = weights["gap.position.weight"], weights["gap.kind.weight"]
        codes = np.concatenate([positions[min(position, 7)], kinds[kind]])
        size, hidden = len(f), weights["gap.hidden.weight"]
        u = self.product(f, hidden[:, :size]) + self.product(g, hidden[:, size : 2 * size])
        value, gate = np.split(u + hidden[:, 2 * size :] @ codes + weights["gap.hidden.bias"], 2)
        z = self._linear("gap.output.weight", "gap.output.bias", value * sigmoid(gate)) + f + g
        return self._scores("gap_bias", z, masked=5 if position == 0 else 4)

    def _scores(self, bias: str, features: Array, masked: int) -> Array:
        """Return the log-softmax of the logits; minus infinity at the first *masked* tokens."""
        logits = self._linear("embedding.weight", bias, features)
        logits[:masked] = -np.inf
        shifted = logits - logits.max()
        return shifted - np.log(np.exp(shifted).sum())


def open_reference(checkpoint: Checkpoint, *, quantised: bool = False) -> ReferenceNetwork:
    """Return the network of a tiny checkpoint with the float weights that it stores in int8.

    With *quantised*, these are those that it was made of, which the network quantises itself.
    """
    sizes, seed = checkpoint.config.network, checkpoint.training["seed"]
    if quantised:
        return ReferenceNetwork(sizes, random_weights(sizes, seed), quantised=True)
    return ReferenceNetwork(sizes, read_weights(checkpoint.directory, sizes))


def sigmoid(x: Array) -> Array:
    """Return the logistic function of x."""
    return 1 / (1 + np.exp(-x))


def quantised_product(x: Array, weight: Array) -> Array:
    """Return ``weight @ x`` in 8 bits, with one scale for x and one for each row of the weight."""
    row_scale = np.float32(max(np.abs(x).max(), np.float32(1e-30))) / np.float32(127)
    scales = np.maximum(np.abs(weight).max(axis=1), np.float32(1e-35)) / np.float32(127)
    rows = np.rint(x / row_scale).astype(np.int64)
    columns = np.rint(weight / scales[:, None]).astype(np.int64)
    return (columns @ rows).astype(np.float32) * row_scale * scales
