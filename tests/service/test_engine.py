"""Tests of service/engine.py: the engine alone, with a model side that does as the text says."""

import asyncio
import itertools
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from model.queries import PredictQuery
from service.admission import Admission, Busy
from service.engine import Engine
from service.jobs import EngineDied, ItemError, LoadedModel, NotReady
from service.settings import Settings
from tests.service.client import until
from tests.service.fakes_service import FakeModel, answer

PATIENCE_SECONDS = 60


@asynccontextmanager
async def running(
    model: FakeModel,
    load: Callable[[], LoadedModel] | None = None,
    queue_items: int = 100,
    **options: Any,
) -> AsyncIterator[Engine]:
    """An engine that has loaded."""
    outcomes: list[LoadedModel | Exception] = []
    chosen = {
        "admission": admission(queue_items),
        "batch_items": 4,
        "stall_seconds": 60.0,
    } | options
    engine = Engine(load or model.load, on_loaded=outcomes.append, on_step=lambda _: None, **chosen)
    engine.start()
    await until(lambda: bool(outcomes))
    try:
        yield engine
    finally:
        model.release.set()
        await engine.stop()


def run(scenario: Callable[[Engine, FakeModel], Awaitable[None]], **options: Any) -> FakeModel:
    """Play *scenario* on a running engine."""
    model = FakeModel()

    async def play() -> None:
        async with running(model, **options) as engine:
            await scenario(engine, model)

    asyncio.run(play())
    return model


def admission(queue_items: int = 9) -> Admission:
    """What lets so many texts wait."""
    return Admission(queue_items, Settings().limits)


def queries(*texts: str) -> list[PredictQuery]:
    """A query for each text."""
    return [PredictQuery(text) for text in texts]


def test_results_come_in_the_order_asked() -> None:
    """A request's results are in its own order, however long each takes."""

    async def scenario(engine: Engine, _: FakeModel) -> None:
        asked = queries("slow a", "b", "slow c", "d", "e", "f")
        assert await engine.submit(asked).future == [answer(query) for query in asked]

    run(scenario)


def test_requests_join_a_running_batch() -> None:
    """A request that comes while another is decoded does not wait for its end."""

    async def scenario(engine: Engine, model: FakeModel) -> None:
        held = engine.submit(queries("hold"))
        await until(model.holding.is_set)
        await engine.submit(queries("b")).future
        assert not held.future.done()
        model.release.set()
        await held.future

    run(scenario)


def test_batch_is_bounded() -> None:
    """No more texts are decoded side by side than allowed, and all are answered."""

    async def scenario(engine: Engine, _: FakeModel) -> None:
        jobs = [engine.submit(queries(*["slow"] * 5)) for _ in range(6)]
        await asyncio.gather(*(job.future for job in jobs))

    assert run(scenario, batch_items=4).largest_batch == 4


def test_queue_counts_texts_not_requests() -> None:
    """The queue's bound counts texts; a request that does not fit is refused whole, with a time to come back."""

    async def scenario(engine: Engine, model: FakeModel) -> None:
        held = engine.submit(queries("hold"))
        await until(lambda: model.holding.is_set() and engine.waiting == 0)
        waiting = engine.submit(queries("a", "b"))
        with pytest.raises(Busy) as refused:
            engine.submit(queries("c", "d"))
        assert refused.value.detail == "2 texts are waiting; the queue is full"
        assert 1 <= refused.value.retry_after <= 30
        fits = engine.submit(queries("e"))
        model.release.set()
        await asyncio.gather(held.future, waiting.future, fits.future)
        assert engine.waiting == 0

    run(scenario, queue_items=3, batch_items=1)


def test_a_request_that_would_be_too_late_is_refused_at_once() -> None:
    """While something is decoded, a request with too little time is refused; an idle engine takes it."""

    async def scenario(engine: Engine, model: FakeModel) -> None:
        held = engine.submit(queries("hold"), seconds=1e-6)
        await until(lambda: model.holding.is_set() and engine.waiting == 0)
        with pytest.raises(Busy) as refused:
            engine.submit(queries("a"), seconds=1e-6)
        assert refused.value.reason == "deadline"
        in_time = engine.submit(queries("a"), seconds=1e6)
        model.release.set()
        await asyncio.gather(held.future, in_time.future)
        await engine.submit(queries("a"), seconds=1e-6).future

    run(scenario)


def test_work_is_handed_back_however_it_ends() -> None:
    """Answered, failed (twice in a round), refused, lost with its scheduler or cancelled: no work stays behind."""

    async def scenario(engine: Engine, model: FakeModel) -> None:
        jobs = [
            engine.submit(queries(*texts))
            for texts in (
                ("a", "slow b"),
                ("poison", "poison", "slow", "c", "d", "e"),
                ("x" * 10_001, "b"),
                ("refuse to start", "b"),
            )
        ]
        await asyncio.gather(*(job.future for job in jobs), return_exceptions=True)
        held, queued = engine.submit(queries("hold")), engine.submit(queries(*["hold"] * 9))
        await until(model.holding.is_set)
        assert engine.admission.work > 0
        engine.cancel(queued)
        engine.cancel(held)
        collapsed = engine.submit(queries("collapse", "f"))
        await asyncio.gather(collapsed.future, return_exceptions=True)
        await until(lambda: engine.admission.work == 0)
        assert engine.waiting == 0

    run(scenario)


