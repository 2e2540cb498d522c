"""The training benchmark: arms on one network, and its arithmetic."""

import pytest

pytest.importorskip("torch")

from benchmarks.training import measure, operations
from model.config import NetworkConfig


def test_operations_are_six_a_weight_of_the_matrix_products() -> None:
    """One LSTM layer of 4, embedding 2, a softmax over 10: 96 + 8 + 20 weights."""
    network = NetworkConfig(
        10,
        architecture="forward",
        backward_layers=0,
        gap_hidden_size=0,
        embedding_size=2,
        hidden_size=4,
        forward_layers=1,
    )
    assert operations(network, 10) == 6 * (4 * 4 * (2 + 4) + 4 * 2 + 2 * 10)


def test_every_arm_is_timed_against_the_usual_loop_of_its_own_turn(tmp_path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    """A short run has five arms, the first at ratio 1; all have a speed."""
    monkeypatch.setattr("benchmarks.training.ROWS", 2)
    monkeypatch.setattr("benchmarks.training.WINDOW", 8)
    monkeypatch.setattr("benchmarks.training.SQUARE", 64)
    monkeypatch.setattr("benchmarks.training.LINES", 200)
    found = measure(tmp_path, repeats=1, seconds=0.01, threads=1)
    assert [arm["ratio"] for arm in found["arms"]][:1] == [1.0]
    assert len(found["arms"]) == 5
    assert all(arm["name"] and arm["tokens_per_second"] > 0 for arm in found["arms"])
