"""The predictor: what it refuses, and that one refusal harms nobody."""

from typing import Any

import pytest

from model.errors import QueryError, UnsupportedError
from model.predictor import Predictor
from model.queries import ClozeQuery, Limits, PredictQuery, PredictResult, Query, ScoreQuery
from model.runtime import Float32Array
from tests.fakes import TableRuntime, fake_checkpoint, hand_tokenizer

TOKENIZER = hand_tokenizer(("the ", "cat ", "cat", "我", "买"))


def predictor(limits: Limits | None = None, **table: Any) -> Predictor:
    """A predictor on a table."""
    runtime = TableRuntime(TOKENIZER, **table)
    return Predictor(fake_checkpoint(TOKENIZER, runtime.sizes), runtime, limits)


@pytest.mark.parametrize(
    ("query", "field", "words"),
    [
        (PredictQuery("a\ud800"), "/text", "surrogate at code point 1"),
        (PredictQuery("a" * 10_001), "/text", "10001 code points"),
        (PredictQuery("a", 0), "/top_k", "1 to 100"),
        (PredictQuery("a", 101), "/top_k", "1 to 100"),
        (PredictQuery("a", True), "/top_k", "whole number"),
        (PredictQuery("a", 2.0), "/top_k", "whole number"),  # type: ignore[arg-type]
        (ScoreQuery(""), "/text", "empty"),
        (ScoreQuery("\udfff"), "/text", "surrogate"),
        (ClozeQuery("no blank"), "/text", "no blank"),
        (ClozeQuery("____", blank="[X]"), "/text", "marker in /blank"),
        (ClozeQuery("____ " * 65), "/text", "65 blanks"),
        (ClozeQuery("____", blank=""), "/blank", "at least one character"),
        (ClozeQuery("____", blank="\ud800"), "/blank", "surrogate"),
        (ClozeQuery("____", top_k=0), "/top_k", "1 to 100"),
        (ClozeQuery("____", choices=[]), "/choices", "empty"),
        (ClozeQuery("____", choices=[[]]), "/choices/0", "empty"),
        (ClozeQuery("____", choices=["a", " "]), "/choices/1", "only spaces"),
        (ClozeQuery("____", choices=["é", "b", "e\u0301"]), "/choices/2", "repeats choice 0"),
        (ClozeQuery("____", choices=["a", "a "]), "/choices/1", "repeats"),
        (ClozeQuery("____", choices=["a\nb"]), "/choices/0", "line break"),
        (ClozeQuery("____", choices=["a\ud800"]), "/choices/0", "surrogate"),
        (ClozeQuery("____", choices=[["a"], ["b", "\udc00"]]), "/choices/1/1", "surrogate"),
        (ClozeQuery("____", choices=[["a"], ["b"]]), "/choices", "2 lists for 1 blanks"),
        (ClozeQuery("____", choices=["a", ["b"]]), "/choices", "mixes"),  # type: ignore[list-item]
        (ClozeQuery("____", choices=[str(n) for n in range(257)]), "/choices", "257 choices"),
    ],
)  # fmt: skip
def test_bad_queries_are_refused_by_name(query: Query, field: str, words: str) -> None:
    """The error points at the field and says what is wrong, before anything runs."""
    with pytest.raises(QueryError) as caught:
        predictor().start(query)
    assert caught.value.field == field
    assert words in caught.value.message


def test_limits_are_those_given() -> None:
    """A service may allow less, offline use more."""
    few = predictor(Limits(characters=3, top_k=2, blanks=1, choices=1))
    for query in (
        PredictQuery("four"),
        PredictQuery("a", 3),
        ClozeQuery("______"[:3], choices=["a", "b"]),
    ):
        with pytest.raises(QueryError):
            few.start(query)
    assert few.run([PredictQuery("a", 2)])


def test_errors_never_carry_text() -> None:
    """Whatever the user wrote stays out of messages."""
    secret = "Geheimnis"
    queries = [
        ClozeQuery(secret),
        ClozeQuery("____", choices=[secret, secret]),
        ClozeQuery(secret, blank=secret * 2),
    ]
    for answer in predictor().run(queries):
        assert isinstance(answer, QueryError)
        assert secret not in str(answer)


def test_one_bad_query_fails_alone_and_in_its_place() -> None:
    """Answers come in the order of the queries, an error where it belongs."""
    answers = predictor().run([PredictQuery("the "), ClozeQuery("no blank"), PredictQuery("我")])
    assert [type(answer) for answer in answers] == [PredictResult, QueryError, PredictResult]


def test_many_queries_run_through_a_bounded_number_of_decoders(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """More queries than may live at once are taken in as others finish."""
    monkeypatch.setattr("model.predictor.MAX_LIVE", 3)
    subject = predictor()
    answers = subject.run([PredictQuery("the ")] * 10)
    assert all(isinstance(answer, PredictResult) for answer in answers)
    assert len({answer.candidates for answer in answers if isinstance(answer, PredictResult)}) == 1
    assert isinstance(subject.runtime, TableRuntime)
    assert max(rows for kind, rows in subject.runtime.calls if kind == "next") <= 3 * 16


@pytest.mark.parametrize("query", [ScoreQuery("a"), PredictQuery("a")])
def test_a_stacked_network_fills_blanks_and_nothing_else(query: Query) -> None:
    """The tutorial's network that mixes its directions knows no "next"; the refusal says what it can answer."""
    with pytest.raises(UnsupportedError, match="can answer cloze, not"):
        predictor(architecture="stacked_bidirectional").start(query)


def test_a_bug_is_raised_not_returned() -> None:
    """What has no name is no answer: it must not be mistaken for a bad query."""

    class Broken(TableRuntime):
        def score(self, *_: Any) -> Float32Array:
            raise ZeroDivisionError

    runtime = Broken(TOKENIZER)
    with pytest.raises(ZeroDivisionError):
        Predictor(fake_checkpoint(TOKENIZER, runtime.sizes), runtime).run([PredictQuery("the ")])


def test_usage_counts_the_tokens_of_the_text() -> None:
    """The start of the text is not counted."""
    (answer,) = predictor().run([PredictQuery("the the cat")])
    assert isinstance(answer, PredictResult)
    assert (answer.usage.tokens, answer.usage.cached_tokens) == (3, 0)
