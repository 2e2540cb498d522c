"""Everyday sentences with a blank, hits and misses shown: `python -m research sample-sentences CHECKPOINT QUESTIONS ...`.

The project's own, `research/sources/sample_sentences.jsonl`, were written down before any network was asked. A handful of
sentences measures nothing; it shows what answers look like.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from model.errors import CorpusError
from model.queries import ClozeQuery, ClozeResult
from training.evaluation.metrics import ask
from training.evaluation.systems import EvaluatedSystem, open_system
from training.run_state import check_writable, write_whole

SHOWN = 5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "checkpoint", type=Path, help="checkpoint directory, or one of `python -m training ngram`"
    )
    parser.add_argument(
        "questions", type=Path, help="JSON Lines: language, text with one blank, wanted (a list)"
    )
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write")


def run(arguments: argparse.Namespace) -> int:
    """Ask, and report; 0 on success."""
    sentences = read_sentences(arguments.questions)
    check_writable(arguments.output)
    report = fill(open_system(arguments.checkpoint), sentences)
    write_whole(
        arguments.output, (json.dumps(report, ensure_ascii=False, indent=1) + "\n").encode()
    )
    sys.stdout.write(markdown(report))
    return 0


def read_sentences(path: Path) -> list[dict[str, Any]]:
    """Sentences with what is wanted in their blanks.

    Raises:
        CorpusError: the file cannot be read, or a line lacks language, text or wanted.
    """
    try:
        sentences = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError) as error:
        raise CorpusError(f"{path}: {error}; name a file of JSON Lines") from error
    for number, sentence in enumerate(sentences, start=1):
        if not isinstance(sentence, dict) or not {"language", "text", "wanted"} <= sentence.keys():
            raise CorpusError(f"{path}:{number}: must be an object with language, text and wanted")
    return sentences


def fill(contestant: EvaluatedSystem, sentences: list[dict[str, Any]]) -> dict[str, Any]:
    """Ask for the blank of each sentence.

    Returns:
        ``checkpoint``, ``digest``, and of each sentence its ``candidates`` and the ``rank`` of the first wanted one,
        from 1; None where none is among them.
    """
    answers = ask(
        contestant, [ClozeQuery(sentence["text"], SHOWN) for sentence in sentences], ClozeResult
    )
    report: dict[str, Any] = {
        "checkpoint": contestant.name,
        "digest": contestant.about.get("digest", ""),
    }
    report["sentences"] = []
    for sentence, answer in zip(sentences, answers, strict=True):
        candidates = answer.blanks[0].candidates
        ranks = [
            rank
            for rank, found in enumerate(candidates, start=1)
            if found.word in sentence["wanted"]
        ]
        report["sentences"].append(
            {
                **sentence,
                "rank": ranks[0] if ranks else None,
                "candidates": [[found.word, round(found.probability, 4)] for found in candidates],
            }
        )
    return report


def markdown(report: dict[str, Any]) -> str:
    """How many came first and among the first five, and a table of all."""
    rows = ["| sentence | wanted | rank | candidates |", "|---|---|---|---|"]
    counts: dict[str, list[int]] = {}
    for sentence in report["sentences"]:
        rank = sentence["rank"]
        count = counts.setdefault(sentence["language"], [0, 0, 0])
        count[0] += 1
        count[1] += rank == 1
        count[2] += rank is not None
        found = ", ".join(
            f"{word} {probability:.2f}" for word, probability in sentence["candidates"]
        )
        rows.append(
            f"| {sentence['text']} | {' / '.join(sentence['wanted'])} | {rank or 'missed'} | {found} |"
        )
    lines = [
        f"{name}: {first} of {asked} first, {among} among the first five."
        for name, (asked, first, among) in counts.items()
    ]
    return "\n".join([*lines, "", *rows]) + "\n"
