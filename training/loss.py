"""Cross-entropy over tokens, full or sampled, and the losses of a network on one batch."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from model.config import Tower
from model.network import Network, mask_controls, mask_next
from model.tokenizer import BLANK, END, END_OF_GAP
from training.config import LossOptions
from training.data.batches import Batch

# Rows of logits computed at once: 16 MB and 512 MB of float32 for 16,000 tokens.
ROWS_AT_ONCE = {"cpu": 256, "cuda": 8192}


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
    """Draws the tokens that targets are contrasted with, by frequency.

    Args:
        counts: (V,) of each token in the training text; 0 for tokens that never are targets.
        size: draws per step, with replacement. Duplicates are merged, so fewer tokens come back.
        device: device of the returned tensors.

    Sampled softmax with log-Q correction: Jean et al. 2015, arXiv:1412.2007; Bengio and Senécal 2008.
    """

    def __init__(self, counts: NDArray[np.int64], size: int, device: torch.device) -> None:
        seen = counts > 0
        smoothed = np.where(seen, counts, 0).astype(np.float64) ** 0.75
        smoothed += seen * smoothed.mean() * 0.1  # so that rare tokens are drawn often enough
        share = smoothed / smoothed.sum()
        # P(drawn at least once in `size` draws)
        drawn = -np.expm1(size * np.log1p(-np.minimum(share, 1 - 1e-12)))
        log_drawn = np.log(np.maximum(drawn, 1e-9)).astype(np.float32)
        self._cumulative = np.cumsum(share)
        self._log_drawn = torch.from_numpy(log_drawn).to(device)
        self._size, self._device = size, device

    def draw(self, rng: np.random.Generator, always: tuple[int, ...] = ()) -> tuple[Tensor, Tensor]:
        """Draw distinct tokens.

        Args:
            rng: random numbers.
            always: tokens to include in any case, with probability 1.

        Returns:
            Ids (S,), int64, and the log-probability (V,), float32, that each token is drawn.
        """
        drawn = np.searchsorted(self._cumulative, rng.random(self._size))
        drawn = np.minimum(drawn, len(self._cumulative) - 1)
        ids = np.unique(np.append(drawn, np.array(always, dtype=np.int64)))
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
    """Return the cross-entropy against shared negatives: a training signal, not a perplexity.

    Args:
        features: (N, e), in the dtype to multiply in.
        targets: (N,), int64.
        weight: the tied embedding, (V, e).
        bias: (V,).
        negatives: of :meth:`NegativeSampler.draw`.
        forbidden: (N,) bool: rows in which ``<eog>`` does not count among the negatives.

    Returns:
        (N,) float32.
    """
    ids, log_drawn = negatives
    # One gather serves targets and negatives, so the embedding's gradient is scattered once.
    rows = weight[torch.cat([ids, targets])].to(features.dtype)
    negative_rows, target_rows = rows[: len(ids)], rows[len(ids) :]
    logits = (features @ negative_rows.t()).float() + (bias[ids] - log_drawn[ids])  # (N, S)
    is_target = ids.unsqueeze(0) == targets.unsqueeze(1)
    if forbidden is not None:
        is_target = is_target | (forbidden.unsqueeze(1) & (ids == END_OF_GAP).unsqueeze(0))
    logits = logits.masked_fill(is_target, float("-inf"))
    true = (features * target_rows).float().sum(1) + bias[targets] - log_drawn[targets]  # (N,)
    return torch.logaddexp(logits.logsumexp(1), true) - true


def full_cross_entropy(
    features: Tensor,
    targets: Tensor,
    weight: Tensor,
    bias: Tensor,
    forbidden: Tensor | None = None,
) -> Tensor:
    """Return the cross-entropy over the whole vocabulary, summed over the rows.

    A few rows at a time go from logits to probabilities to gradients while they are in the processor's
    cache, and nothing of (N, V) is kept in float32. On a CPU this takes some three fifths of the time of
    torch's ``cross_entropy``.

    Args:
        features: (N, e), in the dtype to multiply in.
        targets: (N,), int64.
        weight: the tied embedding, (V, e).
        bias: (V,); minus infinity for tokens that are never predicted.
        forbidden: (N,) bool: rows in which ``<eog>`` is not predicted.

    Returns:
        Nats, a float32 scalar.
    """
    gradients = torch.is_grad_enabled()
    total: Tensor = _FullCrossEntropy.apply(features, targets, weight, bias, forbidden, gradients)  # type: ignore[no-untyped-call]
    return total


class _FullCrossEntropy(torch.autograd.Function):
    """Computes the gradients in the forward pass, when the probabilities are at hand."""

    @staticmethod
    def forward(
        ctx: Any,
        features: Tensor,
        targets: Tensor,
        weight: Tensor,
        bias: Tensor,
        forbidden: Tensor | None,
        gradients: bool,
    ) -> Tensor:
        cast_weight = weight.to(features.dtype)
        total, grad_bias = bias.new_zeros(()), torch.zeros_like(bias)
        grad_logits = features.new_empty(len(features) if gradients else 0, len(weight))
        size = ROWS_AT_ONCE[features.device.type]
        for begin in range(0, len(features), size):
            rows = slice(begin, begin + size)
            logits = (features[rows] @ cast_weight.t()).float().add_(bias)
            if forbidden is not None:
                logits[forbidden[rows], END_OF_GAP] = -math.inf
            columns = targets[rows].unsqueeze(1)
            true, largest = logits.gather(1, columns), logits.amax(1, keepdim=True)
            logits.sub_(largest).exp_()
            sums = logits.sum(1, keepdim=True)
            total += (sums.log() + largest - true).sum()
            if gradients:
                logits.div_(sums).scatter_add_(1, columns, torch.full_like(true, -1.0))
                grad_bias += logits.sum(0)
                grad_logits[rows] = logits
        if gradients:
            ctx.save_for_backward(grad_logits @ cast_weight, grad_logits.t() @ features, grad_bias)
        return total

    @staticmethod
    def backward(ctx: Any, *scales: Tensor) -> tuple[Tensor | None, ...]:
        grad_features, grad_weight, grad_bias = ctx.saved_tensors
        scale = scales[0]
        return (
            grad_features * scale,
            None,
            grad_weight.float() * scale,
            grad_bias * scale,
            None,
            None,
        )


@dataclass(frozen=True, slots=True)
class Losses:
    """The losses of one batch.

    Attributes:
        total: the weighted mean that is minimised, in nats.
        sums: nats summed over the targets of the next, previous and gap heads.
        counts: their numbers of targets.
    """

    total: Tensor
    sums: tuple[Tensor, Tensor, Tensor]
    counts: tuple[int, int, int]


class _CrossEntropy:
    """Cross-entropy of one batch: full, or against the negatives that are drawn for it."""

    def __init__(
        self,
        network: LanguageModel,
        dtype: torch.dtype,
        sampler: NegativeSampler | None,
        rng: np.random.Generator,
    ) -> None:
        self._weight, self._dtype = network.embedding.weight, dtype
        self._negatives = sampler.draw(rng) if sampler else None
        self._gap_negatives = sampler.draw(rng, always=(END_OF_GAP,)) if sampler else None

    def tokens(self, features: Tensor, targets: Tensor, bias: Tensor) -> Tensor:
        """Return the summed nats of the next or previous tokens."""
        return self._sum(features, targets, bias, mask_next, self._negatives, None)

    def gaps(self, features: Tensor, targets: Tensor, bias: Tensor, positions: Tensor) -> Tensor:
        """Return the summed nats of gap targets; a gap cannot end at its position 0."""
        forbidden = positions == 0
        return self._sum(features, targets, bias, mask_controls, self._gap_negatives, forbidden)

    def _sum(
        self,
        features: Tensor,
        targets: Tensor,
        bias: Tensor,
        mask: Callable[[Tensor], Tensor],
        negatives: tuple[Tensor, Tensor] | None,
        forbidden: Tensor | None,
    ) -> Tensor:
        features = features.to(self._dtype)
        if negatives is None:
            return full_cross_entropy(features, targets, self._weight, mask(bias), forbidden)
        nats = sampled_cross_entropy(features, targets, self._weight, bias, negatives, forbidden)
        return nats.sum()


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
        network: of any architecture. A stacked one predicts masked tokens, which count as gaps.
        batch: arrays.
        states: forward states to start from, (B, S), float32.
        options: weights of the losses.
        dtype: of towers and products; losses are float32.
        sampler: None for the full softmax.
        rng: random numbers for the negatives, and for the masks of a stacked network.
        masked_share: share of tokens that a stacked network reads as ``<blank>`` and predicts.

    Returns:
        The losses, and the forward states after the batch, (B, S), detached.
    """
    cross_entropy = _CrossEntropy(network, dtype, sampler, rng)
    inputs, targets = _place(states, batch.forward_inputs, batch.forward_targets)
    architecture = network.config.architecture if isinstance(network, Network) else "forward"
    if isinstance(network, Network) and architecture == "stacked_bidirectional":
        masked = draw_mask(batch, masked_share, rng).to(states.device)
        return _masked_losses(network, inputs, masked, cross_entropy, dtype), states
    with torch.autocast(states.device.type, torch.bfloat16, enabled=dtype == torch.bfloat16):
        outputs, after = network.run_tower("forward", inputs, states, dtype)
        is_target = targets >= 0
        features = network.next_features(outputs[is_target])
        next_sum = cross_entropy.tokens(features, targets[is_target], network.output_bias)
        next_count = int(is_target.sum())
        losses = Losses(
            next_sum / max(next_count, 1),
            (next_sum, next_sum.new_zeros(()), next_sum.new_zeros(())),
            (next_count, 0, 0),
        )
        # With both weights 0, the backward tower is skipped: the forward tower learns 1.7 times as fast.
        weighted = options.previous_weight + options.gap_weight > 0
        if isinstance(network, Network) and architecture == "two_towers" and weighted:
            losses = _add_backward(losses, network, outputs, batch, options, cross_entropy, dtype)
    return losses, after.detach()


