"""The ONNX graphs of a network, built node by node from its weights, int8 per row.

    forward.onnx, backward.onnx    states (N, S), tokens (N, T), lengths (N,)
                                   -> new_states (N, S), outputs (N, T, H)
    next.onnx, previous.onnx       outputs (N, H) -> log_probabilities (N, V)
    gap.onnx                       forward, backward (N, H), right_known, positions, kinds (N,)
                                   -> log_probabilities (N, V)
    fill.onnx                      of a stacked network: tokens (N, T), lengths and places (N,)
                                   -> log_probabilities (N, V)

Tokens that are never predicted have log-probability minus infinity. Products are quantised per row
(model/onnx_builder.py); gates, biases and states stay float32.
"""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

import numpy as np

from model.checkpoint import EXPORT_AGAIN, GRAPHS, WEIGHTS
from model.config import (
    GAP_CODE_SIZE,
    GAP_POSITIONS,
    GATES,
    SPAN,
    Architecture,
    NetworkConfig,
    Tower,
)
from model.errors import CheckpointError
from model.listed_files import open_listed, size_of_file
from model.onnx_builder import (
    BOOL,
    FLOAT,
    INT64,
    Array,
    Graph,
    Rows,
    Shape,
    Store,
)
from model.runtime import Float32Array
from model.tokenizer import END_OF_GAP, NEVER_PREDICTED

LINES: dict[str, Shape] = {"tokens": (INT64, "N", "T"), "lengths": (INT64, "N")}
# Gates in the graphs, as indices into torch's; of an LSTM's i, f, g, o the three sigmoids together
GATE_ORDER = {"rnn_tanh": [0], "gru": [0, 1, 2], "lstm": [0, 1, 3, 2]}


# The graphs of each architecture.
GRAPH_NAMES: dict[Architecture, tuple[str, ...]] = {
    "forward": ("forward", "next"),
    "two_towers": ("forward", "next", "backward", "previous", "gap"),
    "stacked_bidirectional": ("fill",),
}


def build_graphs(network: NetworkConfig, weights: Mapping[str, Array]) -> dict[str, bytes]:
    """Build each graph that the network has, and the weights file that they share.

    *weights* are float parameters by name, in torch's layout. Return contents by path in the
    checkpoint.

    Raises:
        ExportError: a parameter is missing, has another shape or is not finite.
    """
    store = Store(network, weights)
    return _build(store) | {WEIGHTS: bytes(store.data)}


def expected_graphs(network: NetworkConfig, unsigned: bool = False) -> tuple[dict[str, bytes], int]:
    """Return the graphs by path, and the bytes of the weights file, of a network of these sizes.

    *unsigned* graphs compute the same, with weights of loops as uint8
    (:class:`model.onnx_builder.Store`).
    """
    store = Store(network, None, unsigned)
    return _build(store), store.size


def count_parameters(network: NetworkConfig) -> int:
    """Return how many numbers are trained in a network of these sizes."""
    store = Store(network, None)
    _build(store)
    return sum(map(math.prod, store.parameters.values()))


def check_size(directory: Path, size: int) -> None:
    """Raise CheckpointError unless the weights file of a checkpoint has *size* bytes."""
    if (found := size_of_file(directory, WEIGHTS)) != size:
        raise CheckpointError(
            f"{directory / WEIGHTS} has {found} bytes, the network in config.json needs {size};"
            f" {EXPORT_AGAIN}"
        )


def read_tensors(
    directory: Path, network: NetworkConfig
) -> tuple[dict[str, Array], dict[str, tuple[int, ...]]]:
    """Return the tensors of a checkpoint's weights file by name, and the shapes of parameters.

    Raises:
        CheckpointError: the file cannot be read, or is of another network.
    """
    store = Store(network, None)
    _build(store)
    check_size(directory, store.size)
    with open_listed(directory, WEIGHTS) as file:
        data = file.readall()
    return {
        name: np.frombuffer(data, like.dtype, like.size, start).reshape(like.shape)
        for name, (start, like) in store.places.items()
    }, store.parameters


