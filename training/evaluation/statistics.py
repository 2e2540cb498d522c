"""Estimates with bootstrap intervals, and calibration errors.

Most figures are ratios of sums over lines (nats / characters, hits / questions). If lines of a file
were sampled, the weight of each is lines of the file / lines sampled. The bootstrap draws lines
with replacement within each file. Systems that answered the same lines share the draws, so their
differences are paired.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from model.runtime import Float64Array

INTERVAL_PERCENT = 95.0


def resample(files: Sequence[int], rounds: int, seed: int) -> Float64Array:
    """Draw lines with replacement within each file.

    Args:
        files: file number of each line, (lines,).
        rounds: bootstrap rounds.
        seed: of the draws.

    Returns:
        How often each line was drawn, (rounds, lines).
    """
    generator = np.random.default_rng(seed)
    file_of = np.asarray(files)
    counts = np.zeros((rounds, len(file_of)))
    for file in np.unique(file_of):
        lines = np.flatnonzero(file_of == file)
        even = np.full(len(lines), 1 / len(lines))
        counts[:, lines] = generator.multinomial(len(lines), even, size=rounds)
    return counts


def ratio(numerators: Float64Array, denominators: Float64Array, weights: Float64Array) -> float:
    """Return the weighted ratio of sums over lines; NaN if the denominators are 0."""
    total = float(weights @ denominators)
    return float(weights @ numerators) / total if total > 0 else float("nan")


def ratio_samples(
    numerators: Float64Array,
    denominators: Float64Array,
    weights: Float64Array,
    counts: Float64Array,
) -> Float64Array:
    """Return :func:`ratio` of every bootstrap round, (rounds,)."""
    drawn = counts @ (weights * denominators)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray((counts @ (weights * numerators)) / drawn)


def interval(samples: Float64Array) -> tuple[float, float]:
    """Return the central 95 % of the finite samples; NaN without any."""
    finite = samples[np.isfinite(samples)]
    if len(finite) == 0:
        return float("nan"), float("nan")
    tail = (100 - INTERVAL_PERCENT) / 2
    low, high = np.percentile(finite, [tail, 100 - tail])
    return float(low), float(high)


def reliability(
    probabilities: Float64Array, correct: NDArray[np.bool_], weights: Float64Array, bins: int = 15
) -> tuple[Float64Array, Float64Array, Float64Array]:
    """Compute a reliability diagram with bins of equal weight.

    Nguyen & O'Connor 2015, Posterior calibration and exploratory analysis for NLP models.

    Args:
        probabilities: claimed for each answer, (answers,).
        correct: True for right answers, (answers,).
        weights: (answers,), not negative, not all 0.
        bins: at most as many as there are answers.

    Returns:
        The mean claim, the share of right answers and the share of the weight, each (bins,),
        without empty bins.
    """
    total = float(weights.sum())
    order = np.argsort(probabilities, kind="stable")
    sorted_weights = weights[order]
    middles = np.cumsum(sorted_weights) - sorted_weights / 2
    number = np.minimum((middles * bins / total).astype(np.int64), bins - 1)
    claimed = np.bincount(number, weights=sorted_weights * probabilities[order], minlength=bins)
    right = np.bincount(number, weights=sorted_weights * correct[order], minlength=bins)
    weight = np.bincount(number, weights=sorted_weights, minlength=bins)
    used = weight > 0
    return claimed[used] / weight[used], right[used] / weight[used], weight[used] / total


def calibration_error(
    probabilities: Float64Array, correct: NDArray[np.bool_], weights: Float64Array, bins: int = 15
) -> float:
    """Return the expected calibration error; NaN if no answer has weight.

    It is the mean of |share right - mean claim| over the bins of :func:`reliability`.
    """
    if float(weights.sum()) <= 0:
        return float("nan")
    claimed, right, share = reliability(probabilities, correct, weights, bins)
    return float(share @ np.abs(right - claimed))


def calibration_floor(
    probabilities: Float64Array, weights: Float64Array, seed: int, bins: int = 15, rounds: int = 100
) -> float:
    """Return the mean calibration error of calibrated answers with these probabilities."""
    generator = np.random.default_rng(seed)
    draws = generator.random((rounds, len(probabilities))) < probabilities
    return float(np.mean([calibration_error(probabilities, draw, weights, bins) for draw in draws]))
