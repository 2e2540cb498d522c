"""What a text remembers: counts that correct a distribution, exactly normalised."""

from typing import Any

import numpy as np
import pytest

from model.batching import Scheduler
from model.decoding.cache_lm import DISCOUNT, EXPONENT, STRENGTHS, WEIGHT, CacheLM
from model.decoding.next_word import SearchOptions
from model.decoding.token_index import TokenIndex
from model.predictor import Predictor
from model.queries import ClozeQuery, ClozeResult, PredictQuery, PredictResult
from model.runtime import initial_states
from model.tokenizer import START
from tests.fakes import TableRuntime, fake_checkpoint, hand_tokenizer

SIZE = 12
BACKGROUND = np.array(
    [0, 0, 0, 0, 0, *[1 / 7] * 7], dtype=np.float32
)  # five control tokens, seven others


def row(**changes: float) -> np.ndarray:
    """A distribution over the seven tokens that count."""
    values = np.array([0, 0, 0, 0, 0, 4, 3, 2, 1, 1, 1, 1], dtype=np.float32)
    for token, value in changes.items():
        values[int(token[1:])] = value
    return values / values.sum()


def test_nothing_written_changes_nothing() -> None:
    """An empty memory gives the row back, as a new array."""
    given = row()
    mixed = CacheLM(np.array([], dtype=np.int64), BACKGROUND).mix(given, [5])
    assert np.allclose(mixed, given)
    assert mixed is not given


def test_marginals_are_the_formula() -> None:
    """Without a context that was seen, each token is raised by its share here over its share elsewhere."""
    memory = CacheLM(np.array([9, 9, 9, 6]), BACKGROUND)
    mixed = memory.mix(row(), [11])
    shares = np.zeros(SIZE)
    shares[9], shares[6] = 0.75, 0.25
    expected = row() * (1 + WEIGHT * shares * 7) ** EXPONENT
    assert np.allclose(mixed, expected / expected.sum(), atol=1e-6)
    assert mixed[9] > row()[9]


def test_contexts_are_the_formula() -> None:
    """After 5 came 8 twice and 9 once, after 7 5 always 8: discounted counts, and the rest to the shorter context."""
    written = np.array([7, 5, 8, 1, 7, 5, 8, 1, 6, 5, 9])
    memory = CacheLM(written, BACKGROUND)
    base = CacheLM(written, BACKGROUND).mix(row(), [11])  # marginals alone: 11 was never written
    one = base * (STRENGTHS[0] + 2 * DISCOUNT) / (3 + STRENGTHS[0])
    one[8] += (2 - DISCOUNT) / (3 + STRENGTHS[0])
    one[9] += (1 - DISCOUNT) / (3 + STRENGTHS[0])
    two = one * (STRENGTHS[1] + DISCOUNT) / (2 + STRENGTHS[1])
    two[8] += (2 - DISCOUNT) / (2 + STRENGTHS[1])
    assert np.allclose(memory.mix(row(), [7, 5]), two, atol=1e-6)
    assert np.allclose(memory.mix(row(), [10, 5]), one, atol=1e-6)


def test_control_tokens_follow_nothing_and_are_not_counted() -> None:
    """A line end separates: what stands after it does not follow what stands before, nor is it predicted."""
    memory = CacheLM(np.array([5, 1, 6]), BACKGROUND)
    mixed = memory.mix(row(), [5])
    assert mixed[1] == 0
    assert np.allclose(mixed, memory.mix(row(), [11]))


@pytest.mark.parametrize("seed", range(5))
def test_it_stays_a_distribution(seed: int) -> None:
    """Whatever was written, the sum is kept, nothing is negative, and controls stay at 0."""
    generator = np.random.default_rng(seed)
    written = generator.integers(1, SIZE, size=200)
    given = generator.random(SIZE).astype(np.float32) * (BACKGROUND > 0)
    given /= given.sum()
    memory = CacheLM(written, BACKGROUND)
    mixed = memory.mix(given, written[-3:].tolist())
    assert mixed.sum() == pytest.approx(1, abs=1e-5)
    assert np.allclose(
        memory.mix_logs(np.log(given + 1e-30), written[-3:].tolist())[5:],
        np.log(mixed[5:]),
        atol=1e-4,
    )
    assert (mixed >= 0).all()
    assert (mixed[:5] == 0).all()


