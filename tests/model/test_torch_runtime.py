"""The torch runtime reads weights; tests/model/test_runtime.py has its results."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from model.checkpoint import load_checkpoint
from model.errors import CheckpointError
from model.runtime import open_runtime
from model.torch_runtime import open_torch_runtime


def test_weights_in_half_precision_are_read(tmp_path: Path, tiny_checkpoint: Path) -> None:
    """Float16 weights are computed with in float32, so only their rounding differs."""
    config = load_checkpoint(tiny_checkpoint).config.network
    weights = load_file(tiny_checkpoint / "weights.safetensors")
    halved = {name: value.astype(np.float16) for name, value in weights.items()}
    save_file(halved, tmp_path / "weights.safetensors")
    half = open_torch_runtime(tmp_path, config, "cpu")
    full = open_torch_runtime(tiny_checkpoint, config, "cpu")
    outputs = np.random.default_rng(0).normal(size=(3, config.hidden_size)).astype(np.float32)
    found, expected = (each.score("next", outputs)[:, 5:] for each in (half, full))
    assert 0 < abs(found - expected).max() < 0.01


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
