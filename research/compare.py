"""Train and evaluate the tutorial's systems side by side, or published networks next to ours.

Every network gets the same text, as many weights and about the same CPU time; n-grams count the
same text once.

    1  size      the width that gives a network as many weights as the others
    2  tune      a short run at each learning rate; the best by held-out text is kept
    3  train     as many steps as fit the time, by the speed of tuning; one run per seed
    4  evaluate  the same questions for all, through the decoders that serve
    5  report    OUTPUT/comparison.json and its tables

The result of each part is kept in OUTPUT, so that an interrupted comparison continues.
"""

import statistics
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from model.checkpoint import COUNTS, Checkpoint, load_checkpoint
from model.config import Calibration, NetworkConfig
from model.errors import DivergedError, RunError
from model.mixture import Mixture, MixtureRuntime
from model.predictor import Predictor
from model.runtime import Runtime, open_runtime
from model.tokenizer import Tokenizer
from research.networks import (
    PEERS,
    SYSTEMS,
    AnyConfig,
    PeerConfig,
    ReplayRuntime,
    SystemSpec,
    build_peer,
    parameter_count,
    sized,
)
from research.tutorial_page import METRICS, comparison_tables
from training.cached_json import cached_json, require_same_settings, write_json
from training.config import DataOptions, LossOptions, OptimizerOptions, RunConfig
from training.data.shards import open_prepared
from training.evaluation.calibrate import fit_counts_weights
from training.evaluation.evaluate import evaluate
from training.evaluation.quantisation import held_out_lines
from training.evaluation.systems import EvaluatedSystem, open_system
from training.evaluation.test_items import choose_items, read_files
from training.export import ExportOptions, export
from training.ngram import NgramOptions, build
from training.options import argument, option
from training.run_log import read_records
from training.run_state import find_state, load_weights, saved_state
from training.trainer import train

# Share of a run's time that tuning spends at each rate, and of its steps in which the rate falls.
TUNING_SHARE, DECAY_SHARE = 0.1, 0.4
# Without AVX-512, a product of bf16 takes a hundred times as long as one of fp32
PRECISION: Literal["fp32", "bf16"] = (
    "bf16" if torch.backends.cpu.get_cpu_capability() == "AVX512" else "fp32"
)
# Options that are not part of the figures, and those that may differ when a comparison continues.
UNPUBLISHED = ("prepared", "text", "output", "counts", "quick")
ADDED_LATER = ("seeds", "systems", "orders")
QUESTION_SEED = 1


@dataclass(frozen=True, slots=True)
class CompareOptions:
    """Options of the command, and the conditions that are equal for all systems.

    Attributes:
        parameters: weights of each network, embedding included.
        rates: learning rates that tuning tries.
        log_every_steps: how often a run logs its speed; tuning needs one record.
        lines, typing_lines: of each language, for questions and for typing.
    """

    prepared: Path = argument("directory written by `python -m training prepare`")
    text: tuple[str, ...] = argument("held-out text: files, folders or globs")
    output: Path = option("directory for runs and report")
    minutes: float = option("CPU minutes of each run", 10.0)
    seeds: int = option("runs of each network", 3)
    systems: tuple[str, ...] = option("only these networks or peers, no n-grams", ())
    counts: Path | None = option(
        "checkpoint of the same tokenizer: mix its counts into every network", None, metavar="DIR"
    )
    quick: bool = option("tiny networks, seconds of training, to see that it works", False)
    parameters: int = 3_000_000
    embedding_size: int = 128
    rates: tuple[float, ...] = (1e-3, 2.5e-3, 6e-3)
    log_every_steps: int = 20
    lines: int = 500
    typing_lines: int = 60
    orders: tuple[int, ...] = (2, 3, 4, 5)


QUICK: dict[str, Any] = {
    "parameters": 60_000,
    "embedding_size": 16,
    "minutes": 0.02,
    "rates": (5e-3,),
    "log_every_steps": 1,
    "lines": 4,
    "typing_lines": 1,
    "orders": (2, 3),
}


def run(options: CompareOptions) -> int:
    """Compare, and print the tables; return 0."""
    if options.quick:
        options = replace(options, **QUICK)
    sys.stdout.write(comparison_tables(compare(options)))
    return 0


