"""Find the data of a run again, by their hash, after they were moved."""

from dataclasses import replace
from pathlib import Path

from model.errors import PreparedDataError, RunError
from training.config import RunConfig, options_from_dict
from training.data.shards import open_prepared
from training.run_state import StateInfo

# Folders above a run, and last parts of the recorded path, that are tried together
_LEVELS = 4


def find_data(config: RunConfig, run: Path, info: StateInfo | None) -> Path:
    """Return the directory of the data of a run; *info* is its state, if it has one.

    A relative path starts from the working directory. Data that are not there, or are others, are
    looked for next to the run directory *run* and its parents, by their hash.

    Raises:
        PreparedDataError: they are not found.
    """
    recorded = Path(config.data.prepared)
    if info is None or _has_data(recorded, info.data_sha256):
        return recorded
    parts = [part for part in recorded.parts if part not in (recorded.anchor, "..")]
    for folder in (run.resolve(), *run.resolve().parents)[:_LEVELS]:
        for number in range(1, min(len(parts), _LEVELS) + 1):
            place = folder.joinpath(*parts[-number:])
            if _has_data(place, info.data_sha256):
                return place
    if (recorded / "manifest.json").is_file():
        return recorded  # the caller says that they are others
    raise PreparedDataError(
        f"{recorded}: the data of the run, {info.data_sha256[:12]}, are neither there nor next to"
        f" {run}; name their directory with --prepared"
    )


def _has_data(directory: Path, sha256: str) -> bool:
    try:
        return open_prepared(directory, verify=False).sha256 == sha256
    except PreparedDataError:
        return False


def check_same_run(info: StateInfo, config: RunConfig, data_sha256: str, state: Path) -> None:
    """Check that a state belongs to a run and its data, wherever those lie.

    Raises:
        RunError: it has other sizes, seed, precision or data.
    """
    before = options_from_dict(RunConfig, info.config, str(state / "state.json"))
    moved = replace(before, data=replace(before.data, prepared=config.data.prepared))
    for name in ("network", "data", "seed", "precision"):
        if getattr(moved, name) != getattr(config, name):
            raise RunError(
                f"{state}: was trained with another [{name}]; resume with its own run file"
            )
    if info.data_sha256 != data_sha256:  # (epoch, index) would name other batches
        raise RunError(
            f"{state}: was trained on data {info.data_sha256[:12]}, not on"
            f" {data_sha256[:12]} of {config.data.prepared}; name the run's data with --prepared,"
            " or begin a new run with start_from"
        )
