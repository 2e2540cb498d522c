"""Fits a checkpoint's calibration on development text: `python -m training calibrate CHECKPOINT TEXT... --output NEW`.

Fitted: the temperature of the next head for each language, by the likelihood of tokens; the rescoring weights λ1, λ2 of
/cloze, common to the languages, and its temperature τ and mass exponent γ for each language, by the likelihood of what
stood in blanks; at last the temperature and the lapse rate of choices for each language, by the likelihood of the right
one among words of like frequency. A few hundred blanks decide the weights, whose grid is coarse. A temperature from as
few is off by a tenth or more, which shows as calibration error, so all lines are used for it. Runs on the graphs that
will serve, int8 if they are. Takes an n-gram too, so that a baseline gets the same care. The copy keeps its model card:
write it anew with `python -m training card`.
"""

import argparse
import json
import math
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from model.checkpoint import Checkpoint, revise_checkpoint
from model.config import Calibration
from model.decoding.cloze import RESCORED, RESCORED_BLIND
from model.errors import CheckpointError
from model.ngram import DESCRIPTION
from model.predictor import Predictor, is_ngram, open_model
from model.queries import ClozeQuery, ClozeResult
from model.runtime import Runtime, initial_states
from model.text import LANGUAGES
from model.tokenizer import START, Tokenizer
from training.evaluation.metrics import ask
from training.evaluation.systems import Answering, EvaluatedSystem
from training.evaluation.test_items import (
    MARKER,
    ClozeQuestion,
    TextFile,
    cloze_questions,
    read_files,
)

# Inverse temperatures of the next head, 12 % apart; the best is refined by a parabola
BETAS = np.geomspace(0.25, 2.0, 19)
# Temperatures of /cloze: geometric, about 3 % apart
TEMPERATURES = tuple(float(value) for value in np.geomspace(0.5, 20.0, 125))
WEIGHTS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0)
# Exponents of what was found for a blank: geometric, about 3 % apart
EXPONENTS = tuple(float(value) for value in np.geomspace(0.25, 4.0, 93))
# λ1 of a forward-only network is 1 whatever the calibration says, λ2 nothing
FORWARD_ONLY = ((1.0,), (0.0,))
# Lapse rates of choices
LAPSES = (0.0, 0.005, 0.01, 0.015, 0.02, 0.03, 0.04, 0.05, 0.06, 0.08, 0.1, 0.15, 0.2)
MIN_LINES = 10
# Blanks a language that decide the weights, each asked for with every pair that is tried
WEIGHED = 400
# Each costs a softmax over the vocabulary for every temperature; tokens of one line say much the same
POSITIONS_PER_TEXT = 8

Float64Array = NDArray[np.float64]
PredictorFactory = Callable[[Calibration], Answering]


