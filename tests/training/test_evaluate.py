"""Evaluation: questions to a predictor, figures with intervals, three files."""

import argparse
import json
import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from model.errors import LacunaError, QueryError, ReportError, TokenizerError
from model.queries import (
    Blank,
    Candidate,
    ClozeQuery,
    ClozeResult,
    Filling,
    PredictQuery,
    PredictResult,
    Query,
    Result,
    ScoreQuery,
    ScoreResult,
    Usage,
)
from model.tokenizer import Tokenizer
from tests.fixtures_checkpoint import LINES, tiny_tokenizer
from training.evaluation import evaluate as command
from training.evaluation.evaluate import ask_about, evaluate
from training.evaluation.metrics import Questions
from training.evaluation.systems import EvaluatedSystem
from training.evaluation.test_items import MARKER, TextFile

FILES = [
    TextFile(
        "talk_en",
        "en",
        tuple(f"{name} likes the cat on the mat." for name in ("Ann", "Bob", "Cid", "Dan")),
    ),
    TextFile("tale_en", "en", ("Then they went to the store.",) * 8),
    TextFile(
        "talk_zh", "zh", ("今天天气很好,我们去公园走走。", "我的手机坏了,我打算买一部新手机。") * 2
    ),
]


class FakePredictor:
    """Knows all lines: right with a given probability claimed; or always wrong."""

    def __init__(self, *, right: bool = True, probability: float = 0.5, nats: float = 2.0) -> None:
        self.lines = [line for file in FILES for line in file.lines]
        self.right, self.probability, self.nats = right, probability, nats
        self.asked: list[Query] = []

    def run(self, queries: Sequence[Query]) -> list[Result | LacunaError]:
        """Answer from the lines."""
        self.asked += queries
        return [self._answer(query) for query in queries]

    def _answer(self, query: Query) -> Result:
        if isinstance(query, ScoreQuery):
            characters = len(query.text)
            return ScoreResult(-self.nats * characters, characters, 1, Usage(1))
        if isinstance(query, PredictQuery):
            line = next(line for line in self.lines if line.startswith(query.text))
            append = (
                line[len(query.text) :].split(" ")[0].rstrip(".") or line[len(query.text) :] or "?"
            )
            append = append if self.right and not append.startswith(" ") else "zz"
            found = (
                Candidate("yy", "yy", self.probability),
                Candidate(append, append, self.probability / 2),
            )
            return PredictResult(found, Usage(1))
        left, right = query.text.split(MARKER)
        answer = next(
            line[len(left) : len(line) - len(right)]
            for line in self.lines
            if _fits(line, left, right)
        )
        others = [choice for choice in query.choices or ["zz"] if choice != answer]
        words = (
            [answer, *others] if self.right else [*others, answer][: None if query.choices else 1]
        )
        fillings = tuple(
            Filling(str(word), self.probability / 2**rank) for rank, word in enumerate(words)
        )
        return ClozeResult(
            left + words[0] + right, (Blank(len(left), len(left) + 4, fillings),), Usage(1)
        )


def _fits(line: str, left: str, right: str) -> bool:
    return line.startswith(left) and line.endswith(right) and len(line) > len(left) + len(right)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    """Tokens of a few lines of both languages."""
    return tiny_tokenizer()


@pytest.fixture(scope="module")
def questions(tokenizer: Tokenizer) -> Questions:
    """All lines of the three files."""
    return ask_about(FILES, tokenizer, lines=100, typing_lines=100, seed=1)


