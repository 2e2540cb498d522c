"""Ratios, calibration errors, and bootstrap intervals of both.

Ratios are sums over lines (nats / characters, hits / questions). If lines of a file were sampled,
the weight of each is lines of the file / lines sampled. The bootstrap draws lines with replacement
within each file. Systems that answered the same lines share the draws, so their differences are
paired.
"""

from collections.abc import Callable, Sequence

import numpy as np

from model.runtime import Float64Array

INTERVAL_PERCENT = 95.0
CALIBRATION_BINS = 15


def resample(files: Sequence[int], rounds: int, seed: int) -> Float64Array:
    """Draw lines with replacement within each file; return how often each was, (rounds, lines).

    *files* has the file number of each line.
    """
    generator = np.random.default_rng(seed)
    file_of = np.asarray(files)
    counts = np.zeros((rounds, len(file_of)))
    for file in np.unique(file_of):
        lines = np.flatnonzero(file_of == file)
        even = np.full(len(lines), 1 / len(lines))
        counts[:, lines] = generator.multinomial(len(lines), even, size=rounds)
    return counts


def bootstrap(
    statistic: Callable[[Float64Array], float], weights: Float64Array, counts: Float64Array
) -> tuple[float, Float64Array]:
    """Return a statistic of weights (n,), and its samples (rounds,) for drawn counts (rounds, n).

    Resampling adds noise, which raises calibration errors: the samples show the spread, and are
    moved so that their mean is the estimate. Rounds without weight give NaN.
    """
    value = statistic(weights)
    samples = np.array([statistic(weights * drawn) for drawn in counts])
    return value, samples + value - np.nanmean(samples)


def ratio(numerators: Float64Array, denominators: Float64Array, weights: Float64Array) -> float:
    """Return the weighted ratio of sums; NaN if the denominators are 0."""
    total = float(weights @ denominators)
    return float(weights @ numerators) / total if total > 0 else float("nan")


def interval(samples: Float64Array) -> tuple[float, float]:
    """Return the central 95 % of the samples; rounds with NaN are left out."""
    tail = (100 - INTERVAL_PERCENT) / 2
    low, high = np.nanpercentile(samples, [tail, 100 - tail])
    return float(low), float(high)


def reliability(
    probabilities: Float64Array,
    correct: Float64Array,
    weights: Float64Array,
    bins: int = CALIBRATION_BINS,
) -> Float64Array:
    """Compute a reliability diagram with bins of equal weight.

    Nguyen & O'Connor 2015, Posterior calibration and exploratory analysis for NLP models.

    The arrays are (answers,): claimed probabilities, 1 for right answers and else 0, and weights,
    not negative and not all 0. There are at least as many answers as *bins*.
    Return the mean claim, the share of right answers and the share of the weight, (3, bins),
    without empty bins.
    """
    total = float(weights.sum())
    order = np.argsort(probabilities, kind="stable")
    weights = weights[order]
    middles = np.cumsum(weights) - weights / 2
    number = np.minimum((middles * bins / total).astype(np.int64), bins - 1)
    sums = np.array(
        [
            np.bincount(number, weights=each, minlength=bins)
            for each in (weights * probabilities[order], weights * correct[order], weights)
        ]
    )
    claimed, right, weight = sums[:, sums[2] > 0]
    return np.array([claimed / weight, right / weight, weight / total])


def calibration_error(
    probabilities: Float64Array,
    correct: Float64Array,
    weights: Float64Array,
    bins: int = CALIBRATION_BINS,
) -> float:
    """Return the expected calibration error; NaN if no answer has weight.

    It is the mean of |share right - mean claim| over the bins of :func:`reliability`.
    """
    if float(weights.sum()) <= 0:
        return float("nan")
    claimed, right, share = reliability(probabilities, correct, weights, bins)
    return float(share @ np.abs(right - claimed))
