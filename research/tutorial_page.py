"""Write docs/tutorial.md and its plots from figures in docs/results.

The text is research/pages/tutorial.md; a name after a dollar sign is replaced by a table.
"""

import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any

from training.evaluation.report import LANGUAGE_NAMES, draw_panels, table
from training.options import option

PAGES = Path(__file__).parent / "pages"
METRICS = {
    "bits_per_character": "bits per character",
    "next_top3": "next, first 3",
    "cloze_top5": "blank, first 5",
    "choice": "choice of 5",
    "saved": "keys saved",
}
MISSING = "–"
# Steps back between two gradients of the figures.
GRADIENT_STRIDE = 10
Figures = dict[str, Any]


@dataclass(frozen=True, slots=True)
class PageOptions:
    """Options of the command."""

    docs: Path = option("folder of the documentation; figures are in its results/", Path("docs"))


def run(options: PageOptions) -> int:
    """Write the page and its plots; return 0."""
    write_page(options.docs / "tutorial.md", tutorial_tables(options.docs / "results"))
    comparison = read_figures(options.docs / "results" / "tutorial.json")
    draw_curves(comparison, options.docs / "tutorial-curves.png")
    gradients = read_figures(options.docs / "results" / "vanishing_gradients.json")
    draw_gradients(gradients, options.docs / "vanishing-gradients.png")
    return 0


def read_figures(path: Path) -> Figures:
    """Read a JSON file of figures."""
    return dict(json.loads(path.read_text(encoding="utf-8")))


def fill_page(name: str, tables: dict[str, str]) -> str:
    """Return research/pages/NAME with its tables."""
    text = Template((PAGES / name).read_text(encoding="utf-8"))
    return text.substitute({key: value.strip() for key, value in tables.items()})


def write_page(document: Path, tables: dict[str, str]) -> None:
    """Fill the page of the same name and write the document."""
    document.write_text(fill_page(document.name, tables), encoding="utf-8")


def tutorial_tables(results: Path) -> dict[str, str]:
    """Return the tables of the page by name."""
    comparison = read_figures(results / "tutorial.json")
    gated = read_figures(results / "tutorial-gru-lstm.json")
    gradients = read_figures(results / "vanishing_gradients.json")
    return {
        "trained": trained_table(comparison),
        "chinese": answers_table(comparison, "zh"),
        "english": answers_table(comparison, "en"),
        "gru_lstm_chinese": answers_table(gated, "zh"),
        "gru_lstm_english": answers_table(gated, "en"),
        "recall": recall_table(gradients),
    }


def comparison_tables(figures: Figures) -> str:
    """Return all tables of a comparison as Markdown."""
    languages = (answers_table(figures, code) for code in LANGUAGE_NAMES)
    return "\n".join([trained_table(figures), *languages])


def trained_table(figures: Figures) -> str:
    """Return the size and the cost of each system."""
    rows = []
    for name, runs in _by_title(figures).items():
        cells = (
            _mean([run["parameters"] / 1e6 for run in runs], 2),
            _mean([run["tokens"] / 1e6 for run in runs], 1),
            _mean([run["cpu_seconds"] / 60 for run in runs], 1),
            _mean([run["evaluation"]["bytes"] / 1e6 for run in runs], 1),
        )
        rows.append([name, *cells])
    header = ["", "M weights", "M tokens read", "CPU minutes", "MB"]
    return table(rows, header)


def answers_table(figures: Figures, language: str) -> str:
    """Return every metric of each system in one language."""
    rows = []
    for name, runs in _by_title(figures).items():
        found = [run["evaluation"]["languages"].get(language, {}) for run in runs]
        cells = []
        for metric in METRICS:
            values = [each[metric]["value"] for each in found if metric in each]
            share = metric != "bits_per_character"
            cells.append(_mean([100 * v if share else v for v in values], 1 if share else 2))
        rows.append([name, *cells])
    return table(rows, [LANGUAGE_NAMES[language], *METRICS.values()])


def recall_table(figures: Figures) -> str:
    """Return each network's recall at the first and last distance, and its gradient's half-life."""
    distances = figures["options"]["distances"]
    ends = (distances[0], distances[-1])
    rows = []
    for variant in figures["variants"]:
        shares = [f"{100 * variant['recall'][str(d)]:.0f} %" for d in ends]
        lives = [f"{variant['half_life'][time]['h']:.1f}" for time in ("before", "after")]
        rows.append([variant["name"], *shares, *lives])
    header = ["", *(f"{d} steps" for d in ends), "half-life before training", "after"]
    return table(rows, header)


def _by_title(figures: Figures) -> dict[str, list[Figures]]:
    """Group the runs of a comparison by system, in order."""
    systems: dict[str, list[Figures]] = {}
    for run in figures["runs"]:
        systems.setdefault(run["title"], []).append(run)
    return systems


def _mean(values: Sequence[float], digits: int) -> str:
    """Return the mean, and the standard deviation if there are several seeds."""
    if not values:
        return MISSING
    mean = f"{statistics.fmean(values):.{digits}f}"
    return f"{mean} ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else mean


def draw_curves(figures: Figures, path: Path) -> None:
    """Plot held-out bits per character against CPU minutes, a line per run."""
    with draw_panels(path, 1, 2, (11, 4.5)) as [panels]:
        for panel, (code, language) in zip(panels, LANGUAGE_NAMES.items(), strict=True):
            key = f"heldout_bits_per_character_{code}"
            for run in figures["runs"]:
                curve = [(p["cpu_seconds"] / 60, p[key]) for p in run.get("curve", ()) if key in p]
                if curve:
                    panel.plot(*zip(*curve, strict=True), "o-", markersize=3, label=run["title"])
            panel.set(title=f"{language}, held-out text", xlabel="CPU minutes")
            panel.set_ylabel("bits per character")
            panel.grid(alpha=0.3)
            panel.legend(fontsize=8)


def draw_gradients(figures: Figures, path: Path) -> None:
    """Plot the gradient against steps back, before and after training, and recall by distance."""
    with draw_panels(path, 1, 3, (16, 5)) as [[before, after, recall]]:
        for number, variant in enumerate(figures["variants"]):
            color, name = f"C{number}", variant["name"]
            for panel, time in ((before, "before"), (after, "after")):
                for part, norms in variant["gradients"][time].items():
                    back = range(1, 1 + GRADIENT_STRIDE * len(norms), GRADIENT_STRIDE)
                    label, style = (name, "-") if part == "h" else (None, "--")
                    panel.semilogy(back, norms, style, color=color, label=label, linewidth=1.3)
            distances = figures["options"]["distances"]
            shares = [100 * share for share in variant["recall"].values()]
            recall.plot(distances, shares, "o-", color=color, label=name, markersize=4)
        for panel, time in ((before, "before"), (after, "after")):
            panel.set(title=f"gradient, {time} training", xlabel="steps back", ylim=(1e-20, 1e4))
        before.set_ylabel("norm of dL_t / dh_{t-k} (dashed: of the cell)")
        recall.set(title="recall", xscale="log", xlabel="distance in steps", ylabel="% right")
        recall.set_ylim(0, 105)
        for panel in (before, after, recall):
            panel.grid(alpha=0.3)
        recall.legend(fontsize=7)
