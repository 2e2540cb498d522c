"""The comparison of systems: real processes in turns, tables, and a peer that computes the same
network.
"""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks import serving
from benchmarks.peers.torch_predictor import TorchPredictor
from benchmarks.processes import ServerError
from benchmarks.systems import PEERS, System, lacuna
from benchmarks.texts import read_lines
from model.checkpoint import load_checkpoint
from model.runtime import initial_states
from model.torch_runtime import open_torch_runtime


def test_systems_are_measured_in_turns(tiny_checkpoint: Path) -> None:
    """Each system gets each workload that it answers, and each table has a row for it."""
    systems = [replace(each, checkpoint=tiny_checkpoint) for each in (lacuna(), PEERS[0])]
    found = serving.measure(systems, read_lines(None), [*serving.WORKLOADS], 1, 0.5)
    measured = [(each["system"], each.get("workload")) for each in found]
    for workload in (*serving.WORKLOADS, "lengths", None):
        assert ("lacuna", workload) in measured
        assert ("reference", workload) in measured
    assert all(each.get("failures", 0) == 0 for each in found)
    for table in (serving.throughput_table(found), serving.latency_table(found)):
        assert "| lacuna |" in table
        assert "–" not in table


def test_two_checkouts_are_compared_within_each_repeat() -> None:
    """The ratio is the median of ratios, not the ratio of medians."""
    pairs = ((100, 100), (90, 100), (40, 50))
    records = [
        {"system": name, "per_second": rate}
        for pair in pairs
        for name, rate in zip(("lacuna", "old"), pair, strict=True)
    ]
    assert "0.900 of the old throughput (0.800 to 1.000)" in serving.ratio(records)


def test_numbers_have_two_significant_digits() -> None:
    """Large numbers get separators, and an unmeasured figure a dash."""
    values = (1234.0, 98.7, 9.87, 0.1234, math.nan)
    assert [serving.shown(value) for value in values] == ["1,200", "99", "9.9", "0.12", "–"]


def test_a_system_that_cannot_run_is_named(tmp_path: Path) -> None:
    """A missing interpreter and a process that ends at once are errors with a reason."""
    with pytest.raises(ServerError, match="make bench"):
        replace(lacuna(), python=tmp_path / "python").start([0], tmp_path)
    broken = System("broken", ("/predict",), ("-c", "raise SystemExit('no way')"))
    with pytest.raises(ServerError, match=r"(?s)ended with status 1.*no way"):
        broken.serving([0], tmp_path).__enter__()


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")  # of torch's int8
def test_the_torch_peer_computes_the_same_network(tiny_checkpoint: Path) -> None:
    """Its probabilities are those of the torch runtime, alone and in a batch; int8 answers too."""
    checkpoint = load_checkpoint(tiny_checkpoint)
    predictor = TorchPredictor(tiny_checkpoint)
    tokens = np.array([predictor.encode("我们去书店买")], dtype=np.int64)
    runtime = open_torch_runtime(tiny_checkpoint, checkpoint.config.network, "cpu")
    lengths = np.array([tokens.shape[1]], dtype=np.int64)
    states = initial_states(runtime.sizes, "forward", 1)
    _, outputs = runtime.run_tower("forward", states, tokens, lengths)
    expected = runtime.score("next", outputs[:, -1])[0]
    shown = np.array([bool(surface.strip()) for surface in checkpoint.tokenizer.surfaces])
    best = np.argsort(np.where(shown, -expected, 0))[:5]
    alone, _ = (predictor.predict([row], 5)[0] for row in (tokens[0].tolist(), [1]))
    batched, _ = predictor.predict([tokens[0].tolist(), [1]], 5)
    surfaces = [checkpoint.tokenizer.surfaces[token].rstrip() for token in best]
    assert [each.append for each in alone] == [each.append for each in batched] == surfaces
    probabilities = (expected[best] / expected[shown].sum()).tolist()
    assert [each.probability for each in alone] == pytest.approx(probabilities, rel=1e-3)
    assert len(TorchPredictor(tiny_checkpoint, int8=True).predict([[1]], 3)[0]) == 3
