"""Puts an evaluation's questions to a predictor and judges the answers, line by line. Sums up nothing.

What counts as right, for each metric: DEFINITIONS in training/evaluation/report.py.
"""

import hashlib
import math
import time
from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar, cast

from tqdm import tqdm

from model.checkpoint import Capability
from model.errors import LacunaError
from model.queries import (
    ClozeQuery,
    ClozeResult,
    PredictQuery,
    PredictResult,
    Query,
    ScoreQuery,
    ScoreResult,
)
from training.evaluation.systems import CAPABILITIES, EvaluatedSystem
from training.evaluation.test_items import MARKER, ClozeQuestion, NextQuestion, TextFile, TypedLine
from training.evaluation.typing import keys_pressed

# Candidates asked for; reciprocal ranks below the last count as 0
NEXT_CANDIDATES = {"en": 10, "zh": 20}
CLOZE_CANDIDATES = 5
# Queries handed to the predictor at once, which decodes as many of them side by side as it likes
QUERIES_AT_ONCE = 256

Asked = TypeVar("Asked", PredictResult, ClozeResult, ScoreResult)


@dataclass(frozen=True, slots=True)
class Questions:
    """All that is asked; the same for every contestant."""

    files: list[TextFile]
    next: list[NextQuestion]
    cloze: list[ClozeQuestion]
    typed: list[TypedLine]

    @property
    def digest(self) -> str:
        """SHA-256 of files and questions: two reports with the same one asked the same."""
        content = repr([self.files, self.next, self.cloze, self.typed])
        return hashlib.sha256(content.encode()).hexdigest()


@dataclass(slots=True)
class LineResult:
    """What one line of a file contributes.

    Attributes:
        file: number of the file.
        sums: numerator and denominator of each metric.
        judged: of each calibration metric: probability claimed for the first candidate, and whether it was right.
    """

    file: int
    sums: dict[str, tuple[float, float]] = field(default_factory=dict)
    judged: dict[str, list[tuple[float, bool]]] = field(default_factory=dict)

    def add(self, metric: str, numerator: float, denominator: float = 1.0) -> None:
        """Add to a metric's sums."""
        before = self.sums.get(metric, (0.0, 0.0))
        self.sums[metric] = (before[0] + numerator, before[1] + denominator)


# The parts of an evaluation, each with its own sample of lines: part -> the lines' results, in a fixed order
Answers = dict[str, list[LineResult]]


def answer_all(
    contestant: EvaluatedSystem, questions: Questions, capabilities: Container[str] = CAPABILITIES
) -> tuple[Answers, dict[str, float]]:
    """Put all questions to one contestant.

    Args:
        contestant: answers.
        questions: of all kinds.
        capabilities: the kinds that are asked.

    Returns:
        The lines' results of each part, in an order that depends on the questions only, and the seconds of each part by
        the clock.

    Raises:
        LacunaError: a question could not be answered; leaving it out would flatter the contestant.
    """
    parts: dict[
        str, tuple[Capability, Callable[[EvaluatedSystem, Questions], list[LineResult]]]
    ] = {
        "score": ("score", _score),
        "next": ("predict", _next),
        "cloze": ("cloze", _cloze),
        "choice": ("cloze", _choice),
        "typing": ("predict", _typing),
    }
    answers, seconds = {}, {}
    for part, (needed, measure) in parts.items():
        if needed not in capabilities:
            continue
        started = time.monotonic()
        answers[part] = measure(contestant, questions)
        seconds[part] = round(time.monotonic() - started, 1)
    return answers, seconds


def _score(contestant: EvaluatedSystem, questions: Questions) -> list[LineResult]:
    lines = [(number, line) for number, file in enumerate(questions.files) for line in file.lines]
    results = ask(contestant, [ScoreQuery(line) for _, line in lines], ScoreResult, "score")
    scored = []
    for (number, line), result in zip(lines, results, strict=True):
        scored.append(LineResult(number))
        scored[-1].add(
            "bits_per_character", -result.log_probability / math.log(2), result.characters
        )
        words = len(line.split()) if questions.files[number].language == "en" else result.characters
        scored[-1].add("perplexity", -result.log_probability, words)
    return scored


