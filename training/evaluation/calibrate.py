"""Fit a checkpoint's calibration: `python -m training calibrate CHECKPOINT TEXT... --output NEW`.

Fitted on development text, in this order:

    weights of counts     for each language and class of evidence, by the likelihood of tokens
    chain weight λ        for each language, by the rank of the words in a few hundred blanks
    cloze temperature τ   for each language, by the likelihood of the words in all blanks
    coverage exponent γ   for each language, by the likelihood of "the word was found"
    prior weight β,       for each language, by the likelihood of the right word among words of
    choice temperature,   similar frequency
    uniform mix

It runs on the graphs that will serve. The copy keeps its model card: write it again with
`python -m training card`.
"""

import json
import random
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.checkpoint import Checkpoint, revise_checkpoint
from model.config import EVIDENCE, Calibration, CountsWeights
from model.decoding.cloze import RESCORED, SEARCHED_BLIND
from model.errors import CheckpointError
from model.mixture import WINDOW, Mixture, MixtureRuntime
from model.predictor import Predictor, open_model
from model.queries import ClozeQuery, ClozeResult
from model.runtime import Float64Array, Int64Array, Runtime
from model.text import LANGUAGES
from model.tokenizer import START
from training.cached_json import check_writable
from training.evaluation.quantisation import score_next, take
from training.evaluation.systems import EvaluatedSystem, QueryRunner
from training.evaluation.test_items import (
    MARKER,
    ClozeQuestion,
    TextFile,
    cloze_questions,
    read_files,
)
from training.options import argument, option

# Rounds of expectation maximisation, and the highest share of counts
EM_ROUNDS, MAX_SHARE = 50, 0.99
# A class of evidence has the share of all classes as if by so many tokens
PRIOR_TOKENS = 20.0
# Temperatures τ and exponents γ, about 3 % apart
TEMPERATURES = np.geomspace(0.5, 20.0, 125)
EXPONENTS = np.geomspace(0.25, 4.0, 93)
# λ; a forward-only network uses none
WEIGHTS = (0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)
PRIOR_WEIGHTS = (0.0, 0.2, 0.35, 0.5, 0.65, 0.8, 1.0)
UNIFORM_MIXES = (0.0, 0.005, 0.01, 0.015, 0.02, 0.03, 0.04, 0.05, 0.06, 0.08, 0.1, 0.15, 0.2)
# The highest prior weight wins whose loss is at most the least by this factor
FLAT = 1.01
MIN_LINES = 10
# Blanks a language that decide λ; all of them are filled with every one that is tried
MAX_WEIGHT_BLANKS = 400
WEIGHT_TOKENS = 20_000  # of each language
MIN_PROBABILITY = 1e-9

PredictorFactory = Callable[[Calibration], QueryRunner]
Questions = Mapping[str, Sequence[ClozeQuestion]]  # by language


@dataclass(frozen=True, slots=True)
class CalibrateOptions:
    """Options of the command."""

    checkpoint: Path = argument("directory of a checkpoint")
    text: tuple[str, ...] = argument("development text: files, folders or globs; one item a line")
    output: Path = option("directory of the calibrated copy; must not exist", metavar="DIR")
    version: str | None = option("version to write (default: the old one)", None)
    field: str | None = option("field of each JSON line that has the text", None, metavar="NAME")
    lines: int = option("lines for each language, at most", 1500, metavar="N")
    seed: int = option("seed of the choice of lines", 2)


@dataclass(frozen=True, slots=True)
class Filled:
    """Answers to blanks of one language at τ = 1, γ = 1; blanks without candidates are not in."""

    right: Float64Array  # (blanks, T): P(the right candidate), or P(none), at each of TEMPERATURES
    found: NDArray[np.bool_]  # (blanks,): the right word is among the candidates
    total: Float64Array  # (blanks,): sum of the probabilities of the candidates
    reciprocal_rank: Float64Array  # (blanks,): of the right word; 0 if it is not found


