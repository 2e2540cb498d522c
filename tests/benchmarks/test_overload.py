"""The overload drill counts correctly, and runs on real processes."""

import math
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.open_loop import Outcome
from benchmarks.overload import fleet, goodput, measure, overload, overload_table
from benchmarks.systems import lacuna
from benchmarks.texts import read_lines


def test_goodput_counts_answers_in_time_of_the_last_two_thirds() -> None:
    """Early, late, unsent and unanswered requests do not count."""
    times = [float(second) for second in range(30)]
    latencies = [1.0] * 15 + [2.5] * 4 + [math.inf] * 11
    waits = [0.0] * 20 + [math.inf] * 10
    found = goodput(times, Outcome(latencies, waits, Counter({200: 19}), 30.0), 30.0)
    assert found["goodput_per_second"] == 5 / 20
    assert found["accepted_p99_seconds"] == 2.5
    assert (found["offered_per_second"], found["unsent"], found["unanswered"]) == (1, 10, 1)
    nothing = goodput([20.0], Outcome([math.inf], [0.0], Counter({429: 1}), 30.0), 30.0)
    assert (nothing["goodput_per_second"], nothing["accepted_p99_seconds"]) == (0, None)


@pytest.mark.skipif(shutil.which("haproxy") is None, reason="haproxy is not installed")
def test_overload_of_real_processes(tiny_checkpoint: Path) -> None:
    """Behind HAProxy and bare, the excess is refused with 429 and the rest is answered."""
    systems = [
        replace(lacuna("proxied"), checkpoint=tiny_checkpoint, proxy="client"),
        replace(lacuna("bare"), checkpoint=tiny_checkpoint),
    ]
    found = measure(systems, read_lines(None), 1, 1.0, overload)
    assert [(each["system"], each["route"]) for each in found] == [
        ("proxied", "/predict"),
        ("bare", "/predict"),
        ("proxied", "/cloze"),
        ("bare", "/cloze"),
    ]
    for each in found:
        assert set(each["status"]) <= {"200", "429", "504"}
        assert each["status"]["200"] > 0
    assert found[0]["status"]["429"] > 0
    assert overload_table(found).count("\n") == 6


@pytest.mark.skipif(shutil.which("haproxy") is None, reason="haproxy is not installed")
def test_fleet_of_real_processes(tiny_checkpoint: Path) -> None:
    """Both systems are measured; two replicas lose fewer requests than one process restarting."""
    single = replace(lacuna("one"), checkpoint=tiny_checkpoint, proxy="server")
    systems = [single, replace(single, name="two", replicas=2)]
    found = measure(systems, read_lines(None), 1, 1.0, fleet)
    for one, two in (found[:2], found[2:]):
        assert one["route"] == two["route"]
        assert one["lost_share"] > two["lost_share"]
        assert 0 < two["p50_seconds"] < math.inf
    assert found[1]["cache_hit_share"] > 0
    assert overload_table(found).count("\n") == 6
