"""``python -m benchmarks.page docs/benchmarks.json``: write docs/benchmarks.md and its plot.

The text is research/pages/benchmarks.md; a name after a dollar sign is replaced by a table.
"""

import math
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks import serving
from benchmarks.systems import NAMES
from research.tutorial_page import Figures, read_figures, write_page
from training.evaluation.report import draw_panels


def main(arguments: Sequence[str]) -> int:
    """Write the page next to its figures; return 0."""
    (path,) = map(Path, arguments)
    figures = read_figures(path)
    draw_throughput(figures["records"], path.with_suffix(".png"))
    write_page(path.with_suffix(".md"), page_tables(figures))
    return 0


def page_tables(figures: Figures) -> dict[str, str]:
    """Return the tables of the page, and how they were measured, by name."""
    records = figures["records"]
    (runtime,) = (each["runtime"] for each in records if "runtime" in each)
    repeats = 1 + max(each["repeat"] for each in records)
    return {
        "ratios": serving.ratios_table(records),
        "throughput": serving.throughput_table(records),
        "latency": serving.latency_table(records),
        "measured": f"{figures['date']}, commit {figures['commit']}, checkpoint"
        f" {figures['checkpoint']} in the {runtime} runtime, {figures['cpu']} with"
        f" {figures['cores']} cores, Linux {figures['kernel']}, medians of {repeats} repeats of"
        f" {figures['seconds']:g} s",
    }


def draw_throughput(records: Sequence[serving.Record], path: Path) -> None:
    """Draw answers a second of every system, a line a workload, on a logarithmic axis."""
    with draw_panels(path, 1, 1, (8.5, 4.2)) as [[panel]]:
        for name in dict.fromkeys(record["system"] for record in records):
            rates = [
                serving.median(records, name, "per_second", each) for each in serving.WORKLOADS
            ]
            lines = [place for place, rate in enumerate(rates) if not math.isnan(rate)]
            mine = name == "lacuna"
            panel.plot(
                [rates[line] for line in lines],
                lines,
                "D" if mine else "x" if name == "reference" else "o",
                color="black" if mine else None,
                markersize=11 if mine else 8,
                zorder=3 if mine else 2,
                label=NAMES[name].strip("*"),
            )
        panel.set_xscale("log")
        panel.set_xlabel("answers a second on one core (logarithmic; further right is better)")
        panel.set_yticks(range(len(serving.WORKLOADS)), serving.WORKLOADS)
        panel.invert_yaxis()
        panel.grid(axis="x", alpha=0.3)
        panel.xaxis.set_major_formatter("{x:,.0f}")
        panel.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=9)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
