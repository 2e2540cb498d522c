"""Run files."""

from pathlib import Path

import pytest

from model.errors import PreparedDataError, RunError
from tests.training.tiny_config import SIZE
from training.config import RunConfig, read_options, read_run

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
        ('name = "a"', "", "name: missing"),
        ('name = "a"', 'name = "my run"', "name: use 1 to 64 letters.*first; got 'my run'"),
        ("vocabulary_size = 300", "", "network.vocabulary_size: missing"),
    ],
)
def test_faults_are_named(tmp_path: Path, old: str, new: str, message: str) -> None:
    """An unknown, missing, ill-typed or impossible field is an error with file, field and value."""
    path = tmp_path / "run.toml"
    path.write_text(GOOD.replace(old, new), encoding="utf-8")
    with pytest.raises(RunError, match=rf"run\.toml: .*{message}"):
        read_options(RunConfig, path)


@pytest.mark.parametrize(
    ("optimizer", "message"),
    [
        ("", "warmup_steps is 200, longer than the run of 100 steps"),
        ("warmup_steps = 100", "decay_steps is 1000, longer than the run of 100 steps"),
        ('warmup_steps = 100\nschedule = "one_cycle"', None),
    ],
)
def test_a_warm_up_or_decay_longer_than_the_run_is_refused(
    tmp_path: Path, optimizer: str, message: str | None
) -> None:
    """Both numbers are given; `one_cycle` has no steps of decay."""
    path = tmp_path / "run.toml"
    path.write_text(f"{GOOD.replace('= 1', '= 100')}[optimizer]\n{optimizer}", encoding="utf-8")
    if message is None:
        assert read_run(path).steps == 100
    else:
        with pytest.raises(RunError, match=rf"run\.toml: optimizer\.{message}; lower it"):
            read_run(path)


def test_the_vocabulary_size_is_that_of_the_data(prepared: Path, tmp_path: Path) -> None:
    """A run file may leave it out; options of the command replace data and minutes."""
    path = tmp_path / "run.toml"
    long = GOOD.replace("= 1", "= 2000").replace("vocabulary_size = 300", "hidden_size = 8")
    path.write_text(long, encoding="utf-8")
    run = read_run(path, prepared, 2.5)
    assert run.network is not None
    assert (run.network.vocabulary_size, run.network.hidden_size) == (SIZE, 8)
    assert (run.data.prepared, run.minutes) == (str(prepared), 2.5)
    with pytest.raises(PreparedDataError, match=r"x/manifest\.json: No such .* --prepared"):
        read_run(path)


def test_missing_file_is_named(tmp_path: Path) -> None:
    """A run file that does not exist is an error with its path."""
    with pytest.raises(RunError, match=r"nowhere\.toml: cannot be read"):
        read_options(RunConfig, tmp_path / "nowhere.toml")


def test_committed_run_files_are_valid(prepared: Path) -> None:
    """Every run file in training/runs can be read, and has a network."""
    files = sorted((ROOT / "training/runs").glob("*.toml"))
    assert len(files) >= 3
    assert all(read_run(path, prepared).network for path in files)
