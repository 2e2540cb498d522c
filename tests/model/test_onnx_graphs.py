"""Graphs as files. Their results are tested in tests/model, against torch and numpy."""

from pathlib import Path
from typing import Any, get_args

import numpy as np
import onnx
import pytest

from model.config import Architecture, Cell, NetworkConfig
from model.errors import ExportError
from model.onnx_graphs import build_graphs, count_parameters, expected_graphs, read_weights
from model.onnx_runtime import OnnxRuntime
from model.runtime import initial_states
from tests.fixtures_checkpoint import random_weights

SMALL = NetworkConfig(300, embedding_size=16, hidden_size=24, gap_hidden_size=12)
GRAPHS = ("forward.onnx", "backward.onnx", "next.onnx", "previous.onnx", "gap.onnx")
WEIGHTS = "onnx/int8.weights"


def write(directory: Path, files: dict[str, bytes]) -> Path:
    """Write files by path."""
    (directory / "onnx").mkdir(parents=True)
    for path, content in files.items():
        (directory / path).write_bytes(content)
    return directory


def test_graphs_are_valid_and_share_one_file(tmp_path: Path) -> None:
    """ONNX's checker accepts all; the same weights give the same bytes, with one embedding."""
    files = build_graphs(SMALL, random_weights(SMALL))
    assert files == build_graphs(SMALL, random_weights(SMALL))
    assert set(files) == {*(f"onnx/{name}" for name in GRAPHS), WEIGHTS}
    directory = write(tmp_path, files) / "onnx"
    for name in GRAPHS:
        onnx.checker.check_model(str(directory / name), full_check=True)
    offsets = {
        entry.value
        for name in GRAPHS
        for tensor in onnx.load(directory / name, load_external_data=False).graph.initializer
        if tensor.name == "embedding.int8"
        for entry in tensor.external_data
        if entry.key == "offset"
    }
    assert len(offsets) == 1


@pytest.mark.parametrize("cell", get_args(Cell))
@pytest.mark.parametrize("architecture", get_args(Architecture))
def test_graphs_depend_on_sizes_alone_and_weights_are_read_back(
    tmp_path: Path, architecture: Architecture, cell: Cell
) -> None:
    """The graphs, the bytes of the weights and the number of parameters follow from the sizes.

    Weights that are read from int8 give the same bytes again.
    """
    towers = {} if architecture == "two_towers" else {"backward_layers": 0, "gap_hidden_size": 0}
    sizes: dict[str, Any] = {"embedding_size": 16, "hidden_size": 24, "gap_hidden_size": 12}
    config = NetworkConfig(300, architecture, cell, **(sizes | towers))
    weights = random_weights(config)
    files = build_graphs(config, weights)
    assert expected_graphs(config) == (
        {path: content for path, content in files.items() if path != WEIGHTS},
        len(files[WEIGHTS]),
    )
    found = read_weights(write(tmp_path, files), config)
    assert build_graphs(config, found) == files
    assert {name: each.shape for name, each in found.items()} == {
        name: each.shape for name, each in weights.items()
    }
    assert count_parameters(config) == sum(each.size for each in weights.values())
    step = np.abs(weights["embedding.weight"]).max(axis=1, keepdims=True) / 127
    assert (np.abs(found["embedding.weight"] - weights["embedding.weight"]) < 0.51 * step).all()


def test_rows_and_weights_of_zeros_are_zeros(tmp_path: Path) -> None:
    """A network of zeros gives the uniform distribution: nothing is divided by 0."""
    weights = {name: np.zeros_like(value) for name, value in random_weights(SMALL).items()}
    runtime = OnnxRuntime(write(tmp_path, build_graphs(SMALL, weights)), SMALL)
    one = np.ones(1, dtype=np.int64)
    empty = initial_states(SMALL, "forward", 1)
    states, outputs = runtime.run_tower("forward", empty, one[None], one)
    assert not states.any()
    followed = runtime.score("next", outputs[:, 0])
    assert np.allclose(followed[0, 5:], 1 / (SMALL.vocabulary_size - 5))


def test_extreme_weights_and_activations_do_not_saturate(tmp_path: Path) -> None:
    """Weights of -127 and 127 and activations of 1 and 255 give exact sums."""
    sizes = {"embedding_size": 64, "hidden_size": 64, "forward_layers": 1}
    config = NetworkConfig(
        300, "forward", "rnn_tanh", backward_layers=0, gap_hidden_size=0, **sizes
    )
    weights = {name: np.zeros_like(value) for name, value in random_weights(config).items()}
    weights["next.weight"][:] = 1.0
    weights["next.weight"][32:] = -1.0
    weights["embedding.weight"][5:] = 1.0 / 64
    weights["embedding.weight"][6, :32] = -1.0 / 64
    weights["embedding.weight"][7] *= -1
    runtime = OnnxRuntime(write(tmp_path, build_graphs(config, weights)), config)
    for sign in (1, -1):
        outputs = np.full((1, 64), 0.25 * sign, dtype=np.float32)
        followed = np.log(runtime.score("next", outputs)[0, 5:8])
        # The feature is 16·sign in its first half and -16·sign in its second: logits 0, -16·sign, 0
        assert followed[0] == pytest.approx(followed[2], abs=1e-3)
        assert followed[1] - followed[0] == pytest.approx(-16 * sign, rel=1e-3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda weights: weights.pop("next.bias"), "next.bias is missing"),
        (lambda weights: weights.update({"next.bias": np.zeros(3)}), r"next.bias has shape \(3,\)"),
        (lambda weights: weights["gap_bias"].__setitem__(7, np.nan), "gap_bias holds NaN"),
    ],
)
def test_weights_that_do_not_fit_are_named(change: Any, message: str) -> None:
    """A missing, misshapen or non-finite parameter is an ExportError with its name."""
    weights = random_weights(SMALL)
    change(weights)
    with pytest.raises(ExportError, match=message):
        build_graphs(SMALL, weights)
