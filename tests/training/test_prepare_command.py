"""The command line of prepare."""

import json
import random
from pathlib import Path

import pytest

from tests.training.made_up_text import chinese, english, write_lines
from training.__main__ import main
from training.data.prepare import PrepareOptions, prepare
from training.data.shards import open_prepared
from training.data.sources import named_sources


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two small files of text, one of either language."""
    directory = tmp_path / "folder"
    directory.mkdir()
    write_lines(directory / "en.txt", 300, english)
    write_lines(directory / "zh.txt", 300, chinese)
    return directory


def test_a_dry_run_only_reports(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It prints the report, and writes it if asked; the output can still be prepared."""
    command = ["prepare", str(folder), "--dry-run"]
    assert main(command) == 0
    assert "lines      " in capsys.readouterr().out
    assert main([*command, "--output", str(tmp_path / "out")]) == 0
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["report.json"]
    report = json.loads((tmp_path / "out" / "report.json").read_bytes())
    assert set(report["lines"]) == {"en", "zh"}
    found = open_prepared(
        prepare(named_sources([str(folder)]), PrepareOptions(output=tmp_path / "out"))
    )
    assert {shard.language for shard in found.sources} == {"en", "zh"}


def test_the_command_prepares_inputs(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each input is a source named after it; --sentences makes a line of each sentence."""
    (tmp_path / "more").mkdir()
    rows = [chinese(random.Random(n)) + chinese(random.Random(n + 300)) for n in range(300)]
    rows = [json.dumps({"body": row}) for row in rows]
    (tmp_path / "more" / "zh.jsonl").write_text("\n".join(rows))
    inputs = [str(folder / "en.txt"), str(tmp_path / "more")]
    command = ["prepare", *inputs, "--output", str(tmp_path / "out"), "--vocabulary-size", "350"]
    assert main([*command, "--field", "body", "--language", "zh", "--sentences"]) == 0
    assert capsys.readouterr().out.endswith(f"\n{tmp_path / 'out'}\n")
    found = open_prepared(tmp_path / "out")
    assert [(s.name, s.language) for s in found.sources] == [("en", "zh"), ("more", "zh")]
    assert found.sources[1].lines > 500


def test_the_command_reads_source_lists(folder: Path, tmp_path: Path) -> None:
    """A source list is read, and its paths start from --root."""
    listed = tmp_path / "sources.toml"
    listed.write_text('[[source]]\nname = "english"\npath = "en.txt"\nweight = 3.0\n')
    command = ["prepare", "--sources", str(listed), "--vocabulary-size", "300"]
    assert main([*command, "--root", str(folder), "--output", str(tmp_path / "out")]) == 0
    found = open_prepared(tmp_path / "out").sources
    assert [(s.name, s.weight) for s in found] == [("english", 3.0)]


def test_names_of_files_may_be_bytes_of_another_encoding(tmp_path: Path) -> None:
    """A file from an old disk, whose name is not UTF-8, is read and reported."""
    folder = tmp_path / "folder"
    folder.mkdir()
    write_lines(folder / "caf\udce9.txt", 60, english)
    assert main(["prepare", str(folder), "--output", str(tmp_path / "out")]) == 0
    report = json.loads((tmp_path / "out" / "report.json").read_bytes())
    assert report["files"][0]["path"].startswith(str(folder / "caf"))
