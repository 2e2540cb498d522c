"""The predictor: refusals, which do not affect other queries, and scores of texts."""

import math
from typing import Any

import pytest

from model.batching import Scheduler
from model.decoding.token_index import TokenIndex
from model.errors import QueryError
from model.predictor import Predictor
from model.queries import (
    ClozeQuery,
    LexiconEntry,
    Limits,
    PredictQuery,
    PredictResult,
    Query,
    ScoreQuery,
)
from model.runtime import Float32Array
from model.text import NormalText, normalise, read_text
from tests.fakes import TableRuntime, answer, hand_tokenizer, table_predictor

TOKENIZER = hand_tokenizer(("the ", "cat ", "cat", "我", "买"))


def predictor(limits: Limits | None = None, **table: Any) -> Predictor:
    """Return a predictor on a table."""
    return table_predictor(TableRuntime(TOKENIZER, **table), limits=limits)


def own(*words: str, weight: float = 1.0) -> tuple[LexiconEntry, ...]:
    """Return a lexicon of some words with the same weight."""
    return tuple(LexiconEntry(word, weight) for word in words)


@pytest.mark.parametrize(
    ("query", "field", "words"),
    [
        (PredictQuery("a\ud800"), "/text", "surrogate at code point 1"),
        (PredictQuery("a" * 10_001), "/text", "10001 code points"),
        (PredictQuery("a", 0), "/top_k", "1 to 100"),
        (PredictQuery("a", 101), "/top_k", "1 to 100"),
        (ScoreQuery(""), "/text", "empty"),
        (ScoreQuery("\udfff"), "/text", "surrogate"),
        (ClozeQuery("no blank"), "/text", "no blank"),
        (ClozeQuery("____", blank="[X]"), "/text", "marker in /blank"),
        (ClozeQuery("____ " * 65), "/text", "65 blanks"),
        (ClozeQuery("____", blank=""), "/blank", "at least one visible"),
        (ClozeQuery("____", blank="\u200b"), "/blank", "at least one visible"),
        (ClozeQuery("____", blank="\ud800"), "/blank", "surrogate"),
        (ClozeQuery("____", top_k=0), "/top_k", "1 to 100"),
        (ClozeQuery("____", choices=[]), "/choices", "empty"),
        (ClozeQuery("____", choices=[[]]), "/choices/0", "empty"),
        (ClozeQuery("____", choices=["a", " "]), "/choices/1", "only spaces"),
        (ClozeQuery("____", choices=["é", "b", "é"]), "/choices/2", "repeats choice 0"),
        (ClozeQuery("____", choices=["a", "a "]), "/choices/1", "repeats"),
        (ClozeQuery("____", choices=["a\nb"]), "/choices/0", "line break"),
        (ClozeQuery("____", choices=["a\ud800"]), "/choices/0", "surrogate"),
        (ClozeQuery("____", choices=[["a"], ["b", "\udc00"]]), "/choices/1/1", "surrogate"),
        (ClozeQuery("____", choices=[["a"], ["b"]]), "/choices", "2 lists for 1 blanks"),
        (ClozeQuery("____", choices=[str(n) for n in range(257)]), "/choices", "257 choices"),
        (ClozeQuery("____", choices=["a" * 4_000, "b" * 97]), "/choices", "4097 code points"),
        (PredictQuery("a", block=("b",) * 257), "/block", "257 words"),
        (ClozeQuery("____", lexicon=own("b") * 257), "/lexicon", "257 words"),
        (PredictQuery("a", lexicon=own("b", "c", " ")), "/lexicon/2/word", "only spaces"),
        (PredictQuery("a", lexicon=own("é", "b", "é ")), "/lexicon/2/word", "repeats word 0"),
        (PredictQuery("a", lexicon=own("b" * 65)), "/lexicon/0/word", "65 code points"),
        (PredictQuery("a", block=("a\nb",)), "/block/0", "line break"),
        (PredictQuery("a", block=("b", "\ud800")), "/block/1", "surrogate"),
        (PredictQuery("a", lexicon=own("b", weight=math.nan)), "/lexicon/0/weight", "above 0"),
        (PredictQuery("a", lexicon=own("b", weight=0)), "/lexicon/0/weight", "above 0"),
        (PredictQuery("a", lexicon=own("b", weight=1_001)), "/lexicon/0/weight", "at most 1000"),
        (ClozeQuery("____", fillings=17), "/fillings", "1 to 16"),
        (ScoreQuery("a", "b" * 10_001), "/context", "10001 code points"),
        (ScoreQuery("a", "\ud800"), "/context", "surrogate"),
    ],
)
def test_bad_queries_are_refused_by_name(query: Query, field: str, words: str) -> None:
    """The error names the field and the fault before anything runs; memory is bounded anyway."""
    assert predictor().peak_bytes(query) > 0
    with pytest.raises(QueryError) as caught:
        predictor().start(query)
    assert caught.value.field == field
    assert words in caught.value.message