def run(options: CalibrateOptions) -> int:
    """Fit and write the copy; 0 on success."""
    source, output = options.checkpoint, options.output
    if output.exists():
        raise CheckpointError(f"{output} exists; name a new directory or remove it")
    check_writable(output)  # before the work
    checkpoint, runtime = open_model(source)
    files = read_files(options.text, options.field)
    calibration = fit_calibration(checkpoint, runtime, files, options.lines, options.seed)
    revise_checkpoint(source, calibration=calibration, version=options.version, output=output)
    sys.stdout.write(json.dumps(asdict(calibration), indent=1) + "\n")
    return 0


def fit_calibration(
    checkpoint: Checkpoint, runtime: Runtime, files: Sequence[TextFile], lines: int, seed: int
) -> Calibration:
    """Fit a calibration of a checkpoint; languages without text keep theirs.

    *files* are development text, never text on which scores are reported. About *lines* lines of
    each language are used.
    """
    chosen = cloze_questions(files, checkpoint.tokenizer, lines, MIN_LINES, seed)
    questions: dict[str, list[ClozeQuestion]] = {}
    for question in chosen:
        questions.setdefault(files[question.file].language, []).append(question)
    start = checkpoint.calibration
    if not questions:
        return start
    if isinstance(runtime, MixtureRuntime):
        tokens: dict[str, list[Int64Array]] = {}
        for language, own in questions.items():
            shuffled = random.Random(seed).sample(own, len(own))
            texts = [files[question.file].lines[question.line] for question in shuffled]
            encoded = checkpoint.tokenizer.encode_all(texts)
            tokens[language] = [np.array(line, dtype=np.int64) for line in encoded]
        weights = fit_counts_weights(checkpoint, runtime.network, tokens)
        start = replace(start, counts_weights=weights)
        mixture = Mixture(checkpoint.counts, weights, checkpoint.tokenizer)
        runtime = MixtureRuntime(runtime.network, mixture)

    def predictor(calibration: Calibration) -> QueryRunner:
        return Predictor(replace(checkpoint, calibration=calibration), runtime)

    two_towers = runtime.sizes.architecture == "two_towers"
    candidates, tried = (RESCORED, WEIGHTS) if two_towers else (SEARCHED_BLIND, WEIGHTS[:1])
    fitted = fit_cloze_calibration(predictor, questions, start, candidates, tried)
    return fit_choices(predictor, questions, fitted)


def fit_counts_weights(
    checkpoint: Checkpoint,
    network: Runtime | None,
    lines: Mapping[str, Sequence[Int64Array]],
    first: int = 0,
) -> CountsWeights:
    """Fit the shares of counts by the likelihood of tokens; *lines* are token ids by language.

    Counts before the *first*, and languages without lines, keep theirs; without a network, the
    counts at 0 have no share.
    """
    layers = [dict(layer) for layer in checkpoint.calibration.counts_weights]
    for language, own in lines.items():
        chosen = sorted(take(own, WEIGHT_TOKENS), key=len)  # as they are scored
        probs: Float64Array | None = None
        if network:
            scored = [rows[np.arange(len(own)), own] for rows, own in score_next(network, chosen)]
            probs = np.exp(np.concatenate(scored).astype(np.float64))
        texts = [[START, *line.tolist()] for line in chosen]
        places = [
            (text[max(0, end - WINDOW) : end], text[end])
            for text in texts
            for end in range(1, len(text))
        ]
        for number, (layer, counts) in enumerate(zip(layers, checkpoint.counts, strict=False)):
            found = [counts.probs(left, [token]) for left, token in places]
            counted = np.array([probs[0] for probs, _ in found], dtype=np.float64)
            evidence = np.array([each for _, each in found])
            if probs is None:
                probs = counted
                continue
            if number >= first:
                layer[language] = fit_shares(probs, counted, evidence)
            shares = np.array(layer[language])[evidence]
            probs = (1 - shares) * probs + shares * counted
    return layers[0], layers[1]


