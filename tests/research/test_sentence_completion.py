"""Sentence completion: each part against the chain rule and the service, then the report."""

import json
from pathlib import Path

import numpy as np
import pytest

from model.config import SPAN, WORD
from model.errors import CorpusError
from model.predictor import open_model
from research.__main__ import main
from research.cloze_benchmarks import BenchmarkQuestion
from research.sentence_completion import (
    FITTED,
    METHODS,
    PARTS,
    Sentence,
    read_questions,
    score_sentences,
)
from tests.fixtures_checkpoint import build_tiny_checkpoint

QUESTION = BenchmarkQuestion(
    "Then they went to the ____, and there they were.", "store", ("store", "theatre", "mat")
)


def part(scores: np.ndarray, name: str) -> np.ndarray:
    """Return one part of every score."""
    return scores[..., PARTS.index(name)]


def test_a_whole_sentence_is_scored_by_the_chain_rule(tiny_checkpoint: Path) -> None:
    """Word and right context are as probable as both taken for one word, alone or in a batch."""
    _, runtime = open_model(tiny_checkpoint)
    left, word, right = (20, 31, 42), (53, 64), (75, 86, 97, 108)
    sentence = Sentence(left, word, right, SPAN)
    (scores,) = score_sentences(runtime, [sentence])
    joined = [Sentence(left, word + right, (), SPAN), Sentence((), left + word, right, SPAN)]
    ahead, back = score_sentences(runtime, joined)
    assert part(scores, "left whole") == pytest.approx(part(ahead, "left"), abs=1e-4)
    assert part(scores, "right whole") == pytest.approx(part(back, "right"), abs=1e-4)
    batch = score_sentences(runtime, [Sentence((20,), (31,), (), WORD), sentence])
    assert np.array_equal(batch[1], scores)


def test_the_command_writes_a_report(
    tiny_checkpoint: Path, tiny_prepared: Path, tmp_path: Path
) -> None:
    """Every method is reported; a question without its answer and a single tower are refused."""
    options = ["cat", "mat", "dog", "tree", "house"]
    record = {"question": "I like the _____ .", "options": options, "answer_word": "cat"}
    questions = tmp_path / "questions.jsonl"
    questions.write_text(json.dumps(record), encoding="utf-8")
    output = tmp_path / "report.json"
    rest = [str(questions), "--prepared", str(tiny_prepared), "--output", str(output)]
    assert main(["sentence-completion", str(tiny_checkpoint), *rest]) == 0
    report = json.loads(output.read_text(encoding="utf-8"))
    assert set(report["methods"]) == {*METHODS, FITTED}
    assert report["fitted_on"] >= 1
    forward = build_tiny_checkpoint(tmp_path / "forward", architecture="forward").directory
    assert main(["sentence-completion", str(forward), *rest]) == 2
    questions.write_text(json.dumps(record | {"answer_word": "bird"}), encoding="utf-8")
    with pytest.raises(CorpusError, match="question 1 needs 5 choices"):
        read_questions(questions)
