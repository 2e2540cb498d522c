"""Corrections: which words are offered for misspelt letters, and probable typing errors."""

from typing import Any

import numpy as np
import pytest

from model.checkpoint import DEFAULT_CHECKPOINT
from model.decoding.typing_errors import (
    ADDED,
    DOUBLED,
    NEIGHBOUR,
    OMITTED,
    OTHER,
    SWAPPED,
    Typed,
    Words,
    neighbours,
)
from model.predictor import Predictor, open_model
from model.queries import Candidate, LexiconEntry, PredictQuery
from tests.fakes import answer


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    """The bundled checkpoint."""
    return Predictor(*open_model(DEFAULT_CHECKPOINT))


def candidates(predictor: Predictor, text: str, edits: int = 2, **more: Any) -> list[Candidate]:
    """Return the candidates for a text."""
    query = PredictQuery(text, **{"corrections": edits, "top_k": 5} | more)
    return list(answer(predictor, query).candidates)


@pytest.mark.parametrize(
    ("typed", "word", "edits", "prob"),
    [
        ("teh", "the", 1, SWAPPED),
        ("thr", "the", 1, NEIGHBOUR),
        ("txe", "the", 1, OTHER),
        ("wether", "weather", 1, OMITTED),
        ("thee", "the", 1, DOUBLED),
        ("thwe", "the", 1, ADDED),
        ("xthe", "the", 1, ADDED),
        ("weatherng", "weathering", 1, OMITTED),
        ("wetger", "weather", 2, OMITTED * NEIGHBOUR),
        ("wetger", "weather", 1, 0.0),
        ("dont", "don't", 1, OMITTED),
        ("cat", "dogs", 1, 0.0),
    ],
)
def test_errors_have_their_probabilities(typed: str, word: str, edits: int, prob: float) -> None:
    """They multiply, and a word may go on after the typed letters."""
    words, search = Words(["?", word, "到"]), Typed(typed, edits)
    assert words.places.tolist() == [1]
    explained, _ = search.explain(search.start, words.codes, words.lengths)
    assert explained[0] == pytest.approx(prob, rel=1e-9)


def test_words_are_compared_in_parts() -> None:
    """Two tokens of a word give what the whole word gives."""
    search, whole, parts = (
        Typed("kindrgat", 2),
        Words(["kindergarten"]),
        Words(["kinder", "garten"]),
    )
    expected, _ = search.explain(search.start, whole.codes, whole.lengths)
    _, tables = search.explain(search.start, parts.codes[:1], parts.lengths[:1])
    found, _ = search.explain(tables[:, 0], parts.codes[1:], parts.lengths[1:])
    assert found == pytest.approx(expected) and expected[0] == pytest.approx(OMITTED * NEIGHBOUR)


def test_neighbours_are_mutual() -> None:
    """A key is next to those that are next to it."""
    assert set(neighbours("g")) == set("fhtyvb") and neighbours("'") == ""
    letters = "qwertyuiopasdfghjklzxcvbnm"
    assert all(a in neighbours(b) for a in letters for b in neighbours(a))


@pytest.mark.parametrize(
    ("text", "word"),
    [("The weatger", "weather"), ("She is a wonderfl", "wonderful"), ("I lvoe", "love"),
     ("The Weatger", "Weather"), ("WE TALKED ABOUT THE WEATGER", "WEATHER")],
)  # fmt: skip
def test_a_misspelt_word_is_corrected(predictor: Predictor, text: str, word: str) -> None:
    """It is replaced as a whole, in its capitals; plain candidates come without `replace`."""
    first, *_ = candidates(predictor, text)
    assert first.word == first.append == word and first.ended
    assert first.replace == len(text.split(" ")[-1])
    assert sum(each.probability for each in candidates(predictor, text, top_k=100)) <= 1
    assert all(each.replace is None for each in candidates(predictor, text, edits=0))


@pytest.mark.parametrize("text", ["I went to teh", "Thank yoi", "He went form", "I want"])
def test_a_known_word_is_never_displaced(predictor: Predictor, text: str) -> None:
    """The candidates that continue it stay in order, and one of them comes first."""
    plain = [each.append for each in candidates(predictor, text, edits=0)]
    found = candidates(predictor, text)
    assert found[0].replace is None
    kept = [each.append for each in found if each.replace is None]
    assert kept == plain[: len(kept)]


@pytest.mark.parametrize("text", ["", "I ", "迟", "I am 12", "x", "Hello,", "a" * 40])
def test_most_texts_have_nothing_to_correct(predictor: Predictor, text: str) -> None:
    """The answer is the same as without corrections."""
    assert candidates(predictor, text) == candidates(predictor, text, edits=0)


def test_lists_of_corrections_begin_alike(predictor: Predictor) -> None:
    """Whatever is asked for or cached, probabilities are the same."""
    text = "Thank yoi"
    fresh = Predictor(predictor.checkpoint, predictor.runtime, cache_bytes=0)
    long = candidates(fresh, text, top_k=20)
    probs = [each.probability for each in long]
    assert probs == sorted(probs, reverse=True)
    for top_k in (1, 2, 5):
        assert candidates(predictor, text, top_k=top_k) == long[:top_k]


def test_words_of_the_writer_correct_and_are_not_corrected(predictor: Predictor) -> None:
    """A misspelt word of the lexicon is found, a right one stays, a blocked one never comes."""
    lexicon = (LexiconEntry("Okonkwo"),)
    first, *_ = candidates(predictor, "I asked Okinkw", lexicon=lexicon)
    assert (first.append, first.replace, first.origins.cache) == ("Okonkwo", 6, 1.0)
    history = "We met Doctor Okonkwo. Okonkwo said no."
    assert candidates(predictor, "I asked Okinkw", history=history)[0].append == "Okonkwo"
    own = candidates(predictor, "The weatger", lexicon=(LexiconEntry("weatger"),))
    assert own[0].replace is None
    blocked = candidates(predictor, "The weatger", block=("Weather",))
    assert all(each.append != "weather" for each in blocked)


def test_a_corrected_word_goes_on(predictor: Predictor) -> None:
    """With `words`, its steps begin with the correction."""
    first, *_ = candidates(predictor, "I am looking forwatd", words=3)
    assert first.steps and first.replace == 7 and first.append.startswith("forward to")
    assert first.steps[0].append == "forward"


def test_code_points_of_the_text_as_sent_are_replaced(predictor: Predictor) -> None:
    """Invisible characters and full-width letters count as they were sent."""
    for word in ("wea\u200btger", "ｗｅａｔｇｅｒ"):
        first, *_ = candidates(predictor, f"The {word}")
        assert first.replace == len(word)
    assert np.isfinite(first.probability)
