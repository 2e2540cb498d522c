"""Scores a checkpoint on held-out text: `python -m training evaluate CHECKPOINT TEXT... --output DIR [--beside DIR]`.

Questions are put to the very predictor that serves, through its public queries, so that vocabulary, healing, search,
rescoring, quantisation and calibration are all part of what is measured. Beside it an n-gram (`python -m training
ngram`) or an earlier checkpoint is asked the same questions through the same decoders, and differences get paired
intervals.

Writes evaluation.json, evaluation.md, evaluation.png and reliability.png. What each figure means: DEFINITIONS in
training/evaluation/report.py; which questions are asked: training/evaluation/test_items.py; intervals: training/evaluation/statistics.py.
"""

import argparse
import math
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.errors import ReportError, TokenizerError
from model.text import LANGUAGES
from model.tokenizer import Tokenizer
from training.evaluation.metrics import Answers, LineResult, Questions, answer_all
from training.evaluation.report import REPORT, write_report
from training.evaluation.statistics import (
    Float64Array,
    calibration_error,
    calibration_floor,
    interval,
    ratio,
    ratio_samples,
    reliability,
    resample,
)
from training.evaluation.systems import CAPABILITIES, EvaluatedSystem, open_contestant
from training.evaluation.test_items import (
    TextFile,
    cloze_questions,
    next_questions,
    read_files,
    typed_lines,
)
from training.run_state import check_writable

