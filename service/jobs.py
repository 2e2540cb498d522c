"""Requests inside the engine, and whose text is started next."""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from model.queries import Query
from service.estimate import Work

if TYPE_CHECKING:
    from model.batching import Decoder
    from service.model_loader import LoadedModel

# Bytes that live texts may keep between two steps: enough for 64 texts of /predict.
LIVE_BYTES = 224 << 20
# Microseconds that a round of several tenants should take.
ROUND_WORK = 120_000
# One of several tenants may hold so many times as many texts and bytes as are free.
LIVE_SHARE = 3


@dataclass(slots=True, eq=False)
class Job:
    """One request inside the engine; await `future` for one result per query."""

    queries: Sequence[Query]
    works: Sequence[Work]  # estimated, of each query
    tenant: str
    cache_salt: str
    text_bytes: int  # that admission counts for each query
    future: asyncio.Future[list[Any]]
    results: dict[int, Any] = field(default_factory=dict)  # by index of the query
    abandoned: bool = False  # missing results are not wanted any more
    loaded: "LoadedModel | None" = None  # the checkpoint that answers
    # Monotonic seconds; 0 means not yet.
    submitted: float = field(default_factory=time.monotonic)
    started: float = 0.0
    finished: float = 0.0

    @property
    def queue_seconds(self) -> float:
        """Seconds from submission until the first text was started, or until now."""
        return (self.started or self.finished or time.monotonic()) - self.submitted

    @property
    def inference_seconds(self) -> float:
        """Seconds from then until the last result, or until now."""
        return (self.finished or time.monotonic()) - self.started if self.started else 0.0


@dataclass(slots=True, eq=False)
class Task:
    """One text of a job. The scheduler names its decoder by the task itself."""

    job: Job
    index: int
    decoder: "Decoder[Any]"
    work: Work
    peak_bytes: int  # that the decoder keeps between two steps, at most
    began: float = 0.0  # `Lines` notes here when it was started


@dataclass(slots=True, eq=False)
class _Line:
    """The texts of one tenant."""

    waiting: deque[Task] = field(default_factory=deque)
    live: int = 0
    live_bytes: int = 0
    round_work: int = 0


class Lines:
    """The texts of each tenant that wait or are live; tenants take turns.

    At most *batch_items* texts are live, with `LIVE_BYTES` in all. If *is_shared* returns True,
    each tenant may hold three times as much of that as is free, and as much of `ROUND_WORK` as is
    free. So the next text of another tenant starts at once, and does not wait for long rounds.
    """

    def __init__(self, batch_items: int, is_shared: Callable[[], bool]) -> None:
        self._batch_items = batch_items
        self._is_shared = is_shared
        self._lines: dict[str, _Line] = {}  # by tenant, whose turn is next first
        self.waiting = 0
        self.live: set[Task] = set()
        self._live_bytes = 0
        self._round_work = 0
        self._pace = 0.0  # busy seconds for each unit of `_round_work`, added up

    @property
    def tenants(self) -> int:
        """Number of tenants with texts."""
        return len(self._lines)

    def add(self, tasks: Sequence[Task]) -> None:
        """Append the texts of one request."""
        if tasks:
            line = self._lines.setdefault(tasks[0].job.tenant, _Line())
            line.waiting.extend(tasks)
            self.waiting += len(tasks)

    def start_next(self) -> Task | None:
        """Make the next text live, and return it; None if none may start now."""
        shared = self._is_shared()
        for tenant, line in self._lines.items():
            if line.waiting and self._has_room(line, line.waiting[0], shared):
                self._lines[tenant] = self._lines.pop(tenant)  # its next turn comes last
                task = line.waiting.popleft()
                self.waiting -= 1
                self.live.add(task)
                task.began = self._pace
                self._count(line, task, 1)
                return task
        return None

    def _has_room(self, line: _Line, task: Task, shared: bool) -> bool:
        if not self.live:
            return True
        # What would be free after it.
        free = self._batch_items - len(self.live) - 1
        free_bytes = LIVE_BYTES - self._live_bytes - task.peak_bytes
        free_work = ROUND_WORK - self._round_work - task.work.in_round
        if free < 0 or free_bytes < 0:
            return False
        return not (shared and line.live) or (
            line.live + 1 <= LIVE_SHARE * free
            and line.live_bytes + task.peak_bytes <= LIVE_SHARE * free_bytes
            and line.round_work + task.work.in_round <= free_work
        )

    def _count(self, line: _Line, task: Task, sign: int) -> None:
        """Add a live text to the sums, or take it out."""
        size, in_round = sign * task.peak_bytes, sign * task.work.in_round
        line.live += sign
        line.live_bytes += size
        line.round_work += in_round
        self._live_bytes += size
        self._round_work += in_round

    def worked(self, seconds: float) -> None:
        """Share the busy *seconds* of a round between the live texts, by their work in it."""
        self._pace += seconds / max(1, self._round_work)

    def end(self, task: Task) -> float:
        """Take out a live text; return the busy seconds that it took."""
        tenant = task.job.tenant
        line = self._lines[tenant]
        self.live.discard(task)
        self._count(line, task, -1)
        if not (line.waiting or line.live):
            del self._lines[tenant]
        return task.work.in_round * (self._pace - task.began)

    def drop_abandoned(self) -> list[Task]:
        """Take the texts of cancelled and failed jobs out of the lines, and return them.

        Those that are live are still to `end`.
        """
        dropped = [task for task in self.live if task.job.abandoned]
        for tenant, line in list(self._lines.items()):
            gone = [task for task in line.waiting if task.job.abandoned]
            if gone:
                line.waiting = deque(task for task in line.waiting if not task.job.abandoned)
                self.waiting -= len(gone)
                dropped += gone
                if not (line.waiting or line.live):
                    del self._lines[tenant]
        return dropped
