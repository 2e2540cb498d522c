"""The report: tables, the document that they go into, and the plot."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import report
from benchmarks.measurements import percentiles, read_counters
from benchmarks.wrk import Saturation, WrkError, parse


@pytest.fixture
def result() -> dict[str, Any]:
    """A run of two repeats with a record of every kind."""
    records: list[dict[str, Any]] = []
    for repeat in range(2):
        for name, pace in (("lacuna", 3000.0 + repeat), ("reference", 6000.0)):
            where = {"repeat": repeat, "contestant": name}
            records += [
                {
                    **where,
                    "measure": "saturation",
                    "workload": "keystrokes",
                    "per_second": pace,
                    "cpu_us_per_request": 333.0,
                    "network_rows_per_request": 1.5,
                    "cached_share_of_tokens": 0.9,
                    "texts_came_again": False,
                },
                {
                    **where,
                    "measure": "open_loop",
                    "workload": "keystrokes",
                    "share": 0.5,
                    "of": name,
                    "rate": pace / 2,
                    "p50_ms": 0.8,
                    "p99_ms": 2.0,
                    "p999_ms": None,
                    "good_share": 1.0,
                    "cpu_us_per_request": 300.0,
                    "failures": 1,
                },
                {
                    **where,
                    "measure": "context",
                    "workload": "context",
                    "characters": 10,
                    "p50_ms": 0.7,
                },
                {**where, "measure": "start", "seconds": 0.9},
                {**where, "measure": "memory", "peak_mb": 180.0 + repeat},
            ]
    return {
        "date": "2026-01-02T03:04:05+00:00",
        "complete_repeats": 2,
        "seconds": 5.0,
        "server_cores": "0",
        "client_cores": "1",
        "text": {"own": True, "lines": 8000, "characters": 1, "sha256": "00"},
        "checkpoint": {"name": "default", "version": "0.1", "digest": "00"},
        "same_top_token": {"naive": 1.0},
        "machine": {
            "cpu": "A CPU",
            "cores": 2,
            "memory_gib": 23.4,
            "kernel": "6.1",
            "python": "3.11.7",
            "wrk": "4.1.0",
            "packages": {"fastapi": "0.165.0"},
            "peers_packages": {"torch": "2.13.0"},
            "git_commit": "abc",
        },
        "records": records,
    }


def test_markdown_shows_every_kind_of_figure(result: dict[str, Any]) -> None:
    """Medians with least and greatest, the verdict of each promise, and a dash for what was not measured."""
    text = report.markdown(result)
    assert (
        "| keystroke trace: saturation throughput / reference | 0.50× (0.50 to 0.50) | ≥ 0.3× | ≥ 0.7× | floor |"
        in text
    )
    assert "| start to first answer | 0.90 s (0.90 to 0.90) | ≤ 2.5 s | ≤ 1 s | aim |" in text
    assert (
        "| `/cloze` 50 tokens: throughput / fill-mask on BERT-base | – | ≥ 8× | ≥ 20× | not measured |"
        in text
    )
    assert "| lacuna | 3,000 (3,000 to 3,001) (333) | – | – | – |" in text
    assert "| keystrokes | lacuna | 50% of its own |" in text
    assert "| keystrokes | 1.50 (1.50 to 1.50) | 90.0% | no |" in text
    assert "| lacuna | 0.90 (0.90 to 0.90) | 181 |" in text


def test_report_is_written_and_published(
    result: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """JSON, table and plot go to the output folder, and into the document only when asked to."""
    document = tmp_path / "benchmarks.md"
    document.write_text(
        f"Before.\n{report.BEGIN}\nsuperseded\n{report.END}\nAfter.\n", encoding="utf-8"
    )
    monkeypatch.setattr(report, "DOCUMENT", document)
    report.write(result, tmp_path / "out", publish=False)
    assert "superseded" in document.read_text(encoding="utf-8")
    assert json.loads((tmp_path / "out" / "serving.json").read_text(encoding="utf-8")) == result
    assert (tmp_path / "out" / "serving.png").read_bytes().startswith(b"\x89PNG")
    report.write(result, tmp_path / "out", publish=True)
    text = document.read_text(encoding="utf-8")
    assert text.startswith("Before.")
    assert text.endswith("After.\n")
    assert "superseded" not in text
    assert "](benchmarks.png)" in text
    assert document.with_suffix(".png").exists()
    assert document.with_suffix(".json").exists()


def test_figures_replace_what_is_between_the_markers() -> None:
    """A second run replaces the first; a document without both markers is left alone."""
    once = report.insert(f"a {report.BEGIN} b {report.END} c", "first")
    assert report.insert(once, "second") == report.insert(
        f"a {report.BEGIN} b {report.END} c", "second"
    )
    with pytest.raises(ValueError, match="lacks"):
        report.insert(f"a {report.BEGIN} b", "x")


def test_the_document_has_its_markers() -> None:
    """What `--publish` writes has a place in docs/benchmarks.md."""
    assert "x" in report.insert(report.DOCUMENT.read_text(encoding="utf-8"), "x")


def test_what_wrk_reports_is_read() -> None:
    """The script's line of JSON stands among wrk's own lines; without it there is no result."""
    output = 'Running 5s test\n{"answered": 90, "microseconds": 2000000, "sent": 99, "bad_status": 8, "broken": 2}\n'
    found = parse(output)
    assert found == Saturation(answered=90, seconds=2.0, sent=99, failures=10)
    assert found.per_second == 40.0
    with pytest.raises(WrkError, match="nothing"):
        parse("Running 5s test\n")


def test_counters_are_read_from_lacunas_metrics() -> None:
    """Rows by call and tokens by cache result, whatever else is exposed."""
    exposition = (
        "# TYPE lacuna_network_rows counter\n"
        'lacuna_network_rows_total{call="forward"} 12.0\n'
        'lacuna_network_rows_created{call="forward"} 1.7e+09\n'
        'lacuna_prefix_cache_tokens_total{result="hit"} 3.0\n'
        'lacuna_requests_total{route="/predict",status="200"} 4.0\n'
    )
    assert read_counters(exposition) == {
        "network_rows/forward": 12.0,
        "prefix_cache_tokens/hit": 3.0,
    }


def test_percentiles_need_enough_answers() -> None:
    """A p99 of 50 answers would be their greatest, so it is left out."""
    assert percentiles([]) == {"p50_ms": None, "p99_ms": None, "p999_ms": None}
    assert percentiles([0.001] * 50) == {"p50_ms": 1.0, "p99_ms": None, "p999_ms": None}
    assert percentiles([0.001] * 1000) == {"p50_ms": 1.0, "p99_ms": 1.0, "p999_ms": 1.0}