# Every file shows at least this many lines with questions, and typed lines
MIN_LINES = 20
MIN_TYPED_LINES = 6
BOOTSTRAP_ROUNDS = 1000
# Sorting into bins again in every round is slow; intervals of calibration errors need less precision
CALIBRATION_ROUNDS = 200


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``python -m training evaluate``."""
    parser.add_argument(
        "checkpoint", type=Path, help="checkpoint directory, or one of `python -m training ngram`"
    )
    parser.add_argument(
        "text", nargs="+", help="held-out text: files, folders or globs; a line an item"
    )
    parser.add_argument("--output", type=Path, required=True, help="directory for the report")
    parser.add_argument(
        "--beside",
        "--ngram",
        type=Path,
        metavar="DIR",
        help="another checkpoint, or an n-gram, to compare with",
    )
    parser.add_argument("--field", metavar="NAME", help="member of JSON Lines that holds the text")
    parser.add_argument(
        "--language", choices=LANGUAGES, help="of all files; else from folder, file name or script"
    )
    parser.add_argument(
        "--no-memory", action="store_true", help="what stands in a text makes nothing likelier"
    )
    parser.add_argument(
        "--limit-per-file", type=int, metavar="N", help="use at most N lines of a file"
    )
    parser.add_argument(
        "--lines", type=int, default=1500, metavar="N", help="lines a language for next and cloze"
    )
    parser.add_argument(
        "--typing-lines", type=int, default=150, metavar="N", help="lines a language that are typed"
    )
    parser.add_argument(
        "--seed", type=int, default=1, help="of the choice of lines and of the bootstrap"
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=1, help="threads of one call on a CPU")


def run(arguments: argparse.Namespace) -> int:
    """Evaluate and write the report; 0 on success."""
    use_cache_lm = not arguments.no_memory
    contestants = [
        open_contestant(
            arguments.checkpoint, arguments.device, arguments.threads, use_cache_lm=use_cache_lm
        )
    ]
    if arguments.beside is not None:
        contestants.append(open_contestant(arguments.beside, use_cache_lm=use_cache_lm))
    files = read_files(
        arguments.text,
        arguments.language,
        arguments.limit_per_file,
        arguments.seed,
        arguments.field,
    )
    tokenizer = common_tokenizer([arguments.checkpoint, *filter(None, [arguments.beside])])
    check_writable(arguments.output / REPORT)  # now, and not after half an hour
    questions = ask_about(files, tokenizer, arguments.lines, arguments.typing_lines, arguments.seed)
    report = evaluate(contestants, questions, arguments.seed)
    try:
        markdown = write_report(report, arguments.output)
    except OSError as error:
        raise ReportError(
            f"{arguments.output}: {error.strerror}; make room, and evaluate again"
        ) from error
    sys.stdout.write(markdown)
    return 0


def common_tokenizer(directories: Sequence[Path]) -> Tokenizer:
    """The vocabulary of contestants, which cuts Chinese questions: with another one they would be other questions.

    Raises:
        TokenizerError: one cannot be read, or differs from the first.
    """
    first, *others = [
        (directory, Tokenizer.load(directory / "tokenizer.model")) for directory in directories
    ]
    for directory, tokenizer in others:
        if tokenizer.digest != first[1].digest:
            raise TokenizerError(
                f"{directory} has vocabulary {tokenizer.digest[:12]}, {first[0]} has {first[1].digest[:12]}; Chinese"
                " questions are cut by it: compare what was built from the same prepared data, or evaluate each alone"
            )
    return first[1]


def ask_about(
    files: list[TextFile], tokenizer: Tokenizer, lines: int, typing_lines: int, seed: int
) -> Questions:
    """Choose the questions: *lines* lines a language for next and cloze, *typing_lines* to type."""
    return Questions(
        files,
        next_questions(files, lines, MIN_LINES, seed),
        cloze_questions(files, tokenizer, lines, MIN_LINES, seed),
        typed_lines(files, typing_lines, MIN_TYPED_LINES, seed),
    )


def evaluate(
    contestants: Sequence[EvaluatedSystem], questions: Questions, seed: int
) -> dict[str, Any]:
    """Put all questions to all contestants and sum up.

    Returns:
        The content of evaluation.json.

    Raises:
        LacunaError: a contestant could not answer; evaluation stops rather than leave questions out.
    """
    answers: list[Answers] = []
    described = []
    common = [
        each
        for each in CAPABILITIES
        if all(each in contestant.capabilities for contestant in contestants)
    ]
    for contestant in contestants:
        answered, seconds = answer_all(contestant, questions, common)
        answers.append(answered)
        described.append({"name": contestant.name, **contestant.about, "seconds": seconds})
    return {
        "format_version": 1,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "seed": seed,
        "bootstrap_rounds": BOOTSTRAP_ROUNDS,
        "questions_sha256": questions.digest,
        "contestants": described,
        "languages": {
            language: _summarise(questions.files, language, answers, seed)
            for language in LANGUAGES
            if any(file.language == language for file in questions.files)
        },
    }


def _summarise(
    files: Sequence[TextFile], language: str, answers: Sequence[Answers], seed: int
) -> dict[str, Any]:
    """Figures of one language: over all files together, and of each file."""
    numbers = [number for number, file in enumerate(files) if file.language == language]
    overall: dict[str, Any] = {}
    by_file: dict[str, Any] = {
        files[number].name: {"lines": len(files[number].lines), "metrics": {}} for number in numbers
    }
    for part in answers[0]:
        chosen = [index for index, line in enumerate(answers[0][part]) if line.file in numbers]
        # The same lines of every contestant
        lines = [[answered[part][index] for index in chosen] for answered in answers]
        sampled = np.bincount([line.file for line in lines[0]], minlength=len(files))
        weights = np.array([len(files[line.file].lines) / sampled[line.file] for line in lines[0]])
        counts = resample([line.file for line in lines[0]], BOOTSTRAP_ROUNDS, seed)
        overall |= _figures(lines, weights, counts, seed)
        for metric in sorted({metric for line in lines[0] for metric in line.judged}):
            overall[metric]["reliability"] = [
                _reliability(metric, contestant, weights) for contestant in lines
            ]
        for number in numbers:
            own = [index for index, line in enumerate(lines[0]) if line.file == number]
            figures = _figures(
                [[line[index] for index in own] for line in lines],
                weights[own],
                counts[:, own],
                seed,
            )
            by_file[files[number].name]["metrics"] |= figures
    return {
        "files": len(numbers),
        "lines": sum(len(files[n].lines) for n in numbers),
        "metrics": overall,
        "by_file": by_file,
    }


def _figures(
    lines: Sequence[Sequence[LineResult]], weights: Float64Array, counts: Float64Array, seed: int
) -> dict[str, dict[str, Any]]:
    """Values and intervals of each metric for each contestant, and of the first one's difference to the second."""
    figures: dict[str, dict[str, Any]] = {}
    for metric in sorted({metric for line in lines[0] for metric in line.sums}):
        sums = [
            np.array([line.sums.get(metric, (0.0, 0.0)) for line in contestant])
            for contestant in lines
        ]
        values = [ratio(both[:, 0], both[:, 1], weights) for both in sums]
        samples = [ratio_samples(both[:, 0], both[:, 1], weights, counts) for both in sums]
        if metric == "perplexity":
            values, samples = (
                [math.exp(value) for value in values],
                [np.exp(sample) for sample in samples],
            )
        figures[metric] = {**_figure(values, samples), "n": int(sums[0][:, 1].sum())}
    for metric in sorted({metric for line in lines[0] for metric in line.judged}):
        judged = [_calibration(metric, contestant, weights, counts, seed) for contestant in lines]
        figure = _figure([value for value, _, _ in judged], [sample for _, sample, _ in judged])
        answered = sum(len(line.judged.get(metric, ())) for line in lines[0])
        figures[metric] = {
            **figure,
            "by_chance": [by_chance for _, _, by_chance in judged],
            "n": answered,
        }
    return figures


