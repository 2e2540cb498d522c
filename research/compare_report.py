"""Writes the comparison of the tutorial's systems down: comparison.json as Markdown and plots. Measures nothing.

Where an arm was trained with several seeds, a cell is their mean, and what follows ± is their standard deviation.
"""

import json
import shutil
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from model.errors import ReportError
from training.evaluation.report import LANGUAGE_NAMES
from training.run_state import write_whole

DOCUMENT = Path("docs/tutorial.md")
BEGIN, END = "<!-- comparison: begin -->", "<!-- comparison: end -->"
MISSING = "–"
# Column, metric, factor, digits
QUALITY = (
    ("bits a character", "bits_per_character", 1.0, 3),
    ("next, first", "next_top1", 100.0, 1),
    ("next, first 3", "next_top3", 100.0, 1),
    ("blank, first", "cloze_top1", 100.0, 1),
    ("blank, first 5", "cloze_top5", 100.0, 1),
    ("choice of 5", "choice", 100.0, 1),
    ("saved", "saved", 100.0, 1),
)
Runs = Sequence[dict[str, Any]]


def write_tutorial(figures: dict[str, Any], output: Path, *, publish: bool) -> str:
    """Write Markdown and plots into *output*, and into ``docs/`` where they are to be published.

    Args:
        figures: the content of comparison.json.
        output: made where it is missing.
        publish: put them into ``docs/tutorial.md`` of the working directory, between its markers, figures beside it;
            those of chosen arms between markers that name these, such as ``<!-- gru-lstm: begin -->``.

    Returns:
        The Markdown.

    Raises:
        ReportError: ``docs/tutorial.md`` is missing or lacks its markers.
    """
    output.mkdir(parents=True, exist_ok=True)
    text = markdown(figures)
    curves, answers = pictures(figures)
    write_whole(output / "tutorial.md", text.encode())
    _draw_curves(figures, output / curves)
    _draw_answers(figures, output / answers)
    if publish:
        try:
            document = DOCUMENT.read_text(encoding="utf-8")
        except OSError as error:
            raise ReportError(
                f"{DOCUMENT}: {error.strerror}; publish from the root of the project"
            ) from error
        write_whole(DOCUMENT, insert(document, text, *markers(figures)).encode())
        content = json.dumps(figures, ensure_ascii=False, indent=1)
        write_whole(DOCUMENT.with_name(f"{_stem(figures)}.json"), f"{content}\n".encode())
        for picture in (curves, answers):
            shutil.copy(output / picture, DOCUMENT.with_name(picture))
    return text


def markers(figures: dict[str, Any]) -> tuple[str, str]:
    """What stands before and after these figures in the document."""
    arms = "-".join(figures["options"]["arms"])
    return (f"<!-- {arms}: begin -->", f"<!-- {arms}: end -->") if arms else (BEGIN, END)


def pictures(figures: dict[str, Any]) -> tuple[str, str]:
    """Names of the plots: held-out bits by minutes, and answers."""
    return f"{_stem(figures)}-curves.png", f"{_stem(figures)}-answers.png"


def _stem(figures: dict[str, Any]) -> str:
    return "-".join([DOCUMENT.stem, *figures["options"]["arms"]])


def insert(document: str, text: str, begin: str = BEGIN, end: str = END) -> str:
    """The document with *text* between its markers.

    Raises:
        ReportError: a marker is missing.
    """
    head, found_begin, rest = document.partition(begin)
    _, found_end, tail = rest.partition(end)
    if not found_begin or not found_end:
        raise ReportError(f"the document lacks {begin} or {end}; put them where the figures belong")
    return f"{head}{begin}\n\n{text.strip()}\n\n{end}{tail}"


def markdown(figures: dict[str, Any]) -> str:
    """A table of what was trained, one of answers for each language, one of the rates that were tried."""
    arms = _arms(figures)
    languages = [
        code for code in LANGUAGE_NAMES if any(_evaluation(runs, code) for runs in arms.values())
    ]
    parts = [_provenance(figures), "### What was trained\n", _trained(figures, arms)]
    for code in languages:
        parts += [f"### {LANGUAGE_NAMES[code]}\n", _answers(figures, arms, code)]
    curves, answers = pictures(figures)
    parts += [
        f"![Held-out bits a character by CPU minutes]({curves})\n",
        f"![Next words and blanks]({answers})\n",
        "### Learning rates that were tried\n",
        _tuning(figures),
    ]
    return "\n".join(parts)


