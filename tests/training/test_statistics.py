"""Ratios, bootstrap intervals and calibration error."""

import numpy as np
import pytest

from training.evaluation.statistics import (
    at_edge,
    calibration_error,
    calibration_floor,
    interval,
    ratio,
    ratio_samples,
    reliability,
    resample,
)


def test_the_ends_of_a_grid_are_edges() -> None:
    """Both ends, but a least value of 0: nothing lies below it."""
    assert [value for value in (0.3, 0.6, 1.0) if at_edge(value, (0.3, 0.6, 1.0))] == [0.3, 1.0]
    assert [value for value in (0.0, 1.0, 5.0) if at_edge(value, (0.0, 1.0, 5.0))] == [5.0]


def test_ratio_weighs_lines() -> None:
    """A line of weight 3 counts like three lines."""
    numerators, denominators = np.array([1.0, 0.0]), np.array([2.0, 2.0])
    assert ratio(numerators, denominators, np.array([3.0, 1.0])) == pytest.approx(3 / 8)
    assert np.isnan(ratio(np.zeros(2), np.zeros(2), np.ones(2)))


def test_resampling_stays_inside_files() -> None:
    """Every round draws each file's number of lines, and draws differ between rounds and seeds only."""
    files = [0, 0, 0, 1, 1]
    counts = resample(files, 50, seed=1)
    assert counts.shape == (50, 5)
    assert (counts[:, :3].sum(axis=1) == 3).all()
    assert (counts[:, 3:].sum(axis=1) == 2).all()
    assert np.array_equal(counts, resample(files, 50, seed=1))
    assert not np.array_equal(counts, resample(files, 50, seed=2))


def test_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    """Of 95 % intervals of a share, between 88 % and 99 % hold the true share."""
    generator = np.random.default_rng(3)
    covered = 0
    for trial in range(200):
        hits = (generator.random(150) < 0.3).astype(float)
        ones = np.ones(150)
        low, high = interval(ratio_samples(hits, ones, ones, resample([0] * 150, 200, trial)))
        covered += low <= 0.3 <= high
    assert 0.88 <= covered / 200 <= 0.99


def test_interval_of_nothing_is_not_a_number() -> None:
    """Without samples there is no interval."""
    assert np.isnan(interval(np.full(3, np.nan))).all()


def test_pairing_narrows_the_interval_of_a_difference() -> None:
    """Lines that are hard for one contestant are hard for both: sharing the draws takes that out."""
    generator = np.random.default_rng(4)
    difficulty, ones = generator.random(300) * 10, np.ones(300)
    first, second = difficulty, difficulty + generator.normal(0.5, 0.1, 300)
    counts = resample([0] * 300, 500, seed=1)
    paired = interval(
        ratio_samples(second, ones, ones, counts) - ratio_samples(first, ones, ones, counts)
    )
    other = resample([0] * 300, 500, seed=2)
    unpaired = interval(
        ratio_samples(second, ones, ones, counts) - ratio_samples(first, ones, ones, other)
    )
    assert paired[0] > 0.4
    assert paired[1] - paired[0] < (unpaired[1] - unpaired[0]) / 5


def test_calibration_error_by_hand() -> None:
    """Two bins of two answers: |1/2 - 0.15| and |2/2 - 0.75|, each half of the mass."""
    probabilities = np.array([0.7, 0.1, 0.8, 0.2])
    correct = np.array([True, False, True, True])
    assert calibration_error(probabilities, correct, np.ones(4), bins=2) == pytest.approx(
        (0.35 + 0.25) / 2
    )


def test_reliability_by_hand() -> None:
    """Each bin's mean claim and share right, the least sure first; bins that nothing falls into are left out."""
    probabilities = np.array([0.7, 0.1, 0.8, 0.2])
    correct = np.array([True, False, True, True])
    claimed, right, share = reliability(probabilities, correct, np.ones(4), bins=2)
    assert claimed == pytest.approx([0.15, 0.75])
    assert right == pytest.approx([0.5, 1.0])
    assert share == pytest.approx([0.5, 0.5])
    claimed, _, share = reliability(probabilities, correct, np.array([0.0, 0.0, 9.0, 0.0]), bins=2)
    assert claimed == pytest.approx([0.8])
    assert share == pytest.approx([1.0])


def test_calibration_bins_hold_equal_weight() -> None:
    """Weights decide where bins end: an answer of weight 3 fills a bin that three answers of weight 1 would."""
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
