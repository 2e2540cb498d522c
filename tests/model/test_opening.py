"""Graphs and weights that cannot be run are refused when they are opened."""

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from model.checkpoint import load_checkpoint
from model.config import NetworkConfig
from model.errors import CheckpointError
from model.onnx_graphs import expected_graphs, read_weights
from model.onnx_runtime import products_saturate
from model.runtime import open_runtime
from model.torch_runtime import open_torch_runtime
from tests.fixtures_checkpoint import put


@pytest.fixture
def copy(tmp_path: Path, tiny_checkpoint: Path) -> Path:
    """A copy of the tiny checkpoint that a test may damage."""
    return shutil.copytree(tiny_checkpoint, tmp_path / "copy")


@pytest.mark.parametrize("number", [np.nan, np.inf])
@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        ("forward", "forward_tower.0.weight_hh.scale"),
        ("backward", "backward_tower.0.weight_hh.scale"),
        ("next", "output_bias"),
        ("gap", "gap_bias"),
    ],
)
def test_nan_and_infinity_are_refused(copy: Path, name: str, tensor: str, number: float) -> None:
    """One NaN or infinity in the weights is a CheckpointError, although every sum is right."""
    graph = onnx.load(copy / "onnx" / f"{name}.onnx", load_external_data=False)
    (found,) = [stored for stored in graph.graph.initializer if stored.name == tensor]
    place = {entry.key: entry.value for entry in found.external_data}
    weights = bytearray((copy / "onnx" / place["location"]).read_bytes())
    end = int(place["offset"]) + int(place["length"])
    weights[end - 4 : end] = np.float32(number).tobytes()
    put(copy, f"onnx/{place['location']}", bytes(weights))
    checkpoint = load_checkpoint(copy)
    with pytest.raises(CheckpointError, match=r"copy cannot be run: the .* (head|tower)"):
        open_runtime(checkpoint)
    with pytest.raises(CheckpointError, match=r"onnx/int8\.weights: \S+ is not finite; export"):
        read_weights(copy, checkpoint.config.network)


def test_weights_of_another_size_are_named(copy: Path) -> None:
    """Weights that are cut or that another network needs are refused before they are mapped."""
    checkpoint = load_checkpoint(copy)
    wanted = dataclasses.replace(checkpoint.config.network, forward_layers=3)
    with pytest.raises(CheckpointError, match=r"onnx/forward\.onnx is not the graph of"):
        open_runtime(dataclasses.replace(checkpoint, network=wanted))
    put(copy, "onnx/int8.weights", (copy / "onnx" / "int8.weights").read_bytes()[:-1])
    with pytest.raises(CheckpointError, match=r"onnx/int8\.weights has .* bytes, the network"):
        open_runtime(load_checkpoint(copy))
    with pytest.raises(CheckpointError, match=r"onnx/int8\.weights has .* bytes, the network"):
        open_torch_runtime(copy, checkpoint.config.network, "cpu")
    (copy / "onnx" / "int8.weights").unlink()
    with pytest.raises(CheckpointError, match=r"onnx/int8\.weights is missing"):
        open_runtime(checkpoint)


@pytest.mark.parametrize("field", ["vocabulary_size", "hidden_size", "forward_layers"])
def test_no_network_has_sizes_without_end(field: str) -> None:
    """A configuration cannot ask for any amount of memory."""
    with pytest.raises(ValueError, match=f"{field}\n.*less than or equal"):
        NetworkConfig(**{"vocabulary_size": 300, field: 1 << 40})
    assert expected_graphs(NetworkConfig(1 << 16, hidden_size=8192, forward_layers=16))


@pytest.mark.parametrize(
    ("machine", "cpuinfo", "saturates"),
    [
        ("x86_64", "flags\t\t: fpu avx2 avx512f avx512_vnni\n", False),
        ("AMD64", "flags\t\t: fpu avx2 avx_vnni\n", False),
        ("x86_64", "flags\t\t: fpu avx2 avx512f avx512_vnnix\n", True),
        ("x86_64", None, True),
        ("aarch64", None, False),
    ],
)
def test_slow_exact_kernels_are_for_processors_without_vnni(
    tmp_path: Path, monkeypatch: Any, machine: str, cpuinfo: str | None, saturates: bool
) -> None:
    """x86 needs VNNI for exact sums of fast products; an unknown CPU gets the exact kernels."""
    monkeypatch.setattr("platform.machine", lambda: machine)
    if cpuinfo is not None:
        (tmp_path / "cpuinfo").write_text(cpuinfo, encoding="utf-8")
    assert products_saturate(tmp_path / "cpuinfo") is saturates


def test_missing_gpu_is_named(tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Device cuda without a GPU is a CheckpointError with the remedy."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(CheckpointError, match="choose cpu"):
        open_runtime(load_checkpoint(tiny_checkpoint), device="cuda")
