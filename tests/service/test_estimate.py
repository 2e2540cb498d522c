"""Tests of service/estimate.py: all that a sender can vary counts."""

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from model.completions import CompletionQuery
from model.queries import ClozeQuery, LexiconEntry, PredictQuery, ScoreQuery
from model.text import normalise
from model.tokenizer import Tokenizer
from service.estimate import MAX_KNOWN, Estimator, Work, count_tokens, rare_characters
from service.settings import DEFAULT_CHECKPOINT, Settings

LIMITS = Settings().limits
CACHE_BYTES = Settings().prefix_cache_mib << 20
TOKENIZER = Tokenizer.load(DEFAULT_CHECKPOINT / "tokenizer.model")
RARE = rare_characters(TOKENIZER.surfaces)
WORDS = tuple(LexiconEntry(f"word{number}") for number in range(256))


def work_of(query: Any) -> Work:
    """Return the work of a query that comes alone."""
    (work,) = Estimator(LIMITS, CACHE_BYTES, RARE).estimate([query])
    return work


@pytest.mark.parametrize(
    ("less", "more"),
    [
        (PredictQuery("a" * 10), PredictQuery("a" * 1_000)),
        (PredictQuery("a" * 100), PredictQuery("A" * 100)),
        (PredictQuery("我" * 100), PredictQuery("鼗" * 100)),
        (PredictQuery("门", 100), PredictQuery("門", 100)),
        (PredictQuery("鬼" * 100), PredictQuery("😀" * 100)),
        (PredictQuery("\U0001d157" * 100), PredictQuery("\U0001d160" * 100)),  # becomes three
        (PredictQuery("a\u200b"), PredictQuery("a" + "\u200b" * 9_000)),
        (PredictQuery("a", top_k=5), PredictQuery("a", top_k=100)),
        (PredictQuery("a", words=2), PredictQuery("a", words=3)),
        (PredictQuery("a", top_k=1, words=3), PredictQuery("a", words=3)),
        (PredictQuery("a"), PredictQuery("a", letters=True)),
        (PredictQuery("a"), PredictQuery("a", corrections=1)),
        (PredictQuery("a"), PredictQuery("a", after="b")),
        (PredictQuery("a"), PredictQuery("a", history="b" * 10_000)),
        (PredictQuery("a ____"), ClozeQuery("a ____")),
        (ClozeQuery("a __"), ClozeQuery("a __", lexicon=(LexiconEntry("b"),) * 256)),
        (ClozeQuery("a ____"), ClozeQuery("a ____ b ____")),
        (ClozeQuery("a __ b"), ClozeQuery("a _＿ b ＿_")),
        (ClozeQuery("a [MASK]"), ClozeQuery("a [MASK] b [MAS\u212a]")),  # the sign of the Kelvin
        (ClozeQuery("a *", blank="*"), ClozeQuery("a * b *", blank="*")),
        (ClozeQuery("a é", blank="é"), ClozeQuery("a é b e\u0301", blank="e\u0301")),
        (ClozeQuery("a __ b __ c" + "d" * 999), ClozeQuery("a __ b " + "d" * 999 + "__ c __ e")),
        (ClozeQuery("d" * 999 + " __ b __"), ClozeQuery("__ b " + "d" * 999 + " __")),
        (ClozeQuery("a ____", choices=["x"]), ClozeQuery("a ____", choices=["x"] * 256)),
        (ClozeQuery("a ____", choices=["x"]), ClozeQuery("a ____", choices=["x" * 100])),
        (
            ClozeQuery("a ____", choices=["x"]),
            ClozeQuery("a ____ b ____", choices=[["x"], ["y", "z"]]),
        ),
        (PredictQuery("a"), CompletionQuery("a", max_tokens=1)),
        (CompletionQuery("a", max_tokens=1), CompletionQuery("a", max_tokens=64)),
        (CompletionQuery("a"), CompletionQuery("a" * 1_000)),
        (CompletionQuery("a"), CompletionQuery("", (5,) * 1_000)),
        (CompletionQuery("a" * 99), CompletionQuery("a" * 99, echo=True, top=0)),
        (CompletionQuery("a" * 99, top=0), CompletionQuery("a" * 99, top=20)),
        (CompletionQuery("a"), CompletionQuery("a", suffix="b")),
        (ScoreQuery("a"), ScoreQuery("a" * 1_000)),
        (ScoreQuery("a"), ScoreQuery("a", "b")),
        (ScoreQuery("a", "b"), ScoreQuery("a", "b" * 1_000)),
        (ScoreQuery("a" * 100), ScoreQuery("a" * 100, details=True)),
        (PredictQuery("a"), PredictQuery("a", lexicon=WORDS)),
        (ClozeQuery("a __"), ClozeQuery("a __", block=("b",) * 256)),
        # A text over a limit is no work, so that a busy engine answers 422 and not 429.
        (PredictQuery("a" * 10_001), PredictQuery("a")),
        (PredictQuery("a", top_k=101), PredictQuery("a")),
        (PredictQuery("a", words=9), PredictQuery("a")),
        (PredictQuery("a", after="b" * 10_001), PredictQuery("a")),
        (PredictQuery("a", history="a" * 20_001), PredictQuery("a")),
        (PredictQuery("a", lexicon=(*WORDS, *WORDS)), PredictQuery("a")),
        (PredictQuery("a", block=("b",) * 257), PredictQuery("a")),
        (ScoreQuery("a", "b" * 10_001), ScoreQuery("a")),
        (ClozeQuery("____", fillings=17), ClozeQuery("____")),
        (ClozeQuery("____ " * 65), ClozeQuery("____")),
        (ClozeQuery("____", choices=["x"] * 257), ClozeQuery("____", choices=["x"])),
        (ClozeQuery("no blank"), ClozeQuery("____")),
        (ClozeQuery("____", blank="b" * 10_001), ClozeQuery("____")),
        (ClozeQuery("____", choices=["x"]), ClozeQuery("____", top_k=101, choices=["x", "y"])),
    ],
)
def test_more_to_do_is_more_work(less: Any, more: Any) -> None:
    """Bytes, lengths, numbers and the width of a search each add to the estimate."""
    assert work_of(less).total < work_of(more).total


