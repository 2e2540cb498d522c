"""Tables, plots and the written report of an evaluation."""

import json
from pathlib import Path
from typing import Any

import pytest

from training.evaluation.report import table, write_report

POINTS = [[0.1, 0.5, 0.9], [0.12, 0.45, 0.93], [0.3, 0.3, 0.4]]


def figure(first: float, second: float, low: float, high: float, **more: Any) -> dict[str, Any]:
    """Return a metric of two systems whose difference has the interval (low, high)."""
    intervals = [[first - 0.01, first + 0.01], [second - 0.01, second + 0.01]]
    difference = {"value": first - second, "interval": [low, high]}
    figures = {"values": [first, second], "intervals": intervals, "difference": difference}
    return {**figures, "n": 1234, **more}


@pytest.fixture
def report() -> dict[str, Any]:
    """An evaluation of two systems."""
    metrics = {
        "bits_per_character": figure(1.5, 1.7, -0.25, -0.15),
        "cloze_top5": figure(0.5, 0.49, -0.01, 0.03),
        "next_ece": figure(0.02, 0.05, -0.04, -0.02, reliability=[POINTS, POINTS]),
    }
    return {
        "seed": 1,
        "date": "2026-01-02",
        "questions_sha256": "0123456789abcdef",
        "contestants": [{"name": "net"}, {"name": "5-gram"}],
        "languages": {"en": {"files": 2, "lines": 15, "metrics": metrics}},
    }


def test_a_table_has_a_header_and_a_line_for_each_row() -> None:
    """Cells are converted to text."""
    assert table([["a", 1], ["b", 2.5]], ["x", "y"]) == (
        "| x | y |\n| --- | --- |\n| a | 1 |\n| b | 2.5 |\n"
    )


def test_three_files_are_written(report: dict[str, Any], tmp_path: Path) -> None:
    """The table has values, intervals and differences."""
    folder = tmp_path / "new" / "folder"
    text = write_report(report, folder)
    assert json.loads((folder / "evaluation.json").read_text(encoding="utf-8")) == report
    assert (folder / "evaluation.md").read_text(encoding="utf-8") == text
    assert (folder / "reliability.png").stat().st_size > 5000
    bits = "| 1.500 [1.490, 1.510] | 1.700 [1.690, 1.710] | -0.200 [-0.250, -0.150] |"
    blanks = "| 50.0 % [49.0 %, 51.0 %] | 49.0 % [48.0 %, 50.0 %] | 1.0 % [-1.0 %, 3.0 %] |"
    for row in (bits, blanks):
        assert row in text
