"""Score a checkpoint on text: `python -m training evaluate CHECKPOINT TEXT... --output DIR`.

Queries go to the predictor that serves, so tokenizer, healing, search, rescoring, quantisation and
calibration are part of the scores. An n-gram or an earlier checkpoint, given by --against, is asked
the same questions, and differences get paired intervals.

Writes evaluation.json, evaluation.md and reliability.png (training/evaluation/report.py).
"""

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from model.errors import TokenizerError
from model.runtime import Float64Array
from model.text import LANGUAGES, Language
from model.tokenizer import Tokenizer
from training.cached_json import check_writable
from training.evaluation.metrics import Answers, LineResult, answer_all
from training.evaluation.report import REPORT, write_report
from training.evaluation.statistics import (
    calibration_error,
    calibration_floor,
    interval,
    ratio,
    ratio_samples,
    reliability,
    resample,
)
from training.evaluation.systems import CAPABILITIES, EvaluatedSystem, open_system
from training.evaluation.test_items import Items, TextFile, choose_items, read_files
from training.options import argument, option

BOOTSTRAP_ROUNDS = 1000
# Sorting into bins in every round is slow, and calibration errors need less precision
CALIBRATION_ROUNDS = 200


@dataclass(frozen=True, slots=True)
class EvaluateOptions:
    """Options of the command."""

    checkpoint: Path = argument("directory of a checkpoint, or of an n-gram")
    text: tuple[str, ...] = argument("held-out text: files, folders or globs; a line an item")
    output: Path = option("directory for the report", metavar="DIR")
    against: Path | None = option("checkpoint or n-gram to compare with", None, metavar="DIR")
    field: str | None = option("member of JSON Lines that holds the text", None, metavar="NAME")
    language: Language | None = option("of all files (default: by folder, name or script)", None)
    no_cache_lm: bool = option("answer without the cache language model", False)
    lines: int = option("lines for each language with items", 1500, metavar="N")
    typing_lines: int = option("lines for each language to type", 150, metavar="N")
    seed: int = option("of the choice of lines and of the bootstrap", 1)
    device: Literal["cpu", "cuda"] = option("that runs the checkpoint", "cpu")
    threads: int = option("of one call on a CPU", 1)


def run(options: EvaluateOptions) -> int:
    """Evaluate and write the report; 0 on success."""
    directories = [options.checkpoint, *([options.against] if options.against else [])]
    settings = options.device, options.threads
    systems = [
        open_system(each, *settings, use_cache_lm=not options.no_cache_lm) for each in directories
    ]
    tokenizer, *others = (Tokenizer.load(each / "tokenizer.model") for each in directories)
    if any(other.digest != tokenizer.digest for other in others):
        raise TokenizerError(
            f"{options.checkpoint} and {options.against} have different tokenizers, on which"
            " Chinese items depend: compare systems of the same prepared data, or evaluate each"
            " alone"
        )
    files = read_files(options.text, options.language, options.field)
    check_writable(options.output / REPORT)  # before the work
    items = choose_items(files, tokenizer, options.lines, options.typing_lines, options.seed)
    report = evaluate(systems, items, options.seed)
    sys.stdout.write(write_report(report, options.output))
    return 0


def evaluate(systems: Sequence[EvaluatedSystem], items: Items, seed: int) -> dict[str, Any]:
    """Put all items to all systems and sum up.

    Returns:
        The content of evaluation.json.

    Raises:
        LacunaError: a system did not answer; leaving items out would favour it.
    """
    common = [each for each in CAPABILITIES if all(each in s.capabilities for s in systems)]
    answers: list[Answers] = []
    described = []
    for system in systems:
        answered, seconds = answer_all(system, items, common)
        answers.append(answered)
        described.append({"name": system.name, **system.about, "seconds": seconds})
    languages = [each for each in LANGUAGES if any(file.language == each for file in items.files)]
    return {
        "format_version": 1,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "seed": seed,
        "bootstrap_rounds": BOOTSTRAP_ROUNDS,
        "questions_sha256": items.digest,
        "contestants": described,
        "languages": {each: _summarise(items.files, each, answers, seed) for each in languages},
    }