@dataclass(frozen=True, slots=True)
class FilledBlank:
    """How one blank was answered at τ = 1 and γ = 1.

    Attributes:
        language: of its file.
        probabilities: of the candidates, (K,), summing to F <= 1.
        right: which of them stood there; None for none of them.
    """

    language: str
    probabilities: Float64Array
    right: int | None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``python -m training calibrate``."""
    parser.add_argument(
        "checkpoint", type=Path, help="checkpoint directory, or one of `python -m training ngram`"
    )
    parser.add_argument(
        "text", nargs="+", help="development text: files, folders or globs; a line an item"
    )
    parser.add_argument(
        "--output",
        type=Path,
        required=True,
        help="directory of the calibrated copy; must not exist",
    )
    parser.add_argument("--version", help="of the copy of a checkpoint (default: as before)")
    parser.add_argument("--field", metavar="NAME", help="member of JSON Lines that holds the text")
    parser.add_argument(
        "--language", choices=LANGUAGES, help="of all files; else from folder, file name or script"
    )
    parser.add_argument(
        "--lines",
        type=int,
        default=1500,
        metavar="N",
        help="lines a language at most (default: 1500)",
    )
    parser.add_argument("--seed", type=int, default=2, help="of the choice of lines")


def run(arguments: argparse.Namespace) -> int:
    """Fit and write the copy; 0 on success."""
    if arguments.output.exists():
        raise CheckpointError(f"{arguments.output} exists; name a new directory or remove it")
    if arguments.version is not None and is_ngram(arguments.checkpoint):
        raise CheckpointError(
            f"{arguments.checkpoint} is an n-gram, which has no version; leave --version out"
        )
    checkpoint, runtime = open_model(arguments.checkpoint)
    files = read_files(arguments.text, arguments.language, None, arguments.seed, arguments.field)
    calibration = fit_calibration(checkpoint, runtime, files, arguments.lines, arguments.seed)
    if is_ngram(arguments.checkpoint):
        _copy_ngram(arguments.checkpoint, calibration, arguments.output)
    else:
        revise_checkpoint(
            checkpoint.directory,
            calibration=calibration,
            version=arguments.version,
            output=arguments.output,
        )
    sys.stdout.write(json.dumps(calibration.to_dict(), indent=1) + "\n")
    return 0


def fit_calibration(
    checkpoint: Checkpoint,
    runtime: Runtime,
    files: Sequence[TextFile],
    lines: int = 1500,
    seed: int = 2,
) -> Calibration:
    """Fit everything that a calibration holds; languages without text keep what they have.

    Args:
        checkpoint: whose calibration is the starting point.
        runtime: runs its graphs.
        files: development text; never text that figures are reported on.
        lines: lines a language.
        seed: of the choice of lines.
    """
    questions = cloze_questions(files, checkpoint.tokenizer, lines, MIN_LINES, seed)
    temperatures = dict(checkpoint.calibration.next_temperature)
    for language in sorted({file.language for file in files}):
        texts = [
            files[q.file].lines[q.line] for q in questions if files[q.file].language == language
        ]
        if texts:
            temperatures[language] = fit_next_temperature(
                score_tokens(runtime, checkpoint.tokenizer, texts, seed)
            )
    start = replace(checkpoint.calibration, next_temperature=temperatures)
    if not questions:
        return start

    def predictor(calibration: Calibration) -> Answering:
        return Predictor(replace(checkpoint, calibration=calibration), runtime)

    languages = [files[question.file].language for question in questions]
    two_towers = checkpoint.network.architecture == "two_towers"
    candidates, grids = (
        (RESCORED, (WEIGHTS, WEIGHTS)) if two_towers else (RESCORED_BLIND, FORWARD_ONLY)
    )
    fitted = fit_cloze_calibration(predictor, questions, languages, start, candidates, grids)
    return fit_choices(predictor, questions, languages, fitted, lines)


def fit_next_temperature(batches: Iterable[tuple[NDArray[np.float32], NDArray[np.int64]]]) -> float:
    """The temperature of the next head that makes the targets most probable.

    Args:
        batches: log-probabilities (n, V) at temperature 1, and targets (n,) that are possible.

    Returns:
        The T that minimises the mean of ``-log softmax(log P / T)[target]``, within 0.5 to 4. Guo et al. 2017,
        arXiv:1706.04599.
    """
    totals = np.zeros(len(BETAS))
    for log_probabilities, targets in batches:
        own = log_probabilities[np.arange(len(targets)), targets].astype(np.float64)
        for index, beta in enumerate(BETAS):
            # log-probabilities are at most 0, so the sum of exponentials needs no shift
            normaliser = np.log(
                np.exp(np.float32(beta) * log_probabilities).sum(axis=1, dtype=np.float64)
            )
            totals[index] += (normaliser - beta * own).sum()
    best = int(totals.argmin())
    logarithm = np.log(BETAS[best])
    if 0 < best < len(BETAS) - 1:
        left, middle, right = totals[best - 1 : best + 2]
        curvature = left - 2 * middle + right
        if curvature > 0:
            logarithm += 0.5 * np.log(BETAS[1] / BETAS[0]) * (left - right) / curvature
    return float(np.exp(-logarithm))


def score_tokens(
    runtime: Runtime, tokenizer: Tokenizer, texts: Sequence[str], seed: int = 2
) -> Iterator[tuple[NDArray[np.float32], NDArray[np.int64]]]:
    """Log-probabilities (n, V) of what follows at a few places of each text, and the tokens (n,) that do."""
    generator = np.random.default_rng(seed)
    for text in tqdm(texts, desc="next temperature", unit=" lines", disable=None):
        tokens = np.array([START, *tokenizer.encode(text)], dtype=np.int64)
        states = initial_states(runtime.config, "forward", 1)
        _, outputs = runtime.advance(
            "forward", states, tokens[None, :-1], np.array([len(tokens) - 1])
        )
        asked = np.flatnonzero(
            tokens[1:] != START
        )  # a line break inside a text is read, never predicted
        asked = generator.permutation(asked)[:POSITIONS_PER_TEXT]
        yield runtime.next_log_probabilities(outputs[0][asked]), tokens[1:][asked]


def fit_cloze_calibration(
    predictor: PredictorFactory,
    questions: Sequence[ClozeQuestion],
    languages: Sequence[str],
    start: Calibration,
    candidates: int,
    grids: tuple[Sequence[float], Sequence[float]],
) -> Calibration:
    """Fit λ1, λ2, τ and γ by the likelihood of what stood in the blanks.

    The likelihood is that of the event "this candidate, or none of them": -log P(w), or -log(1 - F) where the answer is
    not among the candidates. λ1 and λ2 are found by turns on a grid, each time with the best τ of every language, by
    ``WEIGHED`` blanks a language; τ and γ then by all of them, γ by the likelihood of "found or not": within F, shares
    do not depend on it.

    Args:
        predictor: makes a predictor with a given calibration; only blanks are asked for.
        questions: one blank each.
        languages: of each question.
        start: what is not fitted here is kept from it.
        candidates: how many are rescored, and so move with τ; as many are asked for.
        grids: values of λ1 and of λ2 to try.
    """
    tried: dict[tuple[float, float], float] = {}
    ones = dict.fromkeys(LANGUAGES, 1.0)
    neutral = replace(start, cloze_temperature=ones, cloze_coverage_exponent=ones)
    asked = list(zip(questions, languages, strict=True))
    some = [
        pair for language in sorted(set(languages)) for pair in _spread(asked, language, WEIGHED)
    ]

    def fill(
        forward: float, backward: float, asked: Sequence[tuple[ClozeQuestion, str]]
    ) -> list[FilledBlank]:
        at = replace(neutral, forward_weight=forward, backward_weight=backward)
        queries = [ClozeQuery(question.text, candidates, blank=MARKER) for question, _ in asked]
        return _fill(predictor(at), queries, asked)

    def loss(forward: float, backward: float) -> float:
        if (forward, backward) not in tried:
            tried[forward, backward] = _best_temperatures(fill(forward, backward, some))[0]
        return tried[forward, backward]

    best = (grids[0][len(grids[0]) // 2], grids[1][0])
    for _ in range(2):
        best = min(((forward, best[1]) for forward in grids[0]), key=lambda weights: loss(*weights))
        best = min(
            ((best[0], backward) for backward in grids[1]), key=lambda weights: loss(*weights)
        )
    filled = fill(*best, asked)
    temperatures = start.cloze_temperature | _best_temperatures(filled)[1]
    exponents = start.cloze_coverage_exponent | _best_exponents(filled)
    return replace(
        start,
        forward_weight=best[0],
        backward_weight=best[1],
        cloze_temperature=temperatures,
        cloze_coverage_exponent=exponents,
    )


def fit_choices(
    predictor: PredictorFactory,
    questions: Sequence[ClozeQuestion],
    languages: Sequence[str],
    start: Calibration,
    most: int,
) -> Calibration:
    """Fit the temperature and the lapse rate of choices of each language by the likelihood of the right choice.

    One right answer far below the others costs a temperature alone so much likelihood that it makes all claims too
    modest; the lapse rate pays for those.

    Args:
        predictor: makes a predictor with a given calibration; only blanks with choices are asked for.
        questions: one blank each; those without choices are left out.
        languages: of each question.
        start: λ1 and λ2 fitted; languages without choices keep what they have.
        most: questions a language, spread evenly.
    """
    with_choices = [pair for pair in zip(questions, languages, strict=True) if pair[0].choices]
    asked = [
        pair
        for language in sorted(set(languages))
        for pair in _spread(with_choices, language, most)
    ]
    if not asked:
        return start
    neutral = replace(
        start,
        choice_temperature=dict.fromkeys(LANGUAGES, 1.0),
        choice_uniform_mix=dict.fromkeys(LANGUAGES, 0.0),
    )
    queries = [
        ClozeQuery(question.text, blank=MARKER, choices=question.choices) for question, _ in asked
    ]
    filled = _fill(predictor(neutral), queries, asked)
    temperatures, lapses = dict(start.choice_temperature), dict(start.choice_uniform_mix)
    for language in sorted({of for _, of in asked}):
        own = [blank for blank in filled if blank.language == language and blank.right is not None]
        temperatures[language], lapses[language] = _best_choice_calibration(own)
    return replace(
        start,
        choice_temperature=temperatures,
        choice_uniform_mix=lapses,
    )


def retemper(probabilities: Float64Array, temperature: float) -> Float64Array:
    """M softmax(s / τ) from M softmax(s)."""
    mass = probabilities.sum()
    with np.errstate(divide="ignore"):
        scores = np.log(probabilities) / temperature
    return np.asarray(mass * np.exp(scores - np.logaddexp.reduce(scores)))


def _copy_ngram(directory: Path, calibration: Calibration, output: Path) -> None:
    """Written beside its name and renamed; the arrays are large: the copy links to them where the file system can."""
    partial = output.with_name(f".{output.name}.partial-{os.getpid()}")
    partial.mkdir(parents=True)
    try:
        for path in directory.iterdir():
            if path.name != DESCRIPTION:
                try:
                    os.link(path, partial / path.name)
                except OSError:
                    shutil.copyfile(path, partial / path.name)
        description = json.loads((directory / DESCRIPTION).read_text(encoding="utf-8"))
        description["calibration"] = calibration.to_dict()
        (partial / DESCRIPTION).write_text(
            json.dumps(description, indent=1, ensure_ascii=False), encoding="utf-8"
        )
        partial.rename(output)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _fill(
    predictor: Answering, queries: Sequence[ClozeQuery], asked: Sequence[tuple[ClozeQuestion, str]]
) -> list[FilledBlank]:
    """Put each question, with its language, as its query."""
    results = ask(EvaluatedSystem("calibration", predictor, {}), queries, ClozeResult, "cloze")
    filled = []
    for (question, language), result in zip(asked, results, strict=True):
        found = result.blanks[0].candidates
        right = next(
            (rank for rank, filling in enumerate(found) if filling.word == question.answer), None
        )
        filled.append(
            FilledBlank(language, np.array([filling.probability for filling in found]), right)
        )
    return filled


def _best_temperatures(filled: Sequence[FilledBlank]) -> tuple[float, dict[str, float]]:
    """The summed loss with each language's best τ, and these."""
    total, best = 0.0, {}
    for language in sorted({blank.language for blank in filled}):
        own = [blank for blank in filled if blank.language == language and len(blank.probabilities)]
        losses = [sum(_loss(blank, temperature) for blank in own) for temperature in TEMPERATURES]
        total += min(losses)
        best[language] = TEMPERATURES[int(np.argmin(losses))]
    return total, best