def test_speed_is_measured() -> None:
    """What was answered, and the time it took, move the speed that waiting work is divided by."""

    async def scenario(engine: Engine, _: FakeModel) -> None:
        before = engine.admission.rate
        await engine.submit(queries(*["a" * 1_000] * 100)).future
        await until(lambda: engine.admission.rate != before)

    run(scenario)


@pytest.mark.parametrize("text", ["poison", "refuse to start"])
def test_poisoned_text_fails_its_request_alone(text: str) -> None:
    """A decoder that raises fails its own request; others in the same batch and later ones are answered."""

    async def scenario(engine: Engine, model: FakeModel) -> None:
        held = engine.submit(queries("hold"))
        await until(model.holding.is_set)
        poisoned, healthy = (
            engine.submit(queries("a", text, "hold too")),
            engine.submit(queries("slow")),
        )
        with pytest.raises(RuntimeError):
            await poisoned.future
        model.release.set()
        await asyncio.gather(held.future, healthy.future)
        await engine.submit(queries("b")).future

    run(scenario)


def test_failing_scheduler_is_replaced() -> None:
    """If the scheduler itself fails, the texts in it fail and the engine goes on with a new one."""

    async def scenario(engine: Engine, _: FakeModel) -> None:
        with pytest.raises(RuntimeError):
            await engine.submit(queries("collapse", "a")).future
        await engine.submit(queries("b")).future
        assert engine.alive

    run(scenario)


def test_refused_query_is_named_and_nothing_is_decoded() -> None:
    """All queries of a request are checked before any is decoded; the error says which."""

    async def scenario(engine: Engine, _: FakeModel) -> None:
        with pytest.raises(ItemError) as refused:
            await engine.submit(queries("a", "b", "x" * 10_001)).future
        assert (refused.value.item, refused.value.cause.field) == (2, "/text")
        assert engine.waiting == 0

    assert run(scenario).largest_batch == 0


def test_cancelled_request_leaves_before_the_next_step() -> None:
    """A cancelled request is dropped from the batch and from the queue."""

    async def scenario(engine: Engine, model: FakeModel) -> None:
        decoded, queued = engine.submit(queries("hold")), engine.submit(queries("hold", "hold"))
        await until(lambda: model.holding.is_set() and engine.waiting == 2)
        engine.cancel(queued)
        engine.cancel(decoded)
        await until(lambda: engine.waiting == 0 and model.cancelled == 1)
        await engine.submit(queries("a")).future
        assert not decoded.future.done()

    run(scenario, batch_items=1)


def test_a_request_is_dropped_while_its_texts_are_checked() -> None:
    """Where there is much to check, a deadline that passes meanwhile ends the checking and frees the queue."""

    async def scenario(engine: Engine, model: FakeModel) -> None:
        started: list[str] = []
        start = model.start

        def counted(query: Any, tenant: str = "", /) -> Any:
            started.append(query.text)
            job.cancelled = True  # as `Engine.cancel` does, from the event loop
            return start(query, tenant)

        held = engine.submit(queries("hold"))
        await until(model.holding.is_set)
        model.start = counted  # type: ignore[method-assign]
        job = engine.submit(queries("a", "b", "c"))
        model.release.set()
        await held.future
        await until(lambda: engine.waiting == 0)
        assert started == ["a"]

    run(scenario)


def test_nothing_is_taken_before_loading_while_draining_or_after_the_end() -> None:
    """A request is refused at once where nobody would answer it."""

    async def scenario() -> None:
        model = FakeModel()
        engine = Engine(
            lambda: model.release.wait() and model.load(), admission=admission(), batch_items=9, stall_seconds=9,
            on_loaded=lambda _: None, on_step=lambda _: None,
        )  # fmt: skip
        engine.start()
        with pytest.raises(NotReady, match="loading"):
            engine.submit(queries("a"))
        model.release.set()
        await until(lambda: engine.accepting)
        engine.draining = True
        assert not engine.accepting
        with pytest.raises(NotReady, match="shutting down"):
            engine.submit(queries("a"))
        engine.draining = False
        await engine.stop()
        assert not engine.alive
        with pytest.raises(NotReady, match="has ended"):
            engine.submit(queries("a"))

    asyncio.run(scenario())


def test_stop_finishes_what_was_taken() -> None:
    """Whatever was submitted before the stop is answered."""

    async def scenario(engine: Engine, _: FakeModel) -> None:
        jobs = [engine.submit(queries("slow", "slow")) for _ in range(5)]
        await engine.stop()
        await asyncio.sleep(0)
        assert all(job.future.done() and len(job.future.result()) == 2 for job in jobs)

    run(scenario, batch_items=2)


