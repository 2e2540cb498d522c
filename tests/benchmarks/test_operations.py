"""The drills work, and docs/operations.md is what their figures say."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from benchmarks.drills import median_round
from benchmarks.operations import _without_reloads, main
from benchmarks.operations_report import (
    BEGIN,
    DOCUMENT,
    END,
    FIGURES,
    NOT_YET,
    ROWS,
    failed,
    markdown,
    write,
)

# Of a soak of a minute, as figures were before they told connections that broke.
SOAK = {
    "seconds": 60.0,
    "requests": 1000,
    "reloads": 10,
    "server_errors": 0,
    "leaked_descriptors": 0,
    "resident_mib": {"first": 100.0, "last": 110.0},
    "mib_per_hour": 600.0,
    "flat": False,
}


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


def test_quick_figures_do_not_replace_committed_ones(capsys: pytest.CaptureFixture[str]) -> None:
    """`--quick` wants to be told where to."""
    with pytest.raises(SystemExit):
        main(["--quick", "--parts", "capacity"])
    assert "--quick needs --output" in capsys.readouterr().err


def test_overload_says_what_was_really_offered() -> None:
    """What was sent, and what its client gave up; figures from before it told that have the row that they had."""
    old = {
        "goodput_per_second": 90.0,
        "share_of_peak": 0.9,
        "accepted_p99_seconds": 1.5,
        "deadline_seconds": 2.0,
    }
    new = {"scheduled": 1000, "sent": 750, "abandoned": 250, "sent_per_second": 750.0}
    new |= {"share_of_peak_from_sending": 0.95, "accepted_p99_from_sending_seconds": 1.0}
    _, row = ROWS["overload_blanks"]
    assert row(old) == "90 a second in time, 90% of the peak; p99 of the accepted 1.50 s of 2 s"
    rest = "90 a second in time, 90% of the peak (95% from sending); p99 of the accepted, from sending, 1.00 s of 2 s"
    assert row(old | new) == f"750 a second sent, 25.0% given up unsent; {rest}"
    assert row(old | new | {"abandoned": 0}) == f"750 a second sent; {rest}"
    _, keys = ROWS["overload_keystrokes"]
    rounds = [{"share_of_peak": share} for share in (0.91, 0.8, 0.9)]
    told = keys(old | new | {"share_of_thinned_peak": 0.95, "rounds": rounds})
    assert (
        "90% of the peak (the median of 3 rounds, from 80% to 91%) and 95% of that where one of ten"
        in told
    )
    assert "median" not in keys(old | new | {"rounds": rounds[:1]})


def test_the_median_round_is_told_whole() -> None:
    """Not the best, and not the last."""
    rounds = [
        {"share_of_peak": share, "sent": sent} for share, sent in ((0.9, 1), (0.5, 2), (0.8, 3))
    ]
    assert median_round(rounds) == {"share_of_peak": 0.8, "sent": 3}


def test_the_soak_without_reloads_is_long_enough_to_be_judged() -> None:
    """A third of the other one, and where that is less than is judged, as long as the other one allows."""
    assert [_without_reloads(seconds) for seconds in (6.0, 900.0, 1800.0, 3600.0)] == [
        6.0,
        600.0,
        600.0,
        1200.0,
    ]


@pytest.mark.timeout(600)
def test_every_drill_works(tmp_path: Path, tiny_checkpoint: Path) -> None:
    """A little of each on real processes: nothing is lost, leaked, wrongly accepted or answered with a 5xx."""
    output = tmp_path / "figures.json"
    quick = [
        "--quick",
        "--soak-minutes",
        "0.5",
        "--checkpoint",
        str(tiny_checkpoint),
        "--output",
        str(output),
    ]
    assert main(quick) == 0
    parts: dict[str, dict[str, Any]] = json.loads(output.read_text(encoding="utf-8"))["parts"]
    assert set(parts) == set(ROWS)
    assert failed(parts) == []
    assert parts["load"]["requests"] > 0
    assert parts["overload_blanks"]["status"]["429"] > 0
    for name in ("overload_keystrokes", "overload_blanks"):
        assert parts[name]["scheduled"] == parts[name]["sent"] + parts[name]["abandoned"]
        assert parts[name]["sent"] == sum(parts[name]["status"].values())
        assert [each["sent"] for each in parts[name]["rounds"]] == [parts[name]["sent"]]
    assert parts["overload_keystrokes"]["thinned_peak_per_second"] > 0
    assert parts["reloads"]["reloads"] == 2
    assert parts["reloads"]["requests"] > 0
    assert parts["restarts"]["restarts"] == 1
    assert parts["restarts"]["retries"] > 0
    assert parts["fuzz"]["cases"] >= 120
    assert set(parts["fuzz"]["status"]) >= {"200", "401", "422"}
    assert parts["soak"]["reloads"] > 0
    assert parts["soak"]["hung_up"] > 0
    assert parts["soak"]["resident_mib"]["last"] < parts["soak"]["resident_mib"]["first"] + 64
    assert parts["soak_without_reloads"]["reloads"] == 0
    assert parts["soak_without_reloads"]["requests"] > 0
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
        ("faults", {"date": "", "clocks": {"injected": 0, "survived": 0}}),
        ("fuzz", {"server_errors": 0, "not_conforming": 1}),
        ("mutations", {"wrong": 1, "broken": 0}),
        ("soak", SOAK | {"server_errors": 1}),
        ("soak", SOAK | {"leaked_descriptors": 1}),
        ("soak", SOAK | {"broken": 1}),
        ("soak", SOAK | {"seconds": 1800.0}),
        ("soak_without_reloads", SOAK | {"seconds": 1800.0}),
        ("overload_blanks", {"status": {"200": 5, "500": 1}}),
        ("overload_blanks", {"status": {"200": 5}, "unanswered": 1}),
        (
            "overload_blanks",
            {"status": {"200": 5}, "rounds": [{"status": {"200": 5}}, {"status": {"500": 1}}]},
        ),
    ],
)
def test_what_must_not_be_fails(part: str, figures: dict[str, Any]) -> None:
    """One lost request, one 5xx or one leaked descriptor is enough."""
    (line,) = failed({part: figures})
    assert line.startswith(f"{part}: ")


def test_a_short_soak_need_not_be_flat() -> None:
    """In its first minutes a server takes what it keeps; the row of the table says it all the same."""
    assert failed({"soak": SOAK}) == []
    _, row = ROWS["soak"]
    assert (
        "0 5xx, 0 descriptors leaked, resident 100 to 110 MiB (not flat, +600.0 MiB an hour)"
        in row(SOAK)
    )
    assert "0 5xx, 2 connections broken, 0 descriptors" in row(SOAK | {"broken": 2})
