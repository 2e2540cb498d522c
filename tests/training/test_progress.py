"""Tests of training/progress.py."""

import pytest

from training.progress import progress_bar


def test_without_a_terminal_progress_is_whole_lines(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A line at the start and one each interval, with the work that is done and left."""
    monkeypatch.setattr("training.progress.LINE_SECONDS", 0.0)
    bar = progress_bar("training", 3, "steps", initial=1)
    bar.update()
    bar.close()
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("training: 1 of 3 steps, ")
    assert second.startswith("training: 2 of 3 steps, ")


def test_lines_are_rare(capsys: pytest.CaptureFixture[str]) -> None:
    """Many updates within one interval add no line."""
    for _ in progress_bar("reading", 5_000, "lines", iterable=range(5_000)):
        pass
    assert capsys.readouterr().err.count("\n") == 1
