"""Evaluation: items to predictors, figures with intervals, three files."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from model.errors import LacunaError
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
from tests.fixtures_checkpoint import tiny_tokenizer
from training.__main__ import main
from training.evaluation import evaluate as command
from training.evaluation.evaluate import evaluate
from training.evaluation.systems import EvaluatedSystem
from training.evaluation.test_items import MARKER, Items, TextFile, choose_items

NAMES = ("Ann", "Bob", "Cid", "Dan")
FILES = [
    TextFile("talk_en", "en", tuple(f"{name} likes the cat on the mat." for name in NAMES)),
    TextFile("tale_en", "en", ("Then they went to the store.",) * 8),
    TextFile(
        "talk_zh", "zh", ("今天天气很好,我们去公园走走。", "我的手机坏了,我打算买一部新手机。") * 2
    ),
]


class FakePredictor:
    """Knows all lines; answers right, or always wrong, with a given probability."""

    def __init__(self, *, right: bool = True, nats: float = 2.0) -> None:
        self.lines = [line for file in FILES for line in file.lines]
        self.right, self.nats = right, nats
        self.asked: list[Query] = []

    def run(self, queries: Sequence[Query]) -> list[Result | LacunaError]:
        """Answer from the lines."""
        self.asked += queries
        return [self._answer(query) for query in queries]

    def _answer(self, query: Query) -> Result:
        if isinstance(query, ScoreQuery):
            characters = len(query.text)
            return ScoreResult(-self.nats * characters, characters, 1, self.nats, Usage(1))
        if isinstance(query, PredictQuery):
            line = next(line for line in self.lines if line.startswith(query.text))
            rest = line[len(query.text) :]
            append = rest.split(" ")[0].rstrip(".") or rest
            right = self.right and not append.startswith(" ")
            found = (Candidate("yy", "yy", 0.5), Candidate("", append if right else "zz", 0.25))
            return PredictResult(found, Usage(1))
        left, right_text = query.text.split(MARKER)
        answer = next(
            line[len(left) : len(line) - len(right_text)]
            for line in self.lines
            if line.startswith(left)
            and line.endswith(right_text)
            and len(line) > len(query.text) - 4
        )
        others = [choice for choice in query.choices or ("zz",) if choice != answer]
        words = [answer, *others]
        if not self.right:
            words = [*others, answer] if query.choices else others
        fillings = tuple(Filling(str(word), 0.5 / 2**rank) for rank, word in enumerate(words))
        blank = Blank(len(left), len(left) + 4, fillings)
        return ClozeResult(left + words[0] + right_text, (blank,), Usage(1))


@pytest.fixture(scope="module")
def items() -> Items:
    """Items from all lines of the three files."""
    return choose_items(FILES, tiny_tokenizer(), lines=100, typing_lines=100, seed=1)


def metrics(report: dict[str, Any], language: str) -> dict[str, Any]:
    """Return the figures of a language over all files."""
    return dict(report["languages"][language]["metrics"])


def values(report: dict[str, Any], language: str) -> dict[str, Any]:
    """Return the figures of the first system."""
    return {metric: each["values"][0] for metric, each in metrics(report, language).items()}


def test_figures_of_known_answers(items: Items) -> None:
    """Right at rank 2 for next, at rank 1 for blanks, 2 nats a character: figures by hand."""
    report = evaluate([EvaluatedSystem("fake", FakePredictor())], items, seed=1)
    english, chinese = values(report, "en"), values(report, "zh")
    characters = sum(len(line) for file in FILES[:2] for line in file.lines)
    words = sum(len(line.split()) for file in FILES[:2] for line in file.lines)
    assert english["bits_per_character"] == pytest.approx(2 / math.log(2))
    assert english["perplexity"] == pytest.approx(math.exp(2 * characters / words))
    assert chinese["perplexity"] == pytest.approx(math.exp(2))
    expected = {"next_top1": 0, "next_top3": 1, "cloze_top1": 1, "cloze_top5": 1}
    # The first candidate claims 0.5 and is never right, or always
    expected |= {"next_ece": pytest.approx(0.5), "cloze_ece": pytest.approx(0.5)}
    for figures in (english, chinese):
        assert {metric: figures[metric] for metric in expected} == expected
    assert english["choice"] == 1
    # `Then they went to the store.` has 28 characters. `T` is typed; 6 endings or words, 5 spaces
    # and the full stop cost a key each
    tale = report["languages"]["en"]["by_file"]["tale_en"]["metrics"]["saved"]
    assert tale["values"] == [pytest.approx(1 - 13 / 28)]


def test_files_weigh_by_their_lines(items: Items) -> None:
    """4 of 4 right and 4 of 8 asked, all wrong, give a third right."""

    class KnowsTalk(FakePredictor):
        def _answer(self, query: Query) -> Result:
            self.right = " likes " in query.text
            return super()._answer(query)

    cloze = [question for question in items.cloze if question.file < 2]
    assert [question.file for question in cloze] == [0] * 4 + [1] * 8
    few = Items(FILES[:2], [], cloze[:8], [])
    report = evaluate([EvaluatedSystem("half", KnowsTalk())], few, seed=1)
    assert values(report, "en")["cloze_top1"] == pytest.approx(4 / 12)


def test_two_systems_get_the_same_items_and_a_paired_difference(items: Items) -> None:
    """The difference is the first less the second."""
    good, bad = FakePredictor(nats=1.0), FakePredictor(right=False, nats=1.5)
    systems = [EvaluatedSystem("good", good), EvaluatedSystem("bad", bad)]
    report = evaluate(systems, items, seed=1)
    difference = metrics(report, "en")["bits_per_character"]["difference"]
    assert difference["value"] == pytest.approx(-0.5 / math.log(2))
    assert difference["interval"][1] < 0
    assert metrics(report, "zh")["cloze_top5"]["difference"]["value"] == 1
    assert metrics(report, "en")["saved"]["values"][1] == 0
    assert report["languages"]["en"]["by_file"].keys() == {"talk_en", "tale_en"}
    first, second = ([q for q in each.asked if isinstance(q, ClozeQuery)] for each in (good, bad))
    assert first == second


def test_kept_answers_are_not_asked_for_again(items: Items, tmp_path: Path) -> None:
    """A second evaluation, of fewer files, asks nothing and finds the figures of the first."""
    fake = FakePredictor()
    systems = [EvaluatedSystem("fake", fake, {"digest": "0f" * 32})]
    whole = evaluate(systems, items, seed=1, folder=tmp_path)
    assert metrics(whole, "zh") == metrics(evaluate(systems, items, seed=1), "zh")
    asked = len(fake.asked)
    talk = evaluate(systems, items.of_file(0), seed=1, folder=tmp_path)
    assert len(fake.asked) == asked
    expected = whole["languages"]["en"]["by_file"]["talk_en"]["metrics"]["cloze_top1"]["values"]
    assert metrics(talk, "en")["cloze_top1"]["values"] == expected


@pytest.fixture
def text(tmp_path: Path) -> Path:
    """Two English lines as JSON Lines."""
    path = tmp_path / "talk_en.jsonl"
    path.write_text('{"said": "I like the cat."}\n{"said": "They like me."}\n', encoding="utf-8")
    return path


def test_the_command_compares_a_checkpoint_with_an_ngram(
    tiny_checkpoint: Path, tiny_ngram: Path, text: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Both run behind the serving predictor; only --overwrite replaces the report's three files."""
    output = tmp_path / "report"
    words = ["evaluate", str(tiny_checkpoint), str(text), "--field", "said", "--lines", "2"]
    words += ["--typing-lines", "1", "--output", str(output), "--against", str(tiny_ngram)]
    assert main(words) == 0
    report = json.loads((output / "evaluation.json").read_text(encoding="utf-8"))
    assert [system["name"] for system in report["contestants"]] == ["tiny 1", "3-gram 1"]
    # The n-gram has read lines like these, the network has random weights
    assert metrics(report, "en")["bits_per_character"]["difference"]["value"] > 0
    (claimed, right, share), _ = metrics(report, "en")["next_ece"]["reliability"]
    assert len(claimed) == len(right) == len(share) > 0
    assert sum(share) == pytest.approx(1)
    assert {path.suffix for path in output.iterdir()} == {".json", ".md", ".png"}
    monkeypatch.setattr(command, "evaluate", lambda *_: {**report, "seed": 77})
    assert main(words) == 2
    assert "evaluation.json exists; choose another --output" in capsys.readouterr().err
    assert json.loads((output / "evaluation.json").read_text(encoding="utf-8")) == report
    assert main([*words, "--overwrite"]) == 0
    assert "Seed 77" in (output / "evaluation.md").read_text(encoding="utf-8")


def test_a_report_that_cannot_be_written_is_refused_before_the_work(
    tiny_checkpoint: Path,
    text: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The error names the file."""
    monkeypatch.setattr(command, "evaluate", None)
    words = ["evaluate", str(tiny_checkpoint), str(text), "--field", "said"]
    (tmp_path / "taken").write_text("a file", encoding="utf-8")
    assert main([*words, "--output", str(tmp_path / "taken")]) == 2
    assert "File exists" in capsys.readouterr().err
