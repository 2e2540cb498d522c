"""Writes docs/quality.md from committed figures: `python -m research quality-page`. Measures nothing.

A results directory holds what other commands wrote, under the names in PARTS; a part whose file is missing says so.
"""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from model.errors import ReportError
from research import (
    cloze_benchmarks,
    contamination,
    sample_sentences,
    sentence_completion,
    word_scores,
)
from research.compare_report import edge_note, insert, table
from training.evaluation.report import LANGUAGE_NAMES, PERCENT, draw_reliability
from training.evaluation.statistics import at_edge
from training.run_state import write_whole

DOCUMENT = Path("docs/quality.md")
RESULTS = Path("docs/results")
RELIABILITY, SIZES = "reliability.png", "sizes.png"
BEGIN, END = "<!-- quality: begin -->", "<!-- quality: end -->"
# Published figures: benchmark -> (what, figure, source). Those not checked again are from second hand.
ANCHORS = {
    "ptb": (
        ("Kneser-Ney 5-gram", "141.2", "Mikolov et al. 2011, not checked again"),
        ("LSTM 2 x 1500, tied", "72.3", "pytorch/examples, pull request 104"),
        (
            "AWD-LSTM, 24 M weights",
            "58.8; finetuned 56.5; finetuned, with cache 52.5",
            "salesforce/awd-lstm-lm",
        ),
    ),
    "wikitext2": (
        (
            "AWD-LSTM, 33 M weights",
            "65.6; finetuned 64.7; finetuned, with cache 50.6",
            "salesforce/awd-lstm-lm",
        ),
    ),
    "msr-scc": (
        ("context2vec", "65.1 %", "Melamud et al. 2016, not checked again"),
        ("two-tower word RNN, mean of 5", "72.3 %", "ctr4si/sentence-completion"),
    ),
    "lambada": (("LSTM", "about 0 %", "Paperno et al. 2016, not checked again"),),
    "cmrc2017": (("AS Reader, trained on the task", "69.8 %", "ymcui/cmrc2017, results on dev"),),
    "cft": (
        (
            "CAS-Reader, automatic part",
            "41.3 %",
            "Cui et al. 2016, not checked again; other questions than ours",
        ),
    ),
    "chid": (
        (
            "BiLSTM language model, trained on the task",
            "71.5 %",
            "Zheng et al. 2019, not checked again",
        ),
    ),
}
# Questions that were published, by their authors' count, where it is known here.
PUBLISHED = {"msr-scc": 1040, "lambada": 5153, "cmrc2017": 2000}
# What valid text chose for the neural cache and for dynamic evaluation: part and name in the scores, title, grid.
WORD_GRIDS = (
    ("cache", "words", "words of the cache", word_scores.CACHE_WORDS),
    ("cache", "flatness", "flatness of the cache", word_scores.CACHE_FLATNESS),
    ("cache", "share", "share of the cache", word_scores.CACHE_SHARES),
    ("dynamic", "rate", "rate of dynamic evaluation", word_scores.DYNAMIC_RATES),
    ("dynamic", "decay", "way back of dynamic evaluation", word_scores.DYNAMIC_DECAYS),
)
HEADLINES = {
    "bits_per_character": "bits a character",
    "next_top1": "next, first",
    "next_top3": "next, first 3",
    "cloze_top1": "blank, first",
    "cloze_top5": "blank, first 5",
    "choice": "choice of 5",
    "saved": "saved",
    "next_ece": "ECE, next",
    "cloze_ece": "ECE, blanks",
    "choice_ece": "ECE, choices",
}
ECE_GOAL = 0.02


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "--results", type=Path, default=RESULTS, help="directory of figures (default: docs/results)"
    )
    parser.add_argument(
        "--document",
        type=Path,
        default=DOCUMENT,
        help="Markdown with markers (default: docs/quality.md)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Write the document again; 0 on success."""
    try:
        document = arguments.document.read_text(encoding="utf-8")
    except OSError as error:
        raise ReportError(f"{arguments.document}: {error.strerror}; name the document") from error
    text = markdown(arguments.results)
    write_whole(arguments.document, insert(document, text, BEGIN, END).encode())
    if edition := _newest_edition(arguments.results):
        draw_reliability(edition[1], arguments.document.with_name(RELIABILITY))
    if sizes := _read(arguments.results / "sizes.json"):
        draw_sizes(sizes, arguments.document.with_name(SIZES))
    sys.stdout.write(text)
    return 0


def markdown(results: Path) -> str:
    """Every part in order."""
    sections = []
    for title, write in PARTS.items():
        sections.append(f"## {title}\n\n{write(results)}")
    return "\n".join(sections)


def _anchors(results: Path) -> str:
    """What is published beside what was measured here, a row a published figure."""
    titles = {"ptb": "Penn Treebank, perplexity", "wikitext2": "WikiText-2, perplexity"}
    titles |= {name: f"{title}, right" for name, (title, _) in cloze_benchmarks.BENCHMARKS.items()}
    rows = [["benchmark", "published", "figure", "source", "ours", "cost"]]
    for name, anchors in ANCHORS.items():
        ours = _ours(name, results)
        for number, anchor in enumerate(anchors):
            rows.append([titles[name], *anchor, *(ours if number == 0 else ("", ""))])
    return table(rows)


def _ours(benchmark: str, results: Path) -> tuple[str, str]:
    """Every figure of ours for a benchmark, and what the trained ones cost."""
    figures, costs = [], []
    for path in sorted(results.glob(f"words-{benchmark}-*.json")):
        found = _read(path)
        if "order" in found:
            figures.append(f"Kneser-Ney {found['order']}-gram {found['test']:.1f}")
            continue
        scores, network = found["scores"], found["run"]["network"]
        figures.append(
            f"LSTM {network['layers']} x {network['hidden_size']} {scores['continuous']['test']:.1f};"
            f" with cache {scores['cache']['test']:.1f}; dynamic {scores['dynamic']['test']:.1f}"
        )
        costs.append(_hours(found))
    for part, memory in (
        ("cloze_benchmarks-no-memory", "bundled, no memory"),
        ("cloze_benchmarks", "bundled"),
    ):
        measured = _read(results / f"{part}.json").get("benchmarks", {}).get(benchmark)
        if measured:
            figures.append(f"{memory} {100 * measured['accuracy']:.1f} %")
    for completed in _completed(results) if benchmark == "msr-scc" else ():
        accuracy = completed["arms"][sentence_completion.FITTED]["accuracy"]
        figures.append(f"trained for it, {_names(completed)} {100 * accuracy:.1f} %")
        costs.append(_hours_of_stages(completed))
    return "; ".join(figures) or "not measured", "; ".join(costs)


def _completed(results: Path) -> list[dict[str, Any]]:
    """Every report of `python -m research sentence-completion`."""
    return [_read(path) for path in sorted(results.glob("sentence_completion*.json"))]


def _names(completed: dict[str, Any]) -> str:
    return " and ".join(each["name"] for each in completed["checkpoints"])


def _hours_of_stages(completed: dict[str, Any]) -> str:
    """What the training of a report's checkpoints cost, in all stages: CPU time; on another device, by the clock."""
    stages = [stage for each in completed["checkpoints"] for stage in each["training"]["stages"]]
    on_cpu = sum(stage["cpu_hours"] for stage in stages if stage["device"] == "cpu")
    on_gpu = sum(stage["wall_hours"] for stage in stages if stage["device"] != "cpu")
    return " and ".join(
        f"{hours:.2f} {kind} hours" for hours, kind in ((on_cpu, "CPU"), (on_gpu, "GPU")) if hours
    )


def _hours(found: dict[str, Any]) -> str:
    """What training cost: CPU time of all threads; on another device the hours by the clock."""
    run, progress = found["run"], found["progress"]
    if run["device"] == "cpu":
        return f"{progress['seconds'] * run['threads'] / 3600:.1f} CPU hours"
    return f"{progress['wall_seconds'] / 3600:.1f} GPU hours"


def _words(results: Path) -> str:
    rows = [
        [
            "",
            "benchmark",
            "weights or n-grams",
            "training",
            "valid",
            "test",
            "test, reset",
            "+ cache",
            "+ dynamic",
        ]
    ]
    notes = []
    for path in sorted(results.glob("words-*.json")):
        found = _read(path)
        if "order" in found:
            name = f"Kneser-Ney {found['order']}-gram"
            rows.append(
                [name, _benchmark(path), f"{found['ngrams']:,}", "", *_perplexities(found), "", ""]
            )
            continue
        scores, run = found["scores"], found["run"]
        rows.append(
            [
                f"{run['name']}: LSTM {run['network']['layers']} x {run['network']['hidden_size']}",
                _benchmark(path),
                f"{scores['parameters']:,}",
                _hours(found),
                f"{scores['continuous']['valid']:.1f}",
                f"{scores['continuous']['test']:.1f}",
                f"{scores['reset']['test']:.1f}",
                f"{scores['cache']['test']:.1f}",
                f"{scores['dynamic']['test']:.1f}",
            ]
        )
        notes += _word_edges(run["name"], scores)
        if run["name"] in _LOOKED_AT_AGAIN:
            notes.append(_LOOKED_AT_AGAIN[run["name"]])
    return "\n".join([table(rows), *notes]) if len(rows) > 1 else _MISSING


def _word_edges(name: str, scores: dict[str, Any]) -> list[str]:
    """The settings of a network that valid text chose at an edge of their grids; nothing where none is."""
    edges = [
        f"{title} {scores[part][key]:g} of {', '.join(f'{each:g}' for each in grid)}"
        for part, key, title, grid in WORD_GRIDS
        if key in scores[part] and at_edge(scores[part][key], grid)
    ]
    return [
        f"{name}, at an edge of the grid, so that a better value may lie beyond: {'; '.join(edges)}.\n"
    ] * bool(edges)


def _benchmark(path: Path) -> str:
    return path.stem.split("-")[1].upper()


def _perplexities(found: dict[str, Any]) -> list[str]:
    """Of an n-gram, which is always reset."""
    return [f"{found['valid']:.1f}", "", f"{found['test']:.1f}"]


def _clozes(results: Path) -> str:
    parts: list[str] = []
    for name, title in (
        ("cloze_benchmarks", "As it serves"),
        ("cloze_benchmarks-no-memory", "Without its memory"),
    ):
        found = _read(results / f"{name}.json")
        if found:
            if not parts:
                parts.append(_asked(found["benchmarks"]))
            measured = cloze_benchmarks.markdown(found["benchmarks"])
            parts.append(
                f"{title}, digest {found['digest'][:12]}, trained for none of them:\n\n{measured}"
            )
    return "\n".join(parts) or _MISSING


def _asked(measured: dict[str, dict[str, Any]]) -> str:
    """How many of the published questions are asked, and what their choices are."""
    shares = [
        f"{measured[name]['n']:,} of {count:,} ({measured[name]['title']})"
        for name, count in PUBLISHED.items()
        if name in measured
    ]
    note = (
        f"Asked, of the questions that were published by their authors' count: {', '.join(shares)}. "
        if shares
        else ""
    )
    return note + _CHOICES


def _sides(results: Path) -> str:
    """What `python -m research sentence-completion` measured."""
    parts = []
    for found in _completed(results):
        read = [
            f"{each['training']['tokens_seen'] / 1e6:.0f} million tokens"
            for each in found["checkpoints"]
        ]
        note = f"{_names(found)}, trained for it on the challenge's own text: {', '.join(read)} read in"
        measured = sentence_completion.markdown(found)
        parts.append(f"{note} {_hours_of_stages(found)}. Right of five words:\n\n{measured}")
    return "\n".join([*parts, _ASKED_AGAIN]) if parts else _MISSING


_NEVER_SEEN = """\
Penn Treebank and WikiText-2 have `<unk>` and N in place of words, and words cut in two (do n't): of the others, 1,161
and 120 lines have no 13 words in a row without `<unk>` or N, so that they cannot be found. These two were counted
apart ([experiments](experiments.md), 2026-11-24, published clozes) and stand in no file of figures.
"""


def _contamination(results: Path) -> str:
    parts = []
    for name, text in _TRAINING_TEXTS.items():
        if found := _read(results / f"{name}.json"):
            parts.append(f"In {text}:\n\n{contamination.markdown(found)}")
    if parts:
        parts.append(_NEVER_SEEN)
    return "\n".join(parts) or _MISSING


def _editions(results: Path) -> str:
    reports = {
        path.stem.removeprefix("evaluation-"): _read(path)
        for path in sorted(results.glob("evaluation-*.json"))
    }
    if not reports:
        return _MISSING
    parts = []
    for code, language in LANGUAGE_NAMES.items():
        rows = [[language, *HEADLINES.values()]]
        for edition, report in reports.items():
            metrics = report["languages"][code]["metrics"]
            for number, contestant in enumerate(report["contestants"]):
                name = edition if number == 0 else f"{contestant['name']} beside {edition}"
                rows.append(
                    [name, *(_figure(metric, metrics[metric], number) for metric in HEADLINES)]
                )
        parts.append(table(rows))
    parts.append(f"{_UNDECIDED}\n")
    if newest := _newest_edition(results):
        parts.append(_above_the_goal(*newest))
        parts.append(f"![Probability claimed and share right, {newest[0]}]({RELIABILITY})\n")
    asked = ", ".join(
        f"{edition} {report['questions_sha256'][:12]}" for edition, report in reports.items()
    )
    parts.append(f"Questions: {asked}; where these differ, so do the lines that were asked.\n")
    return "\n".join(parts)


def _above_the_goal(edition: str, report: dict[str, Any]) -> str:
    """Which calibration errors of an edition are above the goal."""
    found = [
        f"{LANGUAGE_NAMES[code]} {HEADLINES[metric].partition(', ')[2]} {_value(metric, value)}"
        for code, languages in report["languages"].items()
        for metric in HEADLINES
        if metric.endswith("_ece")
        and (value := languages["metrics"][metric]["values"][0]) > ECE_GOAL
    ]
    return f"Calibration errors of {edition} above {ECE_GOAL}, the goal: {', '.join(found) or 'none'}.\n"


def _newest_edition(results: Path) -> tuple[str, dict[str, Any]] | None:
    """The last edition's name and report, where that report has reliability diagrams."""
    for path in sorted(results.glob("evaluation-*.json"), reverse=True):
        report = _read(path)
        if any(
            "reliability" in each["metrics"].get("next_ece", {})
            for each in report["languages"].values()
        ):
            return path.stem.removeprefix("evaluation-"), report
    return None


def _adaptations(results: Path) -> str:
    """What `python -m training adapt` reports of lines set aside, by text."""
    parts = []
    for path in sorted(results.glob("adaptation-*.json")):
        report = _read(path)
        parts.append(_adapted_from(path.stem.removeprefix("adaptation-"), report))
        for code, summary in report["languages"].items():
            rows = [
                [
                    f"{path.stem.removeprefix('adaptation-')}, {LANGUAGE_NAMES[code]}",
                    *HEADLINES.values(),
                ]
            ]
            metrics = summary["metrics"]
            for number, contestant in enumerate(report["contestants"]):
                rows.append(
                    [
                        contestant["name"],
                        *(_figure(metric, metrics[metric], number) for metric in HEADLINES),
                    ]
                )
            parts.append(table(rows))
    if not parts:
        return _MISSING
    note = (
        "Of lines set aside from the text, which decided nothing. Bits are those of `/score`, which knows no history."
        f" {_UNDECIDED} Against other rows no differences were taken.\n"
    )
    return "\n".join([note, *parts])


def _adapted_from(name: str, report: dict[str, Any]) -> str:
    """Which checkpoint was adapted: that of the day, which need not be the bundled one any more."""
    bases = [
        each["text"]["adapted_from"]
        for each in report["contestants"]
        if "adapted_from" in each.get("text", {})
    ]
    if not bases:
        return f"{name}: the report does not say which checkpoint was adapted.\n"
    return (
        f"{name}: {bases[0]['name']} {bases[0]['version']} was adapted, on {report['date'][:10]}.\n"
    )


def _peers(results: Path) -> str:
    """What `python -m research compare --peers --publish` measured, a row a network."""
    found = _read(results / "peers.json")
    if not found:
        return _MISSING
    head = [
        "",
        "million weights",
        "CPU minutes",
        "million tokens read",
        *(f"{title}, zh / en" for title in HEADLINES.values()),
    ]
    rows = [head]
    for run in found["contestants"]:
        languages = run["evaluation"]["languages"]
        cells = []
        for metric in HEADLINES:
            values = [languages[code].get(metric) for code in LANGUAGE_NAMES]
            cells.append(
                " / ".join(
                    "–" if each is None else _value(metric, each["value"]) for each in values
                )
            )
        title = found["titles"][run["arm"]]
        numbers = (run["parameters"] / 1e6, run["cpu_seconds"] / 60, run["tokens"] / 1e6)
        rows.append(
            [
                title,
                *(
                    f"{number:.{digits}f}"
                    for number, digits in zip(numbers, (2, 1, 1), strict=True)
                ),
                *cells,
            ]
        )
    options = found["options"]
    shares = [
        languages[metric]["interval"]
        for run in found["contestants"]
        for languages in run["evaluation"]["languages"].values()
        for metric in ("next_top3", "cloze_top5", "choice")
    ]
    note = (
        f"Each trained for about {options['minutes']:g} CPU minutes on one thread by our loop, on prepared text"
        f" `{found['prepared_sha256'][:12]}`, at the best of the same {len(options['rates'])} learning rates by its"
        " held-out lines; asked the same questions through the same decoders. What can be exported runs in int8 with a"
        " temperature fitted to held-out lines, the rest in fp32 as it was trained; rescoring is not calibrated. As"
        " int8, a million weights take a megabyte. What has one direction fills blanks by rescoring. Shares have"
        f" intervals (95 %) of up to ± {max(50 * (high - low) for low, high in shares):.1f} points, and no paired"
        " differences were taken: what is nearer is undecided.\n"
    )
    return "\n".join([note, table(rows), *edge_note(found)])


def _sizes(results: Path) -> str:
    found = _read(results / "sizes.json")
    return (
        f"{sizes_table(found)}\n![Quality, bytes and microseconds]({SIZES})\n"
        if found
        else _MISSING
    )


def sizes_table(found: dict[str, Any]) -> str:
    """What `python -m benchmarks.sizes` measured, a row a checkpoint."""
    metrics = ("bits_per_character", "next_top3", "cloze_top5", "saved")
    head = ["", "read in training", "million weights", "MB", "µs a keystroke", "ms a blank"]
    rows = [[*head, *(f"{HEADLINES[metric]}, zh / en" for metric in metrics)]]
    for each in found["checkpoints"]:
        values = [
            " / ".join(_value(m, of[m]) for of in each["languages"].values()) for m in metrics
        ]
        rows.append(
            [
                each["name"],
                each["saw"].partition(", those")[0],
                f"{each['weights'] / 1e6:.1f}",
                f"{each['bytes'] / 1e6:.1f}",
                f"{each['keystroke_microseconds']:.0f}",
                f"{each['blank_microseconds'] / 1e3:.1f}",
                *values,
            ]
        )
    note = f"One thread, {found['cpu']}, CPU time, medians of {found['repeats']} turns; files in MB as they are bundled.\n"
    return "\n".join([table(rows), note])


def draw_sizes(found: dict[str, Any], path: Path) -> None:
    """Characters saved and bits against bytes, a point a checkpoint, its area by the microseconds of a keystroke."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    FigureCanvasAgg(figure)
    panels = (
        ("saved", "characters saved, %", 100.0),
        ("bits_per_character", "bits a character", 1.0),
    )
    for panel, (metric, title, factor) in zip(figure.subplots(1, 2), panels, strict=True):
        for number, (code, language) in enumerate(LANGUAGE_NAMES.items()):
            points = [
                (
                    each["bytes"] / 1e6,
                    factor * each["languages"][code][metric],
                    each["keystroke_microseconds"],
                )
                for each in found["checkpoints"]
                if code in each["languages"]
            ]
            if not points:
                continue
            megabytes, values, microseconds = zip(*points, strict=True)
            panel.plot(megabytes, values, color=f"C{number}", linewidth=0.8)
            panel.scatter(
                megabytes,
                values,
                [each / 2 for each in microseconds],
                color=f"C{number}",
                label=language,
            )
            for x, y, each in points:
                panel.annotate(
                    f"{each:.0f} µs", (x, y), xytext=(6, 6), textcoords="offset points", fontsize=8
                )
        panel.margins(0.15)
        panel.set(xlabel="MB", ylabel=title, xlim=(0, 1.15 * panel.get_xlim()[1]))
        panel.grid(alpha=0.3)
        panel.legend(fontsize=8, markerscale=0.5)
    figure.savefig(path, dpi=110)


def _value(metric: str, value: float) -> str:
    return f"{100 * value:.1f} %" if "_top" in metric or metric in PERCENT else f"{value:.3f}"


def _figure(metric: str, measured: dict[str, Any], number: int) -> str:
    """A contestant's figure; marked where it is the first one's and may be level with the second's."""
    low, high = (
        measured["difference"]["interval"] if number == 0 and "difference" in measured else (1, 1)
    )
    return f"{_value(metric, measured['values'][number])}{' ≈' if low <= 0 <= high else ''}"


def _everyday(results: Path) -> str:
    return _sentences(results / "sample_sentences.json")


def _tutorial(results: Path) -> str:
    return _sentences(results / "tutorial_sentences.json")


def _sentences(path: Path) -> str:
    found = _read(path)
    return sample_sentences.markdown(found) if found else _MISSING


def _training_speed(results: Path) -> str:
    found = _read(results / "training_speed.json")
    return training_speed(found) if found else _MISSING


def training_speed(found: dict[str, Any]) -> str:
    """What `python -m benchmarks.training` measured, as a table."""
    rows = [["", "tokens a second", "to the usual loop", "share of the machine's matrix products"]]
    rows += [
        [
            arm["name"],
            f"{arm['tokens_per_second']:,.0f}",
            f"{arm['ratio']:.2f}",
            f"{100 * arm['share']:.0f} %",
        ]
        for arm in found["arms"]
    ]
    rate = found["products_per_second"]
    note = (
        f"The bundled checkpoint's forward tower, threads: {found['threads']}, {found['cpu']}, which multiplies large "
        f"matrices at {rate['fp32'] / 1e9:.0f} GFLOP/s in fp32 and {rate['bf16'] / 1e9:.0f} in bf16. Medians of "
        f"{found['repeats']} turns; `python -m benchmarks.training` says what the arms are.\n"
    )
    return "\n".join([table(rows), note])


_MISSING = "Not measured yet.\n"
_TRAINING_TEXTS = {
    "contamination": "the text of the bundled checkpoint",
    "contamination-holmes": "the challenge's own text, which `sentence-completion` is trained on",
}
_UNDECIDED = "≈: undecided, as the 95 % interval of the difference to the row below holds 0."
_CHOICES = (
    "The choices of CMRC 2017 and CFT are the words of the passage that hold a Chinese character, at most the"
    f" {cloze_benchmarks.CHOICES} commonest. Answerable: the answer is among the choices; the rest count as wrong."
    " CFT's questions are not those of the published figures, though their file is named as the automatic part:"
    " they are worded like a teacher's, and are more than either part has ([experiments](experiments.md), 2026-11-24,"
    " published clozes).\n"
)
_ASKED_AGAIN = (
    "The questions were put to networks trained for them five times, all on 2026-11-27: on the CPU after the first"
    " stage, after two further ones and after two more, begun each time because the look before had fallen short of a"
    " goal; and after the GPU's two stages, of which the second was begun before the first had been asked. Nothing was"
    " fitted to them ([experiments](experiments.md)).\n"
)
# Runs whose test text was looked at more than once.
_LOOKED_AT_AGAIN = {
    "ptb-cpu": "ptb-cpu: the test text was looked at twice, both times on 2026-11-27, the second time for another form"
    " of dynamic evaluation, as the first one had failed there and on valid text; what is shown of it is the second"
    " look's ([experiments](experiments.md)).\n"
}

PARTS: dict[str, Callable[[Path], str]] = {
    "Anchors": _anchors,
    "Penn Treebank and WikiText-2": _words,
    "Published clozes": _clozes,
    "MSR Sentence Completion, by what each side says": _sides,
    "What of them stands in the training text": _contamination,
    "Held-out test lines": _editions,
    "Three sizes": _sizes,
    "Peers of as many weights": _peers,
    "Adaptation": _adaptations,
    "Training speed": _training_speed,
    "The tutorial's sentences": _tutorial,
    "Everyday sentences": _everyday,
}


def _read(path: Path) -> dict[str, Any]:
    """The JSON of a file; empty where there is none.

    Raises:
        ReportError: it is not JSON.
    """
    if not path.exists():
        return {}
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise ReportError(
            f"{path}: {error}; write it again with the command that makes it"
        ) from error
