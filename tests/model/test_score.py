"""Scores of texts, after a context and alone, and their details."""

import math
import unicodedata
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from model.batching import Scheduler
from model.decoding import score
from model.decoding.score import join
from model.decoding.token_index import TokenIndex
from model.predictor import Predictor
from model.queries import ScoreQuery, ScoreResult
from model.text import normalise
from model.tokenizer import START
from model.words import KnownWords
from tests.fakes import TYPING, TableRuntime, answer, table_predictor

RUNTIME = TableRuntime(TYPING, range(5, TYPING.size), spread=0.5)
WORDS = KnownWords(["cat", "cats", "like", "new", "newer", "the", "theatre"])


def scored(text: str, context: str = "", details: bool = False) -> ScoreResult:
    """Return the score of a text by the table."""
    result: ScoreResult = answer(table_predictor(RUNTIME), ScoreQuery(text, context, details))
    return result


def log_prob(tokens: list[int], read: list[int]) -> float:
    """Return the log-probability of *tokens* after *read*, without that of line ends."""
    total, read = 0.0, [0, START, *read]
    for token in tokens:
        (row,) = RUNTIME.score("next", np.array([read[-2:]], dtype=np.float32))
        total += 0.0 if token == START else math.log(row[token])
        read.append(token)
    return total


@pytest.mark.parametrize(
    "text", ["the cat", "我。", "a", "é", "the cat " * 100, "the\ncat\n", "\n"]
)
def test_score_is_the_sum_over_the_tokens_of_the_text(text: str) -> None:
    """The end is not counted; line ends are read and cost nothing, also in long texts."""
    tokens = TYPING.encode(normalise(text))
    expected = log_prob(tokens, [])
    found, decomposed = scored(text), scored(unicodedata.normalize("NFD", text))
    assert found == decomposed
    assert found.log_probability == pytest.approx(expected, rel=1e-6)
    assert (found.characters, found.tokens) == (len(text), len(tokens))
    assert found.bits_per_character == pytest.approx(-expected / math.log(2) / len(text))


@pytest.mark.parametrize(
    ("context", "text"),
    [
        ("I like", "the cat"),
        ("I like ", "the cat"),
        ("I like", "  the cat"),
        ("I\u3000like ", " the cat"),
    ],
)
def test_the_space_between_context_and_text_counts_once(context: str, text: str) -> None:
    """Whoever sends it, it belongs to the context, and the rest is scored."""
    before = TYPING.encode("I like ")
    expected = log_prob(TYPING.encode("the cat"), before)
    assert scored(text, context).log_probability == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("context", "text", "joined"),
    [
        ("a new", "phone", "a new phone"),
        ("the theat", "re", "the theatre"),
        ("the theat", "er", "the theater"),  # the first part is no word
        ("the cat", "'s", "the cat's"),
        ("the cat", ", the", "the cat, the"),
        ("like 1", "000", "like 1000"),
        ("the cat.", "The new", "the cat. The new"),
        ("the cat.", "5", "the cat.5"),
        ("迟", "到", "迟到"),
        ("迟", " 到", "迟到"),
        ("the cat\n", " the", "the cat\nthe"),
        ("the cat ", "\nthe", "the cat\nthe"),
        ("", " the", " the"),
        (" ", " the", " the"),
        ("the", " ", "the"),
    ],
)
def test_context_and_text_are_joined_as_their_writer_means_it(
    context: str, text: str, joined: str
) -> None:
    """Words are apart, parts of a word together; hardly anything else gets a space."""
    assert ["".join(reading) for reading in join(context, text, WORDS)] == [joined]


def test_without_known_words_all_words_are_apart() -> None:
    """No checkpoint scores `phone` after `new` as `newphone`."""
    assert join("a new", "er", KnownWords()) == [("a new ", "er")]


@pytest.mark.parametrize("text", ["er phone", "er"])
def test_of_two_readings_the_more_probable_one_counts(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two words that are also one may be either."""
    readings = join("a new", text, WORDS)
    assert readings == [("a new ", text), ("a new", text)]
    scores = []
    for each in ([readings[0]], [readings[1]], readings):
        monkeypatch.setattr(score, "join", lambda *_, each=each: each)
        scores.append(scored(text, "a new").log_probability)
    assert scores[0] != scores[1] and scores[2] == max(scores[:2])


@pytest.mark.parametrize(
    ("context", "text"),
    [
        ("th", "eatre 了"),
        ("the th", "e cat"),
        ("I like the", ", 到"),
        ("迟", "到了"),
        ("é", "😀"),
        ("cat", "\nthe"),
    ],
)
def test_inside_a_word_the_rest_of_the_context_is_given(
    context: str, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is P(tokens of both) / P(the context is spelled in any way), after what precedes it."""
    monkeypatch.setattr(score, "SHARE", 0.0)
    monkeypatch.setattr(score, "join", lambda *parts: [parts[:2]])
    before, _, rest = TokenIndex(TYPING).heal(context)
    read = list(before)

    def spelled(left: bytes, tokens: list[int]) -> float:
        """Return the probability of all ways to spell *left* after *tokens*."""
        total = 0.0
        for token, spelling in enumerate(TokenIndex(TYPING).spellings):
            if token != START and spelling and spelling.startswith(left):
                total += math.exp(log_prob([token], tokens))
            elif spelling and left.startswith(spelling):
                prob = math.exp(log_prob([token], tokens))
                total += prob * spelled(left[len(spelling) :], [*tokens, token])
        return total

    expected = log_prob(TYPING.encode(rest.decode() + text), read) - math.log(spelled(rest, read))
    assert scored(text, context).log_probability == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("context", "first", "second"),
    [
        ("I like ", "the ", "cat, the cat "),
        ("迟到", "了。", "上学"),
        ("the cat\n", "the ", "cat\n"),
        ("the ", "cat\n", "I like"),
    ],
)
def test_scores_add_up_at_the_ends_of_words(context: str, first: str, second: str) -> None:
    """It is log P(ab | c) = log P(a | c) + log P(b | ca) if no token crosses the end of a."""
    parts = scored(first, context), scored(second, context + first)
    whole = scored(first + second, context)
    expected = sum(part.log_probability for part in parts)
    assert whole.log_probability == pytest.approx(expected, rel=1e-6)


