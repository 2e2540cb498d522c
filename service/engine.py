"""The thread that owns model, prefix cache and scheduler. It knows queries and results, not HTTP.

A batch is whatever waits when the engine is free; no timer collects one. Requests join and leave
between two steps. The event loop hands jobs over in a queue. A checkpoint can be replaced while
requests flow: each text is finished by the one that started it.
"""

import asyncio
import logging
import math
import queue
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from model.errors import QueryError
from model.queries import Query
from service.admission import Admission
from service.estimate import Work
from service.jobs import Job, Lines, Task
from service.logs import format_exception, format_stack

if TYPE_CHECKING:
    from service.model_loader import LoadedModel

log = logging.getLogger(__name__)

STOP_SECONDS = 5  # after which a thread that is stuck in a step is left to end with the process
LOOK_SECONDS = 0.5  # between two looks at whether a step is stuck
# A round counts as at most so many times its processor time, which does not go on while the process
# or its machine is stopped. Neighbours can make it so slow.
MAX_SLOWDOWN = 10.0


class NotReady(Exception):  # noqa: N818 - a state, not a fault
    """The engine accepts no request; the message says why and may be shown to a client."""


class ItemError(Exception):
    """Text number *item* of a request, counted from 0, cannot be answered because of *cause*."""

    def __init__(self, item: int, cause: QueryError) -> None:
        super().__init__(item, cause)
        self.item = item
        self.cause = cause


