"""Files, folders and globs to files."""

from pathlib import Path

import pytest

from model.errors import CorpusError
from training.data.input_files import find_files


def test_inputs_may_be_files_folders_and_globs(tmp_path: Path) -> None:
    """A folder gives its text files, a glob its matches, a file itself; each file once."""
    for name in ("a.txt", "deep/b.jsonl", "deep/c.txt.gz", "deep/image.png", "other.log"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    entries = (".", "other.log", "*.txt", "deep/*.gz")
    found, skipped = find_files([str(tmp_path / entry) for entry in entries])
    names = ["a.txt", "deep/b.jsonl", "deep/c.txt.gz", "other.log"]
    assert [file.path.relative_to(tmp_path).as_posix() for file in found] == names
    assert [file.path.name for file in skipped] == ["image.png"]


@pytest.mark.parametrize("entry", ["nowhere.txt", "*.nothing"])
def test_inputs_that_match_nothing_are_named(tmp_path: Path, entry: str) -> None:
    """An input that matches nothing is an error with its path."""
    with pytest.raises(CorpusError, match="no such file, folder or match; check the path"):
        find_files([str(tmp_path / entry)])
