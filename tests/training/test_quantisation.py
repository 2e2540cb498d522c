"""The cost of int8: scores of held-out lines, and the gate."""

import re
from pathlib import Path

import numpy as np
import pytest

from model.checkpoint import load_checkpoint
from model.errors import ExportError
from model.runtime import initial_states, log_of, open_runtime
from model.torch_runtime import open_torch_runtime
from tests.fixtures_checkpoint import LINES
from training.data.shards import open_prepared
from training.evaluation.quantisation import (
    Measurement,
    check_cost,
    held_out_lines,
    measure,
    score_gaps,
    score_next,
    take,
)


def measurement(
    nats: float, top3: float, gap: float, tokens: int = 20_000, seed: int = 0
) -> Measurement:
    """Return tokens with these means; the same seed gives the same noise."""
    noise = np.random.default_rng(0).normal(size=tokens)
    noise += np.random.default_rng(seed).normal(size=tokens) * 0.02
    misses = (np.arange(tokens) >= round(top3 * tokens)) * 1.0
    return {"perplexity": nats + noise, "top3": misses, "gap_perplexity": gap + noise}


@pytest.mark.parametrize(
    ("quantised", "refused"),
    [
        (measurement(5.005, 0.3985, 3.005, seed=1), None),
        (measurement(4.9, 0.5, 2.9, seed=1), None),
        (measurement(5.012, 0.4, 3.0, seed=1), "of perplexity"),
        (measurement(5.0, 0.397, 3.0, seed=1), "of top3"),
        (measurement(5.0, 0.4, 3.012, seed=1), "of gap_perplexity"),
        (measurement(float("nan"), 0.4, 3.0, seed=1), "of perplexity"),
    ],
)
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_the_gate_has_limits(quantised: Measurement, refused: str | None) -> None:
    """1 % of perplexity and 0.2 points of top-3 are the limits; gains pass, NaN does not."""
    reference = measurement(5.0, 0.4, 3.0)
    if refused is None:
        cost = check_cost(reference, quantised)
        expected = np.expm1(np.mean(quantised["perplexity"] - reference["perplexity"]))
        assert (cost["tokens"], cost["perplexity"]) == (20_000, pytest.approx(expected))
    else:
        with pytest.raises(ExportError, match=refused):
            check_cost(reference, quantised)


def test_chance_alone_does_not_close_the_gate(capsys: pytest.CaptureFixture[str]) -> None:
    """On 300 tokens one lost hit is above 0.2 points, but no evidence; thirty are."""
    reference = measurement(5.0, 0.4, 3.0, tokens=300)
    check_cost(reference, reference | {"top3": (np.arange(300) >= 119) * 1.0})
    worse = reference | {"top3": (np.arange(300) >= 90) * 1.0}
    with pytest.raises(ExportError, match="top3"):
        check_cost(reference, worse)
    assert capsys.readouterr().err == ""
    assert check_cost(reference, worse, gate=False)["top3"] > 0.05
    assert re.match(r"warning: int8 graphs cost \d+\.\d+ % of top3", capsys.readouterr().err)


def test_runtimes_agree_on_held_out_lines(tiny_prepared: Path, exported: Path) -> None:
    """int8 graphs score nearly as torch does with the same weights."""
    checkpoint = load_checkpoint(exported)
    by_language = held_out_lines(open_prepared(tiny_prepared).held_out)
    assert list(by_language) == ["en", "zh"]
    lines = [line for each in by_language.values() for line in each]
    int8 = measure(open_runtime(checkpoint), lines)
    reference = measure(open_torch_runtime(exported, checkpoint.network, "cpu"), lines)
    for name in ("perplexity", "gap_perplexity"):
        assert len(reference[name]) == sum(map(len, lines))
        assert 0 < np.abs(int8[name] - reference[name]).max() < 0.2


def test_tokens_are_scored_from_their_own_sides(exported: Path) -> None:
    """A token in a batch of lines gets the score that its left, or both sides, give alone."""
    checkpoint = load_checkpoint(exported)
    runtime, network = open_runtime(checkpoint), checkpoint.network
    lines = [np.array(checkpoint.tokenizer.encode(text)) for text in LINES[2::-1]]
    start, end = initial_states(network, "forward", 1), initial_states(network, "backward", 1)
    # Lines are scored from short to long
    tokens = [(line, place) for line in sorted(lines, key=len) for place in range(len(line))]
    following = [row for rows, _ in score_next(runtime, lines) for row in rows]
    between = [row for rows, _ in score_gaps(runtime, lines) for row in rows]
    zero = np.zeros(1, dtype=np.int64)
    for (line, place), next_row, gap_row in zip(tokens, following, between, strict=True):
        before, after = np.array([[1, *line[:place]]]), np.array([[2, *line[:place:-1]]])
        _, left = runtime.run_tower("forward", start, before, np.array([place + 1]))
        _, right = runtime.run_tower("backward", end, after, np.array([len(line) - place]))
        assert np.array_equal(log_of(runtime.score("next", left[:, -1])[0]), next_row)
        gap = runtime.score("gap", left[:, -1], right[:, -1], zero == 0, zero, zero + 1)
        assert np.array_equal(gap[0], gap_row)


def test_lines_are_taken_until_they_hold_enough_tokens() -> None:
    """At least one line is taken, and empty ones are left out."""
    lines = [np.arange(length) for length in (0, 5, 0, 3, 4)]
    assert [[len(line) for line in take(lines, tokens)] for tokens in (0, 5, 6)] == [
        [5],
        [5],
        [5, 3],
    ]
