"""One thread that owns the scheduler and keeps it fed. Knows queries and results; no HTTP, no JSON.

Work-conserving, without timers: a batch is what waits when the engine is free. While it works, requests join the texts
already being decoded between two steps; a request that was cancelled (its client hung up, its deadline passed) leaves
before the next one. The event loop hands work over under a lock that is never held during a step, and gets finished
requests back in one wake-up a step.

A checkpoint can be replaced while requests flow: each text is decoded to its end by the one that it was begun with,
side by side with what comes after, and a checkpoint that has no texts left is let go.
"""

import asyncio
import logging
import math
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Generator, Sequence
from typing import Any

from model.errors import QueryError
from service.admission import Admission
from service.jobs import EngineDied, ItemError, Job, LoadedModel, NotReady
from service.logs import describe, places

log = logging.getLogger(__name__)

# A thread that is stuck in a step is left to end with the process after this many seconds.
STOP_SECONDS = 5
# Seconds between two looks at whether a step is stuck.
LOOK_SECONDS = 0.5
STOPPED = "the engine is stuck or has ended"


class _Generation:
    """A checkpoint that answers, what runs its decoders, and the texts that are in there."""

    __slots__ = ("live", "loaded", "scheduler")

    def __init__(self, loaded: LoadedModel) -> None:
        self.loaded = loaded
        self.scheduler = loaded.new_scheduler()
        self.live: set[_Item] = set()


class _Item:
    """A job's text number *index* while it is decoded; the scheduler's ticket."""

    __slots__ = ("decoder", "generation", "index", "job", "work")

    def __init__(
        self, job: Job, index: int, decoder: Generator[Any, Any, Any], generation: _Generation
    ) -> None:
        self.job = job
        self.index = index
        self.decoder = decoder
        self.generation = generation
        self.work = job.works[index]


