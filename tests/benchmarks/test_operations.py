"""The drills work, and docs/operations.md is what their figures say."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from benchmarks.operations import PARTS, main
from benchmarks.operations_report import BEGIN, DOCUMENT, END, FIGURES, NOT_YET, ROWS, failed, markdown, write
from benchmarks.soak import growth


def test_the_document_is_what_its_figures_say(tmp_path: Path) -> None:
    """Written again from the committed figures, or for want of any, docs/operations.md is the same."""
    document = tmp_path / "operations.md"
    shutil.copy(DOCUMENT, document)
    write(FIGURES, document)
    assert document.read_text(encoding="utf-8") == DOCUMENT.read_text(encoding="utf-8")


def test_what_was_not_measured_says_so(tmp_path: Path) -> None:
    """Without a file of figures."""
    document = tmp_path / "operations.md"
    document.write_text(f"{BEGIN}{END}", encoding="utf-8")
    write(tmp_path / "none.json", document)
    assert NOT_YET in document.read_text(encoding="utf-8")


@pytest.mark.timeout(600)
def test_every_drill_works(tmp_path: Path, tiny_checkpoint: Path) -> None:
    """A little of each on real processes: nothing is lost, leaked, wrongly accepted or answered with a 5xx."""
    output = tmp_path / "figures.json"
    quick = ["--quick", "--soak-minutes", "0.1", "--checkpoint", str(tiny_checkpoint), "--output", str(output)]
    assert main(quick) == 0
    parts: dict[str, dict[str, Any]] = json.loads(output.read_text(encoding="utf-8"))["parts"]
    assert set(parts) == set(PARTS) == set(ROWS)
    assert failed(parts) == []
    assert parts["load"]["requests"] > 0
    assert parts["overload_blanks"]["status"]["429"] > 0
    assert parts["reloads"]["reloads"] == 2
    assert parts["reloads"]["requests"] > 0
    assert parts["restarts"]["restarts"] == 1
    assert parts["restarts"]["retries"] > 0
    assert parts["fuzz"]["cases"] >= 120
    assert set(parts["fuzz"]["status"]) >= {"200", "401", "422"}
    assert parts["soak"]["reloads"] > 0
    assert parts["soak"]["hung_up"] > 0
    assert parts["soak"]["resident_mib"]["last"] < parts["soak"]["resident_mib"]["first"] + 64
    text = markdown(parts)
    assert text.count("\n| ") == len(ROWS) + 1
    assert "0 wrongly accepted" in text


@pytest.mark.parametrize(
    ("part", "figures"),
    [
        ("load", {"errors": 1}),
        ("reloads", {"failed": 0, "lost": 1}),
        ("restarts", {"failed": 1, "lost": 0}),
        ("faults", {"date": "", "clocks": {"injected": 2, "survived": 1}}),
        ("fuzz", {"server_errors": 0, "not_conforming": 1}),
        ("mutations", {"wrong": 1, "broken": 0}),
        ("soak", {"server_errors": 0, "leaked_descriptors": 1}),
        ("overload_blanks", {"status": {"200": 5, "500": 1}}),
    ],
)
def test_what_must_not_be_fails(part: str, figures: dict[str, Any]) -> None:
    """One lost request, one 5xx or one leaked descriptor is enough."""
    (line,) = failed({part: figures})
    assert line.startswith(f"{part}: ")


def test_growth_is_that_of_the_later_part() -> None:
    """What a cache takes in the beginning is no leak; a line that goes on rising is."""
    filling = [(float(second), min(200.0, 100.0 + second)) for second in range(600)]
    assert growth(filling) == {"resident_mib": {"first": 200.0, "last": 200.0}, "mib_per_hour": 0.0, "flat": True}
    leaking = growth([(float(second), 100.0 + second / 10) for second in range(600)])
    assert leaking["mib_per_hour"] == pytest.approx(360)
    assert not leaking["flat"]
