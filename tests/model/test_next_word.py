"""Next words: the decoder against brute force over tiny vocabularies, and its promises."""

from collections import defaultdict
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.checkpoint import DEFAULT_CHECKPOINT
from model.decoding.token_index import TokenIndex
from model.predictor import Predictor, open_model
from model.queries import Candidate, PredictQuery
from model.text import is_word_character, normalise
from model.tokenizer import FIRST_BYTE, START
from tests.fakes import TYPING as TOKENIZER
from tests.fakes import TableRuntime, answer, hand_tokenizer, set_search_limits, table_predictor

# Tokens of the small worlds for brute force.
SPELLED = ("I ", "the", "the ", "s ", "a", ",", " ", "到")


def ids(*tokens: str) -> list[int]:
    """Return ids by surface."""
    return [TOKENIZER.surfaces.index(token) for token in tokens]


@pytest.fixture
def exhaustive(monkeypatch: pytest.MonkeyPatch) -> None:
    """Search almost everything."""
    set_search_limits(
        monkeypatch, spelling_share=0, spelling_rows=1000, spelling_rounds=20, max_nodes=100_000,
        width=1000, branch_share=0, branches=1000, word_share=0, word_floor=0, word_rows=400,
        word_rounds=4,
    )  # fmt: skip


def predict(predictor: Predictor, text: str, top_k: int = 100) -> tuple[Candidate, ...]:
    """Return the candidates for one text."""
    candidates: tuple[Candidate, ...] = answer(predictor, PredictQuery(text, top_k)).candidates
    return candidates


def probs(predictor: Predictor, text: str, top_k: int = 100) -> dict[str, float]:
    """Return probabilities by appended text."""
    return {each.append: each.probability for each in predict(predictor, text, top_k)}


def brute_force(runtime: TableRuntime, text: str, depth: int) -> tuple[dict[str, float], float]:
    """Walk every token sequence that spells the text from its cut on, and *depth* tokens more.

    It shares only the cut with the decoder: no spellings, no merging, no early end.

    Returns:
        P(append | text), and the probability of everything that is undecided at *depth*.
    """
    left, _, rest = TokenIndex(TOKENIZER).heal(text)
    target, surfaces = rest.decode(), TOKENIZER.surfaces
    done: dict[str, float] = defaultdict(float)
    undecided = 0.0

    def walk(states: Any, spelled: str, prob: float, tokens: int) -> None:
        nonlocal undecided
        (row,) = runtime.score("next", states).astype(np.float64)
        for token in np.flatnonzero(row).tolist():
            now, here = spelled + surfaces[token], prob * float(row[token])
            if not now.startswith(target):
                if target.startswith(now):
                    walk(run(states, token), now, here, tokens)
                continue
            suffix = now[len(target) :]
            word = ended(suffix, len(suffix) - len(surfaces[token]))
            if word is not None:
                done[word] += here
            elif tokens == 0:
                undecided += here
            else:
                walk(run(states, token), now, here, tokens - 1)

    def ended(suffix: str, last: int) -> str | None:
        """Return the word in *suffix* if it has ended; its last token begins at *last*."""
        body = suffix.lstrip(" ")
        spaces = len(suffix) - len(body)
        if body and is_word_character(body[0]):
            sizes = [n for n, c in enumerate(body) if not is_word_character(c)]
            return suffix[: spaces + sizes[0]] if sizes else None
        start = max(last, spaces)
        sizes = [n for n, c in enumerate(suffix[start:]) if c == " " or is_word_character(c)]
        return suffix[: start + sizes[0] if sizes else None] if body else None

    def run(states: Any, *tokens: int) -> Any:
        return runtime.run_tower("forward", states, np.array([tokens]), np.array([len(tokens)]))[0]

    walk(run(np.zeros((1, 2), dtype=np.float32), START, *left), "", 1.0, depth)
    total = sum(done.values()) + undecided
    return {append: prob / total for append, prob in done.items()}, undecided / total


