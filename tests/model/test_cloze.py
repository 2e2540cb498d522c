"""Filling blanks: the decoder against brute force over tiny vocabularies, and its promises."""

from collections import defaultdict
from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.config import SPAN, WORD, Calibration
from model.queries import Blank, ClozeQuery, ClozeResult
from model.tokenizer import BLANK, END, END_OF_GAP, FIRST_BYTE, START
from tests.fakes import TableRuntime, answer, hand_tokenizer, table_predictor

TOKENS = (
    "go ", "to ", "the ", "store ", "store", "park ", "park", "new ", "re", "open", "open ", ".",
    " ", ",", "我", "要去", "云南", "买", "。", "新手机",
)  # fmt: skip
TOKENIZER = hand_tokenizer(TOKENS)
EVERYTHING = range(FIRST_BYTE, TOKENIZER.size)
PLAIN = Calibration(forward_weight=0.0)


def ids(*tokens: str) -> list[int]:
    """Return ids by surface."""
    return [TOKENIZER.surfaces.index(token) for token in tokens]


def fill(
    text: str,
    calibration: Calibration = PLAIN,
    *,
    runtime: TableRuntime | None = None,
    table: dict[str, Any] | None = None,
    **query: Any,
) -> ClozeResult:
    """Answer one query on a table, without the cache language model."""
    runtime = runtime or TableRuntime(TOKENIZER, **(table or {}))
    predictor = table_predictor(runtime, calibration, use_cache_lm=False)
    result: ClozeResult = answer(predictor, ClozeQuery(text, **query))
    return result


def probs_of(blank: Blank) -> dict[str, float]:
    """Return the probabilities of a blank's words."""
    return {each.word: each.probability for each in blank.candidates}


def probs(*arguments: Any, **options: Any) -> dict[str, float]:
    """Return the probabilities of the words of the only blank."""
    (blank,) = fill(*arguments, **options).blanks
    return probs_of(blank)


def approx(values: dict[str, Any]) -> Any:
    """Compare dictionaries of probabilities."""
    return pytest.approx({key: float(value) for key, value in values.items()}, rel=1e-4)


def normalised(values: dict[str, Any]) -> dict[str, float]:
    """Divide by the sum."""
    return {key: value / sum(values.values()) for key, value in values.items()}


def run(runtime: TableRuntime, tower: Any, tokens: Sequence[int]) -> Any:
    """Return the state after tokens, which is also the output."""
    start = np.zeros((1, 2), dtype=np.float32)
    return runtime.run_tower(tower, start, np.array([tokens]), np.array([len(tokens)]))[0]


def gap_prob(
    runtime: TableRuntime,
    left: list[int],
    span: Sequence[int],
    right: list[int] | None,
    kind: int = WORD,
    *,
    closed: bool = True,
) -> float:
    """Return P(span | left, right), token by token; right is None if unknown.

    Not *closed*: the probability of all spans that begin so.
    """
    log_prob = 0.0
    backward = run(runtime, "backward", [END, *reversed(right or [])])
    for position, token in enumerate((*span, END_OF_GAP) if closed else span):
        forward = run(runtime, "forward", [START, *left, *span[:position]])
        known, positions, kinds = [right is not None], [position], [kind]
        (row,) = runtime.score(
            "gap", forward, backward, np.array(known), np.array(positions), np.array(kinds)
        )
        log_prob += float(row[token])
    return float(np.exp(log_prob))


def chain(runtime: TableRuntime, tower: Any, before: list[int], tokens: list[int]) -> float:
    """Return log P of *tokens*, one after the other, by the tower's own head."""
    head: Any = "next" if tower == "forward" else "previous"
    rows = [
        runtime.score(head, run(runtime, tower, before + tokens[:n]))[0] for n in range(len(tokens))
    ]
    return float(sum(row[token] for row, token in zip(rows, tokens, strict=True)))


