"""``python -m training export RUN --output DIR``: a trained state in, a checkpoint that the service serves out.

    1  read       weights, configuration and counters of the run; the vocabulary; held-out text
    2  build      int8 graphs, and fp32 ones if asked for (training/onnx_graphs.py)
    3  gate       int8 against torch in fp32 on the held-out text: costs too much, and nothing is written
    4  calibrate  a temperature for the next head in each language, on the int8 graphs
    5  write      the checkpoint directory (model/checkpoint.py): how often words end (training/word_end_probs.py); sums

The cloze temperatures need decoding and come afterwards: ``python -m training calibrate``. Scores likewise: ``python -m
training card``.
"""

import argparse
import logging
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from model.checkpoint import (
    CARD,
    TOKENIZER,
    WEIGHTS,
    WORD_END_PROBS,
    Checkpoint,
    check_target,
    is_checkpoint,
    load_checkpoint,
    word_end_probs_file,
    write_checkpoint,
)
from model.config import TOKEN, Calibration, NetworkConfig
from model.errors import ExportError, PreparedDataError
from model.network import Network
from model.runtime import (
    GRAPHS,
    Float32Array,
    Integers,
    OnnxRuntime,
    Precision,
    Runtime,
    Tower,
    initial_states,
)
from model.tokenizer import BLANK, END, START, Tokenizer
from model.torch_runtime import TorchRuntime
from training.config import RunConfig, run_from_dict
from training.data.shards import Prepared, open_prepared, weigh
from training.evaluation.calibrate import fit_next_temperature
from training.evaluation.model_card import model_card
from training.evaluation.test_items import read_files
from training.onnx_graphs import build_graphs
from training.run_state import Progress, describe_base, read_base, read_progress
from training.word_ends import count_word_ends

log = logging.getLogger(__name__)

# What int8 may cost, against fp32 on the same text.
PERPLEXITY_LIMIT = 0.01  # relative
TOP3_LIMIT = 0.002  # share of tokens
# A cost counts if it is above its limit and if chance alone would rarely make it differ from nothing.
STANDARD_ERRORS = 1.96
# Held-out tokens for the gate; and, in each language, for a temperature.
GATE_TOKENS = 20_000
TEMPERATURE_TOKENS = 6_000
LINE_TOKENS = 64
LINES_AT_ONCE = 64
MASK_EVERY = 8
ROWS_AT_ONCE = 128


@dataclass(frozen=True, slots=True)
class ExportOptions:
    """What to export and where to.

    Attributes:
        source: a run directory, or the state directory in it.
        output: checkpoint directory to write.
        name: of the checkpoint; empty for the run's.
        version: of the checkpoint.
        fp32: write fp32 graphs too, and the weights in fp32 instead of fp16.
        languages: codes; empty for those of the prepared data.
        prepared: the prepared data; None for the run's own.
        development: text for gate and calibration instead of the prepared data's held-out text.
        overwrite: replace *output*.
        gate: refuse where int8 costs too much. A comparison, which asks the int8 graphs themselves, needs no gate.
        base: the checkpoint that the run started from. Languages, how often words end, and what is not fitted here
            stay its own: a small text to adapt to says little of them.
    """

    source: Path
    output: Path
    name: str = ""
    version: str = "1"
    fp32: bool = False
    languages: tuple[str, ...] = ()
    prepared: Path | None = None
    development: tuple[str, ...] = ()
    overwrite: bool = False
    gate: bool = True
    base: Checkpoint | None = None


@dataclass(frozen=True, slots=True)
class Stage:
    """A run that went into the weights: the exported one, or one that it started from.

    Attributes:
        run: its configuration.
        progress: its counters.
        data_sha256: of the prepared data that it was trained on; empty where its state is too old to know.
        base: the checkpoint that it began with, as `training.run_state.describe_base` has it; None where it began with
            none, or its state is too old to know.
    """

    run: RunConfig
    progress: Progress
    data_sha256: str
    base: Mapping[str, Any] | None


@dataclass(frozen=True, slots=True)
class Line:
    """A held-out line: its language and at most ``LINE_TOKENS`` tokens, int64."""

    language: str
    tokens: Integers


