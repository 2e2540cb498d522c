"""Export a trained state as a checkpoint: `python -m training export RUN --output DIR`.

    1  read       the runs behind the weights, the weights, the prepared data
    2  build      int8 graphs (model/onnx_graphs.py)
    3  gate       int8 against torch in fp32 on held-out text; a high cost ends the export
    4  write      the checkpoint directory, with word ends, known words and a model card

Weights and temperatures come later, from `python -m training calibrate`; scores from `card`.
"""

import math
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from model.checkpoint import (
    CARD,
    COUNTS,
    TOKENIZER,
    WORD_END_PROBS,
    WORDS,
    Checkpoint,
    CheckpointConfig,
    check_target,
    word_end_probs_file,
    write_checkpoint,
)
from model.config import Calibration, NetworkConfig
from model.errors import ExportError
from model.network import Network
from model.onnx_graphs import build_graphs
from model.onnx_runtime import OnnxRuntime
from model.runtime import Float32Array
from model.tokenizer import Tokenizer
from model.torch_runtime import TorchRuntime
from training.cached_json import check_writable
from training.config import RunConfig, options_from_dict
from training.data.shards import Prepared, languages_of, open_prepared, weigh_sources
from training.evaluation.model_card import model_card, notes_of
from training.evaluation.quantisation import (
    LINES_AT_ONCE,
    Measurement,
    check_cost,
    held_out_lines,
    measure,
)
from training.options import argument, option
from training.recorded_data import find_data
from training.run_state import BEST, StateInfo, load_weights, read_state, saved_state
from training.word_end_probs import word_end_probs

MIN_TOKENS = 1_000  # of held-out text of a language; less is worth a warning
TRAIN_LOWER = "train again with a lower learning rate"


@dataclass(frozen=True, slots=True)
class ExportOptions:
    """Options of the command; the last two are for callers."""

    source: Path = argument("run directory (its best state, if kept), or a state", metavar="RUN")
    output: Path = option("checkpoint directory to write", metavar="DIR")
    name: str = option("name of the checkpoint (default: the run's)", "")
    version: str = option("version of the checkpoint", "1")
    prepared: Path | None = option("prepared data (default: the run's)", None, metavar="DIR")
    overwrite: bool = option("replace an existing checkpoint", False)
    gate: bool = True  # refuse if int8 costs too much; comparisons measure the graphs anyway
    # The checkpoint that an adaptation started from. All but its network stays: a small text says
    # little about languages, word ends and temperatures.
    base: Checkpoint | None = None


def run(options: ExportOptions) -> int:
    """Run the command; 0 on success."""
    checkpoint = export(options)
    cost = checkpoint.training["quantisation_cost"]
    sys.stdout.write(f"{checkpoint.directory}\n")
    sys.stderr.write(
        f"{checkpoint.name} {checkpoint.version}, digest {checkpoint.digest[:12]}; int8 costs"
        f" {100 * cost['perplexity']:.3f} % perplexity, {100 * cost['top3']:.3f} points of top-3\n"
    )
    return 0


def export(options: ExportOptions) -> Checkpoint:
    """Export a trained state.

    Raises:
        ExportError: held-out text is missing, the data are others, the run has diverged, or the
            int8 graphs cost too much.
        CheckpointError: the output exists, or the name or version is not valid.
        RunError, PreparedDataError, TokenizerError: the run or its data cannot be read.
    """
    state = options.source
    if not (state / "state.json").is_file():
        state = state / BEST if (state / BEST / "state.json").is_file() else saved_state(state)
    config, info = _read_run(state)
    sizes, base = config.network, options.base
    if sizes is None:
        raise ExportError(f"{state}: the run has no [network]; only recurrent networks are served")
    name = options.name or config.name
    check_target(options.output, name, options.version, options.overwrite)
    check_writable(options.output)  # before the work
    prepared = open_prepared(options.prepared or find_data(config, state.parent, info))
    tokenizer = _tokenizer(state, prepared, sizes, info)
    network = Network(sizes)
    load_weights(state, network)
    weights = {name: value.numpy() for name, value in network.state_dict().items()}
    _check_finite(state, weights)

    files = build_graphs(sizes, weights)
    cost = _measure(network, sizes, files, prepared, gate=options.gate)
    files[TOKENIZER] = tokenizer.model_proto
    sources = weigh_sources(prepared.sources, config.data.source_weights)
    if base is None:
        files[WORD_END_PROBS] = word_end_probs_file(word_end_probs(sources, tokenizer))
        files[WORDS] = prepared.words
    else:
        kept = [path for path in base.sums if path.startswith(COUNTS)]
        for path in (WORDS, WORD_END_PROBS, *kept):
            files[path] = (base.directory / path).read_bytes()
    described = CheckpointConfig(
        name=name,
        version=options.version,
        network=sizes,
        counts=base.config.counts if base else (),
        calibration=base.calibration if base else Calibration(),
        languages=base.languages if base else languages_of(sources),
        scores={},
        training={
            **_history(state, prepared),
            "git_commit": _git_commit(),
            "quantisation_cost": cost,
        },
    )
    notes = notes_of(base.directory / CARD) if base else ""
    files[CARD] = model_card(described, notes).encode()
    return write_checkpoint(options.output, described, files, overwrite=options.overwrite)


