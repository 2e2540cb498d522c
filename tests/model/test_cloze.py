"""Filling blanks: the decoder against brute force over tiny vocabularies, and its promises."""

from collections import defaultdict
from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.config import WORD, Calibration
from model.decoding.blank_words import CHARACTER_REPETITION, NEAR_REPETITION
from model.decoding.cloze import PRIOR_SHARE
from model.queries import Blank, ClozeQuery, ClozeResult, JointFilling, LexiconEntry
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
def test_brute_force_over_all_spans_agrees(
    monkeypatch: pytest.MonkeyPatch, text: str, right: list[int] | None, seed: int
) -> None:
    """Every word has the exact probability of the spans that spell it and fit; spans sum to 1."""
    monkeypatch.setattr("model.decoding.cloze.RESCORED", 100)
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
    """P = M softmax(s / τ), s = log P_gap + λ1 log P_F + λ2 log P_B, for the first words."""
    monkeypatch.setattr("model.decoding.cloze.RESCORED", 8)
    calibration = Calibration(
        cloze_temperature={"zh": 1.0, "en": 2.0}, forward_weight=0.7, backward_weight=0.3
    )
    runtime = TableRuntime(TOKENIZER, ids("store ", "park ", "go ", "to ", "the ", "."))
    left, right = ids("go ", "to "), ids("the ", ".")
    found = probs("go to ____ the .", calibration, runtime=runtime, top_k=100)
    spans = {word: TOKENIZER.encode(f"{word} ") for word in found}
    expected = {word: gap_prob(runtime, left, span, right) for word, span in spans.items()}
    scores = {}
    for word in sorted(expected, key=lambda word: -expected[word])[:8]:
        span = spans[word]
        forward = chain(runtime, "forward", [START, *left], span + right)
        mirrored = [*reversed(span), *reversed(left)]
        backward = chain(runtime, "backward", [END, *reversed(right)], mirrored)
        scores[word] = np.exp((np.log(expected[word]) + 0.7 * forward + 0.3 * backward) / 2.0)
    total = sum(expected[word] for word in scores)
    assert len(found) > len(scores)
    expected |= {word: total * share for word, share in normalised(scores).items()}
    assert found == approx(expected)


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


@pytest.mark.parametrize(
    ("choices", "are_words"), [(["park", "reopen", "store"], True), (["park", "the store"], False)]
)
def test_choices_are_exact_and_normalised(choices: list[str], are_words: bool) -> None:
    """All come back, falling, by P_gap if all are words, else by P_F and how common they are."""
    runtime = TableRuntime(TOKENIZER, seed=6)
    left = ids("go ", "to ")

    def expected(right: list[int] | None, endings: Sequence[str]) -> Any:
        shares = {}
        for word in choices:
            spans = [TOKENIZER.encode(word + end) for end in endings]
            if are_words:
                shares[word] = sum(gap_prob(runtime, left, span, right) for span in spans)
                continue
            lines = [span + (right or []) for span in spans]
            fits = [np.exp(chain(runtime, "forward", [START, *left], line)) for line in lines]
            likelier = spans[int(np.argmax(fits))]
            prior = np.exp(chain(runtime, "forward", [START], likelier))
            shares[word] = sum(fits) / prior**PRIOR_SHARE
        return approx(normalised(shares))

    found = probs("go to ____.", runtime=runtime, choices=choices, top_k=1)
    assert found == expected(ids("."), [""])
    assert list(found.values()) == sorted(found.values(), reverse=True)
    # At the end of a text, spellings with and without a space count.
    found = probs("go to ____", runtime=runtime, choices=choices)
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


@pytest.mark.parametrize("seed", range(6))
def test_the_best_fillings_of_all_blanks_agree_with_brute_force(seed: int) -> None:
    """All pairs compete, with ``<blank>`` for the second; each blank is ranked given the best."""
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
    ranked = sorted(joint, key=lambda pair: -joint[pair])
    result = fill("go to ____ ____.", runtime=runtime, choices=choices, fillings=3)
    assert result.fillings is not None
    assert [each.words for each in result.fillings] == ranked[:3]
    assert {each.words: each.probability for each in result.fillings} == approx(
        {pair: joint[pair] for pair in ranked[:3]}
    )
    assert result.filled == result.fillings[0].filled == "go to {} {}.".format(*ranked[0])
    given = (
        shares(left, choices[0], " ", [*ids(ranked[0][1]), *stop]),
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
