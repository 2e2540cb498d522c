"""Markdown tables and plots of the whole project, and the written report of an evaluation.

An evaluation is written as evaluation.json, evaluation.md and reliability.png. The JSON has, for
each language and metric, over all files and for each file: values and intervals of the evaluated
systems in order, the difference of the first two with its paired interval, and n (characters or
questions). Calibration errors over all files also have their reliability diagrams.
"""

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

REPORT = "evaluation.json"
LANGUAGE_NAMES = {"zh": "Chinese", "en": "English"}
LOWER_IS_BETTER = {"bits_per_character", "perplexity", "next_ece", "cloze_ece", "choice_ece"}
PERCENT = {"choice", "saved"}
# In the order of the report; {unit} is "word" in English and "character" in Chinese
DEFINITIONS = {
    "bits_per_character": "Bits per character: total nats of /score / ln 2 / code points.",
    "perplexity": "Perplexity per {unit}, from total nats.",
    "next_top1": "Next {unit}: share of questions whose answer is the first candidate.",
    "next_top3": "Next {unit} among the first 3.",
    "next_top5": "Next {unit} among the first 5.",
    "next_mrr": "Next {unit}: mean reciprocal rank; 0 if it is not among the candidates.",
    "append_top1": "Continuation: the line goes on with what the first candidate appends.",
    "append_top3": "Continuation by one of the first 3.",
    "append_top5": "Continuation by one of the first 5.",
    "append_mrr": "Continuation: mean reciprocal rank of the first candidate that is right.",
    "cloze_top1": "Blank: the first candidate is the word of the line.",
    "cloze_top5": "Blank: one of the first 5 is.",
    "choice": "Choice: the right word is preferred to 4 others of similar frequency.",
    "saved": "Keystrokes saved with 3 suggestions: 1 - keys / characters; accepting costs a key.",
    "next_ece": "Calibration error of next {unit}: first candidate, 15 bins of equal weight.",
    "cloze_ece": "Calibration error of blanks.",
    "choice_ece": "Calibration error of choices.",
}
HEADLINES = {
    "bits_per_character": "bits/char",
    "next_top3": "next top-3",
    "cloze_top5": "cloze top-5",
    "choice": "choice",
    "saved": "saved",
}
# Calibration metrics and the titles of their reliability diagrams
CALIBRATED = {"next_ece": "next", "cloze_ece": "blanks", "choice_ece": "choices"}
METHOD = """\
English: the next word is asked for after a space. A candidate is compared with the word up to the
next space or punctuation mark. Chinese is not segmented: the next character is asked for, and
candidates that begin with the same character are added up. A Chinese blank covers a token of one to
three Han characters, drawn at random from the tokens of the line. Each line has two questions for
the next word, or one blank. Bits per character and perplexity use every line; English words are
separated by spaces. Other lines are drawn from each file in proportion to its lines, with a
minimum; over all files, each file weighs by its lines. Intervals: 95 %, bootstrap over lines within
files, paired for differences. "By chance" is the calibration error that perfectly calibrated
answers would show in a sample of this size.
"""


def table(rows: Iterable[Sequence[object]], header: Sequence[str]) -> str:
    """Return a Markdown table that ends with a line break; cells are converted with str()."""
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(map(str, cells))} |\n" for cells in lines)


@contextmanager
def draw_panels(
    path: Path, rows: int, columns: int, size: tuple[float, float]
) -> Iterator[list[list["Axes"]]]:
    """Yield a grid of empty panels, and write it as a PNG when the block ends.

    Args:
        path: the file to write.
        rows: rows of panels.
        columns: panels in a row.
        size: width and height of the picture, in inches.
    """
    from matplotlib.figure import Figure  # slow to import, and most callers only need tables

    figure = Figure(figsize=size, layout="constrained")
    yield figure.subplots(rows, columns, squeeze=False).tolist()
    figure.savefig(path, dpi=110)


def format_metric(metric: str, value: float, *, signed: bool = False) -> str:
    """Return a value of a metric as a cell: shares in percent, ``-`` for NaN."""
    if math.isnan(value):
        return "-"
    sign = "+" if signed else ""
    if _is_share(metric):
        return f"{100 * value:{sign}.1f} %"
    return f"{value:{sign}.1f}" if metric == "perplexity" else f"{value:{sign}.3f}"


def write_report(report: dict[str, Any], directory: Path) -> str:
    """Write the three files of an evaluation.

    Args:
        report: the return value of :func:`training.evaluation.evaluate.evaluate`.
        directory: created if needed; files of the same names are replaced.

    Returns:
        The Markdown.
    """
    directory.mkdir(parents=True, exist_ok=True)
    content = json.dumps(_without_nan(report), ensure_ascii=False, indent=1, allow_nan=False)
    (directory / REPORT).write_text(content + "\n", encoding="utf-8")
    text = evaluation_markdown(report)
    (directory / "evaluation.md").write_text(text, encoding="utf-8")
    _draw_reliability(report, directory / "reliability.png")
    return text