def fit_shares(
    probs: Float64Array, added: Float64Array, evidence: NDArray[np.integer[Any]]
) -> tuple[float, ...]:
    """Fit the share of *added* (n,) in its mixture with *probs* (n,), by class of *evidence* (n,).

    Expectation maximisation (Dempster, Laird and Rubin 1977). A class begins at the share of all,
    which also counts as PRIOR_TOKENS of its tokens.
    """

    def fit(chosen: NDArray[np.bool_], start: float, prior: float) -> float:
        base, other, share = probs[chosen], added[chosen], start
        for _ in range(EM_ROUNDS):
            responsible = float((share * other / ((1 - share) * base + share * other)).sum())
            share = (responsible + prior * start) / max(1.0, len(base) + prior)
        return min(share, MAX_SHARE)

    overall = fit(np.ones(len(probs), dtype=np.bool_), 0.5, 0.0)
    return tuple(round(fit(evidence == n, overall, PRIOR_TOKENS), 4) for n in range(EVIDENCE))


def fit_cloze_calibration(
    predictor: PredictorFactory,
    questions: Questions,
    start: Calibration,
    candidates: int,
    weights: Sequence[float],
) -> Calibration:
    """Fit λ, τ and γ of each language.

    λ is one of *weights*, by the mean reciprocal rank of the words in ``MAX_WEIGHT_BLANKS`` blanks
    a language: the likelihood hardly depends on it. Then all blanks decide τ and γ by likelihood; γ
    by that of "found or not", because the shares among the candidates do not depend on it.

    *candidates* are asked for: all that are rescored, and so move with τ. Everything that is not
    fitted here is kept from *start*.
    """
    ones = dict.fromkeys(LANGUAGES, 1.0)
    neutral = replace(start, cloze_temperature=ones, cloze_coverage_exponent=ones)
    some = {
        language: own[:: -(-len(own) // MAX_WEIGHT_BLANKS)] for language, own in questions.items()
    }

    def fill(weights: dict[str, float], questions: Questions) -> dict[str, Filled]:
        return _fill(predictor(replace(neutral, chain_weight=weights)), questions, candidates)

    tried = [(weight, fill(dict.fromkeys(LANGUAGES, weight), some)) for weight in weights]
    best = dict(start.chain_weight)
    for language in tried[0][1]:
        gains = {weight: filled[language].reciprocal_rank.mean() for weight, filled in tried}
        best[language] = max(gains, key=gains.__getitem__)
    temperatures, exponents = dict(start.cloze_temperature), dict(start.cloze_coverage_exponent)
    for language, own in fill(best, questions).items():
        temperatures[language] = float(TEMPERATURES[_nats(own.right).argmin()])
        exponents[language] = _best_exponent(own)
    return replace(
        start,
        chain_weight=best,
        cloze_temperature=temperatures,
        cloze_coverage_exponent=exponents,
    )


def fit_choices(
    predictor: PredictorFactory, questions: Questions, start: Calibration
) -> Calibration:
    """Fit β, the temperature and the uniform mix of choices by the likelihood of the right one.

    A temperature alone would make all claims too low, to pay for few right answers with very low
    scores; the uniform mix pays for those. Languages without choices keep the values of *start*.
    """

    def scores(weight: float) -> dict[str, Float64Array]:
        tried = replace(
            start,
            choice_prior_weight=dict.fromkeys(LANGUAGES, weight),
            choice_temperature=dict.fromkeys(LANGUAGES, 1.0),
            choice_uniform_mix=dict.fromkeys(LANGUAGES, 0.0),
        )
        return _score_choices(predictor(tried), questions)

    chain, prior = scores(0.0), scores(1.0)  # they are linear in β
    best: dict[str, tuple[float, ...]] = {}
    for language, own in chain.items():
        by_weight = prior[language] - own
        fitted = {weight: _fit_claims(own + weight * by_weight) for weight in PRIOR_WEIGHTS}
        # These choices have one length and say little about β, which phrases need
        limit = FLAT * min(loss for loss, _, _ in fitted.values())
        weight = max(weight for weight, (loss, _, _) in fitted.items() if loss <= limit)
        best[language] = (weight, *fitted[weight][1:])

    def with_best(values: Mapping[str, float], place: int) -> dict[str, float]:
        return dict(values) | {language: each[place] for language, each in best.items()}

    return replace(
        start,
        choice_prior_weight=with_best(start.choice_prior_weight, 0),
        choice_temperature=with_best(start.choice_temperature, 1),
        choice_uniform_mix=with_best(start.choice_uniform_mix, 2),
    )


def _fit_claims(scores: Float64Array) -> tuple[float, float, float]:
    """Return the least mean loss in nats of choices (n, K), the right ones first, its τ and ε."""
    scaled = scores[:, None] / TEMPERATURES[:, None]  # (n, T, K)
    scaled -= scaled.max(axis=2, keepdims=True)
    right, even = np.exp(scaled[..., 0] - np.log(np.exp(scaled).sum(axis=2))), 1 / scores.shape[1]
    losses = np.array([_nats((1 - mix) * right + mix * even) for mix in UNIFORM_MIXES])
    mix, temperature = np.unravel_index(losses.argmin(), losses.shape)
    return float(losses.min()) / len(right), float(TEMPERATURES[temperature]), UNIFORM_MIXES[mix]


def retemper(probabilities: Float64Array, temperatures: Float64Array) -> Float64Array:
    """Return F softmax(s / τ), (T, K), for F softmax(s), (K,), and each τ, (T,)."""
    with np.errstate(divide="ignore"):
        scores = np.log(probabilities) / temperatures[:, None]
    shares = np.exp(scores - np.logaddexp.reduce(scores, axis=1, keepdims=True))
    return np.asarray(probabilities.sum() * shares)


def _fill(predictor: QueryRunner, questions: Questions, candidates: int) -> dict[str, Filled]:
    """Fill blanks with words, by language."""
    filled = {}
    for language in sorted(questions):
        queries = [ClozeQuery(each.text, candidates, blank=MARKER) for each in questions[language]]
        results = EvaluatedSystem(f"blanks, {language}", predictor).ask(queries, ClozeResult)
        rows = []
        for question, result in zip(questions[language], results, strict=True):
            found = {each.word: each.probability for each in result.blanks[0].candidates}
            if found:
                probabilities = np.array(list(found.values()))
                right, rank = np.full(len(TEMPERATURES), 1 - probabilities.sum()), np.inf
                if question.answer in found:
                    place = list(found).index(question.answer)
                    right, rank = retemper(probabilities, TEMPERATURES)[:, place], place + 1
                rows.append((right, rank < np.inf, probabilities.sum(), 1 / rank))
        if rows:
            filled[language] = Filled(*map(np.array, zip(*rows, strict=True)))
    return filled


def _score_choices(predictor: QueryRunner, questions: Questions) -> dict[str, Float64Array]:
    """Return log-probabilities (n, K) of the choices of blanks by language, the right one first."""
    scores = {}
    for language, own in sorted(questions.items()):
        own = [each for each in own if each.choices]
        queries = [ClozeQuery(each.text, blank=MARKER, choices=each.choices) for each in own]
        results = EvaluatedSystem(f"choices, {language}", predictor).ask(queries, ClozeResult)
        rows = []
        for question, result in zip(own, results, strict=True):
            found = {each.word: each.probability for each in result.blanks[0].candidates}
            others = [each for each in question.choices if each != question.answer]
            rows.append([found[each] for each in (question.answer, *others)])
        if rows:
            scores[language] = np.log(np.maximum(np.array(rows), np.finfo(np.float64).tiny))
    return scores


def _best_exponent(filled: Filled) -> float:
    """Return γ by the likelihood of "the answer was found": F^γ, or 1 - F^γ."""
    totals = np.clip(filled.total, MIN_PROBABILITY, 1 - MIN_PROBABILITY)
    logs = np.log(totals) * EXPONENTS[:, None]
    losses = -np.where(filled.found, logs, np.log(-np.expm1(logs))).sum(axis=1)
    return float(EXPONENTS[losses.argmin()])


def _nats(probabilities: Float64Array) -> Float64Array:
    """Return minus log-likelihoods (T,) of events with probabilities (events, T)."""
    return np.asarray(-np.log(np.maximum(probabilities, MIN_PROBABILITY)).sum(axis=0))
