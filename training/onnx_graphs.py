"""The ONNX graphs of a network, built node by node: two towers, three heads, int8 per row or fp32.

Not an exporter of torch modules: the graphs are written from the weights alone, so that every rounding is chosen here.
    forward.onnx, backward.onnx    states (N, S), tokens (N, T), lengths (N,) -> new states (N, S), outputs (N, T, H)
    next.onnx, previous.onnx       outputs (N, H) -> log-probabilities (N, V), minus infinity at masked tokens
    gap.onnx                       forward and backward (N, H), right_known, positions and kinds (N,) -> the same
    fill.onnx                      of a stacked network: tokens (N, T), lengths and places (N,) -> the same

int8 means: each row of activations is quantised by its own largest magnitude, ``u8 = round(x / s) + 128`` with
``s = max|x| / 127``; weights are int8 with a scale per output; products are summed in int32, so a row's result cannot
depend on its neighbours; gates, biases and states stay float32 (docs/decisions/0004-int8-per-row.md).
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, TensorProto, ValueInfoProto, helper

from model.config import GAP_CODE_SIZE, GAP_POSITIONS, GATES, SPAN, NetworkConfig
from model.errors import ExportError
from model.runtime import SHARED_WEIGHTS
from model.tokenizer import BLANK, END, END_OF_GAP, START, UNKNOWN

Precision = Literal["int8", "fp32"]
Array = npt.NDArray[Any]
Matrix = tuple[str, str | None]  # names of a stored matrix and, in int8, of its scales
Rows = str | tuple[str, str]  # name of float32 rows, or names of quantised rows and of their scales

OPSET = 17
IR_VERSION = 8  # old enough for every onnxruntime that pyproject.toml admits
NEVER_PREDICTED = (UNKNOWN, START, END, BLANK)
# Tensors of at least this many bytes go to the shared file; smaller ones stay inside their graph.
EXTERNAL_BYTES = 1024
# The operating system maps files by pages; a tensor that starts on one needs no copy.
PAGE = 4096
# Order in which the graphs hold an LSTM's gates, as indices into torch's i, f, g, o: the three sigmoids together.
LSTM_ORDER = (0, 1, 3, 2)


def build_graphs(
    network: NetworkConfig, weights: Mapping[str, Array], precision: Precision
) -> dict[str, bytes]:
    """Build every graph that the network has the parts for.

    Args:
        network: sizes and cell.
        weights: parameters by name, float arrays of torch's layout, as in ``weights.safetensors``.
        precision: ``int8`` (quantised per row) or ``fp32``.

    Returns:
        File name to contents: ``forward.onnx``, ``next.onnx`` and, for two towers, ``backward.onnx``,
        ``previous.onnx``, ``gap.onnx``; for a stacked network ``fill.onnx`` alone; and one file of weights that they
        share, ``int8.weights`` or ``fp32.weights``.

    Raises:
        ExportError: an architecture without graphs, a parameter missing, of another shape, or not finite.
    """
    store = _Store(network, weights, precision)
    if network.architecture == "stacked_bidirectional":
        models = {"fill.onnx": _fill(store)}
    else:
        models = {"forward.onnx": _tower(store, "forward"), "next.onnx": _head(store, "next")}
    if network.architecture == "two_towers":
        models |= {
            "backward.onnx": _tower(store, "backward"),
            "previous.onnx": _head(store, "previous"),
            "gap.onnx": _gap(store),
        }
    files = {name: model.SerializeToString(deterministic=True) for name, model in models.items()}
    return files | {store.file: bytes(store.data)}


class _Store:
    """Named tensors of all graphs and the file that holds the large ones, each once."""

    def __init__(
        self, network: NetworkConfig, weights: Mapping[str, Array], precision: Precision
    ) -> None:
        self.network = network
        self.precision = precision
        self.file = SHARED_WEIGHTS[precision]
        self.data = bytearray()
        self.protos: dict[str, TensorProto] = {}
        self._weights = weights

    def parameter(self, name: str, *shape: int) -> Array:
        """A parameter as float32, checked."""
        if name not in self._weights:
            raise ExportError(f"weights: {name} is missing; the weights are of another network")
        array = np.asarray(self._weights[name], dtype=np.float32)
        if array.shape != shape:
            raise ExportError(
                f"weights: {name} has shape {array.shape}, the configuration says {shape}"
            )
        if not np.isfinite(array).all():
            raise ExportError(
                f"weights: {name} holds a value that is not finite; export an earlier state"
            )
        return array

    def add(self, name: str, array: Array) -> str:
        """Hold a tensor under a name; the same name is held once."""
        if name not in self.protos:
            array = np.ascontiguousarray(array)
            proto = TensorProto(
                name=name, dims=array.shape, data_type=helper.np_dtype_to_tensor_dtype(array.dtype)
            )
            if array.nbytes < EXTERNAL_BYTES:
                proto.raw_data = array.tobytes()
            else:
                self.data += bytes(-len(self.data) % PAGE)
                proto.data_location = TensorProto.EXTERNAL
                for key, value in (
                    ("location", self.file),
                    ("offset", len(self.data)),
                    ("length", array.nbytes),
                ):
                    proto.external_data.add(key=key, value=str(value))
                self.data += array.tobytes()
            self.protos[name] = proto
        return name

    def matrix(self, name: str, weight: Array) -> Matrix:
        """Hold a weight (out, in) as the right operand (in, out) of a product: its name and its scales' name.

        int8: a scale per output, the row of ``weight``; fp32: no scales.
        """
        if self.precision == "fp32":
            return self.add(name, weight.T), None
        scale = np.maximum(
            np.abs(weight).max(axis=1), np.finfo(np.float32).tiny * 127
        ) / np.float32(127)
        quantised = np.clip(np.rint(weight / scale[:, None]), -127, 127).astype(np.int8)
        return self.add(f"{name}.int8", quantised.T), self.add(
            f"{name}.scale", scale.astype(np.float32)
        )

    def embedding(self) -> Matrix:
        """The tied embedding as (e, V): the heads' right operand; the towers gather its columns."""
        network = self.network
        weight = self.parameter("embedding.weight", network.vocabulary_size, network.embedding_size)
        return self.matrix("embedding", weight)


