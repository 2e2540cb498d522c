"""Published cloze benchmarks: `python -m research cloze-benchmarks CHECKPOINT --output DIR --msr-scc FILE ...`.

The predictor that serves is asked, by its public queries; nothing is trained or fitted on the questions.

- MSR Sentence Completion (Zweig and Burges 2011): one word of five, by sentence.
- LAMBADA (Paperno et al. 2016, arXiv:1606.06031): the last word of a passage, from the whole vocabulary.
- CMRC 2017 (Cui et al. 2018, arXiv:1709.08299) and CFT (Cui et al. 2016, arXiv:1607.02250): a word of the passage.
- ChID (Zheng et al. 2019, arXiv:1906.01265): one idiom of seven.

Chinese text that comes as words is joined; the commonest words of its passage, at most CHOICES, are a
question's choices. An answer that is not one of them cannot be given: ``answerable`` says how many can.
"""

import argparse
import json
import math
import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model.errors import CorpusError
from model.queries import ClozeQuery, ClozeResult, Limits, PredictQuery, PredictResult
from model.text import is_han
from training.evaluation.metrics import ask
from training.evaluation.systems import EvaluatedSystem, open_system
from training.evaluation.test_items import MARKER
from training.run_state import check_writable, write_whole

# Of the normal distribution, for 95 %.
TWO_SIDED = 1.96
# Words of a passage that are choices, the commonest: as many as a query takes.
CHOICES = Limits().choices
_SPACE_BEFORE = re.compile(r" ([,.;:!?'’])")
_LAST_WORD = re.compile(r"[^\W_][\w'’-]*$")


@dataclass(frozen=True, slots=True)
class BenchmarkQuestion:
    """One question.

    Attributes:
        text: with MARKER where the answer stood; without it, what the answer continues.
        answer: one of the choices, where there are any and the passage holds it.
        choices: none where the whole vocabulary is the choice.
    """

    text: str
    answer: str
    choices: tuple[str, ...] = ()


def msr_scc(path: Path) -> Iterator[BenchmarkQuestion]:
    """JSON Lines with ``question`` (a run of underscores), ``options`` and ``answer_word``."""
    for record in _records(path, "question", "options", "answer_word"):
        text = _SPACE_BEFORE.sub(r"\1", re.sub("_{2,}", MARKER, record["question"]))
        yield BenchmarkQuestion(text, record["answer_word"], tuple(record["options"]))


def lambada(path: Path) -> Iterator[BenchmarkQuestion]:
    """JSON Lines with ``text``, whose last word is asked for; a quotation mark before it is given.

    Raises:
        CorpusError: a text does not end in a word.
    """
    for record in _records(path, "text"):
        text = record["text"].rstrip()
        last = _LAST_WORD.search(text)
        if last is None:
            raise CorpusError(f"{path}: a text does not end in a word; leave such texts out")
        yield BenchmarkQuestion(text[: last.start()], last.group())


def passage_cloze(path: Path) -> Iterator[BenchmarkQuestion]:
    """JSON Lines with ``passage`` (sentences of words), ``query`` with XXXXX, and ``answer``: CMRC 2017 and CFT."""
    for record in _records(path, "passage", "query", "answer"):
        sentences = record["passage"]
        words = Counter(
            word for sentence in sentences for word in sentence.split() if any(map(is_han, word))
        )
        inside = any("XXXXX" in sentence for sentence in sentences)
        text = "".join(sentences) if inside else "".join([*sentences, record["query"]])
        text = "".join(text.split()).replace("XXXXX", MARKER, 1)
        choices = tuple(word for word, _ in words.most_common(CHOICES))
        yield BenchmarkQuestion(text, record["answer"], choices)


def chid(path: Path) -> Iterator[BenchmarkQuestion]:
    """JSON Lines with ``content`` (#idiom#), ``candidates`` and the index ``answer``."""
    for record in _records(path, "content", "candidates", "answer"):
        text = record["content"].replace("#idiom#", MARKER, 1)
        yield BenchmarkQuestion(
            text, record["candidates"][record["answer"]], tuple(record["candidates"])
        )


BENCHMARKS: dict[str, tuple[str, Callable[[Path], Iterator[BenchmarkQuestion]]]] = {
    "msr-scc": ("MSR Sentence Completion", msr_scc),
    "lambada": ("LAMBADA", lambada),
    "cmrc2017": ("CMRC 2017", passage_cloze),
    "cft": ("CFT", passage_cloze),
    "chid": ("ChID", chid),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "checkpoint", type=Path, help="checkpoint directory, or one of `python -m training ngram`"
    )
    for name, (title, _) in BENCHMARKS.items():
        parser.add_argument(f"--{name}", type=Path, metavar="FILE", help=f"questions of {title}")
    parser.add_argument(
        "--no-memory", action="store_true", help="what stands in a passage makes nothing likelier"
    )
    parser.add_argument("--limit", type=int, metavar="N", help="ask the first N questions of each")
    parser.add_argument("--output", type=Path, required=True, help="directory for the report")


