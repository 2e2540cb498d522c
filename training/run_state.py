"""The state of a run: one directory, replaced as a whole, with everything that ``--resume`` needs.

    state/
      weights.safetensors     the network, fp32
      optimizer.safetensors   moments, carried states, torch's random state
      state.json              progress, run file, SHA-256 of the data, the starting checkpoint
    best/                     with keep_best: a copy of the state with the best held-out figure

This is not the served checkpoint, which ``python -m training export`` makes of it. No pickle.
"""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from model.checkpoint import load_checkpoint
from model.errors import RunError
from model.files import previous_directory, replaced_directory
from model.onnx_graphs import read_weights
from training.config import options_from_dict

BEST = "best"


@dataclass(slots=True)
class Progress:
    """Counters of a run so far."""

    step: int = 0  # updates
    epoch: int = 0  # of the next batch
    index: int = 0  # of the next batch in its epoch
    tokens: int = 0  # of text
    cpu_seconds: float = 0.0  # process CPU time divided by threads
    wall_seconds: float = 0.0
    evaluated_step: int = -1  # of the last held-out evaluation
    best_step: int = -1  # of the best one; -1 without keep_best
    first_loss: float | None = None  # at step 0
    best_loss: float | None = None  # its bits per character, or nats of a gap-only network


@dataclass(frozen=True, slots=True)
class StateInfo:
    """The content of ``state.json``."""

    progress: Progress
    config: dict[str, Any]  # the run file
    data_sha256: str  # of the text that the run reads
    base: dict[str, Any] | None = None  # the checkpoint that the run began with: its path may go


def save_state(
    directory: Path,
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    carried_states: Tensor,
    info: StateInfo,
) -> None:
    """Replace the state in *directory*; *carried_states* are (rows, S).

    Raises:
        RunError: the disk is full or not writable; the state before is kept.
    """
    tensors = {"carried_states": carried_states.contiguous(), "random_state": torch.get_rng_state()}
    for number, moments in optimizer.state_dict()["state"].items():
        for name, value in moments.items():
            tensors[f"moments.{number}.{name}"] = torch.as_tensor(value).contiguous()
    weights = {name: value.detach().contiguous() for name, value in network.state_dict().items()}
    with _replaced_state(directory) as fresh:
        save_file(weights, fresh / "weights.safetensors")
        save_file(tensors, fresh / "optimizer.safetensors")
        (fresh / "state.json").write_text(json.dumps(asdict(info), indent=1), encoding="utf-8")


def copy_state(state: Path, target: Path) -> None:
    """Replace *target* by a copy of a state; errors are those of :func:`save_state`."""
    with _replaced_state(target) as fresh:
        shutil.copytree(state, fresh, dirs_exist_ok=True)


@contextmanager
def _replaced_state(directory: Path) -> Iterator[Path]:
    try:
        with replaced_directory(directory) as fresh:
            yield fresh
    except (OSError, SafetensorError) as error:
        raise RunError(
            f"{directory}: cannot save: {error}; what was saved before is kept; free space, then"
            " --resume"
        ) from error


def find_state(run: Path) -> Path | None:
    """Return the state directory of a run; after a crash, the one before it; None without one."""
    for directory in (run / "state", previous_directory(run / "state")):
        if (directory / "state.json").is_file():
            return directory
    return None


def saved_state(run: Path) -> Path:
    """Return the state directory of a run directory, as :func:`find_state` does.

    Raises:
        RunError: the run has saved nothing yet.
    """
    if (directory := find_state(run)) is None:
        raise RunError(f"{run}: no saved state; name another directory, or begin without --resume")
    return directory


def read_state(directory: Path) -> StateInfo:
    """Read ``state.json`` of a state directory.

    Raises:
        RunError: the file is missing or damaged.
    """
    path = directory / "state.json"
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        return options_from_dict(StateInfo, values, "")
    except (OSError, ValueError, RunError) as error:
        raise RunError(f"{path}: cannot be read: {error}; begin the run again") from error


def load_weights(directory: Path, network: nn.Module) -> None:
    """Load the weights of a state directory into *network*.

    Raises:
        RunError: the file is missing or damaged, or belongs to a network of other sizes.
    """
    path = directory / "weights.safetensors"
    try:
        network.load_state_dict(load_file(path))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise RunError(f"{path}: {error}") from error


def load_checkpoint_weights(directory: Path, network: nn.Module) -> dict[str, Any]:
    """Load the int8 weights of a checkpoint into *network*; return what a state keeps of it.

    Raises:
        CheckpointError: the checkpoint cannot be read.
        RunError: it belongs to a network of other sizes.
    """
    checkpoint = load_checkpoint(directory)
    weights = read_weights(directory, checkpoint.required_network())
    try:
        network.load_state_dict({name: torch.from_numpy(each) for name, each in weights.items()})
    except RuntimeError as error:
        raise RunError(f"{directory}: {error}") from error
    return {name: getattr(checkpoint, name) for name in ("name", "version", "digest", "training")}


def load_optimizer(
    directory: Path, optimizer: torch.optim.Optimizer, *, random_state: bool
) -> Tensor:
    """Load moments into *optimizer*, and torch's random state if asked.

    Return the carried forward states, (rows, S).

    Raises:
        RunError: the file is missing or damaged, or belongs to other parameters.
    """
    path = directory / "optimizer.safetensors"
    try:
        tensors = load_file(path)
        state: dict[int, dict[str, Tensor]] = {}
        for key, tensor in tensors.items():
            if key.startswith("moments."):
                _, number, name = key.split(".", 2)
                state.setdefault(int(number), {})[name] = tensor
        optimizer.load_state_dict(optimizer.state_dict() | {"state": state})
        if random_state:
            torch.set_rng_state(tensors["random_state"])
        return tensors["carried_states"]
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise RunError(f"{path}: {error!r}") from error
