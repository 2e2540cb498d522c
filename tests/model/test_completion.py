"""Tests of model/decoding/completion.py, with tables as networks and brute force as oracle."""

import math
from typing import Any

import numpy as np
import pytest

from model.completions import CompletionPart, CompletionQuery, CompletionResult
from model.errors import QueryError
from model.predictor import Predictor
from model.queries import ScoreQuery
from model.tokenizer import FIRST_BYTE, START
from tests.fakes import TYPING, TableRuntime, answer, table_predictor

WORDS = [TYPING.encode(word)[0] for word in ("the ", "cat ", "I ", "theatre ")]


@pytest.fixture
def predictor() -> Predictor:
    """A predictor on a table, without a cache language model."""
    return table_predictor(TableRuntime(TYPING), use_cache_lm=False)


def complete(predictor: Predictor, text: str = "", **options: Any) -> CompletionResult:
    """Return the completion of a text."""
    result: CompletionResult = answer(predictor, CompletionQuery(text, **options))
    return result


def text_of(result: CompletionResult) -> str:
    """Return all parts as one text."""
    return "".join([part.text for part in result.parts])


def next_probs(runtime: TableRuntime, tokens: tuple[int, ...]) -> Any:
    """Return the probabilities after *tokens*, (V,)."""
    ids = np.array([tokens], dtype=np.int64)
    lengths = np.array([len(tokens)])
    states, _ = runtime.run_tower("forward", np.zeros((1, 2), np.float32), ids, lengths)
    return runtime.score("next", states)[0]


def test_the_most_probable_tokens_follow_token_ids(predictor: Predictor) -> None:
    """At temperature 0, each token is the best one after all before it; a start is not doubled."""
    tokens = (START, WORDS[0], WORDS[1])
    for prompt in (tokens, tokens[1:]):
        expected = list(tokens)
        for _ in range(5):
            expected.append(int(next_probs(predictor.runtime, tuple(expected)).argmax()))
        result = complete(predictor, tokens=prompt, max_tokens=5, temperature=0, top=0)
        assert text_of(result) == TYPING.decode(expected[3:])
        assert (result.prompt_tokens, result.completion_tokens) == (len(prompt), 5)
        first = result.parts[0].tokens[0]
        assert first.log_prob == pytest.approx(
            math.log(next_probs(predictor.runtime, tokens).max()), rel=1e-5
        )


def test_the_end_of_a_text_is_healed(predictor: Predictor) -> None:
    """The first token is what goes beyond the text, summed over the spellings of its end."""
    runtime, rest = predictor.runtime, b"the"
    spellings = predictor._context.index.spellings  # by id
    probs: dict[bytes, float] = {}

    def follow(tokens: tuple[int, ...], left: bytes, prob: float) -> None:
        for token, token_prob in enumerate(next_probs(runtime, tokens).tolist()):
            spelled = spellings[token]
            if token_prob == 0:
                continue
            if len(spelled) > len(left) and spelled.startswith(left):
                added = spelled[len(left) :]
                probs[added] = probs.get(added, 0.0) + prob * token_prob
            elif spelled and left.startswith(spelled):
                follow((*tokens, token), left[len(spelled) :], prob * token_prob)

    follow((START, WORDS[2]), rest, 1.0)
    total = sum(probs.values())
    result = complete(predictor, "I the", max_tokens=1, temperature=0, top=20)
    (token,) = result.parts[0].tokens
    expected = sorted(((prob / total, added.decode()) for added, prob in probs.items()))[::-1]
    assert token.top is not None and text_of(result) == token.text == expected[0][1]
    for prob, added in expected[:5]:
        assert token.top[added] == pytest.approx(math.log(prob), abs=0.02)
    assert token.offset == len("I the")


def test_a_seed_decides_the_draws_and_a_batch_changes_none(predictor: Predictor) -> None:
    """The same seed gives the same text, alone and among others; another seed another text."""
    queries = [CompletionQuery("I ", seed=str(seed), top=3) for seed in (1, 2, 3, 1)]
    together = predictor.run(queries)
    alone = [answer(table_predictor(predictor.runtime, use_cache_lm=False), q) for q in queries]
    assert together == alone and together[0] == together[3]
    assert len({text_of(each) for each in alone}) == 3


def test_draws_follow_the_probabilities(predictor: Predictor) -> None:
    """Over many seeds, shares are those of the distribution, sharpened by the temperature."""
    probs = next_probs(predictor.runtime, (START, WORDS[0])).astype(np.float64)
    for temperature in (1.0, 0.5):
        expected = probs ** (1 / temperature)
        expected /= expected.sum()
        queries = [
            CompletionQuery("", (WORDS[0],), max_tokens=1, temperature=temperature, seed=str(seed))
            for seed in range(400)
        ]
        texts = [text_of(each) for each in predictor.run(queries)]  # type: ignore[arg-type]
        best = int(expected.argmax())
        share = texts.count(TYPING.surfaces[best]) / len(texts)
        assert share == pytest.approx(expected[best], abs=0.08)


