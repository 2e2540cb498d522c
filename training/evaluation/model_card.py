"""``python -m training card CHECKPOINT``: scores into a checkpoint, and the text of its MODEL_CARD.md.

The card says what a reader must know before using the weights: what they were trained on and for how long, under which
licences, how well they do, and what they cannot do. After Mitchell et al. 2019, arXiv:1810.03993. Licences and remarks
on the data cannot be computed: they come from a file of notes.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from model.checkpoint import count_parameters, load_checkpoint, revise_checkpoint
from model.config import Calibration, NetworkConfig
from model.errors import ExportError

LIMITS = """\
- It continues text; it knows no facts, follows no instructions and has read nothing newer than its text.
- It repeats what its text says, prejudice and swearing included. Do not decide about people by its probabilities.
- Probabilities are calibrated on text like the held-out lines; on other text they are less to be trusted.
- Only the languages named above were trained; other scripts are spelt in bytes and predicted badly.
- The network reads a text into a state of fixed size: what stood far back fades from it."""
# Of whatever is served with counts of what was written (model/decoding/cache_lm.py): all but stacked networks.
MEMORY = """\
- Where it is served, names and phrases of the text itself, and of a `history` that is sent along, are counted and come
  back beside what the network says; what they mean does not."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("checkpoint", type=Path, help="checkpoint directory, changed in place")
    parser.add_argument(
        "--scores",
        type=Path,
        metavar="FILE",
        help="evaluation.json of `python -m training evaluate`",
    )
    parser.add_argument("--notes", type=Path, metavar="FILE", help="Markdown on data and licences")


def run(arguments: argparse.Namespace) -> int:
    """Run the command; 0 on success."""
    checkpoint = load_checkpoint(arguments.checkpoint)
    scores = read_scores(arguments.scores) if arguments.scores else checkpoint.scores
    card = model_card(
        name=checkpoint.name,
        version=checkpoint.version,
        network=checkpoint.network,
        calibration=checkpoint.calibration,
        languages=checkpoint.languages,
        scores=scores,
        training=checkpoint.training,
        parameters=count_parameters(checkpoint.directory),
        notes=_read_text(arguments.notes) if arguments.notes else "",
    )
    revised = revise_checkpoint(arguments.checkpoint, scores=scores, card=card)
    sys.stdout.write(f"{revised.directory} {revised.digest}\n")
    return 0


def read_scores(path: Path) -> dict[str, dict[str, Any]]:
    """The first contestant's figures of an evaluation.

    Returns:
        By language and metric: ``value``, ``interval`` (95 %, two numbers) and ``n``.

    Raises:
        ExportError: not an evaluation.json.
    """
    try:
        report = json.loads(_read_text(path))
        return {
            language: {
                metric: {
                    "value": figure["values"][0],
                    "interval": figure["intervals"][0],
                    "n": figure["n"],
                }
                for metric, figure in summary["metrics"].items()
            }
            for language, summary in report["languages"].items()
        }
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise ExportError(
            f"{path}: not an evaluation.json ({error!r}); run: python -m training evaluate"
        ) from error


