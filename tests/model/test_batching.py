"""The scheduler: many decoders, few calls, and no decoder that feels another."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.batching import CHUNK, Decoder, RunTower, Scheduler, Score, Step, gather
from model.checkpoint import load_checkpoint
from model.config import WORD
from model.onnx_runtime import OnnxRuntime
from model.predictor import Predictor
from model.queries import ClozeQuery, PredictQuery, PredictResult, Query, ScoreQuery, Usage
from model.runtime import Float32Array
from tests.fakes import TableRuntime, fake_checkpoint, hand_tokenizer

TOKENIZER = hand_tokenizer(("a ", "b ", "c "))
STATE = np.zeros(2, dtype=np.float32)


def runtime() -> TableRuntime:
    """A fresh table."""
    return TableRuntime(TOKENIZER)


def asking(*lists: Sequence[Step]) -> Decoder[list[list[Float32Array]]]:
    """A decoder that asks for each list in turn and answers all that came."""
    answers: list[list[Float32Array]] = []
    for steps in lists:
        answers += [list((yield steps))]
    return answers


def finish(scheduler: Scheduler) -> dict[Any, Any]:
    """Step until nothing is left."""
    answers: dict[Any, Any] = {}
    while scheduler.pending:
        answers.update(scheduler.step())
    return answers


def test_steps_of_all_decoders_share_one_call_per_kind() -> None:
    """Three decoders that read one token and score one row cost one call of each kind."""
    table = runtime()
    scheduler = Scheduler(table)
    for ticket in range(3):
        scheduler.add(
            ticket,
            asking([RunTower("forward", STATE, (300 % TOKENIZER.size,)), Score("next", STATE)]),
        )
    answers = finish(scheduler)
    assert sorted(answers) == [0, 1, 2]
    assert table.calls == [("forward", 3), ("next", 3)]
    assert scheduler.rows == {"forward": 3, "next": 3}


def test_a_state_is_scored_in_the_round_that_computes_it() -> None:
    """A decoder that runs a tower and then scores the state takes one round."""
    table = runtime()
    scheduler = Scheduler(table)

    def decoder() -> Decoder[Float32Array]:
        (state,) = yield [RunTower("forward", STATE, (261,))]
        (row,) = yield [Score("next", state)]
        return row

    scheduler.add("one", decoder())
    ((ticket, row),) = scheduler.step()
    assert (ticket, row.shape) == ("one", (TOKENIZER.size,))
    assert table.calls == [("forward", 1), ("next", 1)]


def test_a_decoder_that_comes_later_joins_the_next_round() -> None:
    """Nobody waits for a batch to be full or to end."""
    table = runtime()
    scheduler = Scheduler(table)
    scheduler.add("early", asking([Score("next", STATE)], [Score("next", STATE)]))
    assert scheduler.step() == []
    scheduler.add("late", asking([Score("next", STATE)]))
    assert {ticket for ticket, _ in scheduler.step()} == {"early", "late"}
    assert table.calls == [("next", 1), ("next", 2)]


def test_results_come_in_the_order_of_the_steps() -> None:
    """Whatever the kinds and lengths, result n answers step n."""
    steps: list[Step] = [
        Score("next", STATE, (261, 262)),
        RunTower("forward", STATE, (261, 262, 263)),
        RunTower("backward", STATE, (263, 261), keep_outputs=True),
        Score("gap", STATE, kind=WORD),
        RunTower("forward", STATE, ()),
        RunTower("forward", STATE, (), keep_outputs=True),
    ]
    scheduler = Scheduler(runtime())
    scheduler.add("one", asking(steps))
    ((picked, state, outputs, gap, same, nothing),) = finish(scheduler)["one"]
    assert picked.shape == (2,)
    assert state.tolist() == [262, 263]
    assert outputs.tolist() == [[0, 263], [263, 261]]
    assert gap.shape == (TOKENIZER.size,)
    assert same.tolist() == STATE.tolist()
    assert nothing.shape == (0, 2)


def test_a_long_text_does_not_hold_a_short_one_up() -> None:
    """A reading takes part in one chunk per round; a short one beside it is done after the first, in its own call."""
    table = runtime()
    scheduler = Scheduler(table)
    scheduler.add(
        "long", asking([RunTower("forward", STATE, (261,) * (2 * CHUNK + 1), keep_outputs=True)])
    )
    scheduler.add("short", asking([RunTower("forward", STATE, (262,))]))
    assert [ticket for ticket, _ in scheduler.step()] == ["short"]
    assert table.calls == [("forward", 1), ("forward", 1)]
    ((outputs,),) = finish(scheduler)["long"]
    assert outputs.shape == (2 * CHUNK + 1, 2)
    assert scheduler.rows["forward"] == 2 * CHUNK + 2


def test_a_poisoned_decoder_fails_alone() -> None:
    """Whatever a decoder does wrong, by raising or by asking for nonsense, the others get their answers."""

    def raising() -> Decoder[None]:
        yield [Score("next", STATE)]
        raise ZeroDivisionError

    scheduler = Scheduler(runtime())
    scheduler.add("raises", raising())
    scheduler.add("shape", asking([Score("next", np.zeros(3, dtype=np.float32))]))
    scheduler.add("token", asking([RunTower("forward", STATE, (TOKENIZER.size,))]))
    scheduler.add("only", asking([Score("next", STATE, (TOKENIZER.size,))]))
    scheduler.add("good", asking([Score("next", STATE)], [Score("next", STATE)]))
    answers = finish(scheduler)
    assert isinstance(answers["raises"], ZeroDivisionError)
    assert isinstance(answers["shape"], ValueError)
    assert isinstance(answers["token"], ValueError)
    assert isinstance(answers["only"], ValueError)
    assert len(answers["good"]) == 2


def test_a_row_that_the_runtime_refuses_fails_alone() -> None:
    """When a call fails, its rows are tried one by one, and only the guilty one's decoder fails."""

    class Picky(TableRuntime):
        def score(self, head: Any, *inputs: Any) -> Float32Array:
            if np.isnan(inputs[0]).any():
                raise RuntimeError("not a number")
            return super().score(head, *inputs)

    scheduler = Scheduler(Picky(TOKENIZER))
    scheduler.add(
        "bad", asking([Score("next", STATE), Score("next", np.full(2, np.nan, dtype=np.float32))])
    )
    scheduler.add("good", asking([Score("next", STATE)]))
    answers = finish(scheduler)
    assert isinstance(answers["bad"], RuntimeError)
    assert answers["good"][0][0].shape == (TOKENIZER.size,)