def run(arguments: argparse.Namespace) -> int:
    """Ask, and report; 0 on success."""
    asked = {
        name: list(read(file))[: arguments.limit]
        for name, (_, read) in BENCHMARKS.items()
        if (file := getattr(arguments, name.replace("-", "_"))) is not None
    }
    if empty := [name for name, questions in asked.items() if not questions]:
        raise CorpusError(f"{', '.join(empty)}: no questions; name a file that has some")
    if not asked:
        raise CorpusError(f"no questions; name a file with --{', --'.join(BENCHMARKS)}")
    path = arguments.output / "cloze_benchmarks.json"
    check_writable(path)
    contestant = open_system(arguments.checkpoint, use_cache_lm=not arguments.no_memory)
    results = {
        name: {"title": BENCHMARKS[name][0], **answer(contestant, asked[name])} for name in asked
    }
    report = {
        "checkpoint": contestant.name,
        "memory": not arguments.no_memory,
        **contestant.about,
        "benchmarks": results,
    }
    report.pop("text", None)
    write_whole(path, (json.dumps(report, ensure_ascii=False, indent=1) + "\n").encode())
    sys.stdout.write(markdown(results))
    return 0


def answer(contestant: EvaluatedSystem, questions: Sequence[BenchmarkQuestion]) -> dict[str, Any]:
    """Put questions of one benchmark to a contestant.

    Returns:
        ``n``, of which ``answerable`` have their answer among the choices; ``accuracy`` of the first candidate with its
        ``interval``, ``by_chance`` and ``seconds``. What is not answerable counts as wrong, by chance too.
    """
    started = time.monotonic()
    closed = [(number, question) for number, question in enumerate(questions) if question.choices]
    open_ = [
        (number, question) for number, question in enumerate(questions) if not question.choices
    ]
    right: list[bool] = []
    filled = ask(
        contestant,
        [
            ClozeQuery(question.text, blank=MARKER, choices=list(dict.fromkeys(question.choices)))
            for _, question in closed
        ],
        ClozeResult,
        "choices",
    )
    for (_, question), found in zip(closed, filled, strict=True):
        right.append(found.blanks[0].candidates[0].word == question.answer)
    followed = ask(
        contestant,
        [PredictQuery(question.text, 1) for _, question in open_],
        PredictResult,
        "next words",
    )
    for (_, question), next_ in zip(open_, followed, strict=True):
        right.append(bool(next_.candidates) and next_.candidates[0].word == question.answer)
    return {
        "n": len(right),
        "answerable": sum(map(is_answerable, questions)),
        "accuracy": sum(right) / len(right),
        "interval": list(wilson_interval(sum(right), len(right))),
        "by_chance": by_chance(questions),
        "seconds": round(time.monotonic() - started, 1),
    }


def is_answerable(question: BenchmarkQuestion) -> bool:
    """Whether the answer can be given: it is one of the choices, or the whole vocabulary is the choice."""
    return not question.choices or question.answer in question.choices


def by_chance(questions: Sequence[BenchmarkQuestion]) -> float:
    """The share that is right where choices are drawn blindly; 0 of the whole vocabulary."""
    chances = [
        1 / len(set(each.choices)) for each in questions if each.choices and is_answerable(each)
    ]
    return sum(chances) / len(questions)


def wilson_interval(right: int, asked: int) -> tuple[float, float]:
    """The 95 % interval of a share (Wilson 1927)."""
    share, square = right / asked, TWO_SIDED**2
    middle = (share + square / (2 * asked)) / (1 + square / asked)
    half = (
        TWO_SIDED
        / (1 + square / asked)
        * math.sqrt(share * (1 - share) / asked + square / (4 * asked**2))
    )
    return max(0.0, middle - half), min(1.0, middle + half)


def markdown(results: dict[str, dict[str, Any]]) -> str:
    """A table, a row a benchmark."""
    rows = [
        "| benchmark | questions | answerable | right, % | 95 % interval | by chance, % | seconds |",
        "|---|---|---|---|---|---|---|",
    ]
    for result in results.values():
        low, high = (100 * bound for bound in result["interval"])
        rows.append(
            f"| {result['title']} | {result['n']:,} | {result['answerable']:,} | {100 * result['accuracy']:.1f} |"
            f" {low:.1f} to {high:.1f} | {100 * result['by_chance']:.1f} | {result['seconds']:.0f} |"
        )
    return "\n".join(rows) + "\n"


def _records(path: Path, *fields: str) -> Iterator[dict[str, Any]]:
    """The objects of a JSON Lines file.

    Raises:
        CorpusError: it cannot be read, or a line is no object with these fields.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise CorpusError(f"{path}: {error}; name a file of JSON Lines") from error
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
        except ValueError as error:
            raise CorpusError(f"{path}:{number}: not JSON; each line must be an object") from error
        missing = [field for field in fields if not isinstance(record, dict) or field not in record]
        if missing:
            raise CorpusError(f"{path}:{number}: lacks {', '.join(missing)}")
        yield record
