"""What was read before is found again, by its owner only, and changes no answer."""

import sys
from collections.abc import Sequence
from itertools import accumulate

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.batching import Scheduler
from model.decoding.prefix_cache import OVERHEAD, Prefix, PrefixCache, PrefixNode
from model.decoding.token_index import TokenIndex
from model.predictor import Predictor
from model.queries import ClozeQuery, ClozeResult, PredictQuery, PredictResult
from tests.fakes import TableRuntime, fake_checkpoint, hand_tokenizer

TOKENIZER = hand_tokenizer(
    ("I ", "like ", "the", "the ", "theatre ", "t", "th", "he", "he ", "a", "s ", "re ", "cat", "cat ", ",", ", ", " ",
     "迟", "迟到", "到", "了", "上学", "。")
)  # fmt: skip
INDEX = TokenIndex(TOKENIZER)


def prefix(text: str, rows: int = 0) -> Prefix:
    """A prefix with a state of 100 floats and a tree of some distributions of 1,000."""
    root = PrefixNode(np.zeros(100, dtype=np.float32), ())
    found = Prefix("", text, len(text), root, np.zeros(0, dtype=np.uint16))
    for token in range(rows):
        found.tree.expand(
            root, token, np.zeros(0, dtype=np.float32), np.zeros(1000, dtype=np.float32)
        )
    return found


def reachable_bytes(cache: PrefixCache) -> int:
    """Bytes of all distributions and states that hang under the prefixes, each counted once."""
    seen: dict[int, int] = {}
    waiting = [prefix.tree.root for prefix in cache._prefixes.values()]
    while waiting:
        node = waiting.pop()
        if id(node) not in seen:
            seen[id(node)] = node.next_probs.nbytes
            for child in node.children.values():
                seen[id(child.state)] = child.state.nbytes
                waiting.append(child)
    return sum(seen.values())


def anywhere(text: str, position: int) -> bool:
    """Every position is a seam."""
    del text, position
    return True


def predictor(cache_bytes: int) -> Predictor:
    """A predictor on a table."""
    runtime = TableRuntime(TOKENIZER, spread=0.7)
    return Predictor(fake_checkpoint(TOKENIZER, runtime.sizes), runtime, cache_bytes=cache_bytes)


def type_on(
    asked: Predictor, texts: Sequence[str], tenant: str = ""
) -> tuple[list[PredictResult], list[int]]:
    """Answers to texts one after the other, and the tokens that the forward tower read for each."""
    answers, read = [], []
    for text in texts:
        scheduler = Scheduler(asked.runtime)
        scheduler.add(0, asked.start(PredictQuery(text, 5), tenant))
        finished: list[tuple[object, PredictResult]] = []
        while not finished:
            finished = scheduler.step()  # type: ignore[assignment]
        answers.append(finished[0][1])
        read.append(scheduler.rows["forward"])
    return answers, read


def test_longest_prefix_is_found() -> None:
    """Of two texts that begin alike the longer one is where reading goes on."""
    cache = PrefixCache(1 << 20)
    for text in ("go ", "go to "):
        cache.put(prefix(text))
    found = cache.find("", "go to the", anywhere)
    assert found is not None and found.text == "go to "
    assert cache.find("", "gone", anywhere) is None


def test_prefix_that_a_token_may_reach_over_is_not_used() -> None:
    """What was read up to a point inside a token of the longer text is no part of its encoding."""
    cache = PrefixCache(1 << 20)
    cache.put(prefix("the"))
    assert cache.find("", "theatre", INDEX.is_stable_boundary) is None
    assert cache.find("", "the迟", INDEX.is_stable_boundary) is not None
    assert cache.find("", "the", INDEX.is_stable_boundary) is not None  # its end is an end again


def test_other_texts_of_the_same_length_and_ending_are_not_mistaken() -> None:
    """An entry is compared as a whole."""
    cache = PrefixCache(1 << 20)
    cache.put(prefix("A" + "x" * 40))
    assert cache.find("", "B" + "x" * 41, anywhere) is None


def test_tenants_share_nothing() -> None:
    """What one tenant typed is found by that tenant alone, the control being that it is found by it."""
    asked = predictor(1 << 20)
    texts = ["I like the cat", "I like the cat "]
    first, _ = type_on(asked, texts, "a")
    again, read_again = type_on(asked, texts, "a")
    other, read_other = type_on(asked, texts, "b")
    assert [each.candidates for each in first] == [each.candidates for each in again]
    assert [each.candidates for each in first] == [each.candidates for each in other]
    assert read_again == [0, 0]
    assert read_other[0] > 0
    assert other[0].usage.cached_tokens == 0
    assert again[1].usage.cached_tokens == again[1].usage.tokens == 4


def test_least_recently_used_goes_first_and_trees_before_states() -> None:
    """Over its limit a cache drops distributions of old texts, later the texts themselves; it never grows beyond."""
    cache = PrefixCache(40_000)  # 30,000 bytes of trees: seven distributions
    kept = [prefix(f"text {number}", rows=2) for number in range(5)]
    for each in kept:
        cache.put(each)
        assert cache.bytes <= 40_000
    assert [bool(each.tree.root.children) for each in kept] == [False, False, True, True, True]
    assert len(cache) == 5
    for number in range(100):
        cache.find("", "text 0", anywhere)
        cache.put(prefix(f"more {number}"))
        assert cache.bytes <= 40_000
    assert len(cache) == 10_000 // (400 + OVERHEAD + sys.getsizeof("more 10"))
    assert cache.find("", "text 0", anywhere) is not None
    assert cache.find("", "text 1", anywhere) is None


