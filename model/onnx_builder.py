"""ONNX graphs under construction, with int8 products per row: tensors, nodes, models.

Each row of activations is quantised by its own largest magnitude: ``u8 = round(x / s) +
128``, ``s = max|x| / 127``. Weights are int8 with a scale per output. Products are summed in int32,
so a row's result cannot depend on its neighbours (docs/decisions/0004-int8-per-row.md).

Graphs are written here as protocol buffers, because the package ``onnx`` is too large for serving.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from model.checkpoint import GRAPHS, WEIGHTS
from model.config import NetworkConfig
from model.errors import ExportError

Array = npt.NDArray[Any]
Matrix = tuple[str, str]  # names of a stored matrix and of its scales
Rows = str | tuple[str, str]  # name of float32 rows, or names of quantised rows and their scales
Shape = tuple[int | str, ...]  # element type, then sizes, named or not

OPSET = 17
IR_VERSION = 8  # old enough for every onnxruntime that pyproject.toml admits
FLOAT, UINT8, INT8, INT32, INT64, BOOL = 1, 2, 3, 6, 7, 9
DATA_TYPES = {"float32": FLOAT, "uint8": UINT8, "int8": INT8, "int32": INT32, "int64": INT64}
# Files are mapped by pages; a tensor at the start of one needs no copy
PAGE = 4096
_AS_STORED = slice(None)


def message(*fields: tuple[int, int | str | bytes]) -> bytes:
    """Return a protocol buffer: numbers and contents of its fields, in order."""
    parts = []
    for number, value in fields:
        if isinstance(value, int):
            parts += [_varint(number << 3), _varint(value)]
        else:
            content = value.encode() if isinstance(value, str) else value
            parts += [_varint(number << 3 | 2), _varint(len(content)), content]
    return b"".join(parts)


def _varint(value: int) -> bytes:
    value &= (1 << 64) - 1
    encoded = bytearray()
    while value > 127:
        encoded.append(value & 127 | 128)
        value >>= 7
    return bytes([*encoded, value])


@dataclass
class Store:
    """Named tensors of all graphs and the file that holds the weights, each once.

    Without *weights*, tensors have sizes alone, and :attr:`data` stays empty. With *unsigned*,
    loops read weights as uint8 around 128: sums are the same, but no CPU has a fast kernel.
    """

    network: NetworkConfig
    weights: Mapping[str, Array] | None
    unsigned: bool = False
    size: int = 0  # bytes of the file
    data: bytearray = field(default_factory=bytearray)
    protos: dict[str, bytes] = field(default_factory=dict)
    parameters: dict[str, tuple[int, ...]] = field(default_factory=dict)  # shape of each
    # Of each tensor in the file: its first byte, and an array of its shape and dtype
    places: dict[str, tuple[int, Array]] = field(default_factory=dict)

    def parameter(self, name: str, *shape: int, order: Array | slice = _AS_STORED) -> Array:
        """Return a checked parameter as float32, with its rows in another *order*."""
        self.parameters[name] = shape
        if self.weights is None:
            return np.broadcast_to(np.float32(0), shape)
        if name not in self.weights:
            raise ExportError(f"weights: {name} is missing; they belong to another network")
        array = np.asarray(self.weights[name], dtype=np.float32)
        if array.shape != shape:
            raise ExportError(f"weights: {name} has shape {array.shape}, the network needs {shape}")
        if not np.isfinite(array).all():
            raise ExportError(f"weights: {name} holds NaN or infinity; export an earlier state")
        return array[order]

    def add(self, name: str, array: Array) -> str:
        """Store a tensor unless its name is stored already; return the name.

        Constants, which are integers or single numbers, stay in the graph. So the graphs depend on
        the sizes of a network alone.
        """
        if name in self.protos:
            return name
        fields: list[tuple[int, int | str | bytes]] = [(1, size) for size in array.shape or (1,)]
        fields += [(2, DATA_TYPES[array.dtype.name]), (8, name)]
        if array.ndim == 0 or array.dtype == np.int64:
            fields.append((9, array.tobytes()))
        else:
            start = -(-self.size // PAGE) * PAGE
            self.size = start + array.nbytes
            self.places[name] = start, array
            if self.weights is not None:
                self.data += bytes(start - len(self.data)) + array.tobytes()
            place = {"location": WEIGHTS.removeprefix(f"{GRAPHS}/")}
            place |= {"offset": str(start), "length": str(array.nbytes)}
            fields += [(13, message((1, key), (2, value))) for key, value in place.items()]
            fields.append((14, 1))  # data_location: external
        self.protos[name] = message(*fields)
        return name

    def matrix(self, name: str, weight: Array) -> Matrix:
        """Store a weight (out, in) as the right operand (in, out) of a product.

        There is a scale per output, that is per row of *weight*.
        """
        if self.weights is None:
            quantised, scale = np.broadcast_to(np.int8(0), weight.shape), weight[:, 0]
        else:
            largest = np.maximum(np.abs(weight).max(axis=1), np.finfo(np.float32).tiny * 127)
            scale = (largest / np.float32(127)).astype(np.float32)
            exact = np.clip(np.rint(weight / scale[:, None]), -127, 127)
            quantised = exact.astype(np.int8)
        return self.add(f"{name}.int8", quantised.T), self.add(f"{name}.scale", scale)

    def embedding(self) -> Matrix:
        """Store the tied embedding as (e, V): heads multiply by it, towers gather its columns."""
        shape = self.network.vocabulary_size, self.network.embedding_size
        return self.matrix("embedding", self.parameter("embedding.weight", *shape))


@dataclass
class Graph:
    """Nodes of one graph, or of the body of a loop in it, and the stored tensors that they use.

    Methods append nodes and return the names of their outputs. The body of a loop shares tensors
    and numbers with the graph *around* it.
    """

    store: Store
    around: "Graph | None" = None
    used: dict[str, None] = field(default_factory=dict)
    numbers: Iterator[int] = field(default_factory=itertools.count)
    nodes: list[bytes] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.around:
            self.used, self.numbers = self.around.used, self.around.numbers

    def op(self, kind: str, *inputs: str, **attributes: int | list[int] | bytes) -> str:
        """Append a node with one output."""
        return self.ops(kind, 1, *inputs, **attributes)[0]

    def ops(
        self, kind: str, outputs: int, *inputs: str, **attributes: int | list[int] | bytes
    ) -> list[str]:
        """Append a node with several outputs; attributes are integers or the graph of a loop."""
        names = [f"{kind}_{next(self.numbers)}" for _ in range(outputs)]
        self._append(kind, inputs, names, attributes)
        return names

    def _append(
        self,
        kind: str,
        inputs: Sequence[str],
        outputs: Sequence[str],
        attributes: Mapping[str, int | list[int] | bytes],
    ) -> None:
        names = [*((1, name) for name in inputs), *((2, name) for name in outputs)]
        values = [(5, _attribute(name, value)) for name, value in sorted(attributes.items())]
        self.nodes.append(message(*names, (4, kind), *values))

    def split(self, rows: str, *sizes: int) -> list[str]:
        """Cut rows (N, sum of sizes) into one part per size."""
        return self.ops("Split", len(sizes), rows, self.ints(*sizes), axis=1)

    def tensor(self, name: str, array: Array) -> str:
        """Store a tensor that this graph uses."""
        self.used[self.store.add(name, array)] = None
        return name

    def ints(self, *values: int) -> str:
        """Store a vector of integers."""
        return self.tensor("ints." + ",".join(map(str, values)), np.array(values, dtype=np.int64))

    def number(self, value: float) -> str:
        """Store a float."""
        return self.tensor(f"number.{value!r}", np.array(value, dtype=np.float32))

    def quantise(self, rows: str) -> tuple[str, str]:
        """Quantise rows (…, K) float32 to uint8 around 128, with scales (…, 1)."""
        largest = self.op("ReduceMax", self.op("Abs", rows), axes=[-1], keepdims=1)
        # A row of zeros needs a scale too; its zeros become 128
        scale = self.op("Div", self.op("Max", largest, self.number(1e-30)), self.number(127.0))
        zero = self.tensor("zero_point", np.array(128, dtype=np.uint8))
        return self.op("QuantizeLinear", self.op("Div", rows, scale), self.number(1.0), zero), scale

    def product(self, rows: Rows, matrix: Matrix) -> str:
        """Multiply rows (…, K), float32 or quantised, by a stored matrix (K, M): (…, M) float32."""
        self.used |= dict.fromkeys(matrix)
        quantised, row_scale = self.quantise(rows) if isinstance(rows, str) else rows
        weight, scale = matrix
        zeros = [self.tensor("zero_point", np.array(128, dtype=np.uint8))]
        if self.store.unsigned and self.around:  # once, when the graph is opened
            weight = self.around.op("Cast", self.around.shift(weight), to=UINT8)
            zeros *= 2
        total = self.op("Cast", self.op("MatMulInteger", quantised, weight, *zeros), to=FLOAT)
        # One scale at a time: onnxruntime fuses a product by both into a kernel that takes one
        # scale for all rows
        return self.op("Mul", self.op("Mul", total, row_scale), scale)

    def embed(self, tokens: str) -> tuple[str, str]:
        """Look up tokens (N, T): quantised rows (N, T, e)."""
        table, scale = self.store.embedding()
        self.used |= dict.fromkeys([table, scale])
        rows = self.op("Transpose", self.op("Gather", table, tokens, axis=1), perm=[1, 2, 0])
        shifted = self.shift(rows)
        row_scale = self.op("Unsqueeze", self.op("Gather", scale, tokens), self.ints(2))
        return self.op("Cast", shifted, to=UINT8), row_scale

    def shift(self, values: str) -> str:
        """Shift int8 around 0 to int32 around 128."""
        offset = self.tensor("int32.128", np.array(128, dtype=np.int32))
        return self.op("Add", self.op("Cast", values, to=INT32), offset)

    def model(self, inputs: Mapping[str, Shape], **outputs: tuple[str, Shape]) -> bytes:
        """Finish the model: types and shapes of its inputs; nodes and shapes of its outputs."""
        for name, (node, _) in outputs.items():
            self._append("Identity", [node], [name], {})
        results = {name: shape for name, (_, shape) in outputs.items()}
        graph = self.graph("lacuna", inputs, results, [self.store.protos[n] for n in self.used])
        opset = message((1, ""), (2, OPSET))
        return message((1, IR_VERSION), (2, "lacuna"), (7, graph), (8, opset))

    def graph(
        self,
        name: str,
        inputs: Mapping[str, Shape],
        outputs: Mapping[str, Shape],
        tensors: Sequence[bytes] = (),
    ) -> bytes:
        """Finish a graph that stands alone or is the body of a loop."""
        return message(
            *((1, node) for node in self.nodes),
            (2, name),
            *((5, tensor) for tensor in tensors),
            *((11, _value_info(each, shape)) for each, shape in inputs.items()),
            *((12, _value_info(each, shape)) for each, shape in outputs.items()),
        )


def _attribute(name: str, value: int | list[int] | bytes) -> bytes:
    if isinstance(value, int):
        return message((1, name), (3, value), (20, 2))
    if isinstance(value, list):
        return message((1, name), *((8, each) for each in value), (20, 7))
    return message((1, name), (6, value), (20, 5))


def _value_info(name: str, shape: Shape) -> bytes:
    sizes = (message((2 if isinstance(size, str) else 1, size)) for size in shape[1:])
    tensor = message((1, int(shape[0])), (2, message(*((1, size) for size in sizes))))
    return message((1, name), (2, message((1, tensor))))
