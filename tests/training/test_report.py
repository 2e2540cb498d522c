"""The written report."""

import json
from pathlib import Path
from typing import Any

from training.evaluation.report import DEFINITIONS, markdown, write_report

POINTS = {"claimed": [0.1, 0.5, 0.9], "right": [0.12, 0.45, 0.93], "share": [0.3, 0.3, 0.4]}


def figure(first: float, second: float, low: float, high: float, **more: Any) -> dict[str, Any]:
    """A metric of two contestants whose difference has an interval."""
    difference = {"value": first - second, "interval": [low, high]}
    intervals = [[first - 0.01, first + 0.01], [second - 0.01, second + 0.01]]
    return {
        "values": [first, second],
        "intervals": intervals,
        "difference": difference,
        "n": 1234,
        **more,
    }


def report() -> dict[str, Any]:
    """Two contestants, one language, two files; one file has no figure for typing."""
    metrics = {
        "bits_per_character": figure(1.5, 1.7, -0.25, -0.15),
        "next_top3": figure(0.4, 0.42, -0.03, -0.01),
        "cloze_top5": figure(0.5, 0.49, -0.01, 0.03),
        "saved": figure(float("nan"), float("nan"), float("nan"), float("nan")),
        "next_ece": figure(
            0.02, 0.05, -0.04, -0.02, by_chance=[0.015, 0.016], reliability=[POINTS, POINTS]
        ),
    }
    by_file = {
        "talk_en": {"lines": 10, "metrics": metrics},
        "tale_en": {"lines": 5, "metrics": {"bits_per_character": figure(2.0, 1.9, 0.05, 0.15)}},
    }
    return {
        "seed": 1,
        "date": "2026-01-02",
        "questions_sha256": "0123456789abcdef",
        "contestants": [
            {
                "name": "net",
                "architecture": "two_towers",
                "bytes": 25_000_000,
                "saw": "9 tokens",
                "seconds": {"next": 2},
            },
            {"name": "5-gram"},
        ],
        "languages": {"en": {"files": 2, "lines": 15, "metrics": metrics, "by_file": by_file}},
    }


def row(text: str, start: str) -> str:
    """The first table row that begins so."""
    return next(line for line in text.splitlines() if line.startswith(f"| {start}"))


def test_every_figure_says_who_is_ahead() -> None:
    """Lower bits and higher shares are better; an interval that holds 0 decides nothing."""
    text = markdown(report())
    assert row(text, "Bits per character").endswith("-0.200 [-0.250, -0.150] ahead |")
    assert row(text, "Next word among the first 3").endswith("-2.0 % [-3.0 %, -1.0 %] behind |")
    assert row(text, "Blank: one of the first 5").endswith(
        "+1.0 % [-1.0 %, +3.0 %] (not decided) |"
    )


def test_contestants_are_described() -> None:
    """Size, text seen and time stand at the top."""
    assert "**net**: two_towers; 25.0 MB; saw 9 tokens; answered in 2 s" in markdown(report())


def test_calibration_error_stands_beside_what_chance_alone_shows() -> None:
    """A small sample errs by chance; the report says by how much."""
    assert "0.020 [0.010, 0.030]; by chance 0.015" in row(markdown(report()), "Calibration error")


def test_losses_are_marked_file_by_file() -> None:
    """Each file where the first contestant is behind says so, whatever the interval."""
    text = markdown(report())
    assert "it says lost: 2 cells" in text
    assert row(text, "tale_en") == "| tale_en | 5 | **2.000 / 1.900 lost** |  |  |  |  |"


def test_four_files_are_written_and_numbers_that_are_none_become_null(tmp_path: Path) -> None:
    """The JSON is strict JSON, and the picture is drawn with gaps."""
    text = write_report(report(), tmp_path / "new" / "folder")
    written = json.loads(
        (tmp_path / "new" / "folder" / "evaluation.json").read_text(encoding="utf-8")
    )
    assert written["languages"]["en"]["metrics"]["saved"]["values"] == [None, None]
    assert (tmp_path / "new" / "folder" / "evaluation.md").read_text(encoding="utf-8") == text
    for picture in ("evaluation.png", "reliability.png"):
        assert (tmp_path / "new" / "folder" / picture).stat().st_size > 5000


def test_every_metric_has_a_definition_in_both_languages() -> None:
    """What a figure means is part of the report."""
    for definition in DEFINITIONS.values():
        assert definition.format(unit="word").endswith(".")
