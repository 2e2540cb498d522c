"""The soak runs on a real process, and what must not happen is a failure."""

from pathlib import Path

import pytest

from benchmarks.soak import failures, growth, run
from benchmarks.texts import read_lines


def test_a_short_soak_of_a_real_process(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """Questions, bad input, hang-ups and reloads: nothing fails."""
    found = run(tiny_checkpoint, tmp_path, read_lines(None), 6.0, reloads=True)
    assert failures(found) == []
    assert {"200", "401", "422", "hung_up"} <= found["counts"].keys()
    assert found["reloads"].keys() == {"200", "422"}
    assert found["exit_status"] == 0


def test_memory_that_grows_is_not_flat() -> None:
    """A cache that fills at first does not leak; memory that grows on does. The slope ignores the
    peaks of reloads.
    """
    filling = [(float(second), min(200.0, 100.0 + second)) for second in range(600)]
    level = {"resident_mib": {"first": 200.0, "last": 200.0}, "mib_per_hour": 0.0, "flat": True}
    assert growth(filling) == level
    leaking = growth([(float(second), 280.0 + 12 * second / 1800) for second in range(0, 1800, 6)])
    assert leaking["mib_per_hour"] == pytest.approx(24)
    assert not leaking["flat"]
    peaks = [(float(second), 350.0 if second % 50 < 10 else 280.0) for second in range(600)]
    assert growth(peaks)["flat"]


@pytest.mark.parametrize(
    "change",
    [
        {"counts": {"200": 1, "500": 1}},
        {"counts": {"200": 1, "broken": 1}},
        {"reloads": {"200": 1, "500": 1}},
        {"leaked_descriptors": 1},
        {"seconds": 1800.0, "flat": False},
    ],
)
def test_one_failure_is_enough(change: dict[str, object]) -> None:
    """A 5xx, a broken connection, a leak, or memory that grows during a long soak."""
    good = {"seconds": 60.0, "counts": {"200": 9}, "reloads": {"200": 2, "422": 1}}
    good |= {"leaked_descriptors": 0, "flat": False, "resident_mib": {"first": 1, "last": 2}}
    assert failures(good) == []
    assert len(failures(good | change)) == 1