def model_card(
    *,
    name: str,
    version: str,
    network: NetworkConfig,
    calibration: Calibration,
    languages: Sequence[str],
    scores: Mapping[str, Any],
    training: Mapping[str, Any],
    parameters: int,
    notes: str = "",
) -> str:
    """Markdown of a model card.

    Args:
        name: of the checkpoint, as all that follow up to *training*: see :class:`model.checkpoint.Checkpoint`.
        version: of the checkpoint.
        network: sizes.
        calibration: temperatures.
        languages: codes.
        scores: as :func:`read_scores` gives them; may be empty.
        training: as ``training/export.py`` writes it; missing entries are left out.
        parameters: how many numbers were trained.
        notes: Markdown on data and licences.
    """
    towers = f"forward tower of {network.forward_layers} layer(s)"
    if network.architecture == "two_towers":
        towers += f", backward tower of {network.backward_layers}, gap head"
    purpose = "Predicts the next word of a partial sentence and fills blanks"
    if network.architecture == "stacked_bidirectional":
        towers, purpose = f"{network.forward_layers} bidirectional layer(s)", "Fills blanks"
    parts = [
        f"# {name} {version}",
        f"{purpose}. Languages: {', '.join(languages)}.",
        "## Network",
        f"{network.cell}, {towers}; hidden {network.hidden_size}, embedding {network.embedding_size},"
        f" {network.vocabulary_size:,} tokens; {parameters / 1e6:.2f} million parameters.",
        "## Training",
        _training(training),
        "## Data and licences",
        _data(training.get("data", [])),
        notes.strip() or "Licences: see the sources of the data; none were recorded at export.",
        "## Scores",
        _scores(scores),
        _cost(training.get("quantisation_cost", {})),
        "Temperatures of the next head: "
        + ", ".join(
            f"{language} {value:.3f}" for language, value in calibration.next_temperature.items()
        )
        + "; of blanks: "
        + ", ".join(
            f"{language} {value:.3f}" for language, value in calibration.cloze_temperature.items()
        )
        + "; of choices: "
        + ", ".join(
            f"{language} {value:.3f}" for language, value in calibration.choice_temperature.items()
        )
        + "; lapse rates of choices: "
        + ", ".join(
            f"{language} {value:.3f}" for language, value in calibration.choice_uniform_mix.items()
        )
        + "; exponents of what is found for a blank: "
        + ", ".join(
            f"{language} {value:.3f}"
            for language, value in calibration.cloze_coverage_exponent.items()
        )
        + f". Weights of rescoring: {calibration.forward_weight:g} forward, {calibration.backward_weight:g} backward.",
        "## Limits",
        LIMITS if network.architecture == "stacked_bidirectional" else f"{LIMITS}\n{MEMORY}",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _training(training: Mapping[str, Any]) -> str:
    stages = [
        f"| {stage['run']} | {stage['steps']:,} | {stage['tokens']:,} | {stage['cpu_hours']} | {stage['wall_hours']} |"
        f" {stage['device']} |"
        for stage in training.get("stages", [])
    ]
    table = [
        "| run | steps | tokens read | CPU hours | hours | device |",
        "|---|---|---|---|---|---|",
        *stages,
    ]
    facts = [
        f"{label}: {training[key]}."
        for label, key in (
            ("Exported", "date"),
            ("Seed", "seed"),
            ("Program", "git_commit"),
            ("SHA-256 of the prepared data", "data_sha256"),
        )
        if training.get(key) not in (None, "")
    ]
    weighed = [
        f"Sources weighed otherwise than below in {stage['run']}: "
        + ", ".join(f"{name} {weight:g}" for name, weight in stage["weights"].items())
        + "."
        for stage in training.get("stages", [])
        if stage.get("weights")
    ]
    if base := training.get("adapted_from"):
        facts.insert(
            0,
            f"Began with the weights of {base['name']} {base['version']}, digest {base['digest'][:12]}.",
        )
    return "\n\n".join(
        part for part in ("\n".join(table) if stages else "", *weighed, " ".join(facts)) if part
    )


def _data(data: Sequence[Mapping[str, Any]]) -> str:
    if not data:
        return ""
    rows = [
        f"| {source['source']} | {source['language']} | {source['lines']:,} | {source['characters']:,} |"
        f" {source['tokens']:,} | {source['weight']:g} |"
        for source in data
    ]
    return "\n".join(
        [
            "| source | language | lines | characters | tokens | weight |",
            "|---|---|---|---|---|---|",
            *rows,
        ]
    )


def _scores(scores: Mapping[str, Any]) -> str:
    if not scores:
        return "None yet: `python -m training evaluate`, then `python -m training card --scores evaluation.json`."
    rows = [
        f"| {language} | {metric} | {figure['value']:.4g} | {figure['interval'][0]:.4g} – {figure['interval'][1]:.4g} |"
        f" {figure['n']:,} |"
        for language, figures in scores.items()
        for metric, figure in figures.items()
    ]
    return "\n".join(
        ["| language | figure | value | 95 % interval | n |", "|---|---|---|---|---|", *rows]
    )


def _cost(cost: Mapping[str, float]) -> str:
    if not cost:
        return ""
    costs = [f"{label} {100 * cost[key]:+.3f}{unit}" for key, label, unit in _COSTS if key in cost]
    return f"What int8 costs against fp32 on {cost['tokens']:,.0f} held-out tokens: {', '.join(costs)}."


_COSTS = (
    ("perplexity", "perplexity", " %"),
    ("top3", "top-3 accuracy lost", " points"),
    ("gap_perplexity", "perplexity of gaps", " %"),
)


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ExportError(f"{path} cannot be read: {error}; name a UTF-8 text file") from error