class _Graph:
    """Nodes of one graph, or of one body inside it, and the stored tensors that they use."""

    def __init__(self, store: _Store, parent: "_Graph | None" = None) -> None:
        self.store = store
        self.nodes: list[Any] = []
        self.used: dict[str, None] = parent.used if parent else {}
        self._names: Iterator[int] = parent._names if parent else itertools.count()

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Append a node with one output; its name."""
        return self.ops(kind, 1, *inputs, **attributes)[0]

    def ops(self, kind: str, outputs: int, *inputs: str, **attributes: Any) -> list[str]:
        """Append a node with several outputs; their names."""
        names = [f"{kind}_{next(self._names)}" for _ in range(outputs)]
        self.nodes.append(helper.make_node(kind, inputs, names, **attributes))
        return names

    def tensor(self, name: str, array: Array) -> str:
        """A stored tensor, marked as used here."""
        self.used[self.store.add(name, array)] = None
        return name

    def ints(self, *values: int) -> str:
        return self.tensor("ints." + ",".join(map(str, values)), np.array(values, dtype=np.int64))

    def number(self, value: float) -> str:
        return self.tensor(f"number.{value!r}", np.array(value, dtype=np.float32))

    def quantise(self, rows: str) -> tuple[str, str]:
        """Rows (…, K) float32 -> (…, K) uint8 around 128, and the scales (…, 1) of the rows."""
        largest = self.op("ReduceMax", self.op("Abs", rows), axes=[-1], keepdims=1)
        # A row of zeros gets a scale all the same, and its zeros become 128.
        scale = self.op("Div", self.op("Max", largest, self.number(1e-30)), self.number(127.0))
        zero = self.tensor("zero_point", np.array(128, dtype=np.uint8))
        return self.op("QuantizeLinear", self.op("Div", rows, scale), self.number(1.0), zero), scale

    def product(self, rows: Rows, matrix: Matrix) -> str:
        """Rows (…, K), or the same quantised with their scales, times a stored matrix (K, M): (…, M) float32."""
        weight, scale = matrix
        self.used[weight] = None
        if scale is None:
            assert isinstance(rows, str)  # noqa: S101 - only int8 graphs hold quantised rows
            return self.op("MatMul", rows, weight)
        self.used[scale] = None
        quantised, row_scale = self.quantise(rows) if isinstance(rows, str) else rows
        zero = self.tensor("zero_point", np.array(128, dtype=np.uint8))
        total = self.op(
            "Cast", self.op("MatMulInteger", quantised, weight, zero), to=TensorProto.FLOAT
        )
        # One scale at a time: onnxruntime fuses a product of both into a kernel that takes one scale for all rows.
        return self.op("Mul", self.op("Mul", total, row_scale), scale)

    def model(
        self, inputs: Sequence[ValueInfoProto], outputs: Sequence[tuple[str, ValueInfoProto]]
    ) -> ModelProto:
        """The finished model; each output is a node's name and what it is called outside."""
        for name, value in outputs:
            self.nodes.append(helper.make_node("Identity", [name], [value.name]))
        initialisers = [self.store.protos[name] for name in self.used]
        graph = helper.make_graph(
            self.nodes, "lacuna", inputs, [value for _, value in outputs], initialisers
        )
        model: ModelProto = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
            producer_name="lacuna",
        )
        return model


