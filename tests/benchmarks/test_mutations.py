"""Altered checkpoints are refused by name, or serve what their digest says."""

from pathlib import Path
from typing import Any

import pytest

from benchmarks.mutations import BAD, KINDS, Verdict, judge, report, run
from benchmarks.trial import Trials, is_sane

COUNT = 3 * len(KINDS)


def test_no_altered_checkpoint_is_wrongly_accepted(tiny_checkpoint: Path) -> None:
    """Some sixty mutations of all kinds, each in a process of its own; `make fuzz` tries 600 of the bundled one."""
    found = report(list(run(tiny_checkpoint, COUNT, seed=1)))
    assert found["bad"] == []
    assert found["mutations"] == COUNT
    assert set(found["kinds"]) == set(KINDS)
    assert found["kinds"]["overwritten"] == {"refused": 3}
    assert min(found["refused"], found["same"], found["told"]) > 0


ORIGINAL: dict[str, Any] = {
    "outcome": "answered",
    "digest": "a",
    "answers": [1],
    "sane": True,
    "peak_mib": 100,
}


@pytest.mark.parametrize(
    ("found", "verdict"),
    [
        ({}, "same"),
        ({"digest": "b"}, "same"),
        ({"answers": [2]}, "wrong"),
        ({"answers": [2], "digest": "b"}, "told"),
        ({"answers": [2], "digest": "b", "sane": False}, "wrong"),
        ({"outcome": "refused"}, "refused"),
        ({"outcome": "failed"}, "broken"),
        ({"outcome": "ended"}, "broken"),
        ({"outcome": "refused", "peak_mib": 5000}, "broken"),
    ],
)
def test_verdicts(found: dict[str, Any], verdict: Verdict) -> None:
    """Other answers need another digest, and must be some network's; nothing else than a refusal may end a trial."""
    assert judge(ORIGINAL, ORIGINAL | found) == verdict
    assert (verdict in BAD) == (verdict in ("wrong", "broken"))


@pytest.mark.parametrize(
    "answer",
    [
        {"candidates": [{"probability": 0.2}, {"probability": 0.3}]},
        {"candidates": [{"probability": float("nan")}]},
        {"blanks": [{"candidates": [{"probability": 0.7}, {"probability": 0.6}]}]},
        {"log_probability": float("-inf")},
        {"log_probability": 0.5},
    ],
)
def test_what_no_network_could_say(answer: dict[str, Any]) -> None:
    """Shares that rise, exceed 1 together or are none, and logarithms that are none or of more than 1."""
    assert not is_sane(answer)
    assert is_sane(
        {"candidates": [{"probability": 0.6}, {"probability": 0.4}], "log_probability": -1.0}
    )


def test_a_trial_tells_errors_and_crashes_apart(tmp_path: Path, tiny_checkpoint: Path) -> None:
    """A missing directory is refused, a good one answered, and the process goes on after either."""
    with Trials() as trials:
        assert trials.attempt(tmp_path / "none")["outcome"] == "refused"
        assert trials.attempt(tiny_checkpoint)["outcome"] == "answered"
        refused = trials.attempt(tmp_path / "none")
    assert refused["message"].startswith(str(tmp_path / "none"))
