"""Filling several blanks together, repeated words, and words of the writer."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.config import Calibration
from model.decoding.blank_words import CHARACTER_REPETITION, NEAR_REPETITION
from model.queries import JointFilling, LexiconEntry
from model.tokenizer import BLANK, START
from tests.fakes import TableRuntime
from tests.model.cloze_tables import (
    TOKENIZER,
    approx,
    chain,
    fill,
    gap_prob,
    ids,
    normalised,
    probs,
    probs_of,
)

# -------------------------------------------------------------------------------- several blanks


@pytest.mark.parametrize("seed", range(6))
def test_the_best_fillings_of_all_blanks_agree_with_brute_force(seed: int) -> None:
    """All pairs compete; the first is read up to the second; each is ranked given the best."""
    runtime = TableRuntime(TOKENIZER, seed=seed)
    choices = ["park", "store"], ["store", "park"]
    left, stop = ids("go ", "to "), ids(".")

    def shares(before: list[int], words: list[str], end: str, right: list[int]) -> dict[str, float]:
        lines = {word: ids(word + end) + right for word in words}
        return normalised(
            {
                word: np.exp(chain(runtime, "forward", [START, *before], line))
                for word, line in lines.items()
            }
        )

    first = shares(left, choices[0], " ", [])
    joint = {
        (one, two): first[one] * share
        for one in choices[0]
        for two, share in shares([*left, *ids(f"{one} ")], choices[1], "", stop).items()
    }
    ranked = sorted(joint, key=lambda pair: -joint[pair])
    result = fill("go to ____ ____.", runtime=runtime, choices=choices, fillings=3)
    assert result.fillings is not None
    assert [each.words for each in result.fillings] == ranked[:3]
    assert {each.words: each.probability for each in result.fillings} == approx(
        {pair: joint[pair] for pair in ranked[:3]}
    )
    assert result.filled == result.fillings[0].filled == "go to {} {}.".format(*ranked[0])
    given = (
        first,
        shares([*left, *ids(f"{ranked[0][0]} ")], choices[1], "", stop),
    )
    for blank, word, expected in zip(result.blanks, ranked[0], given, strict=True):
        found = {each.word: each.probability for each in blank.candidates}
        assert found == pytest.approx(expected, rel=1e-4) and word in found


@given(st.integers(0, 50), st.integers(2, 16), st.sampled_from(["two_towers", "forward"]))
@settings(max_examples=20, deadline=None)
def test_more_fillings_change_nothing_else(seed: int, count: int, architecture: str) -> None:
    """They begin with those of a shorter list, fall, and sum to at most 1; the first is filled."""
    table = {"seed": seed, "architecture": architecture, "spread": 1.0}
    runtime, text = TableRuntime(TOKENIZER, **table), "go ____, ____ the ____."
    plain, few, many = (
        fill(text, Calibration(), runtime=runtime, fillings=n) for n in (1, 2, count)
    )
    assert plain.fillings is None and few.fillings is not None and many.fillings is not None
    assert plain.blanks == many.blanks
    assert many.fillings[:2] == few.fillings
    assert few.fillings[0].filled == plain.filled
    probabilities = [each.probability for each in many.fillings]
    assert probabilities == sorted(probabilities, reverse=True) and sum(probabilities) <= 1 + 1e-6
    assert len({each.words for each in many.fillings}) == len(many.fillings)


@pytest.mark.parametrize("architecture", ["two_towers", "forward"])
@pytest.mark.parametrize("text", ["go to ____.", "____ the store, ____!", "我____云南"])
def test_candidates_do_not_depend_on_their_number(text: str, architecture: str) -> None:
    """A longer list begins with a shorter one, and fills in the same words."""
    table = {"seed": 3, "architecture": architecture}
    longest = fill(text, Calibration(), table=table, top_k=100)
    for top_k in (1, 3, 10, 30):
        result = fill(text, Calibration(), table=table, top_k=top_k)
        assert result.filled == longest.filled
        assert [each.candidates for each in result.blanks] == [
            each.candidates[:top_k] for each in longest.blanks
        ]


def test_one_blank_has_its_candidates_as_fillings() -> None:
    """Each filling is the text with one candidate."""
    result = fill("go to ____.", fillings=4)
    expected = [
        JointFilling(f"go to {each.word}.", (each.word,), each.probability)
        for each in result.blanks[0].candidates[:4]
    ]
    assert list(result.fillings or ()) == expected


# ----------------------------------------------------------------------------- repeated, own words


@pytest.mark.parametrize(
    ("text", "far", "word", "other", "loss"),
    [
        ("go to ____ store.", "go to ____ to the new store.", "store", "park", NEAR_REPETITION),
        ("云南____。", "云南要去新手机____。", "云南", "我", NEAR_REPETITION),
        ("____、买。", "____、新手机我买。", "买", "我", CHARACTER_REPETITION),
    ],
)
def test_a_word_next_to_a_blank_is_less_probable_there(
    monkeypatch: pytest.MonkeyPatch, text: str, far: str, word: str, other: str, loss: float
) -> None:
    """It loses some nats; a function word, or one further away, loses nothing."""

    def ratio(text: str, common: float) -> float:
        monkeypatch.setattr("model.decoding.blank_words.COMMON", common)
        found = probs(text, table={"spread": 0.3}, top_k=100)
        return found[word] / found[other]

    assert ratio(text, 1.0) == pytest.approx(ratio(text, 0.0) * np.exp(-loss), rel=1e-4)
    assert ratio(far, 1.0) == pytest.approx(ratio(far, 0.0))


def test_a_word_seldom_fills_two_blanks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The words of the other blanks lose most."""
    monkeypatch.setattr("model.decoding.blank_words.COMMON", 1.0)
    text = "to the ____, re the ____."
    for seed in range(8):
        table = {"support": ids("store", "park"), "spread": 0.1, "seed": seed}
        result = fill(text, table=table, fillings=16)
        assert result.fillings is not None
        assert len(set(result.fillings[0].words)) == 2