@pytest.fixture(autouse=True)
def few_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bootstrap in few rounds: precision is not under test here."""
    monkeypatch.setattr(command, "BOOTSTRAP_ROUNDS", 40)
    monkeypatch.setattr(command, "CALIBRATION_ROUNDS", 10)


def metrics(report: dict[str, Any], language: str) -> dict[str, Any]:
    """The figures of a language over all files."""
    return dict(report["languages"][language]["metrics"])


def test_figures_of_a_predictor_whose_answers_are_known(questions: Questions) -> None:
    """Right at rank 2 for next and at rank 1 for blanks, 2 nats a character: every figure follows by hand."""
    report = evaluate([EvaluatedSystem("fake", FakePredictor(), {})], questions, seed=1)
    english, chinese = metrics(report, "en"), metrics(report, "zh")
    assert english["bits_per_character"]["values"] == [pytest.approx(2 / math.log(2))]
    characters = sum(len(line) for file in FILES[:2] for line in file.lines)
    words = sum(len(line.split()) for file in FILES[:2] for line in file.lines)
    assert english["perplexity"]["values"] == [pytest.approx(math.exp(2 * characters / words))]
    assert chinese["perplexity"]["values"] == [pytest.approx(math.exp(2))]
    for figures in (english, chinese):
        assert figures["next_top1"]["values"] == [0]
        assert figures["next_top3"]["values"] == [1]
        assert figures["next_mrr"]["values"] == [0.5]
        assert figures["cloze_top1"]["values"] == figures["cloze_top5"]["values"] == [1]
        # The first candidate claims 0.5 and is never right, or always
        assert figures["next_ece"]["values"] == [pytest.approx(0.5)]
        assert figures["cloze_ece"]["values"] == [pytest.approx(0.5)]
        low, high = figures["next_mrr"]["intervals"][0]
        assert low <= 0.5 <= high
    assert english["choice"]["values"] == [1]
    assert chinese["append_top3"]["values"] == [1]
    assert "append_top1" not in english


def test_typed_characters_saved(questions: Questions) -> None:
    """Words are accepted with one key where they save one; the wrong predictor saves nothing."""
    report = evaluate([EvaluatedSystem("fake", FakePredictor(), {})], questions, seed=1)
    # `Then they went to the store.` is 28 characters. `T` is typed, then 6 endings or words cost one key each, and 5
    # spaces and the full stop too.
    tale = report["languages"]["en"]["by_file"]["tale_en"]["metrics"]["saved"]
    assert tale["values"] == [pytest.approx(1 - 13 / 28)]
    wrong = evaluate([EvaluatedSystem("wrong", FakePredictor(right=False), {})], questions, seed=1)
    assert metrics(wrong, "en")["saved"]["values"] == [0]


def test_files_weigh_by_their_lines(tokenizer: Tokenizer) -> None:
    """Sampled lines stand for all lines of their file: 4 of 4 right and 4 of 8 wrong give a third right."""

    class KnowsTalk(FakePredictor):
        def _answer(self, query: Query) -> Result:
            self.right = " likes " in query.text
            return super()._answer(query)

    questions = ask_about(FILES[:2], tokenizer, lines=8, typing_lines=8, seed=1)
    asked = [question.file for question in questions.cloze]
    assert (asked.count(0), asked.count(1)) == (4, 8)  # the minimum asks all there are
    few = Questions(FILES[:2], questions.next, questions.cloze[:8], questions.typed)
    report = evaluate([EvaluatedSystem("half", KnowsTalk(), {})], few, seed=1)
    assert metrics(report, "en")["cloze_top1"]["values"] == [pytest.approx(4 / 12)]


def test_two_contestants_get_the_same_questions_and_a_paired_difference(
    questions: Questions,
) -> None:
    """The difference is the first less the second, its interval excludes 0, and both were asked alike."""
    good, bad = FakePredictor(nats=1.0), FakePredictor(right=False, nats=1.5)
    report = evaluate(
        [EvaluatedSystem("good", good, {}), EvaluatedSystem("bad", bad, {})], questions, seed=1
    )
    figure = metrics(report, "en")["bits_per_character"]
    assert figure["difference"]["value"] == pytest.approx(-0.5 / math.log(2))
    assert figure["difference"]["interval"][1] < 0
    assert metrics(report, "zh")["cloze_top5"]["difference"]["value"] == 1
    assert [q for q in good.asked if isinstance(q, ClozeQuery)] == [
        q for q in bad.asked if isinstance(q, ClozeQuery)
    ]
    assert report["languages"]["en"]["by_file"].keys() == {"talk_en", "tale_en"}


def test_an_unanswered_question_stops_the_evaluation(questions: Questions) -> None:
    """Leaving questions out would flatter the contestant."""

    class Fails(FakePredictor):
        def run(self, queries: Sequence[Query]) -> list[Result | LacunaError]:
            return [QueryError("/text", "too hard") for _ in queries]

    with pytest.raises(QueryError, match="too hard"):
        evaluate([EvaluatedSystem("fails", Fails(), {})], questions, seed=1)


def test_questions_have_a_digest(questions: Questions, tokenizer: Tokenizer) -> None:
    """Equal questions have equal digests, other ones have others."""
    assert questions.digest == ask_about(FILES, tokenizer, 100, 100, seed=1).digest
    assert questions.digest != ask_about(FILES, tokenizer, 100, 100, seed=2).digest


def test_a_contestant_with_another_vocabulary_is_refused(
    tiny_checkpoint: Path, tiny_ngram: Path, tmp_path: Path
) -> None:
    """Both digests are named, and no report is written: the questions would favour the first one's tokens."""
    other = Path(shutil.copytree(tiny_ngram, tmp_path / "other"))
    smaller = tiny_tokenizer(LINES[:5])
    (other / "tokenizer.model").write_bytes(smaller.to_bytes())
    text = tmp_path / "talk_en.txt"
    text.write_text("I like the cat.\n", encoding="utf-8")
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    output = tmp_path / "report"
    words = [str(tiny_checkpoint), str(text), "--output", str(output), "--ngram", str(other)]
    own = tiny_tokenizer().digest
    with pytest.raises(
        TokenizerError, match=f"{smaller.digest[:12]}.*{own[:12]}.*same prepared data"
    ):
        command.run(parser.parse_args([*words, "--lines", "2", "--typing-lines", "1"]))
    assert not output.exists()


