"""Cross-entropy over tokens, full or sampled, and the losses of a network on one batch."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from model.config import Tower
from model.network import Network, mask_controls, mask_next
from model.tokenizer import BLANK, END, END_OF_GAP
from training.config import LossOptions
from training.data.batches import Batch
from training.data.shards import Shard

# Rows of logits computed at once: 16 MB and 512 MB of float32 for 16,000 tokens.
ROWS_AT_ONCE = {"cpu": 256, "cuda": 8192}


class LanguageModel(nn.Module, ABC):
    """A network of research that reads from left to right; Lacuna's own has the same methods."""

    embedding: nn.Embedding  # tied, input and output, (V, e)
    output_bias: nn.Parameter  # (V,)

    @abstractmethod
    def initial_state(self, tower: Tower, rows: int) -> Tensor:
        """Return the states before the first token, (rows, S) float32."""

    @abstractmethod
    def run_tower(
        self, tower: Tower, tokens: Tensor, states: Tensor, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor]:
        """Read tokens (T, B); return outputs (T, B, H) in *dtype* and the states after them."""

    @abstractmethod
    def next_features(self, outputs: Tensor) -> Tensor:
        """Project outputs (N, H) to the width of the embedding, (N, e)."""


def count_tokens(sources: Sequence[Shard], size: int) -> NDArray[np.int64]:
    """Return each token's count plus 1, (size,); 0 for control tokens."""
    counts = np.ones(size, dtype=np.int64)
    for source in sources:
        counts += np.bincount(source.ids, minlength=size)
    counts[: END_OF_GAP + 1] = 0  # never negatives; <eog> is added to the gap head's by name
    return counts


def set_biases(network: Network | LanguageModel, counts: NDArray[np.int64]) -> None:
    """Set output biases to the tokens' log-frequencies, which need not be learned then."""
    biases = torch.from_numpy(np.log(np.maximum(counts, 1) / counts.sum()).astype(np.float32))
    with torch.no_grad():
        network.output_bias.copy_(biases)
        if isinstance(network, Network) and network.config.architecture == "two_towers":
            network.gap_bias.copy_(biases)
            network.gap_bias[END_OF_GAP] = math.log(0.3)