def evaluation_markdown(report: dict[str, Any]) -> str:
    """Return the systems, and for each language a table over all files and one by file."""
    names = _names(report)
    lines = [_describe(system) for system in report["contestants"]]
    questions = report["questions_sha256"][:12]
    lines.append(f"\nSeed {report['seed']}, questions {questions}, {report['date']}.\n")
    parts = [f"# Evaluation: {' and '.join(names)}\n", METHOD, "\n".join(lines)]
    for language, summary in report["languages"].items():
        title = LANGUAGE_NAMES[language]
        parts.append(f"## {title}, files: {summary['files']}, lines: {summary['lines']:,}\n")
        parts.append(_metric_table(summary["metrics"], names, language))
        parts.append(f"## {title}, file by file\n")
        parts.append(_file_table(summary["by_file"], names))
    return "\n".join(parts)


def _describe(system: dict[str, Any]) -> str:
    facts = [
        system.get("architecture"),
        f"{system['bytes'] / 1e6:,.1f} MB" if "bytes" in system else "",
        f"read {system['saw']}" if system.get("saw") else "",
        f"answered in {sum(system['seconds'].values()):.0f} s" if "seconds" in system else "",
    ]
    return f"- **{system['name']}**: {'; '.join(filter(None, facts))}"


def _metric_table(metrics: dict[str, Any], names: Sequence[str], language: str) -> str:
    header = ["metric", *names] + (["difference"] if len(names) > 1 else [])
    rows = []
    for metric, definition in DEFINITIONS.items():
        if metric not in metrics:
            continue
        figure = metrics[metric]
        unit = "word" if language == "en" else "character"
        row = [f"{definition.format(unit=unit)} (n = {figure['n']:,})"]
        pairs = zip(figure["values"], figure["intervals"], strict=True)
        row += [_with_interval(metric, value, interval) for value, interval in pairs]
        for index, floor in enumerate(figure.get("by_chance", ())):
            row[1 + index] += f"; by chance {floor:.3f}"
        if difference := figure.get("difference"):
            value, interval = difference["value"], difference["interval"]
            cell = _with_interval(metric, value, interval, signed=True)
            row.append(f"{cell} {_verdict(metric, *interval)}")
        rows.append(row)
    return table(rows, header)


def _file_table(files: dict[str, Any], names: Sequence[str]) -> str:
    rows, losses = [], 0
    for name, file in files.items():
        row = [name, f"{file['lines']:,}"]
        for metric in HEADLINES:
            figure = file["metrics"].get(metric)
            cell = " / ".join(format_metric(metric, v) for v in figure["values"]) if figure else ""
            if figure and len(names) > 1 and _is_loss(metric, figure["difference"]["value"]):
                losses += 1
                cell = f"**{cell} lost**"
            row.append(cell)
        rows.append(row)
    text = table(rows, ["file", "lines", *HEADLINES.values()])
    if len(names) < 2:
        return text
    order = f"In each cell: {' / '.join(names)}."
    return f"{order} Cells marked lost, in which {names[0]} is behind: {losses}.\n\n{text}"


def _with_interval(
    metric: str, value: float, interval: Sequence[float], *, signed: bool = False
) -> str:
    shown, low, high = (format_metric(metric, v, signed=signed) for v in (value, *interval))
    return f"{shown} [{low}, {high}]"


def _verdict(metric: str, low: float, high: float) -> str:
    if low <= 0 <= high or math.isnan(low):
        return "(not decided)"
    return "behind" if _is_loss(metric, low) else "ahead"


def _is_loss(metric: str, difference: float) -> bool:
    return difference > 0 if metric in LOWER_IS_BETTER else difference < 0


def _is_share(metric: str) -> bool:
    return "_top" in metric or metric in PERCENT


def _names(report: dict[str, Any]) -> list[str]:
    return [system["name"] for system in report["contestants"]]


def _draw_reliability(report: dict[str, Any], path: Path) -> None:
    """Draw the share of right answers against the claimed probability, a line per system."""
    languages, names = list(report["languages"]), _names(report)
    with draw_panels(path, len(languages), len(CALIBRATED), (10, 3.2 * len(languages))) as grid:
        for row, language in zip(grid, languages, strict=True):
            for panel, (metric, title) in zip(row, CALIBRATED.items(), strict=True):
                figure = report["languages"][language]["metrics"].get(metric, {})
                panel.plot([0, 1], [0, 1], color="grey", linewidth=0.8, linestyle=":")
                for name, value, points in zip(
                    names, figure.get("values", ()), figure.get("reliability", ()), strict=False
                ):
                    label = f"{name}: {value:.3f}"
                    panel.plot(points["claimed"], points["right"], "o-", markersize=3, label=label)
                panel.set(title=f"{LANGUAGE_NAMES[language]}: {title}", xlim=(0, 1), ylim=(0, 1))
                panel.set(xlabel="claimed probability", ylabel="share of right answers")
                panel.grid(alpha=0.3)
                if figure:
                    panel.legend(fontsize=7, title="calibration error", title_fontsize=7)


def _without_nan(value: Any) -> Any:
    """Replace NaN, which JSON lacks, by None."""
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value
