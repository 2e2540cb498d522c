"""Cross-entropy over tokens, full or sampled, and the network's three losses on a batch."""

import math
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from model.network import Network, Tower, mask_controls, mask_next
from model.tokenizer import BLANK, END, END_OF_GAP
from training.config import LossOptions
from training.data.batches import Batch


class LanguageModel(Protocol):
    """What training needs of a network that reads from left to right; a ``torch.nn.Module``.

    :class:`model.network.Network` is one; research trains others.

    Attributes:
        embedding: tied, input and output, (V, e).
        output_bias: (V,).
    """

    embedding: nn.Embedding
    output_bias: nn.Parameter

    def initial_state(self, tower: Tower, rows: int) -> Tensor:
        """Return the states before the first token, (rows, S) float32."""

    def run_tower(
        self, tower: Tower, tokens: Tensor, states: Tensor, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor]:
        """Read tokens (T, B); return outputs (T, B, H) in *dtype* and the states after them."""

    def next_features(self, outputs: Tensor) -> Tensor:
        """Project outputs (N, H) to the width of the embedding, (N, e)."""


class NegativeSampler:
    """Tokens to contrast targets with, drawn by frequency, with the probability that each is drawn.

    Args:
        counts: (V,) of each token in the training text; tokens that never are targets must count 0.
        size: draws per step, with replacement; duplicates are merged, so a few fewer tokens come back.
        device: of the returned tensors.

    Sampled softmax with log-Q correction: Jean et al. 2015, arXiv:1412.2007; Bengio and Senécal 2008.
    """

    def __init__(self, counts: NDArray[np.int64], size: int, device: torch.device) -> None:
        smoothed = np.where(counts > 0, counts, 0).astype(np.float64) ** 0.75
        smoothed += (
            (counts > 0) * smoothed.mean() * 0.1
        )  # rare tokens are drawn often enough to be pushed down
        share = smoothed / smoothed.sum()
        self._cumulative = np.cumsum(share)
        # P(drawn at least once in `size` draws)
        drawn = -np.expm1(size * np.log1p(-np.minimum(share, 1 - 1e-12)))
        self._log_drawn = torch.from_numpy(np.log(np.maximum(drawn, 1e-9)).astype(np.float32)).to(
            device
        )
        self._size = size
        self._device = device

    def draw(self, rng: np.random.Generator, always: tuple[int, ...] = ()) -> tuple[Tensor, Tensor]:
        """Draw distinct tokens.

        Args:
            rng: source of chance.
            always: tokens to include in any case, with probability 1.

        Returns:
            Ids (S,), int64, and the log-probability that each token of the vocabulary is drawn (V,), float32.
        """
        drawn = np.searchsorted(self._cumulative, rng.random(self._size))
        ids = np.unique(
            np.append(
                np.minimum(drawn, len(self._cumulative) - 1), np.array(always, dtype=np.int64)
            )
        )
        log_drawn = self._log_drawn
        if always:
            log_drawn = log_drawn.clone()
            log_drawn[list(always)] = 0.0
        return torch.from_numpy(ids).to(self._device), log_drawn


def sampled_cross_entropy(
    features: Tensor,
    targets: Tensor,
    weight: Tensor,
    bias: Tensor,
    negatives: tuple[Tensor, Tensor],
    forbidden: Tensor | None = None,
) -> Tensor:
    """Cross-entropy against shared negatives. A training signal, not a perplexity.

    Args:
        features: (N, e), in the dtype to multiply in.
        targets: (N,), int64.
        weight: the tied embedding, (V, e).
        bias: (V,).
        negatives: of :meth:`NegativeSampler.draw`.
        forbidden: (N,) bool: rows in which ``<eog>`` must not count among the negatives.

    Returns:
        (N,) float32.
    """
    ids, log_drawn = negatives
    dtype = features.dtype
    # One gather serves targets and negatives, so the embedding's gradient is scattered once.
    rows = weight[torch.cat([ids, targets])].to(dtype)
    against, own = rows[: len(ids)], rows[len(ids) :]
    logits = (features @ against.t()).float() + (bias[ids] - log_drawn[ids])  # (N, S)
    hit = ids.unsqueeze(0) == targets.unsqueeze(1)
    if forbidden is not None:
        hit = hit | (forbidden.unsqueeze(1) & (ids == END_OF_GAP).unsqueeze(0))
    logits = logits.masked_fill(hit, float("-inf"))
    true = (features * own).float().sum(1) + bias[targets] - log_drawn[targets]  # (N,)
    return torch.logaddexp(logits.logsumexp(1), true) - true


