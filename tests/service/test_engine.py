"""Tests of service/engine.py: the engine alone, with a model side that does as the text says."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from model.queries import PredictQuery
from service.admission import Admission
from service.engine import Engine, ItemError, NotReady
from service.model_loader import LoadedModel
from service.settings import Settings
from tests.service.client import until
from tests.service.fakes_service import FakeModel, answer

PATIENCE_SECONDS = 60


def build(model: FakeModel, queue_items: int = 100, batch_items: int = 4, **options: Any) -> Engine:
    """Return an engine that was not started."""
    admission = Admission(queue_items, batch_items, Settings().limits)
    given: dict[str, Any] = {
        "load": model.load,
        "stall_seconds": 60.0,
        "on_loaded": lambda _: None,
    } | options
    return Engine(admission=admission, batch_items=batch_items, **given)


@asynccontextmanager
async def running(model: FakeModel, **options: Any) -> AsyncIterator[Engine]:
    """Run an engine that has loaded."""
    engine = build(model, **options)
    engine.start()
    await until(lambda: engine.loaded is not None)
    try:
        yield engine
    finally:
        model.end()
        await engine.stop()


def run(scenario: Callable[[Engine, FakeModel], Awaitable[None]], **options: Any) -> FakeModel:
    """Play *scenario* on a running engine."""
    model = FakeModel()

    async def play() -> None:
        async with asyncio.timeout(PATIENCE_SECONDS), running(model, **options) as engine:
            await scenario(engine, model)

    asyncio.run(play())
    return model


def queries(*texts: str) -> list[PredictQuery]:
    """Return a query for each text."""
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

    run(scenario)


def test_batch_is_bounded() -> None:
    """No more texts are decoded at the same time than allowed, and all are answered."""

    async def scenario(engine: Engine, _: FakeModel) -> None:
        jobs = [engine.submit(queries(*["slow"] * 5)) for _ in range(6)]
        await asyncio.gather(*(job.future for job in jobs))

    assert run(scenario).largest_batch == 4


def test_work_is_handed_back_however_it_ends() -> None:
    """Answered, failed, refused, lost with its scheduler or cancelled: no work is left over."""

    async def scenario(engine: Engine, model: FakeModel) -> None:
        before = engine.admission.rate
        jobs = [
            engine.submit(queries(*texts))
            for texts in (
                ("a" * 1_000, "slow b"),
                ("poison", "poison", "slow", "c", "d", "e"),
                ("x" * 10_001, "b"),
                ("refuse to start", "b"),
            )
        ]
        await asyncio.gather(*(job.future for job in jobs), return_exceptions=True)
        await until(lambda: engine.admission.rate != before)  # the speed was measured
        held, queued = engine.submit(queries("hold")), engine.submit(queries(*["hold"] * 9))
        await until(model.holding.is_set)
        assert engine.admission.cost > 0
        engine.cancel(queued)
        engine.cancel(held)
        collapsed = engine.submit(queries("collapse", "f"))
        await asyncio.gather(collapsed.future, return_exceptions=True)
        await until(lambda: engine.admission.cost == 0)
        assert engine.admission.waiting == 0
        assert not engine._jobs

    run(scenario)


@pytest.mark.parametrize("text", ["poison", "exhaust", "refuse to start"])
def test_a_failing_text_fails_its_request_alone(text: str) -> None:
    """A decoder that raises fails its own request; others in the batch are answered."""

    async def scenario(engine: Engine, model: FakeModel) -> None:
        held = engine.submit(queries("hold"))
        await until(model.holding.is_set)
        failing = engine.submit(queries("a", text, "hold too"))
        healthy = engine.submit(queries("slow"))
        with pytest.raises((RuntimeError, MemoryError)):
            await failing.future
        model.release.set()
        await asyncio.gather(held.future, healthy.future)
        await engine.submit(queries("b")).future

    run(scenario)


def test_a_failing_scheduler_is_replaced() -> None:
    """If the scheduler itself fails, the texts in it fail and the engine goes on with a new one."""

    async def scenario(engine: Engine, _: FakeModel) -> None:
        with pytest.raises(RuntimeError):
            await engine.submit(queries("collapse", "a")).future
        await engine.submit(queries("b")).future
        assert engine.is_alive

    run(scenario)


def test_a_refused_query_is_named_and_nothing_is_decoded() -> None:
    """All queries of a request are checked before any is decoded; the error says which is wrong."""

    async def scenario(engine: Engine, _: FakeModel) -> None:
        with pytest.raises(ItemError) as refused:
            await engine.submit(queries("a", "b", "x" * 10_001)).future
        assert (refused.value.item, refused.value.cause.field) == (2, "/text")

    assert run(scenario).largest_batch == 0


def test_a_cancelled_request_leaves_before_the_next_step() -> None:
    """A cancelled request is dropped from the batch and from the queue."""

    async def scenario(engine: Engine, model: FakeModel) -> None:
        decoded, queued = engine.submit(queries("hold")), engine.submit(queries("hold", "hold"))
        await until(lambda: model.holding.is_set() and engine.admission.waiting == 2)
        engine.cancel(queued)
        engine.cancel(decoded)
        await until(lambda: engine.admission.cost == 0)
        await engine.submit(queries("a")).future
        assert (decoded.future.done(), model.cancelled) == (False, 1)

    run(scenario, batch_items=1)


def test_a_request_can_be_cancelled_while_its_texts_are_checked() -> None:
    """A deadline that passes while many texts are checked ends the checking."""

    async def scenario(engine: Engine, model: FakeModel) -> None:
        started: list[str] = []
        start = model.start

        def counted(query: Any, tenant: str = "", /) -> Any:
            started.append(query.text)
            engine.cancel(job)
            return start(query, tenant)

        held = engine.submit(queries("hold"))
        await until(model.holding.is_set)
        model.start = counted  # type: ignore[method-assign]
        job = engine.submit(queries("a", "b", "c"))
        model.release.set()
        await held.future
        await until(lambda: engine.admission.cost == 0)
        assert started == ["a"]

    run(scenario)


def test_nothing_is_accepted_while_loading_or_draining_or_after_the_end() -> None:
    """A request is refused at once if it would not be answered."""

    async def scenario() -> None:
        model = FakeModel()
        engine = build(model, load=lambda: model.release.wait() and model.load())
        engine.start()
        with pytest.raises(NotReady, match="loading"):
            engine.submit(queries("a"))
        model.release.set()
        await until(lambda: engine.not_ready_reason is None)
        engine.draining = True
        with pytest.raises(NotReady, match="shutting down"):
            engine.submit(queries("a"))
        await engine.stop()
        engine.draining = False
        assert not engine.is_alive
        with pytest.raises(NotReady, match="has ended"):
            engine.submit(queries("a"))

    asyncio.run(scenario())


def test_stop_finishes_what_was_accepted() -> None:
    """Whatever was submitted before the stop is answered."""

    async def scenario(engine: Engine, _: FakeModel) -> None:
        jobs = [engine.submit(queries("slow", "slow")) for _ in range(5)]
        await engine.stop()
        await asyncio.sleep(0)
        assert all(len(job.future.result()) == 2 for job in jobs)

    run(scenario, batch_items=2)


def test_a_failed_load_is_reported() -> None:
    """An exception of the load reaches the event loop, and the engine is not alive."""

    async def scenario() -> None:
        outcomes: list[LoadedModel | Exception] = []

        def fail() -> LoadedModel:
            raise OSError("no disk")

        engine = build(FakeModel(), load=fail, on_loaded=outcomes.append)
        engine.start()
        await until(lambda: bool(outcomes))
        assert isinstance(outcomes[0], OSError)
        await until(lambda: not engine.is_alive)
        await engine.stop()

    asyncio.run(scenario())


def test_a_stuck_step_shows_and_is_logged_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The engine counts as dead until the step ends; one line has its places, another its end."""
    monkeypatch.setattr("service.engine.LOOK_SECONDS", 0.001)

    def events() -> list[str]:
        return [record.message for record in caplog.records if record.name == "service.engine"]

    async def scenario(engine: Engine, model: FakeModel) -> None:
        for logged in (["engine stuck"], ["engine stuck", "engine goes on", "engine stuck"]):
            model.stuck.clear()
            job = engine.submit(queries("stuck with my secret"))
            await until(lambda logged=logged: events() == logged)
            assert not engine.is_alive
            looks = itertools.count()
            await until(lambda looks=looks: next(looks) > 20)
            assert events() == logged
            model.stuck.set()
            await job.future
            await until(lambda logged=logged: events() == [*logged, "engine goes on"])
            assert engine.is_alive

    run(scenario, stall_seconds=0.2)
    stuck, goes_on = caplog.records[:2]
    assert (stuck.levelname, goes_on.levelname) == ("ERROR", "WARNING")
    fields = vars(stuck)["fields"]
    assert 0.2 <= fields["seconds"] <= vars(goes_on)["fields"]["seconds"]
    fake = [place for place in fields["places"] if "fakes_service.py:" in place]
    assert [place.rpartition(" ")[2] for place in fake] == ["step", "_decode"]
    assert "secret" not in repr(fields)