def test_a_cancelled_decoder_is_closed_and_forgotten() -> None:
    """Cancelling runs the decoder's clean-up, spares its rows, and leaves the others alone."""
    closed = []

    def watched() -> Decoder[None]:
        try:
            while True:
                yield [Score("next", STATE)]
        finally:
            closed.append(True)

    table = runtime()
    scheduler = Scheduler(table)
    scheduler.add("watched", watched())
    scheduler.add("other", asking([Score("next", STATE)], [Score("next", STATE)]))
    scheduler.step()
    assert scheduler.cancel("watched") and closed == [True]
    assert not scheduler.cancel("watched")
    assert [ticket for ticket, _ in scheduler.step()] == ["other"]
    assert table.calls == [("next", 2), ("next", 1)]
    assert scheduler.pending == 0


def test_a_ticket_is_used_once_at_a_time() -> None:
    """Two live decoders cannot share a ticket."""
    scheduler = Scheduler(runtime())
    scheduler.add(1, asking([Score("next", STATE)]))
    with pytest.raises(ValueError, match="ticket"):
        scheduler.add(1, asking())


def test_calls_are_capped(monkeypatch: pytest.MonkeyPatch) -> None:
    """More rows than one call may hold make more calls, long rows sooner than short ones, and every one is reported."""
    monkeypatch.setattr("model.batching.TOWER_TOKENS", 3)
    seen: list[tuple[str, int]] = []
    table = runtime()
    table.head_rows = 2
    scheduler = Scheduler(table, lambda kind, rows, _: seen.append((kind, rows)))
    scheduler.add(1, asking([Score("next", STATE)] * 5, [RunTower("forward", STATE, (261,))] * 4))
    finish(scheduler)
    assert seen == [("next", 2), ("next", 2), ("next", 1), ("forward", 3), ("forward", 1)]
    seen.clear()
    scheduler.add(2, asking([RunTower("forward", STATE, (261, 262))] * 2))
    finish(scheduler)
    assert seen == [("forward", 1), ("forward", 1)]


