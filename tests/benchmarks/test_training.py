"""The training benchmark runs every arm on one network."""

from pathlib import Path

import pytest

pytest.importorskip("torch")

from benchmarks import training


def test_every_arm_is_compared_with_the_usual_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A short run has five arms, the first with ratio 1."""
    for name, value in (("ROWS", 2), ("WINDOW", 8), ("LINES", 200)):
        monkeypatch.setattr(training, name, value)
    found = training.measure(tmp_path, repeats=1, seconds=0.01, threads=1)
    assert found["arms"][0]["ratio"] == 1.0
    assert len(found["arms"]) == 5
    assert all(arm["tokens_per_second"] > 0 for arm in found["arms"])