def full_cross_entropy(
    features: Tensor,
    targets: Tensor,
    weight: Tensor,
    bias: Tensor,
    forbidden: Tensor | None = None,
) -> Tensor:
    """Cross-entropy over all of the vocabulary, summed over the rows, with few passes over the logits.

    A few rows at a time go from logits to probabilities to gradients while they are in the processor's cache; two
    matrix products for all rows bring the gradients back. Beside ``cross_entropy`` of the product that is the same sum
    in some three fifths of the time on a CPU, where memory and not arithmetic bounds a softmax.

    Args:
        features: (N, e), in the dtype to multiply in.
        targets: (N,), int64.
        weight: the tied embedding, (V, e).
        bias: (V,); minus infinity where a word is never predicted.
        forbidden: (N,) bool: rows in which ``<eog>`` is not predicted.

    Returns:
        Nats, a float32 scalar.
    """
    differentiate = torch.is_grad_enabled()
    total: Tensor = _FullCrossEntropy.apply(
        features, targets, weight, bias, forbidden, differentiate
    )  # type: ignore[no-untyped-call]
    return total


# Rows of logits that are computed at once: of 16,000 words in float32 they are 16 MB and 512 MB.
_ROWS_AT_ONCE = {"cpu": 256, "cuda": 8192}


class _FullCrossEntropy(torch.autograd.Function):
    """Gradients are computed on the way there, while the probabilities are at hand; nothing of (N, V) is kept."""

    @staticmethod
    def forward(
        ctx: Any,
        features: Tensor,
        targets: Tensor,
        weight: Tensor,
        bias: Tensor,
        forbidden: Tensor | None,
        differentiate: bool,
    ) -> Tensor:
        weight_there = weight.to(features.dtype)
        total, bias_gradient = bias.new_zeros(()), torch.zeros_like(bias)
        slopes = features.new_empty(len(features) if differentiate else 0, len(weight))
        size = _ROWS_AT_ONCE[features.device.type]
        for begin in range(0, len(features), size):
            rows = slice(begin, begin + size)
            logits = (features[rows] @ weight_there.t()).float().add_(bias)
            if forbidden is not None:
                logits[forbidden[rows], END_OF_GAP] = -math.inf
            aims = targets[rows].unsqueeze(1)
            true, largest = logits.gather(1, aims), logits.amax(1, keepdim=True)
            logits.sub_(largest).exp_()
            sums = logits.sum(1, keepdim=True)
            total += (sums.log() + largest - true).sum()
            if differentiate:
                logits.div_(sums).scatter_add_(1, aims, torch.full_like(true, -1.0))
                bias_gradient += logits.sum(0)
                slopes[rows] = logits
        if differentiate:
            ctx.save_for_backward(slopes @ weight_there, slopes.t() @ features, bias_gradient)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        of_features, of_weight, of_bias = ctx.saved_tensors
        scale = gradients[0]
        return of_features * scale, None, of_weight.float() * scale, of_bias * scale, None, None


@dataclass(frozen=True, slots=True)
class Losses:
    """Sums over targets, in nats, with their counts; ``total`` is what is minimised (a weighted mean)."""

    total: Tensor
    next_sum: Tensor
    next_count: int
    previous_sum: Tensor
    previous_count: int
    gap_sum: Tensor
    gap_count: int


