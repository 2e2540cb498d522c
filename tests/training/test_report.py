"""Tables, plots and the written report of an evaluation."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from training.evaluation.report import (
    DEFINITIONS,
    draw_panels,
    evaluation_markdown,
    table,
    write_report,
)

POINTS = {"claimed": [0.1, 0.5, 0.9], "right": [0.12, 0.45, 0.93], "share": [0.3, 0.3, 0.4]}


def figure(first: float, second: float, low: float, high: float, **more: Any) -> dict[str, Any]:
    """Return a metric of two systems whose difference has the interval (low, high)."""
    intervals = [[first - 0.01, first + 0.01], [second - 0.01, second + 0.01]]
    difference = {"value": first - second, "interval": [low, high]}
    return {
        "values": [first, second],
        "intervals": intervals,
        "difference": difference,
        "n": 1234,
        **more,
    }


@pytest.fixture
def report() -> dict[str, Any]:
    """An evaluation of two systems; one of two files has no figure for typing."""
    calibration = {"by_chance": [0.015, 0.016], "reliability": [POINTS, POINTS]}
    metrics = {
        "bits_per_character": figure(1.5, 1.7, -0.25, -0.15),
        "next_top3": figure(0.4, 0.42, -0.03, -0.01),
        "cloze_top5": figure(0.5, 0.49, -0.01, 0.03),
        "saved": figure(math.nan, math.nan, math.nan, math.nan),
        "next_ece": figure(0.02, 0.05, -0.04, -0.02, **calibration),
    }
    lost = {"bits_per_character": figure(2.0, 1.9, 0.05, 0.15)}
    by_file = {
        "talk_en": {"lines": 10, "metrics": metrics},
        "tale_en": {"lines": 5, "metrics": lost},
    }
    described = {"architecture": "two_towers", "bytes": 25_000_000, "saw": "9 tokens"}
    return {
        "seed": 1,
        "date": "2026-01-02",
        "questions_sha256": "0123456789abcdef",
        "contestants": [{"name": "net", **described, "seconds": {"next": 2}}, {"name": "5-gram"}],
        "languages": {"en": {"files": 2, "lines": 15, "metrics": metrics, "by_file": by_file}},
    }


def row(text: str, start: str) -> str:
    """Return the first row of a table that begins so."""
    return next(line for line in text.splitlines() if line.startswith(f"| {start}"))


def test_a_table_has_a_header_and_a_line_for_each_row() -> None:
    """Cells are converted to text."""
    assert table([["a", 1], ["b", 2.5]], ["x", "y"]) == (
        "| x | y |\n| --- | --- |\n| a | 1 |\n| b | 2.5 |\n"
    )


def test_panels_are_written_as_a_picture(tmp_path: Path) -> None:
    """The grid has the given rows and columns."""
    with draw_panels(tmp_path / "a.png", 2, 3, (3, 2)) as grid:
        assert [len(panels) for panels in grid] == [3, 3]
        grid[1][2].plot([0, 1])
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_the_report_says_who_is_ahead(report: dict[str, Any]) -> None:
    """Lower bits and higher shares are better; an interval that contains 0 decides nothing."""
    text = evaluation_markdown(report)
    assert row(text, "Bits per character").endswith("-0.200 [-0.250, -0.150] ahead |")
    assert row(text, "Next word among the first 3").endswith("-2.0 % [-3.0 %, -1.0 %] behind |")
    assert row(text, "Blank: one of").endswith("+1.0 % [-1.0 %, +3.0 %] (not decided) |")
    assert "0.020 [0.010, 0.030]; by chance 0.015 |" in row(text, "Calibration error of next")
    assert row(text, "tale_en") == "| tale_en | 5 | **2.000 / 1.900 lost** |  |  |  |  |"
    assert "net is behind: 2." in text
    assert "**net**: two_towers; 25.0 MB; read 9 tokens; answered in 2 s" in text


def test_three_files_are_written(report: dict[str, Any], tmp_path: Path) -> None:
    """NaN becomes null in the JSON."""
    folder = tmp_path / "new" / "folder"
    text = write_report(report, folder)
    written = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))
    assert written["languages"]["en"]["metrics"]["saved"]["values"] == [None, None]
    assert (folder / "evaluation.md").read_text(encoding="utf-8") == text
    assert (folder / "reliability.png").stat().st_size > 5000


def test_every_metric_has_a_definition_in_both_languages() -> None:
    """Definitions take the unit of the language."""
    assert all(text.format(unit="word").endswith(".") for text in DEFINITIONS.values())
