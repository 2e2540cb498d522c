"""Filling blanks: the decoder against brute force over tiny vocabularies, and its promises."""

from collections import defaultdict
from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.config import Calibration
from model.tokenizer import START
from tests.fakes import TableRuntime
from tests.model.cloze_tables import (
    EVERYTHING,
    TOKENIZER,
    approx,
    chain,
    fill,
    gap_prob,
    ids,
    normalised,
    probs,
    probs_of,
    run,
)

# ------------------------------------------------------------------------------------ one blank


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize(
    ("text", "right"), [("go to ____ the .", ids("the ", ".")), ("go to ____", None)]
)
def test_brute_force_over_all_spans_agrees(
    monkeypatch: pytest.MonkeyPatch, text: str, right: list[int] | None, seed: int
) -> None:
    """Every word has the exact probability of the spans that spell it and fit; spans sum to 1."""
    monkeypatch.setattr("model.decoding.cloze.SEARCHED", 100)
    monkeypatch.setattr("model.decoding.cloze.KEPT", 200)
    support = ids("store", "store ")
    runtime = TableRuntime(TOKENIZER, support, seed=seed)
    left, expected, total = ids("go ", "to "), defaultdict[str, float](float), 0.0
    for length in range(1, 7):
        for span in product(support, repeat=length):
            prob = gap_prob(runtime, left, span, right)
            total += prob
            spelled = TOKENIZER.decode(span)
            if right is None or spelled.endswith(" "):
                expected[spelled.strip()] += prob
    assert probs(text, runtime=runtime, top_k=100) == approx(expected)
    longer = product(support, repeat=7)
    total += sum(gap_prob(runtime, left, span, right, closed=False) for span in longer)
    assert total == pytest.approx(1)


def test_rescoring_follows_its_formula(monkeypatch: pytest.MonkeyPatch) -> None:
    """P = M softmax(s / τ), s = log P_gap + λ log P(word, right | left), for the first words.

    After the first token, the right side is as probable for the worst of them as for the others.
    """
    monkeypatch.setattr("model.decoding.cloze.RESCORED", 3)
    monkeypatch.setattr("model.decoding.span_search.EXTENDED", 2)
    calibration = Calibration(
        cloze_temperature={"zh": 1.0, "en": 2.0}, chain_weight={"zh": 1.0, "en": 0.7}
    )
    runtime = TableRuntime(TOKENIZER, ids("store ", "park ", "go ", "to ", "the ", ".", ","))
    left, right = [START, *ids("go ", "to ")], ids("the ", ".", ",")
    found = probs("go to ____ the .,,", calibration, runtime=runtime, top_k=100)
    spans = {word: TOKENIZER.encode(f"{word} ") for word in found}
    expected = {word: gap_prob(runtime, left[1:], span, right) for word, span in spans.items()}
    words = sorted(expected, key=lambda word: -expected[word])[:3]
    chains = {word: chain(runtime, "forward", left, spans[word] + right[:1]) for word in words}
    best = sorted(words, key=lambda word: -np.log(expected[word]) - 0.7 * chains[word])[:2]
    more = {
        word: chain(runtime, "forward", left, spans[word] + right) - chains[word] for word in best
    }
    mean = sum(more.values()) / 2
    scores = {
        word: expected[word] ** 0.5 * np.exp(0.35 * (chains[word] + more.get(word, mean)))
        for word in words
    }
    total = sum(expected[word] for word in scores)
    assert len(found) > len(scores)
    expected |= {word: total * share for word, share in normalised(scores).items()}
    assert found == approx(expected)


