"""What goes into the engine and comes out of it: checkpoints, requests, and the errors that end them."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from model.errors import QueryError


class Predictor(Protocol):
    """What turns a query into a decoder: `model.predictor.Predictor`, or a test's fake."""

    def start(self, query: Any, tenant: str, /) -> Generator[Any, Any, Any]:
        """A decoder that answers *query* for *tenant*; raises `QueryError` where it cannot be answered."""
        ...


class Scheduler(Protocol):
    """What runs many decoders together: `model.batching.Scheduler`, or a test's fake."""

    rows: Counter[str]

    def add(self, ticket: Any, decoder: Any, /) -> None:
        """Take a decoder in; its result comes back with *ticket*."""
        ...

    def step(self) -> list[tuple[Any, Any]]:
        """One round of batched calls; the decoders that finished, each with its result or its exception."""
        ...

    def cancel(self, ticket: Any, /) -> object:
        """Forget a decoder."""
        ...


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """What a load function returns: a checkpoint ready to answer.

    Attributes:
        predictor: makes decoders.
        new_scheduler: makes what runs them.
        description: what ``GET /model`` says of it.
        directory: where it was read, links resolved.
        cache_bytes: what its cache of prefixes holds now.
    """

    predictor: Predictor
    new_scheduler: Callable[[], Scheduler]
    description: dict[str, Any]
    directory: Path
    cache_bytes: Callable[[], int] = lambda: 0


class NotReady(Exception):  # noqa: N818 - a state, not a fault
    """The engine answers nothing; the message says why, and may be shown to a client."""


class EngineDied(Exception):  # noqa: N818 - the name of what happened
    """The engine's thread ended by an exception that nothing should raise; the log has it."""


class ItemError(Exception):
    """One text of a request cannot be answered.

    Args:
        item: its number in the request, from 0.
        cause: why.
    """

    def __init__(self, item: int, cause: QueryError) -> None:
        super().__init__(item, cause)
        self.item = item
        self.cause = cause


class Job:
    """One request inside the engine: its queries, then its results. Made by `service.engine.Engine.submit`."""

    __slots__ = (
        "answerer", "cancelled", "error", "finished", "future", "queries", "remaining", "results", "started",
        "submitted", "tenant", "works",
    )  # fmt: skip

    def __init__(
        self,
        queries: Sequence[Any],
        tenant: str,
        works: Sequence[int],
        future: asyncio.Future[list[Any]],
    ) -> None:
        self.queries = queries
        self.tenant = tenant
        self.works = works
        self.future = future
        self.results: list[Any] = [None] * len(queries)
        self.remaining = len(queries)
        self.error: Exception | None = None
        self.cancelled = False
        self.answerer: LoadedModel | None = (
            None  # the checkpoint that answers it, once it was begun
        )
        self.submitted = time.monotonic()
        self.started = 0.0
        self.finished = 0.0

    @property
    def queue_seconds(self) -> float:
        """Seconds from submission until the engine took the first text, or until now."""
        return (self.started or self._ended) - self.submitted

    @property
    def inference_seconds(self) -> float:
        """Seconds from then until the last result, or until now."""
        return self._ended - self.started if self.started else 0.0

    @property
    def _ended(self) -> float:
        return self.finished or time.monotonic()
