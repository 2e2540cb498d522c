"""A run's figures as JSON, as Markdown tables and as a plot; into ``docs/`` only when asked to."""

import json
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.contestants import ROOT
from benchmarks.results import Record, Spread, promised, spread

NAME = "serving"
DOCUMENT = ROOT / "docs" / "benchmarks.md"
BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"
_SATURATED = ("keystrokes", "cold", "cloze", "lists")
_MISSING = "–"


def write_json(result: dict[str, Any], output: Path) -> Path:
    """Write all figures, whole or not at all; partial results of a run that goes on are overwritten by later ones."""
    output.mkdir(parents=True, exist_ok=True)
    path = output / f"{NAME}.json"
    beside = path.with_suffix(".json.new")
    beside.write_text(
        json.dumps(result, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8"
    )
    return beside.rename(path)


def write(result: dict[str, Any], output: Path, publish: bool) -> None:
    """Write JSON, Markdown and plot into *output*, and into ``docs/`` where they are to be published."""
    written = write_json(result, output)
    text = markdown(result)
    (output / f"{NAME}.md").write_text(text, encoding="utf-8")
    picture = output / f"{NAME}.png"
    plot(result["records"], picture)
    if publish:
        image = DOCUMENT.with_suffix(".png")
        shutil.copy(picture, image)
        shutil.copy(written, DOCUMENT.with_suffix(".json"))
        figures = f"{DOCUMENT.stem}.json"
        link = f"![Latency by load, and throughput]({image.name})\n\nAll figures: [{figures}]({figures}).\n"
        document = DOCUMENT.read_text("utf-8")
        DOCUMENT.write_text(insert(document, f"{text}\n{link}"), encoding="utf-8")


def insert(document: str, text: str, first: str = BEGIN, last: str = END) -> str:
    """The document with *text* between its markers, *first* and *last*.

    Raises:
        ValueError: a marker is missing.
    """
    head, begin, rest = document.partition(first)
    _, end, tail = rest.partition(last)
    if not begin or not end:
        raise ValueError(f"the document lacks {first} or {last}")
    return f"{head}{first}\n\n{text.strip()}\n\n{last}{tail}"


def markdown(result: dict[str, Any]) -> str:
    """Every table."""
    records: Sequence[Record] = result["records"]
    names = list(dict.fromkeys(record["contestant"] for record in records))
    sections = [
        _provenance(result),
        "### What had to be shown\n\n" + promises_table(records),
        "### Saturation\n\nAnswers a second (CPU µs each).\n\n" + _saturation_table(records, names),
        "### Latency\n\n" + _latency_table(records),
        "### By length of the text\n\nMedian, in ms, of key presses after so many characters, one at a time.\n\n"
        + _context_table(records, names),
        "### Start and memory\n\n" + _start_table(records, names),
        "### What Lacuna computed\n\n" + _cost_table(records),
    ]
    return "\n\n".join(sections) + "\n"


def promises_table(records: Sequence[Record]) -> str:
    """The table of what must be shown: measured, floor, aim."""
    rows = []
    for promise, measured in promised(records):
        sign = "≥" if promise.better == "more" else "≤"
        bounds = [f"{sign} {bound:g}{promise.unit}" for bound in (promise.floor, promise.aim)]
        rows.append(
            [promise.text, _show(measured, unit=promise.unit), *bounds, promise.verdict(measured)]
        )
    return table(["", "measured", "floor", "aim", "reached"], rows)


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def plot(records: Sequence[Record], path: Path) -> None:
    """Left: latency of the keystroke trace by load. Right: throughput at saturation, against Lacuna's."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot

    names = list(dict.fromkeys(record["contestant"] for record in records))
    colours = {name: f"C{index}" for index, name in enumerate(names)}
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(13, 4.8), layout="constrained")
    for name in names:
        for percentile, style in (("p50_ms", "-o"), ("p99_ms", "--^")):
            points = _curve(records, name, percentile)
            if points:
                label = f"{name}, {percentile.removesuffix('_ms')}"
                left.plot(
                    *zip(*points, strict=True),
                    style,
                    color=colours[name],
                    label=label,
                    markersize=4,
                )
    left.axhline(20, color="grey", linewidth=0.8)
    left.set(
        xscale="log",
        yscale="log",
        xlabel="key presses a second",
        ylabel="ms",
        title="Keystroke trace: latency by load",
    )
    if left.lines[1:]:
        left.legend(fontsize=7)
    width = 0.8 / max(1, len(names))
    for index, name in enumerate(names):
        heights = [
            spread(records, "per_second", measure="saturation", workload=w, contestant=name)
            for w in _SATURATED
        ]
        places = [
            place + (index - (len(names) - 1) / 2) * width for place in range(len(_SATURATED))
        ]
        found = [
            (place, height.median)
            for place, height in zip(places, heights, strict=True)
            if height is not None
        ]
        if found:
            bars = right.bar(*zip(*found, strict=True), width, color=colours[name], label=name)
            right.bar_label(
                bars,
                [f"{height:,.0f}" if height >= 10 else f"{height:.1f}" for _, height in found],
                fontsize=6,
            )
    right.set(yscale="log", ylabel="answers a second", title="Throughput at saturation")
    right.set_xlim(-0.5, len(_SATURATED) - 0.5)
    right.set_xticks(range(len(_SATURATED)), _SATURATED)
    right.legend(
        fontsize=7, loc="upper left", bbox_to_anchor=(1.0, 1.0)
    )  # beside the bars, which need the room
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def _curve(records: Sequence[Record], name: str, percentile: str) -> list[tuple[float, float]]:
    points = []
    for of, share in dict.fromkeys(
        (record["of"], record["share"])
        for record in records
        if record["measure"] == "open_loop"
        and record["workload"] == "keystrokes"
        and record["contestant"] == name
    ):
        where = {
            "measure": "open_loop",
            "workload": "keystrokes",
            "contestant": name,
            "of": of,
            "share": share,
        }
        rate, found = spread(records, "rate", **where), spread(records, percentile, **where)
        if rate is not None and found is not None:
            points.append((rate.median, found.median))
    return sorted(points)


def _provenance(result: dict[str, Any]) -> str:
    found, text, checkpoint = result["machine"], result["text"], result["checkpoint"]
    ours = ", ".join(f"{name} {version}" for name, version in found["packages"].items())
    theirs = ", ".join(f"{name} {version}" for name, version in found["peers_packages"].items())
    whose = "that the project writes itself" if text["own"] else f"(SHA-256 {text['sha256'][:12]}…)"
    agreement = ", ".join(f"{name} {share:.0%}" for name, share in result["same_top_token"].items())
    lines = [
        f"Measured {result['date'][:10]} at commit {found['git_commit']}, checkpoint {checkpoint['name']} "
        f"{checkpoint['version']}: {result.get('complete_repeats', 0)} repeats, {result['seconds']:g} s a measurement; "
        f"{text['lines']:,} lines of text {whose}.",
        f"{found['cpu']}, {found['cores']} cores, {found['memory_gib']} GiB, Linux {found['kernel']}; servers on core "
        f"{result['server_cores']}, client on {result['client_cores']}. Python {found['python']}, wrk {found['wrk']}; "
        f"Lacuna and the reference: {ours}; the peers: {theirs}.",
    ]
    if agreement:
        lines.append(f"Same most probable token as the product's runtime: {agreement}.")
    return "\n\n".join(lines)


def _saturation_table(records: Sequence[Record], names: Sequence[str]) -> str:
    rows = []
    for name in names:
        cells = []
        for workload in _SATURATED:
            where = {"measure": "saturation", "workload": workload, "contestant": name}
            cpu = spread(records, "cpu_us_per_request", **where)
            shown = _show(spread(records, "per_second", **where))
            cells.append(shown + (f" ({_number(cpu.median)})" if cpu else ""))
        rows.append([name, *cells])
    return table(["", "keystrokes", "cold 20 tokens", "cloze 50 tokens", "lists of 16"], rows)


def _latency_table(records: Sequence[Record]) -> str:
    points = dict.fromkeys(
        (record["workload"], record["contestant"], record["of"], record["share"])
        for record in records
        if record["measure"] == "open_loop"
    )
    rows = []
    for workload, name, of, share in points:
        where = {
            "measure": "open_loop",
            "workload": workload,
            "contestant": name,
            "of": of,
            "share": share,
        }
        load = f"{share:.0%} of {'its own' if of == name else of + '’s'}"
        figures = [
            spread(records, figure, **where) for figure in ("rate", "p50_ms", "p99_ms", "p999_ms")
        ]
        good, cpu = (
            spread(records, "good_share", **where),
            spread(records, "cpu_us_per_request", **where),
        )
        failed = sum(
            int(record["failures"])
            for record in records
            if all(record.get(k) == v for k, v in where.items())
        )
        rows.append(
            [
                workload,
                name,
                load,
                *(_show(figure) for figure in figures),
                f"{good.median:.1%}" if good else _MISSING,
                _number(cpu.median) if cpu else _MISSING,
                str(failed),
            ]
        )
    header = [
        "",
        "",
        "load",
        "requests a second",
        "p50 ms",
        "p99 ms",
        "p99.9 ms",
        "within 20 ms",
        "CPU µs",
        "failed",
    ]
    return table(header, rows)


def _context_table(records: Sequence[Record], names: Sequence[str]) -> str:
    lengths = sorted({record["characters"] for record in records if record["measure"] == "context"})
    measured = {record["contestant"] for record in records if record["measure"] == "context"}
    rows = [
        [
            name,
            *(
                _show(
                    spread(records, "p50_ms", measure="context", contestant=name, characters=length)
                )
                for length in lengths
            ),
        ]
        for name in names
        if name in measured
    ]
    return table(["characters", *(f"{length:,}" for length in lengths)], rows)


def _start_table(records: Sequence[Record], names: Sequence[str]) -> str:
    rows = []
    for name in names:
        seconds = spread(records, "seconds", measure="start", contestant=name)
        peak = spread(records, "peak_mb", measure="memory", contestant=name)
        rows.append([name, _show(seconds), _number(peak.greatest) if peak else _MISSING])
    return table(["", "seconds to the first right answer", "peak resident MB"], rows)


def _cost_table(records: Sequence[Record]) -> str:
    rows = []
    for workload in _SATURATED:
        where = {"measure": "saturation", "workload": workload, "contestant": "lacuna"}
        cached = spread(records, "cached_share_of_tokens", **where)
        again = any(record.get("texts_came_again") for record in records if _matches(record, where))
        rows.append(
            [
                workload,
                _show(spread(records, "network_rows_per_request", **where)),
                f"{cached.median:.1%}" if cached else _MISSING,
                "yes" if again else "no",
            ]
        )
    return table(["", "network rows a request", "tokens from the cache", "texts came again"], rows)


def _matches(record: Record, where: dict[str, Any]) -> bool:
    return all(record.get(key) == value for key, value in where.items())


def _show(figure: Spread | None, unit: str = "") -> str:
    """Median with least to greatest."""
    if figure is None:
        return _MISSING
    if figure.repeats == 1:
        return f"{_number(figure.median)}{unit}"
    return f"{_number(figure.median)}{unit} ({_number(figure.least)} to {_number(figure.greatest)})"


def _number(value: float) -> str:
    """Three digits that count."""
    return (
        f"{value:,.0f}"
        if abs(value) >= 100
        else f"{value:.1f}"
        if abs(value) >= 10
        else f"{value:.2f}"
    )
