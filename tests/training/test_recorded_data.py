"""Data of a run are found again by their hash."""

import shutil
from pathlib import Path

import pytest

from model.errors import PreparedDataError
from tests.training.tiny_config import SIZE
from training.__main__ import main
from training.config import RunConfig, read_options
from training.trainer import Trainer


def test_moved_data_are_known_by_their_hash(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run is resumed with data moved along with it, or named with --prepared, wherever it is."""
    old = tmp_path / "old"
    shutil.copytree(prepared, old / "data" / "small")
    path = tmp_path / "run.toml"
    path.write_text(
        f'name = "a"\nsteps = 4\ndata = {{prepared = "{old}/data/small", rows = 4}}\n'
        f"network = {{vocabulary_size = {SIZE}, hidden_size = 8}}\n"
        'optimizer = {schedule = "constant", warmup_steps = 0}\n',
        encoding="utf-8",
    )
    command = ["train", str(path), "--output"]
    assert main([*command, str(old / "runs" / "a")]) == 0
    old.rename(tmp_path / "new")
    run, data = tmp_path / "new" / "runs" / "a", tmp_path / "new" / "data"
    assert main([*command, str(run), "--resume"]) == 0
    data.rename(tmp_path / "elsewhere")
    with pytest.raises(PreparedDataError, match=r"neither there nor next to .*--prepared"):
        Trainer(read_options(RunConfig, path), run, resume=True)
    monkeypatch.chdir(tmp_path)
    assert main([*command, str(run), "--resume", "--prepared", "elsewhere/small"]) == 0