def _calibration(
    metric: str, lines: Sequence[LineResult], weights: Float64Array, counts: Float64Array, seed: int
) -> tuple[float, Float64Array, float]:
    """Calibration error, bootstrap samples of it, and what chance alone would show.

    Drawing lines again adds noise of its own, which calibration error counts as error: the samples tell the spread, and
    are moved so that their mean is the estimate.
    """
    probabilities, correct, line_of = _judged(metric, lines)
    weight = weights[line_of]
    drawn = counts[:CALIBRATION_ROUNDS, line_of] * weight
    samples = np.array([calibration_error(probabilities, correct, one) for one in drawn])
    value = calibration_error(probabilities, correct, weight)
    return value, value + samples - samples.mean(), calibration_floor(probabilities, weight, seed)


def _reliability(
    metric: str, lines: Sequence[LineResult], weights: Float64Array
) -> dict[str, list[float]]:
    """The points of a contestant's reliability diagram."""
    probabilities, correct, line_of = _judged(metric, lines)
    points = reliability(probabilities, correct, weights[line_of])
    return {
        name: values.tolist()
        for name, values in zip(("claimed", "right", "share"), points, strict=True)
    }


def _judged(
    metric: str, lines: Sequence[LineResult]
) -> tuple[Float64Array, NDArray[np.bool_], NDArray[np.int64]]:
    """Of each answer: the probability that was claimed, whether it was right, and the number of its line."""
    judged = [
        (p, right, index)
        for index, line in enumerate(lines)
        for p, right in line.judged.get(metric, ())
    ]
    return (
        np.array([p for p, _, _ in judged]),
        np.array([right for _, right, _ in judged], dtype=bool),
        np.array([index for _, _, index in judged], dtype=np.int64),
    )


def _figure(values: Sequence[float], samples: Sequence[Float64Array]) -> dict[str, Any]:
    """Values and 95 % intervals, contestants in order, and the paired difference of the first two."""
    figure: dict[str, Any] = {
        "values": list(values),
        "intervals": [list(interval(sample)) for sample in samples],
    }
    if len(values) > 1:
        difference = samples[0] - samples[1]
        figure["difference"] = {
            "value": values[0] - values[1],
            "interval": list(interval(difference)),
        }
    return figure