def count_up(steps: int) -> Decoder[float]:
    """Ask *steps* times for one thing and add up what came."""
    total = 0.0
    for number in range(steps):
        (row,) = yield [RunTower("forward", STATE, (number,))]
        total += float(row[0])
    return total


def test_gather_merges_steps_and_keeps_answers_apart() -> None:
    """Decoders of different length share their rounds; each gets its own results, answers come in order."""
    joined = gather([count_up(2), count_up(0), count_up(3)])
    steps = next(joined)
    rounds = []
    with pytest.raises(StopIteration) as stop:
        while True:
            rounds.append(len(steps))
            steps = joined.send(
                [np.array([10.0 * index + 1], dtype=np.float32) for index in range(len(steps))]
            )
    assert rounds == [2, 2, 1]
    assert stop.value.value == [2.0, 0.0, 11.0 + 11.0 + 1.0]


def test_gather_passes_an_error_on() -> None:
    """One failing part fails the whole: the parts belong to one query."""

    def fail() -> Decoder[float]:
        yield []
        raise ValueError("broken")

    joined = gather([count_up(2), fail()])
    next(joined)
    with pytest.raises(ValueError, match="broken"):
        joined.send([STATE])


QUERIES: tuple[Query, ...] = (
    PredictQuery("I like the", 8),
    PredictQuery("I like th"),
    PredictQuery("我昨天上学迟"),
    PredictQuery(""),
    PredictQuery("to go to the theatre " * 12),
    ClozeQuery("I like to go to the ____ in the evening.", 3),
    ClozeQuery("我的手机坏了,我打算____一部新手机。"),
    ClozeQuery("____ like to go to the ____"),
    ClozeQuery("他们在____学习。", choices=("学校", "公园", "the cat")),
    ScoreQuery("今天天气很好,我们去公园走走。"),
    ScoreQuery("She said that he would like the other theme." * 3),
)


@pytest.fixture(scope="module", params=["onnx", "table"])
def make(request: pytest.FixtureRequest, tiny_checkpoint: Path) -> Callable[[], Predictor]:
    """Predictors on a small int8 network, and on a table of the same vocabulary."""
    checkpoint = load_checkpoint(tiny_checkpoint)
    if request.param == "onnx":
        onnx = OnnxRuntime(tiny_checkpoint, checkpoint.network)
        return lambda: Predictor(checkpoint, onnx)
    table = TableRuntime(checkpoint.tokenizer)
    return lambda: Predictor(fake_checkpoint(checkpoint.tokenizer, table.sizes), table)


@pytest.fixture(scope="module")
def alone(make: Callable[[], Predictor]) -> list[Any]:
    """What each query is answered when it is the only one."""
    predictor = make()
    answers = [predictor.run([query])[0] for query in QUERIES]
    assert not [answer for answer in answers if isinstance(answer, Exception)]
    return [without_cache(answer) for answer in answers]


def without_cache(answer: Any) -> Any:
    """An answer but for what it found in the cache, which others may have left there."""
    spared = {"network_rows": 0} if isinstance(answer, PredictResult) else {}
    return replace(answer, usage=Usage(answer.usage.tokens), **spared)


@given(order=st.lists(st.integers(0, len(QUERIES) - 1), min_size=1, max_size=12))
@settings(max_examples=15, deadline=None)
def test_any_mix_gives_each_query_the_answer_it_gets_alone(
    make: Callable[[], Predictor], alone: list[Any], order: list[int]
) -> None:
    """Bit for bit, in any order, with any neighbours."""
    answers = make().run([QUERIES[number] for number in order])
    assert [without_cache(answer) for answer in answers] == [alone[number] for number in order]