def test_a_stop_string_ends_the_text_before_it(predictor: Predictor) -> None:
    """No part shows a stop string or its beginning, nor a token that comes after."""
    whole = text_of(complete(predictor, "I ", temperature=0, max_tokens=12))
    for start in (0, 3, 9):
        stop = whole[start : start + 5]
        options = {"temperature": 0, "max_tokens": 12, "stop": ("no such", stop), "top": 0}
        shown: list[CompletionPart] = []
        result = complete(predictor, "I ", on_part=shown.append, **options)
        expected = whole[: whole.index(stop)]
        assert text_of(result) == expected and tuple(shown) == result.parts
        assert result.parts[-1].finish == "stop"
        offsets = [token.offset - 2 for part in result.parts for token in part.tokens]
        assert all(offset < len(expected) for offset in offsets)
    beyond = complete(predictor, "I ", temperature=0, max_tokens=12, stop=(whole + "x",))
    assert text_of(beyond) == whole and beyond.parts[-1].finish == "length"


@pytest.mark.parametrize(
    "text", ["I like the cat, the theatre.", "迟到了。上学鱼", "Ｉ　like\nthe"]
)
def test_echoed_tokens_are_those_of_a_score(predictor: Predictor, text: str) -> None:
    """Tokens of a prompt have their log-probabilities in /score; the first one after a start."""
    score = answer(predictor, ScoreQuery(text))
    for prompt, known in ((text, False), ("\n" + text, True)):
        result = complete(predictor, prompt, echo=True, max_tokens=0, top=1)
        tokens = result.parts[0].tokens
        assert text_of(result) == prompt and tokens[0].log_prob is None and tokens[0].top is None
        logs = [token.log_prob for token in tokens[1:]]
        if known:
            assert sum(filter(None, logs)) == pytest.approx(score.log_probability, rel=1e-5)
        assert all(token.top and token.text in token.top for token in tokens[1:])
        offsets = [token.offset for token in tokens]
        assert offsets == sorted(offsets) and offsets[-1] < len(prompt)


def test_echoed_ids_have_one_entry_each(predictor: Predictor) -> None:
    """Exactly one entry follows them for each new token; a leading start is not text."""
    ids = (START, WORDS[0], WORDS[1])
    result = complete(predictor, tokens=ids, echo=True, max_tokens=1, temperature=0, top=1)
    tokens = [token for part in result.parts for token in part.tokens]
    assert [token.text for token in tokens[:3]] == ["", "the ", "cat "] and len(tokens) == 4
    assert tokens[0].log_prob is None and None not in [token.log_prob for token in tokens[1:]]
    assert text_of(result).startswith("the cat ")


def test_bytes_make_whole_characters() -> None:
    """Tokens of single bytes add text only when a character is complete, and never invalid text."""
    support = [*range(FIRST_BYTE + 0x80, FIRST_BYTE + 0xF4), *WORDS]
    predictor = table_predictor(TableRuntime(TYPING, support), use_cache_lm=False)
    for seed in range(20):
        result = complete(predictor, "I ", seed=str(seed), max_tokens=20, top=0)
        names = [token.text for part in result.parts for token in part.tokens]
        assert any(name.startswith("bytes:\\x") for name in names)
        assert all(name in TYPING.surfaces for name in names if "bytes" not in name)


def test_a_new_sentence_begins_with_a_space() -> None:
    """A letter after the end of a sentence follows as on a new line, with a space before it."""
    runtime = TableRuntime(TYPING, WORDS)
    predictor = table_predictor(runtime, use_cache_lm=False)
    result = complete(predictor, "I like the cat。I see the cat.", max_tokens=1, temperature=0)
    best = int(next_probs(runtime, (START, START)).argmax())
    assert text_of(result)[0] == " " and best
    assert text_of(result)[1:] in TYPING.surfaces


def test_a_suffix_is_filled_in_the_middle() -> None:
    """The completion is a word for the blank, with the spaces that it needs, from /cloze."""
    predictor = table_predictor(TableRuntime(TYPING, WORDS), use_cache_lm=False)
    result = complete(predictor, "I like", suffix="theatre", temperature=0, top=2)
    (token,) = result.parts[0].tokens
    assert text_of(result) == token.text and token.text[0] == token.text[-1] == " "
    assert token.top and len(token.top) == 2 and token.log_prob == max(token.top.values())
    assert result.parts[-1].finish == "stop"
    drawn = {
        text_of(complete(predictor, "I like", suffix="theatre", seed=str(seed)))
        for seed in range(9)
    }
    assert len(drawn) > 1


@pytest.mark.parametrize(
    ("query", "field"),
    [
        (CompletionQuery("a" * 10_001), "/text"),
        (CompletionQuery("", tokens=(5, 1000)), "/text/1"),
        (CompletionQuery("", tokens=(5,) * 10_001), "/text"),
        (CompletionQuery("a", suffix="b" * 10_000), "/suffix"),
        (CompletionQuery("a", max_tokens=65), "/max_tokens"),
    ],
)
def test_a_query_over_a_limit_is_refused(
    predictor: Predictor, query: CompletionQuery, field: str
) -> None:
    """The error names the field; nothing is decoded."""
    with pytest.raises(QueryError) as caught:
        predictor.start(query)
    assert caught.value.field == field
