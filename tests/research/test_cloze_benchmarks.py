"""Published cloze benchmarks: read as they are published, asked through the predictor, counted honestly."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from model.errors import CorpusError
from model.queries import (
    Blank,
    Candidate,
    ClozeQuery,
    ClozeResult,
    Filling,
    PredictQuery,
    PredictResult,
    Query,
    Usage,
)
from research.cloze_benchmarks import BENCHMARKS, BenchmarkQuestion, answer, wilson_interval
from training.__main__ import main
from training.evaluation.systems import EvaluatedSystem
from training.evaluation.test_items import MARKER

RECORDS: dict[str, dict[str, Any]] = {
    "msr-scc": {
        "question": "As I descended , my old ally , the _____ , came out .",
        "options": ["gods", "moon", "guard"],
        "answer_word": "guard",
    },
    "lambada": {"text": '"Stay," she said. I don\'t care about signs'},
    "cmrc2017": {
        "passage": ["小 猴 整天 跳 ，", "XXXXX 每天 起来 。"],
        "query": "XXXXX 每天 起来 。",
        "answer": "小",
    },
    "cft": {"passage": ["小 猴 整天 跳 。"], "query": "谁 在 跳 ？ XXXXX 。", "answer": "猴"},
    "chid": {
        "content": "大功告成都是由无数个#idiom#累积而来。",
        "candidates": ["谨小慎微", "急功近利"],
        "answer": 1,
    },
}


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """A file a benchmark, of one question each."""
    paths = {name: tmp_path / f"{name}.jsonl" for name in RECORDS}
    for name, path in paths.items():
        path.write_text(json.dumps(RECORDS[name], ensure_ascii=False) + "\n", encoding="utf-8")
    return paths


class First:
    """Answers with the first choice, or with the word it was told."""

    def __init__(self, word: str = "signs") -> None:
        self.word = word
        self.asked: list[Query] = []

    def run(self, queries: Sequence[Query]) -> list[Any]:
        """Answer in order."""
        self.asked += queries
        return [self._answer(query) for query in queries]

    def _answer(self, query: Query) -> Any:
        if isinstance(query, PredictQuery):
            return PredictResult((Candidate(self.word, self.word, 0.5),), Usage(1))
        assert isinstance(query, ClozeQuery)
        assert query.choices is not None
        fillings = tuple(Filling(str(choice), 0.1) for choice in query.choices)
        return ClozeResult("", (Blank(0, 4, fillings),), Usage(1))


def test_questions_are_read_as_they_are_published(files: dict[str, Path]) -> None:
    """Blanks become the marker, spaces between Chinese words and before English commas go, choices stay."""
    read = {name: next(iter(BENCHMARKS[name][1](path))) for name, path in files.items()}
    assert read["msr-scc"].text == "As I descended, my old ally, the ____, came out."
    assert read["lambada"].text == '"Stay," she said. I don\'t care about '
    assert (read["lambada"].answer, read["lambada"].choices) == ("signs", ())
    assert read["cmrc2017"].text == "小猴整天跳，____每天起来。"
    assert set(read["cmrc2017"].choices) == {"小", "猴", "整天", "跳", "每天", "起来"}
    assert read["cft"].text == "小猴整天跳。谁在跳？____。"
    assert read["cft"].choices == ("小", "猴", "整天", "跳")
    assert read["chid"].answer == "急功近利"


def test_the_first_candidate_counts(files: dict[str, Path]) -> None:
    """One question of each: first choices are right once, the word that LAMBADA wants is right if it is said."""
    rights = {}
    for name, path in files.items():
        result = answer(EvaluatedSystem("first", First(), {}), list(BENCHMARKS[name][1](path)))
        rights[name] = result["accuracy"]
        assert result["n"] == 1
        low, high = result["interval"]
        assert 0 <= low < high <= 1
    assert rights == {"msr-scc": 0, "lambada": 1, "cmrc2017": 1, "cft": 0, "chid": 0}


def test_what_cannot_be_answered_is_said_and_not_right_by_chance() -> None:
    """Of four questions one has an answer that is no choice: chance is that of the two others with choices."""
    questions = [
        BenchmarkQuestion(f"{MARKER}.", "a", ("a", "b")),
        BenchmarkQuestion(f"{MARKER}.", "z", ("a", "b")),
        BenchmarkQuestion(f"{MARKER}.", "a", ("a", "b", "c", "d")),
        BenchmarkQuestion("It ", "is"),
    ]
    result = answer(EvaluatedSystem("first", First("is"), {}), questions)
    assert (result["n"], result["answerable"], result["accuracy"]) == (4, 3, 3 / 4)
    assert result["by_chance"] == pytest.approx((1 / 2 + 1 / 4) / 4)


def test_a_mark_before_lambadas_word_is_given(tmp_path: Path) -> None:
    """Quotation marks, line ends and dashes belong to the text; what stands within a word is the word's."""
    path = tmp_path / "lambada.jsonl"
    texts = {
        'one. "King': ('one. "', "King"),
        "let it be–”\n“Sal": ("let it be–”\n“", "Sal"),
        "I don't": ("I ", "don't"),
    }
    path.write_text("\n".join(json.dumps({"text": text}) for text in texts), encoding="utf-8")
    read = [(question.text, question.answer) for question in BENCHMARKS["lambada"][1](path)]
    assert read == list(texts.values())
    path.write_text(json.dumps({"text": "..."}), encoding="utf-8")
    with pytest.raises(CorpusError, match="does not end in a word"):
        list(BENCHMARKS["lambada"][1](path))


def test_wilsons_interval_is_the_published_one() -> None:
    """For 8 of 10 it is 0.490 to 0.943 (Newcombe 1998 gives such values for the score method)."""
    low, high = wilson_interval(8, 10)
    assert (low, high) == (pytest.approx(0.4902, abs=1e-3), pytest.approx(0.9433, abs=1e-3))


def test_one_command_asks_a_checkpoint(
    tiny_checkpoint: Path, files: dict[str, Path], tmp_path: Path
) -> None:
    """All benchmarks that are named are in the report, with the checkpoint's digest."""
    named = [text for name, path in files.items() for text in (f"--{name}", str(path))]
    assert (
        main(["cloze-benchmarks", str(tiny_checkpoint), *named, "--output", str(tmp_path / "out")])
        == 0
    )
    report = json.loads((tmp_path / "out" / "cloze_benchmarks.json").read_text(encoding="utf-8"))
    assert set(report["benchmarks"]) == set(RECORDS)
    assert len(report["digest"]) == 64


def test_files_that_are_something_else_are_refused(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """No file, no JSON, no such field: each is an error with the line, and nothing is written."""
    odd = tmp_path / "odd.jsonl"
    for content in ("{", '{"text": 1}', "[1]"):
        odd.write_text(content, encoding="utf-8")
        assert (
            main(
                [
                    "cloze-benchmarks",
                    str(tiny_checkpoint),
                    "--chid",
                    str(odd),
                    "--output",
                    str(tmp_path / "o"),
                ]
            )
            == 2
        )
    odd.write_text("", encoding="utf-8")
    assert (
        main(
            [
                "cloze-benchmarks",
                str(tiny_checkpoint),
                "--chid",
                str(odd),
                "--output",
                str(tmp_path / "o"),
            ]
        )
        == 2
    )
    assert main(["cloze-benchmarks", str(tiny_checkpoint), "--output", str(tmp_path / "o")]) == 2
    assert not (tmp_path / "o").exists()
