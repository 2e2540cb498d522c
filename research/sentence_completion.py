"""Choices by what each side says, and by both: `python -m research sentence-completion CHECKPOINT... QUESTIONS`.

The MSR Sentence Completion challenge (Zweig and Burges 2011) asks which of five words stands in a sentence. Each way of
answering it is an arm: the forward tower before the blank and in the whole sentence, the backward tower likewise, the
gap head, and sums of these. `/cloze` sums the same parts over three tokens of context (model/decoding/cloze.py); here
it is the whole sentence, as there is only one, and nothing is cached.

The weights of the sum are fitted on blanks of the held-out text that was prepared with the training text, and used on
the questions once. With several checkpoints their log-probabilities are averaged.
"""

import argparse
import itertools
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from model.checkpoint import Checkpoint
from model.config import SPAN, WORD, Tower
from model.decoding.blanks import find_blanks
from model.errors import CorpusError, UnsupportedError
from model.predictor import open_model
from model.runtime import Runtime, initial_states
from model.tokenizer import END, END_OF_GAP, START, Tokenizer
from research.cloze_benchmarks import BenchmarkQuestion, msr_scc, wilson_interval
from training.data.shards import Shard, open_prepared
from training.evaluation.statistics import at_edge, interval, resample
from training.evaluation.test_items import MARKER, TextFile, cloze_questions
from training.run_state import check_writable, write_whole

Float64Array = NDArray[np.float64]

PARTS = ("left", "right", "gap", "left whole", "right whole")
# What is measured beside the fitted sum: names of the report, and the parts that are summed.
ARMS = {
    "left side: log P_F(word | left)": ("left",),
    "right side: log P_B(word | right)": ("right",),
    "both sides, gap head": ("gap",),
    "left to right, whole sentence": ("left whole",),
    "right to left, whole sentence": ("right whole",),
    "both directions, whole sentence": ("left whole", "right whole"),
}
FITTED = "gap head, rescored by both directions"
# Weights of the two directions beside the gap head's 1, and temperatures of the sum.
WEIGHTS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 8.0, 12.0)
TEMPERATURES = (0.5, 0.7, 1.0, 1.4, 2.0, 2.8, 4.0, 5.6, 8.0, 11.0, 16.0)
DEVELOPMENT_QUESTIONS = 800
SENTENCES_AT_ONCE = 40
ROUNDS = 2000


@dataclass(frozen=True, slots=True)
class Sentence:
    """One question with one of its choices: tokens left of the blank, of the choice, and right of it; what it is."""

    left: tuple[int, ...]
    word: tuple[int, ...]
    right: tuple[int, ...]
    kind: int


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "checkpoints", nargs="+", type=Path, metavar="CHECKPOINT", help="of two towers; averaged"
    )
    parser.add_argument("questions", type=Path, help="JSON Lines of the challenge")
    parser.add_argument(
        "--prepared",
        type=Path,
        required=True,
        help="prepared text, whose held-out lines fit weights",
    )
    parser.add_argument("--output", type=Path, required=True, help="directory for the report")
    parser.add_argument(
        "--limit", type=int, metavar="N", help="only the first N questions, and N to fit weights"
    )


