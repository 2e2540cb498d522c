"""Scores and a model card into a checkpoint: ``python -m training card CHECKPOINT``.

The card says what the weights were trained on and for how long, under which licences, how good they
are and what they cannot do (Mitchell et al. 2019, arXiv:1810.03993). Licences and remarks on the
data come from a file of notes.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from model.checkpoint import CheckpointConfig, count_parameters, load_checkpoint, revise_checkpoint
from model.config import Calibration
from model.errors import ExportError
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
COSTS = {
    "perplexity": "perplexity {:+.3f} %",
    "top3": "top-3 accuracy lost {:+.3f} points",
    "gap_perplexity": "perplexity of gaps {:+.3f} %",
}


@dataclass(frozen=True, slots=True)
class CardOptions:
    """Options of the command."""

    checkpoint: Path = argument("directory of a checkpoint, changed in place")
    scores: Path | None = option("evaluation.json (default: keep the scores)", None, metavar="FILE")
    notes: Path | None = option("Markdown on data and licences", None, metavar="FILE")


def run(options: CardOptions) -> int:
    """Run the command; 0 on success."""
    checkpoint = load_checkpoint(options.checkpoint)
    scores = read_scores(options.scores) if options.scores else checkpoint.scores
    card = model_card(
        replace(checkpoint.config, scores=scores),
        count_parameters(checkpoint.directory),
        _read_text(options.notes) if options.notes else "",
    )
    revised = revise_checkpoint(options.checkpoint, scores=scores, card=card)
    sys.stdout.write(f"{revised.directory} {revised.digest}\n")
    return 0


def read_scores(path: Path) -> dict[str, dict[str, Any]]:
    """Read the figures of the first system of an evaluation.

    Returns:
        By language and metric: ``value``, ``interval`` (95 %, two numbers) and ``n``.

    Raises:
        ExportError: the file is not an evaluation.json.
    """
    try:
        languages = json.loads(_read_text(path))["languages"]
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


def model_card(config: CheckpointConfig, parameters: int, notes: str = "") -> str:
    """Return the Markdown of a model card.

    Args:
        config: the content of config.json.
        parameters: count of trained numbers.
        notes: Markdown on data and licences.
    """
    network, training = config.network, config.training
    purpose = "Predicts the next word and fills blanks"
    layers = f"forward tower of {network.forward_layers} layer(s)"
    if network.architecture == "two_towers":
        layers += f", backward tower of {network.backward_layers}, gap head"
    if network.architecture == "stacked_bidirectional":
        purpose, layers = "Fills blanks", f"{network.forward_layers} bidirectional layer(s)"
    sections = {
        "Network": f"{network.cell}, {layers}; hidden {network.hidden_size}, embedding"
        f" {network.embedding_size}, {network.vocabulary_size:,} tokens;"
        f" {parameters / 1e6:.2f} million parameters.",
        "Training": _training(training),
        "Data and licences": _data(training.get("data", []))
        + (notes.strip() or "Licences: see the sources of the data; none were recorded at export."),
        "Scores": "\n\n".join(
            [
                _scores(config.scores),
                _cost(training.get("quantisation_cost", {})),
                _fitted(config.calibration),
            ]
        ),
        "Limits": LIMITS,
    }
    parts = [
        f"# {config.name} {config.version}",
        f"{purpose}. Languages: {', '.join(config.languages)}.",
    ]
    parts += [f"## {title}\n\n{text.strip()}" for title, text in sections.items()]
    return "\n\n".join(parts) + "\n"


def _training(training: Mapping[str, Any]) -> str:
    stages = training.get("stages", [])
    parts = []
    if base := training.get("adapted_from"):
        parts.append(
            f"Began with the weights of {base['name']} {base['version']}, digest"
            f" {base['digest'][:12]}."
        )
    if stages:
        keys = ("run", "steps", "tokens", "cpu_hours", "wall_hours", "device")
        header = ("run", "steps", "tokens read", "CPU hours", "hours", "device")
        rows = [[_cell(stage[key]) for key in keys] for stage in stages]
        parts.append(table(rows, header).strip())
    for stage in stages:
        weights = ", ".join(f"{name} {weight:g}" for name, weight in stage["weights"].items())
        parts += [f"Weights of sources in {stage['run']}, unlike below: {weights}."] * bool(weights)
    facts = {
        "Exported": training.get("date"),
        "Seed": training.get("seed"),
        "Program": training.get("git_commit"),
        "SHA-256 of the prepared data": training.get("data_sha256"),
    }
    known = [f"{label}: {fact}." for label, fact in facts.items() if fact not in (None, "")]
    return "\n\n".join([*parts, " ".join(known)])


def _data(data: Sequence[Mapping[str, Any]]) -> str:
    keys = ("source", "language", "lines", "characters", "tokens", "weight")
    rows = [[_cell(source[key]) for key in keys] for source in data]
    return f"{table(rows, keys)}\n" if rows else ""


def _scores(scores: Mapping[str, Any]) -> str:
    rows = []
    for language, figures in scores.items():
        for metric, figure in figures.items():
            low, high = figure["interval"]
            interval = f"{low:.4g} – {high:.4g}"
            rows.append([language, metric, f"{figure['value']:.4g}", interval, _cell(figure["n"])])
    if not rows:
        return (
            "None yet: `python -m training evaluate`, then `python -m training card --scores"
            " evaluation.json`."
        )
    return table(rows, ["language", "figure", "value", "95 % interval", "n"]).strip()


def _cost(cost: Mapping[str, float]) -> str:
    shown = [text.format(100 * cost[key]) for key, text in COSTS.items() if key in cost]
    if not shown:
        return ""
    return (
        f"Cost of int8 against fp32 on {cost['tokens']:,.0f} held-out tokens: {', '.join(shown)}."
    )


def _fitted(calibration: Calibration) -> str:
    shown = []
    for field, value in asdict(calibration).items():
        by_language = value if isinstance(value, dict) else {"": value}
        values = ", ".join(f"{key} {each:.3f}".strip() for key, each in by_language.items())
        shown.append(f"{field.replace('_', ' ')} {values}")
    return f"Calibration: {'; '.join(shown)}."


def _cell(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ExportError(f"{path} cannot be read: {error}; name a UTF-8 text file") from error