@pytest.mark.usefixtures("exhaustive")
@pytest.mark.parametrize(
    "text",
    ["", "I like the", "I like the ", "I th", "I like t", "迟", "上学迟", "the到", "到the", "the,",
     "I like\nthe", "s", "I like theat"],
)  # fmt: skip
@pytest.mark.parametrize("seed", [1, 2])
def test_brute_force_over_all_token_sequences_agrees(text: str, seed: int) -> None:
    """With wide limits, every word that ends within reach has its exact probability."""
    runtime = TableRuntime(TOKENIZER, ids(*SPELLED, "th", "t", "he", "迟到", "迟"), seed=seed)
    expected, undecided = brute_force(runtime, text, depth=4)
    for append in [each for each in expected if each.startswith(" ") and each.endswith(",")]:
        del expected[append]  # a comma follows its word directly
    found = probs(table_predictor(runtime), text)
    assert found
    for append, prob in found.items():
        # The decoder extends a word by up to four tokens and scores its end; the walk does not.
        low = expected.get(append, 0.0)
        assert low - 1e-6 <= prob <= low + undecided + 1e-6, append
    shown = min(found.values()) if len(found) == 100 else 0.0
    for append in expected.keys() - found.keys():
        assert expected[append] <= shown + 1e-4, append


@given(st.text(max_size=12) | st.text(alphabet="the ,a迟到了\n_'", max_size=20))
@settings(max_examples=25, deadline=None)
def test_candidates_are_a_function_of_the_text(text: str) -> None:
    """A shorter list is the beginning of a longer one, whatever else is asked or cached."""
    runtime = TableRuntime(TOKENIZER, range(FIRST_BYTE, TOKENIZER.size), seed=5)
    words, counts = ["the", "theatre", "cat", "a"], (100, 1, 3, 10, 100)
    whole, *lists = [
        predictor.run([PredictQuery(text + more, top_k) for more in ("", "t")])[0].candidates
        for size in (10**8, 400, 0)
        for predictor in [table_predictor(runtime, words=words, cache_bytes=size)]
        for top_k in counts
    ]
    assert lists == [whole[:count] for count in (counts * 3)[1:]]


def test_everyday_lists_are_long_and_begin_like_short_ones() -> None:
    """With the bundled checkpoint, 100 candidates begin with those of any shorter list."""
    predictor = Predictor(*open_model(DEFAULT_CHECKPOINT))
    for text, least in (("Last night we went to the theat", 3), ("I ", 50), ("我想", 50)):
        long, *lists = [predict(predictor, text, top_k) for top_k in (100, 1, 3, 10)]
        assert len(long) >= least
        assert lists == [long[:1], long[:3], long[:10]]


@pytest.mark.usefixtures("exhaustive")
def test_a_character_is_spelled_in_bytes_only_as_utf_8() -> None:
    """A character of no token is proposed through its bytes; bytes that spell nothing are not."""
    runtime = TableRuntime(TOKENIZER, [FIRST_BYTE + value for value in "€".encode()])
    found = probs(table_predictor(runtime), "到")
    # Three-byte characters of these bytes; the rest of the probability spells nothing.
    assert found.keys() == {"€", "₂", "⬂", "⬬"}
    assert sum(found.values()) < 1


def test_no_candidate_is_spelled_in_bytes_that_are_read_otherwise() -> None:
    """A full-width digit would come next to the digit itself, and an odd space look empty."""
    predictor = Predictor(*open_model(DEFAULT_CHECKPOINT))
    appends = [each.append for each in answer(predictor, PredictQuery("σ", 100)).candidates]
    assert len(appends) > 20
    assert appends == [normalise(append) for append in appends]


def test_text_that_the_network_holds_impossible_is_still_continued() -> None:
    """If no predicted token begins with the text, its own tokens are followed."""
    runtime = TableRuntime(TOKENIZER, ids("到", "了", "cat "))
    assert probs(table_predictor(runtime), "s").keys() >= {"到", "了", "cat"}