def run(arguments: argparse.Namespace) -> int:
    """Fit, ask and report; 0 on success."""
    started = time.monotonic()
    questions = read_questions(arguments.questions)[: arguments.limit]
    path = arguments.output / "sentence_completion.json"
    check_writable(path)
    fitting: Float64Array | None = None
    asked: Float64Array | None = None
    answers: list[int] = []
    about = []
    for directory in arguments.checkpoints:
        checkpoint, runtime = open_model(directory)
        if checkpoint.network.architecture != "two_towers":
            raise UnsupportedError(
                "/checkpoint", f"{directory} has one tower; name checkpoints of two towers"
            )
        about.append(
            {"name": checkpoint.name, "digest": checkpoint.digest, "training": checkpoint.training}
        )
        development = held_out_questions(arguments.prepared, checkpoint.tokenizer, arguments.limit)
        answers = [question.choices.index(question.answer) for question in development]
        first = log_probabilities(checkpoint, runtime, development, "held out")
        second = log_probabilities(checkpoint, runtime, questions, "questions")
        fitting = first if fitting is None else fitting + first
        asked = second if asked is None else asked + second
    assert fitting is not None and asked is not None  # noqa: S101 - of one checkpoint at least
    fitting, asked = fitting / len(about), asked / len(about)
    weights = fit_weights(fitting, answers)
    right = [question.choices.index(question.answer) for question in questions]
    report = {
        "checkpoints": about,
        "questions": len(questions),
        "fitted_on": len(answers),
        "weights": weights,
        "arms": measure_arms(asked, right, weights),
        "held_out_arms": measure_arms(fitting, answers, weights),
        "seconds": round(time.monotonic() - started, 1),
    }
    write_whole(path, f"{json.dumps(report, indent=1)}\n".encode())
    sys.stdout.write(markdown(report))
    return 0


def read_questions(path: Path) -> list[BenchmarkQuestion]:
    """The challenge's questions.

    Raises:
        CorpusError: the file cannot be read or holds none, or a question's answer is not one of as many choices as
            the first has.
    """
    questions = list(msr_scc(path))
    if not questions:
        raise CorpusError(f"{path}: holds no questions")
    for number, question in enumerate(questions, start=1):
        if question.answer not in question.choices or len(question.choices) != len(
            questions[0].choices
        ):
            raise CorpusError(
                f"{path}: question {number} has {len(question.choices)} choices, which must be as many as the first has"
                " and hold the answer; leave it out"
            )
    return questions


def held_out_questions(
    prepared: Path, tokenizer: Tokenizer, limit: int | None
) -> list[BenchmarkQuestion]:
    """Blanks of held-out lines, each with words of similar frequency; at most *limit* or DEVELOPMENT_QUESTIONS.

    Raises:
        CorpusError: no held-out line has a blank with enough choices.
    """
    found = open_prepared(prepared)
    files = [
        TextFile(shard.name, shard.language, tuple(_lines(shard, found.tokenizer)))
        for shard in found.held_out
    ]
    asked = cloze_questions(files, tokenizer, sum(len(file.lines) for file in files), 0, seed=1)
    questions = [
        BenchmarkQuestion(each.text, each.answer, each.choices) for each in asked if each.choices
    ]
    if not questions:
        raise CorpusError(
            f"{prepared}: no held-out line makes a question; prepare with a greater --held-out-share"
        )
    return questions[: limit or DEVELOPMENT_QUESTIONS]


def _lines(shard: Shard, tokenizer: Tokenizer) -> list[str]:
    return [
        tokenizer.decode(shard.ids[a:b].tolist())
        for a, b in itertools.pairwise(shard.offsets.tolist())
    ]


def log_probabilities(
    checkpoint: Checkpoint, runtime: Runtime, questions: Sequence[BenchmarkQuestion], label: str
) -> Float64Array:
    """Every part for every choice: (questions, choices, len(PARTS)), in nats; all have as many choices."""
    sentences = [
        sentence
        for question in questions
        for sentence in _sentences(checkpoint.tokenizer, question)
    ]
    batches = tqdm(
        _batches(sentences, SENTENCES_AT_ONCE),
        desc=f"{checkpoint.name}, {label}",
        unit=" batches",
        disable=None,
    )
    found = [score_sentences(runtime, batch) for batch in batches]
    return np.concatenate(found).reshape(len(questions), -1, len(PARTS))


def _sentences(tokenizer: Tokenizer, question: BenchmarkQuestion) -> list[Sentence]:
    layout = find_blanks(question.text, MARKER, limit=1)
    slot = layout.slots[0]
    left, right = tuple(tokenizer.encode(layout.before)), tuple(tokenizer.encode(slot.line))
    sentences = []
    for choice in question.choices:
        word = tuple(tokenizer.encode(slot.spellings(choice)[0]))
        several = any(not tokenizer.joins(*pair) for pair in itertools.pairwise(word))
        sentences.append(Sentence(left, word, right, SPAN if several else WORD))
    return sentences


