"""Tests of lacuna.py, and of what an installation holds."""

import io
import json
import os
import pty
import re
import shutil
import subprocess
import sys
from contextlib import redirect_stdout, suppress
from pathlib import Path

import pytest

from lacuna import main
from service.pages import PAGES
from tests.service.server_process import ROOT


def run(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    """Return what a command prints."""
    assert main([str(each) for each in arguments]) == 0
    return capsys.readouterr().out


def run_on_terminal(*arguments: str | Path) -> str:
    """Return what a command prints on a terminal."""
    terminal, end = pty.openpty()
    command = [sys.executable, "-m", "lacuna", *arguments]
    variables = {**os.environ, "TERM": "xterm", "NO_COLOR": ""}
    with subprocess.Popen(command, cwd=ROOT, env=variables, stdin=end, stdout=end) as process:
        os.close(end)
        printed = b""
        with suppress(OSError):  # Linux reports the end of a terminal as an error
            while part := os.read(terminal, 65_536):
                printed += part
    os.close(terminal)
    assert process.returncode == 0
    return printed.decode().replace("\r\n", "\n")


def test_a_pipe_gets_json_and_people_get_lines(
    tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A pipe gets a JSON object like the service's; the lines are the text and its candidates."""
    options = ("predict", "I like the ", "--top-k", "3", "--checkpoint", tiny_checkpoint)
    printed = run(capsys, *options)
    assert run(capsys, *options, "--json") == printed
    (found,) = json.loads(printed).values()
    first, *lines = run(capsys, *options, "--no-json").splitlines()
    assert first == "I like the " + found[0]["append"]
    shown = [(f"{each['probability']:.1%}", each["word"]) for each in found]
    assert [(line.split()[0], line.split()[-1]) for line in lines] == shown
    assert [line.count("█") for line in lines] == [round(20 * x["probability"]) for x in found]
    assert len(found) == 3


def test_cloze_prints_the_filled_text(
    tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The filled text, then the candidates of each blank, here those given."""
    options = ("cloze", "a ____ on a ____", "--choices", "cat,mat", "--checkpoint", tiny_checkpoint)
    filled, *blanks = run(capsys, *options, "--no-json").split("\n", maxsplit=1)
    assert filled == json.loads(run(capsys, *options))["filled"]
    words = [[line.split()[-1] for line in blank.splitlines()] for blank in blanks[0].split("\n\n")]
    assert [sorted(each) for each in words] == [["cat", "mat"]] * 2


def test_a_terminal_gets_colours(
    tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Words for blanks are bold, probabilities dim; NO_COLOR and dumb terminals get plain text."""
    options = ("cloze", "a ____ on a ____.", "--choices", "cat", "--checkpoint", tiny_checkpoint)
    plain = run(capsys, *options, "--no-json")
    coloured = run_on_terminal(*options)
    bold = "\x1b[1mcat\x1b[0m"
    assert coloured.splitlines()[0] == f"a {bold} on a {bold}."
    assert "\x1b[2m 100.0% \x1b[0m" in coloured
    assert re.sub(r"\x1b\[\d+m", "", coloured) == plain
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    for name, value in (("NO_COLOR", "1"), ("TERM", "dumb")):
        with monkeypatch.context() as environment:
            environment.setenv("NO_COLOR", "")
            environment.setenv("TERM", "xterm")
            assert run(capsys, *options) == coloured
            environment.setenv(name, value)
            assert run(capsys, *options) == plain


def test_texts_come_from_standard_input(
    tiny_checkpoint: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each line is answered as if it were given; a space at its end counts."""
    options = ("--checkpoint", tiny_checkpoint)
    alone = [run(capsys, "predict", text, *options) for text in ("I like the ", "I like the")]
    assert alone[0] != alone[1]
    monkeypatch.setattr("sys.stdin", io.StringIO("I like the \r\n\nI like the\n"))
    assert run(capsys, "predict", "-", *options) == "".join(alone)


def test_a_line_ends_only_at_a_line_end(
    tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A form feed or U+2028 does not divide a text, so each line has one answer."""
    monkeypatch.setattr("sys.stdin", io.StringIO("the\fcat\u2028sat\n"))
    assert run(capsys, "score", "-", "--checkpoint", tiny_checkpoint).count("\n") == 1


def test_ctrl_c_ends_without_a_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    """The status is a shell's for an interrupted command."""

    class Terminal(io.StringIO):
        def read(self, _: int | None = -1) -> str:
            raise KeyboardInterrupt

    monkeypatch.setattr("sys.stdin", Terminal())
    assert main(["predict", "-"]) == 130


def test_a_closed_pipe_is_no_error(tiny_checkpoint: Path) -> None:
    """If the reader has left, as `head` does, nothing is printed on standard error."""
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "lacuna", "predict", "a", "--checkpoint", tiny_checkpoint]
    done = subprocess.run(command, cwd=ROOT, stdout=writer, stderr=subprocess.PIPE, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, b"")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("lacuna pre", ["predict"]),
        ("lacuna serve --max-t", ["--max-texts", "--max-tokens", "--max-top-k"]),
        ("lacuna train --from", ["--from-scratch"]),
        ("lacuna keys n", ["new"]),
        ("lacuna keys new --file new", []),
        ("lacuna keys new --adm", ["--admin"]),
        ("lacuna completion f", ["fish"]),
    ],
)
def test_shells_complete_commands_and_options(
    line: str, words: list[str], completions: dict[str, Path]
) -> None:
    """Bash and, if it is installed, fish offer the words that may come next."""
    bash = 'source "$0"; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _lacuna; echo "${COMPREPLY[@]}"'
    commands = [["bash", "-c", bash, completions["bash"], *line.split(" ")]]
    if shutil.which("fish"):
        code = 'source $argv[1]; complete -C "$argv[2]"'
        commands.append(["fish", "--no-config", "-c", code, completions["fish"], line])
    for command in commands:
        folder = completions["bash"].parent  # its files have no such names
        answer = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
        assert answer.stdout.split() == words


@pytest.fixture(scope="module")
def completions(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The scripts that `lacuna completion` prints, by shell."""
    folder = tmp_path_factory.mktemp("completions")
    for shell in ("bash", "zsh", "fish"):
        with (folder / shell).open("w") as file, redirect_stdout(file):
            assert main(["completion", shell]) == 0
    return {path.name: path for path in folder.iterdir()}


def test_zsh_runs_the_script_of_bash(completions: dict[str, Path]) -> None:
    """Its script loads what zsh needs for this; zsh, if it is installed, accepts it."""
    first, rest = completions["zsh"].read_text().split("\n", maxsplit=1)
    assert "bashcompinit" in first
    assert rest == completions["bash"].read_text()
    if shutil.which("zsh"):
        command = ["zsh", "-f", "-c", 'source "$0" && print $_comps[lacuna]', completions["zsh"]]
        answer = subprocess.run(command, capture_output=True, text=True, check=True)
        assert "_lacuna" in answer.stdout, answer.stderr


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
    options = ("--no-json", "--checkpoint", tiny_checkpoint)
    readable = run(capsys, "score", file, *options).splitlines()
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
    built = json.loads(listed.splitlines()[-1])  # into build/lib.PLATFORM/
    files = {"/".join(Path(path).parts[2:]) for path in built}
    names = {path.partition("/")[0] for path in files}
    assert names == {"lacuna.py", "model", "service", "training"}
    present = {
        path.relative_to(ROOT).as_posix()
        for package in ("model", "service", "training")
        for path in (ROOT / package).rglob("*.py")
    }
    needed = {f"{package}/py.typed" for package in ("model", "service", "training")}
    needed |= {"model/pretrained/default/config.json", "service/static/docs.html"}
    needed |= {f"service/static/{name}" for name, _ in PAGES.values()}
    assert present | needed <= files
