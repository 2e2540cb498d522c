"""A file or directory is replaced whole or not at all."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from model.files import previous_directory, replaced_directory, write_atomically


def replace_file(target: Path) -> None:
    """Replace a file."""
    write_atomically(target, b"new")


def replace_directory(target: Path) -> None:
    """Replace a directory of one file."""
    with replaced_directory(target) as fresh:
        (fresh / "file").write_bytes(b"new")


each_kind = pytest.mark.parametrize("replace", [replace_file, replace_directory])


def write_old(target: Path, replace: Callable[[Path], None]) -> Path:
    """Make a target; return its file, which contains ``old``."""
    replace(target)
    content = target / "file" if target.is_dir() else target
    content.write_bytes(b"old")
    return content


@each_kind
@pytest.mark.parametrize("name", ["target", "link"])
def test_target_is_made_and_then_replaced(
    tmp_path: Path, replace: Callable[[Path], None], name: str
) -> None:
    """A new target is made, an old one replaced, a link followed, and nothing else is left."""
    (tmp_path / "link").symlink_to(tmp_path / "target")
    content = write_old(tmp_path / name, replace)
    replace(tmp_path / name)
    assert content.read_bytes() == b"new"
    assert (tmp_path / "link").is_symlink()
    assert set(tmp_path.iterdir()) == {tmp_path / "link", tmp_path / "target"}


@each_kind
@pytest.mark.parametrize("call", ["fsync", "rename"])
def test_failure_leaves_old_target(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, replace: Callable[[Path], None], call: str
) -> None:
    """When the disk is full or a rename fails, the old target stays and nothing else is left."""
    target = tmp_path / "target"
    content = write_old(target, replace)
    rename = Path.rename

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    def fail_to_arrive(self: Path, to: Path) -> Path:
        if self.name == ".target.new":
            fail()
        return rename(self, to)

    with monkeypatch.context() as patch:
        if call == "fsync":
            patch.setattr(os, "fsync", fail)
        else:
            patch.setattr(Path, "rename", fail_to_arrive)
            patch.setattr(Path, "replace", fail)
        with pytest.raises(OSError, match="No space"):
            replace(target)
    assert content.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]


def test_crash_between_renames_leaves_old_directory(tmp_path: Path) -> None:
    """A crash between the two renames is survived by the directory that was set aside."""
    target = tmp_path / "target"
    write_old(target, replace_directory)
    target.rename(previous_directory(target))
    with pytest.raises(KeyError), replaced_directory(target):
        raise KeyError
    assert (previous_directory(target) / "file").read_bytes() == b"old"
    replace_directory(target)
    assert list(tmp_path.iterdir()) == [target]


def test_file_keeps_its_permissions(tmp_path: Path) -> None:
    """A new file gets the asked permissions; a replaced one passes on its own."""
    path = tmp_path / "file"
    write_atomically(path, b"", mode=0o600)
    assert path.stat().st_mode & 0o777 == 0o600
    path.chmod(0o640)
    write_atomically(path, b"")
    assert path.stat().st_mode & 0o777 == 0o640
