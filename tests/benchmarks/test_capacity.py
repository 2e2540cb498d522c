"""Tests of benchmarks/capacity.py."""

import math

import pytest

from benchmarks.capacity import BATCH, ROUNDS, TYPISTS, Costs, plan, simulate
from benchmarks.open_loop import arrivals, percentile

COSTS = Costs(fixed_seconds=0.001, text_seconds=0.0005)
ALONE = ROUNDS * (COSTS.fixed_seconds + COSTS.text_seconds)


def test_costs_follow_from_the_peak_and_p50_at_half_of_it() -> None:
    """Those of a simulated replica are found again; rounds vary as latencies do."""
    peak = 1 / (ROUNDS * (COSTS.fixed_seconds / TYPISTS + COSTS.text_seconds))
    times = arrivals(peak / 2, 10, seed=1)
    p50_seconds = percentile(simulate(COSTS, times), 0.5)
    found = Costs.of(peak, times, p50_seconds)
    assert math.isclose(found.fixed_seconds, COSTS.fixed_seconds, rel_tol=0.05)
    assert math.isclose(found.text_seconds, COSTS.text_seconds, rel_tol=0.05)
    assert Costs.of(peak, times, p50_seconds, [2.0, 2.0, 4.0]).factors == [1, 1, 2]


def test_a_request_alone_takes_its_rounds() -> None:
    """Without others it never waits."""
    assert simulate(COSTS, [1.0, 2.0, 3.0]) == pytest.approx([ALONE] * 3)


def test_requests_share_rounds() -> None:
    """One that comes during a round waits for its end, and then takes part in all that follow."""
    fixed, text = COSTS.fixed_seconds, COSTS.text_seconds
    found = simulate(COSTS, [1.0, 1.0])
    assert found == pytest.approx([3 * fixed + 5 * text, 4 * fixed + 6 * text])


def test_a_batch_has_a_limit() -> None:
    """Texts beyond it wait until others are answered."""
    latencies = simulate(COSTS, [1.0] * (2 * BATCH + 1))
    assert len(latencies) == 2 * BATCH + 1
    full = ROUNDS * (COSTS.fixed_seconds + COSTS.text_seconds * BATCH)
    assert latencies[-1] > 1.9 * full


@pytest.mark.parametrize(("cpus", "is_faster"), [(1, False), (2, True)])
def test_replicas_on_one_cpu_gain_nothing(cpus: int, is_faster: bool) -> None:
    """Two replicas halve the load of each only if they have a CPU each."""
    times = arrivals(500, 20, seed=3)
    one = percentile(simulate(COSTS, times), 0.5)
    two = percentile(simulate(COSTS, times, replicas=2, cpus=cpus), 0.5)
    assert (two < one) == is_faster


def test_a_fleet_grows_with_its_writers() -> None:
    """Each plan keeps its p99, and ten million writers need a hundred times those of 100,000."""
    small, middle, large = plan(COSTS, resident_bytes=300_000_000)
    assert small["replicas"] == 2
    assert large["replicas"] == pytest.approx(100 * middle["replicas"], rel=0.1)
    assert large["gigabytes"] == pytest.approx(0.3 * large["replicas"])
    assert all(each["p99_seconds"] < 0.1 for each in (small, middle, large))
