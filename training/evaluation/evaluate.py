"""Score a checkpoint on text: `python -m training evaluate CHECKPOINT TEXT... --output DIR`.

Queries go to the predictor that serves, so tokenizer, healing, search, rescoring, quantisation and
calibration are part of the scores. Another checkpoint, given by --against, is asked
the same questions, and differences get paired intervals.

Writes evaluation.json, evaluation.md and reliability.png (training/evaluation/report.py).
"""

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from model.checkpoint import Capability
from model.errors import RunError
from model.runtime import Float64Array
from model.text import LANGUAGES
from model.tokenizer import Tokenizer
from training.cached_json import cached_json, check_writable
from training.evaluation.metrics import Answers, LineResult, answer_all
from training.evaluation.report import CALIBRATED, REPORT, write_report
from training.evaluation.statistics import (
    bootstrap,
    calibration_error,
    interval,
    ratio,
    reliability,
    resample,
)
from training.evaluation.systems import CAPABILITIES, EvaluatedSystem, open_system
from training.evaluation.test_items import Items, TextFile, choose_items, read_files
from training.options import argument, capped_threads, option

BOOTSTRAP_ROUNDS = 1000


@dataclass(frozen=True, slots=True)
class EvaluateOptions:
    """Options of the command."""

    checkpoint: Path = argument("directory of a checkpoint")
    text: tuple[str, ...] = argument("held-out text: files, folders or globs; one item a line")
    output: Path = option("directory for the report", metavar="DIR")
    overwrite: bool = option("replace an existing report", False)
    against: Path | None = option("checkpoint to compare with", None, metavar="DIR")
    answers: Path | None = option(
        "folder that keeps answers by system and file, so that any later run goes on from them",
        None,
        metavar="DIR",
    )
    field: str | None = option("field of each JSON line that has the text", None, metavar="NAME")
    lines: int = option("lines for each language with items", 1500, metavar="N")
    typing_lines: int = option("lines for each language to type", 150, metavar="N")
    seed: int = option("seed of the choice of lines and of the bootstrap", 1)
    device: Literal["cpu", "cuda"] = option("device that runs the checkpoint", "cpu")
    threads: int = option("threads of one call on a CPU", 1)


def run(options: EvaluateOptions) -> int:
    """Evaluate and write the report; 0 on success."""
    if (options.output / REPORT).exists() and not options.overwrite:
        raise RunError(
            f"{options.output / REPORT} exists; choose another --output, or replace it with"
            " --overwrite"
        )
    directories = [options.checkpoint, *([options.against] if options.against else [])]
    settings = options.device, capped_threads(options.threads)
    systems = [open_system(each, *settings) for each in directories]
    tokenizer = Tokenizer.load(options.checkpoint / "tokenizer.model")
    files = read_files(options.text, options.field)
    check_writable(options.output / REPORT)  # before the work
    items = choose_items(files, tokenizer, options.lines, options.typing_lines, options.seed)
    report = evaluate(systems, items, options.seed, options.answers)
    sys.stdout.write(write_report(report, options.output))
    return 0


def evaluate(
    systems: Sequence[EvaluatedSystem], items: Items, seed: int, folder: Path | None = None
) -> dict[str, Any]:
    """Put all items to all systems; return the content of evaluation.json.

    Answers are kept in *folder* by the digest of the system.

    Raises:
        LacunaError: a system did not answer; leaving items out would favour it.
    """
    common = [each for each in CAPABILITIES if all(each in s.capabilities for s in systems)]
    answers = [_answer(system, items, common, folder) for system in systems]
    languages = [each for each in LANGUAGES if any(file.language == each for file in items.files)]
    return {
        "format_version": 1,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "seed": seed,
        "bootstrap_rounds": BOOTSTRAP_ROUNDS,
        "questions_sha256": items.digest,
        "contestants": [{"name": system.name, **system.about} for system in systems],
        "languages": {each: _summarise(items.files, each, answers, seed) for each in languages},
    }


def _answer(
    system: EvaluatedSystem, items: Items, parts: Sequence[Capability], folder: Path | None
) -> Answers:
    """Put the items to one system, file by file if the answers are kept."""
    if folder is None:
        return answer_all(system, items, parts)
    answers: Answers = {}
    kept = folder / system.about["digest"][:16]
    for number, file in enumerate(items.files):
        own = items.of_file(number)
        path = kept / f"{file.name}-{own.digest[:16]}-{'-'.join(parts)}.json"
        make = partial(_pairs_by_part, system, own, parts)
        for part, lines in cached_json(path, make).items():
            answers.setdefault(part, []).extend(LineResult(number, pairs) for pairs in lines)
    return answers


def _pairs_by_part(
    system: EvaluatedSystem, items: Items, parts: Sequence[Capability]
) -> dict[str, Any]:
    answers = answer_all(system, items, parts)
    return {part: [line.pairs for line in lines] for part, lines in answers.items()}


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
        overall |= _figures(lines, weights, counts)
        for number in numbers:
            own = np.flatnonzero(file_of == number)
            own_lines = [[line[index] for index in own] for line in lines]
            by_file[number] |= _figures(own_lines, weights[own], counts[:, own])
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
    lines: Sequence[Sequence[LineResult]], weights: Float64Array, counts: Float64Array
) -> dict[str, dict[str, Any]]:
    """Return each metric that all systems have, and the first two's difference, with intervals."""
    figures: dict[str, dict[str, Any]] = {}
    by_system = ({metric for line in each for metric in line.pairs} for each in lines)
    for metric in sorted(set.intersection(*by_system)):
        pairs = [_pairs(metric, each) for each in lines]
        found = [bootstrap(partial(_value, metric, each), weights, counts) for each in pairs]
        figures[metric] = figure = {
            "values": [value for value, _ in found],
            "intervals": [interval(samples) for _, samples in found],
            "n": len(pairs[0]) if metric in CALIBRATED else int(pairs[0][:, 1].sum()),
        }
        if len(found) > 1:
            (one, one_samples), (other, other_samples), *_ = found
            difference = interval(one_samples - other_samples)
            figure["difference"] = {"value": one - other, "interval": difference}
        if metric in CALIBRATED:
            figure["reliability"] = [
                reliability(each[:, 0], each[:, 1], weights[each[:, 2].astype(np.int64)]).tolist()
                for each in pairs
            ]
    return figures


def _pairs(metric: str, lines: Sequence[LineResult]) -> Float64Array:
    """Return the pairs of a metric with the number of the line of each, (pairs, 3)."""
    numbered = enumerate(lines)
    rows = [(*pair, number) for number, line in numbered for pair in line.pairs.get(metric, ())]
    return np.array(rows, dtype=np.float64).reshape(-1, 3)


def _value(metric: str, pairs: Float64Array, weights: Float64Array) -> float:
    """Return a metric for weights of lines."""
    first, second, line_of = pairs.T
    weights = weights[line_of.astype(np.int64)]
    if metric in CALIBRATED:
        return calibration_error(first, second, weights)
    value = ratio(first, second, weights)
    return math.exp(value) if metric == "perplexity" else value
