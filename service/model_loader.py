"""From a checkpoint directory to what the engine runs: reads it, opens it on a device, warms it up. No HTTP.

The model is imported when it is loaded, so that ``--help`` and a wrong setting answer at once.
"""

import gc
import importlib.util
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from service.jobs import LoadedModel
from service.settings import Settings

if TYPE_CHECKING:
    from model.checkpoint import Checkpoint
    from model.runtime import Runtime

log = logging.getLogger(__name__)

# The NVIDIA driver's control device: there where a GPU can be used, and cheaper to ask than torch is to import.
_DRIVER = Path("/dev/nvidiactl")
_WARM_UP = "I have ____ it."
# Above this the int8 steps of a small network stop gaining from more threads.
MAX_THREADS = 4
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
    from model.batching import Scheduler
    from model.predictor import Predictor
    from model.queries import ClozeQuery, Limits, PredictQuery, Query, ScoreQuery

    directory = directory.resolve()  # now: a link may point elsewhere later
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
    from model.predictor import size_of

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


def network_threads(wanted: int) -> int:
    """Return *wanted* threads for one network step; 0 chooses by CPUs, one of which the event loop keeps."""
    return wanted or max(1, min(available_cpus() - 1, MAX_THREADS))


def available_cpus(
    root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")
) -> int:
    """Count the CPUs this process may use: by affinity and by the smallest cgroup v2 quota, at least 1.

    Args:
        root: where control groups are mounted; a container sees its own group there.
        own: names the group of this process, in a line `0::PATH`. Every group above it limits it too.
    """
    affinity = getattr(os, "sched_getaffinity", None)
    cpus = float(len(affinity(0)) if affinity else os.cpu_count() or 1)
    try:
        path = own.read_text("utf-8").rpartition("0::/")[2].strip()
    except (OSError, UnicodeDecodeError):
        path = ""
    groups = (path, *map(str, Path(path).parents))
    for group in groups:
        try:
            quota, period = map(int, (root / group / "cpu.max").read_text("utf-8").split())
            cpus = min(cpus, quota / period)
        except (OSError, ValueError, ZeroDivisionError):  # no such group, or no limit: `max`
            continue
    return max(1, int(cpus))


def _open(settings: Settings, directory: Path) -> tuple["Checkpoint", "Runtime"]:
    from model.errors import CheckpointError
    from model.predictor import open_model

    device = choose_device(settings.device)
    try:
        return open_model(directory, device, network_threads(settings.threads))
    except CheckpointError:
        if settings.device != "auto" or device == "cpu":
            raise
        log.warning("the GPU cannot be used; serving on the CPU. --device cuda says why")
        return open_model(directory, "cpu", network_threads(settings.threads))
