"""Writes the experiment on gates down: gates.json as Markdown and plots. Measures nothing."""

import json
import math
import shutil
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from model.errors import ReportError
from research.compare_report import DOCUMENT, insert, table
from training.run_state import write_whole

BEGIN, END = "<!-- gates: begin -->", "<!-- gates: end -->"
GRADIENTS, RECALL = "gates-gradients.png", "gates-recall.png"
CHANCE = 0.1
Runs = Sequence[dict[str, Any]]


def write_gates(figures: dict[str, Any], output: Path, *, publish: bool) -> str:
    """Write Markdown and plots into *output*, and into ``docs/`` where they are to be published.

    Returns:
        The Markdown.

    Raises:
        ReportError: ``docs/tutorial.md`` is missing or lacks its markers.
    """
    output.mkdir(parents=True, exist_ok=True)
    text = markdown(figures)
    write_whole(output / "gates.md", text.encode())
    _draw_gradients(figures, output / GRADIENTS)
    _draw_recall(figures, output / RECALL)
    if publish:
        try:
            document = DOCUMENT.read_text(encoding="utf-8")
        except OSError as error:
            raise ReportError(
                f"{DOCUMENT}: {error.strerror}; publish from the root of the project"
            ) from error
        write_whole(DOCUMENT, insert(document, text, BEGIN, END).encode())
        write_whole(
            DOCUMENT.with_name("gates.json"), (json.dumps(figures, indent=1) + "\n").encode()
        )
        for picture in (GRADIENTS, RECALL):
            shutil.copy(output / picture, DOCUMENT.with_name(picture))
    return text


def markdown(figures: dict[str, Any]) -> str:
    """A table of recall by distance, one of how the gradient falls."""
    options = figures["options"]
    variants = _variants(figures)
    rows = [["", *(f"{distance} steps" for distance in options["distances"])]]
    for name, runs in variants.items():
        cells = []
        for distance in options["distances"]:
            shares = [100 * run["recall"][str(distance)] for run in runs]
            cells.append(
                f"{statistics.median(shares):.0f} ({min(shares):.0f} to {max(shares):.0f})"
            )
        diverged = sum(run["diverged"] for run in runs)
        rows.append([f"{name}{f' ({diverged} diverged)' if diverged else ''}", *cells])
    return "\n".join(
        [
            f"One layer of {options['hidden_size']}, {options['steps']:,} updates of {options['rows']} rows, Adam at"
            f" {options['learning_rate']:g}, {len(options['seeds'])} seeds; {options['asked_rows']} questions at each"
            " distance.\n",
            "Recall, % right: median over seeds (least to greatest). Chance is 10.\n",
            table(rows),
            "Half-lives: the number of steps back after which the gradient's norm has halved once more, from the slope"
            " over all distances (median over seeds). Negative: it grows.\n",
            table(_half_lives(variants)),
            f"![How much of the error reaches earlier states]({GRADIENTS})\n",
            f"![Recall by distance]({RECALL})\n",
        ]
    )


def _variants(figures: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    variants: dict[str, list[dict[str, Any]]] = {}
    for run in figures["runs"]:
        variants.setdefault(run["variant"], []).append(run)
    return variants


def _half_lives(variants: dict[str, list[dict[str, Any]]]) -> list[list[str]]:
    rows = [["", "h, before training", "h, after", "c, before", "c, after"]]
    for name, runs in variants.items():
        cells = []
        for part in ("h", "c"):
            for when in ("before", "after"):
                curves = [run[f"gradients_{when}"].get(part) for run in runs]
                lives = [half_life(curve) for curve in curves if curve]
                cells.append(f"{statistics.median(lives):.1f}" if lives else "–")
        rows.append([name, *cells])
    return rows


def half_life(norms: Sequence[float]) -> float:
    """Steps in which an exponential through the first and the last norm above 0 halves; infinite where it is level."""
    seen = [
        (k, math.log2(norm))
        for k, norm in enumerate(norms, start=1)
        if norm > 0 and math.isfinite(norm)
    ]
    if len(seen) < 2:
        return math.nan
    (first, high), (last, low) = seen[0], seen[-1]
    return (last - first) / (high - low) if high != low else math.inf


def _draw_gradients(figures: dict[str, Any], path: Path) -> None:
    """Median norms over k, before and after training, a colour a variant; an LSTM's cell dashed."""
    figure = Figure(figsize=(12, 5), layout="constrained")
    FigureCanvasAgg(figure)
    panels: Sequence[Axes] = figure.subplots(1, 2, sharey=True)
    for panel, when in zip(panels, ("before", "after"), strict=True):
        for number, (name, runs) in enumerate(_variants(figures).items()):
            if when == "before" and "clipped" in name:  # the same network as its namesake
                continue
            for part, style in (("h", "-"), ("c", "--")):
                curves = [
                    run[f"gradients_{when}"][part]
                    for run in runs
                    if part in run[f"gradients_{when}"]
                ]
                if not curves:
                    continue
                middle = [statistics.median(at) for at in zip(*curves, strict=True)]
                label = name if part == "h" else None
                panel.semilogy(
                    range(1, len(middle) + 1),
                    middle,
                    style,
                    color=f"C{number}",
                    label=label,
                    linewidth=1.3,
                )
        panel.set(title=f"{when} training", xlabel="k, steps back", ylim=(1e-20, 1e4))
        panel.grid(alpha=0.3)
        panel.legend(fontsize=7)
    panels[0].set_ylabel("norm of dL_t / dh_{t-k} (dashed: by the cell)")
    figure.savefig(path, dpi=110)


def _draw_recall(figures: dict[str, Any], path: Path) -> None:
    """Recall by distance: the median over seeds and, shaded, from the least to the greatest."""
    distances = figures["options"]["distances"]
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    panel = figure.subplots()
    for number, (name, runs) in enumerate(_variants(figures).items()):
        at = [[100 * run["recall"][str(distance)] for run in runs] for distance in distances]
        panel.plot(
            distances,
            [statistics.median(x) for x in at],
            "o-",
            color=f"C{number}",
            label=name,
            markersize=4,
        )
        panel.fill_between(
            distances, [min(x) for x in at], [max(x) for x in at], color=f"C{number}", alpha=0.12
        )
    panel.axhline(100 * CHANCE, color="grey", linewidth=0.8, linestyle=":")
    panel.set(xscale="log", xlabel="distance in steps", ylabel="recall, %")
    panel.set_xticks(distances, [str(distance) for distance in distances])
    panel.minorticks_off()
    panel.set_ylim(0, 105)
    panel.grid(alpha=0.3)
    # Gated networks lie above, plain ones below.
    panel.legend(fontsize=7, ncols=2, loc="center", bbox_to_anchor=(0.5, 0.78))
    figure.savefig(path, dpi=110)
