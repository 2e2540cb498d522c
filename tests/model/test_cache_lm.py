"""The cache language model: its formulas, and its effect on next words and blanks."""

from typing import Any

import numpy as np
import pytest

from model.decoding.cache_lm import (
    DISCOUNT,
    EXPONENT,
    MARGINAL_TOKENS,
    RARITY,
    STRENGTH,
    WEIGHT,
    CacheLM,
)
from model.queries import ClozeQuery, PredictQuery
from model.tokenizer import START
from tests.fakes import TableRuntime, answer, hand_tokenizer, set_search_limits, table_predictor

# Five control tokens and seven others.
BACKGROUND = np.array([0] * 5 + [1 / 7] * 7, dtype=np.float32)
PROBS = np.array([0, 0, 0, 0, 0, 4, 3, 2, 1, 1, 1, 1], dtype=np.float32) / 13


def mixed(tokens: list[int], context: list[int]) -> Any:
    """Return the corrected distribution after *context*."""
    return CacheLM(np.array(tokens, dtype=np.int64), BACKGROUND).mix(PROBS, context)


def test_marginals_follow_their_formula() -> None:
    """Each token is raised by its share here over its share in the training text."""
    tokens = [9, 9, 9, 6] * 10
    shares = np.zeros(len(PROBS))
    shares[9], shares[6] = 30 / (40 + MARGINAL_TOKENS), 10 / (40 + MARGINAL_TOKENS)
    expected = PROBS * (1 + WEIGHT * shares * 7) ** EXPONENT
    assert np.allclose(mixed(tokens, [11]), expected / expected.sum(), atol=1e-6)
    without = CacheLM(np.array(tokens), BACKGROUND, marginals=False)
    assert np.array_equal(without.mix(PROBS, [11]), PROBS)
    assert np.array_equal(mixed([], [5]), PROBS)


def test_contexts_follow_their_formula() -> None:
    """After 5 came 8 twice and 9 once, after 7 5 always 8: discounted counts, shorter contexts."""
    tokens = [7, 5, 8, 1, 7, 5, 8, 1, 6, 5, 9]
    marginals = mixed(tokens, [11])  # 11 never occurred
    strength = STRENGTH * len(tokens) ** 0.5 * 7**-RARITY
    one = marginals * (strength + 2 * DISCOUNT) / (3 + strength)
    one[8] += (2 - DISCOUNT) / (3 + strength)
    one[9] += (1 - DISCOUNT) / (3 + strength)
    strength *= 7**-RARITY
    two = one * (strength + DISCOUNT) / (2 + strength)
    two[8] += (2 - DISCOUNT) / (2 + strength)
    assert np.allclose(mixed(tokens, [7, 5]), two, atol=1e-6)
    assert np.allclose(mixed(tokens, [10, 5]), one, atol=1e-6)


def test_rare_contexts_are_strong_evidence() -> None:
    """The follower of a rare token returns with more probability than that of a frequent one."""
    background = np.array([0] * 5 + [0.9] + [0.1 / 6] * 6, dtype=np.float32)
    cache_lm = CacheLM(np.array([5, 8, 7, 8]), background)
    assert cache_lm.mix(PROBS, [7])[8] > cache_lm.mix(PROBS, [5])[8] > PROBS[8]


def test_control_tokens_separate() -> None:
    """Tokens on both sides of a line end do not follow each other; no control token is raised."""
    result = mixed([5, 1, 6], [5])
    assert result[1] == 0
    assert np.allclose(result, mixed([5, 1, 6], [11]))


@pytest.mark.parametrize("seed", range(5))
def test_the_result_is_a_distribution(seed: int) -> None:
    """Both forms agree, sum to 1, and give control tokens nothing."""
    generator = np.random.default_rng(seed)
    tokens = generator.integers(1, 12, size=200)
    probs = generator.random(12).astype(np.float32) * (BACKGROUND > 0)
    probs /= probs.sum()
    cache_lm, context = CacheLM(tokens, BACKGROUND), tokens[-3:].tolist()
    result = cache_lm.mix(probs, context)
    assert result.sum() == pytest.approx(1, abs=1e-5)
    assert (result >= 0).all() and (result[:5] == 0).all()
    logs = np.log(probs + np.float32(1e-30))
    logs += np.float32(cache_lm.mix_logs(logs, context))
    assert np.allclose(logs[5:], np.log(result[5:]), atol=1e-4)


def test_only_the_latest_tokens_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """Older tokens have no effect."""
    monkeypatch.setattr("model.decoding.cache_lm.MAX_TOKENS", 4)
    assert np.array_equal(mixed([5, 5, 5, 6, 7, 8, 9], [6]), mixed([6, 7, 8, 9], [6]))


TOKENIZER = hand_tokenizer(
    ("the ", "cat ", "dog ", "sat ", "ran ", "on ", "mat ", "Ann ", "the", "cat", ",",
     "云南", "去", "北京")
)  # fmt: skip
RUNTIME = TableRuntime(TOKENIZER, spread=0.7)
SENTENCE = "the cat sat on the mat the dog ran on the mat "
ANN = "Ann sat on the mat\nAnn ran on the mat\n" * 6


def test_next_token_is_the_networks_corrected_by_the_text(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a space the answers are the corrected distribution."""
    set_search_limits(monkeypatch, branch_share=0)
    tokens = [START, *TOKENIZER.encode(SENTENCE * 3)]
    (network,) = RUNTIME.score("next", np.array([tokens[-2:]], dtype=np.float32))
    # The last token is beyond the last stable boundary.
    expected = CacheLM(np.array(tokens[:-1]), TOKENIZER.background).mix(network, tokens[-3:])
    candidates = answer(table_predictor(RUNTIME), PredictQuery(SENTENCE * 3, 20)).candidates
    found = {each.append: each.probability for each in candidates}["云南"]
    token = TOKENIZER.surfaces.index("云南")
    assert found == pytest.approx(float(expected[token]), rel=1e-4)
    assert not np.isclose(expected[token], network[token])


def test_histories_and_salts_are_kept_apart() -> None:
    """A text with another history, or with another salt, finds nothing in the cache."""
    shared = table_predictor(RUNTIME)
    for history in (ANN, "", "去云南,去北京\n" * 9):
        query = PredictQuery("the cat ", 20, history)
        expected = answer(table_predictor(RUNTIME), query).candidates
        for salt in ("a", "b"):
            first, again = (answer(shared, query, salt) for _ in range(2))
            assert first.candidates == again.candidates == expected
            assert first.usage.cached_tokens == 0 < again.usage.cached_tokens == again.usage.tokens


@pytest.mark.parametrize("architecture", ["two_towers", "forward"])
def test_a_blank_is_filled_by_words_from_elsewhere(architecture: str) -> None:
    """A word from further away, or of the history, is more probable in a blank."""
    runtime = TableRuntime(TOKENIZER, spread=0.7, architecture=architecture)

    def prob(text: str, history: str = "", use_cache_lm: bool = True) -> float:
        query = ClozeQuery(text, history=history, choices=["云南", "北京"])
        result = answer(table_predictor(runtime, use_cache_lm=use_cache_lm), query)
        return {each.word: float(each.probability) for each in result.blanks[0].candidates}["云南"]

    near, far = "去____,云南", "去____,the cat sat on 云南"
    assert prob(far) > prob(far, use_cache_lm=False)
    assert prob(near) == prob(near, use_cache_lm=False)
    history = "云南,云南\n" * 4
    assert prob("去____,", history) > prob("去____,")
    assert prob("去____,", history, False) == prob("去____,", "", False)
