"""Sentence completion: every part of the score, against the chain rule and against what serves; then the report."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from model.config import SPAN, WORD, Calibration
from model.errors import CorpusError, UnsupportedError
from model.predictor import Predictor, open_model
from model.queries import ClozeQuery, ClozeResult
from research.cloze_benchmarks import BenchmarkQuestion
from research.sentence_completion import (
    FITTED,
    PARTS,
    TEMPERATURES,
    WEIGHTS,
    Sentence,
    fit_weights,
    log_probabilities,
    markdown,
    measure_arms,
    read_questions,
    score_sentences,
)
from tests.fixtures_checkpoint import build_tiny_checkpoint
from training.__main__ import main

QUESTION = BenchmarkQuestion(
    "Then they went to the ____, and there they were.", "store", ("store", "theatre", "mat")
)


def part(scores: np.ndarray, name: str) -> np.ndarray:
    """One part of every score."""
    return scores[..., PARTS.index(name)]


def test_a_whole_sentence_is_scored_by_the_chain_rule(tiny_checkpoint: Path) -> None:
    """Word and right context are as probable as both taken for one word, in either direction, alone or in a batch."""
    _, runtime = open_model(tiny_checkpoint)
    left, word, right = (20, 31, 42), (53, 64), (75, 86, 97, 108)
    sentence = Sentence(left, word, right, SPAN)
    (scores,) = score_sentences(runtime, [sentence])
    joined = score_sentences(
        runtime, [Sentence(left, word + right, (), SPAN), Sentence((), left + word, right, SPAN)]
    )
    assert part(scores, "left whole") == pytest.approx(part(joined[0], "left"), abs=1e-4)
    assert part(scores, "right whole") == pytest.approx(part(joined[1], "right"), abs=1e-4)
    assert part(scores, "left") > part(scores, "left whole")
    together = score_sentences(runtime, [Sentence((20,), (31,), (), WORD), sentence])
    assert np.array_equal(together[1], scores)


def test_the_gap_heads_part_is_what_serves(tiny_checkpoint: Path) -> None:
    """Choices without rescoring are answered by the softmax of the gap head's part, words spelt with their space."""
    checkpoint, runtime = open_model(tiny_checkpoint)
    bare = dataclasses.replace(checkpoint, calibration=Calibration(forward_weight=0.0))
    query = ClozeQuery(QUESTION.text, choices=list(QUESTION.choices))
    (served,) = Predictor(bare, runtime, use_cache_lm=False).run([query])
    assert isinstance(served, ClozeResult)
    probabilities = {filling.word: filling.probability for filling in served.blanks[0].candidates}
    gap = part(log_probabilities(checkpoint, runtime, [QUESTION], "question")[0], "gap")
    expected = np.exp(gap - np.logaddexp.reduce(gap))
    assert [probabilities[choice] for choice in QUESTION.choices] == pytest.approx(
        expected.tolist(), rel=1e-3
    )


def test_weights_are_those_that_make_right_choices_probable() -> None:
    """Where one direction tells the answer and the gap head misleads, that direction gets the greatest weight."""
    rng = np.random.default_rng(1)
    answers = rng.integers(3, size=200).tolist()
    parts = rng.normal(size=(200, 3, len(PARTS)))
    parts[np.arange(200), answers, PARTS.index("left whole")] += 4
    parts[np.arange(200), answers, PARTS.index("gap")] -= 1
    weights = fit_weights(parts, answers)
    assert weights["left whole"] > 1 > weights["right whole"]
    arms = measure_arms(parts, answers, weights)
    told, misled = arms["left to right, whole sentence"], arms["both sides, gap head"]
    assert told["accuracy"] > 0.8 > 0.2 > misled["accuracy"]
    low, high = told["difference_interval"]
    assert 0 < low < told["difference"] < high
    assert misled["difference"] == 0
    assert arms["gap head, rescored by both directions"]["accuracy"] > 0.8


def test_the_report_says_which_weights_lie_at_an_edge_and_what_the_sum_is_worth() -> None:
    """Beside the best arm that fits nothing; a bar in an arm's name makes no column of its table."""
    rng = np.random.default_rng(1)
    answers = rng.integers(3, size=50).tolist()
    weights = {"left whole": WEIGHTS[-1], "right whole": WEIGHTS[0], "temperature": TEMPERATURES[1]}
    arms = measure_arms(rng.normal(size=(50, 3, len(PARTS))), answers, weights)
    arms[FITTED] |= {"right": 40, "accuracy": 0.8}
    arms["left to right, whole sentence"] |= {"right": 38, "accuracy": 0.76}
    report = {
        "questions": 50,
        "fitted_on": 20,
        "weights": weights,
        "arms": arms,
        "held_out_arms": arms,
    }
    text = markdown(report)
    assert "lie beyond: the weight of left to right.\n" in text
    assert (
        "40 right (80.0 %), the best arm that fits nothing 38 (76.0 %: left to right, whole sentence)"
        in text
    )
    assert "+2 questions" in text
    assert {
        row.replace("\\|", "").count("|") for row in text.splitlines() if row.startswith("| ")
    } == {6}
    inside = weights | {"left whole": WEIGHTS[1]}
    assert "lie beyond" not in markdown(report | {"weights": inside})


def write_questions(path: Path, *answers: str) -> Path:
    """A question for each answer, of the same two choices."""
    record = {"question": "I like the _____ that sat .", "options": ["cat", "mat"]}
    lines = (json.dumps(record | {"answer_word": answer}) + "\n" for answer in answers)
    path.write_text("".join(lines), encoding="utf-8")
    return path


def test_a_question_without_its_answer_is_found_before_any_is_asked(tmp_path: Path) -> None:
    """Its number is named; an empty file is refused too."""
    with pytest.raises(CorpusError, match="question 2 has 2 choices"):
        read_questions(write_questions(tmp_path / "odd.jsonl", "cat", "dog"))
    with pytest.raises(CorpusError, match="holds no questions"):
        read_questions(write_questions(tmp_path / "none.jsonl"))


def test_the_command_writes_a_report(
    tiny_checkpoint: Path, tiny_prepared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Questions in, every arm out, with weights from held-out lines; two checkpoints are averaged."""
    questions = write_questions(tmp_path / "questions.jsonl", "cat")
    other = build_tiny_checkpoint(tmp_path / "other", seed=1).directory
    command = ["sentence-completion", str(tiny_checkpoint), str(other), str(questions)]
    assert (
        main([*command, "--prepared", str(tiny_prepared), "--output", str(tmp_path / "out")]) == 0
    )
    report = json.loads((tmp_path / "out" / "sentence_completion.json").read_text(encoding="utf-8"))
    assert (report["questions"], len(report["checkpoints"])) == (1, 2)
    assert report["fitted_on"] >= 1
    assert {arm["right"] for arm in report["arms"].values()} <= {0, 1}
    assert "gap head, rescored by both directions" in capsys.readouterr().out


def test_checkpoints_of_one_tower_are_refused(
    tmp_path: Path, tiny_prepared: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A forward network cannot say what the right side says."""
    forward = build_tiny_checkpoint(tmp_path / "forward", architecture="forward").directory
    questions = write_questions(tmp_path / "questions.jsonl", "cat")
    command = [
        "sentence-completion",
        str(forward),
        str(questions),
        "--prepared",
        str(tiny_prepared),
    ]
    assert main([*command, "--output", str(tmp_path / "out")]) == 2
    assert UnsupportedError.__name__ in capsys.readouterr().err
