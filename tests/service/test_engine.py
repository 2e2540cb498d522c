"""Tests of service/engine.py: the engine alone, with a model side that does as the text says."""

import asyncio
import time
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest

from model.queries import ClozeQuery, PredictQuery
from service.admission import Admission
from service.engine import Engine, NotReady
from service.estimate import Estimator
from service.jobs import LIVE_BYTES, Job
from service.settings import Settings
from tests.service.client import until
from tests.service.fakes_service import FakeModel, answer

ESTIMATOR = Estimator(Settings().limits, cache_bytes=0)

pytestmark = pytest.mark.anyio
one_at_a_time = pytest.mark.parametrize("engine", [{"batch_items": 1}], indirect=True)


@pytest.fixture
def anyio_backend() -> str:
    """Run these tests on asyncio."""
    return "asyncio"


@pytest.fixture
def model() -> FakeModel:
    """The model side."""
    return FakeModel()


@pytest.fixture
async def engine(model: FakeModel, request: pytest.FixtureRequest) -> AsyncIterator[Engine]:
    """An engine that has loaded, with the parameter's options."""
    options = {"batch_items": 4, "stall_seconds": 60.0} | getattr(request, "param", {})
    shared = options.pop("shared", False)
    admission = Admission(1_000, options["batch_items"], lambda: shared)
    engine = Engine(model.load, admission, on_loaded=lambda _: None, **options)
    engine.start()
    await until(lambda: engine.loaded is not None)
    yield engine
    model.end()
    await engine.stop()


def submit(engine: Engine, *texts: str, tenant: str = "") -> Job:
    """Submit one request."""
    queries = [PredictQuery(text) for text in texts]
    return engine.submit(queries, ESTIMATOR.estimate(queries, ""), tenant)


async def hold(engine: Engine, model: FakeModel) -> Job:
    """Submit a text that is decoded until `FakeModel.release`; return when it is."""
    held = submit(engine, "hold")
    await until(model.holding.is_set)
    return held


async def test_results_come_in_the_order_asked(engine: Engine, model: FakeModel) -> None:
    """Results are in the order of the texts; no more texts are decoded at a time than allowed."""
    jobs = [submit(engine, "slow a", "b", "slow c", "d", "e", "f") for _ in range(6)]
    for job in jobs:
        assert await job.future == [answer(query) for query in job.queries]
    assert model.largest_batch == 4


@pytest.mark.parametrize("text", ["poison", "exhaust", "refuse to start"])
async def test_a_failing_text_fails_its_request_alone(
    engine: Engine, model: FakeModel, text: str
) -> None:
    """A decoder that raises fails its own request; others join a running batch and are answered."""
    held = await hold(engine, model)
    failing = submit(engine, "a", text, "hold too")
    with pytest.raises((RuntimeError, MemoryError)):
        await failing.future
    await submit(engine, "slow").future
    assert not held.future.done()


async def test_a_failing_scheduler_is_replaced(engine: Engine) -> None:
    """If the scheduler itself fails, its texts fail and the engine goes on with a new one."""
    with pytest.raises(RuntimeError):
        await submit(engine, "collapse", "a").future
    await submit(engine, "b").future


@one_at_a_time
async def test_a_cancelled_request_leaves_before_the_next_step(
    engine: Engine, model: FakeModel
) -> None:
    """A cancelled request is dropped from the batch and from the queue."""
    decoded, queued = await hold(engine, model), submit(engine, "hold", "hold")
    await until(lambda: engine.admission.waiting == 2)
    engine.cancel(queued)
    engine.cancel(decoded)
    await until(lambda: engine.admission.cost == 0)
    await submit(engine, "a").future
    assert (decoded.future.done(), model.cancelled) == (False, 1)