def _value(name: str, kind: int, *shape: int | str) -> ValueInfoProto:
    value: ValueInfoProto = helper.make_tensor_value_info(name, kind, shape)
    return value


def _tower(store: _Store, tower: Literal["forward", "backward"]) -> ModelProto:
    """Advance rows of one tower by their tokens; a row whose tokens have run out holds its state."""
    network = store.network
    hidden, layers, parts = network.hidden_size, network.layers(tower), network.state_parts
    graph = _Graph(store)
    rows = _embed(graph, "tokens")
    times = graph.op("Gather", graph.op("Shape", "tokens"), graph.ints(1))
    zero, one = (graph.tensor(f"int.{value}", np.array(value, dtype=np.int64)) for value in (0, 1))
    steps = graph.op(
        "Unsqueeze", graph.op("Range", zero, graph.op("Squeeze", times), one), graph.ints(0, 2)
    )
    # (N, T, 1): true while the row still has a token to read
    alive = graph.op("Less", steps, graph.op("Unsqueeze", "lengths", graph.ints(1, 2)))
    state = graph.ops(
        "Split", layers * parts, "states", graph.ints(*[hidden] * (layers * parts)), axis=1
    )
    after: list[str] = []
    for layer in range(layers):
        cell = _Cell(
            store, f"{tower}_tower.{layer}", network.embedding_size if layer == 0 else hidden
        )
        inputs = graph.op(
            "Add", graph.product(rows, cell.input), graph.tensor(*cell.input_bias)
        )  # (N, T, G·H)
        new, outputs = _recur(
            graph, cell, inputs, alive, state[layer * parts : (layer + 1) * parts]
        )
        after += new
        rows = outputs  # (N, T, H)
    size = network.state_size(tower)
    return graph.model(
        [
            _value("states", TensorProto.FLOAT, "N", size),
            _value("tokens", TensorProto.INT64, "N", "T"),
            _value("lengths", TensorProto.INT64, "N"),
        ],
        [
            (
                graph.op("Concat", *after, axis=1),
                _value("new_states", TensorProto.FLOAT, "N", size),
            ),
            (outputs, _value("outputs", TensorProto.FLOAT, "N", "T", hidden)),
        ],
    )