class NegativeSampler:
    """Draws the tokens that targets are contrasted with, by frequency.

    *counts* are (V,) of each token in the training text; 0 for tokens that never are targets. There
    are *size* draws per step. Duplicates are merged, so fewer tokens come back.

    Sampled softmax with log-Q correction: Jean et al. 2015, arXiv:1412.2007.
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
        """Draw distinct tokens, and those in *always* with probability 1.

        Return ids (S,), int64, and the log-probability (V,), float32, that each token is drawn.
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

    *features* are (N, e), in the dtype to multiply in; *targets* (N,) int64; *weight* is the tied
    embedding, (V, e), and *bias* (V,). *negatives* are of :meth:`NegativeSampler.draw`. In rows of
    *forbidden*, (N,) bool, ``<eog>`` does not count among them. The result is (N,) float32.
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
    """Return the cross-entropy over the whole vocabulary, summed over the rows, a float32 scalar.

    A few rows at a time go from logits to gradients while they are in the processor's cache, and
    nothing of (N, V) is kept in float32. On a CPU this takes three fifths of the time of torch's.

    The arguments are those of :func:`sampled_cross_entropy`; *bias* is minus infinity for tokens
    that are never predicted.
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
        features, weight, bias = (gradient * scales[0] for gradient in ctx.saved_tensors)
        return features, None, weight.float(), bias, None, None


@dataclass(frozen=True, slots=True)
class Losses:
    """The losses of one batch, in nats."""

    total: Tensor  # the weighted mean that is minimised, or the part of it of a share of the rows
    # Sum over the targets, and their number, of the heads "next", "previous" and "gap".
    by_head: dict[str, tuple[Tensor, int]]

    @property
    def per_target(self) -> float:
        """Mean nats of all targets, without weights."""
        nats = sum(each.item() for each, _ in self.by_head.values())
        return nats / max(1, sum(count for _, count in self.by_head.values()))


def batch_losses(
    network: Network | LanguageModel,
    batch: Batch,
    states: Tensor,
    options: LossOptions,
    dtype: torch.dtype,
    sampler: NegativeSampler | None,
    rng: np.random.Generator,
) -> tuple[Losses, Tensor]:
    """Run both towers and all heads over a batch, from forward *states*, (B, S) float32.

    Means are over ``batch.target_counts``. A stacked network predicts masked tokens, which count as
    gaps. Towers and products have *dtype*, losses are float32. Without *sampler* the softmax is
    full. *rng* draws negatives and masks. Return the losses, and the forward states after the
    batch, (B, S), detached.
    """
    heads = _Heads(network, batch, states.device, dtype, sampler, rng)
    towers = network if isinstance(network, Network) else None
    architecture = towers.config.architecture if towers else "forward"
    if towers and architecture == "stacked_bidirectional":
        nats, count = heads.masked(towers, options.masked_share, rng)
        return Losses(nats / count, {"gap": (nats, count)}), states
    with torch.autocast(states.device.type, torch.bfloat16, enabled=dtype == torch.bfloat16):
        project = network.next_features
        forward, after, next_sum = heads.tower("forward", states, project)
        next_count, previous_count, gap_count = batch.target_counts
        total = next_sum / max(next_count, 1)
        by_head = {"next": (next_sum, next_count)}
        # With both weights 0, the backward tower is skipped, and training is 1.7 times as fast.
        weighted = options.previous_weight + options.gap_weight > 0
        if towers and architecture == "two_towers" and weighted:
            initial, project = towers.initial_state("backward", len(states)), towers.previous
            backward, _, previous_sum = heads.tower("backward", initial, project)
            gap_sum = heads.gaps(towers, forward, backward)
            if previous_count:
                total = total + options.previous_weight * previous_sum / previous_count
                total = total + options.gap_weight * gap_sum / max(gap_count, 1)
            by_head["previous"] = previous_sum, previous_count
            by_head["gap"] = gap_sum, gap_count
    return Losses(total, by_head), after.detach()


class _Heads:
    """The nats of each head on one batch, with the negatives drawn for it."""

    def __init__(
        self,
        network: Network | LanguageModel,
        batch: Batch,
        device: torch.device,
        dtype: torch.dtype,
        sampler: NegativeSampler | None,
        rng: np.random.Generator,
    ) -> None:
        self._network, self._batch, self._device, self._dtype = network, batch, device, dtype
        self._negatives = sampler.draw(rng) if sampler else None
        self._gap_negatives = sampler.draw(rng, always=(END_OF_GAP,)) if sampler else None

    def tower(
        self, tower: Tower, states: Tensor, project: Callable[[Tensor], Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return outputs (T, B, H) of a tower, the states after them, and nats."""
        inputs, targets = self._to_device(f"{tower}_inputs", f"{tower}_targets")
        outputs, after = self._network.run_tower(tower, inputs, states, self._dtype)
        is_target = targets >= 0
        nats = self._tokens(project(outputs[is_target]), targets[is_target])
        return outputs, after, nats

    def gaps(self, network: Network, forward: Tensor, backward: Tensor) -> Tensor:
        """Return the nats of gap targets, from the outputs of both towers."""
        if not len(self._batch.gap_row):
            return network.gap_bias.new_zeros(())
        row, left, right = self._to_device("gap_row", "gap_forward", "gap_backward")
        position, kind, target = self._to_device("gap_position", "gap_kind", "gap_target")
        sides = forward[left, row], backward[right.clamp(min=0), row]
        features = network.gap_features(*sides, right >= 0, position, kind).to(self._dtype)
        weight, bias, negatives = network.embedding.weight, network.gap_bias, self._gap_negatives
        empty = position == 0  # no gap ends before its first token
        if negatives is None:
            return full_cross_entropy(features, target, weight, mask_controls(bias), empty)
        return sampled_cross_entropy(features, target, weight, bias, negatives, empty).sum()

    def masked(
        self, network: Network, share: float, rng: np.random.Generator
    ) -> tuple[Tensor, int]:
        """Return nats and number of the tokens that a stacked network reads as ``<blank>``."""
        is_text = self._batch.forward_inputs > END_OF_GAP
        chosen = is_text & (rng.random(is_text.shape) < share)
        if not chosen.any():
            chosen.flat[np.flatnonzero(is_text)[:1]] = True
        masked = torch.from_numpy(chosen).to(self._device)
        (inputs,) = self._to_device("forward_inputs")
        lengths = (inputs != END).sum(0)
        outputs = network.run_stacked(inputs.masked_fill(masked, BLANK), lengths, self._dtype)
        features = network.next_features(outputs[masked].to(network.output_bias.dtype))
        return self._tokens(features, inputs[masked]), int(chosen.sum())

    def _tokens(self, features: Tensor, targets: Tensor) -> Tensor:
        """Return the nats of next, previous or masked tokens."""
        features = features.to(self._dtype)
        weight, bias = self._network.embedding.weight, self._network.output_bias
        if self._negatives is None:
            return full_cross_entropy(features, targets, weight, mask_next(bias))
        return sampled_cross_entropy(features, targets, weight, bias, self._negatives).sum()

    def _to_device(self, *names: str) -> list[Tensor]:
        arrays = (getattr(self._batch, name) for name in names)
        return [torch.from_numpy(array).to(self._device) for array in arrays]
