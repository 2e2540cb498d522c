"""The native library is used only if it was built from the sources next to it."""

import ctypes
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from model.errors import CheckpointError
from model.native import library


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda folder: (folder / library.LIBRARY).unlink(), "No such file"),
        (lambda folder: (folder / library.LIBRARY).write_bytes(b"no library"), "cannot be used"),
        (lambda folder: (folder / "int8.hpp").write_text("// newer"), "other sources"),
    ],
)
def test_an_unusable_library_is_refused(
    tmp_path: Path, damage: Callable[[Path], object], reason: str
) -> None:
    """A missing, damaged or old one is an error, which names the remedy."""
    folder = shutil.copytree(Path(library.__file__).parent, tmp_path / "native")
    damage(folder)
    with pytest.raises(CheckpointError, match=f"{reason}.*install Lacuna again"):
        library.load(ctypes.PyDLL, {}, folder)
