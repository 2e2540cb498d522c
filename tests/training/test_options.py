"""Options of a command, and the command line that they declare."""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

import training.options
from training.options import argument, capped_threads, option, parse_options


@dataclass(frozen=True, slots=True)
class Options:
    """One field of each kind."""

    source: Path = argument("folder to read")
    text: tuple[str, ...] = argument("files to read")
    output: Path = option("file to write")
    minutes: float = option("of CPU time", 2.5)
    codes: tuple[str, ...] = option("languages", ())
    field: str | None = option("member of JSON Lines", None)
    device: Literal["cpu", "cuda"] = option("for the network", "cpu")
    language: Literal["zh", "en"] | None = option("of the text", None)
    over_write: bool = option("replace it", False)
    hidden: int = 7


def parse(*words: str) -> Options:
    """Parse a command line."""
    return parse_options(Options, argparse.ArgumentParser(), list(words))


def test_arguments_have_the_types_of_the_fields() -> None:
    """Fields without a declaration keep their default."""
    words = "in a b --output out --minutes 3 --codes zh en --field f --device cuda"
    words += " --language en --over-write"
    assert parse(*words.split()) == Options(
        Path("in"), ("a", "b"), Path("out"), 3.0, ("zh", "en"), "f", "cuda", "en", over_write=True
    )
    assert parse("in", "a", "--output", "out") == Options(Path("in"), ("a",), Path("out"))


@pytest.mark.parametrize("words", ["in a", "--output out", "in a --output out --hidden 1"])
def test_a_wrong_command_line_is_refused(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Missing and unknown arguments end the program with usage and status 2."""
    with pytest.raises(SystemExit, match="2"):
        parse(*words.split())
    assert "usage" in capsys.readouterr().err


def test_no_more_threads_than_cpus_are_used(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line of warning has both numbers."""
    monkeypatch.setattr(training.options, "usable_cpus", lambda: 3)
    assert [capped_threads(wanted) for wanted in (1, 3)] == [1, 3]
    assert capsys.readouterr().err == ""
    assert capped_threads(64) == 3
    assert capsys.readouterr().err == "warning: 64 threads, but 3 CPUs are usable; using 3\n"
