"""The runtime of LSTM networks on CPUs with AVX-512 VNNI or AMX, by the native library.

The arithmetic is that of the graphs. States are bit for bit those of model/onnx_runtime.py;
probabilities differ by rounding only.
"""

import ctypes
from pathlib import Path
from typing import Any, get_args

import numpy as np
import numpy.typing as npt

from model.checkpoint import EXPORT_AGAIN, WEIGHTS
from model.config import NetworkConfig, Tower
from model.errors import CheckpointError
from model.native import library as native
from model.native.library import BYTE, FLOAT, INT8, INT32, INT64, address
from model.onnx_graphs import read_tensors
from model.runtime import Float32Array, Head, Int64Array

HEADS = ("next", "previous", "gap")
LANES = 16  # sizes are multiples of it


def suits(network: NetworkConfig) -> bool:
    """Return True if this CPU and the sizes of a network are those that the library is made for."""
    sizes = [network.hidden_size, network.embedding_size, network.vocabulary_size]
    if network.architecture == "two_towers":
        sizes.append(network.gap_hidden_size)
    return (
        network.cell == "lstm"
        and network.architecture != "stacked_bidirectional"
        and not any(size % LANES for size in sizes)
        and bool(native.network_library().lacuna_network_supported())
    )


class NativeRuntime:
    """Runs a network; see :class:`model.runtime.Runtime`.

    Raises:
        CheckpointError: the weights are missing, belong to another network, or are not finite.
    """

    name = "native"

    def __init__(self, directory: Path, sizes: NetworkConfig, use_amx: bool = True) -> None:
        self.sizes = sizes
        self.head_rows = max(1, 1024 * 1024 // sizes.vocabulary_size)  # as of OnnxRuntime
        self._kept: list[Any] = []  # arrays whose addresses the library has
        self._tensors, _ = read_tensors(directory, sizes)
        self._path = directory / WEIGHTS
        self._network = self._describe()
        self._tensors = {}
        self._address = ctypes.addressof(self._network)
        self._library = native.network_library()
        self._network.use_amx = use_amx and self._library.lacuna_network_supported() > 1

    def run_tower(
        self, tower: Tower, states: Float32Array, tokens: Int64Array, lengths: Int64Array
    ) -> tuple[Float32Array, Float32Array]:
        """See :meth:`model.runtime.Runtime.run_tower`."""
        count, steps = tokens.shape
        sizes = self.sizes
        if states.shape != (count, sizes.state_size(tower)) or lengths.shape != (count,):
            raise ValueError("states, tokens and lengths are of different rows")
        states = np.array(states, dtype=np.float32, order="C")
        tokens, lengths = (np.ascontiguousarray(each, np.int64) for each in (tokens, lengths))
        outputs = np.empty((count, steps, sizes.hidden_size), dtype=np.float32)
        space = np.empty(
            self._library.lacuna_tower_bytes(self._address, count, steps), dtype=np.uint8
        )
        if self._library.lacuna_run_tower(
            *(self._address, tower == "backward", count, steps),
            *(address(states, FLOAT), address(tokens, INT64), address(lengths, INT64)),
            *(address(outputs, FLOAT), address(space, BYTE)),
        ):
            raise ValueError(f"a token is not in the vocabulary, or a length exceeds {steps} steps")
        return states, outputs

    def score(self, head: Head, *inputs: npt.NDArray[Any]) -> Float32Array:
        """See :meth:`model.runtime.Runtime.score`."""
        kinds = np.float32, np.float32, np.uint8, np.int64, np.int64
        outputs, *others = (
            np.ascontiguousarray(each, kind) for each, kind in zip(inputs, kinds, strict=False)
        )
        count, sizes = len(outputs), self.sizes
        if outputs.shape != (count, sizes.hidden_size) or any(
            len(each) != count for each in others
        ):
            raise ValueError("inputs are of different rows")
        gap = None
        if head == "gap":
            addresses = map(address, others, (FLOAT, BYTE, INT64, INT64))
            given = native.GapInputs(*addresses)
            gap = ctypes.addressof(given)
        rows = np.empty((count, sizes.vocabulary_size), dtype=np.float32)
        space = np.empty(self._library.lacuna_head_bytes(self._address, count), dtype=np.uint8)
        self._library.lacuna_score(
            *(self._address, HEADS.index(head), count),
            *(address(outputs, FLOAT), gap, address(rows, FLOAT), address(space, BYTE)),
        )
        return rows

    def _describe(self) -> native.Network:
        sizes, floats = self.sizes, self._floats
        two = sizes.architecture == "two_towers"
        network = native.Network(
            hidden_size=sizes.hidden_size,
            embedding_size=sizes.embedding_size,
            vocabulary_size=sizes.vocabulary_size,
            embedding=self._matrix("embedding"),
            output_bias=floats("output_bias"),
        )
        for number, (tower, head) in enumerate(
            zip(get_args(Tower), HEADS[: 1 + two], strict=False)
        ):
            layers = [self._layer(f"{tower}_tower.{n}") for n in range(sizes.layers(tower))]
            array = (native.Layer * len(layers))(*layers)
            self._kept.append(array)
            network.towers[number] = native.Tower(ctypes.addressof(array), len(layers))
            network.features[number] = self._matrix(head)
            network.feature_biases[number] = floats(f"{head}.bias")
        if two:
            for name in ("left", "right"):
                setattr(network, f"gap_{name}", self._matrix(f"gap.hidden.{name}"))
            network.gap_output = self._matrix("gap.output")
            network.gap_output_bias = floats("gap.output.bias")
            network.unknown_right = floats("unknown_right")
            network.gap_bias, network.first_gap_bias = floats("gap_bias"), floats("gap_bias.first")
            network.gap_positions, network.gap_kinds = floats("gap.position"), floats("gap.kind")
            network.position_count = len(self._tensors["gap.position"])
            network.kind_count = len(self._tensors["gap.kind"])
        return network

    def _layer(self, name: str) -> native.Layer:
        return native.Layer(
            self._matrix(f"{name}.weight_ih"),
            self._matrix(f"{name}.weight_hh"),
            self._floats(f"{name}.bias"),
        )

    def _matrix(self, name: str) -> native.Matrix:
        """Pack a matrix (inputs, outputs) as (outputs / 16, inputs / 4, 16, 4)."""
        weights = self._tensors[f"{name}.int8"]
        inputs, outputs = weights.shape
        tiles = weights.reshape(inputs // 4, 4, outputs // LANES, LANES)
        packed = self._keep(tiles.transpose(2, 0, 3, 1))
        corrections = self._keep(-128 * weights.sum(axis=0, dtype=np.int32))
        return native.Matrix(
            address(packed, INT8),
            address(corrections, INT32),
            self._floats(f"{name}.scale"),
            *(inputs, outputs),
        )

    def _floats(self, name: str) -> int:
        values = self._tensors[name]
        # The gates would turn NaN into numbers. Tokens that are never predicted have the bias -inf.
        if not (values < np.inf).all():
            raise CheckpointError(f"{self._path}: {name} is not finite; {EXPORT_AGAIN}")
        return address(self._keep(values), FLOAT)

    def _keep(self, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return a contiguous copy that begins with a cache line and lives as long as this."""
        space = np.empty(array.nbytes + 64, dtype=np.uint8)
        begin = -space.ctypes.data % 64
        kept = space[begin : begin + array.nbytes].view(array.dtype).reshape(array.shape)
        kept[...] = array
        self._kept.append(kept)
        return kept