# ------------------------------------------------------------------------------------ one blank


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize(
    ("text", "right"), [("go to ____ the .", ids("the ", ".")), ("go to ____", None)]
)
def test_brute_force_over_all_spans_agrees(text: str, right: list[int] | None, seed: int) -> None:
    """Every word has the exact probability of the spans that spell it and fit; spans sum to 1."""
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
    """P = M softmax(s / τ), s = log P_gap + λ1 log P_F + λ2 log P_B."""
    monkeypatch.setattr("model.decoding.cloze.RESCORED", 8)
    calibration = Calibration(
        cloze_temperature={"zh": 1.0, "en": 2.0}, forward_weight=0.7, backward_weight=0.3
    )
    runtime = TableRuntime(TOKENIZER, ids("store ", "park ", "go ", "to ", "the ", "."))
    left, right = ids("go ", "to "), ids("the ", ".")
    found = probs("go to ____ the .", calibration, runtime=runtime, top_k=8)
    assert len(found) == 8
    gap_probs, scores = {}, {}
    for word in found:
        span = TOKENIZER.encode(f"{word} ")
        gap_probs[word] = gap_prob(runtime, left, span, right)
        forward = chain(runtime, "forward", [START, *left], span + right)
        mirrored = [*reversed(span), *reversed(left)]
        backward = chain(runtime, "backward", [END, *reversed(right)], mirrored)
        scores[word] = np.exp((np.log(gap_probs[word]) + 0.7 * forward + 0.3 * backward) / 2.0)
    total = sum(gap_probs.values())
    assert found == approx({word: total * share for word, share in normalised(scores).items()})


@pytest.mark.parametrize("exponent", [0.5, 2.0])
def test_coverage_is_raised_to_its_exponent(exponent: float) -> None:
    """The first 16 words sum to F, which becomes F^γ; the others share the rest."""
    raised = Calibration(cloze_coverage_exponent={"zh": 1.0, "en": exponent})
    plain, found = (probs("go to ____.", each, top_k=100) for each in (Calibration(), raised))
    ratios = {word: found[word] / prob for word, prob in plain.items()}
    first = [word for word, ratio in ratios.items() if (ratio > 1) == (exponent < 1)]
    assert len(first) == 16 < len(ratios)
    total = sum(plain[word] for word in first)
    expected = dict.fromkeys(ratios, (1 - total**exponent) / (1 - total))
    assert ratios == approx(expected | dict.fromkeys(first, total ** (exponent - 1)))


# -------------------------------------------------------------------------------------- choices


def test_choices_are_exact_and_normalised() -> None:
    """Every choice comes back, falling, with its exact share; phrases are scored as spans."""
    runtime = TableRuntime(TOKENIZER, seed=6)
    choices = {"park": WORD, "the store": SPAN, "reopen": WORD, "new new park": SPAN}

    def expected(right: list[int] | None, endings: Sequence[str]) -> Any:
        shares = {
            word: sum(
                gap_prob(runtime, ids("go ", "to "), TOKENIZER.encode(word + end), right, kind)
                for end in endings
            )
            for word, kind in choices.items()
        }
        return approx(normalised(shares))

    found = probs("go to ____.", runtime=runtime, choices=list(choices), top_k=1)
    assert found == expected(ids("."), [""])
    assert list(found.values()) == sorted(found.values(), reverse=True)
    # At the end of a text, spellings with and without a space count.
    found = probs("go to ____", runtime=runtime, choices=list(choices))
    assert found == expected(None, ["", " "])


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
    ],
)
def test_choices_have_settings_of_their_own(weight: float, setting: Any, change: Any) -> None:
    """Those of choices change no open blank, those of open blanks change no choice."""
    plain, changed = (Calibration(forward_weight=weight, **each) for each in ({}, setting))
    choices = ["park", "the store", "reopen", "new"]
    found = probs("go to ____.", plain, choices=choices)
    expected = normalised({word: change(prob) for word, prob in found.items()})
    assert probs("go to ____.", changed, choices=choices) == approx(expected)
    same = fill("go to ____.", changed) == fill("go to ____.", plain)
    assert same == ("choice" in str(setting))


