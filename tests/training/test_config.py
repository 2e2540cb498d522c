"""Run files."""

from pathlib import Path

import pytest

from model.errors import RunError
from training.config import RunConfig, read_options

ROOT = Path(__file__).parents[2]
GOOD = """
name = "a"
steps = 1
[data]
prepared = "x"
[network]
vocabulary_size = 300
"""


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("steps = 1", "steps = 1\nnmae = 1", "nmae: unknown field"),
        ("steps = 1", "steps = 1.5", "steps: .*integer; got 1.5"),
        ("steps = 1", "", "give the run an end"),
        ("steps = 1", "minutes = 1", "needs steps above 0"),
        ("steps = 1", "steps = 1\ndropout = 1", "dropout: .*less than 1; got 1"),
        ("steps = 1", "steps = 1\ndevice = 'gpu'", "device: .*got 'gpu'"),
        ("steps = 1", "steps = 1\n[optimizer]\nlearning_rate = inf", "learning_rate: .*finite"),
        ('prepared = "x"', "", "data.prepared: missing"),
        (
            "[network]",
            "source_weights = {novels = 0}\n[network]",
            "data.source_weights.novels: .*got 0",
        ),
        ("= 300", "= 300\ncell = 'lstmm'", "network.cell: .*got 'lstmm'"),
        ("= 300", "= ", "not TOML"),
    ],
)
def test_faults_are_named(tmp_path: Path, old: str, new: str, message: str) -> None:
    """An unknown, missing, ill-typed or impossible field is an error with file, field and value."""
    path = tmp_path / "run.toml"
    path.write_text(GOOD.replace(old, new), encoding="utf-8")
    with pytest.raises(RunError, match=rf"run\.toml: .*{message}"):
        read_options(RunConfig, path)


def test_missing_file_is_named(tmp_path: Path) -> None:
    """A run file that does not exist is an error with its path."""
    with pytest.raises(RunError, match=r"nowhere\.toml: cannot be read"):
        read_options(RunConfig, tmp_path / "nowhere.toml")


def test_committed_run_files_are_valid() -> None:
    """Every run file in training/runs can be read, and has a network."""
    files = sorted((ROOT / "training/runs").glob("*.toml"))
    assert len(files) >= 4
    assert all(read_options(RunConfig, path).network for path in files)
