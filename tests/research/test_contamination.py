"""Runs of words that a benchmark shares with the training text."""

import json
from pathlib import Path

from research.cloze_benchmarks import BenchmarkQuestion
from research.contamination import RUN_LENGTH, compare_runs, filled, words_of
from training.__main__ import main
from training.evaluation.test_items import MARKER

LONG = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen"
CHINESE = "我昨天上学迟到了,老师批评了我,同学们都笑了。"


def test_words_are_compared_without_case_and_marks() -> None:
    """Punctuation and capitals do not hide a run; each Chinese character is a word."""
    assert words_of("The CAT's mat, 3 mats!") == ["the", "cat", "s", "mat", "3", "mats"]
    assert words_of("我爱NLP。") == ["我", "爱", "nlp"]


def test_a_question_is_seen_where_thirteen_words_recur() -> None:
    """A run of 13 counts wherever it stands; 12 do not; what is shorter is counted apart."""
    questions = {
        "a": [
            words_of(LONG),
            words_of(CHINESE),
            words_of("too short"),
            words_of(f"zero {LONG[4:]}"),
        ]
    }
    training = [
        f"Said he: {LONG.title()}!",
        " ".join(LONG.split()[: RUN_LENGTH - 1]),
        f"然后{CHINESE[:12]}。",
    ]
    report = compare_runs(questions, training)["benchmarks"]["a"]
    assert report == {"questions": 4, "too_short": 1, "seen": 2}


def test_a_run_across_the_blank_is_found() -> None:
    """The answer stands in its blank, or at the end where there is none; wrong choices are no part of the text."""
    left, right = "one two three four five six", "eight nine ten eleven twelve thirteen"
    closed = BenchmarkQuestion(f"{left} {MARKER} {right}", "seven", ("seven", "zebra"))
    open_ = BenchmarkQuestion(
        "one two three four five six seven eight nine ten eleven twelve ", "thirteen"
    )
    questions = {"a": [words_of(filled(question)) for question in (closed, open_)]}
    assert compare_runs(questions, [f"{left} seven {right}"])["benchmarks"]["a"]["seen"] == 2
    assert compare_runs(questions, [f"{left} zebra {right}"])["benchmarks"]["a"]["seen"] == 0
    short = BenchmarkQuestion(f"too short {MARKER}", "text", tuple("abcdefghijklmnop"))
    assert compare_runs({"a": [words_of(filled(short))]}, [])["benchmarks"]["a"]["too_short"] == 1


def test_one_command_reads_questions_and_lines(tmp_path: Path) -> None:
    """A benchmark is read as it is published, anything else as lines; the report names each."""
    (tmp_path / "train.txt").write_text(f"{LONG}\n", encoding="utf-8")
    record = {
        "question": LONG.replace("seven", "_____"),
        "options": ["zebra", "seven"],
        "answer_word": "seven",
    }
    (tmp_path / "q.jsonl").write_text(json.dumps(record) + "\n", encoding="utf-8")
    (tmp_path / "lines.txt").write_text(f"{CHINESE}\n\n", encoding="utf-8")
    output = tmp_path / "report.json"
    training = ["--training", str(tmp_path / "train.txt"), "--output", str(output)]
    named = [f"msr-scc={tmp_path / 'q.jsonl'}", f"lines={tmp_path / 'lines.txt'}"]
    assert main(["contamination", *named, *training]) == 0
    found = json.loads(output.read_text(encoding="utf-8"))["benchmarks"]
    assert (found["msr-scc"]["seen"], found["lines"]["seen"]) == (1, 0)
    assert main(["contamination", "x", *training]) == 2
    assert main(["contamination", f"chid={tmp_path / 'q.jsonl'}", *training]) == 2
