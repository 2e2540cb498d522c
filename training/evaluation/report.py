"""Writes an evaluation down: evaluation.json, evaluation.md, evaluation.png, reliability.png. Measures nothing.

The JSON holds, for each language and metric over all files and for each file: the contestants' values and intervals in
order, the difference of the first to the second with its paired interval, and n (characters or questions); for
calibration errors over all files also the points of each contestant's reliability diagram.
"""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

REPORT = "evaluation.json"
LANGUAGE_NAMES = {"zh": "Chinese", "en": "English"}
LOWER_IS_BETTER = {"bits_per_character", "perplexity", "next_ece", "cloze_ece", "choice_ece"}
PERCENT = {"choice", "saved"}
# In the order of the report; {unit} is "word" in English and "character" in Chinese
DEFINITIONS = {
    "bits_per_character": "Bits per character: total nats of /score over all lines / ln 2 / code points.",
    "perplexity": "Perplexity per {unit} from total nats.",
    "next_top1": "Next {unit}: share of questions whose answer is the first candidate.",
    "next_top3": "Next {unit} among the first 3.",
    "next_top5": "Next {unit} among the first 5.",
    "next_mrr": "Next {unit}: mean reciprocal rank (0 where it is not among the candidates asked for).",
    "append_top1": "What the first candidate appends is how the line goes on.",
    "append_top3": "The same for one of the first 3.",
    "append_top5": "The same for one of the first 5.",
    "append_mrr": "The same: mean reciprocal rank of the first candidate that is right.",
    "cloze_top1": "Blank: the first candidate is what stood there.",
    "cloze_top5": "Blank: one of the first 5 is.",
    "choice": "Blank: the right word is preferred to 4 others of the file with the most similar frequency.",
    "saved": "Typed characters saved with 3 suggestions: 1 - keys / characters; accepting costs a key.",
    "next_ece": "Calibration error (15 bins of equal mass) of the first candidate of next {unit}.",
    "cloze_ece": "The same for blanks.",
    "choice_ece": "The same for choices.",
}
HEADLINES = ("bits_per_character", "next_top3", "cloze_top5", "choice", "saved")
# What the first candidate claims: metric -> title of its reliability diagram
JUDGED = {"next_ece": "next", "cloze_ece": "blanks", "choice_ece": "choices"}
METHOD = """\
English: the next word is asked for after a space; candidates are compared with the word up to the next space or
punctuation mark. Chinese is not segmented: the next character is asked for, by the candidates' mass summed over first
characters; a blank covers a token of one to three Han characters, drawn at random from the vocabulary's segmentation of
the line. Two positions a line for next, one blank a line. Bits per character and perplexity (English: words are what
spaces part) use every line. Other lines are drawn from each file in proportion to its lines (with a minimum); over all
files together, each file weighs by its lines. Intervals: 95 %, bootstrap over lines within files, paired for
differences. "By chance" is the calibration error that perfectly calibrated answers would show in a sample of this size.
"""


def write_report(report: dict[str, Any], directory: Path) -> str:
    """Write the four files.

    Args:
        report: what training/evaluation/evaluate.py returns.
        directory: made where it is missing; files of the same names are replaced.

    Returns:
        The Markdown.
    """
    directory.mkdir(parents=True, exist_ok=True)
    content = json.dumps(_without_nan(report), ensure_ascii=False, indent=1, allow_nan=False)
    (directory / REPORT).write_text(content + "\n", encoding="utf-8")
    text = markdown(report)
    (directory / "evaluation.md").write_text(text, encoding="utf-8")
    _draw(report, directory / "evaluation.png")
    draw_reliability(report, directory / "reliability.png")
    return text


def markdown(report: dict[str, Any]) -> str:
    """The report as Markdown: contestants, a table a language over all files, a table a language by file."""
    names = [contestant["name"] for contestant in report["contestants"]]
    parts = [f"# Evaluation: {' and '.join(names)}\n", METHOD, _contestants(report)]
    for language, summary in report["languages"].items():
        title = LANGUAGE_NAMES[language]
        parts.append(f"## {title}, {summary['files']} files together, {summary['lines']:,} lines\n")
        parts.append(_overall_table(summary["metrics"], names, language))
        parts.append(f"## {title}, file by file\n")
        parts.append(_file_table(summary["by_file"], names))
    return "\n".join(parts)


def _contestants(report: dict[str, Any]) -> str:
    lines = []
    for contestant in report["contestants"]:
        parts = [
            contestant.get("architecture", ""),
            f"{contestant['bytes'] / 1e6:,.1f} MB" if "bytes" in contestant else "",
            f"saw {contestant['saw']}" if contestant.get("saw") else "",
            f"answered in {sum(contestant['seconds'].values()):.0f} s"
            if "seconds" in contestant
            else "",
        ]
        lines.append(f"- **{contestant['name']}**: {'; '.join(part for part in parts if part)}")
    lines.append(
        f"\nSeed {report['seed']}, questions {report['questions_sha256'][:12]}, {report['date']}.\n"
    )
    return "\n".join(lines)


