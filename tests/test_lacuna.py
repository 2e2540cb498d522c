"""Tests of lacuna.py, and of what an installation holds."""

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest

from lacuna import main
from service.pages import PAGES
from tests.service.server_process import ROOT


def run(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    """Return what a command prints."""
    assert main([str(each) for each in arguments]) == 0
    return capsys.readouterr().out


def test_predict_prints_words(tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A line per candidate, or one JSON object like the service's."""
    options = ("--top-k", "3", "--checkpoint", tiny_checkpoint)
    lines = run(capsys, "predict", "I like the ", *options).splitlines()
    printed = run(capsys, "predict", "I like the ", *options, "--json")
    (found,) = json.loads(printed).values()
    assert lines == [f"{each['probability']:.3f}  {each['word']}" for each in found]
    assert 1 <= len(found) <= 3


def test_cloze_prints_the_filled_text(
    tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The filled text, then the candidates of each blank, here those given."""
    options = ("--choices", "cat,mat", "--checkpoint", tiny_checkpoint)
    filled, *blanks = run(capsys, "cloze", "a ____ on a ____", *options).splitlines()
    printed = run(capsys, "cloze", "a ____ on a ____", *options, "--json")
    assert json.loads(printed)["filled"] == filled
    assert [sorted(each.split()[::2]) for each in blanks] == [["cat", "mat"]] * 2


def test_score_prints_a_line_per_text(
    tiny_checkpoint: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Lines come from a file or from standard input; empty ones are skipped."""
    file = tmp_path / "texts"
    file.write_text("the cat\n\n今天\n", encoding="utf-8")
    options = ("--json", "--checkpoint", tiny_checkpoint)
    printed = run(capsys, "score", file, *options)
    scores = [json.loads(line) for line in printed.splitlines()]
    assert [score["characters"] for score in scores] == [7, 2]
    monkeypatch.setattr("sys.stdin", io.StringIO(file.read_text(encoding="utf-8")))
    assert run(capsys, "score", "-", *options) == printed
    readable = run(capsys, "score", file, "--checkpoint", tiny_checkpoint).splitlines()
    assert readable[0] == f"{scores[0]['bits_per_character']:.3f} bits per character, 7 characters"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["cloze", "no blank"], "text 1 of 1: /text: has no blank"),
        (["predict", "a", "--top-k", "0"], "from 1 to 100"),
        (["predict", "a", "--checkpoint", "no-such"], "no-such"),
        (["score", "no-such-file"], "No such file or directory: 'no-such-file'"),
    ],
)
def test_what_cannot_be_answered_is_an_error(
    tiny_checkpoint: Path,
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Status 1 and one line that says why."""
    given = [*arguments[:1], "--checkpoint", str(tiny_checkpoint), *arguments[1:]]
    assert main(given) == 1
    captured = capsys.readouterr()
    assert not captured.out
    assert message in captured.err
    assert captured.err.count("\n") == 1


@pytest.mark.parametrize(("command", "shown"), [("keys", "new"), ("serve", "--checkpoint")])
def test_other_commands_have_their_own_help(
    command: str, shown: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """`lacuna keys` makes keys, and `lacuna serve` takes the settings."""
    with pytest.raises(SystemExit):
        main([command, "--help"])
    assert shown in capsys.readouterr().out


def test_an_installation_holds_what_serving_and_training_need() -> None:
    """The wheel has the command, three packages and the checkpoint; no research and no tests."""
    code = """
import json
from setuptools.dist import Distribution
distribution = Distribution({"script_name": "setup.py"})
distribution.parse_config_files()
build = distribution.get_command_obj("build_py")
build.ensure_finalized()
print(json.dumps(build.get_outputs(include_bytecode=False)))
"""
    command = [sys.executable, "-c", code]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    files = {path.split("/lib/")[-1] for path in json.loads(listed.splitlines()[-1])}
    assert {path.partition("/")[0] for path in files} == {
        "lacuna.py",
        "model",
        "service",
        "training",
    }
    present = {
        path.relative_to(ROOT).as_posix()
        for package in ("model", "service", "training")
        for path in (ROOT / package).rglob("*.py")
    }
    needed = {f"{package}/py.typed" for package in ("model", "service", "training")}
    needed |= {"model/pretrained/default/config.json", "service/static/docs.html"}
    needed |= {f"service/static/{name}" for name, _ in PAGES.values()}
    assert present | needed <= files
