"""Export a trained state as a checkpoint: `python -m training export RUN --output DIR`.

    1  read       the runs behind the weights, the weights, the tokenizer, held-out text
    2  build      int8 graphs, and fp32 ones on request (training/onnx_graphs.py)
    3  gate       int8 against torch in fp32 on held-out text; too high a cost ends the export
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
    check_target,
    word_end_probs_file,
    write_checkpoint,
)
from model.config import Calibration, NetworkConfig
from model.errors import ExportError, PreparedDataError
from model.network import Network
from model.onnx_runtime import GRAPHS, OnnxRuntime
from model.tokenizer import Tokenizer
from model.torch_runtime import TorchRuntime
from training.config import RunConfig, options_from_dict
from training.data.shards import Prepared, open_prepared, weigh
from training.evaluation.calibrate import fit_next_temperature
from training.evaluation.model_card import model_card
from training.evaluation.quantisation import (
    LINES_AT_ONCE,
    Lines,
    check_cost,
    development_lines,
    held_out_lines,
    measure,
    score_next,
    take,
)
from training.onnx_graphs import build_graphs
from training.options import argument, option
from training.run_state import (
    Progress,
    describe_base,
    load_weights,
    read_state,
    saved_state,
)
from training.word_ends import count_word_ends

TEMPERATURE_TOKENS = 6_000  # for each language


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
    languages: tuple[str, ...] = option("codes (default: of the data)", (), metavar="CODE")
    prepared: Path | None = option("prepared data (default: the run's)", None, metavar="DIR")
    development: tuple[str, ...] = option(
        "files or folders to measure on, in place of held-out lines", (), metavar="TEXT"
    )
    overwrite: bool = option("replace an existing checkpoint", False)
    gate: bool = True
    base: Checkpoint | None = None


@dataclass(frozen=True, slots=True)
class Stage:
    """A run that went into the weights.

    Attributes:
        run: its configuration.
        progress: its counters.
        data_sha256: of the prepared data that it read.
        base: the checkpoint that it began with, by :func:`training.run_state.describe_base`.
    """

    run: RunConfig
    progress: Progress
    data_sha256: str
    base: Mapping[str, Any] | None


@dataclass(frozen=True, slots=True)
class Trained:
    """A trained state.

    Attributes:
        stages: the run of the state, then those that it started from.
        sizes: of the network.
        network: in torch, fp32.
        weights: of the network, by name.
        tokenizer: of the run.
        prepared: the data of the run; None if they are gone.
        lines: held-out or development text.
    """

    stages: Sequence[Stage]
    sizes: NetworkConfig
    network: Network
    weights: Mapping[str, npt.NDArray[np.float32]]
    tokenizer: Tokenizer
    prepared: Prepared | None
    lines: Lines

    def as_read(self, prepared: Prepared) -> Prepared:
        """Return prepared data with the sources and weights of the last run."""
        run = self.stages[0].run
        sources = weigh(prepared.sources, run.sources, run.data.weights)
        return replace(prepared, sources=tuple(sources))


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
        ExportError: there is no held-out text, or the int8 graphs cost too much.
        CheckpointError: the output exists, or the name or version is not valid.
        RunError, PreparedDataError, CorpusError, TokenizerError: the run, its data or the
            development text cannot be read.
    """
    state = options.source
    if not (state / "state.json").is_file():
        state = saved_state(state)
    stages = read_stages(state)
    name = options.name or stages[0].run.name
    check_target(options.output, name, options.version, options.overwrite)
    trained = _read(state, stages, options)

    int8 = build_graphs(trained.sizes, trained.weights, "int8")
    files = {f"{GRAPHS['int8']}/{file}": data for file, data in int8.items()}
    if options.fp32:
        fp32 = build_graphs(trained.sizes, trained.weights, "fp32")
        files |= {f"{GRAPHS['fp32']}/{file}": data for file, data in fp32.items()}
    cost, temperatures = _measure(trained, int8, gate=options.gate)

    files[TOKENIZER] = trained.tokenizer.to_bytes()
    files[WEIGHTS] = _weights_file(trained.weights, np.float32 if options.fp32 else np.float16)
    files[WORD_END_PROBS] = _word_ends(trained, options.base)
    languages = options.languages or _languages(trained, options.base)
    calibration = options.base.calibration if options.base else Calibration()
    if not options.base:
        temperatures = {key: value for key, value in temperatures.items() if key in languages}
    config: dict[str, Any] = {
        "name": name,
        "version": options.version,
        "network": trained.sizes,
        "calibration": replace(
            calibration, next_temperature=calibration.next_temperature | temperatures
        ),
        "languages": languages,
        "scores": {},
        "training": _provenance(trained, cost, options.base),
    }
    parameters = sum(value.size for value in trained.weights.values())
    files[CARD] = model_card(parameters=parameters, **config).encode()
    return write_checkpoint(options.output, **config, files=files, overwrite=options.overwrite)


def read_stages(state: Path) -> list[Stage]:
    """Read the run of a state directory, then the runs that it started from, if they still exist.

    Raises:
        RunError: a state.json is torn.
    """
    stages: list[Stage] = []
    seen: set[Path] = set()
    while (state / "state.json").is_file() and state.resolve() not in seen:
        seen.add(state.resolve())
        info = read_state(state)
        config = options_from_dict(RunConfig, info.config, str(state / "state.json"))
        stages.append(Stage(config, info.progress, info.data_sha256, info.base))
        if not config.start_from:
            break
        state = Path(config.start_from)
    return stages


