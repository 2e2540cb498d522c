"""The prefix cache: found by their owner only, within its limit, and without effect on answers."""

import gc
import sys
from collections.abc import Sequence
from itertools import accumulate

import numpy as np
import pytest

from model.batching import Scheduler
from model.decoding.prefix_cache import OVERHEAD, Prefix, PrefixCache, PrefixTree
from model.decoding.token_index import TokenIndex
from model.predictor import Predictor
from model.queries import ClozeQuery, PredictQuery, PredictResult
from tests.fakes import TYPING as TOKENIZER
from tests.fakes import TableRuntime, answer, table_predictor

INDEX = TokenIndex(TOKENIZER)


def prefix(text: str, rows: int = 0) -> Prefix:
    """Return a prefix with a state of 100 numbers and a tree of *rows* distributions of 1,000."""
    state, probs = np.zeros(100, dtype=np.float32), np.zeros(1000, dtype=np.float32)
    tree = PrefixTree(len(probs), state, ())
    for token in range(rows):
        tree.add(tree.root, token, state, probs)
    return Prefix("", text, len(text), tree, np.zeros(0, dtype=np.uint16))


def reachable_bytes(cache: PrefixCache) -> int:
    """Count the bytes of all distributions and states in the trees."""
    total = 0
    waiting = [prefix.tree.root for prefix in cache._prefixes.values()]
    while waiting:
        node = waiting.pop()
        total += 0 if node.next_probs is None else node.next_probs.nbytes
        children = [child for token in range(TOKENIZER.size) if (child := node.child(token))]
        total += sum(child.state.nbytes for child in children)
        waiting += children
    return total


def predictor(cache_bytes: int = 1 << 22) -> Predictor:
    """Return a predictor on a table."""
    return table_predictor(TableRuntime(TOKENIZER, spread=0.7), cache_bytes=cache_bytes)


def type_on(
    asked: Predictor, texts: Sequence[str], history: str = ""
) -> tuple[list[PredictResult], list[int]]:
    """Return the answers to texts, in turn, and the tokens that the tower ran for each."""
    answers, tokens, calls = [], [], list[tuple[str, int, int]]()
    scheduler = Scheduler(asked.runtime, lambda *call: calls.append(call))
    for text in texts:
        calls.clear()
        scheduler.add(0, asked.start(PredictQuery(text, 5, history)))
        while scheduler.pending:
            finished = scheduler.step()
        answers.append(finished[0][1])
        tokens.append(sum(work for kind, _, work in calls if kind == "forward"))
    return answers, tokens


@pytest.mark.parametrize(
    ("text", "found"),
    [("I like the cat", "I like "), ("I", None), ("到x" + "了" * 41, None),
     ("theatre", None), ("the迟", "the"), ("the", "the")],
)  # fmt: skip
def test_the_longest_prefix_at_a_stable_boundary_is_found(text: str, found: str | None) -> None:
    """Entries are compared as a whole, and none is used that ends inside a token of the text."""
    cache = PrefixCache(1 << 20)
    for each in ("I ", "I like ", "the", "了" * 42):
        cache.put(prefix(each))
    answer = cache.find("", text, INDEX.is_stable_boundary)
    assert (answer and answer.text) == found


def test_least_recently_used_goes_first_and_trees_before_states() -> None:
    """Beyond its limit a cache drops old trees, later the prefixes themselves."""
    cache = PrefixCache(40_000)  # 30,000 bytes of trees: six distributions and states
    kept = [prefix(f"{number}", rows=2) for number in range(5)]
    for each in kept:
        cache.put(each)
        assert cache.bytes <= 40_000
    assert [each.tree.root.child(0) is not None for each in kept] == [
        False,
        False,
        True,
        True,
        True,
    ]
    assert len(cache) == 5
    for number in range(100):
        cache.find("", "0", INDEX.is_stable_boundary)
        cache.put(prefix(f"more {number}"))
        assert cache.bytes <= 40_000
    assert len(cache) == 10_000 // (400 + OVERHEAD + sys.getsizeof("more 10"))
    assert cache.get("", "0") is kept[0]
    assert cache.get("", "1") is None


