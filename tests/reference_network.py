"""The networks written a second time, one row and one step at a time in numpy: an oracle that shares no code with them.

In float64 it is what the formulas say. With ``quantised=True`` it follows, in float32, the roundings that the int8
graphs are meant to make: docs/decisions/0004-int8-per-row.md.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from model.config import NetworkConfig

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
        self.weights = {
            name: np.asarray(value, dtype=self.dtype) for name, value in weights.items()
        }

    def run_tower(
        self, tower: str, state: Array, tokens: Sequence[int]
    ) -> tuple[Array, list[Array]]:
        """State (S,) after the tokens, and the top layer's h after each."""
        parts = state.astype(self.dtype).reshape(-1, self.config.hidden_size).copy()
        outputs = []
        for token in tokens:
            x = self.weights["embedding.weight"][token]
            for layer in range(self.config.layers(tower)):  # type: ignore[arg-type]
                first = layer * self.config.state_parts
                new = self._step(
                    f"{tower}_tower.{layer}", x, parts[first : first + self.config.state_parts]
                )
                parts[first : first + self.config.state_parts] = new
                x = new[0]
            outputs.append(x)
        return parts.reshape(-1), outputs

    def fill(self, tokens: Sequence[int], place: int) -> Array:
        """Log-probabilities (V,) of what stands at *place* of a whole line, by the stacked bidirectional network."""
        rows = [self.weights["embedding.weight"][token] for token in tokens]
        for layer in range(self.config.forward_layers):
            left = self._layer(f"forward_tower.{layer}", rows)
            right = self._layer(f"backward_tower.{layer}", rows[::-1])[::-1]
            rows = [np.concatenate(pair) for pair in zip(left, right, strict=True)]
        return self.next(rows[place])

    def _layer(self, name: str, rows: Sequence[Array]) -> list[Array]:
        parts = np.zeros((self.config.state_parts, self.config.hidden_size), dtype=self.dtype)
        outputs = []
        for row in rows:
            parts = np.array(self._step(name, row, parts))
            outputs.append(parts[0])
        return outputs

    def _step(self, name: str, x: Array, state: Array) -> list[Array]:
        from_x = (
            self.product(x, self.weights[f"{name}.weight_ih"]) + self.weights[f"{name}.bias_ih"]
        )
        from_h = (
            self.product(state[0], self.weights[f"{name}.weight_hh"])
            + self.weights[f"{name}.bias_hh"]
        )
        if self.config.cell == "rnn_tanh":
            return [np.tanh(from_x + from_h)]
        if self.config.cell == "gru":
            (rx, zx, nx), (rh, zh, nh) = np.split(from_x, 3), np.split(from_h, 3)
            z = sigmoid(zx + zh)
            return [(1 - z) * np.tanh(nx + sigmoid(rx + rh) * nh) + z * state[0]]
        i, f, g, o = np.split(from_x + from_h, 4)
        c = sigmoid(f) * state[1] + sigmoid(i) * np.tanh(g)
        return [sigmoid(o) * np.tanh(c), c]

    def next(self, output: Array) -> Array:
        """Log-probabilities (V,) of the next token."""
        return self._directed("next", output)

    def previous(self, output: Array) -> Array:
        """Log-probabilities (V,) of the previous token."""
        return self._directed("previous", output)

    def _feature(self, name: str, output: Array) -> Array:
        weights = self.weights
        return (
            self.product(output.astype(self.dtype), weights[f"{name}.weight"])
            + weights[f"{name}.bias"]
        )

    def _directed(self, name: str, output: Array) -> Array:
        features = self._feature(name, output)
        logits = (
            self.product(features, self.weights["embedding.weight"]) + self.weights["output_bias"]
        )
        return log_softmax(logits, masked=[0, 1, 2, 3, 4])

    def gap(self, forward: Array, backward: Array | None, position: int, kind: int) -> Array:
        """Log-probabilities (V,) of a gap's next token or of its end; no *backward*: right side unknown."""
        weights = self.weights
        f = self._feature("next", forward)
        g = weights["unknown_right"] if backward is None else self._feature("previous", backward)
        codes = np.concatenate(
            [weights["gap.position.weight"][min(position, 7)], weights["gap.kind.weight"][kind]]
        )
        size, hidden = len(f), weights["gap.hidden.weight"]
        u = self.product(f, hidden[:, :size]) + self.product(g, hidden[:, size : 2 * size])
        u += hidden[:, 2 * size :] @ codes + weights["gap.hidden.bias"]
        value, gate = np.split(u, 2)
        z = (
            self.product(value * sigmoid(gate), weights["gap.output.weight"])
            + weights["gap.output.bias"]
            + f
            + g
        )
        logits = self.product(z, weights["embedding.weight"]) + weights["gap_bias"]
        return log_softmax(logits, masked=[0, 1, 2, 3, 4] if position == 0 else [0, 1, 2, 3])


def sigmoid(x: Array) -> Array:
    """The logistic function."""
    return 1 / (1 + np.exp(-x))


def log_softmax(logits: Array, masked: Sequence[int]) -> Array:
    """Logarithm of the softmax over the tokens that are not masked; minus infinity at those that are."""
    logits = logits.copy()
    logits[list(masked)] = -np.inf
    shifted = logits - logits.max()
    return shifted - np.log(np.exp(shifted).sum())


def quantised_product(x: Array, weight: Array) -> Array:
    """``weight @ x`` with x in 8 bits by its own scale, and each row of the weight by its own."""
    row_scale = np.float32(max(np.abs(x).max(), np.float32(1e-30))) / np.float32(127)
    scales = np.maximum(np.abs(weight).max(axis=1), np.float32(1e-35)) / np.float32(127)
    rows = np.rint(x / row_scale).astype(np.int64)
    columns = np.rint(weight / scales[:, None]).astype(np.int64)
    return (columns @ rows).astype(np.float32) * row_scale * scales