def _read(state: Path, stages: Sequence[Stage], options: ExportOptions) -> Trained:
    config = stages[0].run
    if config.network is None:
        raise ExportError(f"{state}: the run has no [network]; only recurrent networks are served")
    prepared = _open_prepared(options, config)
    tokenizer = _tokenizer(state, prepared)
    if tokenizer.size != config.network.vocabulary_size:
        raise ExportError(
            f"{state}: the network has {config.network.vocabulary_size} tokens, the tokenizer"
            f" {tokenizer.size}; name the data that it was trained on with --prepared"
        )
    lines = (
        development_lines(options.development, tokenizer)
        if options.development
        else held_out_lines(prepared.held_out if prepared else ())
    )
    if not any(lines.values()):
        raise ExportError(
            f"{config.data.prepared}: no held-out text; prepare with --held-out-share above 0, or"
            " name some with --development"
        )
    network = Network(config.network)
    load_weights(state, network)
    weights = {name: value.numpy() for name, value in network.state_dict().items()}
    return Trained(stages, config.network, network, weights, tokenizer, prepared, lines)


def _open_prepared(options: ExportOptions, config: RunConfig) -> Prepared | None:
    """Open the data of the run; return None if they are gone and --development replaces them."""
    try:
        return open_prepared(options.prepared or Path(config.data.prepared))
    except PreparedDataError:
        if options.development and options.prepared is None:
            return None
        raise


def _tokenizer(state: Path, prepared: Prepared | None) -> Tokenizer:
    path = state.parent / TOKENIZER
    if prepared is not None and not path.is_file():  # a copy of a state directory
        return prepared.tokenizer
    tokenizer = Tokenizer.load(path)
    if prepared is not None and prepared.tokenizer.digest != tokenizer.digest:
        raise ExportError(
            f"{prepared.directory} has another tokenizer than {path}; name the data of the run with"
            " --prepared"
        )
    return tokenizer


def _measure(
    trained: Trained, graphs: Mapping[str, bytes], *, gate: bool
) -> tuple[dict[str, float], dict[str, float]]:
    """Return the cost of int8, and the temperature of the next head for each language."""
    lines = [line for each in trained.lines.values() for line in each]
    reference = TorchRuntime(trained.network, torch.device("cpu"), block_rows=LINES_AT_ONCE)
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory) / GRAPHS["int8"]
        folder.mkdir()
        for file, data in graphs.items():
            (folder / file).write_bytes(data)
        int8 = OnnxRuntime(Path(directory), trained.sizes)
        cost = check_cost(measure(reference, lines), measure(int8, lines), gate=gate)
        if trained.sizes.architecture == "stacked_bidirectional":
            return cost, {}
        return cost, {
            language: fit_next_temperature(score_next(int8, take(each, TEMPERATURE_TOKENS)))
            for language, each in trained.lines.items()
        }


def _weights_file(
    weights: Mapping[str, npt.NDArray[np.float32]], dtype: type[np.floating[Any]]
) -> bytes:
    for name, value in weights.items():
        if np.abs(value).max(initial=0) > np.finfo(dtype).max:
            raise ExportError(
                f"weights: {name} has values that float16 cannot hold; export with --fp32"
            )
    return bytes(save({name: value.astype(dtype) for name, value in weights.items()}))


def _languages(trained: Trained, base: Checkpoint | None) -> tuple[str, ...]:
    """Return the languages of a base, of the training text, most tokens first, or of the lines."""
    if base:
        return base.languages
    if trained.prepared is None:
        return tuple(trained.lines)
    totals: dict[str, float] = {}
    for shard in trained.as_read(trained.prepared).sources:
        totals[shard.language] = totals.get(shard.language, 0) + shard.weight * len(shard.ids)
    return tuple(sorted(totals, key=lambda language: -totals[language]))


def _word_ends(trained: Trained, base: Checkpoint | None) -> bytes:
    """Return the file of a base, or shares counted in the training text; zeros if it is gone."""
    if base:
        return (base.directory / WORD_END_PROBS).read_bytes()
    if trained.prepared is None:
        return word_end_probs_file(np.zeros(trained.tokenizer.size, dtype=np.float32))
    return word_end_probs_file(
        count_word_ends(trained.as_read(trained.prepared), trained.tokenizer)
    )


def _provenance(
    trained: Trained, cost: Mapping[str, float], base: Checkpoint | None
) -> dict[str, Any]:
    """Return the history of the weights, for config.json and the card."""
    stages = trained.stages
    provenance: dict[str, Any] = {
        "date": datetime.now(UTC).date().isoformat(),
        "git_commit": _git_commit(),
        "data_sha256": stages[0].data_sha256,
        "tokens_seen": sum(stage.progress.tokens for stage in stages),
        "seed": stages[0].run.seed,
        "quantisation_cost": dict(cost),
        "stages": [_describe_stage(stage) for stage in reversed(stages)],
        "data": _describe_data(trained),
    }
    start = describe_base(base) if base else stages[-1].base
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


def _describe_stage(stage: Stage) -> dict[str, Any]:
    run, progress = stage.run, stage.progress
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


def _describe_data(trained: Trained) -> list[dict[str, Any]]:
    """Describe every source that a stage read."""
    read = [stage.run.sources for stage in trained.stages]
    return [
        {
            "source": shard.name,
            "language": shard.language,
            "lines": shard.lines,
            "characters": shard.characters,
            "tokens": len(shard.ids),
            "weight": shard.weight,
        }
        for shard in (trained.prepared.sources if trained.prepared else ())
        if any(not sources or shard.name in sources for sources in read)
    ]


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