def _fill(store: _Store) -> ModelProto:
    """Read whole lines in both directions, layer upon layer, and score what stands at one place of each."""
    network = store.network
    hidden, wide = network.hidden_size, 2 * network.hidden_size
    graph = _Graph(store)
    rows = _embed(graph, "tokens")
    shape = graph.op("Shape", "tokens")
    zero, one = (graph.tensor(f"int.{value}", np.array(value, dtype=np.int64)) for value in (0, 1))
    times = graph.op("Squeeze", graph.op("Gather", shape, graph.ints(1)))
    steps = graph.op("Unsqueeze", graph.op("Range", zero, times, one), graph.ints(0, 2))
    alive = graph.op("Less", steps, graph.op("Unsqueeze", "lengths", graph.ints(1, 2)))  # (N, T, 1)
    size = graph.op("Concat", graph.op("Gather", shape, graph.ints(0)), graph.ints(hidden), axis=0)
    state = [graph.op("Expand", graph.number(0.0), size)] * network.state_parts
    for layer in range(network.forward_layers):
        if not isinstance(rows, tuple) and store.precision == "int8":
            rows = graph.quantise(rows)  # once, for both directions
        width = network.embedding_size if layer == 0 else wide
        sides = []
        for tower in ("forward", "backward"):
            cell = _Cell(store, f"{tower}_tower.{layer}", width)
            inputs = graph.op(
                "Add", graph.product(rows, cell.input), graph.tensor(*cell.input_bias)
            )  # (N, T, G·H)
            if tower == "backward":
                inputs = _mirror(graph, inputs)
            _, outputs = _recur(graph, cell, inputs, alive, state)
            sides.append(_mirror(graph, outputs) if tower == "backward" else outputs)
        rows = graph.op("Concat", *sides, axis=2)  # (N, T, 2H)
    assert isinstance(rows, str)  # noqa: S101 - there is at least one layer
    outputs = graph.op(
        "GatherND", rows, graph.op("Unsqueeze", "places", graph.ints(1)), batch_dims=1
    )  # (N, 2H)
    return graph.model(
        [
            _value("tokens", TensorProto.INT64, "N", "T"),
            _value("lengths", TensorProto.INT64, "N"),
            _value("places", TensorProto.INT64, "N"),
        ],
        [_log_probabilities(graph, _feature(graph, "next", outputs, wide), _next_biases(graph))],
    )


def _mirror(graph: _Graph, rows: str) -> str:
    """Reverse each row of (N, T, …) within its own length; its own inverse."""
    return graph.op("ReverseSequence", rows, "lengths", batch_axis=0, time_axis=1)


def _embed(graph: _Graph, tokens: str) -> Rows:
    """Tokens (N, T) -> rows (N, T, e), or the same already quantised: a column of the int8 table is its own row."""
    table, scale = graph.store.embedding()
    graph.used[table] = None
    rows = graph.op("Transpose", graph.op("Gather", table, tokens, axis=1), perm=[1, 2, 0])
    if scale is None:
        return rows
    graph.used[scale] = None
    offset = graph.tensor("int32.128", np.array(128, dtype=np.int32))
    shifted = graph.op("Add", graph.op("Cast", rows, to=TensorProto.INT32), offset)
    row_scale = graph.op("Unsqueeze", graph.op("Gather", scale, tokens), graph.ints(2))
    return graph.op("Cast", shifted, to=TensorProto.UINT8), row_scale


class _Cell:
    """One layer's tensors, with the gates in the order in which the graph uses them."""

    def __init__(self, store: _Store, name: str, inputs: int) -> None:
        self.kind = store.network.cell
        self.hidden = hidden = store.network.hidden_size
        gates = GATES[self.kind]
        order = LSTM_ORDER if self.kind == "lstm" else range(gates)
        rows = np.concatenate([np.arange(gate * hidden, (gate + 1) * hidden) for gate in order])
        bias_ih = store.parameter(f"{name}.bias_ih", gates * hidden)[rows]
        bias_hh = store.parameter(f"{name}.bias_hh", gates * hidden)[rows]
        weight_ih = store.parameter(f"{name}.weight_ih", gates * hidden, inputs)[rows]
        weight_hh = store.parameter(f"{name}.weight_hh", gates * hidden, hidden)[rows]
        self.input = store.matrix(f"{name}.weight_ih", weight_ih)
        self.recurrent = store.matrix(f"{name}.weight_hh", weight_hh)
        # A GRU multiplies its recurrent bias by the reset gate, so there the two biases stay apart.
        self.input_bias = (f"{name}.bias", bias_ih if self.kind == "gru" else bias_ih + bias_hh)
        self.recurrent_bias = (f"{name}.bias_hh", bias_hh)