def test_choices_beyond_those_rescored_have_the_same_temperature(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With more choices than are rescored, the scores of the others are divided by it, too."""
    monkeypatch.setattr("model.decoding.cloze.RESCORED_CHOICES", 1)
    choices, table = ["park", "store", "reopen", "open"], {"spread": 0.5}
    calibrations = [Calibration(choice_temperature={"zh": 1.0, "en": t}) for t in (1.0, 3.0)]
    plain, found = (
        probs("go to ____.", each, choices=choices, table=table) for each in calibrations
    )
    one, other = sorted(plain, key=lambda word: -plain[word])[-2:]
    assert found[one] / found[other] == pytest.approx((plain[one] / plain[other]) ** (1 / 3))


@pytest.mark.parametrize(
    ("choices", "expected"),
    [(["云南", "买"], {"买": 1.0, "云南": 0.0}), (["云南", "我"], {"我": 0.5, "云南": 0.5})],
)
def test_impossible_choices_come_back(choices: list[str], expected: dict[str, float]) -> None:
    """An impossible choice has probability 0; if all are impossible, they share evenly."""
    assert probs("要去____。", choices=choices, table={"support": ids("买")}) == approx(expected)


# -------------------------------------------------------------------------------- several blanks


@pytest.mark.parametrize("seed", range(4))
def test_several_blanks_are_filled_jointly_and_then_swept(seed: int) -> None:
    """All pairs compete, with ``<blank>`` for the second; then each blank sees the other filled."""
    runtime = TableRuntime(TOKENIZER, seed=seed)
    choices = ["park", "store"], ["store", "park"]
    left, stop = ids("go ", "to "), ids(".")

    def shares(before: list[int], words: list[str], end: str, right: list[int]) -> dict[str, float]:
        return normalised(
            {word: gap_prob(runtime, before, ids(word + end), right) for word in words}
        )

    blind = shares(left, choices[0], " ", [BLANK, *stop])
    joint = {
        (one, two): blind[one] * share
        for one in choices[0]
        for two, share in shares([*left, *ids(f"{one} ")], choices[1], "", stop).items()
    }
    _, best = max(joint, key=lambda pair: joint[pair])
    first = shares(left, choices[0], " ", [*ids(best), *stop])
    winner = max(first, key=lambda word: first[word])
    second = shares([*left, *ids(f"{winner} ")], choices[1], "", stop)
    result = fill("go to ____ ____.", runtime=runtime, choices=choices)
    assert [probs_of(blank) for blank in result.blanks] == [approx(first), approx(second)]


def test_a_blank_that_nothing_fits_stays() -> None:
    """Without a possible word there are no candidates; the blank stays, and is read as one."""
    runtime = TableRuntime(TOKENIZER, ids("store "))
    result = fill("go ____, ____ the .", runtime=runtime, top_k=1)
    assert result.filled == "go ____, store the ."
    left = [*ids("go "), BLANK, *TOKENIZER.encode(", ")]
    expected = {"store": gap_prob(runtime, left, ids("store "), ids("the ", "."))}
    assert [probs_of(blank) for blank in result.blanks] == [{}, approx(expected)]


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
    calibration = Calibration(forward_weight=0.5, backward_weight=0.5)
    table = {"support": EVERYTHING, "spread": 0.5, "architecture": architecture}
    text = "".join([*parts, "<mask>"])
    result = fill(text, calibration, table=table, top_k=top_k)
    filled, position = "", 0
    for blank in result.blanks:
        probabilities = [each.probability for each in blank.candidates]
        assert len(probabilities) <= top_k
        assert probabilities == sorted(probabilities, reverse=True)
        assert sum(probabilities) <= 1 + 1e-6
        for each in blank.candidates:
            assert each.word == each.word.strip() and any(map(str.isalnum, each.word))
        word = blank.candidates[0].word if probabilities else text[blank.start : blank.end]
        filled += text[position : blank.start] + word
        position = blank.end
    assert result.filled.replace(" ", "") == (filled + text[position:]).replace(" ", "")