def read_weights(directory: Path, network: NetworkConfig) -> dict[str, Float32Array]:
    """Return float parameters, as :func:`build_graphs` takes them, of a checkpoint's int8 weights.

    The graphs of these parameters have the same bytes again. The file holds some sums of parameters
    only. Then one of them is the sum and the others are 0: of two biases the first, of the gap
    head's bias and kinds the kinds. The codes of its positions and kinds are unit vectors.

    Raises:
        CheckpointError: the file cannot be read, is of another network, or is not finite.
    """
    tensors, parameters = read_tensors(directory, network)

    def matrix(name: str) -> Array:
        with np.errstate(all="ignore"):  # results are checked below
            return (tensors[f"{name}.int8"] * tensors[f"{name}.scale"]).T

    weights = {name: np.zeros(shape, np.float32) for name, shape in parameters.items()}
    for name, values in weights.items():
        of_matrix, of_bias = name.removesuffix(".weight"), name.replace("bias_ih", "bias")
        rows = _gate_rows(network) if "_tower." in name else slice(None)
        if f"{of_matrix}.int8" in tensors:
            values[rows] = matrix(of_matrix)
        elif of_bias in tensors:
            values[rows] = tensors[of_bias]
    if network.architecture == "two_towers":
        parts = [matrix("gap.hidden.left"), matrix("gap.hidden.right")]
        for name in ("gap.position", "gap.kind"):
            table = tensors[name]  # (n, width), the codes' share of the hidden layer
            np.fill_diagonal(weights[f"{name}.weight"], 1)
            parts.append(np.pad(table.T, ((0, 0), (0, GAP_CODE_SIZE - len(table)))))
        weights["gap.hidden.weight"] = np.concatenate(parts, axis=1)
    for name, values in weights.items():
        values[np.isneginf(values)] = 0  # biases of tokens that are never predicted
        if not np.isfinite(values).all():
            raise CheckpointError(f"{directory / WEIGHTS}: {name} is not finite; {EXPORT_AGAIN}")
    return weights


def _build(store: Store) -> dict[str, bytes]:
    builders: dict[str, Callable[[], bytes]] = {
        "forward": lambda: _tower(store, "forward"),
        "next": lambda: _head(store, "next"),
        "backward": lambda: _tower(store, "backward"),
        "previous": lambda: _head(store, "previous"),
        "gap": lambda: _gap(store),
        "fill": lambda: _fill(store),
    }
    names = GRAPH_NAMES[store.network.architecture]
    return {f"{GRAPHS}/{name}.onnx": builders[name]() for name in names}


def _tower(store: Store, tower: Tower) -> bytes:
    """Advance rows of one tower by their tokens; a row without tokens left keeps its state."""
    network = store.network
    layers, parts = network.layers(tower), network.state_parts
    graph = Graph(store)
    rows: Rows = graph.embed("tokens")
    unread = _unread(graph)
    state = graph.split("states", *[network.hidden_size] * (layers * parts))
    after: list[str] = []
    width, outputs = network.embedding_size, ""
    for layer in range(layers):
        own = state[layer * parts :][:parts]
        new, outputs = _layer(graph, f"{tower}_tower.{layer}", width, rows, unread, own)
        after += new
        rows, width = outputs, network.hidden_size  # (N, T, H)
    states: Shape = (FLOAT, "N", network.state_size(tower))
    return graph.model(
        {"states": states, **LINES},
        new_states=(graph.op("Concat", *after, axis=1), states),
        outputs=(outputs, (FLOAT, "N", "T", width)),
    )


def _fill(store: Store) -> bytes:
    """Read whole lines in both directions, layer upon layer; score one place of each line."""
    network = store.network
    hidden, width = network.hidden_size, network.embedding_size
    graph = Graph(store)
    rows: Rows = graph.embed("tokens")
    unread = _unread(graph)
    count = graph.op("Gather", graph.op("Shape", "tokens"), graph.ints(0))
    size = graph.op("Concat", count, graph.ints(hidden), axis=0)
    state = [graph.op("Expand", graph.number(0.0), size)] * network.state_parts
    outputs = ""
    for layer in range(network.forward_layers):
        if isinstance(rows, str):
            rows = graph.quantise(rows)  # once, for both directions
        sides = [
            _layer(graph, f"{tower}_tower.{layer}", width, rows, unread, state)[1]
            for tower in ("forward", "backward")
        ]
        rows = outputs = graph.op("Concat", *sides, axis=2)  # (N, T, 2H)
        width = 2 * hidden
    places = graph.op("Unsqueeze", "places", graph.ints(1))
    chosen = graph.op("GatherND", outputs, places, batch_dims=1)  # (N, 2H)
    features = _feature(graph, "next", chosen, width)
    return _scores(graph, {**LINES, "places": (INT64, "N")}, features, _token_biases(graph))


def _head(store: Store, name: Literal["next", "previous"]) -> bytes:
    """Score the token that follows, or precedes, what a tower has read."""
    graph, width = Graph(store), store.network.hidden_size
    features = _feature(graph, name, "outputs", width)
    return _scores(graph, {"outputs": (FLOAT, "N", width)}, features, _token_biases(graph))