async def test_a_request_can_be_cancelled_while_its_texts_are_checked(
    engine: Engine, model: FakeModel
) -> None:
    """A deadline that passes while many texts are checked ends the checking."""
    started: list[str] = []
    start_all = model.start_all

    def counted(queries: Any, cache_salt: str = "", /) -> Any:
        for query, decoder in zip(queries, start_all(queries, cache_salt), strict=True):
            started.append(query.text)
            engine.cancel(job)
            yield decoder

    held = await hold(engine, model)
    model.start_all = counted  # type: ignore[method-assign]
    job = submit(engine, "a", "b", "c")
    model.release.set()
    await held.future
    await until(lambda: engine.admission.cost == 0)
    assert started == ["a"]


async def test_work_is_handed_back_however_it_ends(engine: Engine, model: FakeModel) -> None:
    """Answered, failed, refused, lost with its scheduler or cancelled: no work is left over."""
    before = engine.admission.rate
    jobs = [
        submit(engine, "a" * 1_000, "slow b"),
        submit(engine, "poison", "poison", "slow", "c", "d", "e"),
        submit(engine, "x" * 10_001, "b"),
        submit(engine, "refuse to start", "b"),
    ]
    await asyncio.gather(*(job.future for job in jobs), return_exceptions=True)
    await until(lambda: engine.admission.rate != before)  # the speed was measured
    held, queued = await hold(engine, model), submit(engine, *["hold"] * 9)
    assert engine.admission.cost > 0
    engine.cancel(queued)
    engine.cancel(held)
    collapsed = submit(engine, "collapse", "f")
    await asyncio.gather(collapsed.future, return_exceptions=True)
    await until(lambda: engine.admission.cost == 0)
    assert engine.admission.waiting == 0


async def test_nothing_is_accepted_while_draining_or_after_the_end(engine: Engine) -> None:
    """A request is refused if it would not be answered; accepted ones are answered."""
    jobs = [submit(engine, "slow", "slow") for _ in range(5)]
    engine.draining = True
    with pytest.raises(NotReady, match="shutting down"):
        submit(engine, "a")
    await engine.stop()
    await asyncio.sleep(0)
    assert all(len(job.future.result()) == 2 for job in jobs)
    engine.draining = False
    with pytest.raises(NotReady, match="has ended"):
        submit(engine, "a")


