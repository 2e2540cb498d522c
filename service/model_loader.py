"""From a checkpoint directory to what the engine runs: reads it, opens it on a device, warms it up. No HTTP.

The model is imported when it is loaded, so that ``--help`` and a wrong setting answer at once.
"""

import gc
import importlib.util
import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from service.cgroup import memory_limit
from service.jobs import LoadedModel
from service.settings import Settings

if TYPE_CHECKING:
    from model.checkpoint import Checkpoint
    from model.runtime import Runtime

log = logging.getLogger(__name__)

# The NVIDIA driver's control device: there where a GPU can be used, and cheaper to ask than torch is to import.
_DRIVER = Path("/dev/nvidiactl")
_WARM_UP = "I have ____ it."
# Interpreter, libraries, heap and the rows of a full batch, in bytes, and what reloads leave. Measured with the bundled
# checkpoint, 29 MiB: with the default cache 147 MiB when ready, 262 MiB with the cache full and 250 texts waiting; with
# a cache of 8 MiB 233 MiB before and 295 MiB after four reloads.
_BASE_BYTES = 258 << 20
# Objects more than before, that may be part of a cycle, after which Python looks for cycles.
COLLECT_AFTER = 100_000


def load(settings: Settings, on_call: Callable[[str, int], None], directory: Path) -> LoadedModel:
    """Load a checkpoint and answer one query of each kind, so that the first user need not wait.

    Args:
        settings: device, threads, limits.
        on_call: told the kind and the rows of each call of the network.
        directory: of the checkpoint, or a link to it.

    Raises:
        model.errors.CheckpointError: missing, torn, altered, too new, or the device cannot run it.
    """
    from model.predictor import Predictor
    from model.queries import ClozeQuery, Limits, PredictQuery, Query, ScoreQuery
    from model.scheduler import Scheduler

    directory = directory.resolve()  # now: a link may point elsewhere later
    warn_of_memory(settings, directory, memory_limit())
    checkpoint, runtime = _open(settings, directory)
    limits = Limits(
        settings.max_characters,
        settings.max_top_k,
        settings.max_blanks,
        settings.max_choices,
        settings.max_history,
    )
    predictor = Predictor(checkpoint, runtime, limits, cache_bytes=settings.prefix_cache_mib << 20)
    of_each: dict[str, Query] = {
        "predict": PredictQuery(_WARM_UP),
        "cloze": ClozeQuery(_WARM_UP),
        "score": ScoreQuery(_WARM_UP),
    }
    predictor.run([of_each[capability] for capability in checkpoint.capabilities])
    # What is loaded stays: the collector need not look at it again, which saves pauses of tens of milliseconds.
    gc.collect()
    gc.freeze()
    # Answering leaves no cycles behind (10,000 requests: none), and to look for some at every 700 objects more takes a
    # tenth of the engine's time. A collection costs milliseconds; a leak of cycles would still be stopped by it.
    gc.set_threshold(COLLECT_AFTER)
    new_scheduler: Callable[[], Scheduler] = lambda: Scheduler(runtime, on_call)  # noqa: E731
    return LoadedModel(
        predictor, new_scheduler, describe(checkpoint), directory, lambda: predictor.cache.bytes
    )


def describe(checkpoint: "Checkpoint") -> dict[str, Any]:
    """What ``GET /model`` says of a checkpoint, its limits aside."""
    from model.opening import size_of

    return {
        "name": checkpoint.name,
        "version": checkpoint.version,
        "digest": checkpoint.digest,
        "architecture": checkpoint.network.to_dict(),
        "parameters": size_of(checkpoint),
        "languages": list(checkpoint.languages),
        "capabilities": list(checkpoint.capabilities),
        "scores": checkpoint.scores,
    }


def choose_device(
    wanted: Literal["auto", "cpu", "cuda"], driver: Path = _DRIVER
) -> Literal["cpu", "cuda"]:
    """The device for *wanted*: ``auto`` is a GPU where the driver, torch and safetensors are there, else the CPU."""
    if wanted != "auto":
        return wanted
    installed = all(importlib.util.find_spec(name) for name in ("torch", "safetensors"))
    return "cuda" if driver.exists() and installed else "cpu"


def warn_of_memory(settings: Settings, directory: Path, limit: int | None) -> None:
    """Log where a container may use less memory than its service will: else the kernel ends it without a word.

    Args:
        settings: of the cache.
        directory: of the checkpoint.
        limit: bytes that the container may use; None is no limit.
    """
    # As deep as a checkpoint is: an administrator may name any directory, / too.
    found = (path for pattern in ("*", "*/*") for path in directory.glob(pattern))
    files = sum(path.stat().st_size for path in found if path.is_file())
    needed = _BASE_BYTES + files + (settings.prefix_cache_mib << 20)
    if limit is not None and limit < needed:
        log.warning(
            "the memory limit is lower than checkpoint and cache may need; raise it, or lower prefix_cache_mib",
            extra={"fields": {"limit_mib": limit >> 20, "needed_mib": needed >> 20}},
        )


def _open(settings: Settings, directory: Path) -> tuple["Checkpoint", "Runtime"]:
    from model.errors import CheckpointError
    from model.opening import open_model

    device = choose_device(settings.device)
    try:
        return open_model(directory, device, settings.network_threads)
    except CheckpointError:
        if settings.device != "auto" or device == "cpu":
            raise
        log.warning("the GPU cannot be used; serving on the CPU. --device cuda says why")
        return open_model(directory, "cpu", settings.network_threads)