def test_more_candidates_of_a_blank_are_no_more_work() -> None:
    """The search for its words does not depend on how many are shown."""
    assert work_of(ClozeQuery("a __", top_k=1)) == work_of(ClozeQuery("a __", top_k=100))


def test_what_was_typed_before_is_not_work_again() -> None:
    """A key press after a long text costs little if text and history came with the same salt."""
    text = "some words " * 400
    first, next_key, stranger = ([PredictQuery(text + key, history=text)] for key in ("", "a", "b"))
    estimator = Estimator(LIMITS, CACHE_BYTES)
    (cold,) = estimator.estimate(first, "one")
    estimator.remember(first, "one")
    (unknown,) = estimator.estimate(stranger, "another")
    (typed,) = estimator.estimate(next_key, "one")
    assert typed.total < cold.total / 20
    assert unknown.total > cold.total * 0.99


@pytest.mark.parametrize(
    "other", [{"history": "b"}, {"lexicon": (LexiconEntry("b"),)}, {"block": ("b",)}]
)
def test_for_another_writer_a_text_is_work_again(other: dict[str, Any]) -> None:
    """Texts that are cached for one history, lexicon and blocked words serve no other."""
    text = "some words " * 400
    estimator = Estimator(LIMITS, CACHE_BYTES)
    (cold,) = estimator.estimate([PredictQuery(text)])
    estimator.remember([PredictQuery(text)], "")
    assert estimator.estimate([PredictQuery(text)])[0].total < cold.total / 10
    assert estimator.estimate([PredictQuery(text, **other)])[0].total >= cold.total


def test_a_context_is_read_once() -> None:
    """Texts that come together share it; its beginning is known to later requests."""
    queries = [ScoreQuery("a", "some words " * 400)] * 8
    estimator = Estimator(LIMITS, CACHE_BYTES)
    first, *others = estimator.estimate(queries)
    assert others == [Estimator(LIMITS, CACHE_BYTES).estimate([ScoreQuery("a")])[0]] * 7
    estimator.remember(queries, "")
    again, *_ = estimator.estimate(queries)
    assert first.total - 20_000 > again.total > others[0].total


def test_a_new_history_is_read_once() -> None:
    """Texts that come together read it once; later requests know it with the same lexicon."""
    history = "b" * 20_000
    queries = [PredictQuery("a", history=history)] * 2
    estimator = Estimator(LIMITS, CACHE_BYTES)
    first, second = estimator.estimate(queries, "")
    estimator.remember(queries, "")
    assert estimator.estimate(queries, "") == [second] * 2
    assert first.total > second.total + 4_000
    (other,) = estimator.estimate([PredictQuery("a", history=history, lexicon=WORDS[:1])], "")
    assert other.total > first.total


@pytest.mark.parametrize("others", [["x" * 64], ["x" * 9_000], ["x"]])
def test_what_the_cache_may_have_dropped_is_work_again(others: list[str]) -> None:
    """Many texts, long or short, take the place of the oldest; one that comes again stays."""
    first, second = ([PredictQuery(letter * 64)] for letter in "ab")
    estimator = Estimator(LIMITS, CACHE_BYTES)
    cold, _ = (estimator.estimate(text, "")[0] for text in (first, second))
    for text in (first, second):
        estimator.remember(text, "")
    known = estimator.estimate(first, "")[0]
    assert known.total < cold.total
    for number in range(MAX_KNOWN):
        estimator.remember(first, "")
        estimator.remember([PredictQuery(str(number) + text) for text in others], "")
    assert estimator.estimate(first, "") == [known]
    assert estimator.estimate(second, "") == [cold]


def test_without_a_cache_nothing_is_known() -> None:
    """If the service keeps no prefixes, every key press costs the whole text."""
    estimator, query = Estimator(LIMITS, 0), [PredictQuery("a" * 640)]
    cold = estimator.estimate(query, "")
    estimator.remember(query, "")
    assert estimator.estimate(query, "") == cold


@given(st.text(st.characters(codec="utf-8"), min_size=1, max_size=8), st.integers(1, 50))
@example("\U0001d160", 99)
@example("xqzjkv", 99)
@example("一", 99)
def test_tokens_are_not_many_more_than_estimated(part: str, times: int) -> None:
    """Whatever the characters, the tokens are at most twice the estimate."""
    text = part * times
    assert len(TOKENIZER.encode(normalise(text))) <= 2 * count_tokens(text, RARE) + 4