def compare(options: CompareOptions) -> dict[str, Any]:
    """Train and evaluate everything that is missing in ``options.output``; write comparison.json.

    Raises:
        RunError: an unknown system; no network has so few weights; every learning rate diverged; a
            run was interrupted; the directory has results of other options.
    """
    known = {spec.name: spec for spec in (*SYSTEMS, *PEERS)}
    if unknown := set(options.systems) - set(known):
        raise RunError(f"unknown system {min(unknown)!r}; choose from {', '.join(known)}")
    specs = [known[name] for name in options.systems] or SYSTEMS
    prepared = open_prepared(options.prepared)
    size = prepared.tokenizer.size
    sizes = size, options.parameters, options.embedding_size
    systems = [(spec, sized(spec, *sizes)) for spec in specs]
    published = {key: value for key, value in asdict(options).items() if key not in UNPUBLISHED}
    settings = {key: value for key, value in published.items() if key not in ADDED_LATER}
    settings |= {"text": list(options.text), "prepared_sha256": prepared.sha256}
    require_same_settings(options.output, settings)
    tried = [
        _tune(spec.name, network, rate, options)
        for spec, network in systems
        for rate in options.rates
    ]
    runs = []
    # All networks of a seed come before the next seed, so that an early stop leaves whole seeds.
    for seed in range(1, options.seeds + 1):
        for spec, network in systems:
            trained = _train(spec, network, seed, tried, options)
            runs.append({**trained, "evaluation": _evaluate(trained["name"], network, options)})
    for order in () if options.systems else options.orders:
        counted = _count(order, options)
        runs.append({**counted, "evaluation": _evaluate(counted["name"], None, options)})
    figures = {
        "options": published,
        "vocabulary_size": size,
        "prepared_sha256": prepared.sha256,
        "tuning": tried,
        "runs": runs,
    }
    write_json(options.output / "comparison.json", figures)
    return figures


def _run_config(
    name: str, network: AnyConfig, rate: float, seed: int, options: CompareOptions
) -> RunConfig:
    """Return the run of tuning; training changes its length and its schedule."""
    return RunConfig(
        name=name,
        seed=seed,
        precision=PRECISION,
        data=DataOptions(prepared=str(options.prepared), carry_share=0.0),
        network=network if isinstance(network, NetworkConfig) else None,
        loss=LossOptions(sampled_negatives=1000, previous_weight=0.3, gap_weight=0.7),
        optimizer=OptimizerOptions(learning_rate=rate, schedule="constant", warmup_steps=100),
        minutes=options.minutes * TUNING_SHARE,
        log_every_steps=options.log_every_steps,
        evaluate_every_steps=0,
        save_every_seconds=60.0,
    )


def _fit(config: RunConfig, network: AnyConfig, directory: Path) -> list[dict[str, Any]]:
    """Train to the end from the last snapshot, if any; return the records of the log.

    Raises:
        RunError: a signal stopped it.
    """
    torch.manual_seed(config.seed)
    own = None if isinstance(network, NetworkConfig) else build_peer(network)
    if not train(config, directory, resume=find_state(directory) is not None, network=own):
        raise RunError(f"{directory}: was interrupted; run the command again to continue")
    return read_records(directory / "metrics.jsonl")


def _tune(name: str, network: AnyConfig, rate: float, options: CompareOptions) -> dict[str, Any]:
    """Return the held-out figure (lower is better) and CPU seconds per step of a short run."""
    directory = options.output / "tuning" / f"{name}-{rate:g}"

    def make() -> dict[str, Any]:
        result: dict[str, Any] = {"system": name, "rate": rate}
        try:
            records = _fit(_run_config(name, network, rate, 0, options), network, directory)
        except DivergedError:
            return {**result, "held_out": None, "seconds_per_step": None}
        steps = [record for record in records if "tokens_per_second" in record]
        if not steps:
            raise RunError(f"{directory}: no step was logged; give more --minutes")
        seconds = steps[-1]["cpu_seconds"] / steps[-1]["step"]
        figures = _figures(records[-1])
        bits = [value for key, value in figures.items() if "bits_per_character" in key]
        # Stacked networks have no bits; theirs are nats per masked token.
        held_out = sum(bits or figures.values())
        return {**result, "held_out": held_out, "seconds_per_step": seconds}

    return cached_json(directory / "tuning.json", make)