@pytest.mark.parametrize("exponent", [0.5, 2.0])
def test_coverage_is_raised_to_its_exponent(
    monkeypatch: pytest.MonkeyPatch, exponent: float
) -> None:
    """The first words sum to F, which becomes F^γ; the others share the rest."""
    monkeypatch.setattr("model.decoding.cloze.RESCORED", 16)
    raised = Calibration(cloze_coverage_exponent={"zh": 1.0, "en": exponent})
    plain, found = (probs("go to ____.", each, top_k=100) for each in (Calibration(), raised))
    ratios = {word: found[word] / prob for word, prob in plain.items()}
    first = [word for word, ratio in ratios.items() if (ratio > 1) == (exponent < 1)]
    assert len(first) == 16 < len(ratios)
    total = sum(plain[word] for word in first)
    expected = dict.fromkeys(ratios, (1 - total**exponent) / (1 - total))
    assert ratios == approx(expected | dict.fromkeys(first, total ** (exponent - 1)))


# -------------------------------------------------------------------------------------- choices


@pytest.mark.parametrize("choices", [["park", "reopen", "store"], ["park", "the store"]])
def test_choices_are_exact_and_normalised(choices: list[str]) -> None:
    """All come back, falling, by the chain over their right side and how common they are."""
    runtime, weight = TableRuntime(TOKENIZER, seed=6), 0.4
    left = [START, *ids("go ", "to ")]

    def score(span: list[int], right: list[int]) -> float:
        fit = chain(runtime, "forward", left, span + right)
        prior = chain(runtime, "forward", [START], span)
        if not TOKENIZER.decode(span).endswith(" "):  # an end follows
            prior += ends(span, [START])
            fit += 0.0 if right else ends(span, left)
        return float(np.exp(fit - weight * prior))

    def ends(span: list[int], before: list[int]) -> float:
        (row,) = runtime.score("next", run(runtime, "forward", before + span))
        return float(np.log(row[~TOKENIZER.continues_word].sum()))

    def expected(right: list[int], endings: Sequence[str]) -> Any:
        shares = {
            word: sum(score(TOKENIZER.encode(word + end), right) for end in endings)
            for word in choices
        }
        return approx(normalised(shares))

    calibration = Calibration(choice_prior_weight={"zh": 0.0, "en": weight})
    found = probs("go to ____.", calibration, runtime=runtime, choices=choices, top_k=1)
    assert found == expected(ids("."), [""])
    assert list(found.values()) == sorted(found.values(), reverse=True)
    # At the end of a text, spellings with and without a space count.
    found = probs("go to ____", calibration, runtime=runtime, choices=choices)
    assert found == expected([], ["", " "])


def test_choices_come_back_as_they_were_sent() -> None:
    """Spaces and another normal form change no score; the text gets the clean form."""
    plain = fill("go to the ____.", choices=["café", "park"])
    sent = fill("go to the ____.", choices=["  cafe\u0301 ", "park"])
    renamed = {"café": "  cafe\u0301 ", "park": "park"}
    expected = {renamed[word]: prob for word, prob in probs_of(plain.blanks[0]).items()}
    assert probs_of(sent.blanks[0]) == expected
    assert sent.filled == plain.filled


def test_choices_that_are_read_alike_are_alike() -> None:
    """Each of them comes back with the same probability; the others keep their proportions."""
    one = probs_of(fill("go to the ____.", choices=["café", "park", "the store"]).blanks[0])
    result = fill("go to the ____.", choices=["café", "park", "cafe\u0301", "the store"])
    two = probs_of(result.blanks[0])
    assert two["café"] == two["cafe\u0301"]
    assert sum(two.values()) == pytest.approx(sum(one.values()))
    assert two["park"] / two["the store"] == pytest.approx(one["park"] / one["the store"])
    assert two["café"] / two["park"] == pytest.approx(one["café"] / one["park"])
    listed = [each.probability for each in result.blanks[0].candidates]
    assert listed == sorted(listed, reverse=True)