def test_failed_load_is_told() -> None:
    """What the load raises reaches the event loop, and the engine is not alive."""

    async def scenario() -> None:
        outcomes: list[LoadedModel | Exception] = []

        def fail() -> LoadedModel:
            raise OSError("no disk")

        engine = Engine(
            fail,
            admission=admission(),
            batch_items=9,
            stall_seconds=9,
            on_loaded=outcomes.append,
            on_step=lambda _: None,
        )
        engine.start()
        await until(lambda: bool(outcomes))
        assert isinstance(outcomes[0], OSError)
        await until(lambda: not engine.alive)
        await engine.stop()

    asyncio.run(scenario())


def test_stuck_step_shows() -> None:
    """A step that takes longer than allowed makes the engine count as dead, until it ends."""

    async def scenario(engine: Engine, model: FakeModel) -> None:
        assert engine.alive
        stuck = model.stuck
        job = engine.submit(queries("stuck"))
        await until(lambda: not engine.alive)
        stuck.set()
        await job.future
        await until(lambda: engine.alive)

    run(scenario, stall_seconds=0.01)


def test_stuck_step_is_told_once_and_its_end_too(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A step that takes longer than allowed leaves one line with the places that it is in, and one when it ends."""
    monkeypatch.setattr("service.engine.LOOK_SECONDS", 0.001)

    def events() -> list[str]:
        return [record.message for record in caplog.records if record.name == "service.engine"]

    async def scenario(engine: Engine, model: FakeModel) -> None:
        async with asyncio.timeout(PATIENCE_SECONDS):
            for told in (["engine stuck"], ["engine stuck", "engine goes on", "engine stuck"]):
                model.stuck.clear()
                job = engine.submit(queries("stuck with my secret"))
                await until(lambda told=told: events() == told)
                looks = itertools.count()
                await until(lambda looks=looks: next(looks) > 20)
                assert events() == told
                model.stuck.set()
                await job.future
                await until(lambda told=told: events() == [*told, "engine goes on"])

    run(scenario, stall_seconds=0.2)
    stuck, goes_on = caplog.records[:2]
    assert (stuck.levelname, goes_on.levelname) == ("ERROR", "WARNING")
    fields, later = vars(stuck)["fields"], vars(goes_on)["fields"]
    assert 0.2 <= fields["seconds"] <= later["seconds"]
    assert [
        place.rpartition(" ")[2] for place in fields["places"] if "fakes_service.py:" in place
    ] == [
        "step",
        "_decode",
    ]
    assert "secret" not in repr(fields)


def test_an_engine_that_died_is_not_called_stuck(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A thread that ended has left its own line; nobody looks at it any more."""
    monkeypatch.setattr("service.engine.LOOK_SECONDS", 0.001)

    async def scenario(engine: Engine, _: FakeModel) -> None:
        with pytest.raises(EngineDied):
            await engine.submit(queries("die")).future
        await until(lambda: asyncio.all_tasks() == {asyncio.current_task()})

    run(scenario)
    assert [record.message for record in caplog.records] == ["engine died"]


def test_nobody_looks_at_an_engine_that_was_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    """After the stop nothing is left on the event loop, even where the thread is stuck and stays behind."""
    monkeypatch.setattr("service.engine.STOP_SECONDS", 0.01)

    async def scenario(engine: Engine, model: FakeModel) -> None:
        job = engine.submit(queries("stuck"))
        await until(lambda: not engine.alive)
        await engine.stop()
        await asyncio.sleep(0)
        assert asyncio.all_tasks() == {asyncio.current_task()}
        model.stuck.set()
        await job.future

    run(scenario, stall_seconds=0.01)


def test_times_add_up() -> None:
    """Queue and inference seconds are measured apart and are never negative."""

    async def scenario(engine: Engine, model: FakeModel) -> None:
        held, waiting = engine.submit(queries("hold")), engine.submit(queries("a"))
        await until(model.holding.is_set)
        model.release.set()
        await asyncio.gather(held.future, waiting.future)
        assert held.inference_seconds > 0
        assert waiting.queue_seconds >= held.inference_seconds > waiting.inference_seconds >= 0

    run(scenario, batch_items=1)


def test_network_rows_are_told_after_each_step() -> None:
    """The engine passes on what its scheduler counted, each row once."""
    seen: list[Counter[str]] = []

    async def scenario() -> None:
        model = FakeModel()
        engine = Engine(
            model.load,
            admission=admission(),
            batch_items=9,
            stall_seconds=9,
            on_loaded=lambda _: None,
            on_step=seen.append,
        )
        engine.start()
        await until(lambda: engine.accepting)
        await engine.submit(queries("a", "b")).future
        await engine.stop()

    asyncio.run(scenario())
    assert sum(rows["next"] for rows in seen) == 2
