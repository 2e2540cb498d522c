"""Published clozes: questions as they are published, answers counted, contamination, sentences."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

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
from research.__main__ import main
from research.cloze_benchmarks import BENCHMARKS, BenchmarkQuestion, answer, wilson_interval
from research.contamination import count_seen, read_texts, words_of
from research.sample_sentences import fill, summary
from training.evaluation.systems import EvaluatedSystem
from training.evaluation.test_items import MARKER

MSR = "As I descended , my old ally , the _____ , came out ."
CHID = {"content": "由#idiom#累积而来。", "candidates": ["谨小慎微", "急功近利"], "answer": 1}
CMRC = {"passage": ["小 猴 整天 跳 ，", "XXXXX 每天 起来 。"], "query": "", "answer": "小"}
CFT = {"passage": ["小 猴 整天 跳 。"], "query": "谁 在 跳 ？ XXXXX 。", "answer": "猴"}
RECORDS: dict[str, dict[str, Any]] = {
    "msr-scc": {"question": MSR, "options": ["gods", "moon", "guard"], "answer_word": "guard"},
    "lambada": {"text": '"Stay," she said. "Don\'t'},
    "cmrc2017": CMRC,
    "cft": CFT,
    "chid": CHID,
}


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """Return a file of one question for each benchmark."""
    paths = {name: tmp_path / f"{name}.jsonl" for name in RECORDS}
    for name, path in paths.items():
        path.write_text(json.dumps(RECORDS[name], ensure_ascii=False) + "\n", encoding="utf-8")
    return paths


class FirstChoice:
    """Answers with the first choice, or with one fixed word."""

    def __init__(self, word: str = "Don't") -> None:
        self.word = word

    def run(self, queries: Sequence[Query]) -> list[Any]:
        """Answer in order."""
        return [self._answer(query) for query in queries]

    def _answer(self, query: Query) -> Any:
        if isinstance(query, PredictQuery):
            return PredictResult((Candidate(self.word, self.word, 0.5),), Usage(1))
        assert isinstance(query, ClozeQuery)
        words = query.choices or ("oats", self.word)
        fillings = tuple(Filling(str(word), 0.25) for word in words)
        return ClozeResult("", (Blank(0, 4, fillings),), Usage(1))


def system(word: str = "Don't") -> EvaluatedSystem:
    """Return the fake behind the interface of an evaluated system."""
    return EvaluatedSystem("first", FirstChoice(word), {})


def test_questions_are_read_as_they_are_published(files: dict[str, Path]) -> None:
    """Blanks become the marker, spaces of tokenised text disappear, the choices stay."""
    read = {name: next(iter(BENCHMARKS[name](path))) for name, path in files.items()}
    assert read["msr-scc"].text == "As I descended, my old ally, the ____, came out."
    assert read["lambada"].text == '"Stay," she said. "'
    assert (read["lambada"].answer, read["lambada"].choices) == ("Don't", ())
    assert read["cmrc2017"].text == "小猴整天跳，____每天起来。"
    assert set(read["cmrc2017"].choices) == {"小", "猴", "整天", "跳", "每天", "起来"}
    assert read["cft"].text == "小猴整天跳。谁在跳？____。"
    assert (read["chid"].text, read["chid"].answer) == ("由____累积而来。", "急功近利")
    assert list(read_texts("chid", files["chid"])) == ["由急功近利累积而来。"]
    assert list(read_texts("lambada", files["lambada"])) == [RECORDS["lambada"]["text"]]


def test_the_first_candidate_counts(files: dict[str, Path]) -> None:
    """A question whose answer is not offered counts as wrong, for the system and by chance."""
    results = {name: answer(system(), list(BENCHMARKS[name](files[name]))) for name in files}
    accuracies = {name: result["accuracy"] for name, result in results.items()}
    assert accuracies == {"msr-scc": 0, "lambada": 1, "cmrc2017": 1, "cft": 0, "chid": 0}
    questions = [
        BenchmarkQuestion(f"{MARKER}.", "a", ("a", "b")),
        BenchmarkQuestion(f"{MARKER}.", "z", ("a", "b")),
        BenchmarkQuestion(f"{MARKER}.", "a", ("a", "b", "c", "d")),
        BenchmarkQuestion("It ", "is"),
    ]
    result = answer(system("is"), questions)
    assert (result["n"], result["answerable"], result["accuracy"]) == (4, 3, 3 / 4)
    assert result["by_chance"] == pytest.approx((1 / 2 + 1 / 4) / 4)
    assert wilson_interval(8, 10) == pytest.approx((0.490, 0.943), abs=1e-3)


def test_a_question_is_seen_if_thirteen_words_recur() -> None:
    """Case and punctuation do not matter, a Chinese character is a word, 12 words are too few."""
    assert words_of("The CAT's mat, 3 我爱!") == ["the", "cat", "s", "mat", "3", "我", "爱"]
    long = "one two three four five six seven eight nine ten eleven twelve thirteen"
    chinese = "我昨天上学迟到了,老师批评了我,同学们都笑了。"
    questions = {"a": [words_of(text) for text in (long, chinese, "too short", f"x{long}")]}
    training = [f"Said he: {long.title()}!", f"然后{chinese[:12]}。"]
    counts = count_seen(questions, training)["benchmarks"]["a"]
    assert counts == {"questions": 4, "too_short": 1, "seen": 1}


def test_the_rank_is_that_of_the_first_wanted_word() -> None:
    """One of several wanted words is enough; a miss has no rank."""
    sentences = [
        {"language": "en", "text": "A cup of ____.", "wanted": ["coffee", "tea"]},
        {"language": "en", "text": "A pair of ____.", "wanted": ["shoes"]},
    ]
    report = fill(system("tea"), sentences)
    assert [sentence["rank"] for sentence in report["sentences"]] == [2, None]
    assert "first in 0 and among the first 5 in 1 of 2" in summary(report)


def test_the_command_writes_its_figures(
    tiny_checkpoint: Path, files: dict[str, Path], tmp_path: Path
) -> None:
    """The figures of all benchmarks are written as JSON."""
    named = [f"{name}={path}" for name, path in files.items()]
    output = ["--output", str(tmp_path / "report.json")]
    assert main(["cloze-benchmarks", str(tiny_checkpoint), *named, *output]) == 0
    report = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert set(report["benchmarks"]) == set(RECORDS)


@pytest.mark.parametrize("content", ["", "{", '{"text": 1}', "[1]"])
def test_a_file_of_something_else_is_refused(tmp_path: Path, content: str) -> None:
    """An empty file, no JSON and missing fields are errors before the checkpoint is read."""
    odd, output = tmp_path / "odd.jsonl", tmp_path / "report.json"
    odd.write_text(content, encoding="utf-8")
    command = ["cloze-benchmarks", "no-checkpoint", "--output", str(output)]
    assert main([*command, f"chid={odd}"]) == 2
    assert main([*command, f"unknown={odd}"]) == 2
    assert main(["contamination", str(odd), "--training", str(odd), "--output", str(output)]) == 2
    assert not output.exists()