@dataclass(frozen=True, slots=True)
class Measurement:
    """What a runtime makes of held-out lines; the same rows in the same order for every runtime.

    Attributes:
        nats: minus log-probability of each token after what stands before it, float64.
        top3: whether it is among the three most probable.
        gap_nats: minus log-probability of each token between its two sides; empty for one tower.
    """

    nats: npt.NDArray[np.float64]
    top3: npt.NDArray[np.bool_]
    gap_nats: npt.NDArray[np.float64]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "source", type=Path, metavar="RUN", help="run directory, or a state directory in one"
    )
    parser.add_argument(
        "--output", type=Path, required=True, metavar="DIR", help="checkpoint directory to write"
    )
    parser.add_argument("--name", default="", help="of the checkpoint (default: the run's)")
    parser.add_argument("--version", default="1", help="of the checkpoint (default: 1)")
    parser.add_argument(
        "--fp32", action="store_true", help="fp32 graphs beside the int8 ones, and fp32 weights"
    )
    parser.add_argument(
        "--languages", nargs="+", default=[], metavar="CODE", help="default: of the prepared data"
    )
    parser.add_argument(
        "--prepared", type=Path, metavar="DIR", help="prepared data (default: the run's)"
    )
    parser.add_argument(
        "--development",
        nargs="+",
        default=[],
        metavar="TEXT",
        help="files or folders in place of held-out lines",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an existing checkpoint")


def run(arguments: argparse.Namespace) -> int:
    """Run the command; 0 on success."""
    options = ExportOptions(
        source=arguments.source,
        output=arguments.output,
        name=arguments.name,
        version=arguments.version,
        fp32=arguments.fp32,
        languages=tuple(arguments.languages),
        prepared=arguments.prepared,
        development=tuple(arguments.development),
        overwrite=arguments.overwrite,
    )
    checkpoint = export(options)
    megabytes = (
        sum(path.stat().st_size for path in checkpoint.directory.rglob("*") if path.is_file()) / 1e6
    )
    sys.stdout.write(f"{checkpoint.directory}\n")
    cost = checkpoint.training["quantisation_cost"]
    sys.stderr.write(
        f"{checkpoint.name} {checkpoint.version}, {megabytes:.1f} MB, digest {checkpoint.digest[:12]}; int8 costs"
        f" {100 * cost['perplexity']:.3f} % perplexity, {100 * cost['top3']:.3f} points of top-3\n"
    )
    return 0


def export(options: ExportOptions) -> Checkpoint:
    """Export a trained state.

    Raises:
        ExportError: the state cannot be read, there is no held-out text, or the int8 graphs cost too much.
        CheckpointError: something stands at the output already, or the name cannot be one.
        RunError, PreparedDataError, CorpusError, TokenizerError: what run, data and development text raise.
    """
    state = find_state(options.source)
    stages = read_stages(state)
    config, weights = stages[0].run, _load_weights(state)
    network = config.network
    if network is None:
        raise ExportError(f"{state}: the run has no [network]; only recurrent networks are served")
    name = options.name or config.name
    check_target(options.output, name, options.version, options.overwrite)
    prepared = _open_prepared(options, config)
    tokenizer = _run_tokenizer(state, prepared)
    if tokenizer.size != network.vocabulary_size:
        raise ExportError(
            f"{state}: the network has {network.vocabulary_size} tokens, the vocabulary {tokenizer.size};"
            " name the data that it was trained on with --prepared"
        )
    lines = (
        development_lines(options.development, tokenizer)
        if options.development
        else held_out_lines(prepared)
    )
    if not lines:
        raise ExportError(
            f"{prepared.directory if prepared else state}: no held-out text; prepare with --held-out-share above 0 or"
            " name some with --development"
        )

    stacked = network.architecture == "stacked_bidirectional"
    graphs: dict[Precision, dict[str, bytes]] = {"int8": build_graphs(network, weights, "int8")}
    if options.fp32:
        graphs["fp32"] = build_graphs(network, weights, "fp32")
    files = {
        f"{GRAPHS[precision]}/{file}": data
        for precision, each in graphs.items()
        for file, data in each.items()
    }
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory) / GRAPHS["int8"]
        folder.mkdir()
        for file, data in graphs["int8"].items():
            (folder / file).write_bytes(data)
        quantised = OnnxRuntime(Path(directory), network)
        reference = TorchRuntime(
            _network(network, weights), torch.device("cpu"), block_rows=LINES_AT_ONCE
        )
        cost = check_cost(measure(reference, lines), measure(quantised, lines), gate=options.gate)
        temperatures = (
            {}
            if stacked
            else {
                language: fit_next_temperature(
                    score_lines(quantised, _limit(chosen, TEMPERATURE_TOKENS))
                )
                for language in sorted({line.language for line in lines})
                if (chosen := [line for line in lines if line.language == language])
            }
        )

    base = options.base
    languages = options.languages or (
        base.languages if base else _languages(prepared, config, lines)
    )
    if base is None:
        temperatures = {key: value for key, value in temperatures.items() if key in languages}
    calibration = base.calibration if base is not None else Calibration()
    calibration = replace(calibration, next_temperature=calibration.next_temperature | temperatures)
    training = _provenance(stages, prepared, cost)
    if (begun := describe_base(base) if base else _first_checkpoint(stages)) is not None:
        training = _continued(begun, training)
    files |= {TOKENIZER: tokenizer.to_bytes(), WEIGHTS: _weights_file(weights, options.fp32)}
    if base is not None:
        files[WORD_END_PROBS] = (base.directory / WORD_END_PROBS).read_bytes()
    elif prepared is not None:
        files[WORD_END_PROBS] = word_end_probs_file(
            count_word_ends(_as_read(prepared, config), tokenizer)
        )
    else:
        files[WORD_END_PROBS] = word_end_probs_file(np.zeros(tokenizer.size, dtype=np.float32))
    arguments: dict[str, Any] = {
        "name": name,
        "version": options.version,
        "network": network,
        "calibration": calibration,
        "languages": tuple(languages),
        "scores": {},
        "training": training,
    }
    card = model_card(parameters=sum(value.size for value in weights.values()), **arguments)
    return write_checkpoint(
        options.output,
        **arguments,
        files=files | {CARD: card.encode()},
        overwrite=options.overwrite,
    )


