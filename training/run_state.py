"""Everything that a run needs to go on, in one directory that is replaced as a whole. Not the served checkpoint.

``weights.safetensors`` the network, fp32; ``optimizer.safetensors`` its moments, the carried states and torch's random
state; ``state.json`` counters, the configuration, the SHA-256 of the prepared data and the checkpoint that the run
began with, if any. No pickle.
"""

import contextlib
import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from model.checkpoint import Checkpoint
from model.errors import ReportError, RunError

SNAPSHOTS = (
    "state",
    "state.old",
)  # the latter is all there is where a crash fell between two renames

BEGUN_WITH = "begun_with.json"


@dataclass(slots=True)
class Progress:
    """Counters of a run.

    Attributes:
        step: updates done.
        epoch, index: the next batch.
        tokens: tokens of text read so far.
        seconds: process CPU seconds per thread so far.
        wall_seconds: wall-clock seconds so far.
    """

    step: int = 0
    epoch: int = 0
    index: int = 0
    tokens: int = 0
    seconds: float = 0.0
    wall_seconds: float = 0.0


def write_whole(path: Path, data: bytes) -> None:
    """Write a file beside its place and put it there; whatever fails, the file before stays.

    Raises:
        RunError: the disk is full or not writable.
    """
    fresh = path.with_name(path.name + ".new")
    try:
        fresh.write_bytes(data)
        fresh.replace(path)
    except OSError as error:
        raise RunError(
            f"{path}: cannot write: {error}; make room, or name another place"
        ) from error


