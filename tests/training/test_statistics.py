"""Ratios, bootstrap intervals and calibration errors."""

from functools import partial

import numpy as np
import pytest

from training.evaluation.statistics import (
    bootstrap,
    calibration_error,
    interval,
    ratio,
    reliability,
    resample,
)

PROBABILITIES = np.array([0.7, 0.1, 0.8, 0.2])
CORRECT = np.array([1.0, 0.0, 1.0, 1.0])


def test_a_ratio_weighs_lines() -> None:
    """A line of weight 3 counts like three lines."""
    numerators, denominators = np.array([1.0, 0.0]), np.array([2.0, 2.0])
    assert ratio(numerators, denominators, np.array([3.0, 1.0])) == pytest.approx(3 / 8)
    assert np.isnan(ratio(np.zeros(2), np.zeros(2), np.ones(2)))


def test_resampling_stays_within_files() -> None:
    """Every round draws as many lines of a file as it has; a seed fixes the draws."""
    files = [0, 0, 0, 1, 1]
    counts = resample(files, 50, seed=1)
    assert counts.shape == (50, 5)
    assert (counts[:, :3].sum(axis=1) == 3).all()
    assert (counts[:, 3:].sum(axis=1) == 2).all()
    assert np.array_equal(counts, resample(files, 50, seed=1))
    assert not np.array_equal(counts, resample(files, 50, seed=2))


def test_an_interval_covers_the_truth_as_often_as_it_says() -> None:
    """Of 95 % intervals of a share, 88 % to 99 % contain the true share."""
    generator, ones, covered = np.random.default_rng(3), np.ones(150), 0
    for trial in range(100):
        hits = (generator.random(150) < 0.3).astype(float)
        drawn = resample([0] * 150, 200, trial)
        low, high = interval(bootstrap(partial(ratio, hits, ones), ones, drawn)[1])
        covered += low <= 0.3 <= high
    assert 0.88 <= covered / 100 <= 0.99


def test_pairing_narrows_the_interval_of_a_difference() -> None:
    """Shared draws take out the difficulty of lines, which two systems have in common."""
    generator, ones = np.random.default_rng(4), np.ones(300)
    first = generator.random(300) * 10
    second = first + generator.normal(0.5, 0.1, 300)
    draws = [resample([0] * 300, 500, seed) for seed in (1, 2)]
    of_first, of_second = partial(ratio, first, ones), partial(ratio, second, ones)
    _, samples = bootstrap(of_second, ones, draws[0])
    paired, unpaired = (interval(samples - bootstrap(of_first, ones, each)[1]) for each in draws)
    assert paired[0] > 0.4
    assert paired[1] - paired[0] < (unpaired[1] - unpaired[0]) / 5


def test_reliability_and_calibration_error_by_hand() -> None:
    """Two bins of two answers; empty bins are left out."""
    claimed, right, share = reliability(PROBABILITIES, CORRECT, np.ones(4), bins=2)
    assert claimed == pytest.approx([0.15, 0.75])
    assert right == pytest.approx([0.5, 1.0])
    assert share == pytest.approx([0.5, 0.5])
    error = calibration_error(PROBABILITIES, CORRECT, np.ones(4), bins=2)
    assert error == pytest.approx((0.35 + 0.25) / 2)
    weights = np.array([3.0, 1.0, 1.0, 1.0])  # an answer of weight 3 fills a bin alone
    error = calibration_error(np.array([0.1, 0.5, 0.5, 0.5]), np.array([0, 1.0, 1, 0]), weights, 2)
    assert error == pytest.approx((0.1 + abs(2 / 3 - 0.5)) / 2)
    weights = np.array([0.0, 0.0, 9.0, 0.0])
    claimed, _, share = reliability(PROBABILITIES, CORRECT, weights, bins=2)
    assert (claimed.tolist(), share.tolist()) == ([0.8], [1.0])


def test_samples_of_a_calibration_error_are_centred() -> None:
    """Resampling raises the error of calibrated answers; the interval contains the estimate."""
    generator, ones = np.random.default_rng(5), np.ones(400)
    probabilities = generator.random(400)
    correct = (generator.random(400) < probabilities).astype(float)
    error = partial(calibration_error, probabilities, correct)
    value, samples = bootstrap(error, ones, resample([0] * 400, 100, 1))
    assert value == error(ones) < 0.1
    assert samples.mean() == pytest.approx(value)
    assert interval(samples)[0] < value < interval(samples)[1]