def _train(
    spec: SystemSpec,
    network: AnyConfig,
    seed: int,
    tried: list[dict[str, Any]],
    options: CompareOptions,
) -> dict[str, Any]:
    """Train at the best rate for ``options.minutes``; return sizes, cost and held-out figures."""
    own = [each for each in tried if each["system"] == spec.name and each["held_out"] is not None]
    if not own:
        raise RunError(f"{spec.name}: every learning rate diverged; give lower ones")
    rate = min(own, key=lambda each: float(each["held_out"]))["rate"]
    seconds_per_step = statistics.median(each["seconds_per_step"] for each in own)
    steps = max(4, round(60 * options.minutes / seconds_per_step))
    base = _run_config(f"{spec.name}-{seed}", network, rate, seed, options)
    optimizer = replace(
        base.optimizer,
        schedule="warmup_stable_decay",
        warmup_steps=min(100, steps // 4),
        decay_steps=round(DECAY_SHARE * steps),
    )
    config = replace(
        base, optimizer=optimizer, steps=steps, minutes=0.0, evaluate_every_steps=max(1, steps // 5)
    )
    directory = options.output / config.name

    def make() -> dict[str, Any]:
        records = [each for each in _fit(config, network, directory) if _figures(each)]
        counters = ("step", "tokens", "cpu_seconds")
        return {
            "name": config.name,
            "system": spec.name,
            "title": spec.title,
            "seed": seed,
            "parameters": parameter_count(network),
            "network": asdict(network),
            "learning_rate": rate,
            **{key: records[-1][key] for key in counters},
            "curve": [{key: r[key] for key in counters} | _figures(r) for r in records],
        }

    return cached_json(directory / "trained.json", make)


def _count(order: int, options: CompareOptions) -> dict[str, Any]:
    """Count an n-gram of the same text; return its size and cost."""
    directory = options.output / f"{order}-gram"
    if not directory.exists():
        build(NgramOptions(options.prepared, directory, order=order))  # type: ignore[arg-type]
    (counts,) = load_checkpoint(directory).counts
    return {
        **dict.fromkeys(("name", "system", "title"), directory.name),
        "seed": 0,
        "parameters": sum(counts.ngrams),
        **{key: counts.config.training[key] for key in ("tokens", "cpu_seconds")},
    }


def _evaluate(name: str, sizes: AnyConfig | None, options: CompareOptions) -> dict[str, Any]:
    """Evaluate a trained network, or an n-gram (without sizes)."""
    directory = options.output / name
    mixed = "-mixed" if sizes and options.counts else ""

    def make() -> dict[str, Any]:
        torch.set_num_threads(1)
        system = _open(directory, sizes, options)
        tokenizer = Tokenizer.load(directory / "tokenizer.model")
        files = read_files(options.text)
        items = choose_items(files, tokenizer, options.lines, options.typing_lines, QUESTION_SEED)
        report = evaluate([system], items, QUESTION_SEED)
        languages = {
            language: {
                name: {"value": figure["values"][0], "interval": figure["intervals"][0]}
                for name, figure in summary["metrics"].items()
                if name in METRICS
            }
            for language, summary in report["languages"].items()
        }
        return {
            "questions_sha256": report["questions_sha256"],
            "bytes": system.about["bytes"],
            "languages": languages,
        }

    return cached_json(directory / f"evaluation{mixed}.json", make)


def _open(directory: Path, sizes: AnyConfig | None, options: CompareOptions) -> EvaluatedSystem:
    """Open a trained network, mixed with the counts of the options, or an n-gram."""
    if sizes is None:
        return open_system(directory)
    if isinstance(sizes, NetworkConfig):
        target = directory / "checkpoint"
        if not target.exists():
            export(ExportOptions(directory, target, name=directory.name, gate=False))
        checkpoint = load_checkpoint(target)
        runtime = open_runtime(checkpoint)
        size = _bytes(target)
    else:
        checkpoint, runtime = _open_peer(directory, sizes)
        # As float16, as in checkpoints
        size = 2 * parameter_count(sizes) + (directory / "tokenizer.model").stat().st_size
    if options.counts and "predict" in checkpoint.capabilities:
        counted = load_checkpoint(options.counts)
        if counted.tokenizer.surfaces != checkpoint.tokenizer.surfaces:
            raise RunError(f"{options.counts} has another tokenizer; count the same prepared data")
        lines = held_out_lines(open_prepared(options.prepared).held_out)
        weights = fit_counts_weights(replace(checkpoint, counts=counted.counts), runtime, lines)
        runtime = MixtureRuntime(runtime, Mixture(counted.counts, weights, checkpoint.tokenizer))
        size += _bytes(options.counts / COUNTS[0])
    predictor = Predictor(checkpoint, runtime)
    return EvaluatedSystem(directory.name, predictor, {"bytes": size}, checkpoint.capabilities)


def _open_peer(directory: Path, sizes: PeerConfig) -> tuple[Checkpoint, Runtime]:
    """Open a network without graphs."""
    network = build_peer(sizes)
    load_weights(saved_state(directory), network)
    checkpoint = Checkpoint(
        directory=directory,
        name=directory.name,
        version="1",
        digest=str(directory),  # only tells caches apart
        network=None,
        calibration=Calibration(),
        tokenizer=Tokenizer.load(directory / "tokenizer.model"),
        languages=("zh", "en"),
        word_end_probs=(0.0,) * sizes.vocabulary_size,
    )
    return checkpoint, ReplayRuntime(network)


def _bytes(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())


def _figures(record: dict[str, Any]) -> dict[str, float]:
    """Return the held-out figures of a record of a run's log."""
    return {key: value for key, value in record.items() if key.startswith("heldout_")}