def _provenance(figures: dict[str, Any]) -> str:
    options = figures["options"]
    asked = sorted({run["evaluation"]["questions_sha256"] for run in figures["contestants"]})
    return (
        f"{options['parameters']:,} weights each, embedding {options['embedding_size']},"
        f" {figures['vocabulary_size']:,} tokens; {options['minutes']:g} CPU minutes a run on one thread,"
        f" seeds {', '.join(map(str, options['seeds']))}; prepared data {figures['prepared_sha256'][:12]}, questions"
        f" {', '.join(digest[:12] for digest in asked) or MISSING}.\n"
    )


def _arms(figures: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Runs of each arm, in the order in which they were trained."""
    arms: dict[str, list[dict[str, Any]]] = {}
    for run in figures["contestants"]:
        arms.setdefault(run["arm"], []).append(run)
    return arms


def _evaluation(runs: Runs, language: str) -> list[dict[str, Any]]:
    """The metrics of those runs that were asked in a language."""
    return [
        run["evaluation"]["languages"][language]
        for run in runs
        if language in run["evaluation"]["languages"]
    ]


def _trained(figures: dict[str, Any], arms: dict[str, list[dict[str, Any]]]) -> str:
    head = [
        "",
        "weights",
        "million tokens read",
        "CPU minutes",
        "learning rate",
        "nats a hidden token, zh / en",
        "MB",
    ]
    rows = [[*head, "ms a next word", "ms a blank"]]
    for name, runs in arms.items():
        # Of two towers a "gap nat" is another quantity: spans and their ends, given what is left and right of them
        stacked = [
            run
            for run in runs
            if run.get("network", {}).get("architecture") == "stacked_bidirectional"
        ]
        hidden = [
            _cell([run["curve"][-1][key] for run in stacked if key in run["curve"][-1]], 1.0, 2)
            for key in ("heldout_gap_nats_zh", "heldout_gap_nats_en")
        ]
        rows.append(
            [
                figures["titles"].get(name, name),
                f"{runs[0]['parameters']:,}",
                _cell([run["tokens"] for run in runs], 1e-6, 2),
                _cell([run["cpu_seconds"] for run in runs], 1 / 60, 1),
                f"{runs[0]['learning_rate']:g}" if "learning_rate" in runs[0] else MISSING,
                " / ".join(hidden),
                _cell([run["evaluation"]["bytes"] for run in runs], 1e-6, 1),
                _cell(_seconds_a_question(runs, "next", "next_top1"), 1000.0, 1),
                _cell(_seconds_a_question(runs, "cloze", "cloze_top1"), 1000.0, 1),
            ]
        )
    minutes = [
        statistics.fmean(run["cpu_seconds"] for run in runs) / 60
        for runs in arms.values()
        if "curve" in runs[0]
    ]
    note = (
        "Milliseconds, and the minutes of n-grams, are by the clock. A hidden token is what stacked networks are asked"
        " for. MB: a network that is served holds its weights as fp16 and as int8; the Transformer's count as fp16."
    )
    if minutes:
        note += (
            " Steps were set by the speed that tuning showed, and held-out figures on the way come on top: networks"
            f" took {min(minutes):.1f} to {max(minutes):.1f} minutes, so time is only about the same."
        )
    return "\n".join([table(rows), f"{note}\n"])


def _seconds_a_question(runs: Runs, part: str, metric: str) -> list[float]:
    """By the clock, on one thread, questions being decoded side by side; of those runs that were asked."""
    found = []
    for run in runs:
        if part in run["evaluation"]["seconds"]:
            asked = sum(
                int(metrics[metric]["n"]) for metrics in run["evaluation"]["languages"].values()
            )
            found.append(run["evaluation"]["seconds"][part] / asked)
    return found


def _answers(figures: dict[str, Any], arms: dict[str, list[dict[str, Any]]], language: str) -> str:
    rows = [["", *(title for title, *_ in QUALITY)]]
    for name, runs in arms.items():
        asked = _evaluation(runs, language)
        row = [figures["titles"].get(name, name)]
        for _, metric, factor, digits in QUALITY:
            row.append(
                _cell(
                    [metrics[metric]["value"] for metrics in asked if metric in metrics],
                    factor,
                    digits,
                )
            )
        rows.append(row)
    return table(rows)


def _tuning(figures: dict[str, Any]) -> str:
    rates = list(figures["options"]["rates"])
    rows = [["", *(f"{rate:g}" for rate in rates)]]
    for name, title in figures["titles"].items():
        tried = {
            each["rate"]: each["held_out"] for each in figures["tuning"] if each["arm"] == name
        }
        rows.append(
            [title, *(MISSING if tried[rate] is None else f"{tried[rate]:.3f}" for rate in rates)]
        )
    return (
        "Held-out bits a character, both languages added up (stacked networks: nats a hidden token), after a tenth of"
        f" the time; {MISSING} diverged.\n\n" + "\n".join([table(rows), *edge_note(figures)])
    )


def edge_note(figures: dict[str, Any]) -> list[str]:
    """Which networks chose the lowest or highest of the learning rates, and what that means; nothing where none did."""
    rates = figures["options"]["rates"]
    chosen = {
        run["arm"]: run["learning_rate"] for run in figures["contestants"] if "learning_rate" in run
    }
    edges = {
        rate: [arm for arm, each in chosen.items() if each == rate]
        for rate in (min(rates), max(rates))
    }
    if len(rates) < 2 or not any(edges.values()):
        return []
    named = "".join(
        f" At {rate:g}: {'; '.join(figures['titles'][arm] for arm in arms)}."
        for rate, arms in edges.items()
        if arms
    )
    return [
        f"{sum(map(len, edges.values()))} of {len(chosen)} networks chose an edge of the grid of learning rates, so"
        f" that their best rate may lie beyond it, and they might do better than here.{named}\n"
    ]


def _cell(values: Sequence[float], factor: float, digits: int) -> str:
    if not values:
        return MISSING
    scaled = [value * factor for value in values]
    mean = f"{statistics.fmean(scaled):.{digits}f}"
    return f"{mean} ± {statistics.stdev(scaled):.{digits}f}" if len(scaled) > 1 else mean


def table(rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; the first row is its head."""
    first, *others = rows
    return (
        "\n".join(f"| {' | '.join(row)} |" for row in (first, ["---"] * len(first), *others)) + "\n"
    )


def _draw_curves(figures: dict[str, Any], path: Path) -> None:
    """Held-out bits a character against CPU minutes: a line a run, a colour an arm, n-grams as level lines."""
    figure = Figure(figsize=(11, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 2)
    for panel, (code, language) in zip(panels, LANGUAGE_NAMES.items(), strict=True):
        key = f"heldout_bits_per_character_{code}"
        arms = {
            name: runs
            for name, runs in _arms(figures).items()
            if any(key in p for p in runs[0].get("curve", ()))
        }
        for number, (name, runs) in enumerate(arms.items()):
            for run in runs:
                points = [
                    (point["cpu_seconds"] / 60, point[key])
                    for point in run["curve"]
                    if key in point
                ]
                label = figures["titles"].get(name, name) if run is runs[0] else None
                panel.plot(
                    *zip(*points, strict=True),
                    color=f"C{number}",
                    label=label,
                    marker="o",
                    markersize=3,
                )
        panel.set(
            title=f"{language}, held-out lines", xlabel="CPU minutes", ylabel="bits a character"
        )
        panel.grid(alpha=0.3)
        if arms:
            panel.legend(fontsize=8)
    figure.savefig(path, dpi=110)


def _draw_answers(figures: dict[str, Any], path: Path) -> None:
    """Bars: the next word among the first three, the blank's filling among the first five."""
    arms = _arms(figures)
    panels = (
        ("next_top3", "next word among the first 3, %"),
        ("cloze_top5", "filling of a blank among the first 5, %"),
    )
    figure = Figure(figsize=(11, 3.5 + 0.25 * len(arms)), layout="constrained")
    FigureCanvasAgg(figure)
    for panel, (metric, title) in zip(figure.subplots(1, 2), panels, strict=True):
        for offset, code in ((-0.2, "zh"), (0.2, "en")):
            places, means = [], []
            for place, runs in enumerate(arms.values()):
                values = [
                    100 * metrics[metric]["value"]
                    for metrics in _evaluation(runs, code)
                    if metric in metrics
                ]
                if values:
                    places.append(place + offset)
                    means.append(statistics.fmean(values))
            panel.barh(places, means, height=0.38, label=LANGUAGE_NAMES[code])
        panel.set_yticks(
            range(len(arms)), [figures["titles"].get(name, name) for name in arms], fontsize=8
        )
        panel.invert_yaxis()
        panel.set_title(title, fontsize=10)
        panel.grid(axis="x", alpha=0.3)
        panel.legend(fontsize=8)
    figure.savefig(path, dpi=110)
