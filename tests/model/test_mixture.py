"""A network mixed with counts: the formula, the states, and independence of the batch."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from model.checkpoint import load_checkpoint
from model.config import EVIDENCE
from model.mixture import WINDOW, Mixture, MixtureRuntime
from model.onnx_runtime import OnnxRuntime
from model.queries import ClozeQuery, PredictQuery, Query, ScoreQuery
from model.runtime import (
    Float32Array,
    Float64Array,
    Int32Array,
    Runtime,
    check_runtime,
    initial_states,
    output_slice,
)
from model.tokenizer import FIRST_BYTE, START, Tokenizer
from model.torch_runtime import open_torch_runtime
from tests.fakes import TYPING, TableRuntime, answer, table_predictor
from tests.fixtures_checkpoint import tiny_tokenizer

SHARES = {"zh": (0.1, 0.5), "en": (0.6, 0.2)}
GENERAL = {key: tuple(np.linspace(*ends, EVIDENCE).tolist()) for key, ends in SHARES.items()}
OWN = {"zh": (0.6,) * EVIDENCE, "en": (0.7,) * EVIDENCE}
COMMA, LATE = (TYPING.surfaces.index(surface) for surface in (", ", "迟到"))


class RandomCounts:
    """Counts whose rows are random, by the last token; evidence is by the tokens of a context."""

    def __init__(self, size: int, seed: int = 0) -> None:
        self.rows = np.random.default_rng(seed).random((size, size)).astype(np.float32)
        self.rows[:, :FIRST_BYTE] = 0
        self.rows /= self.rows.sum(axis=1, keepdims=True)

    def evidence(self, context: Sequence[int]) -> int:
        """Count the tokens that are not 0."""
        return sum(token > 0 for token in context)

    def mix(self, rows: Float32Array, contexts: Int32Array, weights: Float64Array) -> None:
        """Mix the row of the last token."""
        for row, context, by_evidence in zip(rows, contexts.tolist(), weights, strict=True):
            weight = np.float32(by_evidence[self.evidence(context)])
            row[:] = (1 - weight) * row + weight * self.rows[context[-1]]

    def probs(self, context: Sequence[int], tokens: Sequence[int]) -> tuple[Float32Array, int]:
        """Look up some tokens."""
        return self.rows[context[-1]][list(tokens)], self.evidence(context)

    def log_probs_of_next(
        self, context: Sequence[int], tokens: Sequence[int], following: Sequence[int]
    ) -> Float64Array:
        """Multiply the probabilities of the following tokens."""
        del context  # a row is by the last token
        line = self.rows[following[:-1], following[1:]].prod(dtype=float)
        return np.log(self.rows[list(tokens), following[0]] * line)


def mixed(
    network: Runtime | None, tokenizer: Tokenizer = TYPING, layers: int = 1
) -> MixtureRuntime:
    """A network with one or two layers of random counts."""
    counts = [RandomCounts(tokenizer.size, seed) for seed in range(layers)]
    return MixtureRuntime(network, Mixture(counts, (GENERAL, OWN), tokenizer))


def read(runtime: Runtime, *tokens: int) -> Float32Array:
    """The output (1, H) after tokens."""
    start = initial_states(runtime.sizes, "forward", 1)
    state, _ = runtime.run_tower("forward", start, np.array([tokens]), np.array([len(tokens)]))
    return state[:, output_slice(runtime.sizes, "forward")]


@pytest.mark.parametrize(
    ("tokens", "languages", "evidence"),
    [
        ([START, 261, COMMA], "en", 3),
        ([START, 261, LATE, COMMA], "zh", 4),
        ([LATE, 261, COMMA, COMMA, COMMA, COMMA], "zh en", 4),
        ([COMMA], "zh en", 1),
    ],
)
def test_a_row_is_the_weighted_sum(tokens: list[int], languages: str, evidence: int) -> None:
    """It is (1 - λ) network + λ counts, then (1 - μ) of that + μ own counts, and sums to 1.

    After marks alone, weights are the mean of the languages'.
    """
    table = TableRuntime(TYPING)
    network = table.score("next", read(table, *tokens))[0].astype(float)
    general, own = (RandomCounts(TYPING.size, seed).rows[tokens[-1]] for seed in range(2))
    share, own_share = (
        np.mean([weights[language][evidence] for language in languages.split()])
        for weights in (GENERAL, OWN)
    )
    expected = (1 - share) * network + share * general
    expected = [expected, (1 - own_share) * expected + own_share * own]
    for layers in (1, 2):
        runtime = mixed(table, layers=layers)
        row = runtime.score("next", read(runtime, *tokens))[0].astype(float)
        np.testing.assert_allclose(row, expected[layers - 1], rtol=1e-5)
        assert abs(row.sum() - 1) < 1e-5


def test_counts_answer_without_a_network() -> None:
    """The first counts have all of the probability, and those of the writer their share."""
    for layers in (1, 2):
        runtime = mixed(None, layers=layers)
        check_runtime(runtime)
        row = runtime.score("next", read(runtime, START, 261))[0]
        first, own = (RandomCounts(TYPING.size, seed).rows[261] for seed in range(2))
        expected = first if layers == 1 else 0.3 * first + 0.7 * own
        np.testing.assert_allclose(row, expected, rtol=1e-5)


@pytest.mark.parametrize("name", ["int8", "torch", "none"])
def test_every_row_is_bit_for_bit_the_same_in_any_batch(tiny_checkpoint: Path, name: str) -> None:
    """Also read in several calls; the network's own states, outputs and other heads are kept."""
    network: Runtime | None = None
    if name != "none":
        config = load_checkpoint(tiny_checkpoint).config.network
        network = (
            OnnxRuntime(tiny_checkpoint, config)
            if name == "int8"
            else open_torch_runtime(tiny_checkpoint, config, "cpu")
        )
    runtime, generator = mixed(network, tiny_tokenizer(), layers=2), np.random.default_rng(1)
    check_runtime(runtime)
    sizes, count = runtime.sizes, 9
    output = output_slice(sizes, "forward")
    states = generator.normal(size=(count, sizes.state_size("forward"))).astype(np.float32)
    states[:, output.start : output.start + WINDOW] = generator.integers(0, 350, (count, WINDOW))
    tokens, lengths = generator.integers(5, 350, (count, 6)), generator.integers(0, 7, count)
    after, outputs = runtime.run_tower("forward", states, tokens, lengths)
    rows = runtime.score("next", after[:, output])
    np.testing.assert_allclose(rows.sum(axis=1), 1, atol=1e-5)
    for n, length in enumerate(lengths.tolist()):
        state = states[[n]]
        for cut in (slice(0, length // 2), slice(length // 2, length)):
            part = tokens[[n], cut]
            state, read = (
                runtime.run_tower("forward", state, part, np.array([part.shape[1]]))
                if part.size
                else (state, outputs[:0])
            )
        assert np.array_equal(state[0], after[n])
        assert np.array_equal(runtime.score("next", state[:, output])[0], rows[n])
        if length:
            assert np.array_equal(read[0, -1], outputs[n, length - 1])
            assert np.array_equal(outputs[n, length - 1], after[n, output])
    if network:
        inside = np.r_[: output.start, output.start + WINDOW : states.shape[1]]
        alone, _ = network.run_tower("forward", states[:, inside], tokens, lengths)
        assert np.array_equal(alone, after[:, inside])
        right = generator.normal(size=(count, sizes.output_size("backward"))).astype(np.float32)
        gap = right, lengths > 2, lengths, lengths % 3
        tops = after[:, output]
        assert np.array_equal(
            runtime.score("gap", tops, *gap), network.score("gap", tops[:, WINDOW:], *gap)
        )


@pytest.mark.parametrize(
    ("query", "field"),
    [
        (PredictQuery("I like th"), "candidates"),
        (ScoreQuery("the cat, I like", "I like"), "log_probability"),
        (ClozeQuery("I like ____ , the ____ I like"), "blanks"),
    ],
)
def test_decoders_run_over_a_mixture(query: Query, field: str) -> None:
    """Counts change the answer, and the cache does not."""
    table = TableRuntime(TYPING)
    plain = table_predictor(table)
    cached, uncached = (
        table_predictor(mixed(table), tokenizer=TYPING, cache_bytes=size) for size in (1 << 20, 0)
    )
    answers = [getattr(answer(each, query), field) for each in (plain, cached, cached, uncached)]
    assert answers[0] != answers[1] == answers[2] == answers[3]
