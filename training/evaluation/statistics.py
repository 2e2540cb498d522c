"""Estimates with bootstrap intervals, and calibration error. Knows lines and files, not what was measured.

Every figure but calibration error is a ratio of sums over lines (nats / characters, hits / questions). Where a file's
lines were sampled, each stands for more than itself: its weight is lines of the file / lines sampled, so a figure over
all files weighs each file by its lines. The bootstrap draws lines with replacement inside each file (stratified), and
contestants that answered the same lines share the draws, which pairs them.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Float64Array = NDArray[np.float64]
INTERVAL_PERCENT = 95.0


def at_edge(value: float, grid: Sequence[float]) -> bool:
    """Whether the best of a grid is its least or greatest, so that a better one may lie beyond; nothing is below 0."""
    return value == max(grid) or value == min(grid) > 0


def resample(files: Sequence[int], rounds: int, seed: int) -> Float64Array:
    """Draw lines with replacement inside each file.

    Args:
        files: file number of each line, (lines,).
        rounds: bootstrap rounds.
        seed: of the draws; the same files, rounds and seed give the same draws.

    Returns:
        How often each line was drawn, (rounds, lines).
    """
    generator = np.random.default_rng(seed)
    file_of = np.asarray(files)
    counts = np.zeros((rounds, len(file_of)))
    for file in np.unique(file_of):
        lines = np.flatnonzero(file_of == file)
        counts[:, lines] = generator.multinomial(
            len(lines), np.full(len(lines), 1 / len(lines)), size=rounds
        )
    return counts


def ratio(numerators: Float64Array, denominators: Float64Array, weights: Float64Array) -> float:
    """Weighted ratio of sums over lines; NaN where there is nothing to divide by."""
    total = float(weights @ denominators)
    return float(weights @ numerators) / total if total > 0 else float("nan")


def ratio_samples(
    numerators: Float64Array,
    denominators: Float64Array,
    weights: Float64Array,
    counts: Float64Array,
) -> Float64Array:
    """:func:`ratio` in every bootstrap round, (rounds,); NaN in rounds that drew nothing to divide by."""
    drawn = counts @ (weights * denominators)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray((counts @ (weights * numerators)) / drawn)


def interval(samples: Float64Array) -> tuple[float, float]:
    """The central 95 % of bootstrap samples; (NaN, NaN) without any."""
    kept = samples[np.isfinite(samples)]
    if len(kept) == 0:
        return float("nan"), float("nan")
    tail = (100 - INTERVAL_PERCENT) / 2
    low, high = np.percentile(kept, [tail, 100 - tail])
    return float(low), float(high)


def reliability(
    probabilities: Float64Array, correct: NDArray[np.bool_], weights: Float64Array, bins: int = 15
) -> tuple[Float64Array, Float64Array, Float64Array]:
    """What was claimed and what was right, by bins of equal mass: the points of a reliability diagram.

    Answers are sorted by probability and divided into *bins* of equal weight.

    Args:
        probabilities: what was claimed for each answer, (answers,).
        correct: whether it was right, (answers,).
        weights: (answers,), not negative, not all 0.
        bins: at most as many as there are answers.

    Returns:
        The mean claim, the share that was right and the share of the weight, each (bins,), empty bins left out.

    Nguyen & O'Connor 2015, Posterior calibration and exploratory analysis for NLP models (adaptive bins).
    """
    total = float(weights.sum())
    order = np.argsort(probabilities, kind="stable")
    mass = weights[order]
    # The bin of an answer is where the middle of its mass lies
    number = np.minimum(((np.cumsum(mass) - mass / 2) * bins / total).astype(np.int64), bins - 1)
    claimed = np.bincount(number, weights=mass * probabilities[order], minlength=bins)
    right = np.bincount(number, weights=mass * correct[order], minlength=bins)
    own = np.bincount(number, weights=mass, minlength=bins)
    kept = own > 0
    return claimed[kept] / own[kept], right[kept] / own[kept], own[kept] / total


def calibration_error(
    probabilities: Float64Array, correct: NDArray[np.bool_], weights: Float64Array, bins: int = 15
) -> float:
    """Expected calibration error: the mean over the bins of :func:`reliability` of |share right - mean claim|.

    NaN where nothing has weight.
    """
    if float(weights.sum()) <= 0:
        return float("nan")
    claimed, right, share = reliability(probabilities, correct, weights, bins)
    return float(share @ np.abs(right - claimed))


def calibration_floor(
    probabilities: Float64Array, weights: Float64Array, seed: int, bins: int = 15, rounds: int = 100
) -> float:
    """The mean calibration error that perfectly calibrated answers of these probabilities show by chance alone."""
    generator = np.random.default_rng(seed)
    draws = generator.random((rounds, len(probabilities))) < probabilities
    return float(np.mean([calibration_error(probabilities, draw, weights, bins) for draw in draws]))
