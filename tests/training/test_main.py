"""Commands end with one line and a status, whatever the system does; nothing half-written stays."""

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

import training.evaluation.calibrate
import training.evaluation.evaluate
import training.ngram
from model import checkpoint
from tests.fixtures_checkpoint import LINES
from training.__main__ import main, run_module

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True)
class Options:
    """No options."""


def run_as_command(monkeypatch: pytest.MonkeyPatch, act: Callable[[], object]) -> int:
    """Run a command that does *act*."""

    def run(options: Options) -> int:
        act()
        return 0 if options == Options() else 1

    module = ModuleType("acting")
    module.__dict__["run"] = run
    monkeypatch.setitem(sys.modules, "acting", module)
    return run_module("act", "acting", [])


@pytest.mark.parametrize(
    ("act", "line"),
    [
        (lambda: np.empty(1 << 45), "out of memory: free memory, or use less"),
        (lambda: torch.empty(1 << 60), "out of memory: free memory, or use less"),
        (lambda: Path("/dev/full").write_text("x"), "OSError: [Errno 28] No space left on device"),
        (lambda: np.zeros(9999).tofile("/dev/full"), "written; free space, then"),
        (lambda: Path("/dev/null/x").mkdir(), "a file is where a directory is needed"),
    ],
)
def test_errors_of_the_system_have_a_remedy(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], act: Any, line: str
) -> None:
    """A full memory or disk, and a path that is not a directory, are one line each."""
    assert run_as_command(monkeypatch, act) == 2
    err = capsys.readouterr().err
    assert line in err
    assert err.count("\n") == 1


def test_a_defect_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    """An error that no user can cause is not turned into a line."""
    with pytest.raises(ZeroDivisionError):
        run_as_command(monkeypatch, lambda: 1 // 0)


@pytest.fixture
def words(
    tiny_run: Path, tiny_prepared: Path, exported: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> dict[str, list[str]]:  # fmt: skip
    """The commands, each with an output ``out/made``; little is tried by `calibrate`."""
    monkeypatch.setattr(training.evaluation.calibrate, "WEIGHTS", (0.5,))
    text, out = tmp_path / "talk_en.txt", ["--output", str(tmp_path / "out" / "made")]
    text.write_text("\n".join(LINES[:5] * 4), encoding="utf-8")
    run_file = tmp_path / "run.toml"
    run_file.write_text(
        f'name = "a"\nsteps = 2\nkeep_best = true\ndata = {{prepared = "{tiny_prepared}"}}\n'
        "network = {hidden_size = 32}\noptimizer = {warmup_steps = 1, schedule = 'one_cycle'}\n",
        encoding="utf-8",
    )
    few = ["--lines", "3"]
    return {
        "train": ["train", str(run_file), *out],
        "export": ["export", str(tiny_run), *out],
        "ngram": ["ngram", str(tiny_prepared), "--order", "2", *out],
        "evaluate": ["evaluate", str(exported), str(text), *few, "--typing-lines", "1", *out],
        "calibrate": ["calibrate", str(exported), str(text), *few, *out],
    }


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Let writes beyond *size* bytes of a file fail, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize(
    ("command", "size", "left"),
    [
        ("train", 100, set()),
        ("train", 100_000, {"metrics.jsonl", "tensorboard", "tokenizer.model", "loss.png"}),
        ("export", 10_000, None),
        ("ngram", 1000, None),
        ("evaluate", 1000, set()),
        ("calibrate", 10_000, None),
    ],
)
def test_a_full_disk_leaves_no_half_of_anything(
    words: dict[str, list[str]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    command: str,
    size: int,
    left: set[str] | None,
) -> None:
    """Writes that fail in the system end each command with a line; outputs are absent."""
    (tmp_path / "out").mkdir()
    with largest_file(size):
        assert main(words[command]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert "free space" in last, last
    made = tmp_path / "out" / "made"
    assert {path.name for path in made.parent.iterdir()} == (set() if left is None else {"made"})
    assert left is None or {path.name for path in made.iterdir()} == left


@pytest.mark.parametrize("command", ["train", "export", "ngram", "evaluate", "calibrate"])
def test_a_file_is_no_output_directory(
    words: dict[str, list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    """A file in the way, or above it, is named before the work, and stays."""
    (tmp_path / "out").write_text("mine", encoding="utf-8")
    assert main(words[command]) == 2
    assert str(tmp_path / "out") in capsys.readouterr().err.splitlines()[-1]
    (tmp_path / "out").unlink()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "made").write_text("mine", encoding="utf-8")
    assert main(words[command]) == 2
    assert (tmp_path / "out" / "made").read_text(encoding="utf-8") == "mine"


@pytest.mark.parametrize(
    ("command", "module", "name"),
    [
        ("export", checkpoint, "load_checkpoint"),
        ("ngram", checkpoint, "load_checkpoint"),
        ("evaluate", training.evaluation.evaluate, "answer_all"),
        ("calibrate", training.evaluation.calibrate, "fit_choices"),
    ],
)
def test_an_interrupt_leaves_nothing_behind(
    words: dict[str, list[str]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    command: str,
    module: ModuleType,
    name: str,
) -> None:
    """Ctrl-C in the middle of the work ends each command with a line and status 130."""
    interrupted = getattr(module, name)

    def signalled(*given: Any, **options: Any) -> Any:
        if command != "export" or given[0].name.startswith("."):  # its output, not its base
            os.kill(os.getpid(), signal.SIGINT)
        return interrupted(*given, **options)

    monkeypatch.setattr(module, name, signalled)
    assert main(words[command]) == 130
    assert capsys.readouterr().err.splitlines()[-1] == "interrupted"
    assert [path for path in (tmp_path / "out").rglob("*") if path.is_file()] == []


def test_an_interrupt_while_modules_load_is_a_line(tmp_path: Path) -> None:
    """Ctrl-C during an import, which may take seconds, shows no traceback."""
    (tmp_path / "slow.py").write_text(
        "import os, signal\ntry:\n    os.kill(os.getpid(), signal.SIGINT)\n    import json\n"
        "except BaseException:\n    raise ImportError('half of a module')",  # as extensions do
        encoding="utf-8",
    )
    program = "import sys; from training.__main__ import *; sys.exit(run_module('x', 'slow', []))"
    found = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (found.returncode, found.stderr.strip()) == (130, "interrupted")
