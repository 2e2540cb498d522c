"""Tests of training/plan.py."""

from pathlib import Path

import numpy as np
import pytest

from model.checkpoint import DEFAULT_CHECKPOINT, Checkpoint, load_checkpoint
from tests.fixtures_checkpoint import tiny_tokenizer
from training.data.epoch import plan_epoch
from training.data.shards import NO_CUT, Prepared, Shard, weigh_sources
from training.plan import NETWORKS, OTHER_SECONDS, Plan, PlanOptions, guess_seconds, plan_run

LINE_TOKENS = 20


@pytest.fixture(scope="module")
def base() -> Checkpoint:
    """The bundled checkpoint."""
    return load_checkpoint(DEFAULT_CHECKPOINT)


def prepared(lines: int, replay: int = 0) -> Prepared:
    """Lines of text and of replay, each of 20 tokens and 40 characters."""
    shards = []
    for name, count in (("text", lines), ("replay-general", replay), ("text", lines // 20)):
        table = np.full((count, 3), NO_CUT, dtype=np.uint32)
        table[:, 0] = LINE_TOKENS
        ids = np.zeros(count * LINE_TOKENS, dtype=np.uint16)
        shards.append(Shard(name, "en", False, 1.0, ids, table, 2 * len(ids)))
    text, general, held_out = shards
    sources = (text, general) if replay else (text,)
    return Prepared(Path("data"), sources, (held_out,), tiny_tokenizer(), b"", "0" * 64)


def plan(lines: int, base: Checkpoint | None, **choices: object) -> Plan:
    """Return the plan for a number of lines."""
    return plan_run(prepared(lines), base, PlanOptions(**choices))


@pytest.mark.parametrize("adapted", [True, False])
@pytest.mark.parametrize(("lines", "minutes"), [(100, 3.0), (20_000, 3.0), (100_000, 30.0)])
def test_a_plan_is_within_the_minutes(
    base: Checkpoint, adapted: bool, lines: int, minutes: float
) -> None:
    """All parts together take the minutes at most, and warm-up is a small part of the run."""
    chosen = plan(lines, base if adapted else None, minutes=minutes)
    assert chosen.config.steps > 1
    assert chosen.reading_seconds + chosen.training_seconds + OTHER_SECONDS <= 60 * minutes
    assert 1 <= chosen.config.optimizer.warmup_steps <= 0.06 * chosen.config.steps + 1
    assert chosen == plan(lines, base if adapted else None, minutes=minutes)


def test_passes_limit_small_text_and_minutes_limit_large_text(base: Checkpoint) -> None:
    """A small text is read four times in small batches, a large one as far as the time allows."""
    small, longer = plan(300, base), plan(300, base, minutes=100.0)
    assert small == longer
    assert small.passes == pytest.approx(4, abs=0.05)
    large, longer = plan(200_000, base), plan(200_000, base, minutes=100.0)
    assert large.passes < longer.passes < 4
    assert small.config.data.rows < large.config.data.rows


def test_more_time_and_text_give_a_larger_network() -> None:
    """From nothing, ten minutes train the smallest network, and a day the largest."""
    hidden = [
        network.hidden_size
        for minutes in (1.0, 10.0, 120.0, 1440.0)
        if (network := plan(50_000, None, minutes=minutes).config.network)
    ]
    assert hidden == sorted(hidden)
    assert (hidden[1], hidden[-1]) == (NETWORKS[0].hidden_size, NETWORKS[-1].hidden_size)


def test_every_choice_can_be_made_by_the_user(base: Checkpoint) -> None:
    """Options replace what would be chosen; a cycle fits the steps that are asked for."""
    chosen = plan(5_000, base, steps=7, rows=3, learning_rate=0.02, threads=2, seed=9).config
    assert (chosen.steps, chosen.data.rows, chosen.threads, chosen.seed) == (7, 3, 2, 9)
    assert chosen.optimizer.learning_rate == 0.02
    assert chosen.optimizer.warmup_steps == 1
    faster = plan(200_000, base, threads=2).config
    assert faster.steps > 1.5 * plan(200_000, base).config.steps


def test_replay_is_a_third_of_what_is_read(base: Checkpoint) -> None:
    """The weight of the replay gives it 30 % of the tokens of a pass."""
    data = prepared(4_000, replay=20_000)
    config = plan_run(data, base, PlanOptions()).config.data
    sources = weigh_sources(data.sources, config.source_weights)
    rows = [row for batch in plan_epoch(sources, config, 1, 0) for row in batch.rows if row]
    share = sum(sources[row.source].name == "replay-general" for row in rows) / len(rows)
    assert share == pytest.approx(0.3, abs=0.02)


def test_the_first_guess_needs_only_the_size_of_the_files() -> None:
    """It grows with the size up to the minutes."""
    guesses = [guess_seconds(size, PlanOptions(minutes=8.0)) for size in (10**4, 10**6, 10**7)]
    assert OTHER_SECONDS < guesses[0] < guesses[1] <= guesses[2] == 480


def test_the_choices_are_printed(base: Checkpoint) -> None:
    """The text has the numbers of the run."""
    chosen = plan_run(prepared(4_000, replay=20_000), base, PlanOptions(steps=77))
    printed = chosen.to_text()
    for part in ("steps: 77", "480 cells", "0.001", "replay: 9 %", "about"):
        assert part in printed
