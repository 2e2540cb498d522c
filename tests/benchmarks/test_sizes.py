"""The benchmark of sizes: the same questions and lines for every checkpoint, a row and a point each."""

import json
from pathlib import Path

import pytest

from benchmarks.sizes import _microseconds, main
from model.errors import QueryError, TokenizerError
from model.opening import open_model
from model.predictor import Predictor
from model.queries import ClozeQuery
from research import quality_page
from tests.fixtures_checkpoint import LINES, build_tiny_checkpoint


def text(directory: Path) -> list[str]:
    """A held-out file a language."""
    for name, lines in (("talk_en.txt", LINES[:5]), ("talk_zh.txt", LINES[5:])):
        (directory / name).write_text("\n".join(lines), encoding="utf-8")
    return [str(directory / "talk_en.txt"), str(directory / "talk_zh.txt")]


def test_every_checkpoint_is_a_row_and_a_point(
    tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two sizes, each with its bytes, its weights, its time and what it answers; docs/quality_page.md shows them."""
    larger = build_tiny_checkpoint(tmp_path / "larger", hidden_size=32).directory
    few = ["--lines", "3", "--typing-lines", "2", "--repeats", "2", "--turn-lines", "1"]
    output = tmp_path / "sizes.json"
    assert (
        main(
            [
                str(tiny_checkpoint),
                str(larger),
                "--text",
                *text(tmp_path),
                *few,
                "--output",
                str(output),
            ]
        )
        == 0
    )
    found = json.loads(output.read_text(encoding="utf-8"))
    small, large = found["checkpoints"]
    assert small["weights"] < large["weights"]
    assert small["bytes"] < large["bytes"]
    for each in (small, large):
        assert each["keystroke_microseconds"] > 0 < each["blank_microseconds"]
        assert len(each["turns"]["keystroke"]) == 2
        assert isinstance(each["saw"], str)
        assert set(each["languages"]) == {"en", "zh"}
    for shown in (capsys.readouterr().out, quality_page.markdown(tmp_path)):
        assert shown.count("| tiny 1, two_towers") == 2
    quality_page.draw_sizes(found, tmp_path / "sizes.png")
    assert (tmp_path / "sizes.png").read_bytes().startswith(b"\x89PNG")


def test_a_query_without_an_answer_is_no_measurement(tiny_checkpoint: Path) -> None:
    """Its error is raised: refusing is quicker than answering."""
    with pytest.raises(QueryError):
        _microseconds(Predictor(*open_model(tiny_checkpoint)), [ClozeQuery("no blank")])


def test_checkpoints_of_other_vocabularies_are_refused(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    """Chinese questions are cut by the vocabulary, so they would not be the same questions."""
    bundled = Path(__file__).parents[2] / "model" / "pretrained" / "default"
    with pytest.raises(TokenizerError):
        main(
            [
                str(tiny_checkpoint),
                str(bundled),
                "--text",
                *text(tmp_path),
                "--output",
                str(tmp_path / "sizes.json"),
            ]
        )
