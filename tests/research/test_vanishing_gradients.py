"""The recall experiment: its task, its gradients and its summary."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import research.vanishing_gradients
from research.__main__ import main
from research.vanishing_gradients import (
    VARIANTS,
    RecallNetwork,
    Variant,
    gradient_norms,
    half_life,
    recall_batch,
)


@pytest.mark.parametrize("cell", ["rnn_tanh", "lstm", "gru"])
def test_gradients_are_those_of_the_loss_by_the_earlier_state(cell: str) -> None:
    """The norm at k is what differentiating the last k steps by their first state gives."""
    torch.manual_seed(1)
    network, distance = RecallNetwork(Variant(cell, cell, 0.0), 8), 9  # type: ignore[arg-type]
    norms = gradient_norms(network, distance, 1)
    tokens, symbols = recall_batch(np.random.default_rng(0), 1, distance)
    inputs = network.embedding(tokens).detach()
    for k in (1, 4, 9):
        _, state = network.layer(inputs[: distance + 1 - k], network.initial_state(1))
        start = tuple(part.detach().requires_grad_() for part in state)
        outputs, _ = network.layer(inputs[distance + 1 - k :], start)
        grads = torch.autograd.grad(F.cross_entropy(network.guess(outputs[-1]), symbols), start)
        for part, grad in zip("hc", grads, strict=False):
            assert norms[part][k - 1] == pytest.approx(grad.norm().item(), rel=1e-4)


def test_half_life_is_that_of_an_exponential() -> None:
    """It is 7 if the norm halves every seven steps, infinite if level, negative if growing."""
    assert half_life([0.5 ** (k / 7) for k in range(1, 50)]) == pytest.approx(7)
    assert half_life([1.0, 1.0, 1.0]) == math.inf
    assert half_life([2.0**k for k in range(5)]) == pytest.approx(-1)


def test_the_command_continues_and_refuses_other_options(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second call measures nothing and writes the same; other options are an error."""
    command = ["vanishing-gradients", "--output", str(tmp_path)]
    assert main([*command, "--quick"]) == 0
    path = tmp_path / "vanishing_gradients.json"
    written = path.read_bytes()
    assert [each["name"] for each in json.loads(written)["variants"]] == [v.name for v in VARIANTS]
    path.unlink()
    monkeypatch.setattr(research.vanishing_gradients, "train_recall", None)
    assert main([*command, "--quick"]) == 0
    assert path.read_bytes() == written
    assert main(command) == 2
