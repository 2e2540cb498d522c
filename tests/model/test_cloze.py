"""Filling blanks: against brute force over tiny vocabularies, and the promises of the contract."""

from itertools import product
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.config import SPAN, WORD, Calibration
from model.predictor import Predictor
from model.queries import Blank, ClozeQuery, ClozeResult
from model.runtime import Float32Array
from model.tokenizer import BLANK, END, END_OF_GAP, FIRST_BYTE, START, Tokenizer
from tests.fakes import TableRuntime, fake_checkpoint, hand_tokenizer

TOKENS = (
    "go ", "to ", "the ", "store ", "store", "park ", "park", "new ", "re", "open", "open ", ".", " ", ",",
    "我", "要去", "云南", "买", "。", "新手机",
)  # fmt: skip
PLAIN = Calibration(forward_weight=0.0)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    """A vocabulary of the tokens above."""
    return hand_tokenizer(TOKENS)


def ids(tokenizer: Tokenizer, *tokens: str) -> list[int]:
    """Ids of tokens by their surface."""
    return [tokenizer.surfaces.index(token) for token in tokens]


def setting(
    tokenizer: Tokenizer, calibration: Calibration = PLAIN, **table: Any
) -> tuple[Predictor, TableRuntime]:
    """A predictor and its table."""
    runtime = TableRuntime(tokenizer, **table)
    return Predictor(
        fake_checkpoint(tokenizer, runtime.sizes, calibration), runtime, use_cache_lm=False
    ), runtime


def fill(predictor: Predictor, text: str, **options: Any) -> ClozeResult:
    """Answer one query."""
    (result,) = predictor.run([ClozeQuery(text, **options)])
    assert isinstance(result, ClozeResult), result
    return result


def words(blank: Blank) -> dict[str, float]:
    """Probabilities by word."""
    return {each.word: each.probability for each in blank.candidates}


def gap_mass(
    runtime: TableRuntime,
    left: list[int],
    span: tuple[int, ...],
    right: list[int] | None,
    kind: int = WORD,
    *,
    closed: bool = True,
) -> float:
    """Log P(span | left, right), token by token, from the table itself; right None where unknown.

    Not *closed*: of all spans that begin so.
    """
    total = 0.0
    backward = np.zeros((1, 2), dtype=np.float32)
    if right is not None:
        backward = read(runtime, "backward", [END, *reversed(right)])
    for position, token in enumerate((*span, END_OF_GAP) if closed else span):
        forward = read(runtime, "forward", [START, *left, *span[:position]])
        (row,) = runtime.score(
            "gap",
            forward,
            backward,
            np.array([right is not None]),
            np.array([position]),
            np.array([kind]),
        )
        total += float(row[token])
    return total


def read(runtime: TableRuntime, tower: Any, tokens: list[int]) -> Any:
    """State, and so output, after tokens."""
    return runtime.run_tower(
        tower, np.zeros((1, 2), dtype=np.float32), np.array([tokens]), np.array([len(tokens)])
    )[0]


def next_log_probability(runtime: TableRuntime, read_before: list[int], tokens: list[int]) -> float:
    """Log P_F of *tokens* after what was read."""
    rows = [
        runtime.score("next", read(runtime, "forward", read_before + tokens[:n]))[0]
        for n in range(len(tokens))
    ]
    return float(sum(row[token] for row, token in zip(rows, tokens, strict=True)))


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize(("text", "right"), [("go to ____ .", ["."]), ("go to ____", None)])
def test_brute_force_over_all_spans_agrees(
    tokenizer: Tokenizer, seed: int, text: str, right: list[str] | None
) -> None:
    """Every word has the exact mass of the spans that spell it and fit; all spans together have mass 1."""
    support = ids(tokenizer, "store", "store ")
    predictor, runtime = setting(tokenizer, support=support, seed=seed)
    left, after = ids(tokenizer, "go ", "to "), None if right is None else ids(tokenizer, *right)
    expected: dict[str, float] = {}
    total = 0.0
    for length in range(1, 7):
        for span in product(support, repeat=length):
            mass = float(np.exp(gap_mass(runtime, left, span, after)))
            total += mass
            spelled = tokenizer.decode(span)
            if right is None or spelled.endswith(" "):
                expected[spelled.strip()] = expected.get(spelled.strip(), 0.0) + mass
    (blank,) = fill(predictor, text, top_k=100).blanks
    assert words(blank) == pytest.approx(expected, rel=1e-4)
    longer = sum(
        np.exp(gap_mass(runtime, left, s, after, closed=False)) for s in product(support, repeat=7)
    )
    assert total + longer == pytest.approx(1)