def run_all(predictor: Predictor, queries: list[ScoreQuery]) -> list[ScoreResult]:
    """Run the queries of one request side by side."""
    scheduler = Scheduler(predictor.runtime)
    for number, decoder in enumerate(predictor.start_all(queries)):
        scheduler.add(number, decoder)
    answers: dict[Any, Any] = {}
    while scheduler.pending:
        answers |= dict(scheduler.step())
    return [answers[number] for number in range(len(queries))]


@pytest.mark.parametrize("cache_bytes", [0, 1 << 20])
def test_texts_of_a_request_share_one_reading_of_the_context(cache_bytes: int) -> None:
    """Each gets the answer that it gets alone, and the context is run once for all."""
    runtime = TableRuntime(TYPING, range(5, TYPING.size), spread=0.5)
    predictor = table_predictor(runtime, cache_bytes=cache_bytes)
    context, texts = "the cat, " * 100 + "I like th", ["e cat", "eatre", "e", "e cat"]
    queries = [ScoreQuery(text, context) for text in texts]
    runs: list[int] = []
    runtime.run_tower = _counted(runtime.run_tower, runs)  # type: ignore[method-assign]
    together = run_all(predictor, queries)
    assert sum(runs) < 1.2 * len(TYPING.encode(context)) + 40
    alone = [scored(text, context) for text in texts]
    assert [each.log_probability for each in together] == [each.log_probability for each in alone]


def _counted(run_tower: Any, runs: list[int]) -> Any:
    def run(tower: Any, states: Any, tokens: Any, lengths: Any) -> Any:
        runs.append(int(lengths.sum()))
        return run_tower(tower, states, tokens, lengths)

    return run


def test_if_the_text_that_reads_the_context_is_cancelled_another_one_reads() -> None:
    """The others wait for it, and do not wait for ever."""
    predictor = table_predictor(RUNTIME)
    context = "the cat, " * 100
    scheduler = Scheduler(predictor.runtime)
    for number, decoder in enumerate(predictor.start_all([ScoreQuery("a", context)] * 3)):
        scheduler.add(number, decoder)
    assert scheduler.step() == []
    scheduler.cancel(0)
    answers: dict[Any, Any] = {}
    for _ in range(40):
        answers |= dict(scheduler.step())
    assert answers[1].log_probability == answers[2].log_probability
    assert answers[1].log_probability == scored("a", context).log_probability


@given(
    st.text(st.characters(codec="utf-8") | st.sampled_from("the a😀迟到 \r\n\u200b"), max_size=12),
    st.sampled_from(["", "the", "the ", "迟", "e", "\n"]),
)
@example("\u0301é", "e")
@example("\ufdfa \r\n\u200b", "the")
@settings(max_examples=200, deadline=None)
def test_details_make_up_text_and_probability(text: str, context: str) -> None:
    """One entry a token: their texts are the text as sent, and their sum is its probability."""
    if not normalise(text):
        return
    plain, detailed = scored(text, context), scored(text, context, details=True)
    assert plain.details is None and plain.log_probability == detailed.log_probability
    entries = detailed.details or ()
    assert "".join(entry.text for entry in entries) == text
    assert all(text[entry.start : entry.end] == entry.text != "" for entry in entries)
    total = sum(entry.log_probability for entry in entries)
    assert total == pytest.approx(detailed.log_probability, rel=1e-5, abs=1e-5)
    assert all(entry.log_probability <= 1e-5 for entry in entries)


def test_details_are_tokens_and_characters_of_several_bytes() -> None:
    """A line end costs nothing; a character that is spelled in bytes is one entry."""
    entries = scored("the cat\r\n😀迟到", details=True).details or ()
    assert [entry.text for entry in entries] == ["the ", "cat", "\r\n", "😀", "迟到"]
    assert [(entry.start, entry.end) for entry in entries][2:4] == [(7, 9), (9, 10)]
    assert entries[2].log_probability == 0
