"""The scheduler: many decoders, few calls, and no decoder that affects another."""

import weakref
from collections.abc import Callable, Sequence
from dataclasses import replace
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.batching import CHUNK_TOKENS, Decoder, RunTower, Scheduler, Score, Step, gather
from model.config import WORD
from model.predictor import Predictor, open_model
from model.queries import ClozeQuery, PredictQuery, PredictResult, Query, ScoreQuery, Usage
from model.runtime import Float32Array
from tests.fakes import TableRuntime, hand_tokenizer, table_predictor

TOKENIZER = hand_tokenizer(("a ", "b ", "c "))
STATE = np.zeros(2, dtype=np.float32)
SCORE = Score("next", STATE)


def run(*tokens: int) -> RunTower:
    """Run the forward tower from the start."""
    return RunTower("forward", STATE, tokens)


def requesting(*lists: Sequence[Step]) -> Decoder[list[Sequence[Float32Array]]]:
    """Request each list in turn and return all results."""
    results = []
    for steps in lists:
        results += [(yield steps)]
    return results


def finish(scheduler: Scheduler) -> dict[Any, Any]:
    """Step until nothing is left."""
    answers: dict[Any, Any] = {}
    while scheduler.pending:
        answers.update(scheduler.step())
    return answers


def test_waiting_steps_share_one_call_per_kind() -> None:
    """A later decoder joins the next round, in which its new state is also scored."""

    def late() -> Decoder[None]:
        (state,) = yield [run(262)]
        yield [Score("next", state)]

    table = TableRuntime(TOKENIZER)
    scheduler = Scheduler(table)
    scheduler.add("early", requesting([run(261), SCORE], [SCORE]))
    assert scheduler.step() == []
    scheduler.add("late", late())
    assert {ticket for ticket, _ in scheduler.step()} == {"early", "late"}
    assert table.calls == [("forward", 1), ("next", 1), ("forward", 1), ("next", 2)]


def test_results_come_in_the_order_of_the_steps() -> None:
    """Result n answers step n, whatever the kinds and lengths."""
    steps: list[Step] = [
        Score("next", STATE, reduce=itemgetter([261, 262])),
        run(261, 262, 263),
        RunTower("backward", STATE, (263, 261), keep_outputs=True),
        Score("gap", STATE, kind=WORD),
        run(),
        RunTower("forward", STATE, (), keep_outputs=True),
    ]
    scheduler = Scheduler(TableRuntime(TOKENIZER))
    scheduler.add("one", requesting(steps))
    ((picked, state, (outputs, end), gap, same, (nothing, unmoved)),) = finish(scheduler)["one"]
    assert picked.shape == (2,)
    assert state.tolist() == [262, 263]
    assert state.base is None  # a view would keep the whole batch in memory
    assert outputs.tolist() == [[0, 263], [263, 261]]
    assert end.tolist() == [263, 261]
    assert gap.shape == (TOKENIZER.size,)
    assert same.tolist() == STATE.tolist()
    assert nothing.shape == (0, 2)
    assert unmoved.tolist() == STATE.tolist()


def test_a_long_text_does_not_hold_a_short_one_up() -> None:
    """A long RunTower takes one chunk a round; a short one is done after the first."""
    table = TableRuntime(TOKENIZER)
    scheduler = Scheduler(table)
    step = RunTower("forward", STATE, (261,) * (2 * CHUNK_TOKENS + 1), keep_outputs=True)
    scheduler.add("long", requesting([step]))
    scheduler.add("short", requesting([run(262)]))
    assert [ticket for ticket, _ in scheduler.step()] == ["short"]
    assert table.calls == [("forward", 1), ("forward", 1)]
    (((outputs, _),),) = finish(scheduler)["long"]
    assert outputs.shape == (2 * CHUNK_TOKENS + 1, 2)


def test_results_of_gathered_decoders_are_free_while_the_next_steps_run() -> None:
    """Rows are large: each is freed as soon as its decoder has used it."""
    rows: list[weakref.ref[Float32Array]] = []

    def reading() -> Decoder[float]:
        (row,) = yield [SCORE]
        rows.append(weakref.ref(row))
        best = float(row.max())
        del row
        yield [run(261)]
        return best

    scheduler = Scheduler(TableRuntime(TOKENIZER))
    scheduler.add("both", gather([reading(), gather([reading()])]))
    assert scheduler.step() == []
    assert len(rows) == 2
    assert [row() for row in rows] == [None, None]
    assert len(finish(scheduler)["both"]) == 2


def test_calls_are_capped(monkeypatch: pytest.MonkeyPatch) -> None:
    """More rows than fit make more calls, long rows sooner than short ones; all are reported."""
    monkeypatch.setattr("model.batching.TOWER_TOKENS", 3)
    seen: list[tuple[str, int, int]] = []
    table = TableRuntime(TOKENIZER)
    table.head_rows = 2
    scheduler = Scheduler(table, lambda *call: seen.append(call))
    scheduler.add(1, requesting([SCORE] * 5, [run(261)] * 4, [run(261, 262)] * 2))
    finish(scheduler)
    assert seen[:3] == [("next", 2, 2), ("next", 2, 2), ("next", 1, 1)]
    assert seen[3:] == [("forward", *rows) for rows in ((3, 3), (1, 1), (1, 2), (1, 2))]