def _overall_table(metrics: dict[str, Any], names: Sequence[str], language: str) -> str:
    header = ["metric", *names] + (["difference"] if len(names) > 1 else [])
    rows = [header, ["---"] * len(header)]
    unit = "word" if language == "en" else "character"
    for metric, definition in DEFINITIONS.items():
        if metric not in metrics:
            continue
        figure = metrics[metric]
        row = [f"{definition.format(unit=unit)} (n = {figure['n']:,})"]
        for index, (value, (low, high)) in enumerate(
            zip(figure["values"], figure["intervals"], strict=True)
        ):
            chance = (
                f"; by chance {figure['by_chance'][index]:.3f}" if "by_chance" in figure else ""
            )
            row.append(
                f"{_number(metric, value)} [{_number(metric, low)}, {_number(metric, high)}]{chance}"
            )
        if "difference" in figure:
            low, high = figure["difference"]["interval"]
            value = _number(metric, figure["difference"]["value"], signed=True)
            verdict = _verdict(metric, low, high)
            row.append(
                f"{value} [{_number(metric, low, signed=True)}, {_number(metric, high, signed=True)}] {verdict}"
            )
        rows.append(row)
    return _table(rows)


def _file_table(files: dict[str, Any], names: Sequence[str]) -> str:
    short = {
        "bits_per_character": "bits/char",
        "next_top3": "next top-3",
        "cloze_top5": "cloze top-5",
        "choice": "choice",
        "saved": "saved",
    }
    versus = f" ({' / '.join(names)})" if len(names) > 1 else ""
    header = ["file", "lines", *(short[metric] for metric in HEADLINES)]
    rows = [header, ["---"] * len(header)]
    losses = 0
    for name, file in files.items():
        row = [name, f"{file['lines']:,}"]
        for metric in HEADLINES:
            figure = file["metrics"].get(metric)
            if figure is None:
                row.append("")
                continue
            lost = len(names) > 1 and _is_loss(metric, figure["difference"]["value"])
            losses += lost
            cell = " / ".join(_number(metric, value) for value in figure["values"])
            row.append(f"**{cell} lost**" if lost else cell)
        rows.append(row)
    if len(names) < 2:
        return _table(rows)
    return (
        f"Each cell{versus}; where {names[0]} is behind, it says lost: {losses} cells.\n\n"
        + _table(rows)
    )


def _table(rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n"


def _number(metric: str, value: float, *, signed: bool = False) -> str:
    if math.isnan(value):
        return "-"
    sign = "+" if signed else ""
    if "_top" in metric or metric in PERCENT:
        return f"{100 * value:{sign}.1f} %"
    return f"{value:{sign}.1f}" if metric == "perplexity" else f"{value:{sign}.3f}"


def _is_loss(metric: str, difference: float) -> bool:
    return difference > 0 if metric in LOWER_IS_BETTER else difference < 0


def _verdict(metric: str, low: float, high: float) -> str:
    if low <= 0 <= high or math.isnan(low):
        return "(not decided)"
    return "behind" if _is_loss(metric, low) else "ahead"


def _draw(report: dict[str, Any], path: Path) -> None:
    """A row of panels a language, a bar a contestant, with intervals."""
    languages = list(report["languages"])
    figure = Figure(figsize=(3 * len(HEADLINES), 3.2 * len(languages)), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(languages), len(HEADLINES), squeeze=False)
    names = [contestant["name"] for contestant in report["contestants"]]
    for row, language in zip(panels, languages, strict=True):
        for panel, metric in zip(row, HEADLINES, strict=True):
            _draw_bars(panel, metric, report["languages"][language]["metrics"].get(metric), names)
            direction = "lower" if metric in LOWER_IS_BETTER else "higher"
            panel.set_title(
                f"{LANGUAGE_NAMES[language]}: {metric}\n({direction} is better)", fontsize=9
            )
    figure.savefig(path, dpi=110)


def draw_reliability(report: dict[str, Any], path: Path) -> None:
    """Share right against probability claimed: a panel a language and kind of question, a line a contestant."""
    languages = list(report["languages"])
    figure = Figure(figsize=(10, 3.2 * len(languages)), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(languages), len(JUDGED), squeeze=False)
    names = [contestant["name"] for contestant in report["contestants"]]
    for row, language in zip(panels, languages, strict=True):
        for panel, (metric, title) in zip(row, JUDGED.items(), strict=True):
            measured = report["languages"][language]["metrics"].get(metric, {})
            panel.plot([0, 1], [0, 1], color="grey", linewidth=0.8, linestyle=":")
            for index, points in enumerate(measured.get("reliability", ())):
                label = f"{names[index]}: {measured['values'][index]:.3f}"
                panel.plot(
                    points["claimed"],
                    points["right"],
                    "o-",
                    markersize=3,
                    color=f"C{index}",
                    label=label,
                )
            panel.set(title=f"{LANGUAGE_NAMES[language]}: {title}", xlim=(0, 1), ylim=(0, 1))
            panel.set(xlabel="probability claimed", ylabel="share right")
            panel.grid(alpha=0.3)
            if measured:
                panel.legend(fontsize=7, title="calibration error", title_fontsize=7)
    figure.savefig(path, dpi=110)


def _draw_bars(
    panel: Axes, metric: str, measured: dict[str, Any] | None, names: Sequence[str]
) -> None:
    if measured is None:
        panel.set_axis_off()
        return
    scale = 100 if "_top" in metric or metric in PERCENT else 1
    for index, (value, (low, high)) in enumerate(
        zip(measured["values"], measured["intervals"], strict=True)
    ):
        if math.isnan(value):
            continue
        errors = (
            [[max(value - low, 0) * scale], [max(high - value, 0) * scale]]
            if not math.isnan(low)
            else None
        )
        panel.bar(index, value * scale, yerr=errors, capsize=4, color=f"C{index}")
    panel.set_xticks(range(len(names)), names, fontsize=8)
    panel.set_ylabel("%" if scale == 100 else "bits per character", fontsize=8)


def _without_nan(value: Any) -> Any:
    """NaN is not JSON: null in its place."""
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value
