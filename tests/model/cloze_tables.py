"""Blanks of texts over a tiny vocabulary, and their probabilities by brute force."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from model.config import WORD, Calibration
from model.decoding.span_search import NEXT_WEIGHT
from model.queries import Blank, ClozeQuery, ClozeResult
from model.tokenizer import END, END_OF_GAP, FIRST_BYTE, START
from tests.fakes import TableRuntime, answer, hand_tokenizer, table_predictor

TOKENS = (
    "go ", "to ", "the ", "store ", "store", "park ", "park", "new ", "re", "open", "open ", ".",
    " ", ",", "我", "要去", "云南", "买", "。", "新手机",
)  # fmt: skip
TOKENIZER = hand_tokenizer(TOKENS)
EVERYTHING = range(FIRST_BYTE, TOKENIZER.size)
ZEROS = {"zh": 0.0, "en": 0.0}
# Words are ranked as they are proposed, choices as they are in any context.
PLAIN = Calibration(chain_weight=ZEROS, choice_prior_weight=ZEROS)


def ids(*tokens: str) -> list[int]:
    """Return ids by surface."""
    return [TOKENIZER.surfaces.index(token) for token in tokens]


def fill(
    text: str,
    calibration: Calibration = PLAIN,
    *,
    runtime: TableRuntime | None = None,
    table: dict[str, Any] | None = None,
    **query: Any,
) -> ClozeResult:
    """Answer one query on a table, without the cache language model."""
    runtime = runtime or TableRuntime(TOKENIZER, **(table or {}))
    predictor = table_predictor(runtime, calibration, use_cache_lm=False)
    result: ClozeResult = answer(predictor, ClozeQuery(text, **query))
    return result


def probs_of(blank: Blank) -> dict[str, float]:
    """Return the probabilities of a blank's words."""
    return {each.word: each.probability for each in blank.candidates}


def probs(*arguments: Any, **options: Any) -> dict[str, float]:
    """Return the probabilities of the words of the only blank."""
    (blank,) = fill(*arguments, **options).blanks
    return probs_of(blank)


def approx(values: dict[str, Any]) -> Any:
    """Compare dictionaries of probabilities."""
    return pytest.approx({key: float(value) for key, value in values.items()}, rel=1e-4)


def normalised(values: dict[str, Any]) -> dict[str, float]:
    """Divide by the sum."""
    return {key: value / sum(values.values()) for key, value in values.items()}


def run(runtime: TableRuntime, tower: Any, tokens: Sequence[int]) -> Any:
    """Return the state after tokens, which is also the output."""
    start = np.zeros((1, 2), dtype=np.float32)
    return runtime.run_tower(tower, start, np.array([tokens]), np.array([len(tokens)]))[0]


def gap_prob(
    runtime: TableRuntime,
    left: list[int],
    span: Sequence[int],
    right: list[int] | None,
    kind: int = WORD,
    *,
    closed: bool = True,
) -> float:
    """Return the probability of a proposal, token by token; *right* may be unknown.

    Not *closed*: the probability of all spans that begin so.
    """
    log_prob = 0.0
    backward = run(runtime, "backward", [END, *reversed(right or [])])
    for position, token in enumerate((*span, END_OF_GAP) if closed else span):
        forward = run(runtime, "forward", [START, *left, *span[:position]])
        known, positions, kinds = [right is not None], [position], [kind]
        (row,) = runtime.score(
            "gap", forward, backward, np.array(known), np.array(positions), np.array(kinds)
        )
        if position == 0:
            row = row + NEXT_WEIGHT * np.log(np.maximum(runtime.score("next", forward)[0], 1e-30))
            row -= np.logaddexp.reduce(row)
        log_prob += float(row[token])
    return float(np.exp(log_prob))


def chain(runtime: TableRuntime, tower: Any, before: list[int], tokens: list[int]) -> float:
    """Return log P of *tokens*, one after the other, by the tower's own head."""
    head: Any = "next" if tower == "forward" else "previous"
    rows = [
        runtime.score(head, run(runtime, tower, before + tokens[:n]))[0] for n in range(len(tokens))
    ]
    found = np.array([row[token] for row, token in zip(rows, tokens, strict=True)])
    return float((np.log(found) if head == "next" else found).sum())
