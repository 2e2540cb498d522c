"""ONNX graphs under construction, with int8 products per row: tensors, nodes, models.

In int8, each row of activations is quantised by its own largest magnitude: ``u8 = round(x / s) +
128``, ``s = max|x| / 127``. Weights are int8 with a scale per output. Products are summed in int32,
so a row's result cannot depend on its neighbours (docs/decisions/0004-int8-per-row.md).
"""

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import TensorProto, helper

from model.config import NetworkConfig
from model.errors import ExportError
from model.onnx_runtime import SHARED_WEIGHTS, Precision

Array = npt.NDArray[Any]
Matrix = tuple[str, ...]  # names of a stored matrix and, in int8, of its scales
Rows = str | tuple[str, str]  # name of float32 rows, or names of quantised rows and their scales
Shape = tuple[int | str, ...]  # element type, then sizes, named or not

OPSET = 17
IR_VERSION = 8  # old enough for every onnxruntime that pyproject.toml admits
FLOAT, INT64, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL
# Tensors of at least this many bytes go to the shared file; smaller ones stay in their graph
EXTERNAL_BYTES = 1024
# Files are mapped by pages; a tensor at the start of one needs no copy
PAGE = 4096


@dataclass
class Store:
    """Named tensors of all graphs and the file that holds the large ones, each once."""

    network: NetworkConfig
    weights: Mapping[str, Array]
    precision: Precision
    data: bytearray = field(default_factory=bytearray)
    protos: dict[str, Any] = field(default_factory=dict)

    def parameter(self, name: str, *shape: int) -> Array:
        """Return a checked parameter as float32."""
        if name not in self.weights:
            raise ExportError(f"weights: {name} is missing; they belong to another network")
        array = np.asarray(self.weights[name], dtype=np.float32)
        if array.shape != shape:
            raise ExportError(f"weights: {name} has shape {array.shape}, the network needs {shape}")
        if not np.isfinite(array).all():
            raise ExportError(f"weights: {name} holds NaN or infinity; export an earlier state")
        return array

    def add(self, name: str, array: Array) -> str:
        """Store a tensor unless its name is stored already; return the name."""
        if name in self.protos:
            return name
        array = np.ascontiguousarray(array)
        data_type = helper.np_dtype_to_tensor_dtype(array.dtype)
        proto = TensorProto(name=name, dims=array.shape, data_type=data_type)
        if array.nbytes < EXTERNAL_BYTES:
            proto.raw_data = array.tobytes()
        else:
            self.data += bytes(-len(self.data) % PAGE)
            proto.data_location = TensorProto.EXTERNAL
            file, offset, length = SHARED_WEIGHTS[self.precision], len(self.data), array.nbytes
            for key, value in (("location", file), ("offset", offset), ("length", length)):
                proto.external_data.add(key=key, value=str(value))
            self.data += array.tobytes()
        self.protos[name] = proto
        return name

    def matrix(self, name: str, weight: Array) -> Matrix:
        """Store a weight (out, in) as the right operand (in, out) of a product.

        In int8 there is a scale per output, that is per row of *weight*.
        """
        if self.precision == "fp32":
            return (self.add(name, weight.T),)
        largest = np.maximum(np.abs(weight).max(axis=1), np.finfo(np.float32).tiny * 127)
        scale = largest / np.float32(127)
        quantised = np.clip(np.rint(weight / scale[:, None]), -127, 127).astype(np.int8)
        stored = self.add(f"{name}.int8", quantised.T)
        return stored, self.add(f"{name}.scale", scale.astype(np.float32))

    def embedding(self) -> Matrix:
        """Store the tied embedding as (e, V): heads multiply by it, towers gather its columns."""
        shape = self.network.vocabulary_size, self.network.embedding_size
        return self.matrix("embedding", self.parameter("embedding.weight", *shape))


@dataclass
class Graph:
    """Nodes of one graph, or of the body of a loop in it, and the stored tensors that they use.

    Methods append nodes and return the names of their outputs.
    """

    store: Store
    used: dict[str, None] = field(default_factory=dict)
    numbers: Iterator[int] = field(default_factory=itertools.count)
    nodes: list[Any] = field(default_factory=list)

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Append a node with one output."""
        return self.ops(kind, 1, *inputs, **attributes)[0]

    def ops(self, kind: str, outputs: int, *inputs: str, **attributes: Any) -> list[str]:
        """Append a node with several outputs."""
        names = [f"{kind}_{next(self.numbers)}" for _ in range(outputs)]
        self.nodes.append(helper.make_node(kind, inputs, names, **attributes))
        return names

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
        if self.store.precision == "fp32":
            assert isinstance(rows, str)  # noqa: S101 - only int8 graphs have quantised rows
            return self.op("MatMul", rows, *matrix)
        quantised, row_scale = self.quantise(rows) if isinstance(rows, str) else rows
        weight, scale = matrix
        zero = self.tensor("zero_point", np.array(128, dtype=np.uint8))
        total = self.op("Cast", self.op("MatMulInteger", quantised, weight, zero), to=FLOAT)
        # One scale at a time: onnxruntime fuses a product by both into a kernel that takes one
        # scale for all rows
        return self.op("Mul", self.op("Mul", total, row_scale), scale)

    def embed(self, tokens: str) -> Rows:
        """Look up tokens (N, T): rows (N, T, e), in int8 already quantised."""
        table, *scale = self.store.embedding()
        self.used |= dict.fromkeys([table, *scale])
        rows = self.op("Transpose", self.op("Gather", table, tokens, axis=1), perm=[1, 2, 0])
        if not scale:
            return rows
        offset = self.tensor("int32.128", np.array(128, dtype=np.int32))
        shifted = self.op("Add", self.op("Cast", rows, to=TensorProto.INT32), offset)
        row_scale = self.op("Unsqueeze", self.op("Gather", *scale, tokens), self.ints(2))
        return self.op("Cast", shifted, to=TensorProto.UINT8), row_scale

    def model(self, inputs: Mapping[str, Shape], **outputs: tuple[str, Shape]) -> Any:
        """Finish the model: types and shapes of its inputs; nodes and shapes of its outputs."""
        for name, (node, _) in outputs.items():
            self.nodes.append(helper.make_node("Identity", [node], [name]))
        graph = helper.make_graph(
            self.nodes,
            "lacuna",
            [value_info(name, shape) for name, shape in inputs.items()],
            [value_info(name, shape) for name, (_, shape) in outputs.items()],
            [self.store.protos[name] for name in self.used],
        )
        opset = [helper.make_opsetid("", OPSET)]
        return helper.make_model(
            graph, opset_imports=opset, ir_version=IR_VERSION, producer_name="lacuna"
        )


def value_info(name: str, shape: Shape) -> Any:
    """Describe an input or output of a graph."""
    return helper.make_tensor_value_info(name, shape[0], shape[1:])
