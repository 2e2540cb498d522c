"""Everything that goes wrong on the way from text to a checkpoint is one line with a remedy."""

import re
import resource
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from model.checkpoint import load_checkpoint
from model.errors import CheckpointError
from model.predictor import open_model
from tests.end_to_end import odd_files as odd
from training import options
from training.__main__ import main

RUN_FILE = """
name = "tiny"
steps = 6
evaluate_every_steps = 3

[data]
prepared = "{prepared}"
rows = 4
window_tokens = 16

[network]
embedding_size = 16
hidden_size = 24
gap_hidden_size = 12

[loss]
sampled_negatives = 0

[optimizer]
learning_rate = 0.01
warmup_steps = 2
decay_steps = 2
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with text, data, a run file, run and checkpoint of it; read it, never change it."""
    folder = tmp_path_factory.mktemp("made")
    (folder / "text").mkdir()
    (folder / "text/zh.txt").write_text(odd.joined(odd.chinese(100)), encoding="utf-8")
    (folder / "text/en.txt").write_text(odd.joined(odd.english(100)), encoding="utf-8")
    (folder / "few.txt").write_text(odd.joined(odd.english(6, start=300)), encoding="utf-8")
    run_file, run = str(folder / "tiny.toml"), str(folder / "run")
    assert main(["prepare", str(folder / "text"), "--output", str(folder / "data")]) == 0
    Path(run_file).write_text(RUN_FILE.format(prepared=folder / "data"), encoding="utf-8")
    assert main(["train", run_file, "--output", run]) == 0
    assert main(["export", run, "--output", str(folder / "checkpoint")]) == 0
    return folder


@contextmanager
def full_disk(bytes_left: int) -> Iterator[None]:
    """Let no file become larger than this, which raises the OSError of a full disk or quota."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_left, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def last_error(capsys: pytest.CaptureFixture[str], *words: object, status: int = 2) -> str:
    """Run a command that must fail and return its last line on standard error."""
    capsys.readouterr()
    assert main([str(word) for word in words]) == status
    errors = capsys.readouterr().err
    assert "Traceback" not in errors
    return errors.rstrip("\n").rpartition("\n")[2]


# Commands that write, with {made} and {output}
WRITERS = {
    "prepare": "prepare {made}/text --output {output}",
    "train": "train {made}/tiny.toml --output {output}",
    "adapt": "adapt {made}/checkpoint {made}/text --steps 2 --output {output}",
    "export": "export {made}/run --output {output}",
    "ngram": "ngram {made}/data --output {output}",
    "evaluate": "evaluate {made}/checkpoint {made}/few.txt --output {output} --typing-lines 1",
    "calibrate": "calibrate {made}/checkpoint {made}/few.txt --output {output}",
}


def command(name: str, made: Path, output: Path) -> list[str]:
    """Return the words of a command."""
    return [word.format(made=made, output=output) for word in WRITERS[name].split()]


@pytest.mark.parametrize("name", WRITERS)
def test_an_output_that_is_a_file_is_refused(
    name: str, made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The line names the file, and the file stays as it is."""
    output = tmp_path / "output"
    output.write_text("mine", encoding="utf-8")
    assert str(output) in last_error(capsys, *command(name, made, output))
    assert output.read_text(encoding="utf-8") == "mine"