def test_words_end_as_often_as_in_the_training_text(monkeypatch: pytest.MonkeyPatch) -> None:
    """With exact word-end probabilities the candidates are right without extension."""
    set_search_limits(monkeypatch, word_rounds=0)
    # Each token has a quarter, whatever precedes, so half of the words end after one token.
    runtime = TableRuntime(TOKENIZER, ids("the", "cat", ",", "到"), spread=0.0)
    ends = [0.5 if letter else 1.0 for letter in TOKENIZER.ends_letter]
    found = probs(table_predictor(runtime, word_end_probs=ends), "", 4)
    assert found == pytest.approx({",": 1 / 4, "到": 1 / 4, "the": 1 / 8, "cat": 1 / 8})


@pytest.mark.usefixtures("exhaustive")
def test_estimated_end_gives_way_to_the_network() -> None:
    """If the search goes far enough, wrong word-end probabilities change nothing."""
    runtime = TableRuntime(TOKENIZER, ids(*SPELLED, "th", "cat ", "迟到"), seed=4)
    found, expected = (
        probs(table_predictor(runtime, word_end_probs=[share] * TOKENIZER.size), "I th", 5)
        for share in (0.9, 0.0)
    )
    # The last round of a search is not corrected by another one.
    assert found == pytest.approx(expected, abs=0.02)


@given(st.text(max_size=30) | st.text(alphabet="the ,a迟到了\n€_'", max_size=20))
@settings(max_examples=40, deadline=None)
def test_promises_hold_for_any_text(text: str) -> None:
    """Probabilities fall and sum to at most 1, and every candidate can be typed."""
    runtime = TableRuntime(TOKENIZER, range(FIRST_BYTE, TOKENIZER.size), spread=0.5)
    candidates = predict(table_predictor(runtime), text, 20)
    probabilities = [each.probability for each in candidates]
    assert candidates and sum(probabilities) <= 1 + 1e-9
    assert probabilities == sorted(probabilities, reverse=True)
    assert len({each.append for each in candidates}) == len(candidates)
    for each in candidates:
        assert each.append and not each.append.endswith(" ") and each.probability > 0
        whole = normalise(text + each.append).replace(" ", "")
        assert whole.endswith(normalise(each.word).replace(" ", ""))


@pytest.mark.parametrize(
    ("sent", "plain", "found"),
    [
        ("th\u200b", "th", {"e": "the", "eatre": "theatre"}),
        ("I  like\u3000th", "I like th", {"e": "the", "eatre": "theatre"}),
        ("ｔｈ", "th", {"ｅ": "ｔｈｅ", "ｅａｔｒｅ": "ｔｈｅａｔｒｅ"}),
        ("LIKE THE TH", "Like the th", {"E": "THE", "EATRE": "THEATRE"}),
        ("遲", "迟", {"到": "遲到", "了": "了"}),
        ("迟到 ", "迟到", {"了": "了"}),
        ("I like 😀", "I like. ", {" the": "the", " cat": "cat"}),
    ],
)
def test_texts_are_read_in_normal_form_and_continued_as_sent(
    sent: str, plain: str, found: dict[str, str]
) -> None:
    """Any writing is read like the plain text, and answers continue it in the same writing."""
    runtime = TableRuntime(TOKENIZER, range(FIRST_BYTE + 256, TOKENIZER.size), spread=0.5)
    predictor = table_predictor(runtime)
    written = {each.append: each for each in predict(predictor, sent, 20)}
    plainly = reversed(predict(predictor, plain, 20))  # of two that differ in a space, the first
    expected = {each.append.strip().lower(): each for each in plainly}
    for append, word in found.items():
        assert written[append].word == word
        same = expected[normalise(append).strip().lower()]
        assert written[append].probability == pytest.approx(same.probability)


def test_words_that_differ_in_capitals_are_one_in_capitals() -> None:
    """After a text in capitals no two candidates look the same."""
    tokenizer = hand_tokenizer(("the ", "you ", "You ", "cat "))
    runtime = TableRuntime(tokenizer, [tokenizer.surfaces.index(s) for s in ("you ", "You ")])
    predictor = table_predictor(runtime)
    small = predict(predictor, "The the ")
    assert [each.append for each in predict(predictor, "THE THE ")] == ["YOU"]
    assert sum(each.probability for each in small) == pytest.approx(
        predict(predictor, "THE THE ")[0].probability
    )