def batch_losses(
    network: LanguageModel,
    batch: Batch,
    states: Tensor,
    options: LossOptions,
    dtype: torch.dtype,
    sampler: NegativeSampler | None,
    rng: np.random.Generator,
    masked_share: float = 0.15,
) -> tuple[Losses, Tensor]:
    """Run both towers and all heads over a batch.

    Args:
        network: of any architecture; a stacked one is asked for masked tokens only, counted as gaps.
        batch: arrays.
        states: forward states to start from, (B, S), float32.
        options: weights of the losses.
        dtype: to compute towers and products in; losses are float32.
        sampler: None for the full softmax.
        rng: of the negatives, and of the masks of a stacked network.
        masked_share: tokens that a stacked network reads as ``<blank>`` and must fill.

    Returns:
        The losses, and the forward states after the batch, (B, S), detached.
    """
    device = states.device
    shared = sampler.draw(rng) if sampler else None
    gap_shared = sampler.draw(rng, always=(END_OF_GAP,)) if sampler else None

    def place(array: NDArray[np.int64]) -> Tensor:
        return torch.from_numpy(array).to(device)

    def cross_entropy(
        features: Tensor, targets: Tensor, bias: Tensor, positions: Tensor | None
    ) -> Tensor:
        weight = network.embedding.weight
        negatives = shared if positions is None else gap_shared
        forbidden = None if positions is None else positions == 0
        if negatives is not None:
            return sampled_cross_entropy(
                features.to(dtype), targets, weight, bias, negatives, forbidden
            ).sum()
        never = mask_next if positions is None else mask_controls
        return full_cross_entropy(features.to(dtype), targets, weight, never(bias), forbidden)

    # With both weights 0 the backward tower rests: a stage that teaches the forward tower alone is 1.7 times as fast.
    towers = None
    if isinstance(network, Network) and network.config.architecture == "two_towers":
        towers = network if options.previous_weight + options.gap_weight > 0 else None
    if isinstance(network, Network) and network.config.architecture == "stacked_bidirectional":
        inputs = place(batch.forward_inputs)
        hidden = place_mask(batch, masked_share, rng).to(device)
        outputs = network.run_stacked(
            inputs.masked_fill(hidden, BLANK), (inputs != END).sum(0), dtype
        )
        features = network.next_features(outputs[hidden].to(network.output_bias.dtype))
        gap_sum = cross_entropy(features, inputs[hidden], network.output_bias, None)
        count = int(hidden.sum())
        return Losses(
            gap_sum / count, gap_sum.new_zeros(()), 0, gap_sum.new_zeros(()), 0, gap_sum, count
        ), states

    with torch.autocast(device.type, torch.bfloat16, enabled=dtype == torch.bfloat16):
        forward, after = network.run_tower("forward", place(batch.forward_inputs), states, dtype)
        targets = place(batch.forward_targets)
        kept = targets >= 0
        next_sum = cross_entropy(
            network.next_features(forward[kept]), targets[kept], network.output_bias, None
        )
        zero = next_sum.new_zeros(())
        previous_sum, gap_sum, previous_count = zero, zero, 0
        if towers is not None:
            rows = batch.backward_inputs.shape[1]
            backward, _ = towers.run_tower(
                "backward",
                place(batch.backward_inputs),
                towers.initial_state("backward", rows),
                dtype,
            )
            aims = place(batch.backward_targets)
            aimed = aims >= 0
            previous_count = int(aimed.sum())
            previous_sum = cross_entropy(
                towers.previous_features(backward[aimed]), aims[aimed], network.output_bias, None
            )
            if len(batch.gap_row):
                row, right = place(batch.gap_row), place(batch.gap_backward)
                positions = place(batch.gap_position)
                features = towers.gap_features(
                    forward[place(batch.gap_forward), row],
                    backward[right.clamp(min=0), row],
                    right >= 0,
                    positions,
                    place(batch.gap_kind),
                )
                gap_sum = cross_entropy(
                    features, place(batch.gap_target), towers.gap_bias, positions
                )
    next_count = int(kept.sum())
    gap_count = len(batch.gap_row) if towers is not None else 0
    total = next_sum / max(next_count, 1)
    if previous_count:
        total = total + options.previous_weight * previous_sum / previous_count
        total = total + options.gap_weight * gap_sum / max(gap_count, 1)
    return Losses(
        total, next_sum, next_count, previous_sum, previous_count, gap_sum, gap_count
    ), after.detach()


def place_mask(batch: Batch, share: float, rng: np.random.Generator) -> Tensor:
    """Which tokens of a batch a stacked network reads as ``<blank>``: (T, B) bool, one at least; never a control."""
    inputs = batch.forward_inputs
    text = inputs > END_OF_GAP
    chosen = text & (rng.random(inputs.shape) < share)
    if not chosen.any():
        chosen.flat[np.flatnonzero(text)[:1]] = True
    return torch.from_numpy(chosen)