def _gap(store: Store) -> bytes:
    """Score a gap's next token, or its end, from both sides, the position in it and its kind."""
    network = store.network
    size, width, code = network.embedding_size, network.gap_hidden_size, GAP_CODE_SIZE
    graph = Graph(store)
    hidden = store.parameter("gap.hidden.weight", 2 * width, 2 * size + 2 * code)
    # The shares of position and kind in the hidden layer are tables, exact in float32
    of_sides, of_codes = hidden[:, : 2 * size], hidden[:, 2 * size :]
    positions_of, kinds_of = of_codes[:, :code].T, of_codes[:, code:].T
    position = _product(store.parameter("gap.position.weight", GAP_POSITIONS, code), positions_of)
    kind = _product(store.parameter("gap.kind.weight", SPAN + 1, code), kinds_of)
    kind = kind + store.parameter("gap.hidden.bias", 2 * width)

    left = _feature(graph, "next", "forward", network.hidden_size)
    unknown = graph.tensor("unknown_right", store.parameter("unknown_right", size))
    known = graph.op("Unsqueeze", "right_known", graph.ints(1))
    right = _feature(graph, "previous", "backward", network.hidden_size)
    right = graph.op("Where", known, right, unknown)
    last = graph.tensor("gap.last_position", np.array(GAP_POSITIONS - 1, dtype=np.int64))
    positions = graph.tensor("gap.position", position)
    place = graph.op("Gather", positions, graph.op("Min", "positions", last))
    kinds = graph.op("Gather", graph.tensor("gap.kind", kind), "kinds")
    codes = graph.op("Add", place, kinds)
    sides = graph.op(
        "Add",
        graph.product(left, store.matrix("gap.hidden.left", of_sides[:, :size])),
        graph.product(right, store.matrix("gap.hidden.right", of_sides[:, size:])),
    )
    value, gate = graph.split(graph.op("Add", sides, codes), width, width)
    gated = graph.op("Mul", value, graph.op("Sigmoid", gate))
    output = store.matrix("gap.output", store.parameter("gap.output.weight", size, width))
    inner = graph.product(gated, output)
    bias = graph.tensor("gap.output.bias", store.parameter("gap.output.bias", size))
    query = graph.op("Add", graph.op("Add", inner, bias), graph.op("Add", left, right))

    scores = store.parameter("gap_bias", network.vocabulary_size).copy()
    scores[list(NEVER_PREDICTED)] = -np.inf
    first_scores = scores.copy()
    first_scores[END_OF_GAP] = -np.inf  # a gap is never empty
    first = graph.op("Equal", graph.op("Unsqueeze", "positions", graph.ints(1)), graph.ints(0))
    biases = [graph.tensor("gap_bias.first", first_scores), graph.tensor("gap_bias", scores)]
    side: Shape = (FLOAT, "N", network.hidden_size)
    inputs: dict[str, Shape] = {"forward": side, "backward": side, "right_known": (BOOL, "N")}
    inputs |= {"positions": (INT64, "N"), "kinds": (INT64, "N")}
    return _scores(graph, inputs, query, graph.op("Where", first, *biases))


def _product(left: Float32Array, right: Float32Array) -> Float32Array:
    """Multiply in float64: rounded to float32, the result is the same on every CPU."""
    return (left.astype(np.float64) @ right.astype(np.float64)).astype(np.float32)


def _layer(
    graph: Graph, name: str, width: int, rows: Rows, unread: str, state: list[str]
) -> tuple[list[str], str]:
    """Run a layer over rows (N, T, width): its states after each row's length, and h (N, T, H).

    A stacked network's backward layers read each row from its end; h is in the order of the row.
    """
    store, network = graph.store, graph.store.network
    hidden, gates = network.hidden_size, GATES[network.cell] * network.hidden_size
    order = _gate_rows(network)
    bias = store.parameter(f"{name}.bias_ih", gates, order=order)
    recurrent_bias = store.parameter(f"{name}.bias_hh", gates, order=order)
    matrix, recurrent = (
        store.matrix(
            f"{name}.{each}", store.parameter(f"{name}.{each}", gates, columns, order=order)
        )
        for each, columns in (("weight_ih", width), ("weight_hh", hidden))
    )
    if network.cell != "gru":  # a GRU multiplies its recurrent bias by the reset gate
        bias = bias + recurrent_bias
    mirrored = name.startswith("backward") and network.architecture == "stacked_bidirectional"

    inputs = graph.op("Add", graph.product(rows, matrix), graph.tensor(f"{name}.bias", bias))
    if mirrored:
        inputs = _mirror(graph, inputs)
    body = Graph(store, graph)
    before = [f"before.{recurrent[0]}.{part}" for part in range(len(state))]
    now, live = f"inputs.{recurrent[0]}", f"alive.{recurrent[0]}"
    product = body.product(before[0], recurrent)
    if network.cell == "gru":
        product = body.op("Add", product, body.tensor(f"{name}.bias_hh", recurrent_bias))
    steps = zip(_step(body, now, product, before), before, strict=True)
    after = [body.op("Where", live, new, old) for new, old in steps]
    after.append(body.op("Identity", after[0]))
    row: Shape = (FLOAT, "N", hidden)
    arguments = dict.fromkeys(before, row) | {now: (FLOAT, "N", gates), live: (BOOL, "N", 1)}
    *states, outputs = graph.ops(
        "Scan", len(state) + 1, *state, inputs, unread,
        body=body.graph("step", arguments, dict.fromkeys(after, row)),
        num_scan_inputs=2, scan_input_axes=[1, 1], scan_output_axes=[1],
    )  # fmt: skip
    return states, _mirror(graph, outputs) if mirrored else outputs