def test_nothing_is_kept_without_memory() -> None:
    """A limit of 0 turns the cache off."""
    cache = PrefixCache(0)
    cache.put(prefix("text"))
    assert (len(cache), cache.bytes) == (0, 0)


@pytest.mark.parametrize(
    "text", ["I like the theatre, the cat", "上学迟到了。the cat上学迟到", "I\nlike\nthe  cat€s"]
)
def test_typing_gives_what_asking_afresh_gives(text: str) -> None:
    """Each keystroke's answer is bit for bit that of a predictor that keeps nothing; also when going back."""
    keystrokes = list(accumulate(text))
    keystrokes += keystrokes[::-3] + keystrokes[1::2]
    warm, _ = type_on(predictor(1 << 20), keystrokes)
    small, _ = type_on(predictor(3_000), keystrokes)
    fresh, _ = type_on(predictor(0), keystrokes)
    assert [each.candidates for each in warm] == [each.candidates for each in fresh]
    assert [each.candidates for each in small] == [each.candidates for each in fresh]
    assert [each.usage.tokens for each in warm] == [each.usage.tokens for each in fresh]
    assert all(each.usage.cached_tokens == 0 for each in fresh)


def test_long_text_costs_no_more_than_a_short_one() -> None:
    """Typing on at the end of thousands of characters reads as many tokens as at the start; so does a changed end."""
    asked = predictor(1 << 22)
    long = "I like the cat, " * 400
    (_,), (cold,) = type_on(asked, [long])
    _, typed = type_on(asked, list(accumulate("the cat", initial=long)))
    _, short = type_on(predictor(1 << 22), list(accumulate("the cat", initial="I like the cat, ")))
    assert cold > 1500
    assert sum(typed) <= sum(short)
    _, (elsewhere,) = type_on(asked, [long[:4000] + "the th"])
    assert elsewhere < 200


def test_everything_that_hangs_in_the_cache_is_counted() -> None:
    """Typing, going back, being cancelled half-way and long words without a seam leave nothing that nobody counts."""
    asked = predictor(60_000)
    keystrokes = list(accumulate("I like the theatre, the cat上学迟到了。迟到the s t he"))
    for text in [*keystrokes, *keystrokes[::-2], "the" * 300, "the" * 300 + "a", "thethe ,"]:
        for rounds in (1, 3, 1000):
            scheduler = Scheduler(asked.runtime)
            scheduler.add(0, asked.start(PredictQuery(text, 5)))
            for _ in range(rounds):
                if not scheduler.pending:
                    break
                for _, answer in scheduler.step():
                    assert isinstance(answer, PredictResult)
            scheduler.cancel(0)
            assert reachable_bytes(asked.cache) <= asked.cache.bytes <= 60_000


def test_word_of_thousands_of_letters_is_read_at_once() -> None:
    """Letters without a seam take few rounds, whatever their number."""
    asked = predictor(1 << 20)
    scheduler = Scheduler(asked.runtime)
    scheduler.add(0, asked.start(PredictQuery("the" * 3000, 5)))
    rounds = 0
    while scheduler.pending:
        scheduler.step()
        rounds += 1
    assert rounds < 100 + 3000 // 64


def test_answer_says_what_it_cost_and_where_its_text_stops() -> None:
    """Rows of the network are counted for each text, and a text that stops after a letter is told from others."""
    asked = predictor(1 << 20)
    texts = ["I like th", "I like the ", "I like the ", "上学", ""]
    answers, read = type_on(asked, texts)
    assert [each.inside_word for each in answers] == [True, False, False, False, False]
    assert answers[2].network_rows == read[2] == 0
    # A distribution for each token that was read to look beyond it, and for the cut itself.
    assert answers[0].network_rows > read[0] > 0


def test_cloze_reuses_its_left_side() -> None:
    """While what stands right of a blank changes, what stands left of it is not read again."""
    asked = predictor(1 << 20)
    left = "I like the cat, " * 10
    first, second = (
        asked.run([ClozeQuery(f"{left}____ {right}")])[0] for right in ("the cat", "cat")
    )
    (fresh,) = predictor(0).run([ClozeQuery(f"{left}____ cat")])
    assert (
        isinstance(first, ClozeResult)
        and isinstance(second, ClozeResult)
        and isinstance(fresh, ClozeResult)
    )
    assert first.usage.cached_tokens == 0
    assert second.usage.cached_tokens == 50
    assert (second.filled, second.blanks) == (fresh.filled, fresh.blanks)


@given(st.text(alphabet="the ,a迟到了上学\n€ca", max_size=40), st.data())
@settings(max_examples=100, deadline=None)
def test_tokens_are_cut_at_seams(text: str, data: st.DataObject) -> None:
    """Encoding apart what stands before and after any seam is encoding the whole."""
    whole = INDEX.encode(text)
    assert TOKENIZER.decode(whole) == text
    seams = [
        position for position in range(1, len(text)) if INDEX.is_stable_boundary(text, position)
    ]
    if seams:
        seam = data.draw(st.sampled_from(seams))
        assert INDEX.encode(text[:seam]) + INDEX.encode(text[seam:]) == whole
        assert INDEX.last_stable_boundary(text) == seams[-1]
    else:
        assert INDEX.last_stable_boundary(text) == 0