def test_bad_queries_fail_alone_and_errors_never_carry_text() -> None:
    """Answers come in order, with an error for each query that exceeds the given limits."""
    secret = "Geheimnis"
    bad = (
        ClozeQuery(secret),
        ClozeQuery(secret, blank="X" + secret),
        ClozeQuery("____", choices=[secret, "b"]),
        PredictQuery("a", 3),
        PredictQuery(secret * 2),
    )
    few = predictor(Limits(characters=16, top_k=2, blanks=1, choices=1))
    first, *errors, last = few.run([PredictQuery("the ", 2), *bad, PredictQuery("我", 2)])
    assert type(first) is type(last) is PredictResult
    for error in errors:
        assert isinstance(error, QueryError) and secret not in str(error)


def test_many_queries_run_through_a_bounded_number_of_decoders(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """More queries than may live at once start as others finish."""
    monkeypatch.setattr("model.predictor.MAX_LIVE", 3)
    runtime = TableRuntime(TOKENIZER)
    answers = table_predictor(runtime).run([ScoreQuery("我")] * 10)
    assert answers == answers[:1] * 10
    assert max(rows for _, rows in runtime.calls) == 3


@pytest.mark.parametrize("query", [ScoreQuery("a"), PredictQuery("a")])
def test_a_stacked_network_fills_blanks_and_nothing_else(query: Query) -> None:
    """The refusal says what the loaded network can answer."""
    with pytest.raises(QueryError, match="can answer cloze, not"):
        predictor(architecture="stacked_bidirectional").start(query)


def test_a_bug_is_raised_not_returned() -> None:
    """An unnamed error is not mistaken for a bad query."""

    class Broken(TableRuntime):
        def score(self, *_: Any) -> Float32Array:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        table_predictor(Broken(TOKENIZER)).run([PredictQuery("the ")])


def test_usage_counts_the_tokens_of_the_text() -> None:
    """The start of the text is not counted."""
    usage = answer(predictor(), PredictQuery("the the cat")).usage
    assert (usage.tokens, usage.cached_tokens) == (3, 0)


def test_texts_of_a_request_share_what_is_read_of_history_and_choices(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A history is normalised and encoded once, a choice normalised once, for all texts."""
    encoded: list[str] = []
    normalised: list[str] = []
    encode = TokenIndex.encode

    def counted(index: TokenIndex, text: str) -> list[int]:
        encoded.append(text)
        return encode(index, text)

    def noted(text: str) -> str:
        normalised.append(text)
        return normalise(text)

    def noted_reading(text: str) -> NormalText:
        normalised.append(text)
        return read_text(text)

    monkeypatch.setattr(TokenIndex, "encode", counted)
    monkeypatch.setattr("model.checks.normalise", noted)
    monkeypatch.setattr("model.decoding.context.read_text", noted_reading)
    history, choices = "the cat, the theatre " * 50, ["cat", "theatre", "上学"]
    asked = predictor()
    queries: list[Query] = [PredictQuery(f"{n} the", history=history) for n in range(8)]
    queries += [ClozeQuery(f"{n} __", choices=choices, history=history) for n in range(8)]
    scheduler = Scheduler(asked.runtime)
    for number, decoder in enumerate(asked.start_all(queries)):
        scheduler.add(number, decoder)
    answers: dict[Any, Any] = {}
    while scheduler.pending:
        answers |= dict(scheduler.step())
    assert encoded.count(history) == 1
    assert sorted(filter(None, normalised)) == sorted([history, *choices])
    for number, query in enumerate(queries):
        alone, shared = answer(predictor(), query), answers[number]
        if isinstance(query, ClozeQuery):
            assert alone.blanks == shared.blanks
        else:
            assert alone.candidates == shared.candidates