def test_an_engine_that_died_leaves_nobody_waiting(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Every wait ends with an error, no request is accepted, and the watch ends."""
    monkeypatch.setattr("service.engine.LOOK_SECONDS", 0.001)

    async def scenario(engine: Engine, model: FakeModel) -> None:
        held, dying = engine.submit(queries("hold")), engine.submit(queries("die"))
        await until(lambda: model.holding.is_set() and len(engine._waiting) == 1)
        swapped = asyncio.ensure_future(engine.replace(model.load()))
        await asyncio.sleep(0)
        model.release.set()
        await held.future
        for waiting in (dying.future, swapped):
            with pytest.raises(RuntimeError, match="died"):
                await waiting
        with pytest.raises(NotReady, match="has ended"):
            engine.submit(queries("a"))
        await until(lambda: asyncio.all_tasks() == {asyncio.current_task()})

    run(scenario, batch_items=1)
    assert [record.message for record in caplog.records] == ["engine died"]


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


def test_texts_in_flight_are_finished_by_their_checkpoint() -> None:
    """A replaced checkpoint finishes its texts; later texts wait for the new one."""

    async def scenario(engine: Engine, model: FakeModel) -> None:
        held = engine.submit(queries("hold", "slow"))
        await until(model.holding.is_set)
        swapped = asyncio.ensure_future(engine.replace(model.load()))
        await asyncio.sleep(0)
        later = engine.submit(queries("a"))
        model.release.set()
        await asyncio.gather(held.future, swapped, later.future)
        jobs = [job.loaded.description["version"] for job in (held, later) if job.loaded]
        assert jobs == ["1", "2"]
        assert (engine.admission.waiting, engine.admission.cost) == (0, 0)

    run(scenario)