@pytest.mark.parametrize("architecture", ["two_towers", "forward"])
def test_blocked_words_never_come(architecture: str) -> None:
    """In any case, in candidates and in joint fillings; the others stay."""
    table = {"architecture": architecture, "seed": 2}
    options: dict[str, Any] = {"table": table, "top_k": 100, "fillings": 16}
    text = "go ____, ____."
    found = fill(text, block=("STORE", "云南", "买"), **options)
    words = {word for blank in found.blanks for word in probs_of(blank)}
    words |= {word for each in found.fillings or () for word in each.words}
    assert {"park", "新手机"} <= words
    assert not {"store", "云南", "买"} & words


@pytest.mark.parametrize("architecture", ["two_towers", "forward"])
def test_words_of_a_lexicon_are_offered_as_written(architecture: str) -> None:
    """Also those that the network cannot find; a higher weight is a higher probability."""
    options: dict[str, Any] = {"table": {"architecture": architecture, "spread": 0.2}, "top_k": 100}
    own = [
        LexiconEntry("Storey"),
        LexiconEntry("parkour", 50.0),
        LexiconEntry("新云南"),
        LexiconEntry("park"),
    ]
    plain = probs("go to the ____.", **options)
    found = probs("go to the ____.", lexicon=tuple(own), **options)
    assert {"Storey", "parkour", "新云南"} <= found.keys() - plain.keys()
    assert found["parkour"] > found["Storey"]
    assert found["park"] / found["store"] > plain["park"] / plain["store"]
    assert sum(found.values()) <= 1 + 1e-6
    assert "Storey" not in probs(
        "go to the ____.", lexicon=tuple(own), block=("storey",), **options
    )
    swapped = (LexiconEntry("Storey", 50.0), *own[1:])
    assert probs("go to the ____.", lexicon=swapped, **options)["Storey"] > found["Storey"]


def test_a_blank_that_nothing_fits_stays() -> None:
    """Without a possible word the list is empty; the blank stays, and is read as one."""
    runtime = TableRuntime(TOKENIZER, ids("store "))
    result = fill("go ____, ____ the .", runtime=runtime, top_k=1)
    assert result.filled == "go ____, store the ."
    left = [*ids("go "), BLANK, *TOKENIZER.encode(", ")]
    expected = {"store": gap_prob(runtime, left, ids("store "), ids("the ", "."))}
    assert [probs_of(blank) for blank in result.blanks] == [{}, approx(expected)]