class Engine:
    """Answers queries on a thread of its own.

    Args:
        load: returns what answers; called once, on the engine's thread, so that the event loop answers meanwhile.
        admission: says what is let in, and is told what becomes of it.
        batch_items: texts that are decoded at the same time.
        stall_seconds: a step that takes longer counts as stuck.
        on_loaded: called on the event loop with what was loaded, or with the exception that load raised.
        on_step: called on the engine's thread after each step with the network rows that it took.
        on_let_go: called on the event loop when a checkpoint that was replaced has answered its last text.
    """

    def __init__(
        self,
        load: Callable[[], LoadedModel],
        *,
        admission: Admission,
        batch_items: int,
        stall_seconds: float,
        on_loaded: Callable[[LoadedModel | Exception], None],
        on_step: Callable[[Counter[str]], None],
        on_let_go: Callable[[], None] = lambda: None,
    ) -> None:
        self._load = load
        self.admission = admission
        self._batch_items = batch_items
        self._stall_seconds = stall_seconds
        self._on_loaded = on_loaded
        self._on_step = on_step
        self._on_let_go = on_let_go
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        # Shared with the event loop, under the lock.
        self._wake = threading.Condition()
        self._arrived: deque[Job] = deque()
        self._replacement: tuple[LoadedModel, asyncio.Future[None]] | None = None
        self._cancellations = 0
        self._stopping = False
        # Written by one thread and read by others, one value at a time.
        self.loaded: LoadedModel | None = None
        self.draining = False
        self._beat = time.monotonic()
        self._idle = True
        self._measured = self._beat
        # The engine thread's own.
        self._generations: list[_Generation] = []  # the newest last
        self._ready: deque[_Item] = deque()
        self._done: list[Job] = []

    def start(self) -> None:
        """Start the thread; call it on the event loop that will submit."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()
        self._watching = asyncio.ensure_future(self._watch())

    async def stop(self) -> None:
        """Finish what is running, refuse the rest, and end the thread."""
        with self._wake:
            self._stopping = True
            self._wake.notify()
        if self._thread.ident is not None:
            await asyncio.to_thread(self._thread.join, STOP_SECONDS)
            self._watching.cancel()

    def submit(self, queries: Sequence[Any], tenant: str = "", seconds: float = math.inf) -> Job:
        """Queue one request; await its ``future`` for a result a query.

        Args:
            queries: what is asked.
            tenant: who asks; tenants share no cache.
            seconds: until its deadline.

        Returns:
            The job. Its future raises `ItemError` where a query cannot be answered, any other exception where the
            engine failed on it. A cancelled future must be followed by `cancel`.

        Raises:
            service.admission.Busy: there is no room, or it would miss its deadline.
            NotReady: it loads, drains, is stuck or has stopped.
        """
        self.check_ready()
        with self._wake:
            if self._stopping:
                raise NotReady(STOPPED)
            works = self.admission.admit(queries, tenant, seconds)
            job = Job(queries, tenant, works, self._loop.create_future())
            self._arrived.append(job)
            self._wake.notify()
        return job

    def replace(self, loaded: LoadedModel) -> asyncio.Future[None]:
        """Answer with another checkpoint from the next request on.

        Returns:
            A future that is done once it answers.

        Raises:
            NotReady: the engine drains or has stopped.
        """
        swapped: asyncio.Future[None] = self._loop.create_future()
        with self._wake:
            if self.draining or self._stopping or not self._thread.is_alive():
                raise NotReady(STOPPED)
            self._replacement = loaded, swapped
            self._wake.notify()
        return swapped

    def cancel(self, job: Job) -> None:
        """Nobody waits for *job* any more; it leaves before the next step."""
        job.cancelled = True
        with self._wake:
            self._cancellations += 1
            self._wake.notify()

    @property
    def waiting(self) -> int:
        """Texts that wait for a place among those being decoded."""
        return self.admission.waiting

    def cache_bytes(self) -> int:
        """Bytes that the cache of prefixes holds."""
        return 0 if self.loaded is None else self.loaded.cache_bytes()

    @property
    def alive(self) -> bool:
        """Whether the thread runs and no step is stuck."""
        return self._thread.is_alive() and (
            self._idle or time.monotonic() - self._beat < self._stall_seconds
        )

    def check_ready(self) -> None:
        """Refuse if no request would be accepted now, even with an empty queue.

        Raises:
            NotReady: it loads, drains, is stuck or has stopped.
        """
        if self.draining:
            raise NotReady("the service is shutting down; ask another one, or later")
        if self.loaded is None:
            raise NotReady("the checkpoint is still loading")
        if not self.alive:
            raise NotReady(STOPPED)

    @property
    def accepting(self) -> bool:
        """`check_ready` as a value, for metrics."""
        try:
            self.check_ready()
        except NotReady:
            return False
        return True

    async def _watch(self) -> None:
        """Tell the log of a step that is stuck, once, and of its end: the thread itself cannot."""
        while self._thread.is_alive():
            await asyncio.sleep(LOOK_SECONDS)
            beat = self._beat
            if self.alive or not self._thread.is_alive():
                continue
            log.error(
                "engine stuck",
                extra={"fields": {"seconds": _since(beat), "places": places(self._thread)}},
            )
            while self._thread.is_alive() and not self._idle and self._beat == beat:
                await asyncio.sleep(LOOK_SECONDS)
            if self._idle or self._beat != beat:
                log.warning("engine goes on", extra={"fields": {"seconds": _since(beat)}})

    # All below runs on the engine's thread.

    def _run(self) -> None:
        try:
            first = _Generation(self._load())
        except Exception as error:
            self._call(self._on_loaded, error)
            return
        self._generations.append(first)
        self._call(self._become_ready, first.loaded)
        try:
            self._serve()
        except (
            BaseException
        ) as error:  # not to be expected, so nobody may be left waiting; /livez asks for a restart
            log.critical("engine died", extra={"fields": {"exception": describe(error)}})
            self._fail_everybody()
        else:
            self._refuse_rest()

    def _become_ready(
        self, loaded: LoadedModel, swapped: asyncio.Future[None] | None = None
    ) -> None:
        self.loaded = loaded
        if swapped is None:
            self._on_loaded(loaded)
        elif not swapped.done():
            swapped.set_result(None)

    def _serve(self) -> None:
        self._measured = time.monotonic()
        while self._wait_for_work():
            self._beat = time.monotonic()
            self._drop_cancelled()
            self._fill()
            done = sum(
                self._step(generation) for generation in self._generations if generation.live
            )
            now = time.monotonic()
            self.admission.measure(done, now - self._measured)
            self._measured = now
            self._deliver()
            if len(self._generations) > 1:
                self._let_go()

    def _wait_for_work(self) -> bool:
        """Sleep while there is nothing to do; whether to go on."""
        with self._wake:
            while not (self._arrived or self._busy or self._replacement or self._stopping):
                self._idle = True
                self._wake.wait()
                self._measured = time.monotonic()
            self._beat = time.monotonic()
            self._idle = False
            arrived, self._arrived = self._arrived, deque()
            replacement, self._replacement = self._replacement, None
            stopping = self._stopping
        if replacement is not None:
            self._generations.append(_Generation(replacement[0]))
            self._call(self._become_ready, *replacement)
        for job in arrived:
            self._prepare(self._generations[-1], job)
        return not stopping or self._busy

    @property
    def _busy(self) -> bool:
        return bool(self._ready) or any(generation.live for generation in self._generations)

    def _let_go(self) -> None:
        """Forget the checkpoints before the newest that have no texts left."""
        begun = {item.generation for item in self._ready}
        kept = [each for each in self._generations[:-1] if each.live or each in begun]
        if len(kept) < len(self._generations) - 1:
            self._generations = [*kept, self._generations[-1]]
            self._call(self._on_let_go)

    def _prepare(self, generation: _Generation, job: Job) -> None:
        """Check all of a job's queries before any is decoded: all or nothing."""
        job.answerer = generation.loaded
        predictor = generation.loaded.predictor
        items: list[_Item] = []
        try:
            for index, query in enumerate(job.queries):
                if job.cancelled:  # perhaps by now: of large bodies there is much to check
                    break
                items.append(_Item(job, index, predictor.start(query, job.tenant), generation))
        except QueryError as error:
            job.error = ItemError(
                index, error.with_traceback(None)
            )  # this call holds the job, which would hold it
        except Exception as error:
            job.error = error
        if job.error is not None or job.cancelled:
            self._drop_waiting(job)
            self._finish(job)
        else:
            self._ready.extend(items)

    def _drop_waiting(self, job: Job) -> None:
        """None of a job's texts will be decoded."""
        self.admission.begin(len(job.works))
        self.admission.end(sum(job.works))

    def _drop_cancelled(self) -> None:
        with self._wake:
            cancellations, self._cancellations = self._cancellations, 0
        if not cancellations:
            return
        self._stop([item for item in self._decoded() if item.job.cancelled])
        dropped = [item for item in self._ready if item.job.cancelled]
        self._ready = deque(item for item in self._ready if not item.job.cancelled)
        self.admission.begin(len(dropped))
        self.admission.end(sum(item.work for item in dropped))

    def _fill(self) -> None:
        """Take waiting texts, oldest first, up to the batch's size."""
        room = self._batch_items - len(self._decoded())
        while self._ready and room > 0:
            item = self._ready.popleft()
            self.admission.begin(1)
            if item.job.error is not None:
                self.admission.end(item.work)
                continue
            item.job.started = item.job.started or time.monotonic()
            item.generation.scheduler.add(item, item.decoder)
            item.generation.live.add(item)
            room -= 1

    def _decoded(self) -> list[_Item]:
        """The texts that are being decoded."""
        return [item for generation in self._generations for item in generation.live]

    def _step(self, generation: _Generation) -> int:
        """One round of one checkpoint; the work of the texts that it finished."""
        try:
            finished = generation.scheduler.step()
        except Exception as error:
            self._fail_all(generation, error)
            return 0
        for item, result in finished:
            self._settle(item, result)
        rows, generation.scheduler.rows = generation.scheduler.rows, Counter()
        self._on_step(rows)
        return sum(item.work for item, _ in finished)

    def _settle(self, item: _Item, result: Any) -> None:
        self._leave(item)
        job = item.job
        if job.error is not None or job.cancelled:
            return
        if isinstance(result, Exception):
            if isinstance(result, QueryError):
                result = ItemError(item.index, result.with_traceback(None))
            job.error = result
            self._forget(job)
            self._finish(job)
            return
        job.results[item.index] = result
        job.remaining -= 1
        if not job.remaining:
            self._finish(job)

    def _forget(self, job: Job) -> None:
        """Take a failed job's other texts out of the batch; those that wait are dropped when their turn comes."""
        self._stop([item for item in self._decoded() if item.job is job])

    def _stop(self, items: Sequence[_Item]) -> None:
        for item in items:
            item.generation.scheduler.cancel(item)
            self._leave(item)

    def _leave(self, item: _Item) -> None:
        live = item.generation.live
        if item in live:  # not if its job failed in the same round
            live.remove(item)
            self.admission.end(item.work)

    def _fail_all(self, generation: _Generation, error: Exception) -> None:
        """The scheduler itself failed: its texts are lost, the next ones get a new one."""
        jobs = {item.job for item in generation.live}
        for item in tuple(generation.live):
            self._leave(item)
        generation.scheduler = generation.loaded.new_scheduler()
        for job in jobs:
            if job.error is None:
                job.error = error
                self._finish(job)

    def _finish(self, job: Job) -> None:
        job.finished = time.monotonic()
        self._done.append(job)

    def _refuse_rest(self) -> None:
        with self._wake:
            arrived, self._arrived = self._arrived, deque()
        for job in arrived:
            job.error = NotReady(STOPPED)
            self._drop_waiting(job)
            self._finish(job)
        self._deliver()

    def _fail_everybody(self) -> None:
        """The thread ends: whoever waits is told so."""
        with self._wake:
            self._stopping = True
            jobs = set(self._arrived)
            replacement, self._replacement = self._replacement, None
        jobs |= {item.job for item in (*self._ready, *self._decoded())}
        for job in jobs - set(self._done):
            job.error = job.error or EngineDied()
            self._finish(job)
        self._deliver()
        if replacement is not None:
            self._call(_give_up, replacement[1])

    def _deliver(self) -> None:
        """Hand over what this round finished: one wake-up of the event loop, however many."""
        if self._done:
            done, self._done = self._done, []
            self._call(_resolve, done)

    def _call(self, function: Callable[..., None], *arguments: object) -> None:
        try:
            self._loop.call_soon_threadsafe(function, *arguments)
        except RuntimeError:  # the event loop is gone, and with it whoever waited
            log.warning("the event loop closed before the engine stopped")


def _since(beat: float) -> float:
    return round(time.monotonic() - beat, 1)


def _give_up(swapped: asyncio.Future[None]) -> None:
    if not swapped.done():
        swapped.set_exception(NotReady(STOPPED))


def _resolve(jobs: Sequence[Job]) -> None:
    for job in jobs:
        if job.future.done():
            continue
        if job.error is not None:
            job.future.set_exception(job.error)
        else:
            job.future.set_result(job.results)
