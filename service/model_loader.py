"""Load a checkpoint, warm it up, and put another one in its place while requests flow.

The model's code is imported when a checkpoint is loaded, so that ``--help`` and a wrong setting
answer at once.
"""

import asyncio
import gc
import importlib.util
import logging
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from model.cpus import usable_cpus
from model.errors import CheckpointError, LacunaError
from service.engine import Engine, NotReady
from service.errors import Problem
from service.estimate import Estimator, rare_characters
from service.logs import foreign_lines_logged, format_exception
from service.metrics import Metrics
from service.settings import Settings

if TYPE_CHECKING:
    from model.batching import Scheduler
    from model.checkpoint import Checkpoint
    from model.predictor import Predictor
    from model.runtime import Runtime

log = logging.getLogger(__name__)

# Above this the int8 steps of a small network gain nothing from more threads.
MAX_THREADS = 4
# New objects after which Python looks for cycles.
COLLECT_AFTER = 100_000
# The NVIDIA driver's control device exists if a GPU can be used, and is cheaper to look for than to
# import torch.
_DRIVER = Path("/dev/nvidiactl")
_WARM_UP = "I have ____ it."


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A checkpoint that is ready to answer."""

    predictor: "Predictor"
    new_scheduler: Callable[[], "Scheduler"]
    description: dict[str, Any]  # the answer of GET /model, without the limits
    estimator: Estimator  # its own: what the checkpoint before had cached says nothing

    @property
    def identity(self) -> dict[str, str]:
        """Name, version and digest."""
        return {key: self.description[key] for key in ("name", "version", "digest")}


def load(settings: Settings, on_call: Callable[[str, int, int], None]) -> LoadedModel:
    """Load the checkpoint that the settings name and answer one query of each kind.

    *on_call* is passed on to `model.batching.Scheduler`.

    Raises:
        model.errors.CheckpointError: it is missing, damaged or too new, or cannot run here.
    """
    with foreign_lines_logged():
        return _load(settings, on_call)


def _load(settings: Settings, on_call: Callable[[str, int, int], None]) -> LoadedModel:
    from model.batching import Scheduler
    from model.counts import file_sizes
    from model.predictor import Predictor, size_of
    from model.queries import ClozeQuery, PredictQuery, ScoreQuery

    checkpoint, runtime = _open(settings)
    cache_bytes = settings.prefix_cache_mib << 20
    predictor = Predictor(checkpoint, runtime, settings.limits, cache_bytes)
    kinds = {"predict": PredictQuery, "cloze": ClozeQuery, "score": ScoreQuery}
    predictor.run([kinds[capability](_WARM_UP) for capability in checkpoint.capabilities])
    freeze_heap()
    description = {
        "name": checkpoint.name,
        "version": checkpoint.version,
        "digest": checkpoint.digest,
        "runtime": runtime.name,
        "architecture": asdict(checkpoint.network) if checkpoint.network else {},
        "parameters": size_of(checkpoint),
        "counts": [
            {"ngrams": each.ngrams, "bytes": sum(file_sizes(each.config)), "weights": weights}
            for each, weights in zip(
                checkpoint.counts, checkpoint.calibration.counts_weights, strict=False
            )
        ],
        "languages": list(checkpoint.languages),
        "capabilities": list(checkpoint.capabilities),
        "scores": checkpoint.scores,
    }
    rare = rare_characters(checkpoint.tokenizer.surfaces)
    estimator = Estimator(settings.limits, cache_bytes, rare)
    return LoadedModel(predictor, lambda: Scheduler(runtime, on_call), description, estimator)


def freeze_heap() -> None:
    """Free what a checkpoint leaves in cycles, and exempt what remains from garbage collection.

    Answering a request makes no cycles, and looking for some after every 700 new objects would take
    a tenth of the engine's time.
    """
    gc.unfreeze()
    gc.collect()
    gc.freeze()
    gc.set_threshold(COLLECT_AFTER)


def network_threads(wanted: int, *control_group: Path) -> int:
    """Return the threads of one network step; 0 means one fewer than there are CPUs, up to 4.

    *control_group* is where :func:`usable_cpus` reads its quota.
    """
    return wanted or max(1, min(usable_cpus(*control_group) - 1, MAX_THREADS))


def _open(settings: Settings) -> tuple["Checkpoint", "Runtime"]:
    """Open the checkpoint on the device of the settings; ``auto`` is a GPU if one can be used."""
    from model.predictor import open_model

    directory = Path(os.path.realpath(settings.checkpoint))  # now: a link may change later
    threads = network_threads(settings.threads)
    max_bytes = settings.max_checkpoint_mib << 20
    if settings.device != "auto":
        return open_model(directory, settings.device, threads, max_bytes)
    if _DRIVER.exists() and importlib.util.find_spec("torch"):
        try:
            return open_model(directory, "cuda", threads, max_bytes)
        except CheckpointError:
            log.warning("the GPU cannot be used; serving on the CPU. --device cuda says why")
    return open_model(directory, "cpu", threads, max_bytes)


class Reloader:
    """Loads the configured checkpoint again and swaps it in, one change at a time.

    The checkpoint is read, verified and warmed up on another thread. The engine changes over only
    when it could answer; if anything is wrong with it, or it takes longer than *load_seconds*, the
    old one goes on.
    """

    def __init__(
        self,
        load: Callable[[], LoadedModel],
        engine: Engine,
        metrics: Metrics,
        load_seconds: float,
    ) -> None:
        self._load = load
        self._load_seconds = load_seconds
        self._loading = False
        self._engine = engine
        self._metrics = metrics
        self._lock = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()

    async def reload(self) -> dict[str, Any]:
        """Answer with what the checkpoint directory holds now. Waits for a reload that is running.

        Return the fields of `service.schemas.ReloadAnswer`.

        Raises:
            Problem: 422 if the checkpoint is refused, 500 if loading failed for another reason.
            NotReady: the engine cannot take a checkpoint now, or an earlier load still runs.
        """
        async with self._lock:
            started = time.monotonic()
            try:
                self._engine.check_ready()
                if self._loading:
                    raise NotReady("an earlier checkpoint is still being loaded; reload later")
                before = self._engine.loaded.identity if self._engine.loaded else {}
                after = await self._load_on_thread()
                await self._engine.replace(after)
            except NotReady as error:
                log.warning("reload refused", extra={"fields": {"reason": str(error)}})
                raise
            except Exception as error:
                self._metrics.reloaded(success=False)
                problem = Problem(500, "the checkpoint could not be loaded; the log says where")
                fields: dict[str, object] = {"exception": format_exception(error)}
                if isinstance(error, LacunaError):  # about the operator's files, not a user's text
                    # A path need not be UTF-8.
                    reason = str(error).encode(errors="backslashreplace").decode()
                    problem, fields = Problem(422, reason), {"reason": reason}
                log.error("reload failed", extra={"fields": fields})
                raise problem from None
            freeze_heap()
            self._metrics.reloaded(success=True)
            self._metrics.loaded(after.identity)
            log.info("reloaded", extra={"fields": after.identity})
            seconds = round(time.monotonic() - started, 3)
            return {"model": after.identity, "previous": before, "seconds": seconds}

    def on_sighup(self) -> None:
        """Reload; the log says how it went. Call it on the event loop."""

        async def reload() -> None:
            with suppress(Problem, NotReady):  # it is in the log
                await self.reload()

        task = asyncio.ensure_future(reload())
        self._tasks.add(task)  # the event loop itself would not keep it from being collected
        task.add_done_callback(self._tasks.discard)

    async def _load_on_thread(self) -> LoadedModel:
        """Load on a daemon thread: the process can end although a disk hangs.

        Raises:
            CheckpointError: it takes too long; the thread goes on, and its result is dropped.
        """
        outcome: Future[LoadedModel] = Future()
        outcome.set_running_or_notify_cancel()

        def run() -> None:
            finish: Callable[[], None]
            try:
                finish = partial(outcome.set_result, self._load())
            except BaseException as error:
                finish = partial(outcome.set_exception, error)
            self._loading = False  # before a reload that waits for this one looks
            finish()

        self._loading = True
        threading.Thread(target=run, name="loader", daemon=True).start()
        loaded = asyncio.wrap_future(outcome)
        await asyncio.wait({loaded}, timeout=self._load_seconds)
        if not loaded.done():
            loaded.cancel()
            raise CheckpointError(
                f"the checkpoint was not loaded within {self._load_seconds:g} s; check its size and"
                " its disk, or raise load_seconds"
            )
        return loaded.result()
