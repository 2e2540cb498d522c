"""The native search finds what the one in Python finds (tests/reference)."""

import gc
import random
from collections.abc import Iterator, Sequence
from itertools import accumulate, islice, pairwise
from typing import Any

import numpy as np
import pytest

from model.batching import Scheduler
from model.checkpoint import DEFAULT_CHECKPOINT
from model.decoding.cache_lm import CacheLM
from model.decoding.candidates import CandidateRules
from model.decoding.context import History
from model.decoding.next_token import WIDTH, NextToken
from model.decoding.prefix_cache import Prefix, PrefixTree
from model.errors import QueryError
from model.predictor import Predictor, open_model
from model.queries import LexiconEntry, PredictQuery, PredictResult
from research.toy_corpus import read_grammar, sentences
from tests.reference import cache_lm, next_word

# Probabilities below it are what rounding leaves.
LEAST = 1e-6
HISTORY = "Okonkwo met Ezinma in Umuofia. 若琳去了云南旅游。Okonkwo smiled."
LEXICON = (LexiconEntry("Lagos", 2.0), LexiconEntry("wordle"), LexiconEntry("若琳琳"))
# Ends of marks and words that decide about candidates, and Traditional Chinese.
ODD = (
    *("She said \"I don't kno", "the dogs’ tai", "e.g. thi", "lacuna.or", "Wait!!", "(see 12,00"),
    *("臺灣的學生們喜歡學習歷史和國語課程", "Hello wor", "1234567890123", "a" * 40, "qxz" * 30),
)


@pytest.fixture(scope="module")
def opened() -> tuple[Any, Any]:
    """The bundled checkpoint and its runtime."""
    return open_model(DEFAULT_CHECKPOINT)


def key_presses(count: int) -> Iterator[str]:
    """Yield texts as they grow key by key, in sentences of both languages in turn."""
    grammars = [sentences(read_grammar(language), 5) for language in ("zh", "en")]
    lines = (line for pair in zip(*grammars, strict=True) for line in pair)
    return islice((typed for line in lines for typed in accumulate(line)), count)


def cold_texts(count: int, seed: int) -> Iterator[str]:
    """Yield odd texts, and random ones of many scripts."""
    chance = random.Random(seed)
    ranges = ((32, 127), (0x80, 0x500), (0x4E00, 0x9FFF), (0x1F300, 0x1F6FF), (0x3000, 0x3040))
    yield from ODD
    for _ in range(count - len(ODD)):
        places = [chance.choice(ranges) for _ in range(chance.randrange(1, 30))]
        yield "".join([chr(chance.randrange(*each)) for each in places])


def queries(typed: int, cold: int) -> Iterator[PredictQuery]:
    """Yield queries; some want long lists, and some have words of their writer."""
    chance = random.Random(1)
    own = {"history": HISTORY, "lexicon": LEXICON, "block": ("the", "Umuofia")}
    for text in (*key_presses(typed), *cold_texts(cold, 2)):
        more: dict[str, Any] = own if chance.random() < 0.1 else {}
        yield PredictQuery(text, chance.choice((1, 5, 5, 5, 20, 100)), **more)


def expected(predictor: Predictor, query: PredictQuery) -> list[next_word.Shown]:
    """Return the candidates that the Python search finds."""
    history = History(query.history, "", query.lexicon, query.block)
    scheduler = Scheduler(predictor.runtime)
    scheduler.add(0, next_word.next_words(predictor._context, query, history))
    while not (finished := scheduler.step()):
        pass
    if isinstance(finished[0][1], Exception):
        raise finished[0][1]
    found: list[next_word.Shown] = finished[0][1]
    return found


def check(opened: tuple[Any, Any], asked: Sequence[PredictQuery]) -> None:
    """Compare both searches.

    Of long lists one candidate in a thousand may differ: a list of next tokens ends at a number,
    and rounding may decide which of two is the last one.
    """
    predictor, compared, different = Predictor(*opened), 0, 0
    for query in asked:
        (answer,) = predictor.run([query])
        if isinstance(answer, QueryError):  # a text that no search may see
            continue
        assert isinstance(answer, PredictResult)
        wanted = {
            (word, append, ended): prob
            for word, append, prob, ended in expected(predictor, query)
            if prob > LEAST
        }
        shown = {
            (each.word, each.append, each.ended): each.probability
            for each in answer.candidates
            if each.probability > LEAST
        }
        order = [wanted.get(each, 0.0) for each in shown]
        first = min(WIDTH, len(shown))
        np.testing.assert_allclose([*shown.values()][:first], order[:first], atol=1e-6)
        # Those whose difference is rounding may change places.
        assert all(later <= each + 1e-7 for each, later in pairwise(order[:first])), query
        different += len(wanted.keys() - shown.keys())
        different += sum(abs(wanted.get(each, 0.0) - prob) > 1e-6 for each, prob in shown.items())
        compared += len(shown)
    assert compared > len(asked)
    assert different <= compared / 1000


