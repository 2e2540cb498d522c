"""Answer published cloze questions with a checkpoint, through the predictor that serves.

Nothing is trained or fitted on the questions.

- MSR Sentence Completion (Zweig and Burges 2011): one word of five, by sentence.
- LAMBADA (Paperno et al. 2016, arXiv:1606.06031): the last word of a passage, from all words.
- CMRC 2017 (Cui et al. 2018, arXiv:1709.08299) and CFT (Cui et al. 2016, arXiv:1607.02250): a word
  of the passage. The choices are the most frequent Chinese words of the passage, at most as many as
  a query takes; a question whose answer is not among them counts as wrong.
- ChID (Zheng et al. 2019, arXiv:1906.01265): one idiom of seven.
"""

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model.errors import CorpusError
from model.queries import ClozeQuery, ClozeResult, Limits, PredictQuery, PredictResult
from model.text import is_han
from training.cached_json import check_writable, report_json
from training.evaluation.systems import EvaluatedSystem, open_system
from training.evaluation.test_items import MARKER
from training.options import argument, option

MAX_CHOICES = Limits().choices
# Two-sided 95 % quantile of the normal distribution.
NORMAL_95 = 1.96
_SPACE_BEFORE = re.compile(r" ([,.;:!?'’])")
_LAST_WORD = re.compile(r"[^\W_][\w'’-]*$")


@dataclass(frozen=True, slots=True)
class BenchmarkQuestion:
    """One question.

    Attributes:
        text: has MARKER in place of the answer; without choices, the answer continues the text.
        answer: the right word.
        choices: offered words; empty if every word of the vocabulary is possible.
    """

    text: str
    answer: str
    choices: tuple[str, ...] = ()

    @property
    def answerable(self) -> bool:
        """True unless the answer is missing among the choices."""
        return not self.choices or self.answer in self.choices


def msr_scc(path: Path) -> Iterator[BenchmarkQuestion]:
    """Read JSON Lines: ``question`` (its blank is underscores), ``options``, ``answer_word``."""
    for record in read_records(path, "question", "options", "answer_word"):
        text = _SPACE_BEFORE.sub(r"\1", re.sub("_{2,}", MARKER, record["question"]))
        yield BenchmarkQuestion(text, record["answer_word"], tuple(record["options"]))


def lambada(path: Path) -> Iterator[BenchmarkQuestion]:
    """Read JSON Lines with ``text``; the last word is the answer, a quotation mark before it is
    not.

    Raises:
        CorpusError: a text does not end in a word.
    """
    for record in read_records(path, "text"):
        text = record["text"].rstrip()
        last = _LAST_WORD.search(text)
        if last is None:
            raise CorpusError(f"{path}: a text does not end in a word; remove such texts")
        yield BenchmarkQuestion(text[: last.start()], last.group())


def passage_cloze(path: Path) -> Iterator[BenchmarkQuestion]:
    """Read JSON Lines of CMRC 2017 or CFT: ``passage`` (tokenised sentences), ``query``,
    ``answer``.

    XXXXX marks the blank, in the passage or in the query.
    """
    for record in read_records(path, "passage", "query", "answer"):
        passage = record["passage"]
        words = Counter(word for line in passage for word in line.split() if any(map(is_han, word)))
        in_passage = any("XXXXX" in line for line in passage)
        text = "".join(passage if in_passage else [*passage, record["query"]])
        text = "".join(text.split()).replace("XXXXX", MARKER, 1)
        choices = tuple(word for word, _ in words.most_common(MAX_CHOICES))
        yield BenchmarkQuestion(text, record["answer"], choices)


def chid(path: Path) -> Iterator[BenchmarkQuestion]:
    """Read JSON Lines with ``content`` (#idiom# for the blank), ``candidates`` and index
    ``answer``.
    """
    for record in read_records(path, "content", "candidates", "answer"):
        text = record["content"].replace("#idiom#", MARKER, 1)
        choices = tuple(record["candidates"])
        yield BenchmarkQuestion(text, choices[record["answer"]], choices)


