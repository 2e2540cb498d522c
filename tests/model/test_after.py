"""Candidates weighed by what follows the cursor."""

from typing import Any

import numpy as np
import pytest

from model.checkpoint import DEFAULT_CHECKPOINT
from model.predictor import Predictor, open_model
from model.queries import Candidate, PredictQuery, ScoreQuery
from tests.fakes import answer


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    """The bundled checkpoint."""
    return Predictor(*open_model(DEFAULT_CHECKPOINT))


def candidates(predictor: Predictor, text: str, top_k: int = 5, **more: Any) -> list[Candidate]:
    """Return the candidates for a text."""
    return list(answer(predictor, PredictQuery(text, top_k, **more)).candidates)


@pytest.mark.parametrize(
    ("text", "after", "word"),
    [
        ("I would like a cup ", " tea, please.", "of"),
        ("She is looking ", " the keys.", "for"),
        ("Happy ", " to you!", "birthday"),
        ("我昨天上学", "了", "迟到"),
    ],
)
def test_words_that_fit_both_sides_become_likelier(
    predictor: Predictor, text: str, after: str, word: str
) -> None:
    """The right word comes among the first, and no later than without the right side."""
    plain = [each.word for each in candidates(predictor, text, 20)]
    found = candidates(predictor, text, after=after)
    place = [each.word for each in found].index(word)
    assert place <= min(2, plain.index(word))
    assert sum(each.probability for each in found) <= 1 + 1e-9


def test_probabilities_are_products(predictor: Predictor) -> None:
    """Ratios are those of P(word | text) P(after | text, word), as /score gives the latter."""
    text, after = "I bought a new ", " for my office."
    plain = {each.word: each.probability for each in candidates(predictor, text, 20)}
    first, second, *_ = candidates(predictor, text, after=after)
    scores = [
        answer(predictor, ScoreQuery("for my office.", f"{text}{each.word} ")).log_probability
        for each in (first, second)
    ]
    expected = plain[first.word] / plain[second.word] * np.exp(scores[0] - scores[1])
    assert first.probability / second.probability == pytest.approx(expected, rel=0.2)


@pytest.mark.parametrize("after", ["", "  ", "\nMore text", "\u200b"])
def test_nothing_on_the_line_changes_nothing(predictor: Predictor, after: str) -> None:
    """Spaces and later lines say nothing about the word."""
    text = "We would like to"
    assert candidates(predictor, text, after=after) == candidates(predictor, text)


def test_lists_begin_alike(predictor: Predictor) -> None:
    """Whatever is asked for or cached; with everything else asked for, too."""
    text, after = "Last night we went to the theat", " and the cinema"
    fresh = Predictor(predictor.checkpoint, predictor.runtime, cache_bytes=0)
    for more in ({}, {"words": 2, "letters": True, "corrections": 2}):
        long = candidates(fresh, text, 50, after=after, **more)
        probs = [each.probability for each in long]
        assert probs == sorted(probs, reverse=True) and len(long) <= 20
        for top_k in (1, 3):
            assert candidates(predictor, text, top_k, after=after, **more) == long[:top_k]


@pytest.mark.parametrize("after", ["atre", "x" * 10_000, "，", "😀", ".", "\ufeff't"])
def test_any_text_may_follow(predictor: Predictor, after: str) -> None:
    """Parts of words, long or odd text: candidates come, and their probabilities fall."""
    for text in ("the", "", "迟", "I AM GO"):
        found = candidates(predictor, text, after=after)
        assert found and all(0 < each.probability <= 1 for each in found)
