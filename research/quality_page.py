"""Write docs/quality.md from figures in docs/results.

The text is research/pages/quality.md; a name after a dollar sign is replaced by a table.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from research.sample_sentences import summary
from research.tutorial_page import MISSING, Figures, PageOptions, read_figures, write_page
from training.evaluation.report import LANGUAGE_NAMES, table

METRICS = {
    "bits_per_character": "bits per character (lower is better)",
    "next_top1": "the next word is the first suggestion",
    "next_top3": "the next word is among three suggestions",
    "saved": "key presses saved by three suggestions",
    "cloze_top1": "the word of a blank is the first candidate",
    "cloze_top5": "the word of a blank is among five candidates",
    "choice": "the right word is chosen from five",
    "next_ece": "calibration error, next word",
    "cloze_ece": "calibration error, blanks",
    "choice_ece": "calibration error, choices",
}
SHORT = {
    "bits_per_character": "bits",
    "next_top3": "next, first 3",
    "cloze_top5": "blank, first 5",
}
ADAPTED = {**SHORT, "saved": "characters saved"}
BENCHMARKS = {
    "msr-scc": "MSR Sentence Completion",
    "lambada": "LAMBADA",
    "cmrc2017": "CMRC 2017",
    "cft": "CFT",
    "chid": "ChID",
}
CORPORA = {"ptb": "Penn Treebank", "wikitext2": "WikiText-2"}
# Published figures; those with an asterisk were taken from other papers and not checked again.
PUBLISHED = {
    "ptb": "LSTM 2 x 1500 72.3; AWD-LSTM 58.8, finetuned 56.5, with cache 52.5",
    "wikitext2": "AWD-LSTM 65.6, finetuned 64.7, with cache 50.6",
    "msr-scc": "two-tower word RNN 72.3 %; context2vec 65.1 %*",
    "lambada": "LSTM about 0 %*",
    "cmrc2017": "AS Reader, trained on it, 69.8 %",
    "cft": "CAS-Reader, other questions, 41.3 %*",
    "chid": "BiLSTM, trained on it, 71.5 %*",
}


def run(options: PageOptions) -> int:
    """Write the page; return 0."""
    write_page(options.docs / "quality.md", quality_tables(options.docs / "results"))
    return 0


def quality_tables(results: Path) -> dict[str, str]:
    """Return the tables of the page by name."""
    everyday = read_figures(results / "sample_sentences.json")
    tutorial = read_figures(results / "tutorial_sentences.json")
    return {
        "held_out": held_out_table(
            read_figures(results / "evaluation-0.6.1-5gram.json"),
            read_figures(results / "evaluation-0.6.1.json"),
        ),
        "smollm": smollm_table(read_figures(results / "smollm2.json")),
        "words": words_table(results),
        "clozes": clozes_table(results),
        "completion": completion_table(results),
        "peers": peers_table(read_figures(results / "peers.json")),
        "adaptation": adaptation_table(
            read_figures(results / "adaptation-shop-reviews-480KB.json")
        ),
        "sentences": sentences_table(tutorial),
        "sentence_counts": summary(everyday),
    }


def _cell(metric: str, value: float) -> str:
    """Return bits and calibration errors with two decimals, shares in percent."""
    plain = metric == "bits_per_character" or metric.endswith("_ece")
    return f"{value:.2f}" if plain else f"{100 * value:.1f} %"


def held_out_table(ngram: Figures, before: Figures) -> str:
    """Return every metric of this edition, the one before, and its n-gram, by language.

    This edition is first in both, and the metrics are those next to the n-gram.
    """
    rows = []
    for metric, title in METRICS.items():
        cells = []
        for code in LANGUAGE_NAMES:
            (own, whole), (_, old) = (
                each["languages"][code]["metrics"][metric]["values"] for each in (ngram, before)
            )
            cells += [_cell(metric, value) for value in (own, old, whole)]
        rows.append([title, *cells])
    return table(rows, ["", "Chinese", "0.5", "5-gram", "English", "0.5", "5-gram"])


def smollm_table(report: Figures) -> str:
    """Return the English metrics, size and speed of the two systems of a comparison."""
    metrics, rows = report["languages"]["en"]["metrics"], []
    for metric, title in METRICS.items():
        if metric in metrics and not metric.endswith("_ece"):
            values = metrics[metric]["values"]
            rows.append([title, *(_cell(metric, value) for value in values)])
    systems = report["contestants"]
    rows.append(["MB on disk", *(f"{each['bytes'] / 1e6:.0f}" for each in systems)])
    times = (each["key_press_milliseconds"]["p50"] for each in systems)
    rows.append(["ms of CPU per key press, median", *(f"{each:.1f}" for each in times)])
    return table(rows, ["", "Lacuna", "SmolLM2-135M"])


def words_table(results: Path) -> str:
    """Return the test perplexities of each benchmark of words, ours and published."""
    rows = []
    for path in sorted(results.glob("words-*.json")):
        found, corpus = read_figures(path), path.stem.split("-")[1]
        if "order" in found:
            cells: Sequence[str] = (f"Kneser-Ney {found['order']}-gram", "", f"{found['test']:.2f}")
            rows.append([CORPORA[corpus], *cells, "", "", PUBLISHED[corpus]])
            continue
        network, scores = found["run"]["network"], found["scores"]
        name = f"LSTM {network['layers']} x {network['hidden_size']}"
        tests = [f"{scores[kind]['test']:.2f}" for kind in ("continuous", "cache", "dynamic")]
        rows.append(["", name, _word_hours(found), *tests, ""])
    header = ["corpus", "ours", "training", "test", "with cache", "dynamic", "published"]
    return table(rows, header)


def _word_hours(found: Figures) -> str:
    progress, settings = found["progress"], found["run"]
    if settings["device"] == "cpu":
        return f"{progress['seconds'] * settings['threads'] / 3600:.1f} CPU hours"
    return f"{progress['wall_seconds'] / 3600:.1f} GPU hours"


def clozes_table(results: Path) -> str:
    """Return the accuracy of the bundled checkpoint in published clozes."""
    served = read_figures(results / "cloze_benchmarks.json")["benchmarks"]
    plain = read_figures(results / "cloze_benchmarks-no-cache-lm.json")["benchmarks"]
    rows = []
    for name, figures in served.items():
        shares = (figures["by_chance"], plain[name]["accuracy"], figures["accuracy"])
        cells = [f"{100 * share:.1f} %" for share in shares]
        rows.append([BENCHMARKS[name], f"{figures['n']:,}", *cells, PUBLISHED[name]])
    header = ["benchmark", "questions", "by chance", "without cache", "as served", "published"]
    return table(rows, header)


def completion_table(results: Path) -> str:
    """Return the accuracy of each method in sentence completion, trained on CPU and on GPU."""
    reports = [
        read_figures(results / name)["methods"]
        for name in ("sentence_completion.json", "sentence_completion-gpu.json")
    ]
    rows = [
        [name, *(f"{100 * report[name]['accuracy']:.1f} %" for report in reports)]
        for name in reports[0]
    ]
    return table(rows, ["word scored by", "4.7 CPU hours", "0.17 GPU hours"])


def peers_table(found: Figures) -> str:
    """Return networks of published shapes next to ours of as many weights."""
    rows = []
    for each in found["runs"]:
        languages = each["evaluation"]["languages"]
        cells = [f"{each['parameters'] / 1e6:.1f}", f"{each['tokens'] / 1e6:.1f}"]
        for metric in SHORT:
            both = (_cell(metric, languages[code][metric]["value"]) for code in LANGUAGE_NAMES)
            cells.append(" / ".join(both))
        rows.append([each["title"], *cells])
    return table(rows, ["", "M weights", "M tokens read", *SHORT.values()])


def adaptation_table(report: Figures) -> str:
    """Return each system of an adaptation's report, in Chinese."""
    metrics = report["languages"]["zh"]["metrics"]
    rows: list[list[Any]] = []
    for number, system in enumerate(report["contestants"]):
        values = [_cell(metric, metrics[metric]["values"][number]) for metric in ADAPTED]
        rows.append([system["name"], *values])
    return table(rows, ["", *ADAPTED.values()])


def sentences_table(found: Figures) -> str:
    """Return sentences with the first three candidates of their blanks."""
    rows = []
    for each in found["sentences"]:
        candidates = ", ".join(f"{word} {prob:.2f}" for word, prob in each["candidates"][:3])
        rows.append([each["text"], " / ".join(each["wanted"]), each["rank"] or MISSING, candidates])
    return table(rows, ["sentence", "wanted", "rank", "first candidates"])
