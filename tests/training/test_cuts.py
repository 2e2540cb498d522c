"""Cuts and half-width copies of lines."""

import random
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from training.data.cuts import choose_cuts, half_width

ENGLISH = "I went to the store, alone today"


def draw(text: str, tokens: set[str], cuts: int) -> Counter[tuple[int, ...]]:
    """Draw cuts of a line many times; count the draws with this number of cuts."""
    drawn = (choose_cuts(text, tokens, random.Random(seed)) for seed in range(2000))
    return Counter(each for each in drawn if len(each) == cuts)


def test_half_width_copies() -> None:
    """Punctuation of Chinese lines becomes half-width, the full stop only sometimes."""
    rng = random.Random(1)
    copies = {half_width("好，你呢？（笑）。", rng) for _ in range(50)}
    assert copies == {"好,你呢?(笑)。", "好,你呢?(笑)."}
    assert half_width("Well, you?", rng) is None
    assert half_width("没有标点", rng) is None


@given(
    text=st.text(alphabet=st.sampled_from("ab我们 。,'é"), max_size=40), seed=st.integers(0, 999)
)
def test_cuts_divide_the_line(text: str, seed: int) -> None:
    """Cuts ascend; two cuts have something between them, and one cut something on both sides."""
    cuts = choose_cuts(text, {"我们"}, random.Random(seed))
    assert len(cuts) <= (2 if len(text) >= 4 else 0)
    if len(cuts) == 2:
        assert 0 <= cuts[0] < cuts[1] <= len(text)
    elif cuts:
        assert 0 < cuts[0] < len(text)


def test_two_cuts_hold_whole_words_and_a_space() -> None:
    """Between two cuts are one to three words, with the space after the last one."""
    spans = Counter(ENGLISH[start:end] for start, end in draw(ENGLISH, set(), 2).elements())
    assert {"store", "went ", "to the ", "the store", "today"} <= set(spans)
    assert all(span.strip(" ") and not span.startswith(" ") for span in spans)
    words = Counter(len(span.split()) for span in spans.elements())
    assert words[1] > words[2] > words[3] > 0
    assert "store " not in spans


def test_chinese_cuts_prefer_tokens() -> None:
    """A Chinese gap is often a token, and has at most four characters."""
    text, tokens = "老师批评了我们所有人很难过啊", {"老师", "批评", "难过"}
    spans = [text[start:end] for start, end in draw(text, tokens, 2).elements()]
    assert {len(span) for span in spans} == {1, 2, 3, 4}
    by_chance = len(tokens) / (len(text) - 1) * 0.45
    assert sum(span in tokens for span in spans) / len(spans) > 2 * by_chance


def test_one_cut_is_at_a_word_start_or_inside_a_word() -> None:
    """A single cut is at any word start, sometimes inside a word, never before a space."""
    places = {place[0]: count for place, count in draw(ENGLISH, set(), 1).items()}
    starts = {index for index in range(1, len(ENGLISH)) if ENGLISH[index - 1] == " "}
    assert starts <= set(places)
    assert all(ENGLISH[place] not in " ," for place in places)
    inside = sum(count for place, count in places.items() if place not in starts)
    assert 0 < inside < sum(places.values()) / 2
