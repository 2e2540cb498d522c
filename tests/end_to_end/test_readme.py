"""README.md tells the truth: every shell command in it is run by a test or by .ci/run, and every answer is a real one.

After a new checkpoint, `UPDATE_DOCS=1 .venv/bin/python -m pytest tests/end_to_end/test_readme.py` writes its answers.
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from model.checkpoint import load_checkpoint
from research import quickstart
from research.toy_corpus import write_corpus

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
ADDRESS = "localhost:8000"
VENV = ".venv/bin/"

# Commands that this file does not run itself, and what does.
RUN_ELSEWHERE = {
    "make test": ".ci/run",
    "make newcomer": "tests/end_to_end/test_quickstart.py, with less time to train",
    "docker-compose up --build": "tests/end_to_end/test_compose.py, where there is a Docker engine",
    **dict.fromkeys(
        (VENV + command for command in quickstart.TRAIN_YOUR_OWN),
        "tests/end_to_end/test_quickstart.py",
    ),
    VENV + quickstart.SERVE: "tests/end_to_end/test_quickstart.py",
}
ADAPT = (
    f"{VENV}python -m training adapt model/pretrained/default my-text/zh.txt --replay general-text"
    " --output runs/adapted"
)


def commands() -> list[str]:
    """Every line of every block fenced as `sh`."""
    blocks = re.findall(
        r"^```sh\n(.*?)^```$", README.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )
    return [line for block in blocks for line in block.splitlines() if line]


def questions() -> list[tuple[str, str]]:
    """Every curl command with the answer that is printed below it."""
    pattern = r"^```sh\n(curl .*)\n```\n\n```json\n(.*)\n```$"
    return re.findall(pattern, README.read_text(encoding="utf-8"), re.MULTILINE)


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The service as `make serve` starts it, with the bundled checkpoint, on a free port."""
    log = tmp_path_factory.mktemp("serve")
    command = ["make", f"--directory={ROOT}", "--no-print-directory", "serve"]
    with quickstart.serving(command, log, {"OMP_NUM_THREADS": "1"}) as running:
        yield running.removeprefix("http://")


def test_every_command_is_run_somewhere() -> None:
    """A command is run here, or stands in the list of those that another test or .ci/run runs, which has no others."""
    here = {"make serve", ADAPT, *(command for command, _ in questions())}
    assert len(here) > 2
    assert set(commands()) == here | set(RUN_ELSEWHERE)


def test_the_bundled_checkpoint_learns_a_text(tmp_path: Path) -> None:
    """The command that adapts it, on a hundred lines and as many of replay, ends with a report and a checkpoint."""
    english, chinese = write_corpus(tmp_path / "my-text", 120, 1)
    (tmp_path / "general-text").mkdir()
    english.rename(tmp_path / "general-text" / "en.txt")
    assert chinese.name == "zh.txt"
    (tmp_path / "model").symlink_to(ROOT / "model")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *ADAPT.split()[1:]]
    answer = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert answer.returncode == 0, answer.stderr[-2000:]
    assert answer.stdout.startswith("# Adaptation")
    assert load_checkpoint(tmp_path / "runs" / "adapted" / "checkpoint").version.endswith(
        "-adapted"
    )


def test_make_runs_what_the_tests_run() -> None:
    """`make newcomer` is the module whose short cut is tested, and `.ci/run` includes `make test`."""
    planned = subprocess.run(
        ["make", "-n", "--no-print-directory", "newcomer"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert planned.splitlines()[-1] == f"{VENV}python -m research.quickstart"
    planned = subprocess.run(
        ["make", "-n", "--no-print-directory", "check"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert planned.splitlines()[-1] == f"{VENV}python -m pytest"
    assert "exec make check" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


def test_answers_are_those_that_the_bundled_checkpoint_gives(address: str) -> None:
    """Each curl command, run as it stands, brings the words that are printed below it, with their probabilities."""
    for command, printed in questions():
        line = command.replace(ADDRESS, address)
        answer = subprocess.run(
            ["bash", "-c", line], capture_output=True, text=True, check=True, timeout=60
        ).stdout
        if os.environ.get("UPDATE_DOCS"):
            block = "{}\n```\n\n```json\n{}\n```"
            text = README.read_text(encoding="utf-8")
            text = text.replace(
                block.format(command, printed), block.format(command, answer.strip())
            )
            README.write_text(text, encoding="utf-8")
            continue
        expected, real = json.loads(printed), json.loads(answer)
        assert real["model"] == expected["model"]
        assert real["results"] == approximately(expected["results"])


def approximately(value: Any) -> Any:
    """The same value with room for another processor's rounding."""
    if isinstance(value, dict):
        return {key: approximately(item) for key, item in value.items()}
    if isinstance(value, list):
        return [approximately(item) for item in value]
    return pytest.approx(value, rel=0.05, abs=1e-3) if isinstance(value, float) else value