def _add_backward(
    losses: Losses,
    network: Network,
    forward: Tensor,
    batch: Batch,
    options: LossOptions,
    cross_entropy: _CrossEntropy,
    dtype: torch.dtype,
) -> Losses:
    """Add the losses of the backward tower and the gap head; *forward* are outputs (T, B, H)."""
    inputs, targets = _place(forward, batch.backward_inputs, batch.backward_targets)
    states = network.initial_state("backward", inputs.shape[1])
    backward, _ = network.run_tower("backward", inputs, states, dtype)
    is_target = targets >= 0
    features = network.previous_features(backward[is_target])
    previous_sum = cross_entropy.tokens(features, targets[is_target], network.output_bias)
    previous_count, gap_count = int(is_target.sum()), len(batch.gap_row)
    gap_sum = previous_sum.new_zeros(())
    if gap_count:
        row, left, right = _place(forward, batch.gap_row, batch.gap_forward, batch.gap_backward)
        position, kind, target = _place(
            forward, batch.gap_position, batch.gap_kind, batch.gap_target
        )
        sides = forward[left, row], backward[right.clamp(min=0), row]
        features = network.gap_features(*sides, right >= 0, position, kind)
        gap_sum = cross_entropy.gaps(features, target, network.gap_bias, position)
    total = losses.total
    if previous_count:
        total = total + options.previous_weight * previous_sum / previous_count
        total = total + options.gap_weight * gap_sum / max(gap_count, 1)
    sums = (losses.sums[0], previous_sum, gap_sum)
    return Losses(total, sums, (losses.counts[0], previous_count, gap_count))


