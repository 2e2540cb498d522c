"""Graphs and weights that cannot be run are refused when they are opened."""

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from model.checkpoint import Checkpoint, load_checkpoint
from model.errors import CheckpointError
from model.onnx_runtime import products_saturate
from model.runtime import open_runtime
from model.torch_runtime import open_torch_runtime


@pytest.fixture
def damaged(tmp_path: Path, tiny_checkpoint: Path) -> Checkpoint:
    """A checkpoint whose graphs a test may damage; its sums were checked before."""
    shutil.copytree(tiny_checkpoint / "onnx", tmp_path / "onnx")
    return dataclasses.replace(load_checkpoint(tiny_checkpoint), directory=tmp_path)


@pytest.mark.parametrize("number", [np.nan, np.inf])
@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        ("forward", "forward_tower.0.weight_hh.scale"),
        ("backward", "backward_tower.0.weight_hh.scale"),
        ("next", "number.1e-30"),
        ("previous", "number.1e-30"),
        ("gap", "number.1e-30"),
    ],
)
def test_nan_and_infinity_are_refused(
    damaged: Checkpoint, name: str, tensor: str, number: float
) -> None:
    """One NaN or infinity in a graph is a CheckpointError, although every sum is right."""
    path = damaged.directory / "onnx" / f"{name}.onnx"
    graph = onnx.load(path, load_external_data=False)
    (found,) = [stored for stored in graph.graph.initializer if stored.name == tensor]
    values = np.frombuffer(found.raw_data, dtype="<f4").copy()
    values[-1] = number
    found.raw_data = values.tobytes()
    path.write_bytes(graph.SerializeToString())
    with pytest.raises(CheckpointError, match=r"its network cannot be run: the .* (head|tower)"):
        open_runtime(damaged)


def test_graphs_that_cannot_be_run_are_named(damaged: Checkpoint) -> None:
    """A graph of other sizes or another head, a torn one and a missing one are named."""
    onnx_folder = damaged.directory / "onnx"
    gap, next_ = onnx_folder / "gap.onnx", onnx_folder / "next.onnx"
    wanted = dataclasses.replace(damaged.config.network, forward_layers=3)
    with pytest.raises(CheckpointError, match=r"its network cannot be run: .*invalid dimensions"):
        open_runtime(dataclasses.replace(damaged, network=wanted))
    wanted = dataclasses.replace(damaged.config.network, vocabulary_size=365)
    with pytest.raises(CheckpointError, match="the next head scores another vocabulary"):
        open_runtime(dataclasses.replace(damaged, network=wanted))
    shutil.copy(next_, gap)
    with pytest.raises(CheckpointError, match=r"its network cannot be run: .*; export"):
        open_runtime(damaged)
    next_.write_bytes(next_.read_bytes()[:100])
    with pytest.raises(CheckpointError, match=r"next\.onnx: onnxruntime cannot open it"):
        open_runtime(damaged)
    next_.unlink()
    with pytest.raises(CheckpointError, match=r"next\.onnx: onnxruntime cannot open it"):
        open_runtime(damaged)


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


def test_weights_that_do_not_fit_are_named(tmp_path: Path, tiny_checkpoint: Path) -> None:
    """Weights of another network, and a file without any, are named with the path."""
    config = load_checkpoint(tiny_checkpoint).config.network
    with pytest.raises(CheckpointError, match=r"weights\.safetensors does not fit"):
        open_torch_runtime(tiny_checkpoint, dataclasses.replace(config, forward_layers=3), "cpu")
    (tmp_path / "weights.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0not json")
    with pytest.raises(CheckpointError, match=r"weights\.safetensors does not fit"):
        open_torch_runtime(tmp_path, config, "cpu")


def test_missing_gpu_is_named(tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Device cuda without a GPU is a CheckpointError with the remedy."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(CheckpointError, match="choose cpu"):
        open_runtime(load_checkpoint(tiny_checkpoint), device="cuda")
