"""Tests that run the README's commands and compare its printed answers with real ones."""

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
README = (ROOT / "README.md").read_text(encoding="utf-8")
CHINESE = (ROOT / "README.zh.md").read_text(encoding="utf-8")
# Commands and answers, code, targets of links, paths and numbers: the same in any language.
FACT = re.compile(
    r"^```(?:sh|json)\n.*?^```$|(?<!`)`[^`]+`(?!`)|(?<=\]\()[^)]+|[\w.-]*/[\w./-]*|\d+(?:[.,]\d+)*",
    re.ASCII | re.DOTALL | re.MULTILINE,
)
ADDRESS = "localhost:8000"
VENV = ".venv/bin/"


def commands() -> list[str]:
    """Return every line of every block fenced as `sh`."""
    blocks = re.findall(r"^```sh\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line]


def questions() -> list[tuple[str, str]]:
    """Return every curl command with the answer that is printed below it."""
    return re.findall(r"^```sh\n(curl .*)\n```\n\n```json\n(.*)\n```$", README, re.MULTILINE)


def without_server() -> list[str]:
    """Return the commands that answer without a server."""
    return [line for line in commands() if re.match(rf"{VENV}lacuna (predict|cloze) ", line)]


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The service as `make serve` starts it, with the bundled checkpoint, on a free port."""
    log = tmp_path_factory.mktemp("serve")
    command = ["make", f"--directory={ROOT}", "--no-print-directory", "serve"]
    with quickstart.serving(command, log) as running:
        yield running.removeprefix("http://")


def test_answers_are_those_of_the_bundled_checkpoint(address: str) -> None:
    """Each curl command returns the printed words and, to two digits, their probabilities."""
    assert len(questions()) == len(without_server()) == 2
    for command, printed in questions():
        line = command.replace(ADDRESS, address)
        answer = subprocess.run(["bash", "-c", line], capture_output=True, check=True, timeout=60)
        assert json.loads(answer.stdout) == approximately(json.loads(printed))


@pytest.mark.parametrize("line", without_server())
def test_commands_answer_without_a_server(line: str) -> None:
    """Each `lacuna` command prints, into a pipe, JSON with candidates."""
    command = line.replace(f"{VENV}lacuna", f"{sys.executable} -m lacuna")
    answer = subprocess.run(
        ["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    )
    assert '"candidates":[{' in json.dumps(json.loads(answer.stdout), separators=(",", ":"))


def test_the_chinese_readme_has_the_same_facts() -> None:
    """Each section has the same commands, answers, code, links, paths and numbers in Chinese."""
    sections, chinese = (text.split("\n## ") for text in (README, CHINESE))
    assert "README.zh.md" in sections[0].splitlines()[2]
    assert "README.md" in chinese[0].splitlines()[2]
    for section, translated in zip(sections, chinese, strict=True):
        assert facts(translated) == facts(section)
    cells, chinese_cells = (re.findall(r"\| (\**[\d.]+)", text) for text in (README, CHINESE))
    assert len(cells) > 30
    assert chinese_cells == cells


def test_the_quickstart_runs_the_commands_of_the_readme() -> None:
    """Every command under "Train your own" is one that `make newcomer` runs."""
    section = README.partition("## Train your own")[2].partition("\n## ")[0]
    shown = re.findall(rf"^{re.escape(VENV)}(.*)$", section, re.MULTILINE)
    assert sorted(shown) == sorted([*quickstart.TRAIN_YOUR_OWN, quickstart.SERVE])


@pytest.mark.slow
def test_the_bundled_checkpoint_learns_a_text(tmp_path: Path) -> None:
    """`lacuna train`, on a hundred lines of either language, writes a checkpoint."""
    write_corpus(tmp_path / "my-text", 120, 1)
    command = [sys.executable, "-m", *quickstart.TRAIN_YOUR_OWN[0].split(), "--steps", "20"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    answer = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert answer.returncode == 0, answer.stderr[-2000:]
    assert "| Chinese | bits per character |" in answer.stdout
    adapted = load_checkpoint(tmp_path / "runs" / "mine" / "checkpoint")
    assert adapted.version.endswith("-adapted")


def facts(section: str) -> list[str]:
    """Return what a section must have in any language, sorted: the order of words differs."""
    found = [" ".join(each.split()) for each in FACT.findall(section)]
    return sorted(each for each in found if not each.startswith("README"))


def approximately(value: Any) -> Any:
    """Return the same value with room for rounding to two digits."""
    if isinstance(value, dict):
        return {key: approximately(item) for key, item in value.items()}
    if isinstance(value, list):
        return [approximately(item) for item in value]
    return pytest.approx(value, rel=0.05, abs=1e-3) if isinstance(value, float) else value