@pytest.mark.parametrize("name", WRITERS)
def test_an_output_that_cannot_be_made_is_refused(
    name: str, made: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The line names the folder that allows no writing."""
    assert "/proc/" in last_error(capsys, *command(name, made, Path("/proc/lacuna/output")))


@pytest.mark.parametrize("name", ["prepare", "train", "adapt", "export", "ngram"])
def test_a_full_disk_leaves_nothing_behind(
    name: str, made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The line says that writing failed; nothing incomplete has the name of the output."""
    output = tmp_path / "output"
    with full_disk(2_000):
        line = last_error(capsys, *command(name, made, output))
    assert re.search("File too large|disk|space", line)
    assert not (output / "SHA256SUMS").exists()
    assert not list(tmp_path.glob(".*"))


STOPPED = {
    "prepare": "training.data.prepare.write_manifest",
    "export": "training.export.build_graphs",
    "ngram": "training.ngram.build",
    "evaluate": "training.evaluation.evaluate.read_files",
    "calibrate": "training.evaluation.calibrate.read_files",
}


@pytest.mark.parametrize("name", STOPPED)
def test_an_interrupt_ends_a_command_with_130(
    name: str,
    made: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """SIGINT in the middle of the work ends it with one line and leaves no output."""
    monkeypatch.setattr(STOPPED[name], lambda *_, **__: signal.raise_signal(signal.SIGINT))
    words = command(name, made, tmp_path / "output")
    assert "interrupted" in last_error(capsys, *words, status=130)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", STOPPED)
def test_lack_of_memory_is_named(
    name: str,
    made: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A command that gets no memory ends with one line."""

    def fail(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr(STOPPED[name], fail)
    assert "memory" in last_error(capsys, *command(name, made, tmp_path / "output"))


def _append(text: str) -> Callable[[str], str]:
    return lambda content: content.replace("[data]", f"{text}\n\n[data]")


RUN_FAULTS: dict[str, tuple[Callable[[str], str], str]] = {
    "a missing name": (lambda text: text.replace('name = "tiny"', ""), "name: missing"),
    "a name that export would refuse": (lambda text: text.replace("tiny", "my run!"), "name"),
    "a warm-up longer than the run": (
        lambda text: text.replace("warmup_steps = 2", "warmup_steps = 200"),
        "warmup_steps",
    ),
    "an unknown key": (_append("stepz = 3"), "stepz"),
    "a vocabulary of another size": (
        lambda text: text.replace("[network]", "[network]\nvocabulary_size = 5000"),
        "vocabulary_size",
    ),
}


@pytest.mark.parametrize("fault", RUN_FAULTS)
def test_a_run_file_with_a_fault_is_refused_before_the_first_step(
    fault: str, made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The line names the key, no Python function, and nothing was written."""
    change, named = RUN_FAULTS[fault]
    run_file = tmp_path / "run.toml"
    run_file.write_text(change((made / "tiny.toml").read_text("utf-8")), encoding="utf-8")
    line = last_error(capsys, "train", run_file, "--output", tmp_path / "run")
    assert named in line
    assert "__init__" not in line
    assert not (tmp_path / "run/state").exists()


def test_more_threads_than_cpus_do_not_slow_a_run(
    made: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """64 threads become as many as the machine has CPUs, with a word about it."""
    monkeypatch.setattr(options, "usable_cpus", lambda: 1)
    run_file = tmp_path / "run.toml"
    text = (
        (made / "tiny.toml").read_text("utf-8").replace("\nsteps = 6", "\nsteps = 2\nthreads = 64")
    )
    run_file.write_text(text, encoding="utf-8")
    assert main(["train", str(run_file), "--output", str(tmp_path / "run")]) == 0
    assert "64 threads" in capsys.readouterr().err


def test_a_run_that_diverges_stops_at_its_last_good_state(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A learning rate of 30 ends with a suggestion, not with a useless checkpoint and status 0."""
    run_file = tmp_path / "run.toml"
    text = (made / "tiny.toml").read_text("utf-8").replace("= 0.01", "= 30.0")
    run_file.write_text(text.replace("\nsteps = 6", "\nsteps = 400"), encoding="utf-8")
    line = last_error(capsys, "train", run_file, "--output", tmp_path / "run")
    assert line.startswith("DivergedError: ")
    assert "lower the learning rate" in line


def test_held_out_figures_are_printed_while_training(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each evaluation prints bits per character of both languages."""
    assert main(["train", str(made / "tiny.toml"), "--output", str(tmp_path / "run")]) == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if "held-out" in line]
    assert len(lines) >= 2
    assert all("zh" in line and "en" in line for line in lines)


def test_moved_data_are_recognised(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run resumes and is exported on its data wherever they lie."""
    shutil.copytree(made / "run", tmp_path / "run")
    shutil.copytree(made / "data", tmp_path / "elsewhere")
    text = RUN_FILE.format(prepared=tmp_path / "elsewhere").replace("steps = 6", "steps = 8")
    (tmp_path / "tiny.toml").write_text(text, encoding="utf-8")
    words = ["train", str(tmp_path / "tiny.toml"), "--output", str(tmp_path / "run"), "--resume"]
    assert main(words) == 0
    shutil.move(tmp_path / "elsewhere", tmp_path / "again")
    export = ("export", tmp_path / "run", "--output", tmp_path / "checkpoint")
    assert "--prepared" in last_error(capsys, *export)
    assert main([*map(str, export), "--prepared", str(tmp_path / "again")]) == 0
    assert (
        load_checkpoint(tmp_path / "checkpoint").languages
        == load_checkpoint(made / "checkpoint").languages
    )


def test_an_altered_shard_is_named(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A shard of the right size and other content is refused by train, export and ngram."""
    shutil.copytree(made / "data", tmp_path / "data")
    shard = max(tmp_path.glob("data/*.train*"), key=lambda path: path.stat().st_size)
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 255
    shard.write_bytes(content)
    (tmp_path / "tiny.toml").write_text(RUN_FILE.format(prepared=tmp_path / "data"), "utf-8")
    for words in (
        ("train", tmp_path / "tiny.toml", "--output", tmp_path / "run"),
        ("export", made / "run", "--output", tmp_path / "out", "--prepared", tmp_path / "data"),
        ("ngram", tmp_path / "data", "--output", tmp_path / "ngram"),
    ):
        assert shard.name in last_error(capsys, *words)


def test_a_run_folder_is_not_served(made: Path) -> None:
    """The error says that a run must be exported first."""
    with pytest.raises(CheckpointError, match="export"):
        open_model(made / "run")


def test_a_report_is_not_overwritten(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An evaluation into a folder with a report is refused, and that report stays."""
    report = tmp_path / "evaluation.json"
    report.write_text("figures of yesterday", encoding="utf-8")
    assert "--output" in last_error(capsys, *command("evaluate", made, tmp_path))
    assert report.read_text(encoding="utf-8") == "figures of yesterday"