def test_a_failing_decoder_fails_alone() -> None:
    """If a decoder raises, or a step is impossible or fails, the others get their answers."""

    class Picky(TableRuntime):
        def score(self, head: Any, *inputs: Any) -> Float32Array:
            if np.isnan(inputs[0]).any():
                raise RuntimeError("not a number")
            return super().score(head, *inputs)

    def raising() -> Decoder[None]:
        yield [SCORE]
        raise ZeroDivisionError

    long, nan = np.zeros(3, dtype=np.float32), np.full(2, np.nan, dtype=np.float32)
    failing: dict[type[Exception], list[Decoder[Any]]] = {
        ZeroDivisionError: [raising(), gather([requesting([SCORE], [SCORE]), raising()])],
        IndexError: [requesting([Score("next", STATE, reduce=itemgetter(TOKENIZER.size))])],
        RuntimeError: [requesting([SCORE, Score("next", nan)], [SCORE])],
        ValueError: [
            requesting([Score("next", long)]),
            requesting([RunTower("forward", long, (261,))]),
            requesting([run(TOKENIZER.size)]),
        ],
    }
    scheduler = Scheduler(Picky(TOKENIZER))
    scheduler.add("good", requesting([SCORE], [SCORE]))
    for error, decoders in failing.items():
        for number, decoder in enumerate(decoders):
            scheduler.add((error, number), decoder)
    answers = finish(scheduler)
    assert len(answers.pop("good")) == 2
    assert len(answers) == 7
    assert all(type(answer) is error for (error, _), answer in answers.items())


def test_a_cancelled_decoder_is_closed_and_forgotten() -> None:
    """Cancelling runs its clean-up and saves its rows; a live ticket is not given again."""
    closed = []

    def watched() -> Decoder[None]:
        try:
            while True:
                yield [SCORE]
        finally:
            closed.append(True)

    table = TableRuntime(TOKENIZER)
    scheduler = Scheduler(table)
    scheduler.add("watched", watched())
    scheduler.add("other", requesting([SCORE], [SCORE]))
    scheduler.step()
    with pytest.raises(ValueError, match="ticket"):
        scheduler.add("other", requesting())
    scheduler.cancel("watched")
    assert closed == [True]
    scheduler.cancel("watched")
    assert [ticket for ticket, _ in scheduler.step()] == ["other"]
    assert table.calls == [("next", 2), ("next", 1)]
    assert scheduler.pending == 0


def test_gathered_decoders_share_rounds_but_not_results() -> None:
    """Each decoder gets its own results, whatever the lengths; answers come in order."""
    table = TableRuntime(TOKENIZER)
    scheduler = Scheduler(table)
    lists = [[run(261)], [run(262, 263)]], [], [[run(263)]] * 3
    scheduler.add("all", gather([requesting(*each) for each in lists]))
    first, none, last = finish(scheduler)["all"]
    assert [state.tolist() for (state,) in first] == [[0, 261], [262, 263]]
    assert none == []
    assert [state.tolist() for (state,) in last] == [[0, 263]] * 3
    assert table.calls == [("forward", 2), *[("forward", 1)] * 3]


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
    ScoreQuery("eatre in the evening", "I like to go to the th", details=True),
)


@pytest.fixture(scope="module", params=["onnx", "table"])
def make(request: pytest.FixtureRequest, tiny_checkpoint: Path) -> Callable[[], Predictor]:
    """Predictors on a small int8 network, and on a table of the same vocabulary."""
    checkpoint, onnx = open_model(tiny_checkpoint)
    if request.param == "onnx":
        return lambda: Predictor(checkpoint, onnx)
    return lambda: table_predictor(TableRuntime(checkpoint.tokenizer))


@pytest.fixture(scope="module")
def alone(make: Callable[[], Predictor]) -> list[Any]:
    """The answer to each query when it is the only one."""
    return [without_cache(answer) for query in QUERIES for answer in make().run([query])]


def without_cache(answer: Any) -> Any:
    """Return an answer without what depends on the cache, which other queries fill."""
    rows = {"network_rows": 0} if isinstance(answer, PredictResult) else {}
    return replace(answer, usage=Usage(answer.usage.tokens), **rows)


@given(order=st.lists(st.integers(0, len(QUERIES) - 1), min_size=1, max_size=12))
@settings(max_examples=10, deadline=None)
def test_any_mix_gives_each_query_the_answer_it_gets_alone(
    make: Callable[[], Predictor], alone: list[Any], order: list[int]
) -> None:
    """Answers are equal bit for bit, in any order, with any neighbours."""
    answers = make().run([QUERIES[number] for number in order])
    assert [without_cache(answer) for answer in answers] == [alone[number] for number in order]