def test_most_probable_words_survive_the_beam(tokenizer: Tokenizer) -> None:
    """With more tokens than the beam holds, the first candidate is still the best of all spans of two tokens."""
    predictor, runtime = setting(tokenizer, seed=4)
    left, right = ids(tokenizer, "要去"), ids(tokenizer, "。")
    masses: dict[str, float] = {}
    for length in (1, 2):
        for span in product(range(FIRST_BYTE + 256, tokenizer.size), repeat=length):
            spelled = tokenizer.decode(span)
            if not spelled.endswith(" ") and any(map(str.isalnum, spelled)):
                masses[spelled] = masses.get(spelled, 0.0) + float(
                    np.exp(gap_mass(runtime, left, span, right))
                )
    (blank,) = fill(predictor, "要去____。", top_k=1).blanks
    best = max(masses, key=lambda word: masses[word])
    assert blank.candidates[0].word == best
    assert blank.candidates[0].probability == pytest.approx(masses[best], rel=1e-4)


def test_rescoring_follows_its_formula(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P(w) = M softmax(s / tau), s = log P_gap + l1 log P_F(w, right | left) + l2 log P_B(left, w | right)."""
    monkeypatch.setattr("model.decoding.cloze.RESCORED", 8)
    calibration = Calibration(
        cloze_temperature={"zh": 1.0, "en": 2.0}, forward_weight=0.7, backward_weight=0.3
    )
    support = ids(tokenizer, "store ", "park ")
    predictor, runtime = setting(
        tokenizer,
        calibration,
        support=[
            *support,
            *ids(tokenizer, "go ", "to ", "the ", "."),
        ],
    )
    left, right = ids(tokenizer, "go ", "to "), ids(tokenizer, "the ", ".")
    scores, masses = {}, {}
    (blank,) = fill(predictor, "go to ____ the .", top_k=8).blanks
    assert len(blank.candidates) == 8
    for word in words(blank):
        span = tokenizer.encode(f"{word} ")
        masses[word] = gap_mass(runtime, left, tuple(span), right)
        before = [START, *left]
        forward = next_log_probability(runtime, before, span + right)
        mirrored = [*reversed(span), *reversed(left)]
        rows = [
            runtime.score(
                "previous", read(runtime, "backward", [END, *reversed(right), *mirrored[:n]])
            )[0]
            for n in range(len(mirrored))
        ]
        backward = sum(float(row[token]) for row, token in zip(rows, mirrored, strict=True))
        scores[word] = masses[word] + 0.7 * forward + 0.3 * backward
    total = float(np.exp(np.logaddexp.reduce(list(masses.values()))))
    shares = np.exp(np.array(list(scores.values())) / 2.0)
    expected = dict(zip(scores, (total * shares / shares.sum()).tolist(), strict=True))
    assert words(blank) == pytest.approx(expected, rel=1e-4)


def test_proposals_far_behind_keep_their_mass(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the gap head holds to be past saving is not read again: its probability is its gap mass."""
    monkeypatch.setattr("model.decoding.cloze.RESCORED", 1000)
    calibration = Calibration(forward_weight=1.0)
    (alone,) = fill(
        setting(tokenizer, Calibration(forward_weight=0.0), seed=3)[0],
        "go to ____ the .",
        top_k=100,
    ).blanks
    masses = words(alone)
    best = max(masses.values())
    monkeypatch.setattr("model.decoding.cloze.MAX_GAP", 2.0)
    (blank,) = fill(
        setting(tokenizer, calibration, seed=3)[0], "go to ____ the .", top_k=100
    ).blanks
    behind = {word for word, mass in masses.items() if mass < best / np.e**2}
    assert behind and len(behind) < len(masses)
    found = words(blank)
    assert {word: found[word] for word in behind & found.keys()} == pytest.approx(
        {word: masses[word] for word in behind & found.keys()}, rel=1e-4
    )
    assert any(
        found[word] != pytest.approx(masses[word], rel=0.01) for word in found.keys() - behind
    )


def test_choices_are_exact_and_normalised(tokenizer: Tokenizer) -> None:
    """Every choice comes back, most probable first, with its share of exact mass; phrases are asked for as spans."""
    predictor, runtime = setting(tokenizer, seed=6)
    left, right = ids(tokenizer, "go ", "to "), ids(tokenizer, ".")
    choices = ["park", "the store", "reopen", "new new park"]
    (blank,) = fill(predictor, "go to ____.", choices=choices, top_k=1).blanks
    kinds = [WORD, SPAN, WORD, SPAN]
    pairs = zip(choices, kinds, strict=True)
    masses = np.array(
        [gap_mass(runtime, left, tuple(tokenizer.encode(c)), right, kind) for c, kind in pairs]
    )
    shares = np.exp(masses) / np.exp(masses).sum()
    assert words(blank) == pytest.approx(dict(zip(choices, shares.tolist(), strict=True)), rel=1e-4)
    assert sum(words(blank).values()) == pytest.approx(1)
    probabilities = [each.probability for each in blank.candidates]
    assert probabilities == sorted(probabilities, reverse=True)


def test_choices_come_back_as_they_were_sent(tokenizer: Tokenizer) -> None:
    """Spaces and another normal form do not change what a choice scores, and are given back; the text gets it clean."""
    predictor, _ = setting(tokenizer)
    plain = fill(predictor, "go to the ____.", choices=["café", "park"])
    sent = fill(predictor, "go to the ____.", choices=["  cafe\u0301 ", "park"])
    renamed = {
        "  cafe\u0301 " if word == "café" else word: share
        for word, share in words(plain.blanks[0]).items()
    }
    assert words(sent.blanks[0]) == renamed
    assert sent.filled == plain.filled


def test_choices_of_single_words_are_asked_for_as_words(tokenizer: Tokenizer) -> None:
    """A word of several tokens is of kind word; at the end, spellings with and without a space merge."""
    predictor, runtime = setting(tokenizer, seed=7)
    (blank,) = fill(predictor, "go to ____", choices=["park", "reopen"]).blanks
    left = ids(tokenizer, "go ", "to ")
    masses = {
        choice: sum(
            float(np.exp(gap_mass(runtime, left, tuple(tokenizer.encode(text)), None)))
            for text in (choice, f"{choice} ")
        )
        for choice in ("park", "reopen")
    }
    total = sum(masses.values())
    assert words(blank) == pytest.approx(
        {choice: mass / total for choice, mass in masses.items()}, rel=1e-4
    )


@pytest.mark.parametrize("weight", [0.0, 0.7])
def test_choices_have_a_temperature_of_their_own(tokenizer: Tokenizer, weight: float) -> None:
    """Masses and rescored scores of choices are divided by the choice temperature, and by the cloze one never."""
    hot = {
        "choice_temperature": {"zh": 1.0, "en": 2.5},
        "cloze_temperature": {"zh": 1.0, "en": 7.0},
    }
    choices = ["park", "the store", "reopen"]

    def shares(calibration: Calibration) -> dict[str, float]:
        return words(
            fill(setting(tokenizer, calibration)[0], "go to ____.", choices=choices).blanks[0]
        )

    plain = shares(Calibration(forward_weight=weight))
    softer = {word: share ** (1 / 2.5) for word, share in plain.items()}
    expected = {word: share / sum(softer.values()) for word, share in softer.items()}
    assert shares(Calibration(forward_weight=weight, **hot)) == pytest.approx(expected, rel=1e-4)


def test_a_share_of_the_probability_is_divided_evenly_among_choices(tokenizer: Tokenizer) -> None:
    """With a lapse rate of 0.2 each of four choices gets 0.05 beside 0.8 of what it had; open blanks stay."""
    lapsing = Calibration(choice_uniform_mix={"zh": 0.9, "en": 0.2})
    choices = ["park", "the store", "reopen", "new"]

    def shares(calibration: Calibration, **asked: Any) -> dict[str, float]:
        return words(fill(setting(tokenizer, calibration)[0], "go to ____.", **asked).blanks[0])

    plain = shares(Calibration(), choices=choices)
    expected = {word: 0.8 * share + 0.05 for word, share in plain.items()}
    assert shares(lapsing, choices=choices) == pytest.approx(expected, rel=1e-6)
    assert shares(lapsing) == shares(Calibration())


def test_choices_beyond_those_rescored_are_tempered_alike(tokenizer: Tokenizer) -> None:
    """With more choices than are rescored, the masses of the others are divided by the choice temperature as well."""
    pairs = product(("go ", "to ", "the ", "new ", "re", "open "), TOKENS[:8])
    choices = list(dict.fromkeys("".join(pair).strip() for pair in pairs))
    assert len(choices) > 32

    def shares(calibration: Calibration) -> dict[str, float]:
        predictor, _ = setting(
            tokenizer, calibration, support=range(FIRST_BYTE, tokenizer.size), spread=0.5
        )
        return words(fill(predictor, "go to ____.", choices=choices).blanks[0])

    masses = shares(PLAIN)
    rest = sorted(masses, key=lambda word: -masses[word])[32:]

    def last(temperature: float) -> list[float]:
        found = shares(
            Calibration(forward_weight=0.5, choice_temperature={"zh": 1.0, "en": temperature})
        )
        return [found[word] for word in rest]

    plain, hot = last(1.0), last(3.0)
    assert hot[0] / hot[-1] == pytest.approx((plain[0] / plain[-1]) ** (1 / 3), rel=1e-4)


@pytest.mark.parametrize("exponent", [0.5, 2.0])
def test_what_was_found_is_raised_to_the_mass_exponent(
    tokenizer: Tokenizer, exponent: float
) -> None:
    """16 words claim F to that power together, others share the rest; the few that are shown claim much the same."""
    raised = Calibration(cloze_coverage_exponent={"zh": 1.0, "en": exponent})

    def shares(calibration: Calibration, top_k: int) -> dict[str, float]:
        return words(fill(setting(tokenizer, calibration)[0], "go to ____.", top_k=top_k).blanks[0])

    plain, other = shares(Calibration(), 100), shares(raised, 100)
    ratios = {word: other[word] / share for word, share in plain.items()}
    rises = exponent < 1
    counted = [word for word, ratio in ratios.items() if (ratio > 1) == rises]
    assert len(counted) == 16 < len(ratios)
    found = sum(plain[word] for word in counted)
    expected = dict.fromkeys(ratios, (1 - found**exponent) / (1 - found)) | dict.fromkeys(
        counted, found ** (exponent - 1)
    )
    assert ratios == pytest.approx(expected, rel=1e-4)
    assert sum(other.values()) <= 1 + 1e-6
    assert shares(raised, 3) == pytest.approx(
        {word: other[word] for word in shares(raised, 3)}, rel=0.1
    )


def test_choices_claim_everything_whatever_the_mass_exponent(tokenizer: Tokenizer) -> None:
    """With choices there is nothing outside of them to leave anything to."""
    raised = Calibration(cloze_coverage_exponent={"zh": 2.0, "en": 2.0})
    answers = [
        fill(setting(tokenizer, each)[0], "go to ____.", choices=["park", "store"])
        for each in (raised, Calibration())
    ]
    assert answers[0] == answers[1]


def test_words_that_begin_alike_share_rows(tokenizer: Tokenizer) -> None:
    """Rescoring asks for the distribution before a blank once, however many words begin there."""

    class Watched(TableRuntime):
        asked: ClassVar[list[bytes]] = []

        def score(self, head: Any, *inputs: Any) -> Float32Array:
            if head == "next":
                self.asked += [output.tobytes() for output in inputs[0]]
            return super().score(head, *inputs)

    runtime = Watched(tokenizer)
    predictor = Predictor(
        fake_checkpoint(tokenizer, runtime.sizes, Calibration(forward_weight=1.0)),
        runtime,
        use_cache_lm=False,
    )
    (before,) = runtime.run_tower(
        "forward",
        np.zeros((1, 2), np.float32),
        np.array([[START, *ids(tokenizer, "go ", "to ")]]),
        np.array([3]),
    )[0]
    blank = fill(predictor, "go to ____.").blanks[0]
    assert len(blank.candidates) > 1
    assert runtime.asked.count(before.tobytes()) == 1


def test_open_blanks_keep_the_cloze_temperature(tokenizer: Tokenizer) -> None:
    """The choice temperature moves nothing where no choices are given."""
    hot = Calibration(choice_temperature={"zh": 3.0, "en": 3.0})
    plain = fill(setting(tokenizer, Calibration())[0], "go to ____.")
    assert fill(setting(tokenizer, hot)[0], "go to ____.") == plain


def test_choice_that_is_impossible_still_comes_back(tokenizer: Tokenizer) -> None:
    """A choice that the network gives no chance has probability 0, and none of them any if all are impossible."""
    predictor, _ = setting(tokenizer, support=ids(tokenizer, "买"))
    (blank,) = fill(predictor, "要去____。", choices=["云南", "买"]).blanks
    assert words(blank) == pytest.approx({"买": 1.0, "云南": 0.0})
    (blank,) = fill(predictor, "要去____。", choices=["云南", "我"]).blanks
    assert words(blank) == pytest.approx({"我": 0.5, "云南": 0.5})


def test_candidates_are_words_without_spaces_around_them(tokenizer: Tokenizer) -> None:
    """Punctuation alone is no answer; nor is a span whose space does not fit."""
    predictor, _ = setting(tokenizer, spread=0.2)
    for text in ("go to ____.", "go to ____ the", "要去____"):
        (blank,) = fill(predictor, text, top_k=50).blanks
        assert blank.candidates
        for each in blank.candidates:
            assert each.word == each.word.strip() and any(map(str.isalnum, each.word))
        assert sum(words(blank).values()) <= 1


def test_spaces_around_the_blank_stay_as_written(tokenizer: Tokenizer) -> None:
    """`filled` is the text as sent with the first candidates in place of the blanks."""
    predictor, _ = setting(tokenizer)
    text = "go  to  ____ , 要去 [MASK] 。 "
    result = fill(predictor, text)
    first, second = result.blanks
    expected = text[: first.start] + first.candidates[0].word + text[first.end : second.start]
    assert result.filled == expected + second.candidates[0].word + text[second.end :]


def test_last_blank_is_asked_with_the_others_filled(tokenizer: Tokenizer) -> None:
    """The candidates of the last blank are those of the same text with all other blanks filled."""
    predictor, _ = setting(tokenizer, Calibration(forward_weight=0.5), seed=8)
    result = fill(predictor, "go to ____ the ____ .")
    first = result.blanks[0].candidates[0].word
    again = fill(predictor, f"go to {first} the ____ .")
    assert words(result.blanks[1]) == pytest.approx(words(again.blanks[0]))
    assert result.filled == again.filled


def test_blanks_to_the_right_are_read_as_blanks_first(tokenizer: Tokenizer) -> None:
    """Before anything is filled, the backward tower reads `<blank>` where another blank stands."""
    readings: list[list[int]] = []

    class Watched(TableRuntime):
        def run_tower(self, tower: Any, states: Any, tokens: Any, lengths: Any) -> Any:
            if tower == "backward":
                readings.append(tokens[0, : lengths[0]].tolist())
            return super().run_tower(tower, states, tokens, lengths)

    runtime = Watched(tokenizer)
    predictor = Predictor(
        fake_checkpoint(tokenizer, runtime.sizes, PLAIN), runtime, use_cache_lm=False
    )
    fill(predictor, "go ____ to ____.")
    assert readings[:2] == [[END, *ids(tokenizer, ".")], [BLANK, *ids(tokenizer, "to ")]]


@pytest.mark.parametrize("seed", range(6))
def test_several_blanks_are_filled_jointly_and_then_swept(tokenizer: Tokenizer, seed: int) -> None:
    """All pairs compete, the second blank being `<blank>` to the first; then each blank sees the other's filling."""
    predictor, runtime = setting(tokenizer, seed=seed)
    first, second = ["park", "store"], ["store", "park"]
    left, stop = ids(tokenizer, "go ", "to "), ids(tokenizer, ".")

    def shares(
        before: list[int], words_: list[str], end: str, after: list[int]
    ) -> dict[str, float]:
        masses = [
            np.exp(gap_mass(runtime, before, tuple(ids(tokenizer, word + end)), after))
            for word in words_
        ]
        return {word: float(mass / sum(masses)) for word, mass in zip(words_, masses, strict=True)}

    blind = shares(left, first, " ", [BLANK, *stop])
    joint = {
        (one, two): blind[one] * share
        for one in first
        for two, share in shares([*left, *ids(tokenizer, f"{one} ")], second, "", stop).items()
    }
    _, best = max(joint, key=lambda pair: joint[pair])
    seen = shares(left, first, " ", [*ids(tokenizer, best), *stop])
    result = fill(predictor, "go to ____ ____.", choices=[first, second])
    assert words(result.blanks[0]) == pytest.approx(seen, rel=1e-4)
    winner = max(seen, key=lambda word: seen[word])
    assert words(result.blanks[1]) == pytest.approx(
        shares([*left, *ids(tokenizer, f"{winner} ")], second, "", stop)
    )


def test_sixty_four_blanks_are_filled(tokenizer: Tokenizer) -> None:
    """The most that a text may have, each with its own candidates."""
    predictor, _ = setting(tokenizer, spread=0.3)
    result = fill(predictor, "____ " * 64, top_k=1)
    assert len(result.blanks) == 64
    assert "__" not in result.filled


def test_a_blank_that_nothing_fits_is_left_as_it_is(tokenizer: Tokenizer) -> None:
    """Where no word can stand there are no candidates, and the blank stays in the text."""
    predictor, _ = setting(tokenizer, support=ids(tokenizer, "."))
    result = fill(predictor, "go ____ to ____")
    assert [blank.candidates for blank in result.blanks] == [(), ()]
    assert result.filled == "go ____ to ____"


def test_forward_only_network_fills_by_rescoring(tokenizer: Tokenizer) -> None:
    """Without a gap head, proposals of the next head are weighed by how well the right side follows them."""
    support = ids(tokenizer, "买", "我", "云南", "。")
    predictor, runtime = setting(tokenizer, support=support, architecture="forward", seed=10)
    (blank,) = fill(predictor, "要去____。").blanks
    left, right = ids(tokenizer, "要去"), ids(tokenizer, "。")
    mass = {
        word: next_log_probability(runtime, [START, *left], ids(tokenizer, word))
        for word in ("买", "我", "云南")
    }
    fit = {
        word: next_log_probability(runtime, [START, *left], ids(tokenizer, word) + right)
        for word in mass
    }
    total = sum(np.exp(list(mass.values())))
    shares = np.exp(list(fit.values())) / sum(np.exp(list(fit.values())))
    assert words(blank) == pytest.approx(
        dict(zip(fit, (total * shares).tolist(), strict=True)), rel=1e-4
    )


def test_forward_only_network_ends_words(tokenizer: Tokenizer) -> None:
    """Its proposals are whole words: `store` only where no letter follows, `reopen` put together from its tokens."""
    support = ids(tokenizer, "re", "open", "store", "store ", "云南", "买", ",", "the ")
    predictor, _ = setting(tokenizer, support=support, architecture="forward", spread=0.1)
    (blank,) = fill(predictor, "go to ____", top_k=30).blanks
    assert {"store", "reopen", "云南"} <= set(words(blank))
    assert not {"store,", "云南买", "the store"} & set(words(blank))
    assert sum(words(blank).values()) <= 1 + 1e-6


@given(
    st.lists(
        st.sampled_from(["____", "[MASK]", " ", "\n", "go ", "the", "我", "。", "€", "x", ","]),
        max_size=10,
    ),
    st.integers(1, 9),
    st.sampled_from(["two_towers", "forward"]),
)
@settings(max_examples=40, deadline=None)
def test_promises_hold_for_any_text(parts: list[str], top_k: int, architecture: str) -> None:
    """Whatever stands around the blanks: at most top_k candidates, falling, at most 1 in all; the text is filled."""
    tokenizer = hand_tokenizer(TOKENS)
    calibration = Calibration(forward_weight=0.5, backward_weight=0.5)
    everything = range(FIRST_BYTE, tokenizer.size)
    predictor, _ = setting(
        tokenizer, calibration, support=everything, spread=0.5, architecture=architecture
    )
    text = "".join([*parts, "<mask>"])
    result = fill(predictor, text, top_k=top_k)
    filled, position = "", 0
    for blank in result.blanks:
        probabilities = [each.probability for each in blank.candidates]
        assert len(probabilities) <= top_k
        assert probabilities == sorted(probabilities, reverse=True)
        assert sum(probabilities) <= 1 + 1e-6
        filled += text[position : blank.start] + (
            blank.candidates[0].word if probabilities else text[blank.start : blank.end]
        )
        position = blank.end
    assert result.filled == filled + text[position:]


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("我要去____ open park open.", "zh"),
        ("open park open ____我要去", "zh"),
        ("open park ____ open park open.", "en"),
        ("我要去,open park ____ open park.", "en"),
    ],
)
def test_eight_characters_on_either_side_say_the_language(
    tokenizer: Tokenizer, text: str, language: str
) -> None:
    """The temperature is that of Chinese where Chinese stands near the blank, on whichever side."""
    answers = {
        name: fill(setting(tokenizer, Calibration(cloze_temperature=temperatures))[0], text)
        for name, temperatures in (
            ("both", {"zh": 2.0, "en": 0.5}),
            ("zh", {"zh": 2.0, "en": 2.0}),
            ("en", {"zh": 0.5, "en": 0.5}),
        )
    }
    assert answers["zh"] != answers["en"]
    assert answers["both"] == answers[language]