def score_sentences(runtime: Runtime, sentences: Sequence[Sentence]) -> Float64Array:
    """The parts of some sentences: (sentences, len(PARTS)), in nats.

    ``left`` is log P_F(word | left), ``left whole`` log P_F(word, right | left); ``right`` and ``right whole`` are
    their mirror images; ``gap`` is log P(word | left, right), ``<eog>`` after it included.
    """
    whole = [(*each.left, *each.word, *each.right) for each in sentences]
    forward = _read(runtime, "forward", [(START, *tokens) for tokens in whole])
    backward = _read(runtime, "backward", [(END, *reversed(tokens)) for tokens in whole])
    scores = np.zeros((len(sentences), len(PARTS)))

    # Rows of a head: the sentence, the step whose output is asked, the token that comes, the parts that it adds to.
    ahead, back = [], []
    gaps: list[tuple[int, int, int, int, int]] = []
    for number, each in enumerate(sentences):
        lefts, words, rights = len(each.left), len(each.word), len(each.right)
        for step in range(lefts, lefts + words + rights):
            parts = ("left", "left whole") if step < lefts + words else ("left whole",)
            ahead.append((number, step, whole[number][step], parts))
        for step in range(rights, lefts + words + rights):
            parts = ("right", "right whole") if step < rights + words else ("right whole",)
            back.append((number, step, whole[number][-1 - step], parts))
        for k, token in enumerate((*each.word, END_OF_GAP)):
            gaps.append((number, lefts + k, rights, k, token))
    for outputs, rows, head in (
        (forward, ahead, runtime.next_log_probabilities),
        (backward, back, runtime.previous_log_probabilities),
    ):
        for some in _batches(rows, runtime.head_rows):
            rows_found = head(np.stack([outputs[number, step] for number, step, _, _ in some]))
            for (number, _, token, parts), row in zip(some, rows_found, strict=True):
                for part in parts:
                    scores[number, PARTS.index(part)] += row[token]
    for some_gaps in _batches(gaps, runtime.head_rows):
        rows_found = runtime.gap_log_probabilities(
            np.stack([forward[number, step] for number, step, _, _, _ in some_gaps]),
            np.stack([backward[number, rights] for number, _, rights, _, _ in some_gaps]),
            np.ones(len(some_gaps), dtype=bool),
            np.array([k for _, _, _, k, _ in some_gaps]),
            np.array([sentences[number].kind for number, _, _, _, _ in some_gaps]),
        )
        for (number, _, _, _, token), row in zip(some_gaps, rows_found, strict=True):
            scores[number, PARTS.index("gap")] += row[token]
    return scores


def _read(runtime: Runtime, tower: Tower, rows: Sequence[tuple[int, ...]]) -> NDArray[np.float32]:
    """Outputs after each token of each row, (rows, longest, H)."""
    lengths = np.array([len(row) for row in rows])
    tokens = np.zeros((len(rows), lengths.max()), dtype=np.int64)
    for row, own in zip(tokens, rows, strict=True):
        row[: len(own)] = own
    return runtime.advance(tower, initial_states(runtime.sizes, tower, len(rows)), tokens, lengths)[
        1
    ]


def _batches(rows: Sequence[Any], size: int) -> list[Sequence[Any]]:
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def fit_weights(parts: Float64Array, answers: Sequence[int]) -> dict[str, float]:
    """The weights of the two directions and the temperature under which the right choices are most probable.

    Args:
        parts: of :func:`log_probabilities`.
        answers: index of each question's right choice.
    """
    best, chosen = -np.inf, (0.0, 0.0, 1.0)
    for forward, backward in itertools.product(WEIGHTS, WEIGHTS):
        scores = _sum(parts, {"gap": 1.0, "left whole": forward, "right whole": backward})
        for temperature in TEMPERATURES:
            scaled = scores / temperature
            shares = scaled - np.logaddexp.reduce(scaled, axis=1, keepdims=True)
            likelihood = float(shares[np.arange(len(answers)), list(answers)].mean())
            if likelihood > best:
                best, chosen = likelihood, (forward, backward, temperature)
    return dict(zip(("left whole", "right whole", "temperature"), chosen, strict=True))