@pytest.mark.parametrize("weight", [0.0, 0.7])
@pytest.mark.parametrize(
    ("setting", "change"),
    [
        ({"choice_temperature": {"zh": 1.0, "en": 2.5}}, lambda prob: prob ** (1 / 2.5)),
        ({"choice_uniform_mix": {"zh": 0.9, "en": 0.2}}, lambda prob: 0.8 * prob + 0.05),
        ({"cloze_temperature": {"zh": 1.0, "en": 7.0}}, lambda prob: prob),
        ({"cloze_coverage_exponent": {"zh": 2.0, "en": 2.0}}, lambda prob: prob),
        ({"chain_weight": {"zh": 2.0, "en": 2.0}}, lambda prob: prob),
    ],
)
def test_choices_have_settings_of_their_own(weight: float, setting: Any, change: Any) -> None:
    """Those of choices change no open blank, those of open blanks change no choice."""
    weights = {"zh": weight, "en": weight}
    plain, changed = (Calibration(choice_prior_weight=weights, **each) for each in ({}, setting))
    choices = ["park", "the store", "reopen", "new"]
    found = probs("go to ____.", plain, choices=choices)
    expected = normalised({word: change(prob) for word, prob in found.items()})
    assert probs("go to ____.", changed, choices=choices) == approx(expected)
    same = fill("go to ____.", changed) == fill("go to ____.", plain)
    assert same == ("choice" in str(setting))


@pytest.mark.parametrize(
    ("choices", "expected"),
    [(["云南", "买"], {"买": 1.0, "云南": 0.0}), (["云南", "我"], {"我": 0.5, "云南": 0.5})],
)
def test_impossible_choices_come_back(choices: list[str], expected: dict[str, float]) -> None:
    """An impossible choice has probability 0; if all are impossible, they share evenly."""
    assert probs("要去____买", choices=choices, table={"support": ids("买")}) == approx(expected)


# ----------------------------------------------------------------------------------- any network


def test_forward_only_network_rescores_its_own_proposals() -> None:
    """Proposals of the next head are weighed by how well the right side follows them."""
    support = ids("买", "我", "云南", "。")
    runtime = TableRuntime(TOKENIZER, support, architecture="forward", seed=10)
    left, right = [START, *ids("要去")], ids("。")
    words = ("买", "我", "云南")
    total = sum(np.exp(chain(runtime, "forward", left, ids(word))) for word in words)
    fits = {word: np.exp(chain(runtime, "forward", left, ids(word) + right)) for word in words}
    expected = {word: total * share for word, share in normalised(fits).items()}
    assert probs("要去____。", runtime=runtime) == approx(expected)


def test_forward_only_network_ends_words() -> None:
    """Its proposals are whole words, also of several tokens."""
    support = ids("re", "open", "store", "store ", "云南", "买", ",", "the ")
    table = {"support": support, "architecture": "forward", "spread": 0.1}
    found = probs("go to ____", table=table, top_k=30)
    assert {"store", "reopen", "云南"} <= found.keys()
    assert not {"store,", "云南买", "the store"} & found.keys()


@given(
    st.lists(
        st.sampled_from(["____", "[MASK]", " ", "\n", "go ", "the", "我", "。", "€", "x", " , "]),
        max_size=10,
    ),
    st.integers(1, 9),
    st.sampled_from(["two_towers", "forward"]),
)
@settings(max_examples=25, deadline=None)
def test_promises_hold_for_any_text(parts: list[str], top_k: int, architecture: str) -> None:
    """At most top_k words, falling, at most 1 in all; the rest stays, but for missing spaces."""
    calibration = Calibration()
    table = {"support": EVERYTHING, "spread": 0.5, "architecture": architecture}
    text = "".join([*parts, "<mask>"])
    result = fill(text, calibration, table=table, top_k=top_k, fillings=2)
    best = [*result.fillings[0].words] if result.fillings else []
    filled, position = "", 0
    for number, blank in enumerate(result.blanks):
        probabilities = [each.probability for each in blank.candidates]
        assert len(probabilities) <= top_k
        assert probabilities == sorted(probabilities, reverse=True)
        assert sum(probabilities) <= 1 + 1e-6
        for each in blank.candidates:
            assert each.word == each.word.strip() and any(map(str.isalnum, each.word))
        word = best[number] if best else text[blank.start : blank.end]
        filled += text[position : blank.start] + word
        position = blank.end
    assert result.filled.replace(" ", "") == (filled + text[position:]).replace(" ", "")
