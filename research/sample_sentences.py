"""Fill the blanks of sample sentences with a checkpoint and rank the wanted words.

The sentences of research/sources/sample_sentences.jsonl were written before any network was asked.
Sixty sentences measure little; they show what answers look like.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model.queries import ClozeQuery, ClozeResult
from research.cloze_benchmarks import read_records
from training.cached_json import check_writable, write_json
from training.evaluation.systems import EvaluatedSystem, open_system
from training.options import argument, option

CANDIDATES = 5


@dataclass(frozen=True, slots=True)
class SentenceOptions:
    """Options of the command."""

    checkpoint: Path = argument("checkpoint directory")
    sentences: Path = argument("JSON Lines: language, text with one blank, wanted (a list)")
    output: Path = option("JSON file to write")


def run(options: SentenceOptions) -> int:
    """Fill the blanks, write the answers and print the counts; return 0."""
    sentences = list(read_records(options.sentences, "language", "text", "wanted"))
    check_writable(options.output)
    report = fill(open_system(options.checkpoint), sentences)
    write_json(options.output, report)
    sys.stdout.write(summary(report))
    return 0


def fill(system: EvaluatedSystem, sentences: list[dict[str, Any]]) -> dict[str, Any]:
    """Fill the blank of each sentence.

    Returns:
        ``checkpoint``, ``digest`` and ``sentences``, each with its ``candidates`` and the ``rank``
        of the first wanted word, from 1; None if no candidate is wanted.
    """
    queries = [ClozeQuery(sentence["text"], CANDIDATES) for sentence in sentences]
    filled = []
    for sentence, result in zip(sentences, system.ask(queries, ClozeResult), strict=True):
        candidates = result.blanks[0].candidates
        wanted = (n for n, each in enumerate(candidates, 1) if each.word in sentence["wanted"])
        shown = [[each.word, round(each.probability, 4)] for each in candidates]
        filled.append({**sentence, "rank": next(wanted, None), "candidates": shown})
    digest = system.about.get("digest", "")
    return {"checkpoint": system.name, "digest": digest, "sentences": filled}


def summary(report: dict[str, Any]) -> str:
    """Count the sentences whose wanted word is the first candidate, and among the first five."""
    lines = []
    for language in sorted({sentence["language"] for sentence in report["sentences"]}):
        ranks = [each["rank"] for each in report["sentences"] if each["language"] == language]
        found = sum(rank is not None for rank in ranks)
        lines.append(
            f"{language}: a wanted word is first in {ranks.count(1)} and among the first"
            f" {CANDIDATES} in {found} of {len(ranks)} sentences.\n"
        )
    return "".join(lines)
