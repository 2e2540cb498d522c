"""Candidates of several words."""

import pytest

from model.checkpoint import DEFAULT_CHECKPOINT
from model.predictor import Predictor, open_model
from model.queries import Candidate, LexiconEntry, PredictQuery, Step
from model.text import is_word_character
from tests.fakes import answer


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    """The bundled checkpoint."""
    return Predictor(*open_model(DEFAULT_CHECKPOINT))


def candidates(
    predictor: Predictor, text: str, top_k: int = 5, **options: object
) -> list[Candidate]:
    """Return the candidates for a text."""
    return list(answer(predictor, PredictQuery(text, top_k, **options)).candidates)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "text", ["Thank you for", "I am go", "I would like a cup of", "我昨天上学"]
)
def test_steps_make_up_the_candidate(predictor: Predictor, text: str) -> None:
    """The first one is the candidate without further words, and keeps order and probability."""
    plain = candidates(predictor, text, 8)
    longer = candidates(predictor, text, 8, words=4)
    assert [Step(each.append, each.probability, each.ended) for each in plain] == [
        each.steps[0] for each in longer if each.steps
    ]
    for each, first in zip(longer, plain, strict=True):
        assert each.steps and 1 <= len(each.steps) <= 4
        assert each.append == "".join(step.append for step in each.steps)
        assert (each.word, each.probability) == (first.word, first.probability)
        assert each.ended == each.steps[-1].ended
        assert all(0 < step.probability <= 1 for step in each.steps)
    assert max(len(each.steps or ()) for each in longer) > 2


def test_a_step_never_continues_a_complete_word(predictor: Predictor) -> None:
    """`theatre` is not followed by the `s` of `theatres`."""
    for text in ("Last night we went to the theat", "I have a", "She is a teach"):
        for each in candidates(predictor, text, words=5):
            for before, after in zip(each.steps or (), (each.steps or ())[1:], strict=False):
                joined = is_word_character(before.append[-1]), is_word_character(after.append[0])
                assert joined != (True, True)


def test_a_list_begins_like_a_longer_one(predictor: Predictor) -> None:
    """Steps do not depend on how many candidates are asked for, or on the cache."""
    text = "We would like to"
    long = candidates(
        Predictor(predictor.checkpoint, predictor.runtime, cache_bytes=0), text, 10, words=3
    )
    for top_k in (1, 3):
        assert candidates(predictor, text, top_k, words=3) == long[:top_k]


def test_a_phrase_ends_with_its_sentence(predictor: Predictor) -> None:
    """Nothing comes after a period."""
    for each in candidates(predictor, "Thank you very", words=8):
        appends = [step.append for step in each.steps or ()]
        assert not any(append[-1] in ".!?" for append in appends[:-1])


def test_blocked_words_are_no_steps(predictor: Predictor) -> None:
    """Lexicon and blocked words count for every step."""
    (plain,) = candidates(predictor, "Thank you very", 1, words=2)
    (other,) = candidates(predictor, "Thank you very", 1, words=2, block=("much",))
    assert plain.append.startswith(" much") and "much" not in other.append
    lexicon = (LexiconEntry("Okonkwo"),)
    (own,) = candidates(predictor, "I asked Doctor Okon", 1, words=3, lexicon=lexicon)
    assert own.word == "Okonkwo" and own.append.startswith("kwo")
