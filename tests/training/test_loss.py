"""The two cross-entropies, against torch's own."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from model.tokenizer import END_OF_GAP
from training.loss import NegativeSampler, full_cross_entropy, sampled_cross_entropy

V, E, N = 400, 8, 64
CPU = torch.device("cpu")


def counts() -> np.ndarray:
    """Zipf counts; controls and <eog> never are targets."""
    values = (1e6 / np.arange(1, V + 1)).astype(np.int64)
    values[: END_OF_GAP + 1] = 0
    return values


def problem() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Features, targets, embedding and bias; targets drawn by frequency."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(V, E, generator=generator) * 0.3
    bias = torch.from_numpy(np.log(np.maximum(counts(), 1)).astype(np.float32)) - 12
    targets = torch.multinomial(
        torch.from_numpy(counts()).double(), N, replacement=True, generator=generator
    )
    return torch.randn(N, E, generator=generator), targets, weight, bias


def full(
    features: torch.Tensor, targets: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor
) -> torch.Tensor:
    """Cross-entropy over all tokens that can be targets."""
    logits = features @ weight.t() + bias
    logits[:, : END_OF_GAP + 1] = float("-inf")
    return F.cross_entropy(logits, targets, reduction="none")


def test_gradients_agree_with_the_full_softmax_on_average() -> None:
    """Averaged over draws, the log-Q-corrected gradient points where the full softmax's does."""
    features, targets, weight, bias = problem()
    sampler = NegativeSampler(counts(), 60, CPU)
    rng = np.random.default_rng(0)
    whole = full(features, targets, weight, bias.requires_grad_()).mean()
    (expected,) = torch.autograd.grad(whole, bias)
    total = torch.zeros(V)
    for _ in range(400):
        loss = sampled_cross_entropy(features, targets, weight, bias, sampler.draw(rng)).mean()
        total += torch.autograd.grad(loss, bias)[0]
    assert float(F.cosine_similarity(total, expected, dim=0)) > 0.95


def test_drawn_probabilities_are_those_of_the_draw() -> None:
    """The log-probability that a token is drawn is how often it is drawn."""
    sampler = NegativeSampler(counts(), 60, CPU)
    rng = np.random.default_rng(1)
    seen = np.zeros(V)
    for _ in range(3000):
        seen[sampler.draw(rng)[0].numpy()] += 1
    expected = sampler.draw(rng)[1].exp().numpy()
    assert np.abs(seen / 3000 - expected)[END_OF_GAP + 1 :].max() < 0.04
    assert seen[: END_OF_GAP + 1].sum() == 0


def test_the_target_is_never_its_own_negative() -> None:
    """With every token drawn as a negative, the loss is that of the full softmax."""
    features, targets, weight, bias = problem()
    ids = torch.arange(END_OF_GAP + 1, V)
    sampled = sampled_cross_entropy(features, targets, weight, bias, (ids, torch.zeros(V)))
    assert torch.allclose(sampled, full(features, targets, weight, bias), atol=1e-4)


def test_end_of_gap_is_always_contrasted_except_in_an_empty_gap() -> None:
    """<eog> is among the gap head's negatives, and forbidden rows do not count it."""
    features, targets, weight, bias = problem()
    bias[END_OF_GAP] = 20.0  # so that counting it shows
    sampler = NegativeSampler(counts(), 60, CPU)
    negatives = sampler.draw(np.random.default_rng(0), always=(END_OF_GAP,))
    assert END_OF_GAP in negatives[0]
    forbidden = torch.arange(N) < N // 2
    losses = sampled_cross_entropy(features, targets, weight, bias, negatives, forbidden)
    assert float(losses[forbidden].max()) < 12 < float(losses[~forbidden].min())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_full_cross_entropy_and_its_gradients_are_those_of_the_plain_product(
    dtype: torch.dtype,
) -> None:
    """Loss and gradients are those of torch's ``cross_entropy``, with <eog> masked in some rows."""
    features, targets, weight, bias = problem()
    rows = 600  # more than are computed at once, and no multiple of them
    features, targets = features.repeat(10, 1)[:rows].to(dtype), targets.repeat(10)[:rows]
    forbidden = torch.arange(rows) % 3 == 0
    never = bias.clone()
    never[:END_OF_GAP] = -torch.inf
    inputs = [each.requires_grad_() for each in (features, weight, never)]
    logits = (features @ weight.to(dtype).t()).float() + never
    is_forbidden = forbidden.unsqueeze(1) & (torch.arange(V) == END_OF_GAP)
    logits = logits.masked_fill(is_forbidden, -torch.inf)
    expected = F.cross_entropy(logits, targets, reduction="sum") * 0.5
    found = full_cross_entropy(features, targets, weight, never, forbidden) * 0.5
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    limit = 0.02 if dtype == torch.bfloat16 else 1e-4
    gradients = torch.autograd.grad(found, inputs), torch.autograd.grad(expected, inputs)
    for ours, theirs in zip(*gradients, strict=True):
        assert ours.dtype == theirs.dtype
        assert torch.allclose(ours, theirs, rtol=0.02, atol=limit)
    with torch.no_grad():
        plain = full_cross_entropy(features, targets, weight, never, forbidden).item()
    assert plain == pytest.approx(2 * found.item())
