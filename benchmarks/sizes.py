"""``python -m benchmarks.sizes CHECKPOINT... --text TEXT... --output JSON``: what a size costs, and what it is worth.

Each checkpoint is asked the same questions of the same held-out text (training/evaluation/evaluate.py), and types the same lines
key by key, one request at a time on one thread, with the prefix cache that serves. Checkpoints take turns, a few lines
each, so that what else the machine does hits all alike; a keystroke's microseconds are the thread's CPU time, the
median over the turns. `python -m research quality-page` draws the figures.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tqdm import tqdm

from benchmarks import machine
from model.errors import LacunaError
from model.opening import open_model, size_of
from model.predictor import Predictor
from model.queries import ClozeQuery, PredictQuery, Query
from research.quality_page import sizes_table
from training.evaluation.evaluate import ask_about, common_tokenizer, evaluate
from training.evaluation.metrics import Questions
from training.evaluation.systems import open_contestant
from training.evaluation.test_items import read_files
from training.evaluation.typing import SUGGESTIONS
from training.run_state import check_writable, write_whole

METRICS = ("bits_per_character", "next_top3", "cloze_top5", "saved")
# Characters of a line that are typed.
TYPED_CHARACTERS = 60


def main(arguments: list[str] | None = None) -> int:
    """Measure and write JSON; 0."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.sizes", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("checkpoints", nargs="+", type=Path, help="of one vocabulary")
    parser.add_argument(
        "--text", nargs="+", required=True, help="held-out text: files, folders or globs"
    )
    parser.add_argument(
        "--lines", type=int, default=1500, help="lines a language for next words and blanks (1500)"
    )
    parser.add_argument(
        "--typing-lines", type=int, default=150, help="lines a language that are typed (150)"
    )
    parser.add_argument("--repeats", type=int, default=5, help="turns of every checkpoint (5)")
    parser.add_argument(
        "--turn-lines", type=int, default=20, help="lines that are typed in a turn (20)"
    )
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write")
    options = parser.parse_args(arguments)
    check_writable(options.output)
    files = read_files(options.text, None, None, 1)
    tokenizer = common_tokenizer(options.checkpoints)
    questions = ask_about(files, tokenizer, options.lines, options.typing_lines, 1)
    found = measure(options.checkpoints, questions, options.repeats, options.turn_lines)
    write_whole(options.output, (json.dumps(found, indent=1) + "\n").encode())
    sys.stdout.write(sizes_table(found))
    return 0


def measure(
    directories: Sequence[Path], questions: Questions, repeats: int, turn_lines: int
) -> dict[str, Any]:
    """Quality and cost of each checkpoint, in the order given."""
    typed = [line.text[:TYPED_CHARACTERS] for line in questions.typed]
    blanks = [ClozeQuery(question.text) for question in questions.cloze]
    keys: list[list[float]] = [[] for _ in directories]
    fills: list[list[float]] = [[] for _ in directories]
    predictors = [Predictor(*open_model(directory)) for directory in directories]
    for turn in tqdm(range(repeats), desc="turns", disable=None):
        lines = _some(typed, turn, turn_lines)
        asked = _some(blanks, turn, turn_lines)
        for number, predictor in enumerate(predictors):
            keystrokes = [
                PredictQuery(line[:end], SUGGESTIONS)
                for line in lines
                for end in range(1, len(line) + 1)
            ]
            keys[number].append(_microseconds(predictor, keystrokes))
            fills[number].append(_microseconds(predictor, asked))
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "cpu": machine.cpu(),
        "questions_sha256": questions.digest,
        "repeats": repeats,
        "checkpoints": [
            {
                **_quality(directory, questions),
                "keystroke_microseconds": statistics.median(keys[number]),
                "blank_microseconds": statistics.median(fills[number]),
                "turns": {"keystroke": keys[number], "blank": fills[number]},
            }
            for number, directory in enumerate(directories)
        ],
    }


def _some(items: Sequence[Any], turn: int, count: int) -> list[Any]:
    """A turn's share of *items*, spread over them, another one each turn."""
    step = max(1, len(items) // count)
    return list(items[turn % step :: step][:count])


def _microseconds(predictor: Predictor, queries: Sequence[Query]) -> float:
    """CPU microseconds of a query, one after the other, each alone.

    Raises:
        LacunaError: a query could not be answered; it would have cost less than an answer.
    """
    began = time.thread_time()
    for query in queries:
        (result,) = predictor.run([query])
        if isinstance(result, LacunaError):
            raise result
    return 1e6 * (time.thread_time() - began) / len(queries)


def _quality(directory: Path, questions: Questions) -> dict[str, Any]:
    contestant = open_contestant(directory)
    report = evaluate([contestant], questions, 1)
    return {
        "name": f"{contestant.name}, {contestant.about['architecture']}",
        "weights": size_of(open_model(directory)[0]),
        "bytes": contestant.about["bytes"],
        "saw": contestant.about["saw"],
        "languages": {
            language: {metric: summary["metrics"][metric]["values"][0] for metric in METRICS}
            for language, summary in report["languages"].items()
        },
    }


if __name__ == "__main__":
    sys.exit(main())
