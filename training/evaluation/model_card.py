"""Write scores, known words and a card into a checkpoint: ``python -m training card CHECKPOINT``.

The card says what the weights were trained on and for how long, under which licences, how good they
are and what they cannot do (Mitchell et al. 2019, arXiv:1810.03993). Licences and remarks on the
data come from a file of notes.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from model.checkpoint import CARD, CheckpointConfig, load_checkpoint, revise_checkpoint
from model.errors import ExportError
from model.onnx_graphs import count_parameters
from training.data.shards import open_prepared
from training.evaluation.report import table
from training.options import argument, option

LIMITS = """\
- It continues text; it knows no facts, follows no instructions and has read nothing newer than its
  text.
- It repeats prejudice and swearing of its text. Do not judge people by its probabilities.
- Probabilities are calibrated on text like the held-out lines; on other text, trust them less.
- Only the languages named above were trained; other scripts are read as bytes and predicted badly.
- The network keeps a text as a state of fixed size, so distant text fades. With a forward tower,
  the service also counts names and phrases of text and `history`; counts know no meaning."""
NO_SCORES = """\
None yet: `python -m training evaluate`, then `python -m training card --scores evaluation.json`."""
NO_NOTES = "Licences: see the sources of the data; none were recorded at export."
ADDED_TEXT = "Licences of the text that was added later were not recorded."
# Hours are those of checkpoints before 0.6; exports have no clock
STAGES = ("run", "steps", "tokens", "cpu_hours", "wall_hours", "device")
SOURCES = ("source", "language", "lines", "characters", "tokens", "weight")


@dataclass(frozen=True, slots=True)
class CardOptions:
    """Options of the command."""

    checkpoint: Path = argument("directory of a checkpoint, changed in place")
    scores: Path | None = option("evaluation.json (default: keep the scores)", None, metavar="FILE")
    notes: Path | None = option(
        "Markdown on data and licences (default: keep the notes)", None, metavar="FILE"
    )
    prepared: Path | None = option(
        "prepared data to take the known words of (default: keep them)", None, metavar="DIR"
    )
    version: str = option("version to write (default: the old one)", "")


def run(options: CardOptions) -> int:
    """Run the command; 0 on success."""
    checkpoint = load_checkpoint(options.checkpoint)
    scores = read_scores(options.scores) if options.scores else checkpoint.scores
    version = options.version or checkpoint.version
    card = model_card(
        replace(checkpoint.config, scores=scores, version=version),
        _read_notes(options.notes) if options.notes else notes_of(options.checkpoint / CARD),
    )
    words = open_prepared(options.prepared).words if options.prepared else None
    revised = revise_checkpoint(
        options.checkpoint, scores=scores, card=card, words=words, version=version
    )
    sys.stdout.write(f"{revised.directory} {revised.digest}\n")
    return 0


def _read_notes(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ExportError(f"{path}: not UTF-8 at byte {error.start}; convert the notes") from error


def read_scores(path: Path) -> dict[str, dict[str, Any]]:
    """Read ``value``, ``interval`` (95 %) and ``n`` of the first system, by language and metric.

    Raises:
        ExportError: the file is not an evaluation.json.
    """
    try:
        languages = json.loads(path.read_text(encoding="utf-8"))["languages"]
        return {
            language: {
                metric: {
                    "value": figure["values"][0],
                    "interval": figure["intervals"][0],
                    "n": figure["n"],
                }
                for metric, figure in summary["metrics"].items()
            }
            for language, summary in languages.items()
        }
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise ExportError(
            f"{path}: not an evaluation.json ({error!r}); run: python -m training evaluate"
        ) from error


def notes_of(card: Path) -> str:
    """Return the notes on data and licences in a model card."""
    _, _, rest = card.read_text(encoding="utf-8").partition("## Data and licences\n")
    lines = rest.partition("\n## ")[0].splitlines()
    return "\n".join(line for line in lines if not line.startswith("|")).strip()


def model_card(config: CheckpointConfig, notes: str = "") -> str:
    """Return the Markdown of a model card; *notes* are Markdown on data and licences."""
    network, training = config.network, config.training
    exported = f"exported {training['date']}" if "date" in training else "exported"
    origin = f"{exported} by the program of commit {training.get('git_commit')}"
    if base := training.get("adapted_from"):
        origin += f"; began with {base['name']} {base['version']}, digest {base['digest'][:12]}"
    scores = [
        [language, metric, f"{figure['value']:.4g}", "{:.4g} – {:.4g}".format(*figure["interval"])]
        for language, figures in config.scores.items()
        for metric, figure in figures.items()
    ]
    languages = f"Languages: {', '.join(config.languages)}."
    shape = "None."
    if network:
        shape = (
            f"{network.architecture}, {network.cell}: {network.forward_layers} layers forward and"
            f" {network.backward_layers} backward, hidden {network.hidden_size}, embedding"
            f" {network.embedding_size}; {network.vocabulary_size:,} tokens;"
            f" {count_parameters(network) / 1e6:.2f} million parameters."
        )
    counts = [
        f"{' + '.join(f'{ngrams:,}' for ngrams in each.ngrams)} n-grams by order, of"
        f" {each.training.get('tokens', 0):,} tokens of text."
        for each in config.counts
    ]
    sections = {
        "Network": f"{shape} {languages}",
        "Counts": "\n".join(counts) or "None.",
        "Training": f"{_table(training.get('stages', []), STAGES)}\nHistory: {origin}."
        if network
        else "None.",
        "Data and licences": f"{_table(training.get('data', []), SOURCES)}\n{notes or NO_NOTES}",
        "Scores": table(scores, ("language", "figure", "value", "95 % interval"))
        if scores
        else NO_SCORES,
        "Limits": LIMITS,
    }
    parts = [f"## {title}\n\n{text.strip()}\n" for title, text in sections.items()]
    return "\n".join([f"# {config.name} {config.version}\n", *parts])


def _table(rows: Sequence[Mapping[str, Any]], keys: Sequence[str]) -> str:
    """Return the values of the keys that a row has as a table, with commas in large integers."""
    keys = [key for key in keys if not rows or any(key in row for row in rows)]
    values = [[row.get(key, "") for key in keys] for row in rows]
    return table(
        [[f"{each:,}" if isinstance(each, int) else each for each in row] for row in values], keys
    )