def test_both_searches_find_the_same(opened: tuple[Any, Any]) -> None:
    """The same candidates in the same order, and their probabilities within a millionth."""
    check(opened, list(queries(typed=120, cold=60)))


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_both_searches_find_the_same_in_many_texts(opened: tuple[Any, Any]) -> None:
    """The same, for 20,000 key presses and 2,000 cold texts."""
    check(opened, list(queries(typed=20_000, cold=2_000)))


def answers(
    opened: tuple[Any, Any], asked: Sequence[PredictQuery], size: int, cache_bytes: int = 1 << 26
) -> list[Any]:
    """Return the candidates of queries that run together, *size* at a time."""
    predictor = Predictor(*opened, cache_bytes=cache_bytes)
    batches = [asked[start : start + size] for start in range(0, len(asked), size)]
    found = [each for batch in batches for each in predictor.run(batch)]
    return [each.candidates if isinstance(each, PredictResult) else str(each) for each in found]


@pytest.mark.parametrize("count", [80, pytest.param(4_000, marks=pytest.mark.slow)])
def test_neighbours_and_cache_change_nothing(opened: tuple[Any, Any], count: int) -> None:
    """Alone, in batches of 7 and 40, shuffled, and with a cache of 64 kB the bits are the same."""
    asked = list(queries(typed=count, cold=count // 4))
    alone = answers(opened, asked, 1, cache_bytes=0)
    assert answers(opened, asked, 1) == alone
    assert answers(opened, asked, 7) == alone
    assert answers(opened, asked, 40, cache_bytes=1 << 16) == alone
    order = random.Random(3).sample(range(len(asked)), len(asked))
    shuffled = answers(opened, [asked[n] for n in order], 40)
    assert shuffled == [alone[n] for n in order]


@pytest.mark.parametrize("marginals", [False, True])
def test_both_cache_language_models_agree(marginals: bool) -> None:
    """Both change a distribution after the same contexts alike, and keep the same share of it."""
    chance = np.random.default_rng(4)
    background = chance.random(600).astype(np.float32)
    background[:290] = 0
    tokens = chance.integers(0, 600, 400)
    tokens[100:140] = tokens[200:240]  # a passage that returns
    probs = chance.random(600).astype(np.float32)
    probs /= probs.sum()
    own = CacheLM(tokens, background / background.sum(), marginals)
    other = cache_lm.CacheLM(tokens, background / background.sum(), marginals)
    for start in (0, 99, 105, 120, 397):
        context = tokens[start : start + 3].tolist()
        np.testing.assert_allclose(own.mix(probs, context), other.mix(probs, context), rtol=1e-6)
        assert own.kept(probs, context) == pytest.approx(other.kept(probs, context))
    assert own.mix(probs, []).sum() == pytest.approx(1)


def test_a_dropped_node_is_not_taken_for_another(opened: tuple[Any, Any]) -> None:
    """Nodes that follow each other in the same memory keep their own distributions."""
    context = Predictor(*opened)._context
    size, state = context.tokenizer.size, context.initial["forward"]
    prefix = Prefix("", "", 0, PrefixTree(size, state, ()), np.zeros(9, dtype=np.uint16))
    next_token = NextToken(context, prefix)
    for token in range(40):
        probs = np.zeros(size, dtype=np.float32)
        probs[token] = 1
        assert next_token.probs(PrefixTree(size, state, (), probs).root).argmax() == token


class ShortRuntime:
    """A runtime that returns one row too few."""

    def __init__(self, runtime: Any) -> None:
        self._runtime = runtime
        self.sizes, self.head_rows = runtime.sizes, runtime.head_rows

    def run_tower(self, *inputs: Any) -> Any:
        """Run all rows."""
        return self._runtime.run_tower(*inputs)

    def score(self, *inputs: Any) -> Any:
        """Leave out the last row."""
        return self._runtime.score(*inputs)[:-1]


def test_rows_that_are_not_there_are_not_read(opened: tuple[Any, Any]) -> None:
    """A query fails if the runtime returns fewer rows than it was given."""
    scheduler = Scheduler(ShortRuntime(opened[1]))  # type: ignore[arg-type]
    scheduler.add(0, Predictor(*opened).start(PredictQuery("She is readi")))
    while not (finished := scheduler.step()):
        pass
    assert isinstance(finished[0][1], ValueError)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_error_of_a_decision_ends_a_query(
    opened: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    """An error while the search asks about a word reaches the caller."""

    def fail(*_: Any) -> bool:
        raise error

    monkeypatch.setattr(CandidateRules, "allow", fail)
    with pytest.raises(error):
        Predictor(*opened).run([PredictQuery("(Hello wor", 20)])


def test_a_query_leaves_no_cycle(opened: tuple[Any, Any]) -> None:
    """Searches are freed with their queries, without the garbage collector."""
    predictor, scheduler = Predictor(*opened, cache_bytes=0), Scheduler(opened[1])
    gc.collect()
    gc.disable()
    try:
        predictor.run(list(queries(typed=20, cold=20)))
        scheduler.add(0, predictor.start(PredictQuery("She was very tir", corrections=2)))
        scheduler.step()
        scheduler.cancel(0)
        assert not [each for each in gc.get_objects() if type(each) in (NextToken, PrefixTree)]
    finally:
        gc.enable()
