"""Put the items of an evaluation to a predictor and judge the answers, line by line.

The definition of each metric is in DEFINITIONS in training/evaluation/report.py.
"""

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
from training.evaluation.test_items import MARKER, Items
from training.evaluation.typing import keys_pressed

# Candidates asked for; reciprocal ranks below the last one count as 0
NEXT_CANDIDATES = {"en": 10, "zh": 20}
CLOZE_CANDIDATES = 5
# Queries in one call of the predictor, which decides how many it decodes side by side
QUERIES_AT_ONCE = 256

AnyResult = TypeVar("AnyResult", PredictResult, ClozeResult, ScoreResult)


@dataclass(slots=True)
class LineResult:
    """The contribution of one line.

    Attributes:
        file: number of its file.
        sums: numerator and denominator of each metric.
        judged: for each calibration metric, the claimed probability of the first candidate, and
            True if that was right.
    """

    file: int
    sums: dict[str, tuple[float, float]] = field(default_factory=dict)
    judged: dict[str, list[tuple[float, bool]]] = field(default_factory=dict)

    def add(self, metric: str, numerator: float, denominator: float = 1.0) -> None:
        """Add to the sums of a metric."""
        before = self.sums.get(metric, (0.0, 0.0))
        self.sums[metric] = (before[0] + numerator, before[1] + denominator)

    def add_hits(self, name: str, rank: int | None, depths: Iterable[int]) -> None:
        """Count an answer at *rank* (from 0, None for none) as a hit or miss at each depth."""
        for depth in depths:
            self.add(f"{name}_top{depth}", float(rank is not None and rank < depth))

    def add_rank(self, name: str, rank: int | None) -> None:
        """Count hits and the reciprocal rank of an answer."""
        self.add_hits(name, rank, (1, 3, 5))
        self.add(f"{name}_mrr", 0.0 if rank is None else 1 / (rank + 1))


# By part of the evaluation, whose lines are sampled separately: results in a fixed order
Answers = dict[str, list[LineResult]]


def answer_all(
    system: EvaluatedSystem, items: Items, capabilities: Container[str] = CAPABILITIES
) -> tuple[Answers, dict[str, float]]:
    """Put all items to one system.

    Args:
        system: answers.
        items: of all kinds.
        capabilities: the kinds that are asked for.

    Returns:
        Results by part, in an order that depends on the items only, and wall-clock seconds by part.

    Raises:
        LacunaError: an item was not answered; leaving it out would favour the system.
    """
    parts: dict[str, tuple[Capability, Callable[[EvaluatedSystem, Items], list[LineResult]]]] = {
        "score": ("score", _score),
        "next": ("predict", _next),
        "cloze": ("cloze", _cloze),
        "choice": ("cloze", _choice),
        "typing": ("predict", _typing),
    }
    answers, seconds = {}, {}
    for part, (needed, measure) in parts.items():
        if needed in capabilities:
            started = time.monotonic()
            answers[part] = measure(system, items)
            seconds[part] = round(time.monotonic() - started, 1)
    return answers, seconds


def _score(system: EvaluatedSystem, items: Items) -> list[LineResult]:
    texts = [(number, line) for number, file in enumerate(items.files) for line in file.lines]
    results = ask(system, [ScoreQuery(text) for _, text in texts], ScoreResult, "score")
    lines = []
    for (number, text), result in zip(texts, results, strict=True):
        english = items.files[number].language == "en"
        words = len(text.split()) if english else result.characters
        line = LineResult(number)
        line.add("bits_per_character", -result.log_probability / math.log(2), result.characters)
        line.add("perplexity", -result.log_probability, words)
        lines.append(line)
    return lines


