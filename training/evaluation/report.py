"""Markdown tables and plots of the whole project, and the written report of an evaluation.

An evaluation is written as evaluation.json, evaluation.md and reliability.png. The JSON has, for
each language and metric, over all files and for each file: values and intervals of the evaluated
systems in order, the difference of the first two with its paired interval, n (characters or
questions) and, for calibration errors, the reliability diagrams.
"""

import io
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from model.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes

REPORT = "evaluation.json"
LANGUAGE_NAMES = {"zh": "Chinese", "en": "English"}
# In the order of the report; {unit} is "word" in English and "character" in Chinese
DEFINITIONS = {
    "bits_per_character": "Bits per character: total nats of /score / ln 2 / code points.",
    "perplexity": "Perplexity per {unit}, from total nats.",
    "next_top1": "Next {unit}: share of questions whose answer is the first candidate.",
    "next_top3": "Next {unit} among the first 3.",
    "next_top5": "Next {unit} among the first 5.",
    "cloze_top1": "Blank: the first candidate is the word of the line.",
    "cloze_top3": "Blank: one of the first 3 is.",
    "cloze_top5": "Blank: one of the first 5 is.",
    "choice": "Choice: the right word is preferred to 4 others of similar frequency.",
    "saved": "Keystrokes saved with 3 suggestions: 1 - keys / characters; accepting costs a key.",
    "next_ece": "Calibration error of next {unit}: first candidate, 15 bins of equal weight.",
    "cloze_ece": "Calibration error of blanks.",
    "choice_ece": "Calibration error of choices.",
}
# Calibration metrics and the titles of their reliability diagrams
CALIBRATED = {"next_ece": "next", "cloze_ece": "blanks", "choice_ece": "choices"}
METHOD = """\
English: the next word is asked for after a space. A candidate is compared with the word up to the
next space or punctuation mark. Chinese is not segmented: the next character is asked for, and
candidates that begin with the same character are added up. A Chinese blank covers a token of one to
three Han characters, drawn at random from the tokens of the line; the tokenizer is that of the
first system. Each line has two questions for the next word, or one blank. Bits per character and
perplexity use every line; English words are separated by spaces. Other lines are drawn from each
file in proportion to its lines, with a minimum; over all files, each file weighs by its lines.
Intervals: 95 %, bootstrap over lines within files, paired for differences.
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

    *size* is width and height of the picture, in inches.
    """
    from matplotlib.figure import Figure  # slow to import, and most callers only need tables

    figure = Figure(figsize=size, layout="constrained")
    yield figure.subplots(rows, columns, squeeze=False).tolist()
    picture = io.BytesIO()
    figure.savefig(picture, dpi=110)
    write_atomically(path, picture.getvalue())


def write_report(report: dict[str, Any], directory: Path) -> str:
    """Write the three files of an evaluation, in place of older ones; return the Markdown.

    The JSON comes last: if it is there, the report is complete.
    """
    directory.mkdir(parents=True, exist_ok=True)
    text = evaluation_markdown(report)
    content = json.dumps(report, ensure_ascii=False, indent=1, allow_nan=False)
    _draw_reliability(report, directory / "reliability.png")
    write_atomically(directory / "evaluation.md", text.encode())
    write_atomically(directory / REPORT, f"{content}\n".encode())
    return text


def evaluation_markdown(report: dict[str, Any]) -> str:
    """Return a table for each language, over all files."""
    names = _names(report)
    questions = report["questions_sha256"][:12]
    origin = f"Seed {report['seed']}, questions {questions}, {report['date']}.\n"
    parts = [f"# Evaluation: {' and '.join(names)}\n", METHOD, origin]
    for language, summary in report["languages"].items():
        title = LANGUAGE_NAMES[language]
        parts.append(f"## {title}, files: {summary['files']}, lines: {summary['lines']:,}\n")
        parts.append(_metric_table(summary["metrics"], names, language))
    return "\n".join(parts)


def _metric_table(metrics: dict[str, Any], names: Sequence[str], language: str) -> str:
    header = ["metric", *names] + (["difference"] if len(names) > 1 else [])
    unit = "word" if language == "en" else "character"
    rows = []
    for metric, definition in DEFINITIONS.items():
        if metric in metrics:
            figure = metrics[metric]
            pairs = list(zip(figure["values"], figure["intervals"], strict=True))
            if difference := figure.get("difference"):
                pairs.append((difference["value"], difference["interval"]))
            row = [f"{definition.format(unit=unit)} (n = {figure['n']:,})"]
            for value, interval in pairs:
                low, high = (cell(metric, bound) for bound in interval)
                row.append(f"{cell(metric, value)} [{low}, {high}]")
            rows.append(row)
    return table(rows, header)


def cell(metric: str, value: float) -> str:
    """Return a value of a metric: shares in percent."""
    if "_top" in metric or metric in ("choice", "saved"):
        return f"{100 * value:.1f} %"
    return f"{value:.1f}" if metric == "perplexity" else f"{value:.3f}"


def _names(report: dict[str, Any]) -> list[str]:
    return [system["name"] for system in report["contestants"]]


def _draw_reliability(report: dict[str, Any], path: Path) -> None:
    """Draw the share of right answers against the claimed probability, a line per system."""
    languages = report["languages"]
    with draw_panels(path, len(languages), len(CALIBRATED), (10, 3.2 * len(languages))) as grid:
        for row, (language, summary) in zip(grid, languages.items(), strict=True):
            for panel, (metric, title) in zip(row, CALIBRATED.items(), strict=True):
                figure = summary["metrics"].get(metric, {"values": (), "reliability": ()})
                panel.plot([0, 1], [0, 1], color="grey", linewidth=0.8, linestyle=":")
                lines = zip(_names(report), figure["values"], figure["reliability"], strict=False)
                for name, value, (claimed, right, _) in lines:
                    panel.plot(claimed, right, "o-", markersize=3, label=f"{name}: {value:.3f}")
                panel.set(title=f"{LANGUAGE_NAMES[language]}: {title}", xlim=(0, 1), ylim=(0, 1))
                panel.set(xlabel="claimed probability", ylabel="share of right answers")
                panel.grid(alpha=0.3)
                if figure["values"]:
                    panel.legend(fontsize=7, title="calibration error", title_fontsize=7)