@pytest.mark.parametrize("engine", [{"stall_seconds": 0.2}], indirect=True)
async def test_a_stuck_step_shows_and_is_logged_once(
    engine: Engine,
    model: FakeModel,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The engine counts as dead until the step ends; the log has its places and no text."""
    monkeypatch.setattr("service.engine.LOOK_SECONDS", 0.001)
    for times in (1, 2):
        model.stuck.clear()
        job = submit(engine, "stuck with my secret")
        await until(lambda times=times: len(caplog.records) == times)  # type: ignore[misc]
        for _ in range(20):
            await asyncio.sleep(0.001)
        assert not engine.is_alive
        model.stuck.set()
        await job.future
        await until(lambda: engine.is_alive)
    stuck, _ = caplog.records
    assert (stuck.levelname, stuck.message) == ("ERROR", "engine stuck")
    places = vars(stuck)["fields"]["places"]
    fake = [place for place in places if "fakes_service.py:" in place]
    assert [place.rpartition(" ")[2] for place in fake] == ["step", "_decode"]
    assert "secret" not in repr(places)


@one_at_a_time
async def test_an_engine_that_died_leaves_nobody_waiting(
    engine: Engine,
    model: FakeModel,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Every wait ends with an error, and no request is accepted."""
    monkeypatch.setattr("service.engine.LOOK_SECONDS", 0.001)
    held, dying = await hold(engine, model), submit(engine, "die")
    await until(lambda: dying.loaded is not None)
    swapped = asyncio.ensure_future(engine.replace(model.load()))
    await asyncio.sleep(0)
    model.release.set()
    await held.future
    for waiting in (dying.future, swapped):
        with pytest.raises(RuntimeError, match="died"):
            await waiting
    with pytest.raises(NotReady, match="has ended"):
        submit(engine, "a")
    assert [record.message for record in caplog.records] == ["engine died"]


@one_at_a_time
async def test_times_add_up(engine: Engine, model: FakeModel) -> None:
    """Queue and inference seconds are measured apart and are never negative."""
    held, waiting = await hold(engine, model), submit(engine, "a")
    model.release.set()
    await asyncio.gather(held.future, waiting.future)
    assert held.inference_seconds > 0
    assert waiting.queue_seconds > 0 <= waiting.inference_seconds


async def test_texts_in_flight_are_finished_by_their_checkpoint(
    engine: Engine, model: FakeModel
) -> None:
    """A replaced checkpoint finishes its texts; later texts wait for the new one."""
    held = await hold(engine, model)
    swapped = asyncio.ensure_future(engine.replace(model.load()))
    await asyncio.sleep(0)
    later = submit(engine, "a")
    model.release.set()
    await asyncio.gather(held.future, swapped, later.future)
    jobs = [job.loaded.description["version"] for job in (held, later) if job.loaded]
    assert jobs == ["1", "2"]


@pytest.mark.parametrize("engine", [{"shared": True, "batch_items": 16}], indirect=True)
async def test_tenants_take_turns(engine: Engine, model: FakeModel) -> None:
    """A tenant's next text starts before the rest of another's, who cannot take all places."""
    held = [submit(engine, *["hold"] * 20, tenant=tenant) for tenant in ("one", "two")]
    await until(model.holding.is_set)
    await submit(engine, "a", tenant="three").future
    assert not any(job.future.done() for job in held)
    model.release.set()
    await asyncio.gather(*(job.future for job in held))
    assert model.largest_batch > 12


async def test_a_tenant_alone_may_take_all_places(engine: Engine, model: FakeModel) -> None:
    """Without others, the batch is full."""
    held = submit(engine, *["hold"] * 9)
    await until(lambda: model.largest_batch == 4)
    model.release.set()
    await held.future


@pytest.mark.parametrize("engine", [{"batch_items": 64}], indirect=True)
async def test_the_bytes_of_live_texts_are_bounded(engine: Engine, model: FakeModel) -> None:
    """Texts wait while those before them keep many bytes; one that keeps more runs alone."""
    for size, together in ((LIVE_BYTES >> 20) // 4, 4), (2 * LIVE_BYTES >> 20, 1):
        model.largest_batch = 0
        model.release.clear()
        model.holding.clear()
        job = submit(engine, *[f"hold {size} MiB"] * 9)
        await until(model.holding.is_set)
        model.release.set()
        await job.future
        assert model.largest_batch == together


@pytest.mark.parametrize(("cpu_seconds", "is_slow"), [(0.0, False), (0.01, False), (6.0, True)])
async def test_a_pause_is_not_taken_for_a_slow_engine(
    engine: Engine,
    model: FakeModel,
    monkeypatch: pytest.MonkeyPatch,
    cpu_seconds: float,
    is_slow: bool,
) -> None:
    """A minute without processor time was a pause; one with a tenth of it was a busy machine."""
    clock = SimpleNamespace(now=time.monotonic(), cpu=1.0)
    fake_time = SimpleNamespace(monotonic=lambda: clock.now, process_time=lambda: clock.cpu)
    monkeypatch.setattr("service.engine.time", fake_time)
    before = engine.admission.rate
    job = submit(engine, "stuck")
    await until(lambda: model.largest_batch == 1)  # the round has begun
    clock.now, clock.cpu = clock.now + 60.0, clock.cpu + cpu_seconds
    model.stuck.set()
    await job.future
    assert engine.admission.rate < 0.01 * before if is_slow else engine.admission.rate > before / 2


@pytest.mark.parametrize("engine", [{"batch_items": 64}], indirect=True)
async def test_work_that_was_cut_short_does_not_count_as_slow(
    engine: Engine, model: FakeModel
) -> None:
    """A client that hangs up just before its answer leaves the measured speed as it was."""
    await submit(engine, *["a"] * 64).future
    rate = engine.admission.rate
    queries = [ClozeQuery("hold ____" + " ____" * 60, top_k=100)] * 64
    for _ in range(3):
        model.holding.clear()
        job = engine.submit(queries, ESTIMATOR.estimate(queries, ""))
        await until(model.holding.is_set)
        engine.cancel(job)
        await until(lambda: engine.admission.cost == 0)
    assert engine.admission.rate == rate
