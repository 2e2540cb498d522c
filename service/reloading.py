"""Another checkpoint in the place of the one that answers, while requests flow: `POST /admin/reload`, or SIGHUP.

It is read, verified and warmed up on a thread of its own; only when it could answer does the engine change over,
between two steps. Whatever is wrong with it, the one before goes on. One way back is kept: the directory that answered
before.
"""

import asyncio
import gc
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from model.errors import LacunaError
from service.engine import Engine
from service.errors import FieldError, Problem, unavailable, unprocessable
from service.jobs import Loaded, NotReady
from service.logs import describe
from service.metrics import Metrics

log = logging.getLogger(__name__)


class Reloader:
    """Changes what the engine answers with; one change at a time.

    Args:
        load: reads a checkpoint directory and warms it up; called on a thread.
        engine: answers.
        metrics: count reloads.
        configured: the directory that the settings name, which may be a link to the newest.
    """

    def __init__(self, load: Callable[[Path], Loaded], engine: Engine, metrics: Metrics, configured: Path) -> None:
        self._load = load
        self._engine = engine
        self._metrics = metrics
        self._configured = configured
        self._before: tuple[Path, str] | None = None  # directory and digest
        self._changing = False
        self._tasks: set[asyncio.Task[Any]] = set()

    async def reload(self, directory: Path | None = None) -> dict[str, Any]:
        """Answer with what *directory* holds now; by default, with what the settings name.

        Returns:
            What answers now, what did before, and how long it took.

        Raises:
            Problem: 409 while another change is on, 422 where the checkpoint is refused, 503 where the engine does not
                answer.
        """
        return await self._change(directory or self._configured, None)

    async def roll_back(self) -> dict[str, Any]:
        """Answer with what answered before the last change.

        Raises:
            Problem: as for `reload`; 409 where nothing did.
        """
        if self._before is None:
            raise Problem(409, "nothing answered before this checkpoint; reload another one by its directory")
        return await self._change(*self._before)

    def hang_up(self) -> None:
        """Reload what the settings name, and tell the log how it went: for SIGHUP. Call it on the event loop."""
        task = asyncio.ensure_future(self._reload_quietly())
        self._tasks.add(task)  # the event loop itself would not keep it from being collected
        task.add_done_callback(self._tasks.discard)

    async def _reload_quietly(self) -> None:
        try:
            await self.reload()
        except Problem as problem:  # logged where it is a failure
            if problem.status == 409:
                log.warning("reload refused", extra={"fields": {"reason": problem.detail}})

    async def _change(self, directory: Path, digest: str | None) -> dict[str, Any]:
        if self._changing:
            raise Problem(409, "another checkpoint is being loaded; ask again when it answers")
        self._changing = True
        began = time.monotonic()
        try:
            before, after = await self._change_over(directory, digest)
        except Exception as error:
            self._metrics.reloaded(None)
            problem = _explain(error, directory)
            log.error("reload failed", extra={"fields": _reason(error, problem)})
            raise problem from None
        finally:
            self._changing = False
        self._before = before.directory, before.description["digest"]
        self._metrics.reloaded(after.description)
        answers = {key: after.description[key] for key in ("name", "version", "digest")}
        log.info("reloaded", extra={"fields": answers})
        return {
            "model": answers,
            "previous": {key: before.description[key] for key in answers},
            "seconds": round(time.monotonic() - began, 3),
        }

    async def _change_over(self, directory: Path, digest: str | None) -> tuple[Loaded, Loaded]:
        before = self._engine.loaded
        if before is None:
            raise NotReady("loading")
        after = await asyncio.to_thread(self._load, directory)
        if digest is not None and after.description["digest"] != digest:
            raise Problem(409, f"{directory} holds another checkpoint than the one that answered before")
        await self._engine.replace(after)
        return before, after


def collect() -> None:
    """Let go of what a checkpoint that was replaced leaves in cycles; what stays is not looked at again."""
    gc.unfreeze()
    gc.collect()
    gc.freeze()


def _is_directory(path: Path) -> bool:
    try:
        return path.is_dir()
    except (OSError, ValueError):  # it cannot be looked at, or can be no path
        return False


def _explain(error: Exception, directory: Path) -> Problem:
    match error:
        case Problem():
            return error
        case LacunaError():  # of the operator's files; no user's text is in it
            return unprocessable([FieldError("/checkpoint", str(error))])
        case OSError() | ValueError() if not _is_directory(directory):
            return unprocessable([FieldError("/checkpoint", "is no directory that can be read")])
        case NotReady():
            return unavailable("the engine does not answer; /readyz says when it does")
        case _:
            return Problem(500, "the checkpoint could not be loaded; the log says where it failed")


def _reason(error: Exception, problem: Problem) -> dict[str, object]:
    return {"reason": problem.detail} if problem.status < 500 else {"exception": describe(error)}