def measure_arms(
    parts: Float64Array, answers: Sequence[int], weights: dict[str, float]
) -> dict[str, dict[str, Any]]:
    """Each arm's share of right answers with its interval, and the difference to the gap head alone with its own.

    Args:
        parts: of :func:`log_probabilities`.
        answers: index of each question's right choice.
        weights: of :func:`fit_weights`.
    """
    sums = {name: dict.fromkeys(used, 1.0) for name, used in ARMS.items()}
    sums[FITTED] = {
        "gap": 1.0,
        "left whole": weights["left whole"],
        "right whole": weights["right whole"],
    }
    hits = {
        name: _sum(parts, each).argmax(axis=1) == np.array(answers) for name, each in sums.items()
    }
    draws = resample([0] * len(answers), ROUNDS, seed=1) / len(answers)
    gap_head = hits["both sides, gap head"].astype(np.float64)
    arms = {}
    for name, right in hits.items():
        difference = right.astype(np.float64) - gap_head
        arms[name] = {
            "right": int(right.sum()),
            "accuracy": float(right.mean()),
            "interval": list(wilson_interval(int(right.sum()), len(answers))),
            "difference": float(difference.mean()),
            "difference_interval": list(interval(draws @ difference)),
        }
    return arms


def _sum(parts: Float64Array, weights: dict[str, float]) -> Float64Array:
    total = np.zeros(parts.shape[:2])
    for name, weight in weights.items():
        total += weight * parts[:, :, PARTS.index(name)]
    return total


def markdown(report: dict[str, Any]) -> str:
    """A table, a row an arm; how the weights were fitted, and what the sum is worth beside the best other arm."""
    rows = [
        "| scored by | right, % | 95 % interval | to the gap head | of held-out blanks, % |",
        "|---|---|---|---|---|",
    ]
    for name, arm in report["arms"].items():
        cell = name.replace("|", "\\|")
        low, high = (100 * bound for bound in arm["interval"])
        below, above = (100 * bound for bound in arm["difference_interval"])
        rows.append(
            f"| {cell} | {100 * arm['accuracy']:.1f} | {low:.1f} to {high:.1f} | {100 * arm['difference']:+.1f}"
            f" ({below:+.1f} to {above:+.1f}) | {100 * report['held_out_arms'][name]['accuracy']:.1f} |"
        )
    weights = report["weights"]
    rows.append(
        f"\n{report['questions']:,} questions. Weights beside the gap head's 1, fitted on {report['fitted_on']:,}"
        f" blanks of held-out text: left to right {weights['left whole']:g}, right to left {weights['right whole']:g};"
        f" temperature {weights['temperature']:g}."
    )
    if edges := [
        title
        for name, title, grid in (
            ("left whole", "the weight of left to right", WEIGHTS),
            ("right whole", "that of right to left", WEIGHTS),
            ("temperature", "the temperature", TEMPERATURES),
        )
        if at_edge(weights[name], grid)
    ]:
        rows.append(
            f"At an edge of their grids, so that better values may lie beyond: {', '.join(edges)}."
        )
    rows.append(_beside_the_best(report["arms"]))
    return "\n".join(rows) + "\n"


def _beside_the_best(arms: dict[str, dict[str, Any]]) -> str:
    """The fitted sum beside the best of the arms that fit nothing."""
    name = max(
        (name for name in arms if name != FITTED), key=lambda each: float(arms[each]["accuracy"])
    )
    fitted, best = arms[FITTED], arms[name]
    return (
        f"The fitted sum has {fitted['right']} right ({100 * fitted['accuracy']:.1f} %), the best arm that fits nothing"
        f" {best['right']} ({100 * best['accuracy']:.1f} %: {name}): a difference of"
        f" {fitted['right'] - best['right']:+d} questions, for which no interval was taken."
    )