def _recur(
    graph: _Graph, cell: _Cell, inputs: str, alive: str, state: list[str]
) -> tuple[list[str], str]:
    """Run a layer over time: its state after each row's own length, and h after every step (N, T, H)."""
    body = _Graph(graph.store, graph)
    before = [f"before.{cell.recurrent[0]}.{part}" for part in range(len(state))]
    now, here = f"inputs.{cell.recurrent[0]}", f"alive.{cell.recurrent[0]}"
    after = [
        body.op("Where", here, new, old)
        for new, old in zip(_step(body, cell, now, before), before, strict=True)
    ]
    scanned = body.op("Identity", after[0])
    hidden, gates = cell.hidden, cell.input_bias[1].size
    graph_body = helper.make_graph(
        body.nodes,
        "step",
        [_value(name, TensorProto.FLOAT, "N", hidden) for name in before]
        + [_value(now, TensorProto.FLOAT, "N", gates), _value(here, TensorProto.BOOL, "N", 1)],
        [_value(name, TensorProto.FLOAT, "N", hidden) for name in [*after, scanned]],
    )
    *new, outputs = graph.ops(
        "Scan", len(state) + 1, *state, inputs, alive,
        body=graph_body, num_scan_inputs=2, scan_input_axes=[1, 1], scan_output_axes=[1],
    )  # fmt: skip
    return new, outputs


def _step(graph: _Graph, cell: _Cell, inputs: str, state: list[str]) -> list[str]:
    """One step of a cell: gate inputs (N, G·H) with the input's share already in, state -> new state, h first.

    LSTM: Hochreiter & Schmidhuber 1997 with forget gate; GRU: Cho et al. 2014, reset after the product, as in torch.
    """
    recurrent = graph.product(state[0], cell.recurrent)
    if cell.kind == "gru":
        recurrent = graph.op("Add", recurrent, graph.tensor(*cell.recurrent_bias))
        sizes = graph.ints(2 * cell.hidden, cell.hidden)
        (gates_x, new_x), (gates_h, new_h) = (
            graph.ops("Split", 2, value, sizes, axis=1) for value in (inputs, recurrent)
        )
        open_ = graph.op("Sigmoid", graph.op("Add", gates_x, gates_h))
        reset, update = graph.ops("Split", 2, open_, graph.ints(cell.hidden, cell.hidden), axis=1)
        new = graph.op("Tanh", graph.op("Add", new_x, graph.op("Mul", reset, new_h)))
        return [graph.op("Add", new, graph.op("Mul", update, graph.op("Sub", state[0], new)))]
    total = graph.op("Add", inputs, recurrent)
    if cell.kind == "rnn_tanh":
        return [graph.op("Tanh", total)]
    gates, new = graph.ops("Split", 2, total, graph.ints(3 * cell.hidden, cell.hidden), axis=1)
    opened = graph.op("Sigmoid", gates)
    enter, forget, leave = graph.ops("Split", 3, opened, graph.ints(*[cell.hidden] * 3), axis=1)
    memory = graph.op(
        "Add", graph.op("Mul", forget, state[1]), graph.op("Mul", enter, graph.op("Tanh", new))
    )
    return [graph.op("Mul", leave, graph.op("Tanh", memory)), memory]


def _head(store: _Store, name: Literal["next", "previous"]) -> ModelProto:
    """Outputs of a tower -> log-probabilities of the token beyond what it has read."""
    network = store.network
    graph = _Graph(store)
    return graph.model(
        [_value("outputs", TensorProto.FLOAT, "N", network.hidden_size)],
        [
            _log_probabilities(
                graph, _feature(graph, name, "outputs", network.hidden_size), _next_biases(graph)
            )
        ],
    )


def _next_biases(graph: _Graph) -> str:
    """The biases of single tokens, with the masks in."""
    bias = graph.store.parameter("output_bias", graph.store.network.vocabulary_size).copy()
    bias[[*NEVER_PREDICTED, END_OF_GAP]] = -np.inf
    return graph.tensor("output_bias", bias)