@pytest.mark.parametrize("history", ["", "the cat迟到\n" * 9])
@pytest.mark.parametrize(
    "text", ["I like the theatre, the cat", "上学迟到了。the cat上学迟到", "I\nlike\nthe  cat€s"]
)
def test_typing_gives_the_answers_of_a_fresh_start(text: str, history: str) -> None:
    """Every key press gets the bits that it gets without a cache, also after going back."""
    keystrokes = list(accumulate(text))
    keystrokes += keystrokes[::-3] + keystrokes[1::2]
    warm, small, fresh = (
        type_on(predictor(limit), keystrokes, history)[0] for limit in (1 << 20, 3_000, 0)
    )
    assert [each.candidates for each in warm] == [each.candidates for each in fresh]
    assert [each.candidates for each in small] == [each.candidates for each in fresh]
    assert [each.usage.tokens for each in warm] == [each.usage.tokens for each in fresh]
    assert all(each.usage.cached_tokens == 0 for each in fresh)


def test_a_long_text_costs_no_more_than_a_short_one() -> None:
    """Typing at the end of a long text runs as few tokens as at its start; so does a new end."""
    asked, long = predictor(), "I like the cat, " * 400
    _, (cold,) = type_on(asked, [long])
    _, typed = type_on(asked, list(accumulate("the cat", initial=long)))
    _, short = type_on(predictor(), list(accumulate("the cat", initial="I like the cat, ")))
    assert cold > 1500
    assert sum(typed) <= sum(short)
    _, (elsewhere,) = type_on(asked, [long[:4000] + "the th"])
    assert elsewhere < 200


def test_everything_in_the_cache_is_counted() -> None:
    """Typing, going back, cancelling and long words without a boundary leave nothing uncounted."""
    asked = predictor(60_000)
    keystrokes = list(accumulate("I like the theatre, the cat上学迟到了。迟到the s t he"))
    for text in [*keystrokes, *keystrokes[::-2], "the" * 300, "the" * 300 + "a", "thethe ,"]:
        for rounds in (1, 3, 1000):
            scheduler = Scheduler(asked.runtime)
            scheduler.add(0, asked.start(PredictQuery(text, 5)))
            while scheduler.pending and rounds:
                scheduler.step()
                rounds -= 1
            scheduler.cancel(0)
            assert reachable_bytes(asked.cache) <= asked.cache.bytes <= 60_000


def test_a_word_of_thousands_of_letters_takes_few_calls() -> None:
    """Letters without a stable boundary are run at once."""
    runtime = TableRuntime(TOKENIZER, spread=0.7)
    answer(table_predictor(runtime), PredictQuery("the" * 3000, 5))
    assert len(runtime.calls) < 200 + 3000 // 64


def test_an_answer_states_its_cost_and_where_its_text_stops() -> None:
    """Rows of the network are counted for each text; a text that stops after a letter is marked."""
    texts = ["I like th", "I like the ", "I like the ", "上学", ""]
    answers, tokens = type_on(predictor(), texts)
    assert [each.inside_word for each in answers] == [True, False, False, False, False]
    assert answers[2].network_rows == tokens[2] == 0
    assert answers[0].network_rows > tokens[0] > 0  # also distributions


def test_cloze_reuses_its_left_side() -> None:
    """The text left of a blank is not run again when the right side changes."""
    asked, left = predictor(), "I like the cat, " * 10
    first, second = (answer(asked, ClozeQuery(f"{left}____ {end}")) for end in ("the cat", "cat"))
    fresh = answer(predictor(0), ClozeQuery(f"{left}____ cat"))
    assert (first.usage.cached_tokens, second.usage.cached_tokens) == (0, 50)
    assert (second.filled, second.blanks) == (fresh.filled, fresh.blanks)


def test_trees_outlive_the_clean_up_of_decoders() -> None:
    """The garbage collector may close a decoder after it has called ``__del__`` of its trees."""
    asked = predictor(cache_bytes=8_000)
    type_on(asked, ["I like the "])
    scheduler = Scheduler(asked.runtime)
    for number, text in enumerate(("I like the c", "I like the t", "I like ")):
        scheduler.add(number, asked.start(PredictQuery(text)))
    scheduler.step()
    cycle: list[object] = [asked, scheduler]
    cycle.append(cycle)
    addresses = [each.tree.address for each in asked.cache._prefixes.values()]
    assert addresses and not any(map(gc.is_tracked, addresses))
    del asked, scheduler, cycle
    gc.collect()
