"""Export a trained state as a checkpoint: `python -m training export RUN --output DIR`.

    1  read       the runs behind the weights, the weights, the prepared data
    2  build      int8 graphs, and fp32 ones on request (training/onnx_graphs.py)
    3  gate       int8 against torch in fp32 on held-out text; a high cost ends the export
    4  calibrate  the temperature of the next head for each language, on the int8 graphs
    5  write      the checkpoint directory, with word-end probabilities and a model card

Temperatures of blanks come later, from `python -m training calibrate`; scores from `card`.
"""

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.numpy import save

from model.checkpoint import (
    CARD,
    TOKENIZER,
    WEIGHTS,
    WORD_END_PROBS,
    Checkpoint,
    CheckpointConfig,
    check_target,
    word_end_probs_file,
    write_checkpoint,
)
from model.config import Calibration, NetworkConfig
from model.errors import ExportError
from model.network import Network
from model.onnx_runtime import GRAPHS, OnnxRuntime
from model.tokenizer import Tokenizer
from model.torch_runtime import TorchRuntime
from training.config import RunConfig, options_from_dict
from training.data.shards import Prepared, Shard, open_prepared, weigh
from training.evaluation.calibrate import fit_next_temperature
from training.evaluation.model_card import model_card
from training.evaluation.quantisation import (
    LINES_AT_ONCE,
    check_cost,
    held_out_lines,
    measure,
    score_next,
    take,
)
from training.onnx_graphs import build_graphs
from training.options import argument, option
from training.run_state import StateInfo, describe_base, load_weights, read_state, saved_state
from training.word_end_probs import word_end_probs

TEMPERATURE_TOKENS = 6_000  # for each language

Weights = Mapping[str, npt.NDArray[np.float32]]
Stage = tuple[RunConfig, StateInfo]  # a run that went into the weights


@dataclass(frozen=True, slots=True)
class ExportOptions:
    """Options of the command; the last two are for callers.

    Attributes:
        gate: refuse if int8 costs too much. Comparisons measure the int8 graphs anyway.
        base: the checkpoint that an adaptation started from. Its languages, word-end probabilities
            and temperatures that are not fitted here stay: a small text says little about them.
    """

    source: Path = argument("run directory, or a state directory in one", metavar="RUN")
    output: Path = option("checkpoint directory to write", metavar="DIR")
    name: str = option("of the checkpoint (default: the run's)", "")
    version: str = option("of the checkpoint", "1")
    fp32: bool = option("write fp32 graphs and weights, too", False)
    prepared: Path | None = option("prepared data (default: the run's)", None, metavar="DIR")
    overwrite: bool = option("replace an existing checkpoint", False)
    gate: bool = True
    base: Checkpoint | None = None


def run(options: ExportOptions) -> int:
    """Run the command; 0 on success."""
    checkpoint = export(options)
    files = [path for path in checkpoint.directory.rglob("*") if path.is_file()]
    megabytes = sum(path.stat().st_size for path in files) / 1e6
    cost = checkpoint.training["quantisation_cost"]
    sys.stdout.write(f"{checkpoint.directory}\n")
    sys.stderr.write(
        f"{checkpoint.name} {checkpoint.version}, {megabytes:.1f} MB, digest"
        f" {checkpoint.digest[:12]}; int8 costs {100 * cost['perplexity']:.3f} % perplexity,"
        f" {100 * cost['top3']:.3f} points of top-3\n"
    )
    return 0


def export(options: ExportOptions) -> Checkpoint:
    """Export a trained state.

    Raises:
        ExportError: there is too little held-out text, or the int8 graphs cost too much.
        CheckpointError: the output exists, or the name or version is not valid.
        RunError, PreparedDataError, TokenizerError: the run or its data cannot be read.
    """
    state = options.source
    if not (state / "state.json").is_file():
        state = saved_state(state)
    stages = read_stages(state)
    config, sizes = stages[0][0], stages[0][0].network
    if sizes is None:
        raise ExportError(f"{state}: the run has no [network]; only recurrent networks are served")
    name, base = options.name or config.name, options.base
    check_target(options.output, name, options.version, options.overwrite)
    prepared = open_prepared(options.prepared or Path(config.data.prepared))
    tokenizer = _tokenizer(state, prepared, sizes)
    network = Network(sizes)
    load_weights(state, network)
    weights = {name: value.numpy() for name, value in network.state_dict().items()}

    int8 = build_graphs(sizes, weights, "int8")
    files = {f"{GRAPHS['int8']}/{file}": data for file, data in int8.items()}
    if options.fp32:
        fp32 = build_graphs(sizes, weights, "fp32")
        files |= {f"{GRAPHS['fp32']}/{file}": data for file, data in fp32.items()}
    cost, temperatures = _measure(network, sizes, int8, prepared, gate=options.gate)

    sources = weigh(prepared.sources, config.sources, config.data.weights)
    files[TOKENIZER] = tokenizer.model_proto
    files[WEIGHTS] = _weights_file(weights, np.float32 if options.fp32 else np.float16)
    if base is None:
        files[WORD_END_PROBS] = word_end_probs_file(word_end_probs(sources, tokenizer))
    else:
        files[WORD_END_PROBS] = (base.directory / WORD_END_PROBS).read_bytes()
    calibration = base.calibration if base else Calibration()
    next_temperature = calibration.next_temperature | temperatures
    described = CheckpointConfig(
        name=name,
        version=options.version,
        network=sizes,
        calibration=replace(calibration, next_temperature=next_temperature),
        languages=tuple(base.languages if base else _languages(sources)),
        scores={},
        training=_provenance(stages, prepared, cost, base),
    )
    parameters = sum(value.size for value in weights.values())
    files[CARD] = model_card(described, parameters).encode()
    return write_checkpoint(options.output, described, files, overwrite=options.overwrite)