def check_writable(path: Path) -> None:
    """Make the folder of a file that long work will end in, and see now that the file can be written there.

    Raises:
        ReportError: it cannot.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    except OSError as error:
        raise ReportError(f"{path}: {error.strerror}; name a place that can be written") from error


def keep_to(directory: Path, settings: dict[str, Any]) -> None:
    """Note what the parts in a directory are made with, or refuse to go on with something else.

    A directory without such a note is taken as it is, and gets one.

    Args:
        directory: is there.
        settings: JSON; all that a part depends on.

    Raises:
        RunError: the directory was begun with other settings, or its note cannot be read.
    """
    path = directory / BEGUN_WITH
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
    if not path.exists():
        write_whole(path, f"{json.dumps({'begun_with': digest})}\n".encode())
        return
    try:
        before = json.loads(path.read_text(encoding="utf-8"))["begun_with"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(
            f"{path}: cannot be read: {error!r}; remove {directory} or name another --output"
        ) from error
    if before != digest:
        raise RunError(
            f"{directory} was begun with other text or options; remove it, or name another --output"
        )


def save_snapshot(
    directory: Path,
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    carried: Tensor,
    progress: Progress,
    config: dict[str, Any],
    data_sha256: str,
    base: Mapping[str, Any] | None = None,
) -> None:
    """Write beside *directory*, then put it in its place; whatever fails, the snapshot before stays.

    Args:
        directory: the snapshot.
        network: its weights are kept.
        optimizer: its moments are kept.
        carried: states of the rows, (rows, S).
        progress: counters.
        config: of the run, as JSON has it.
        data_sha256: of the text that the run reads.
        base: what :func:`describe_base` says of the checkpoint that the run began with.

    Raises:
        RunError: the disk is full or not writable.
    """
    fresh, old = (
        directory.with_name(directory.name + ".new"),
        directory.with_name(directory.name + ".old"),
    )
    tensors = {"carried": carried.contiguous(), "random_state": torch.get_rng_state()}
    for number, state in optimizer.state_dict()["state"].items():
        for name, value in state.items():
            tensors[f"moments.{number}.{name}"] = torch.as_tensor(value).contiguous()
    try:
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(parents=True)
        save_file(
            {n: p.detach().contiguous() for n, p in network.state_dict().items()},
            fresh / "weights.safetensors",
        )
        save_file(tensors, fresh / "optimizer.safetensors")
        values = {
            "progress": asdict(progress),
            "config": config,
            "data_sha256": data_sha256,
            "base": base,
        }
        (fresh / "state.json").write_text(json.dumps(values, indent=1), encoding="utf-8")
        for path in fresh.iterdir():
            with path.open("rb") as file:
                os.fsync(file.fileno())
        if directory.exists():
            shutil.rmtree(old, ignore_errors=True)
            directory.rename(old)
        fresh.rename(directory)
        shutil.rmtree(old, ignore_errors=True)
    except (OSError, SafetensorError) as error:
        with contextlib.suppress(OSError):
            shutil.rmtree(fresh, ignore_errors=True)
            if old.exists() and not directory.exists():
                old.rename(directory)
        raise RunError(
            f"{directory}: cannot save: {error}; the snapshot before it is kept; free space, then --resume"
        ) from error


def snapshot_directory(run: Path) -> Path:
    """The snapshot of a run directory, or the one before it.

    Raises:
        RunError: the run has saved nothing yet.
    """
    for name in SNAPSHOTS:
        if (run / name / "state.json").is_file():
            return run / name
    raise RunError(f"{run}: holds no saved state; start the run without --resume")


def read_progress(directory: Path) -> tuple[Progress, dict[str, Any], str]:
    """Counters and configuration of a snapshot, and the SHA-256 of its prepared data, empty in an older one.

    Raises:
        RunError: the snapshot is torn.
    """
    try:
        values = json.loads((directory / "state.json").read_text(encoding="utf-8"))
        return Progress(**values["progress"]), values["config"], str(values.get("data_sha256", ""))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"{directory / 'state.json'}: cannot be read: {error!r}") from error


def read_base(directory: Path) -> dict[str, Any] | None:
    """What :func:`describe_base` said of the checkpoint that a snapshot's run began with; None of none, or unknown.

    Raises:
        RunError: the snapshot is torn.
    """
    try:
        base: dict[str, Any] | None = json.loads(
            (directory / "state.json").read_text(encoding="utf-8")
        ).get("base")
    except (OSError, ValueError, AttributeError) as error:
        raise RunError(f"{directory / 'state.json'}: cannot be read: {error!r}") from error
    return base


def describe_base(checkpoint: Checkpoint) -> dict[str, Any]:
    """Which checkpoint a run begins with, and its past: another may lie at its path by the end of the run."""
    return {
        "name": checkpoint.name,
        "version": checkpoint.version,
        "digest": checkpoint.digest,
        "training": checkpoint.training,
    }


def load_weights(directory: Path, network: nn.Module) -> None:
    """Put a snapshot's weights into *network*.

    Raises:
        RunError: the file is missing or torn, or belongs to a network of other sizes.
    """
    try:
        network.load_state_dict(load_file(directory / "weights.safetensors"))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise RunError(f"{directory / 'weights.safetensors'}: {error}") from error


def load_optimizer(
    directory: Path, optimizer: torch.optim.Optimizer, *, random_state: bool
) -> Tensor:
    """Put a snapshot's moments into *optimizer*, and torch's random state in place if asked for.

    Returns:
        The carried forward states, (rows, S).

    Raises:
        RunError: the file is missing or torn, or belongs to another optimizer.
    """
    path = directory / "optimizer.safetensors"
    try:
        tensors = load_file(path)
        values = optimizer.state_dict()
        state: dict[int, dict[str, Tensor]] = {}
        for key, tensor in tensors.items():
            if key.startswith("moments."):
                _, number, name = key.split(".", 2)
                state.setdefault(int(number), {})[name] = tensor
        if any(
            ("exp_avg" in parts) != isinstance(optimizer, torch.optim.AdamW)
            for parts in state.values()
        ):
            raise RunError(
                f"{path}: holds the moments of another optimizer; name that one in the run file"
            )
        values["state"] = state
        optimizer.load_state_dict(values)
        if random_state:
            torch.set_rng_state(tensors["random_state"])
        return tensors["carried"]
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise RunError(f"{path}: {error!r}") from error
