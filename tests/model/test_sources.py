"""Each candidate says where it comes from, and asking for that changes no answer."""

from pathlib import Path

import pytest

from model.decoding.sources import stands_in
from model.opening import open_model
from model.predictor import Predictor
from model.queries import (
    ClozeQuery,
    ClozeResult,
    PredictQuery,
    PredictResult,
    Query,
    SourcedCandidate,
    SourcedFilling,
)

HISTORY = "I like the theatre in the evening.\nThen they went to the store.\n" * 12


def answer(subject: Predictor, query: Query) -> PredictResult | ClozeResult:
    """The answer to one query."""
    (result,) = subject.run([query])
    assert isinstance(result, PredictResult | ClozeResult)
    return result


@pytest.fixture
def predictor(tiny_checkpoint: Path) -> Predictor:
    """A predictor of the tiny checkpoint."""
    return Predictor(*open_model(tiny_checkpoint))


def test_sources_change_nothing_else(predictor: Predictor, tiny_checkpoint: Path) -> None:
    """Candidates, probabilities and what is cached for others are those of a query that asks for no sources."""
    for text in ("I like the ", "I like the th", "她说"):
        plain = answer(Predictor(*open_model(tiny_checkpoint)), PredictQuery(text, 5, HISTORY))
        sourced = answer(predictor, PredictQuery(text, 5, HISTORY, sources=True))
        again = answer(predictor, PredictQuery(text, 5, HISTORY))
        assert isinstance(plain, PredictResult) and isinstance(sourced, PredictResult)
        assert isinstance(again, PredictResult)
        expected = [(each.word, each.append, each.probability) for each in plain.candidates]
        assert [
            (each.word, each.append, each.probability) for each in sourced.candidates
        ] == expected
        assert again.candidates == plain.candidates


def test_the_network_proposes_what_it_proposes_alone(
    predictor: Predictor, tiny_checkpoint: Path
) -> None:
    """A candidate is the network's if a predictor without memory has it, or if it was never written."""
    text = "I like the "
    sourced = answer(predictor, PredictQuery(text, 8, HISTORY, sources=True))
    forgetful = Predictor(*open_model(tiny_checkpoint), use_cache_lm=False)
    alone = answer(forgetful, PredictQuery(text, 8))
    assert isinstance(sourced, PredictResult) and isinstance(alone, PredictResult)
    proposed = {each.append for each in alone.candidates}
    assert len(sourced.candidates) == 8
    for each in sourced.candidates:
        assert isinstance(each, SourcedCandidate)
        part = each.word in text or each.word in HISTORY
        assert ("network" in each.sources) == (each.append in proposed or not part)
        for source, written in (("text", text), ("history", HISTORY)):
            if each.append in proposed:
                assert (source in each.sources) == stands_in(each.word, written)
            elif source in each.sources:
                assert each.word in written
    assert any(
        "network" not in each.sources
        for each in sourced.candidates
        if isinstance(each, SourcedCandidate)
    )


def test_fillings_say_it_too(predictor: Predictor) -> None:
    """A choice that stands on the text's other side comes from the text, one in the history from there."""
    query = ClozeQuery(
        "I went to the ____ and the mat.", choices=["mat", "store", "walk"], history=HISTORY
    )
    plain = answer(predictor, query)
    sourced = answer(
        predictor,
        ClozeQuery(query.text, choices=["mat", "store", "walk"], history=HISTORY, sources=True),
    )
    assert isinstance(plain, ClozeResult) and isinstance(sourced, ClozeResult)
    assert sourced.filled == plain.filled
    found = {
        each.word: each.sources
        for each in sourced.blanks[0].candidates
        if isinstance(each, SourcedFilling)
    }
    assert found == {
        "mat": ("network", "text"),
        "store": ("network", "history"),
        "walk": ("network",),
    }


def test_an_ngram_says_it_as_well(tiny_ngram: Path) -> None:
    """Sources need nothing of a network but an answer with and without memory."""
    sourced = answer(Predictor(*open_model(tiny_ngram)), PredictQuery("I like ", 3, sources=True))
    assert isinstance(sourced, PredictResult)
    assert all(isinstance(each, SourcedCandidate) and each.sources for each in sourced.candidates)


@pytest.mark.parametrize(
    ("word", "text", "stands"),
    [
        ("cat", "the cat sat", True),
        ("cat", "concatenate the cat", True),
        ("cat", "concatenate", False),
        ("cat", "cats", False),
        ("云南", "我去云南了", True),
        (",", "a,b", True),
        ("", "a", False),
    ],
)
def test_a_word_stands_as_a_word(word: str, text: str, stands: bool) -> None:
    """Letters around it make another word of letters; Chinese characters stand where they stand."""
    assert stands_in(word, text) is stands
