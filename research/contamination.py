"""What of a benchmark stands in the training text: `python -m research contamination NAME=FILE... --training TEXT...`.

A question counts as seen where any run of 13 of its words occurs in the training text (Brown et al. 2020,
arXiv:2005.14165, appendix C). A Chinese character is a word; case and punctuation do not count. Questions that are
shorter than that cannot be checked and are counted apart.

The answer stands in its blank, so that a question reads as the text it was made from; wrong choices are left out.
"""

import argparse
import json
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from model.errors import CorpusError
from model.text import HAN, normalise
from research.cloze_benchmarks import BENCHMARKS, BenchmarkQuestion
from training.data.text_sources import expand_inputs, read_lines
from training.evaluation.test_items import MARKER
from training.run_state import check_writable, write_whole

RUN_LENGTH = 13
_WORDS = re.compile(rf"[{HAN}]|[^\W_{HAN}]+")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "benchmarks",
        nargs="+",
        metavar="NAME=FILE",
        help=f"questions of {', '.join(BENCHMARKS)}; else lines of text",
    )
    parser.add_argument(
        "--training", nargs="+", required=True, metavar="TEXT", help="files, folders or globs"
    )
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write")


def run(arguments: argparse.Namespace) -> int:
    """Compare, and report; 0 on success."""
    benchmarks: dict[str, list[list[str]]] = {}
    for argument in arguments.benchmarks:
        name, separator, path = argument.partition("=")
        if not separator:
            raise CorpusError(f"{argument}: is not NAME=FILE")
        benchmarks[name] = [words_of(text) for text in read_questions(name, Path(path))]
    check_writable(arguments.output)
    lines = (
        line for path in expand_inputs(arguments.training) for _, line, _ in read_lines(path, None)
    )
    report = compare_runs(
        benchmarks, tqdm(lines, desc="training text", unit=" lines", disable=None)
    )
    write_whole(
        arguments.output, (json.dumps(report, ensure_ascii=False, indent=1) + "\n").encode()
    )
    sys.stdout.write(markdown(report))
    return 0


def words_of(text: str) -> list[str]:
    """The words that are compared: letters and digits in lower case, each Chinese character by itself."""
    return _WORDS.findall(normalise(text).lower())


def read_questions(name: str, path: Path) -> Iterator[str]:
    """The text of each question, its blank filled; of a name that is none of BENCHMARKS, the lines that are not empty.

    Raises:
        CorpusError: the file cannot be read, or is not what the benchmark is published as.
    """
    if name in BENCHMARKS:
        yield from map(filled, BENCHMARKS[name][1](path))
    else:
        yield from (line for _, line, _ in read_lines(path, None) if line.strip())


def filled(question: BenchmarkQuestion) -> str:
    """The text that a question was made from: the answer where the blank is, or at the end."""
    if question.choices:
        return question.text.replace(MARKER, question.answer, 1)
    return question.text + question.answer


def compare_runs(benchmarks: dict[str, list[list[str]]], training: Iterable[str]) -> dict[str, Any]:
    """How many questions of each benchmark share a run of words with the training text.

    Args:
        benchmarks: by name, the words of each question.
        training: lines of text.

    Returns:
        ``run_length``, and of each benchmark ``questions``, ``too_short`` and ``seen``.
    """
    wanted = {
        run for questions in benchmarks.values() for words in questions for run in _runs(words)
    }
    found: set[int] = set()
    for line in training:
        found.update(wanted.intersection(_runs(words_of(line))))
    report: dict[str, Any] = {"run_length": RUN_LENGTH, "benchmarks": {}}
    for name, questions in benchmarks.items():
        report["benchmarks"][name] = {
            "questions": len(questions),
            "too_short": sum(len(words) < RUN_LENGTH for words in questions),
            "seen": sum(any(run in found for run in _runs(words)) for words in questions),
        }
    return report


def markdown(report: dict[str, Any]) -> str:
    """A table, a row a benchmark."""
    rows = [
        "| benchmark | questions or lines | too short to tell | seen in the training text |",
        "|---|---|---|---|",
    ]
    for name, counts in report["benchmarks"].items():
        checked = max(1, counts["questions"] - counts["too_short"])
        share = f"{counts['seen']:,} ({100 * counts['seen'] / checked:.2f} % of the others)"
        rows.append(f"| {name} | {counts['questions']:,} | {counts['too_short']:,} | {share} |")
    return "\n".join(rows) + "\n"


def _runs(words: Sequence[str]) -> Iterator[int]:
    """The hash of every run of RUN_LENGTH words: of two runs in 2^64 it is the same."""
    return map(hash, zip(*(words[start:] for start in range(RUN_LENGTH)), strict=False))