def test_only_the_latest_tokens_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was written longer ago is as if it had not been."""
    monkeypatch.setattr("model.decoding.cache_lm.MAX_TOKENS", 4)
    late = CacheLM(np.array([5, 5, 5, 6, 7, 8, 9]), BACKGROUND)
    assert np.array_equal(
        late.mix(row(), [6]), CacheLM(np.array([6, 7, 8, 9]), BACKGROUND).mix(row(), [6])
    )


TOKENIZER = hand_tokenizer(
    (
        "the ",
        "cat ",
        "dog ",
        "sat ",
        "ran ",
        "on ",
        "mat ",
        "Ann ",
        "the",
        "cat",
        "云南",
        "去",
        "北京",
        ",",
    )
)
SENTENCE = "the cat sat on the mat the dog ran on the mat "


def predictor(runtime: TableRuntime | None = None, **options: Any) -> Predictor:
    """A predictor on a table."""
    runtime = runtime or TableRuntime(TOKENIZER, spread=0.7)
    return Predictor(fake_checkpoint(TOKENIZER, runtime.sizes), runtime, **options)


def predicted(
    subject: Predictor, text: str, history: str = "", top_k: int = 20, tenant: str = ""
) -> PredictResult:
    """One answer, on the predictor's own cache."""
    scheduler = Scheduler(subject.runtime)
    scheduler.add(0, subject.start(PredictQuery(text, top_k, history), tenant))
    while True:
        for _, answer in scheduler.step():
            assert isinstance(answer, PredictResult), answer
            return answer


def test_the_next_token_is_the_networks_corrected_by_what_was_written() -> None:
    """After a space the answers are the corrected row; what follows the last seam is not counted yet."""
    runtime = TableRuntime(TOKENIZER, spread=0.7)
    subject = predictor(runtime, search=SearchOptions(0, 64, 8, 0, 0, 64, 8, 0, 64))
    text = SENTENCE * 3
    tokens = [START, *TOKENIZER.encode(text)]
    states, outputs = runtime.run_tower(
        "forward",
        initial_states(runtime.sizes, "forward", 1),
        np.array([tokens]),
        np.array([len(tokens)]),
    )
    del states
    network = np.exp(runtime.score("next", outputs[:, -1]))[0]
    seam = TokenIndex(TOKENIZER).last_stable_boundary(text)
    settled = np.array([START, *TOKENIZER.encode(text[:seam])])
    expected = CacheLM(settled, TOKENIZER.background).mix(network, tokens[-3:])
    found = {each.append: each.probability for each in predicted(subject, text).candidates}
    token = TOKENIZER.surfaces.index("云南")
    assert found["云南"] == pytest.approx(float(expected[token]), rel=1e-4)
    assert not np.isclose(expected[token], network[token])


@pytest.mark.parametrize("history", ["", "Ann ran on the mat\n" * 8])
def test_typing_with_a_cache_answers_what_a_fresh_start_answers(history: str) -> None:
    """Key by key through a long text, what the cache remembers changes nothing, bit for bit."""
    runtime = TableRuntime(TOKENIZER, spread=0.7)
    typing = predictor(runtime)
    text = SENTENCE * 3 + "去云南,Ann sat"
    for end in range(60, len(text) + 1):
        fresh = predicted(predictor(runtime, cache_bytes=0), text[:end], history)
        assert predicted(typing, text[:end], history).candidates == fresh.candidates, end


def test_a_history_makes_its_words_likelier() -> None:
    """A name that was written before comes back; without the memory it does not matter."""
    history = "Ann sat on the mat\nAnn ran on the mat\n" * 6

    def share(**options: Any) -> list[float]:
        answers = [predicted(predictor(**options), "the ", each) for each in ("", history)]
        return [
            next(c.probability for c in answer.candidates if c.word == "Ann") for answer in answers
        ]

    without, with_history = share()
    assert with_history > 1.2 * without
    without, with_history = share(use_cache_lm=False)
    assert with_history == without


def test_histories_and_tenants_are_kept_apart() -> None:
    """On one cache, a text with another history, or of another tenant, is answered as if nothing had been asked."""
    runtime = TableRuntime(TOKENIZER, spread=0.7)
    shared = predictor(runtime)
    for history in ("Ann sat on the mat\n" * 9, "", "去云南,去北京\n" * 9):
        for tenant in ("a", "b"):
            fresh = predicted(predictor(runtime), "the cat ", history)
            again = predicted(shared, "the cat ", history, tenant=tenant)
            assert again.candidates == fresh.candidates
            assert again.usage.cached_tokens == 0
    assert (
        predicted(shared, "the cat ", tenant="a").usage.cached_tokens > 0
    )  # the control: the same again is found


@pytest.mark.parametrize("architecture", ["two_towers", "forward"])
def test_a_blank_is_filled_by_what_stands_elsewhere(architecture: str) -> None:
    """A word of the text's other side, or of the history, is likelier in a blank than without memory."""

    def share(text: str, history: str = "", **options: Any) -> float:
        subject = predictor(
            TableRuntime(TOKENIZER, spread=0.7, architecture=architecture), **options
        )
        (answer,) = subject.run([ClozeQuery(text, history=history, choices=["云南", "北京"])])
        assert isinstance(answer, ClozeResult), answer
        return next(each.probability for each in answer.blanks[0].candidates if each.word == "云南")

    plain = share("去____,云南云南", use_cache_lm=False)
    assert share("去____,云南云南") > plain
    assert share("去____,", "云南,云南\n" * 4) > share("去____,")
    assert share("去____,", "云南,云南\n" * 4, use_cache_lm=False) == share(
        "去____,", use_cache_lm=False
    )