class Engine:
    """Answers queries on its own thread, *batch_items* texts at the same time.

    *load* returns the first checkpoint, on the engine's thread. *on_loaded* gets its result
    or error, on the event loop. A step that takes longer than *stall_seconds* counts as stuck.
    """

    def __init__(
        self,
        load: Callable[[], "LoadedModel"],
        admission: Admission,
        batch_items: int,
        stall_seconds: float,
        on_loaded: Callable[["LoadedModel | Exception"], None],
    ) -> None:
        self._load = load
        self.admission = admission
        self._lines = Lines(batch_items, admission.is_shared)  # used on the engine's thread only
        self._stall_seconds = stall_seconds
        self._on_loaded = on_loaded
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        # From the event loop: jobs, a checkpoint to answer with from then on, None to stop.
        self._inbox: queue.SimpleQueue[Job | LoadedModel | None] = queue.SimpleQueue()
        # Written by one thread and read by another, one value at a time.
        self._any_abandoned = False
        self._round_began = time.monotonic()
        self._idle = True
        # Used on the event loop only.
        self.loaded: LoadedModel | None = None
        self.draining = False
        self._jobs: set[Job] = set()  # neither answered nor cancelled
        self._swapped: asyncio.Future[None] | None = None
        # Used on the engine's thread only.
        self._replacement: LoadedModel | None = None  # waits for the texts of the one before
        self._stopping = False
        self._finished: list[tuple[Job, list[Any] | Exception]] = []

    def start(self) -> None:
        """Start the thread. Call it on the event loop that will submit."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()
        self._watching = asyncio.ensure_future(self._watch())

    async def stop(self) -> None:
        """Finish the accepted requests, and end the thread."""
        self.draining = True
        self._inbox.put(None)
        if self._thread.ident is not None:
            await asyncio.to_thread(self._thread.join, STOP_SECONDS)
            self._watching.cancel()

    def submit(
        self,
        queries: Sequence[Query],
        works: Sequence[Work],
        tenant: str = "",
        seconds: float = math.inf,
        cache_salt: str = "",
    ) -> Job:
        """Queue one request that has *seconds* until its deadline. `cancel` gives up waiting.

        *works* are their estimates. *tenant* takes turns with others, and waits for its own
        work only. Only requests with the same *cache_salt* share cached texts. The job's future
        raises `ItemError` if a query cannot be answered.

        Raises:
            TooManyRequests: the queue is full, or the request would miss its deadline.
            NotReady: the engine is loading, draining, stuck or has ended.
        """
        self.check_ready()
        text_bytes = self.admission.admit(queries, works, tenant, seconds)
        job = Job(queries, works, tenant, cache_salt, text_bytes, self._loop.create_future())
        self._jobs.add(job)
        self._inbox.put(job)
        return job

    def cancel(self, job: Job) -> None:
        """Drop *job* before the next step."""
        self._jobs.discard(job)
        job.abandoned = self._any_abandoned = True

    async def replace(self, loaded: "LoadedModel") -> None:
        """Answer with another checkpoint, after the texts that were started with the one before.

        Raises:
            NotReady: as `submit` does.
        """
        self.check_ready()
        self._swapped = self._loop.create_future()
        self._inbox.put(loaded)
        await self._swapped

    @property
    def active(self) -> "LoadedModel":
        """The checkpoint that answers. Raises `NotReady` before the first one is loaded."""
        if self.loaded is None:
            raise NotReady("the checkpoint is still loading")
        return self.loaded

    @property
    def is_alive(self) -> bool:
        """True if the thread runs and no step is stuck."""
        return self._thread.is_alive() and (
            self._idle or time.monotonic() - self._round_began < self._stall_seconds
        )

    @property
    def not_ready_reason(self) -> str | None:
        """Reason why no request is accepted now, in words for a client; None if requests are."""
        if self.draining:
            return "the service is shutting down; ask another one, or later"
        if self.loaded is None:
            return "the checkpoint is still loading"
        return None if self.is_alive else "the engine is stuck or has ended"

    def check_ready(self) -> None:
        """Raise `NotReady` if no request is accepted now."""
        if reason := self.not_ready_reason:
            raise NotReady(reason)

    async def _watch(self) -> None:
        """Log once that a step is stuck: the thread itself cannot."""
        was_alive = True
        while self._thread.is_alive():
            await asyncio.sleep(LOOK_SECONDS)
            if was_alive and not self.is_alive and self._thread.is_alive():
                log.error("engine stuck", extra={"fields": {"places": format_stack(self._thread)}})
            was_alive = self.is_alive

    # Run on the engine's thread.

    def _run(self) -> None:
        try:
            self._use(self._load())
        except Exception as error:
            self._call(self._on_loaded, error)
            return
        try:
            while self._receive():
                self._drop_abandoned()
                self._start_waiting()
                if self._lines.live:
                    self._step()
                self.admission.active_tenants = self._lines.tenants
                if self._finished:  # one wake-up of the event loop, however many
                    finished, self._finished = self._finished, []
                    self._call(self._resolve, finished)
        except BaseException as error:  # a bug; /livez now asks for a restart
            log.critical("engine died", extra={"fields": {"exception": format_exception(error)}})
            self._call(self._fail_all)

    def _use(self, loaded: "LoadedModel") -> None:
        self._model = loaded
        self._scheduler = loaded.new_scheduler()
        self._call(self._set_loaded, loaded)

    def _receive(self) -> bool:
        """Wait for work and take what arrived; False if the engine is to stop and has none left."""
        self._idle = not (self._lines.tenants or self._replacement or self._stopping)
        first = [self._inbox.get()] if self._idle else []
        self._round_began, self._idle = time.monotonic(), False
        self._cpu_began = time.process_time()
        for _ in range(len(first) + self._inbox.qsize()):
            if self._replacement:  # what arrived after it waits with it
                break
            arrived = first.pop() if first else self._inbox.get()
            if arrived is None:
                self._stopping = True
            elif isinstance(arrived, Job):
                self._prepare(arrived)
            else:
                self._replacement = arrived
        if self._replacement and not self._lines.tenants:
            self._use(self._replacement)
            self._replacement = None
        return bool(self._lines.tenants or self._finished or not self._stopping)

    def _prepare(self, job: Job) -> None:
        """Check all queries of a job before any is decoded: all or nothing."""
        job.loaded = self._model
        tasks: list[Task] = []
        predictor = self._model.predictor
        try:
            for decoder in predictor.start_all(job.queries, job.cache_salt):
                number = len(tasks)
                peak_bytes = predictor.peak_bytes(job.queries[number])
                tasks.append(Task(job, number, decoder, job.works[number], peak_bytes))
                if job.abandoned:  # while its text was checked
                    break
        except Exception as error:
            self._fail(job, len(tasks), error)
        if job.abandoned:
            for work in job.works:
                self.admission.end(job.tenant, work.total, job.text_bytes)
        else:
            self._lines.add(tasks)

    def _drop_abandoned(self) -> None:
        """Take the texts of cancelled and failed jobs out of scheduler and queue."""
        if not self._any_abandoned:
            return
        self._any_abandoned = False  # first: a job that is cancelled from now on counts next time
        for task in self._lines.drop_abandoned():
            if task in self._lines.live:
                self._scheduler.cancel(task)
                seconds = self._end(task)
                if seconds > task.work.total / self.admission.rate:  # else nothing is known
                    self.admission.measure(task.work.total, seconds)
            else:
                self.admission.end(task.job.tenant, task.work.total, task.job.text_bytes)

    def _start_waiting(self) -> None:
        """Start waiting texts while there is room."""
        while self._lines.waiting and (task := self._lines.start_next()):
            task.job.started = task.job.started or time.monotonic()
            self._scheduler.add(task, task.decoder)

    def _step(self) -> None:
        """Run one round, and measure its speed."""
        try:
            finished: Sequence[tuple[Any, Any]] = self._scheduler.step()
        except Exception as error:  # the scheduler itself failed: its texts are lost
            finished = [(task, error) for task in self._lines.live]
            self._scheduler = self._model.new_scheduler()
        cpu_seconds = time.process_time() - self._cpu_began
        self._lines.worked(min(time.monotonic() - self._round_began, MAX_SLOWDOWN * cpu_seconds))
        done, seconds = 0, 0.0
        for task, result in finished:
            took = self._end(task)
            if isinstance(result, Exception):
                self._fail(task.job, task.index, result)
                continue
            done += task.work.total
            seconds += took
            job, results = task.job, task.job.results
            results[task.index] = result
            if len(results) == len(job.queries):
                self._finish(job, [results[index] for index in range(len(results))])
        if done:
            self.admission.measure(done, seconds)

    def _end(self, task: Task) -> float:
        """Report that a live text left the engine; return the busy seconds that it took."""
        seconds = self._lines.end(task)
        self.admission.end(task.job.tenant, task.work.total, task.job.text_bytes)
        return seconds

    def _fail(self, job: Job, index: int, error: Exception) -> None:
        if job.abandoned:
            return
        if isinstance(error, QueryError):
            # Without its traceback, which holds this job and would be held by it.
            error = ItemError(index, error.with_traceback(None))
        job.abandoned = self._any_abandoned = True
        self._finish(job, error)

    def _finish(self, job: Job, outcome: list[Any] | Exception) -> None:
        job.finished = time.monotonic()
        self._finished.append((job, outcome))

    def _call(self, function: Callable[..., None], *arguments: object) -> None:
        """Call *function* on the event loop."""
        with suppress(RuntimeError):  # the event loop is closed
            self._loop.call_soon_threadsafe(function, *arguments)

    # Called by the engine's thread, run on the event loop.

    def _set_loaded(self, loaded: "LoadedModel") -> None:
        self.loaded = loaded
        if self._swapped is None:
            self._on_loaded(loaded)
        elif not self._swapped.done():
            self._swapped.set_result(None)

    def _resolve(self, finished: Sequence[tuple[Job, list[Any] | Exception]]) -> None:
        for job, outcome in finished:
            self._jobs.discard(job)
            if job.future.done():
                continue
            if isinstance(outcome, Exception):
                job.future.set_exception(outcome)
            else:
                job.future.set_result(outcome)

    def _fail_all(self) -> None:
        """End every wait, after the thread died."""
        self._thread.join()  # it is at its end
        for future in (self._swapped, *(job.future for job in self._jobs)):
            if future is not None and not future.done():
                future.set_exception(RuntimeError("the engine died"))
        self._jobs.clear()