def _read_run(state: Path) -> tuple[RunConfig, StateInfo]:
    info = read_state(state)
    return options_from_dict(RunConfig, info.config, str(state / "state.json")), info


def _tokenizer(state: Path, prepared: Prepared, sizes: NetworkConfig, info: StateInfo) -> Tokenizer:
    """Return the tokenizer of the data; check that both are those of the run."""
    tokenizer, kept = prepared.tokenizer, state.parent / TOKENIZER
    # A copy of a state directory has no tokenizer next to it
    same = not kept.is_file() or Tokenizer.load(kept).digest == tokenizer.digest
    if not same or tokenizer.size != sizes.vocabulary_size:
        raise ExportError(
            f"{prepared.directory} has another tokenizer than the run, {tokenizer.size} tokens for"
            f" a network of {sizes.vocabulary_size}; name the data of the run with --prepared"
        )
    if prepared.sha256 != info.data_sha256:
        raise ExportError(
            f"{prepared.directory} has data {prepared.sha256[:12]}, {state} was trained on"
            f" {info.data_sha256[:12]}; name those with --prepared"
        )
    return tokenizer


def _measure(
    network: Network,
    sizes: NetworkConfig,
    files: Mapping[str, bytes],
    prepared: Prepared,
    *,
    gate: bool,
) -> dict[str, float]:
    """Return the cost of int8."""
    by_language = held_out_lines(prepared.held_out)
    lines = [line for each in by_language.values() for line in each]
    if not lines:
        raise ExportError(
            f"{prepared.directory}: no held-out text; prepare with --held-out-share above 0"
        )
    for language, own in by_language.items():
        if (tokens := sum(map(len, own))) < MIN_TOKENS:
            sys.stderr.write(
                f"warning: {tokens} held-out tokens of {language}: too few to measure int8"
                f" ({MIN_TOKENS} are enough); prepare more text\n"
            )
    reference = TorchRuntime(network, torch.device("cpu"), block_rows=LINES_AT_ONCE)
    with tempfile.TemporaryDirectory() as directory:
        for file, data in files.items():
            (Path(directory) / file).parent.mkdir(exist_ok=True)
            (Path(directory) / file).write_bytes(data)
        int8 = OnnxRuntime(Path(directory), sizes)
        exact = measure(reference, lines)
        _check_converged(exact, sizes.vocabulary_size)
        return check_cost(exact, measure(int8, lines), gate=gate)


def _check_finite(state: Path, weights: Mapping[str, Float32Array]) -> None:
    for name, value in weights.items():
        if not np.isfinite(value).all():
            raise ExportError(f"{state}: {name} is not finite: the run diverged; {TRAIN_LOWER}")


def _check_converged(measured: Measurement, vocabulary_size: int) -> None:
    """Raise ExportError if the network is far worse than a uniform guess."""
    uniform = math.log(vocabulary_size)
    for name, nats in measured.items():
        if name != "top3" and not nats.mean() < 2 * uniform:
            raise ExportError(
                f"the run diverged: {nats.mean():.4g} nats per held-out token, where a uniform"
                f" guess has {uniform:.4g}; {TRAIN_LOWER}"
            )


def _history(
    state: Path, prepared: Prepared, after: frozenset[Path] = frozenset()
) -> dict[str, Any]:
    """Return the history of the weights, for config.json: that of their start, then this run.

    The start is another run, if it still exists and is not one of the runs *after* this one, or a
    checkpoint, whose history the state keeps.
    """
    run, info = _read_run(state)
    start, after = Path(run.start_from).resolve(), after | {state.resolve()}
    before: dict[str, Any] = {}
    if base := info.base:
        origin = {key: base[key] for key in ("name", "version", "digest")}
        before = {**base["training"], "adapted_from": origin}
        before.pop("date", None)  # no clock, so that a resumed run exports the same bytes
    elif run.start_from and start not in after and (start / "state.json").is_file():
        before = _history(start, prepared, after)
    progress = info.progress
    stage = {
        "run": run.name,
        "steps": progress.step,
        "tokens": progress.tokens,
        "device": run.device,
        "weights": dict(run.data.source_weights),
    }
    sources = {
        shard.name: {
            "source": shard.name,
            "language": shard.language,
            "lines": shard.lines,
            "characters": shard.characters,
            "tokens": len(shard.ids),
            "weight": shard.weight,
        }
        for shard in prepared.sources
    }
    old = [each for each in before.get("data", []) if each["source"] not in sources]
    return before | {
        "data_sha256": info.data_sha256,
        "seed": run.seed,
        "tokens_seen": before.get("tokens_seen", 0) + progress.tokens,
        "stages": [*before.get("stages", []), stage],
        "data": [*old, *sources.values()],
    }


def _git_commit() -> str:
    """Return this program's commit, with ``-dirty`` if files differ; empty outside a repository."""
    git = shutil.which("git")
    if git is None:
        return ""
    command = [git, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    result = subprocess.run(  # noqa: S603 - fixed arguments
        command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False
    )
    return result.stdout.strip()
