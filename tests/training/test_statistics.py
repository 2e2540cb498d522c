"""Ratios, bootstrap intervals and calibration errors."""

import numpy as np
import pytest

from training.evaluation.statistics import (
    calibration_error,
    calibration_floor,
    interval,
    ratio,
    ratio_samples,
    reliability,
    resample,
)

PROBABILITIES = np.array([0.7, 0.1, 0.8, 0.2])
CORRECT = np.array([True, False, True, True])


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
    for trial in range(200):
        hits = (generator.random(150) < 0.3).astype(float)
        low, high = interval(ratio_samples(hits, ones, ones, resample([0] * 150, 200, trial)))
        covered += low <= 0.3 <= high
    assert 0.88 <= covered / 200 <= 0.99
    assert np.isnan(interval(np.full(3, np.nan))).all()


def test_pairing_narrows_the_interval_of_a_difference() -> None:
    """Shared draws take out the difficulty of lines, which two systems have in common."""
    generator, ones = np.random.default_rng(4), np.ones(300)
    first = generator.random(300) * 10
    second = first + generator.normal(0.5, 0.1, 300)
    draws = [resample([0] * 300, 500, seed) for seed in (1, 2)]
    seconds = ratio_samples(second, ones, ones, draws[0])
    paired, unpaired = (
        interval(seconds - ratio_samples(first, ones, ones, each)) for each in draws
    )
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
    weights = np.array([0.0, 0.0, 9.0, 0.0])
    claimed, _, share = reliability(PROBABILITIES, CORRECT, weights, bins=2)
    assert (claimed.tolist(), share.tolist()) == ([0.8], [1.0])


def test_calibration_bins_have_equal_weight() -> None:
    """An answer of weight 3 fills a bin like three answers of weight 1."""
    probabilities, correct = np.array([0.1, 0.5, 0.5, 0.5]), np.array([False, True, True, False])
    by_weight = calibration_error(probabilities, correct, np.array([3.0, 1, 1, 1]), bins=2)
    assert by_weight == pytest.approx((0.1 + abs(2 / 3 - 0.5)) / 2)


def test_calibrated_answers_err_by_chance_only() -> None:
    """The floor is the error of calibrated answers; overconfident ones are far above it."""
    generator = np.random.default_rng(5)
    probabilities, ones = generator.random(1500), np.ones(1500)
    correct = generator.random(1500) < probabilities
    floor = calibration_floor(probabilities, ones, seed=1)
    assert 0 < floor < 0.05
    assert calibration_error(probabilities, correct, ones) < 2 * floor
    assert calibration_error(np.sqrt(probabilities), correct, ones) > 4 * floor