def find_state(source: Path) -> Path:
    """The state directory of a run directory, or *source* itself where it is one.

    Raises:
        ExportError: neither.
    """
    for directory in (source, source / "state", source / "state.old"):
        if (directory / "state.json").is_file():
            return directory
    raise ExportError(
        f"{source}: no state.json there nor in a state folder; name a run directory that has saved once"
    )


def read_stages(state: Path) -> list[Stage]:
    """The run of a state directory, then those that it started from, as far as they are still there.

    Raises:
        RunError: a state.json that is torn.
    """
    stages: list[Stage] = []
    seen: set[Path] = set()
    while (state / "state.json").is_file() and state.resolve() not in seen:
        seen.add(state.resolve())
        progress, values, data = read_progress(state)
        stages.append(
            Stage(
                run_from_dict(values, str(state / "state.json")), progress, data, read_base(state)
            )
        )
        if not stages[-1].run.start_from:
            break
        state = Path(stages[-1].run.start_from)
    return stages


def held_out_lines(
    prepared: Prepared | None, tokens: int = GATE_TOKENS, seed: int = 1
) -> list[Line]:
    """Lines of the held-out text, drawn at random, about as many tokens of each language.

    Args:
        prepared: prepared data; None gives no lines.
        tokens: in all, about.
        seed: of the draw.
    """
    shards = prepared.held_out if prepared else ()
    languages = sorted({shard.language for shard in shards})
    chosen: list[Line] = []
    for language in languages:
        own = [shard for shard in shards if shard.language == language]
        places = [(shard, number) for shard in own for number in range(shard.lines)]
        order = np.random.default_rng(seed).permutation(len(places))
        lines = (
            Line(
                language,
                shard.ids[shard.offsets[number] : shard.offsets[number + 1]][:LINE_TOKENS].astype(
                    np.int64
                ),
            )
            for shard, number in (places[place] for place in order)
        )
        chosen += _limit(lines, tokens // len(languages))
    return chosen


def development_lines(
    texts: Sequence[str], tokenizer: Tokenizer, tokens: int = GATE_TOKENS, seed: int = 1
) -> list[Line]:
    """Lines of text files, drawn at random, about as many tokens of each language; *tokens* in all.

    Raises:
        CorpusError: a file cannot be used.
    """
    files = read_files(list(texts), None, None, seed)
    languages = sorted({file.language for file in files})
    chosen: list[Line] = []
    for language in languages:
        text = [line for file in files if file.language == language for line in file.lines]
        order = np.random.default_rng(seed).permutation(len(text))
        lines = (
            Line(language, np.array(tokenizer.encode(text[place])[:LINE_TOKENS], dtype=np.int64))
            for place in order
        )
        chosen += _limit(lines, tokens // len(languages))
    return chosen


def measure(runtime: Runtime, lines: Sequence[Line]) -> Measurement:
    """Score every token of the lines with a runtime; of a stacked network a few under masks."""
    stacked = runtime.config.architecture == "stacked_bidirectional"
    nats: list[npt.NDArray[np.float64]] = []
    top3: list[npt.NDArray[np.bool_]] = []
    for log_probabilities, targets in (score_masked if stacked else score_lines)(runtime, lines):
        own = log_probabilities[np.arange(len(targets)), targets]
        nats.append(-own.astype(np.float64))
        top3.append((log_probabilities > own[:, None]).sum(axis=1) < 3)
    gaps: list[npt.NDArray[np.float64]] = []
    if runtime.config.architecture == "two_towers":
        for log_probabilities, targets in score_gaps(runtime, lines):
            gaps.append(-log_probabilities[np.arange(len(targets)), targets].astype(np.float64))
    return Measurement(
        np.concatenate(nats), np.concatenate(top3), np.concatenate([np.zeros(0), *gaps])
    )


def check_cost(
    reference: Measurement, quantised: Measurement, *, gate: bool = True
) -> dict[str, float]:
    """What quantisation costs on the same text.

    Returns:
        Held-out tokens, and the relative rise of perplexity and the loss of top-3 share: ``tokens``,
        ``perplexity``, ``top3`` and, for two towers, ``gap_perplexity``.

    Raises:
        ExportError: with *gate*, a cost above its limit that chance does not explain.
    """
    differences = {
        "perplexity": quantised.nats - reference.nats,
        "top3": reference.top3.astype(np.float64) - quantised.top3,
        "gap_perplexity": quantised.gap_nats - reference.gap_nats,
    }
    cost = {"tokens": float(len(reference.nats))}
    for name, difference in differences.items():
        if not len(difference):
            continue
        mean, error = difference.mean(), difference.std() / len(difference) ** 0.5
        cost[name] = float(mean if name == "top3" else np.expm1(mean))
        limit = TOP3_LIMIT if name == "top3" else PERPLEXITY_LIMIT
        # Not a number fails as well.
        if gate and not (cost[name] <= limit or mean <= STANDARD_ERRORS * error):
            raise ExportError(
                f"the int8 graphs cost {100 * cost[name]:.2f} % of {name} on {len(difference)} held-out tokens, more"
                f" than {100 * limit:.1f} %; a few outlying weights are the usual reason: train on with weight_decay or"
                " a lower clip_norm, and export again"
            )
    return cost


def score_lines(runtime: Runtime, lines: Sequence[Line]) -> Iterator[tuple[Float32Array, Integers]]:
    """Log-probabilities (n, V) of the token that follows, and that token (n,), over all tokens of all lines."""
    for batch in _batches(lines):
        outputs, inside = _read(
            runtime, "forward", [np.array([START, *line.tokens[:-1]]) for line in batch]
        )
        outputs, targets = outputs[inside], np.concatenate([line.tokens for line in batch])
        for rows in _chunks(len(targets)):
            yield runtime.next_log_probabilities(outputs[rows]), targets[rows]


def score_masked(
    runtime: Runtime, lines: Sequence[Line]
) -> Iterator[tuple[Float32Array, Integers]]:
    """Log-probabilities (n, V) of a token under a mask, the rest of its line being seen, and that token (n,).

    Of each line every MASK_EVERY-th token, one at a time: each costs a pass over the line.
    """
    for batch in _batches(lines):
        asked = [
            (line.tokens, place)
            for line in batch
            for place in range(0, len(line.tokens), MASK_EVERY)
        ]
        for rows in _chunks(len(asked)):
            some = asked[rows]
            lengths = np.array([len(line) + 1 for line, _ in some], dtype=np.int64)
            tokens = np.zeros((len(some), lengths.max()), dtype=np.int64)
            for row, (line, place) in zip(tokens, some, strict=True):
                row[: len(line) + 1] = [START, *line]
                row[place + 1] = BLANK
            places = np.array([place + 1 for _, place in some], dtype=np.int64)
            targets = np.array([line[place] for line, place in some], dtype=np.int64)
            yield runtime.fill_log_probabilities(tokens, lengths, places), targets


def score_gaps(runtime: Runtime, lines: Sequence[Line]) -> Iterator[tuple[Float32Array, Integers]]:
    """Log-probabilities (n, V) of a token between its two sides, and that token (n,), over all tokens of all lines."""
    for batch in _batches(lines):
        left, inside = _read(
            runtime, "forward", [np.array([START, *line.tokens[:-1]]) for line in batch]
        )
        right, _ = _read(
            runtime, "backward", [np.array([END, *line.tokens[:0:-1]]) for line in batch]
        )
        # right[t] has read t tokens from the end; the token at a of T has T - 1 - a tokens to its right
        mirrored = np.concatenate(
            [right[row, : len(line.tokens)][::-1] for row, line in enumerate(batch)]
        )
        left, targets = left[inside], np.concatenate([line.tokens for line in batch])
        for rows in _chunks(len(targets)):
            count = len(targets[rows])
            known, zeros = np.ones(count, dtype=np.bool_), np.zeros(count, dtype=np.int64)
            yield (
                runtime.gap_log_probabilities(
                    left[rows], mirrored[rows], known, zeros, zeros + TOKEN
                ),
                targets[rows],
            )


def _read(
    runtime: Runtime, tower: Tower, rows: Sequence[Integers]
) -> tuple[Float32Array, npt.NDArray[np.bool_]]:
    """Outputs (N, T, H) of a tower over rows of tokens from the empty state, and where they are no padding (N, T)."""
    lengths = np.array([len(row) for row in rows], dtype=np.int64)
    tokens = np.zeros((len(rows), lengths.max()), dtype=np.int64)
    inside = np.arange(tokens.shape[1]) < lengths[:, None]
    tokens[inside] = np.concatenate(rows)
    _, outputs = runtime.advance(
        tower, initial_states(runtime.config, tower, len(rows)), tokens, lengths
    )
    return outputs, inside


def _batches(lines: Sequence[Line]) -> Iterator[list[Line]]:
    """Lines of similar length together."""
    ordered = sorted(
        (line for line in lines if len(line.tokens)), key=lambda line: len(line.tokens)
    )
    for start in range(0, len(ordered), LINES_AT_ONCE):
        yield ordered[start : start + LINES_AT_ONCE]


def _chunks(rows: int) -> Iterator[slice]:
    # A head's answer is V floats a row: 64 KB at 16,000 tokens.
    for start in range(0, rows, ROWS_AT_ONCE):
        yield slice(start, start + ROWS_AT_ONCE)


def _limit(lines: Iterable[Line], tokens: int) -> list[Line]:
    """Lines from the first on until they hold *tokens*, at least one."""
    chosen: list[Line] = []
    for line in lines:
        if chosen and tokens <= 0:
            break
        if len(line.tokens):
            chosen.append(line)
            tokens -= len(line.tokens)
    return chosen


def _load_weights(state: Path) -> dict[str, npt.NDArray[Any]]:
    path = state / "weights.safetensors"
    try:
        return dict(load_file(path))
    except (OSError, SafetensorError) as error:
        raise ExportError(
            f"{path} cannot be read: {error}; export another state, or --resume the run"
        ) from error


def _open_prepared(options: ExportOptions, config: RunConfig) -> Prepared | None:
    directory = options.prepared or Path(config.data.prepared)
    try:
        return open_prepared(directory)
    except PreparedDataError:
        # With text of its own and the run's vocabulary an export needs no prepared data, unless it was named.
        if options.development and options.prepared is None:
            return None
        raise


def _run_tokenizer(state: Path, prepared: Prepared | None) -> Tokenizer:
    """The vocabulary that the run kept, which must be that of the prepared data; the latter's where none was kept."""
    path = state.parent / TOKENIZER
    if prepared is not None and not path.is_file():
        return prepared.tokenizer
    tokenizer = Tokenizer.load(path)
    if prepared is not None and prepared.tokenizer.digest != tokenizer.digest:
        raise ExportError(
            f"{prepared.directory} has another vocabulary than {path}; name the run's data: --prepared"
        )
    return tokenizer


def _network(config: NetworkConfig, weights: Mapping[str, npt.NDArray[Any]]) -> Network:
    network = Network(config)
    try:
        network.load_state_dict({name: torch.from_numpy(value) for name, value in weights.items()})
    except RuntimeError as error:
        raise ExportError(
            f"weights: {error}; they are of another network than the configuration"
        ) from error
    return network


def _languages(
    prepared: Prepared | None, config: RunConfig, lines: Sequence[Line]
) -> tuple[str, ...]:
    """Languages of the training text, most tokens first; of the development text where that is all there is."""
    totals: dict[str, float] = {}
    for shard in _as_read(prepared, config).sources if prepared else ():
        totals[shard.language] = totals.get(shard.language, 0) + shard.weight * len(shard.ids)
    return tuple(sorted(totals, key=lambda language: -totals[language])) or tuple(
        sorted({line.language for line in lines})
    )


def _as_read(prepared: Prepared, config: RunConfig) -> Prepared:
    """The prepared data with the sources and weights of the run, its last stage's where it had several."""
    return replace(
        prepared, sources=tuple(weigh(prepared.sources, config.sources, config.data.weights))
    )


def _weights_file(weights: Mapping[str, npt.NDArray[Any]], fp32: bool) -> bytes:
    if fp32:
        return bytes(save({name: value.astype(np.float32) for name, value in weights.items()}))
    for name, value in weights.items():
        if np.abs(value).max(initial=0) > np.finfo(np.float16).max:
            raise ExportError(
                f"weights: {name} holds values that float16 cannot; export with --fp32"
            )
    return bytes(save({name: value.astype(np.float16) for name, value in weights.items()}))


def _provenance(
    stages: Sequence[Stage], prepared: Prepared | None, cost: Mapping[str, float]
) -> dict[str, Any]:
    """Where the weights come from, for config.json and the card."""
    runs = [stage.run for stage in stages]
    shards = [
        shard
        for shard in (prepared.sources if prepared else ())
        if any(not run.sources or shard.name in run.sources for run in runs)
    ]
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "git_commit": _git_commit(),
        "data_sha256": stages[0].data_sha256 or (prepared.sha256 if prepared else ""),
        "tokens_seen": sum(stage.progress.tokens for stage in stages),
        "seed": stages[0].run.seed,
        "quantisation_cost": dict(cost),
        "stages": [
            {
                "run": stage.run.name,
                "steps": stage.progress.step,
                "tokens": stage.progress.tokens,
                "cpu_hours": round(stage.progress.seconds * stage.run.threads / 3600, 2),
                "wall_hours": round(stage.progress.wall_seconds / 3600, 2),
                "device": stage.run.device,
                "sources": list(stage.run.sources),
                "weights": dict(stage.run.data.weights),
            }
            for stage in stages[::-1]
        ],
        "data": [
            {
                "source": shard.name,
                "language": shard.language,
                "lines": shard.lines,
                "characters": shard.characters,
                "tokens": len(shard.ids),
                "weight": shard.weight,
            }
            for shard in shards
        ],
    }


def _first_checkpoint(stages: Sequence[Stage]) -> Mapping[str, Any] | None:
    """The checkpoint whose weights the first of *stages*, which are the last ones first, began with."""
    first = stages[-1]
    start = Path(first.run.start_from)
    if first.base is not None or not first.run.start_from or not is_checkpoint(start):
        return first.base
    log.warning(
        "%s began with what lay at %s, whose digest its state is too old to know",
        first.run.name,
        start,
    )
    return describe_base(load_checkpoint(start))


def _continued(base: Mapping[str, Any], training: Mapping[str, Any]) -> dict[str, Any]:
    """Provenance of weights that began as a checkpoint's: its stages come first, and sources that it alone has read."""
    before = base["training"]
    again = {source["source"] for source in training["data"]}
    return {
        **training,
        "adapted_from": {key: base[key] for key in ("name", "version", "digest")},
        "tokens_seen": before.get("tokens_seen", 0) + training["tokens_seen"],
        "stages": [*before.get("stages", []), *training["stages"]],
        "data": [
            *(each for each in before.get("data", []) if each["source"] not in again),
            *training["data"],
        ],
    }


def _git_commit() -> str:
    """The commit of this program, with ``-dirty`` where files differ from it; empty outside a repository."""
    git = shutil.which("git")
    if git is None:
        return ""
    command = [git, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    result = subprocess.run(  # noqa: S603 - fixed arguments
        command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False
    )
    return result.stdout.strip()