BENCHMARKS: dict[str, Callable[[Path], Iterator[BenchmarkQuestion]]] = {
    "msr-scc": msr_scc,
    "lambada": lambada,
    "cmrc2017": passage_cloze,
    "cft": passage_cloze,
    "chid": chid,
}


@dataclass(frozen=True, slots=True)
class BenchmarkOptions:
    """Options of the command."""

    checkpoint: Path = argument("checkpoint directory")
    questions: tuple[str, ...] = argument(f"NAME is one of {', '.join(BENCHMARKS)}", "NAME=FILE")
    output: Path = option("JSON file to write")
    no_cache_lm: bool = option("switch the cache language model off", False)


def run(options: BenchmarkOptions) -> int:
    """Answer the questions and write the figures; return 0.

    Raises:
        CorpusError: a name is unknown, or a file cannot be read or is empty.
    """
    questions = {}
    for name, path in named_files(options.questions):
        if name not in BENCHMARKS:
            raise CorpusError(f"unknown benchmark {name!r}; choose from {', '.join(BENCHMARKS)}")
        questions[name] = list(BENCHMARKS[name](path))
        if not questions[name]:
            raise CorpusError(f"{path}: has no questions")
    check_writable(options.output)
    system = open_system(options.checkpoint, use_cache_lm=not options.no_cache_lm)
    report = {
        "checkpoint": system.name,
        "digest": system.about.get("digest", ""),
        "use_cache_lm": not options.no_cache_lm,
        "benchmarks": {name: answer(system, asked) for name, asked in questions.items()},
    }
    report_json(options.output, report)
    return 0


def named_files(pairs: Sequence[str]) -> Iterator[tuple[str, Path]]:
    """Split arguments NAME=FILE.

    Raises:
        CorpusError: an argument without an equals sign.
    """
    for pair in pairs:
        name, separator, path = pair.partition("=")
        if not separator:
            raise CorpusError(f"{pair!r} is not NAME=FILE")
        yield name, Path(path)


def answer(system: EvaluatedSystem, questions: Sequence[BenchmarkQuestion]) -> dict[str, Any]:
    """Answer the questions of one benchmark.

    Returns:
        ``n``, ``answerable``, ``accuracy`` of the first candidate, its 95 % ``interval``, and the
        accuracy ``by_chance`` (of random choices; 0 without choices). A question that cannot be
        answered counts as wrong in both accuracies.
    """
    closed = [question for question in questions if question.choices]
    open_ = [question for question in questions if not question.choices]
    cloze = [
        ClozeQuery(q.text, blank=MARKER, choices=list(dict.fromkeys(q.choices))) for q in closed
    ]
    words = [result.blanks[0].candidates[0].word for result in system.ask(cloze, ClozeResult)]
    following = [PredictQuery(question.text, 1) for question in open_]
    words += [
        result.candidates[0].word if result.candidates else ""
        for result in system.ask(following, PredictResult)
    ]
    right = sum(w == question.answer for w, question in zip(words, closed + open_, strict=True))
    chances = [1 / len(set(question.choices)) for question in closed if question.answerable]
    return {
        "n": len(questions),
        "answerable": sum(question.answerable for question in questions),
        "accuracy": right / len(questions),
        "interval": list(wilson_interval(right, len(questions))),
        "by_chance": sum(chances) / len(questions),
    }


def wilson_interval(right: int, asked: int) -> tuple[float, float]:
    """Return the 95 % interval of a share (Wilson 1927)."""
    share, square = right / asked, NORMAL_95**2 / asked
    middle = (share + square / 2) / (1 + square)
    half = math.sqrt(share * (1 - share) * square + square**2 / 4) / (1 + square)
    return max(0.0, middle - half), min(1.0, middle + half)


def read_records(path: Path, *fields: str) -> Iterator[dict[str, Any]]:
    """Yield the objects of a JSON Lines file.

    Raises:
        CorpusError: the file cannot be read, or a line is not an object with these fields.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise CorpusError(f"{path}: {error}; name a file of JSON Lines") from error
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
        except ValueError:
            record = None
        if not isinstance(record, dict) or not record.keys() >= set(fields):
            raise CorpusError(f"{path}:{number}: not a JSON object with {', '.join(fields)}")
        yield record
