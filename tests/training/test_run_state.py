"""Saved states of runs."""

import errno
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import training.run_state
from model.errors import RunError
from training.config import OptimizerOptions
from training.run_state import (
    Progress,
    StateInfo,
    find_state,
    load_optimizer,
    load_weights,
    read_state,
    save_state,
    saved_state,
)
from training.trainer import make_optimizer

INFO = StateInfo(Progress(step=3, epoch=1, index=2), {"name": "tiny"}, "abc", {"digest": "def"})


def trained() -> tuple[nn.Module, torch.optim.Optimizer, Tensor]:
    """A layer after one step of an optimizer, the optimizer, and carried states."""
    torch.manual_seed(1)
    network = nn.Linear(3, 2)
    optimizer = make_optimizer(OptimizerOptions(schedule="constant"), network)
    network(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    return network, optimizer, torch.randn(4, 5)


def test_state_comes_back(tmp_path: Path) -> None:
    """All that is saved is restored, torch's random state too; another size is refused."""
    network, optimizer, carried = trained()
    save_state(tmp_path / "state", network, optimizer, carried, INFO)
    expected = torch.rand(3)
    other, other_optimizer, _ = trained()
    nn.init.zeros_(other.weight)
    load_weights(tmp_path / "state", other)
    found = load_optimizer(tmp_path / "state", other_optimizer, random_state=True)
    assert torch.equal(other.weight, network.weight)
    assert torch.equal(found, carried)
    assert torch.equal(torch.rand(3), expected)
    for ours, theirs in zip(optimizer.state.values(), other_optimizer.state.values(), strict=True):
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert read_state(tmp_path / "state") == INFO
    with pytest.raises(RunError, match="size mismatch"):
        load_weights(tmp_path / "state", nn.Linear(3, 7))


def test_full_disk_keeps_the_state_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that fills up is a RunError, and the state saved before can still be read."""
    parts = trained()
    save_state(tmp_path / "state", *parts, INFO)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(training.run_state, "save_file", full)
    with pytest.raises(RunError, match="No space left"):
        save_state(tmp_path / "state", *parts, StateInfo(Progress(step=9), {}, ""))
    assert read_state(saved_state(tmp_path)) == INFO
    assert [path.name for path in tmp_path.iterdir()] == ["state"]


def test_crash_between_two_renames_loses_nothing(tmp_path: Path) -> None:
    """If only the previous directory is there, it is found."""
    assert find_state(tmp_path) is None
    with pytest.raises(RunError, match="no saved state"):
        saved_state(tmp_path)
    save_state(tmp_path / "state", *trained(), INFO)
    (tmp_path / "state").rename(tmp_path / ".state.old")
    assert read_state(saved_state(tmp_path)) == INFO


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"data_sha256"', '"data"', "data_sha256: missing"),
        ('"step": 3', '"step": "x"', r"progress\.step: .*integer"),
        ('"progress"', '"forward"', "progress: missing"),
    ],
)
def test_missing_and_ill_typed_keys_are_named(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    """A state of another program is refused by the name of a key."""
    save_state(tmp_path / "state", *trained(), INFO)
    path = tmp_path / "state" / "state.json"
    path.write_text(path.read_text(encoding="utf-8").replace(old, new), encoding="utf-8")
    with pytest.raises(RunError, match=rf"state\.json: cannot be read: {message}.*; begin"):
        read_state(path.parent)


@pytest.mark.parametrize("file", ["state.json", "weights.safetensors", "optimizer.safetensors"])
@pytest.mark.parametrize("content", [None, b"", b"{}", b"x" * 100])
def test_damaged_files_are_named(tmp_path: Path, file: str, content: bytes | None) -> None:
    """A file that is missing, empty or altered is an error with its path."""
    network, optimizer, carried = trained()
    save_state(tmp_path / "state", network, optimizer, carried, INFO)
    path = tmp_path / "state" / file
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(RunError, match=file):
        read_state(path.parent)
        load_weights(path.parent, network)
        load_optimizer(path.parent, optimizer, random_state=False)