def _best_choice_calibration(filled: Sequence[FilledBlank]) -> tuple[float, float]:
    """The τ and ε that make the right choices most probable: log((1 - ε) softmax(s / τ) + ε / K)."""
    even = np.array([1 / len(blank.probabilities) for blank in filled])
    best = (math.inf, 1.0, 0.0)
    for temperature in TEMPERATURES:
        own = np.array(
            [retemper(blank.probabilities, temperature)[blank.right] for blank in filled]
        )
        for lapse in LAPSES:
            loss = -float(np.log(np.maximum((1 - lapse) * own + lapse * even, 1e-9)).sum())
            best = min(best, (loss, temperature, lapse))
    return best[1:]


def _spread(
    asked: Sequence[tuple[ClozeQuestion, str]], language: str, most: int
) -> list[tuple[ClozeQuestion, str]]:
    """At most *most* of the questions of one language, spread evenly over them."""
    own = [pair for pair in asked if pair[1] == language]
    count = min(most, len(own))
    return [own[number * len(own) // count] for number in range(count)]


def _best_exponents(filled: Sequence[FilledBlank]) -> dict[str, float]:
    """Each language's γ by the likelihood of "the answer was found": F^γ, or 1 - F^γ."""
    best = {}
    for language in sorted({blank.language for blank in filled}):
        own = [blank for blank in filled if blank.language == language and len(blank.probabilities)]
        if not own:
            continue
        found = np.array([blank.right is not None for blank in own])
        logs = np.log(np.clip([blank.probabilities.sum() for blank in own], 1e-9, 1 - 1e-9))
        losses = [
            -np.where(found, exponent * logs, np.log(-np.expm1(exponent * logs))).sum()
            for exponent in EXPONENTS
        ]
        best[language] = EXPONENTS[int(np.argmin(losses))]
    return best


def _loss(blank: FilledBlank, temperature: float) -> float:
    if blank.right is None:
        return -math.log(max(1 - float(blank.probabilities.sum()), 1e-9))
    return -math.log(max(float(retemper(blank.probabilities, temperature)[blank.right]), 1e-9))
