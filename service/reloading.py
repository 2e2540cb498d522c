"""Another checkpoint in the place of the one that answers, while requests flow: `POST /admin/reload`, or SIGHUP.

It is read, verified and warmed up on a thread of its own; only when it could answer does the engine change over,
between two steps. Whatever is wrong with it, the one before goes on. What is wrong with a checkpoint counts as a
failure; that the service takes none at the time does not.
"""

import asyncio
import gc
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import Any

from model.errors import LacunaError
from service.engine import Engine
from service.errors import FieldError, Problem, unavailable, unprocessable
from service.jobs import LoadedModel, NotReady
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

    def __init__(
        self,
        load: Callable[[Path], LoadedModel],
        engine: Engine,
        metrics: Metrics,
        configured: Path,
    ) -> None:
        self._load = load
        self._engine = engine
        self._metrics = metrics
        self._configured = configured
        self._changing = asyncio.Lock()
        self._hung_up = False  # a SIGHUP waits for its turn
        self._tasks: set[asyncio.Task[Any]] = set()

    async def reload(self, directory: Path | None = None) -> dict[str, Any]:
        """Answer with what *directory* holds now; by default, with what the settings name.

        Returns:
            What answers now, what did before, and how long it took.

        Raises:
            Problem: 409 while another change is on, 422 where the checkpoint is refused, 503 where the engine does not
                answer.
        """
        if self._changing.locked() or self._hung_up:
            raise _refuse(
                Problem(409, "another checkpoint is being loaded; ask again when it answers")
            )
        async with self._changing:
            return await self._change(directory or self._configured)

    def hang_up(self) -> None:
        """Reload what the settings name, and tell the log how it went: for SIGHUP. Call it on the event loop.

        While a change is on, it follows: that one may have followed a link before it was pointed elsewhere.
        """
        if self._hung_up:  # what waits will see what this one is for
            return
        self._hung_up = True
        if self._changing.locked():
            log.info("reload waits for the one that is on")
        task = asyncio.ensure_future(self._reload_quietly())
        self._tasks.add(task)  # the event loop itself would not keep it from being collected
        task.add_done_callback(self._tasks.discard)

    async def _reload_quietly(self) -> None:
        async with self._changing:
            self._hung_up = False
            with suppress(Problem):  # the log has it
                await self._change(self._configured)

    async def _change(self, directory: Path) -> dict[str, Any]:
        began = time.monotonic()
        try:
            before, after = await self._change_over(directory)
        except Problem:  # a refusal, which is no fault of the checkpoint
            raise
        except Exception as error:
            self._metrics.reloaded(None)
            problem = _explain(error, directory)
            log.error("reload failed", extra={"fields": _reason(error, problem)})
            raise problem from None
        self._metrics.reloaded(after.description)
        answers = {key: after.description[key] for key in ("name", "version", "digest")}
        log.info("reloaded", extra={"fields": answers})
        return {
            "model": answers,
            "previous": {key: before.description[key] for key in answers},
            "seconds": round(time.monotonic() - began, 3),
        }

    async def _change_over(self, directory: Path) -> tuple[LoadedModel, LoadedModel]:
        if self._engine.draining:
            raise _refuse(unavailable("the service is shutting down; ask another one, or later"))
        before = self._engine.loaded
        if before is None:
            raise _refuse(
                unavailable("the first checkpoint is still loading; ask again when /readyz is 200")
            )
        after = await self._load_on_thread(directory)
        try:
            await self._engine.replace(after)
        except NotReady:
            raise _refuse(
                unavailable(
                    "the service is shutting down, or its engine has ended; ask again when /readyz is 200"
                )
            ) from None
        return before, after

    def _load_on_thread(self, directory: Path) -> asyncio.Future[LoadedModel]:
        """Load on a daemon thread: if the disk hangs, the process can still end."""
        outcome: Future[LoadedModel] = Future()
        outcome.set_running_or_notify_cancel()

        def run() -> None:
            try:
                outcome.set_result(self._load(directory))
            except BaseException as error:
                outcome.set_exception(error)

        threading.Thread(target=run, name="loader", daemon=True).start()
        return asyncio.wrap_future(outcome)


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


def _refuse(problem: Problem) -> Problem:
    """Tell the log, too."""
    log.warning("reload refused", extra={"fields": {"reason": problem.detail}})
    return problem


def _explain(error: Exception, directory: Path) -> Problem:
    match error:
        case LacunaError():  # of the operator's files; no user's text is in it
            return unprocessable([FieldError("/checkpoint", str(error))])
        case OSError() | ValueError() if not _is_directory(directory):
            return unprocessable([FieldError("/checkpoint", "is no directory that can be read")])
        case _:
            return Problem(500, "the checkpoint could not be loaded; the log says where it failed")


def _reason(error: Exception, problem: Problem) -> dict[str, object]:
    return {"reason": problem.detail} if problem.status < 500 else {"exception": describe(error)}