def read_stages(state: Path) -> list[Stage]:
    """Read the run of a state directory, then the runs that it started from, if they still exist.

    Raises:
        RunError: a state.json is damaged.
    """
    stages: list[Stage] = []
    seen: set[Path] = set()
    while (state / "state.json").is_file() and state.resolve() not in seen:
        seen.add(state.resolve())
        info = read_state(state)
        config = options_from_dict(RunConfig, info.config, str(state / "state.json"))
        stages.append((config, info))
        if not config.start_from:
            break
        state = Path(config.start_from)
    return stages


def _tokenizer(state: Path, prepared: Prepared, sizes: NetworkConfig) -> Tokenizer:
    """Return the tokenizer of the data; check that it is the one of the run."""
    tokenizer, kept = prepared.tokenizer, state.parent / TOKENIZER
    # A copy of a state directory has no tokenizer next to it
    same = not kept.is_file() or Tokenizer.load(kept).digest == tokenizer.digest
    if not same or tokenizer.size != sizes.vocabulary_size:
        raise ExportError(
            f"{prepared.directory} has another tokenizer than the run, {tokenizer.size} tokens for"
            f" a network of {sizes.vocabulary_size}; name the data of the run with --prepared"
        )
    return tokenizer


def _measure(
    network: Network,
    sizes: NetworkConfig,
    graphs: Mapping[str, bytes],
    prepared: Prepared,
    *,
    gate: bool,
) -> tuple[dict[str, float], dict[str, float]]:
    """Return the cost of int8, and the temperature of the next head for each language."""
    by_language = held_out_lines(prepared.held_out)
    lines = [line for each in by_language.values() for line in each]
    if not lines:
        raise ExportError(
            f"{prepared.directory}: no held-out text; prepare with --held-out-share above 0"
        )
    reference = TorchRuntime(network, torch.device("cpu"), block_rows=LINES_AT_ONCE)
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory) / GRAPHS["int8"]
        folder.mkdir()
        for file, data in graphs.items():
            (folder / file).write_bytes(data)
        int8 = OnnxRuntime(Path(directory), sizes)
        cost = check_cost(measure(reference, lines), measure(int8, lines), gate=gate)
        if sizes.architecture == "stacked_bidirectional":
            return cost, {}
        return cost, {
            language: fit_next_temperature(score_next(int8, take(each, TEMPERATURE_TOKENS)))
            for language, each in by_language.items()
        }


def _weights_file(weights: Weights, dtype: type[np.floating[Any]]) -> bytes:
    for name, value in weights.items():
        if np.abs(value).max(initial=0) > np.finfo(dtype).max:
            raise ExportError(f"weights: float16 cannot hold values of {name}; export with --fp32")
    return bytes(save({name: value.astype(dtype) for name, value in weights.items()}))


def _languages(sources: Sequence[Shard]) -> tuple[str, ...]:
    """Return the languages of the training text, most tokens first."""
    totals: dict[str, float] = {}
    for shard in sources:
        totals[shard.language] = totals.get(shard.language, 0) + shard.weight * len(shard.ids)
    return tuple(sorted(totals, key=lambda language: -totals[language]))


def _provenance(
    stages: Sequence[Stage], prepared: Prepared, cost: Mapping[str, float], base: Checkpoint | None
) -> dict[str, Any]:
    """Return the history of the weights, for config.json and the card."""
    config, info = stages[0]
    provenance: dict[str, Any] = {
        "date": datetime.now(UTC).date().isoformat(),
        "git_commit": _git_commit(),
        "data_sha256": info.data_sha256,
        "tokens_seen": sum(info.progress.tokens for _, info in stages),
        "seed": config.seed,
        "quantisation_cost": dict(cost),
        "stages": [_describe_stage(*stage) for stage in reversed(stages)],
        "data": [
            {
                "source": shard.name,
                "language": shard.language,
                "lines": shard.lines,
                "characters": shard.characters,
                "tokens": len(shard.ids),
                "weight": shard.weight,
            }
            for shard in prepared.sources
            if any(not run.sources or shard.name in run.sources for run, _ in stages)
        ],
    }
    start = describe_base(base) if base else stages[-1][1].base
    if start is None:
        return provenance
    # The history of a checkpoint that the first stage began with comes first
    before = start["training"]
    again = {source["source"] for source in provenance["data"]}
    old = [source for source in before.get("data", []) if source["source"] not in again]
    return provenance | {
        "adapted_from": {key: start[key] for key in ("name", "version", "digest")},
        "tokens_seen": before.get("tokens_seen", 0) + provenance["tokens_seen"],
        "stages": [*before.get("stages", []), *provenance["stages"]],
        "data": [*old, *provenance["data"]],
    }


def _describe_stage(run: RunConfig, info: StateInfo) -> dict[str, Any]:
    progress = info.progress
    return {
        "run": run.name,
        "steps": progress.step,
        "tokens": progress.tokens,
        "cpu_hours": round(progress.seconds * run.threads / 3600, 2),
        "wall_hours": round(progress.wall_seconds / 3600, 2),
        "device": run.device,
        "sources": list(run.sources),
        "weights": dict(run.data.weights),
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