def _log_probabilities(graph: _Graph, features: str, biases: str) -> tuple[str, ValueInfoProto]:
    """Features (N, e) against the tied embedding, plus biases with the masks in: the output of every head."""
    logits = graph.op("Add", graph.product(features, graph.store.embedding()), biases)
    size = graph.store.network.vocabulary_size
    return graph.op("LogSoftmax", logits, axis=-1), _value(
        "log_probabilities", TensorProto.FLOAT, "N", size
    )


def _feature(graph: _Graph, name: Literal["next", "previous"], outputs: str, width: int) -> str:
    """The linear map from a tower's outputs (N, width) to the embedding's width (N, e)."""
    network, store = graph.store.network, graph.store
    matrix = store.matrix(name, store.parameter(f"{name}.weight", network.embedding_size, width))
    bias = graph.tensor(f"{name}.bias", store.parameter(f"{name}.bias", network.embedding_size))
    return graph.op("Add", graph.product(outputs, matrix), bias)


def _gap(store: _Store) -> ModelProto:
    """Both sides of a gap, the position in it, its kind -> log-probabilities of the gap's next token, or of its end."""
    network = store.network
    size, width, code = network.embedding_size, network.gap_hidden_size, GAP_CODE_SIZE
    graph = _Graph(store)
    hidden = store.parameter("gap.hidden.weight", 2 * width, 2 * size + 2 * code)
    # What a position and a kind add to the hidden layer is a table, exact in float32, not a product.
    position = (
        store.parameter("gap.position.weight", GAP_POSITIONS, code)
        @ hidden[:, 2 * size : 2 * size + code].T
    )
    kind = store.parameter("gap.kind.weight", SPAN + 1, code) @ hidden[:, 2 * size + code :].T
    kind = kind + store.parameter("gap.hidden.bias", 2 * width)

    left = _feature(graph, "next", "forward", network.hidden_size)
    unknown = graph.tensor("unknown_right", store.parameter("unknown_right", size))
    known = graph.op("Unsqueeze", "right_known", graph.ints(1))
    right = graph.op(
        "Where", known, _feature(graph, "previous", "backward", network.hidden_size), unknown
    )
    last = graph.tensor("gap.last_position", np.array(GAP_POSITIONS - 1, dtype=np.int64))
    place = graph.op(
        "Gather", graph.tensor("gap.position", position), graph.op("Min", "positions", last)
    )
    codes = graph.op("Add", place, graph.op("Gather", graph.tensor("gap.kind", kind), "kinds"))
    sides = graph.op(
        "Add",
        graph.product(left, store.matrix("gap.hidden.left", hidden[:, :size])),
        graph.product(right, store.matrix("gap.hidden.right", hidden[:, size : 2 * size])),
    )
    value, gate = graph.ops(
        "Split", 2, graph.op("Add", sides, codes), graph.ints(width, width), axis=1
    )
    gated = graph.op("Mul", value, graph.op("Sigmoid", gate))
    inner = graph.product(
        gated, store.matrix("gap.output", store.parameter("gap.output.weight", size, width))
    )
    inner = graph.op(
        "Add", inner, graph.tensor("gap.output.bias", store.parameter("gap.output.bias", size))
    )
    query = graph.op("Add", inner, graph.op("Add", left, right))

    bias = store.parameter("gap_bias", network.vocabulary_size).copy()
    bias[list(NEVER_PREDICTED)] = -np.inf
    no_end = np.zeros(network.vocabulary_size, dtype=np.float32)
    no_end[END_OF_GAP] = -np.inf  # a gap is never empty
    first = graph.op("Equal", graph.op("Unsqueeze", "positions", graph.ints(1)), graph.ints(0))
    biases = graph.op(
        "Where",
        first,
        graph.tensor("gap_bias.first", bias + no_end),
        graph.tensor("gap_bias", bias),
    )
    return graph.model(
        [
            _value("forward", TensorProto.FLOAT, "N", network.hidden_size),
            _value("backward", TensorProto.FLOAT, "N", network.hidden_size),
            _value("right_known", TensorProto.BOOL, "N"),
            _value("positions", TensorProto.INT64, "N"),
            _value("kinds", TensorProto.INT64, "N"),
        ],
        [_log_probabilities(graph, query, biases)],
    )
