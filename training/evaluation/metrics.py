"""Put the items of an evaluation to a system and judge the answers, line by line.

The definition of each metric is in DEFINITIONS in training/evaluation/report.py.
"""

import math
from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass, field

from model.queries import (
    ClozeQuery,
    ClozeResult,
    PredictQuery,
    PredictResult,
    ScoreQuery,
    ScoreResult,
)
from model.text import is_word_character
from training.evaluation.systems import CAPABILITIES, EvaluatedSystem
from training.evaluation.test_items import MARKER, Items

# Candidates asked for; Chinese ones are added up by first character
NEXT_CANDIDATES = {"en": 10, "zh": 20}
CLOZE_CANDIDATES = 5
# Shown while a line is typed
SUGGESTIONS = 3
# Accepting costs a key, so one appended character saves nothing
MIN_APPENDED = 2


@dataclass(slots=True)
class LineResult:
    """The contribution of one line."""

    file: int  # its number
    # By metric, a numerator and a denominator for each item. Of a calibration error (``_ece``): the
    # probability that the first candidate claims, and 1 if it is right.
    pairs: dict[str, list[tuple[float, float]]] = field(default_factory=dict)

    def add(self, metric: str, first: float, second: float = 1.0) -> None:
        """Add one pair."""
        self.pairs.setdefault(metric, []).append((first, second))

    def add_ranked(self, name: str, answer: str, ranked: Sequence[tuple[str, float]]) -> None:
        """Judge candidates with probabilities, best first: hits among 1, 3 and 5, calibration."""
        rank = next((n for n, (candidate, _) in enumerate(ranked) if candidate == answer), None)
        for depth in (1, 3, 5):
            self.add(f"{name}_top{depth}", float(rank is not None and rank < depth))
        if ranked:
            self.add(f"{name}_ece", ranked[0][1], float(rank == 0))


# By part of the evaluation, whose lines are sampled separately: results in a fixed order
Answers = dict[str, list[LineResult]]


def answer_all(
    system: EvaluatedSystem, items: Items, capabilities: Container[str] = CAPABILITIES
) -> Answers:
    """Put all items that need some of the capabilities to one system; return results by part.

    Raises:
        LacunaError: an item was not answered; leaving it out would favour the system.
    """
    parts = {
        "score": ("score", _score),
        "next": ("predict", _next),
        "cloze": ("cloze", _cloze),
        "choice": ("cloze", _choice),
        "typing": ("predict", _typing),
    }
    return {
        part: measure(system, items)
        for part, (needed, measure) in parts.items()
        if needed in capabilities
    }


def _score(system: EvaluatedSystem, items: Items) -> list[LineResult]:
    texts = [(number, line) for number, file in enumerate(items.files) for line in file.lines]
    results = system.ask([ScoreQuery(text) for _, text in texts], ScoreResult)
    lines = []
    for (number, text), result in zip(texts, results, strict=True):
        english = items.files[number].language == "en"
        words = len(text.split()) if english else result.characters
        lines.append(line := LineResult(number))
        line.add("bits_per_character", -result.log_probability / math.log(2), result.characters)
        line.add("perplexity", -result.log_probability, words)
    return lines


def _next(system: EvaluatedSystem, items: Items) -> list[LineResult]:
    languages = [items.files[question.file].language for question in items.next]
    queries = [
        PredictQuery(question.text, NEXT_CANDIDATES[language])
        for question, language in zip(items.next, languages, strict=True)
    ]
    results = system.ask(queries, PredictResult)
    lines: dict[tuple[int, int], LineResult] = {}
    for question, language, result in zip(items.next, languages, results, strict=True):
        line = lines.setdefault((question.file, question.line), LineResult(question.file))
        ranked = [(candidate.append, candidate.probability) for candidate in result.candidates]
        if language == "zh":
            ranked = first_characters(ranked)
        line.add_ranked("next", question.answer, ranked)
    return list(lines.values())


def first_characters(candidates: Iterable[tuple[str, float]]) -> list[tuple[str, float]]:
    """Add up probabilities of candidates by first character; most probable first."""
    probabilities: dict[str, float] = {}
    for append, probability in candidates:
        probabilities[append[0]] = probabilities.get(append[0], 0.0) + probability
    return sorted(probabilities.items(), key=lambda item: -item[1])


def _cloze(system: EvaluatedSystem, items: Items) -> list[LineResult]:
    queries = [ClozeQuery(each.text, CLOZE_CANDIDATES, blank=MARKER) for each in items.cloze]
    lines = []
    for question, result in zip(items.cloze, system.ask(queries, ClozeResult), strict=True):
        lines.append(line := LineResult(question.file))
        ranked = [(each.word, each.probability) for each in result.blanks[0].candidates]
        line.add_ranked("cloze", question.answer, ranked)
    return lines


def _choice(system: EvaluatedSystem, items: Items) -> list[LineResult]:
    asked = [question for question in items.cloze if question.choices]
    queries = [ClozeQuery(each.text, blank=MARKER, choices=each.choices) for each in asked]
    lines = []
    for question, result in zip(asked, system.ask(queries, ClozeResult), strict=True):
        best = result.blanks[0].candidates[0]
        right = float(best.word == question.answer)
        pairs = {"choice": [(right, 1.0)], "choice_ece": [(best.probability, right)]}
        lines.append(LineResult(question.file, pairs))
    return lines


def _typing(system: EvaluatedSystem, items: Items) -> list[LineResult]:
    texts = [line.text for line in items.typed]
    keys = keys_pressed(texts, lambda queries: system.ask(queries, PredictResult))
    return [
        LineResult(line.file, {"saved": [(float(len(line.text) - pressed), float(len(line.text)))]})
        for line, pressed in zip(items.typed, keys, strict=True)
    ]


def keys_pressed(
    lines: Sequence[str], predict: Callable[[list[PredictQuery]], list[PredictResult]]
) -> list[int]:
    """Return the keys that each line takes, typed from an empty field with suggestions.

    After every key three candidates are shown. If one of them continues the text rightly, it is
    accepted with one key; else the next character is typed with one key. A candidate is right if
    the line goes on with it and, in a spaced script, a word ends there. The longest right one is
    accepted, if it saves a key. The space after a word costs a key unless the candidate has it.
    """
    keys = [0] * len(lines)
    typed = [0] * len(lines)
    while live := [index for index, line in enumerate(lines) if typed[index] < len(line)]:
        queries = [PredictQuery(lines[index][: typed[index]], SUGGESTIONS) for index in live]
        for index, answer in zip(live, predict(queries), strict=True):
            rest = lines[index][typed[index] :]
            appends = [candidate.append for candidate in answer.candidates]
            typed[index] += max((len(each) for each in appends if continues(rest, each)), default=1)
            keys[index] += 1
    return keys


def continues(rest: str, append: str) -> bool:
    """Return True if *append* is right and saves a key when *rest* is still to be typed."""
    if len(append) < MIN_APPENDED or not rest.startswith(append):
        return False
    after = rest[len(append) : len(append) + 1]
    return not (after and is_word_character(append[-1]) and is_word_character(after))