def test_a_report_that_cannot_be_written_is_refused_before_anything_is_asked(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file in the place of the directory is named at once, not after the evaluation; JSON Lines are read by field."""
    text = tmp_path / "talk_en.jsonl"
    text.write_text('{"said": "I like the cat."}\n', encoding="utf-8")
    (tmp_path / "taken").write_text("a file", encoding="utf-8")
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    words = [
        str(tiny_checkpoint),
        str(text),
        "--field",
        "said",
        "--lines",
        "2",
        "--typing-lines",
        "1",
    ]
    with (
        monkeypatch.context() as patch,
        pytest.raises(ReportError, match=r"taken/evaluation\.json: File exists; name"),
    ):
        patch.setattr(command, "evaluate", None)  # would be called in vain
        command.run(parser.parse_args([*words, "--output", str(tmp_path / "taken")]))
    assert command.run(parser.parse_args([*words, "--output", str(tmp_path / "report")])) == 0


def test_the_command_measures_a_checkpoint_beside_an_ngram(
    tiny_checkpoint: Path, tiny_ngram: Path, tmp_path: Path
) -> None:
    """A real checkpoint with random weights and a real n-gram, through the serving predictor, to four files."""
    text = tmp_path / "en"
    text.mkdir()
    lines = ["I like the cat.", "They like me."]
    (text / "talk.txt").write_text("\n".join(lines), encoding="utf-8")
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    output = tmp_path / "report"
    arguments = [
        str(tiny_checkpoint),
        str(text),
        "--output",
        str(output),
        "--ngram",
        str(tiny_ngram),
    ]
    assert command.run(parser.parse_args([*arguments, "--lines", "2", "--typing-lines", "1"])) == 0
    report = json.loads((output / "evaluation.json").read_text(encoding="utf-8"))
    assert [contestant["name"] for contestant in report["contestants"]] == ["tiny 1", "3-gram"]
    # The n-gram has read these very lines, the network nothing
    assert metrics(report, "en")["bits_per_character"]["difference"]["value"] > 0
    for picture in ("evaluation.png", "reliability.png"):
        assert (output / picture).read_bytes().startswith(b"\x89PNG")
    (points, _) = metrics(report, "en")["next_ece"]["reliability"]
    assert len(points["claimed"]) == len(points["right"]) == len(points["share"]) > 0
    assert sum(points["share"]) == pytest.approx(1)
    assert "| talk | 2 |" in (output / "evaluation.md").read_text(encoding="utf-8")