def _summarise(
    files: Sequence[TextFile], language: str, answers: Sequence[Answers], seed: int
) -> dict[str, Any]:
    """Sum up one language: over all files, and for each file."""
    numbers = [number for number, file in enumerate(files) if file.language == language]
    overall: dict[str, Any] = {}
    by_file: dict[int, dict[str, Any]] = {number: {} for number in numbers}
    for part in answers[0]:
        chosen = [index for index, line in enumerate(answers[0][part]) if line.file in numbers]
        lines = [[answered[part][index] for index in chosen] for answered in answers]  # by system
        file_of = np.array([line.file for line in lines[0]], dtype=np.int64)
        sampled = np.bincount(file_of, minlength=len(files))
        weights = np.array([len(files[file].lines) / sampled[file] for file in file_of])
        counts = resample(file_of.tolist(), BOOTSTRAP_ROUNDS, seed)
        overall |= _figures(lines, weights, counts, seed)
        for metric in _metrics(lines[0], "judged"):
            overall[metric]["reliability"] = [_diagram(metric, each, weights) for each in lines]
        for number in numbers:
            own = np.flatnonzero(file_of == number)
            own_lines = [[line[index] for index in own] for line in lines]
            by_file[number] |= _figures(own_lines, weights[own], counts[:, own], seed)
    return {
        "files": len(numbers),
        "lines": sum(len(files[number].lines) for number in numbers),
        "metrics": overall,
        "by_file": {
            files[number].name: {"lines": len(files[number].lines), "metrics": figures}
            for number, figures in by_file.items()
        },
    }


def _figures(
    lines: Sequence[Sequence[LineResult]], weights: Float64Array, counts: Float64Array, seed: int
) -> dict[str, dict[str, Any]]:
    """Return each metric of the lines of each system, with intervals."""
    figures: dict[str, dict[str, Any]] = {}
    for metric in _metrics(lines[0], "sums"):
        sums = [np.array([line.sums.get(metric, (0.0, 0.0)) for line in each]) for each in lines]
        values = [ratio(each[:, 0], each[:, 1], weights) for each in sums]
        samples = [ratio_samples(each[:, 0], each[:, 1], weights, counts) for each in sums]
        if metric == "perplexity":
            values = [math.exp(value) for value in values]
            samples = [np.exp(sample) for sample in samples]
        figures[metric] = _figure(values, samples) | {"n": int(sums[0][:, 1].sum())}
    for metric in _metrics(lines[0], "judged"):
        judged = [_calibration(metric, each, weights, counts, seed) for each in lines]
        values, samples, floors = (list(each) for each in zip(*judged, strict=True))
        answered = sum(len(line.judged.get(metric, ())) for line in lines[0])
        figures[metric] = _figure(values, samples) | {"by_chance": floors, "n": answered}
    return figures


def _metrics(lines: Sequence[LineResult], kind: Literal["sums", "judged"]) -> list[str]:
    return sorted({metric for line in lines for metric in getattr(line, kind)})


def _figure(values: Sequence[float], samples: Sequence[Float64Array]) -> dict[str, Any]:
    """Return values and intervals, systems in order, and the difference of the first two."""
    figure: dict[str, Any] = {
        "values": list(values),
        "intervals": [list(interval(sample)) for sample in samples],
    }
    if len(values) > 1:
        difference = list(interval(samples[0] - samples[1]))
        figure["difference"] = {"value": values[0] - values[1], "interval": difference}
    return figure


def _calibration(
    metric: str, lines: Sequence[LineResult], weights: Float64Array, counts: Float64Array, seed: int
) -> tuple[float, Float64Array, float]:
    """Return a calibration error, bootstrap samples of it, and its value by chance alone.

    Resampling adds noise, which raises calibration errors: the samples show the spread, and are
    moved so that their mean is the estimate.
    """
    probabilities, correct, line_of = _judged(metric, lines)
    weight = weights[line_of]
    drawn = counts[:CALIBRATION_ROUNDS, line_of] * weight
    samples = np.array([calibration_error(probabilities, correct, one) for one in drawn])
    value = calibration_error(probabilities, correct, weight)
    return value, value + samples - samples.mean(), calibration_floor(probabilities, weight, seed)


def _diagram(
    metric: str, lines: Sequence[LineResult], weights: Float64Array
) -> dict[str, list[float]]:
    probabilities, correct, line_of = _judged(metric, lines)
    points = reliability(probabilities, correct, weights[line_of])
    return dict(zip(("claimed", "right", "share"), (each.tolist() for each in points), strict=True))


def _judged(
    metric: str, lines: Sequence[LineResult]
) -> tuple[Float64Array, NDArray[np.bool_], NDArray[np.int64]]:
    """Return the claimed probability, the correctness and the line of each answer."""
    judged = [
        (probability, right, index)
        for index, line in enumerate(lines)
        for probability, right in line.judged.get(metric, ())
    ]
    probabilities, correct, line_of = zip(*judged, strict=True) if judged else ((), (), ())
    return np.array(probabilities), np.array(correct, dtype=bool), np.array(line_of, dtype=np.int64)
