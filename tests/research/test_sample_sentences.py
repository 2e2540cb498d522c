"""Everyday sentences: the file that the project brings, and what is made of answers."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from model.errors import CorpusError, LacunaError, ReportError
from model.queries import Blank, ClozeResult, Filling, Query, Result, Usage
from research import sample_sentences
from research.sample_sentences import fill, markdown, read_sentences
from training.__main__ import main
from training.evaluation.systems import EvaluatedSystem

BROUGHT = Path(__file__).parents[2] / "research" / "sources" / "sample_sentences.jsonl"


def test_the_projects_sentences_have_one_blank_and_something_wanted() -> None:
    """Thirty in each language."""
    sentences = read_sentences(BROUGHT)
    assert [sentence["language"] for sentence in sentences] == ["zh"] * 30 + ["en"] * 30
    assert all(sentence["text"].count("____") == 1 and sentence["wanted"] for sentence in sentences)


def test_the_rank_is_that_of_the_first_wanted_word() -> None:
    """One of several wanted words is enough; none among the candidates is a miss, and is shown."""

    class Same:
        def run(self, queries: Sequence[Query]) -> list[Result | LacunaError]:
            found = Blank(0, 4, (Filling("oats", 0.5), Filling("tea", 0.25)))
            return [ClozeResult("", (found,), Usage(1)) for _ in queries]

    sentences = [
        {"language": "en", "text": "A cup of ____.", "wanted": ["coffee", "tea"]},
        {"language": "en", "text": "A pair of ____.", "wanted": ["shoes"]},
    ]
    report = fill(EvaluatedSystem("same", Same(), {}), sentences)
    assert [sentence["rank"] for sentence in report["sentences"]] == [2, None]
    text = markdown(report)
    assert "en: 0 of 2 first, 1 among the first five." in text
    assert "| A pair of ____. | shoes | missed | oats 0.50, tea 0.25 |" in text


def test_one_command_asks_them_all(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """The report has every sentence."""
    output = tmp_path / "sample_sentences.json"
    assert main(["everyday", str(tiny_checkpoint), str(BROUGHT), "--output", str(output)]) == 0
    assert len(json.loads(output.read_text(encoding="utf-8"))["sentences"]) == 60


@pytest.mark.parametrize("place", ["taken/sample_sentences.json", "folder"])
def test_an_output_that_cannot_be_written_is_found_before_anything_is_asked(
    tmp_path: Path, place: str
) -> None:
    """Nothing that was worked out for long may be lost at its end, so a file in the way is named at once."""
    (tmp_path / "taken").write_text("a file", encoding="utf-8")
    (tmp_path / "folder").mkdir()
    parser = argparse.ArgumentParser()
    sample_sentences.add_arguments(parser)
    words = [str(tmp_path / "no-checkpoint"), str(BROUGHT), "--output", str(tmp_path / place)]
    with pytest.raises(ReportError, match=f"{place}: .*; name a place that can be written"):
        sample_sentences.run(parser.parse_args(words))


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    """The line is named."""
    odd = tmp_path / "odd.jsonl"
    odd.write_text('{"language": "en", "text": "A ____."}\n', encoding="utf-8")
    with pytest.raises(CorpusError, match=":1: must be an object"):
        read_sentences(odd)