def _gate_rows(network: NetworkConfig) -> Array:
    """Return, for each row of a layer's matrices in the graphs, its row in torch's."""
    rows = np.arange(GATES[network.cell] * network.hidden_size).reshape(-1, network.hidden_size)
    return rows[GATE_ORDER[network.cell]].ravel()


def _step(graph: Graph, inputs: str, recurrent: str, state: list[str]) -> list[str]:
    """Advance a cell: shares of input and state in the gates (N, G·H), state -> new state.

    LSTM: Hochreiter & Schmidhuber 1997 with a forget gate. GRU: Cho et al. 2014, reset after the
    product, as in torch.
    """
    kind, hidden = graph.store.network.cell, graph.store.network.hidden_size
    if kind == "gru":
        gates_x, new_x = graph.split(inputs, 2 * hidden, hidden)
        gates_h, new_h = graph.split(recurrent, 2 * hidden, hidden)
        gates = graph.op("Sigmoid", graph.op("Add", gates_x, gates_h))
        reset, update = graph.split(gates, hidden, hidden)
        new = graph.op("Tanh", graph.op("Add", new_x, graph.op("Mul", reset, new_h)))
        return [graph.op("Add", new, graph.op("Mul", update, graph.op("Sub", state[0], new)))]
    total = graph.op("Add", inputs, recurrent)
    if kind == "rnn_tanh":
        return [graph.op("Tanh", total)]
    gates, new = graph.split(total, 3 * hidden, hidden)
    enter, forget, leave = graph.split(graph.op("Sigmoid", gates), hidden, hidden, hidden)
    memory = graph.op(
        "Add", graph.op("Mul", forget, state[1]), graph.op("Mul", enter, graph.op("Tanh", new))
    )
    return [graph.op("Mul", leave, graph.op("Tanh", memory)), memory]


def _unread(graph: Graph) -> str:
    """Return (N, T, 1): true while a row has tokens left, by ``tokens`` and ``lengths``."""
    times = graph.op("Gather", graph.op("Shape", "tokens"), graph.ints(1))
    zero, one = (graph.tensor(f"int.{n}", np.array(n, dtype=np.int64)) for n in (0, 1))
    steps = graph.op("Range", zero, graph.op("Squeeze", times), one)
    steps = graph.op("Unsqueeze", steps, graph.ints(0, 2))
    return graph.op("Less", steps, graph.op("Unsqueeze", "lengths", graph.ints(1, 2)))


def _mirror(graph: Graph, rows: str) -> str:
    """Reverse each row of (N, T, …) within its own length."""
    return graph.op("ReverseSequence", rows, "lengths", batch_axis=0, time_axis=1)


def _feature(graph: Graph, name: Literal["next", "previous"], outputs: str, width: int) -> str:
    """Map a tower's outputs (N, width) to the width of the embedding (N, e)."""
    size, store = graph.store.network.embedding_size, graph.store
    matrix = store.matrix(name, store.parameter(f"{name}.weight", size, width))
    bias = graph.tensor(f"{name}.bias", store.parameter(f"{name}.bias", size))
    return graph.op("Add", graph.product(outputs, matrix), bias)


def _token_biases(graph: Graph) -> str:
    """Return the output biases of single tokens, minus infinity for masked ones."""
    bias = graph.store.parameter("output_bias", graph.store.network.vocabulary_size).copy()
    bias[[*NEVER_PREDICTED, END_OF_GAP]] = -np.inf
    return graph.tensor("output_bias", bias)


def _scores(graph: Graph, inputs: Mapping[str, Shape], features: str, biases: str) -> bytes:
    """Finish a head: features (N, e) times the tied embedding, plus biases, normalised."""
    logits = graph.op("Add", graph.product(features, graph.store.embedding()), biases)
    scores = graph.op("LogSoftmax", logits, axis=-1)
    size = graph.store.network.vocabulary_size
    return graph.model(inputs, log_probabilities=(scores, (FLOAT, "N", size)))