def _masked_losses(
    network: Network,
    inputs: Tensor,
    masked: Tensor,
    cross_entropy: _CrossEntropy,
    dtype: torch.dtype,
) -> Losses:
    """Return the loss of a stacked network on the tokens of *masked*, (T, B) bool."""
    lengths = (inputs != END).sum(0)
    outputs = network.run_stacked(inputs.masked_fill(masked, BLANK), lengths, dtype)
    features = network.next_features(outputs[masked].to(network.output_bias.dtype))
    nats = cross_entropy.tokens(features, inputs[masked], network.output_bias)
    count, zero = int(masked.sum()), nats.new_zeros(())
    return Losses(nats / count, (zero, zero, nats), (0, 0, count))


def draw_mask(batch: Batch, share: float, rng: np.random.Generator) -> Tensor:
    """Choose tokens that a stacked network reads as ``<blank>``: (T, B) bool, at least one, no controls."""
    is_text = batch.forward_inputs > END_OF_GAP
    masked = is_text & (rng.random(is_text.shape) < share)
    if not masked.any():
        masked.flat[np.flatnonzero(is_text)[:1]] = True
    return torch.from_numpy(masked)


def _place(like: Tensor, *arrays: NDArray[np.int64]) -> list[Tensor]:
    """Copy arrays to the device of a tensor."""
    return [torch.from_numpy(array).to(like.device) for array in arrays]
