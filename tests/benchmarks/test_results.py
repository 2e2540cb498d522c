"""From records to the table of what must be shown."""

from typing import Any

import pytest

from benchmarks.results import PROMISES, Promise, Spread, by_repeat, promised, ratio, spread


def saturation(repeat: int, workload: str, contestant: str, per_second: float) -> dict[str, Any]:
    """A record of throughput."""
    where = {
        "repeat": repeat,
        "measure": "saturation",
        "workload": workload,
        "contestant": contestant,
    }
    return {**where, "per_second": per_second}


def open_loop(
    repeat: int, contestant: str, of: str, share: float, p50: float, p99: float
) -> dict[str, Any]:
    """A record of latency on the keystroke trace."""
    where = {
        "repeat": repeat,
        "measure": "open_loop",
        "workload": "keystrokes",
        "contestant": contestant,
    }
    return {**where, "of": of, "share": share, "p50_ms": p50, "p99_ms": p99}


def measured(records: list[dict[str, Any]], beginning: str) -> Spread | None:
    """What the records say of the promise whose text begins so."""
    return next(found for promise, found in promised(records) if promise.text.startswith(beginning))


def test_ratios_are_taken_within_a_repeat() -> None:
    """A slow minute that hits both contestants leaves their ratio alone."""
    records = []
    for repeat, pace in enumerate((1.0, 0.2, 0.5)):
        records += [
            saturation(repeat, "keystrokes", "lacuna", 3000 * pace),
            saturation(repeat, "keystrokes", "reference", 6000 * pace),
        ]
    assert measured(records, "keystroke trace: saturation") == Spread(0.5, 0.5, 0.5, 3)


def test_naive_is_the_better_of_one_and_two_threads() -> None:
    """The peer is taken at its best in each repeat."""
    records = [
        saturation(0, "cold", "lacuna", 1000),
        saturation(0, "cold", "naive", 100),
        saturation(0, "cold", "naive-2-threads", 125),
        saturation(0, "cold", "naive-int8", 500),
    ]
    assert measured(records, "cold 20-token `/predict`: throughput / naive") == Spread(8, 8, 8, 1)


def test_added_latency_compares_the_same_rate() -> None:
    """At half of Lacuna's load the reference is measured at that rate too, not at half of its own."""
    records = [
        open_loop(0, "lacuna", "lacuna", 0.5, 1.0, 3.0),
        open_loop(0, "reference", "reference", 0.5, 0.9, 2.0),
        open_loop(0, "reference", "lacuna", 0.5, 0.4, 1.0),
    ]
    found = measured(records, "keystroke trace: p50 added")
    assert found is not None
    assert found.median == pytest.approx(0.6)


def test_tails_compare_each_at_its_own_load() -> None:
    """p99 / p50 at 70 % of a contestant's own saturation, Lacuna's over the reference's."""
    records = [
        open_loop(0, "lacuna", "lacuna", 0.7, 1.0, 6.0),
        open_loop(0, "reference", "reference", 0.7, 0.5, 1.0),
    ]
    assert measured(records, "p99 / p50") == Spread(3, 3, 3, 1)


def test_peak_memory_is_the_greatest_of_all_repeats() -> None:
    """A peak does not fall; its median over repeats would hide the last one."""
    records = [
        {"repeat": repeat, "measure": "memory", "contestant": "lacuna", "peak_mb": peak}
        for repeat, peak in enumerate((150.0, 160.0, 260.0))
    ]
    found = measured(records, "peak RSS")
    assert found is not None
    assert found.median == 260.0


@pytest.mark.parametrize(
    ("better", "value", "verdict"),
    [
        ("more", 21, "aim"),
        ("more", 8, "floor"),
        ("more", 7.9, "missed"),
        ("less", 0.4, "aim"),
        ("less", 30, "missed"),
    ],
)
def test_verdicts_know_which_direction_is_good(better: Any, value: float, verdict: str) -> None:
    """At least for a throughput is at most for a time."""
    floor, aim = (8, 20) if better == "more" else (1.5, 0.5)
    promise = Promise("", better, floor, aim, "", lambda _: None)
    assert promise.verdict(Spread(value, value, value, 1)) == verdict
    assert promise.verdict(None) == "not measured"


def test_what_was_not_measured_has_no_figure() -> None:
    """Missing contestants, figures and divisors of 0 give no value rather than an error."""
    assert all(found is None for _, found in promised([]))
    assert all(found is None for _, found in promised([saturation(0, "keystrokes", "lacuna", 1.0)]))
    assert (ratio(1.0, 0.0), ratio(None, 1.0), ratio(3.0, 2.0)) == (None, None, 1.5)
    assert len(PROMISES) == 9


def test_spread_is_over_repeats() -> None:
    """Median, least and greatest of one figure."""
    records = [
        saturation(repeat, "cold", "naive", value) for repeat, value in enumerate((3.0, 1.0, 2.0))
    ]
    assert spread(records, "per_second", measure="saturation") == Spread(2, 1, 3, 3)
    assert spread(records, "p50_ms", measure="saturation") is None
    assert len(by_repeat(records)) == 3
