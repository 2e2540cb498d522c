"""Dropout and padding in training; test_runtime.py compares outputs with an oracle."""

import pytest
import torch

from model.network import RecurrentLayer, locked_dropout


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Weights and inputs are the same in every run."""
    torch.manual_seed(0)


def test_weight_drop_applies_in_training_only() -> None:
    """Dropped weights get no gradient; a new weight is used at once; evaluations agree."""
    layer = RecurrentLayer("lstm", 5, 7)
    inputs, zeros = torch.randn(6, 3, 5), torch.zeros(3, 7)

    def outputs() -> torch.Tensor:
        return layer(inputs, (zeros, zeros), weight_drop=0.5)[0]

    one = outputs()
    assert not torch.allclose(one, outputs())
    one.sum().backward()
    gradient = layer.weight_hh.grad
    assert gradient is not None
    assert 0.3 < float((gradient == 0).float().mean()) < 0.7
    with torch.no_grad():
        layer.weight_hh.zero_()
    dropped = outputs()
    layer.eval()
    assert torch.allclose(dropped, outputs())
    with torch.no_grad():
        layer.weight_hh.normal_()
    assert torch.equal(outputs(), outputs())
    assert not torch.allclose(dropped, outputs())


def test_locked_dropout_drops_the_same_units_at_every_step() -> None:
    """All steps of a row share one mask, and the mean is kept."""
    dropped = locked_dropout(torch.ones(5, 200, 50), 0.3, training=True)
    assert torch.equal(dropped, dropped[:1].expand_as(dropped))
    assert abs(float(dropped.mean()) - 1) < 0.02
    ones = torch.ones(2, 2, 2)
    assert torch.equal(locked_dropout(ones, 0.3, training=False), ones)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gpu_computes_in_the_requested_dtype(dtype: torch.dtype) -> None:
    """The dtype holds under autocast and for sliced states; results are close to the CPU's."""
    layer = RecurrentLayer("lstm", 64, 64)
    inputs, flat = torch.randn(5, 3, 64), torch.randn(3, 128)
    expected, _ = layer(inputs, torch.split(flat, 64, dim=1))
    states = torch.split(flat.cuda(), 64, dim=1)
    with torch.autocast("cuda", torch.bfloat16, enabled=dtype == torch.bfloat16):
        found, (hidden, _) = layer.cuda()(inputs.cuda().to(dtype), states)
    assert found.dtype == hidden.dtype == dtype
    bound = 0.02 if dtype == torch.bfloat16 else 1e-3
    assert (found.float().cpu() - expected).norm() < bound * expected.norm()
