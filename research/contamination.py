"""Count the benchmark questions that occur in a training text.

A question counts as seen if a run of 13 of its words occurs in the training text (Brown et al.
2020, arXiv:2005.14165, appendix C). A Chinese character is a word; case and punctuation do not
count. The blank holds the right answer; wrong choices are left out. A question of fewer than 13
words cannot be checked and is counted as too short.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from model.text import HAN, normalise
from research.cloze_benchmarks import BENCHMARKS, named_files
from training.cached_json import check_writable, report_json
from training.data.documents import read_lines
from training.data.file_report import FileReport
from training.data.input_files import find_files
from training.evaluation.test_items import MARKER
from training.options import argument, option

RUN_WORDS = 13
_WORDS = re.compile(rf"[{HAN}]|[^\W_{HAN}]+")


@dataclass(frozen=True, slots=True)
class ContaminationOptions:
    """Options of the command."""

    benchmarks: tuple[str, ...] = argument(
        f"a question file if NAME is one of {', '.join(BENCHMARKS)}; otherwise a text file",
        "NAME=FILE",
    )
    training: tuple[str, ...] = option("training text: files, folders or globs", metavar="TEXT")
    output: Path = option("JSON file to write")


def run(options: ContaminationOptions) -> int:
    """Compare the texts and write the counts; return 0.

    Raises:
        CorpusError: an argument is not NAME=FILE, or a file cannot be read.
    """
    benchmarks = {
        name: [words_of(text) for text in read_texts(name, path)]
        for name, path in named_files(options.benchmarks)
    }
    check_writable(options.output)
    lines = read_inputs(options.training)
    report = count_seen(benchmarks, tqdm(lines, desc="training text", unit=" lines", disable=None))
    report_json(options.output, report)
    return 0


def words_of(text: str) -> list[str]:
    """Split into lower-case words of letters and digits; each Chinese character is a word."""
    return _WORDS.findall(normalise(text).lower())


def read_texts(name: str, path: Path) -> Iterator[str]:
    """Yield the questions of a benchmark with the answer filled in, or the lines of a text file."""
    if name in BENCHMARKS:
        for question in BENCHMARKS[name](path):
            filled = question.text.replace(MARKER, question.answer, 1)
            yield filled if question.choices else question.text + question.answer
    else:
        yield from read_inputs([str(path)])


def read_inputs(inputs: Sequence[str]) -> Iterator[str]:
    """Yield the lines of files, folders and globs."""
    for file in find_files(inputs)[0]:
        yield from read_lines(file, FileReport(str(file.path), file.kind))


def count_seen(benchmarks: dict[str, list[list[str]]], training: Iterable[str]) -> dict[str, Any]:
    """Count the questions that share a run of words with the training text.

    Args:
        benchmarks: by name, the words of each question.
        training: lines of text.

    Returns:
        ``run_words`` and, for each benchmark, ``questions``, ``too_short`` and ``seen``.
    """
    wanted = {run for texts in benchmarks.values() for words in texts for run in _runs(words)}
    found: set[int] = set()
    for line in training:
        found.update(wanted.intersection(_runs(words_of(line))))
    counts = {
        name: {
            "questions": len(texts),
            "too_short": sum(len(words) < RUN_WORDS for words in texts),
            "seen": sum(not found.isdisjoint(_runs(words)) for words in texts),
        }
        for name, texts in benchmarks.items()
    }
    return {"run_words": RUN_WORDS, "benchmarks": counts}


def _runs(words: Sequence[str]) -> Iterator[int]:
    """Yield the hash of every run of RUN_WORDS words."""
    return map(hash, zip(*(words[start:] for start in range(RUN_WORDS)), strict=False))
