"""The graphs as files: what they hold, share and refuse. What they compute is in tests/model/test_runtime.py."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from model.config import NetworkConfig
from model.errors import ExportError
from model.runtime import OnnxRuntime, initial_states
from tests.fixtures_checkpoint import random_weights
from training.onnx_graphs import Precision, build_graphs

SMALL = NetworkConfig(
    300, embedding_size=16, hidden_size=24, forward_layers=2, backward_layers=1, gap_hidden_size=12
)


def operators(graph: onnx.GraphProto) -> list[str]:
    """Operators of a graph and of the bodies inside it."""
    kinds = []
    for node in graph.node:
        kinds.append(node.op_type)
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                kinds += operators(attribute.g)
    return kinds


def write(directory: Path, files: dict[str, bytes]) -> Path:
    """Lay files down where a runtime looks for int8 graphs."""
    (directory / "onnx").mkdir(parents=True)
    for name, content in files.items():
        (directory / "onnx" / name).write_bytes(content)
    return directory


@pytest.mark.parametrize("precision", ["int8", "fp32"])
def test_graphs_are_valid_and_share_one_file(tmp_path: Path, precision: Precision) -> None:
    """Every graph passes ONNX's checker with its weights, and names no file but the shared one."""
    files = build_graphs(SMALL, random_weights(SMALL), precision)
    shared = f"{precision}.weights"
    assert set(files) == {
        "forward.onnx",
        "backward.onnx",
        "next.onnx",
        "previous.onnx",
        "gap.onnx",
        shared,
    }
    directory = write(tmp_path, files) / "onnx"
    for name in files.keys() - {shared}:
        onnx.checker.check_model(str(directory / name), full_check=True)
        model = onnx.load(directory / name, load_external_data=False)
        external = [tensor for tensor in model.graph.initializer if tensor.external_data]
        locations = {
            entry.value
            for tensor in external
            for entry in tensor.external_data
            if entry.key == "location"
        }
        assert locations == {shared}


def test_the_embedding_is_stored_once() -> None:
    """The (e, V) int8 table of towers and heads is one stretch of the shared file, and nothing there is float-sized."""
    files = build_graphs(SMALL, random_weights(SMALL), "int8")
    places = set()
    for name in ("forward.onnx", "backward.onnx", "next.onnx", "previous.onnx", "gap.onnx"):
        model = onnx.ModelProto.FromString(files[name])
        (table,) = [tensor for tensor in model.graph.initializer if tensor.name == "embedding.int8"]
        assert list(table.dims) == [SMALL.embedding_size, SMALL.vocabulary_size]
        assert table.data_type == onnx.TensorProto.INT8
        places.add(tuple((entry.key, entry.value) for entry in table.external_data))
    assert len(places) == 1
    wide = NetworkConfig(2000, embedding_size=64, hidden_size=128, gap_hidden_size=64)
    weights = random_weights(wide)
    int8 = len(build_graphs(wide, weights, "int8")["int8.weights"])
    fp32 = len(build_graphs(wide, weights, "fp32")["fp32.weights"])
    assert int8 < 0.35 * fp32


def test_int8_graphs_scale_every_row_by_itself() -> None:
    """Products are MatMulInteger with the rows' own maxima; no operator that looks at a whole batch is used."""
    files = build_graphs(SMALL, random_weights(SMALL), "int8")
    for name, content in files.items():
        if name.endswith(".onnx"):
            kinds = operators(onnx.ModelProto.FromString(content).graph)
            assert "MatMulInteger" in kinds
            assert not {"MatMul", "Gemm", "DynamicQuantizeLinear", "LSTM", "GRU", "RNN"} & set(
                kinds
            )


def test_the_same_weights_give_the_same_bytes() -> None:
    """Building twice gives identical files, so that a digest names a network."""
    for precision in ("int8", "fp32"):
        assert build_graphs(SMALL, random_weights(SMALL), precision) == build_graphs(
            SMALL, random_weights(SMALL), precision
        )


def test_rows_and_weights_of_zeros_are_zeros(tmp_path: Path) -> None:
    """Nothing is divided by 0: an all-zero network gives the uniform distribution from an all-zero state."""
    weights = {name: np.zeros_like(value) for name, value in random_weights(SMALL).items()}
    runtime = OnnxRuntime(write(tmp_path, build_graphs(SMALL, weights, "int8")), SMALL)
    one = np.ones(1, dtype=np.int64)
    states, outputs = runtime.advance(
        "forward", initial_states(SMALL, "forward", 1), one[None], one
    )
    assert not states.any()
    followed = runtime.next_log_probabilities(outputs[:, 0])
    assert np.allclose(followed[0, 5:], -np.log(SMALL.vocabulary_size - 5))


def test_largest_weights_and_activations_keep_their_sign(tmp_path: Path) -> None:
    """The extremes -127 and 127 of weights, and 1 and 255 of activations, give exact sums: no saturation on the way."""
    config = NetworkConfig(
        300,
        "forward",
        "rnn_tanh",
        embedding_size=64,
        hidden_size=64,
        forward_layers=1,
        backward_layers=0,
        gap_hidden_size=0,
    )
    weights = {name: np.zeros_like(value) for name, value in random_weights(config).items()}
    weights["next.weight"][:] = 1.0
    weights["next.weight"][32:] = -1.0
    weights["embedding.weight"][5:] = 1.0 / 64
    weights["embedding.weight"][6, :32] = -1.0 / 64
    weights["embedding.weight"][7] *= -1
    runtime = OnnxRuntime(write(tmp_path, build_graphs(config, weights, "int8")), config)
    for sign in (1, -1):
        outputs = np.full((1, 64), 0.25 * sign, dtype=np.float32)
        followed = runtime.next_log_probabilities(outputs)[0]
        # f is 16·sign over the first half of e and -16·sign over the second, so logits are 0, -16·sign and 0
        assert followed[5] == pytest.approx(followed[7], abs=1e-3)
        assert followed[6] - followed[5] == pytest.approx(-16 * sign, rel=1e-3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda weights: weights.pop("next.bias"), "next.bias is missing"),
        (lambda weights: weights.update({"next.bias": np.zeros(3)}), r"next.bias has shape \(3,\)"),
        (
            lambda weights: weights["gap_bias"].__setitem__(7, np.nan),
            "gap_bias holds a value that is not finite",
        ),
    ],
)
def test_weights_that_do_not_fit_are_named(change: Any, message: str) -> None:
    """A parameter that is missing, of another shape or not a number is an ExportError with its name."""
    weights = random_weights(SMALL)
    change(weights)
    with pytest.raises(ExportError, match=message):
        build_graphs(SMALL, weights, "int8")