def _next(contestant: EvaluatedSystem, questions: Questions) -> list[LineResult]:
    languages = [questions.files[question.file].language for question in questions.next]
    queries = [
        PredictQuery(question.text, NEXT_CANDIDATES[language])
        for question, language in zip(questions.next, languages, strict=True)
    ]
    results = ask(contestant, queries, PredictResult, "next")
    lines: dict[tuple[int, int], LineResult] = {}
    for question, language, result in zip(questions.next, languages, results, strict=True):
        line = lines.setdefault((question.file, question.line), LineResult(question.file))
        ranked = [(candidate.append, candidate.probability) for candidate in result.candidates]
        if language == "zh":
            _add_rank(
                line,
                "append",
                _first(question.continuation.startswith(append) for append, _ in ranked),
            )
            ranked = first_characters(ranked)
        _add_rank(line, "next", _first(answer == question.answer for answer, _ in ranked))
        if ranked:
            line.judged.setdefault("next_ece", []).append(
                (ranked[0][1], ranked[0][0] == question.answer)
            )
    return list(lines.values())


def first_characters(candidates: Sequence[tuple[str, float]]) -> list[tuple[str, float]]:
    """The distribution of the next character: candidates' mass summed by the first character, most probable first."""
    mass: dict[str, float] = {}
    for append, probability in candidates:
        mass[append[0]] = mass.get(append[0], 0.0) + probability
    return sorted(mass.items(), key=lambda item: -item[1])


def _cloze(contestant: EvaluatedSystem, questions: Questions) -> list[LineResult]:
    queries = [
        ClozeQuery(question.text, CLOZE_CANDIDATES, blank=MARKER) for question in questions.cloze
    ]
    lines = []
    results = ask(contestant, queries, ClozeResult, "cloze")
    for question, result in zip(questions.cloze, results, strict=True):
        lines.append(LineResult(question.file))
        candidates = result.blanks[0].candidates
        right = _first(found.word == question.answer for found in candidates)
        for depth in (1, 5):
            lines[-1].add(f"cloze_top{depth}", float(right is not None and right < depth))
        if candidates:
            lines[-1].judged["cloze_ece"] = [(candidates[0].probability, right == 0)]
    return lines


def _choice(contestant: EvaluatedSystem, questions: Questions) -> list[LineResult]:
    asked = [question for question in questions.cloze if question.choices]
    queries = [
        ClozeQuery(question.text, blank=MARKER, choices=question.choices) for question in asked
    ]
    lines = []
    for question, result in zip(
        asked, ask(contestant, queries, ClozeResult, "choice"), strict=True
    ):
        lines.append(LineResult(question.file))
        best = result.blanks[0].candidates[0]
        lines[-1].add("choice", float(best.word == question.answer))
        lines[-1].judged["choice_ece"] = [(best.probability, best.word == question.answer)]
    return lines


def _typing(contestant: EvaluatedSystem, questions: Questions) -> list[LineResult]:
    texts = [line.text for line in questions.typed]
    with tqdm(
        total=sum(map(len, texts)), desc=f"{contestant.name}: typing", unit=" chars", disable=None
    ) as progress:
        keys = keys_pressed(
            texts, lambda queries: ask(contestant, queries, PredictResult), progress.update
        )
    lines = []
    for line, pressed in zip(questions.typed, keys, strict=True):
        lines.append(LineResult(line.file))
        lines[-1].add("saved", len(line.text) - pressed, len(line.text))
    return lines


def ask(
    contestant: EvaluatedSystem, queries: Sequence[Query], kind: type[Asked], label: str = ""
) -> list[Asked]:
    """Ask in portions; with a label, show progress.

    Raises:
        LacunaError: the first question that could not be answered.
    """
    answers: list[Asked] = []
    with tqdm(
        total=len(queries),
        desc=f"{contestant.name}: {label}",
        unit=" queries",
        disable=None if label else True,
    ) as progress:
        for start in range(0, len(queries), QUERIES_AT_ONCE):
            portion = queries[start : start + QUERIES_AT_ONCE]
            for result in contestant.predictor.run(portion):
                if isinstance(result, LacunaError):
                    raise result
                answers.append(cast("Asked", result))
            progress.update(len(portion))
    if not all(isinstance(answer, kind) for answer in answers):
        raise TypeError(f"{contestant.name} answered with something else than {kind.__name__}")
    return answers


def _first(right: Iterable[bool]) -> int | None:
    """Rank, from 0, of the first answer that is right."""
    return next((rank for rank, is_right in enumerate(right) if is_right), None)


def _add_rank(line: LineResult, name: str, rank: int | None) -> None:
    """Count a question whose answer came at *rank* (from 0; None: not among the candidates)."""
    for depth in (1, 3, 5):
        line.add(f"{name}_top{depth}", float(rank is not None and rank < depth))
    line.add(f"{name}_mrr", 0.0 if rank is None else 1 / (rank + 1))