def _next(system: EvaluatedSystem, items: Items) -> list[LineResult]:
    languages = [items.files[question.file].language for question in items.next]
    queries = [
        PredictQuery(question.text, NEXT_CANDIDATES[language])
        for question, language in zip(items.next, languages, strict=True)
    ]
    results = ask(system, queries, PredictResult, "next")
    lines: dict[tuple[int, int], LineResult] = {}
    for question, language, result in zip(items.next, languages, results, strict=True):
        line = lines.setdefault((question.file, question.line), LineResult(question.file))
        ranked = [(candidate.append, candidate.probability) for candidate in result.candidates]
        if language == "zh":
            line.add_rank("append", _rank(question.continuation.startswith(a) for a, _ in ranked))
            ranked = first_characters(ranked)
        rank = _rank(answer == question.answer for answer, _ in ranked)
        line.add_rank("next", rank)
        if ranked:
            line.judged.setdefault("next_ece", []).append((ranked[0][1], rank == 0))
    return list(lines.values())


def first_characters(candidates: Sequence[tuple[str, float]]) -> list[tuple[str, float]]:
    """Add up probabilities of candidates by first character; most probable first."""
    probabilities: dict[str, float] = {}
    for append, probability in candidates:
        probabilities[append[0]] = probabilities.get(append[0], 0.0) + probability
    return sorted(probabilities.items(), key=lambda item: -item[1])


def _cloze(system: EvaluatedSystem, items: Items) -> list[LineResult]:
    queries = [ClozeQuery(each.text, CLOZE_CANDIDATES, blank=MARKER) for each in items.cloze]
    results = ask(system, queries, ClozeResult, "cloze")
    lines = []
    for question, result in zip(items.cloze, results, strict=True):
        candidates = result.blanks[0].candidates
        rank = _rank(candidate.word == question.answer for candidate in candidates)
        line = LineResult(question.file)
        line.add_hits("cloze", rank, (1, 5))
        if candidates:
            line.judged["cloze_ece"] = [(candidates[0].probability, rank == 0)]
        lines.append(line)
    return lines


def _choice(system: EvaluatedSystem, items: Items) -> list[LineResult]:
    asked = [question for question in items.cloze if question.choices]
    queries = [ClozeQuery(each.text, blank=MARKER, choices=each.choices) for each in asked]
    results = ask(system, queries, ClozeResult, "choice")
    lines = []
    for question, result in zip(asked, results, strict=True):
        best = result.blanks[0].candidates[0]
        right = best.word == question.answer
        judged = {"choice_ece": [(best.probability, right)]}
        lines.append(LineResult(question.file, {"choice": (float(right), 1.0)}, judged))
    return lines


def _typing(system: EvaluatedSystem, items: Items) -> list[LineResult]:
    texts = [line.text for line in items.typed]
    with tqdm(total=sum(map(len, texts)), desc=f"{system.name}: typing", disable=None) as bar:
        keys = keys_pressed(texts, lambda queries: ask(system, queries, PredictResult), bar.update)
    return [
        LineResult(line.file, {"saved": (float(len(line.text) - pressed), float(len(line.text)))})
        for line, pressed in zip(items.typed, keys, strict=True)
    ]


def ask(
    system: EvaluatedSystem, queries: Sequence[Query], kind: type[AnyResult], label: str = ""
) -> list[AnyResult]:
    """Ask in portions; with a label, show progress.

    Raises:
        LacunaError: the first query that was not answered.
    """
    answers: list[AnyResult] = []
    hidden = None if label else True  # None: hidden unless standard error is a terminal
    with tqdm(total=len(queries), desc=f"{system.name}: {label}", disable=hidden) as bar:
        for start in range(0, len(queries), QUERIES_AT_ONCE):
            portion = queries[start : start + QUERIES_AT_ONCE]
            for result in system.predictor.run(portion):
                if isinstance(result, LacunaError):
                    raise result
                answers.append(cast("AnyResult", result))
            bar.update(len(portion))
    if not all(isinstance(answer, kind) for answer in answers):
        raise TypeError(f"{system.name} returned a result that is not a {kind.__name__}")
    return answers


def _rank(right: Iterable[bool]) -> int | None:
    """Return the rank, from 0, of the first right answer."""
    return next((rank for rank, is_right in enumerate(right) if is_right), None)
