"""The tutorial's systems side by side: `python -m research compare PREPARED TEXT... --output DIR [--publish]`.

Every network gets the same text, as many weights and about the same CPU time; n-grams count the same text once.

    1  size      the width that gives each network as many weights as the others
    2  tune      a short run at each of the same learning rates; the best by held-out text is kept
    3  train     as many steps as fit the time, by the speed that tuning showed; then with further seeds
    4  evaluate  the same questions to all, through the decoders that serve
    5  report    comparison.json, tutorial.md and plots; `--publish` puts them into docs/

Each part is kept in DIR, so an interrupted comparison goes on where it was. `--report comparison.json` writes the
report again from its figures alone.
"""

import argparse
import hashlib
import json
import statistics
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from model.checkpoint import Checkpoint, load_checkpoint
from model.config import Architecture, Calibration, Cell, NetworkConfig
from model.errors import DivergedError, ReportError, RunError
from model.ngram import read_description
from model.predictor import Predictor
from model.runtime import open_runtime
from model.tokenizer import Tokenizer
from research.cached_json import do_all, kept, write_json
from research.cifg import KeyboardConfig, KeyboardNetwork, KeyboardRuntime
from research.compare_report import write_tutorial
from research.networks import AnyConfig, build_network, parameter_count
from research.transformer import HEAD_SIZE, Transformer, TransformerConfig, TransformerRuntime
from training.config import DataOptions, LossOptions, OptimizerOptions, RunConfig, options_from_dict
from training.data.shards import open_prepared
from training.data.text_sources import expand_inputs
from training.evaluation.evaluate import evaluate
from training.evaluation.systems import EvaluatedSystem, open_system
from training.evaluation.test_items import choose_items, read_files
from training.export import ExportOptions, export
from training.ngram import build
from training.run_log import read_records
from training.run_state import find_state, keep_to, load_weights, read_state, saved_state
from training.trainer import train

RATES = (1e-3, 2.5e-3, 6e-3)
# Tuning runs at each rate take this share of the time of a whole run.
TUNING_SHARE = 0.1
# Last steps, in which the rate falls.
DECAY_SHARE = 0.4
# λ1 of the bundled checkpoint's fit; a forward tower alone rescores with 1 whatever this says.
FORWARD_WEIGHT = 0.75
QUESTION_SEED = 1
FORMAT_VERSION = 1
PEERS_PUBLISHED = Path("docs/results/peers.json")


@dataclass(frozen=True, slots=True)
class Arm:
    """One network of the comparison.

    Attributes:
        name: of its runs.
        title: of its row in the report.
        architecture: forward, two_towers or stacked_bidirectional.
        cell: of every layer; ``attention`` is a Transformer's block, ``cifg`` a keyboard network.
        layers: of the forward tower, or of the stacked network.
        backward_layers: of the backward tower.
        embedding_size: 0 for the comparison's.
        hidden_size: published; 0 for the width that gives the wanted number of weights.
        like: the arm that says how many weights are wanted; empty for the comparison's number.
    """

    name: str
    title: str
    architecture: Architecture
    cell: Cell | Literal["attention", "cifg"]
    layers: int
    backward_layers: int = 0
    embedding_size: int = 0
    hidden_size: int = 0
    like: str = ""


ARMS = (
    Arm("rnn", "RNN", "forward", "rnn_tanh", 1),
    Arm("deep-rnn", "deep RNN, 3 layers", "forward", "rnn_tanh", 3),
    Arm("birnn", "bidirectional RNN", "stacked_bidirectional", "rnn_tanh", 1),
    Arm("deep-birnn", "deep bidirectional RNN, 3 layers", "stacked_bidirectional", "rnn_tanh", 3),
    Arm("gru", "GRU, 2 layers", "forward", "gru", 2),
    Arm("lstm", "LSTM, 2 layers", "forward", "lstm", 2),
    Arm("two-towers", "two LSTM towers, 2 and 1 layers", "two_towers", "lstm", 2, 1),
    Arm("transformer", "Transformer, 3 blocks", "forward", "attention", 3),
)
ORDERS = (2, 3, 4, 5)
# `--peers`: networks of published shapes, each beside ours of as many weights and the same embedding.
PEERS = (
    Arm("keyboard", "keyboard's CIFG-LSTM, 670 projected to 96", "forward", "cifg", 1, 0, 96, 670),
    Arm("lstm-96", "ours: LSTM, 2 layers", "forward", "lstm", 2, 0, 96, like="keyboard"),
    Arm(
        "two-towers-96",
        "ours: two LSTM towers, 2 and 1 layers",
        "two_towers",
        "lstm",
        2,
        1,
        96,
        like="keyboard",
    ),
    Arm(
        "word-lm",
        "PyTorch's word-LM example, LSTM 2 x 200, tied",
        "forward",
        "lstm",
        2,
        0,
        200,
        200,
    ),
    Arm(
        "gru-128", "ours: GRU, 2 layers, embedding 128", "forward", "gru", 2, 0, 128, like="word-lm"
    ),
    Arm(
        "two-towers-128",
        "ours: two LSTM towers, embedding 128",
        "two_towers",
        "lstm",
        2,
        1,
        128,
        like="word-lm",
    ),
)


@dataclass(frozen=True, slots=True)
class CompareOptions:
    """What is compared, and for how long.

    Attributes:
        prepared: prepared data.
        text: files, folders or globs to ask about.
        output: directory for everything.
        parameters: weights of each network, embedding included.
        embedding_size: width of the tied embedding, which is the same for all.
        minutes: CPU minutes of each training run, on one thread.
        seeds: runs of each network.
        rates: learning rates that tuning tries.
        rows, window_tokens: of a batch.
        sampled_negatives: of the softmax in training; 0 is the full softmax.
        precision: of training.
        log_every_steps: how often a run notes its speed; tuning needs one note.
        jobs: processes side by side.
        lines: a language, for next words and blanks.
        typing_lines: a language.
        arms: names of :data:`ARMS` or :data:`PEERS`; empty for all of the former.
        orders: of n-grams.
    """

    prepared: Path
    text: tuple[str, ...]
    output: Path
    parameters: int = 3_000_000
    embedding_size: int = 128
    minutes: float = 10.0
    seeds: tuple[int, ...] = (1, 2, 3)
    rates: tuple[float, ...] = RATES
    rows: int = 64
    window_tokens: int = 64
    sampled_negatives: int = 1000
    precision: Literal["fp32", "bf16"] = "bf16"
    log_every_steps: int = 20
    jobs: int = 1
    lines: int = 500
    typing_lines: int = 60
    arms: tuple[str, ...] = ()
    orders: tuple[int, ...] = ORDERS


# Whether everything works, in under a minute; its figures mean nothing.
QUICK: dict[str, Any] = {
    "parameters": 60_000,
    "embedding_size": 16,
    "minutes": 0.02,
    "seeds": (1,),
    "rates": (5e-3,),
    "rows": 8,
    "window_tokens": 32,
    "sampled_negatives": 0,
    "precision": "fp32",
    "log_every_steps": 1,
    "lines": 4,
    "typing_lines": 1,
    "orders": (2, 3),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "prepared", type=Path, nargs="?", help="directory written by `python -m training prepare`"
    )
    parser.add_argument(
        "text", nargs="*", help="held-out text: files, folders or globs; a line an item"
    )
    parser.add_argument("--output", type=Path, required=True, help="directory for runs and report")
    parser.add_argument(
        "--report", type=Path, metavar="JSON", help="only write the report of these figures again"
    )
    parser.add_argument(
        "--publish", action="store_true", help="figures, tables and plots into docs/tutorial.md"
    )
    parser.add_argument(
        "--quick", action="store_true", help="tiny networks, seconds of training: does it work?"
    )
    parser.add_argument("--minutes", type=float, help="CPU minutes of each run (default: 10)")
    parser.add_argument("--seeds", type=int, help="runs of each network (default: 3)")
    parser.add_argument("--jobs", type=int, default=1, help="processes side by side (default: 1)")
    parser.add_argument(
        "--arms",
        nargs="+",
        choices=[arm.name for arm in ARMS],
        default=[],
        help="only these networks, no n-grams; a section of their own in docs/tutorial.md",
    )
    parser.add_argument(
        "--peers", action="store_true", help="published networks beside ours of as many weights"
    )


def run(arguments: argparse.Namespace) -> int:
    """Compare, or write a report again; 0 on success."""
    if arguments.report is not None:
        try:
            figures = json.loads(arguments.report.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ReportError(f"{arguments.report}: {error}; name a comparison.json") from error
    elif arguments.prepared is None or not arguments.text:
        raise RunError("name prepared data and held-out text, or --report JSON")
    else:
        changes: dict[str, Any] = dict(QUICK) if arguments.quick else {}
        if arguments.minutes is not None:
            changes["minutes"] = arguments.minutes
        if arguments.seeds is not None:
            changes["seeds"] = tuple(range(1, arguments.seeds + 1))
        if arguments.arms:
            changes |= {
                "arms": tuple(arm.name for arm in ARMS if arm.name in arguments.arms),
                "orders": (),
            }
        if arguments.peers:
            changes |= {"arms": tuple(arm.name for arm in PEERS), "orders": ()}
        options = CompareOptions(
            arguments.prepared,
            tuple(arguments.text),
            arguments.output,
            jobs=arguments.jobs,
            **changes,
        )
        figures = compare(options)
    if (
        arguments.peers and arguments.publish
    ):  # docs/quality.md has them, of `python -m research quality-page`
        write_json(PEERS_PUBLISHED, figures)
    publish = arguments.publish and not arguments.peers
    sys.stdout.write(write_tutorial(figures, arguments.output, publish=publish))
    return 0


def compare(options: CompareOptions) -> dict[str, Any]:
    """Train and evaluate everything that is not in ``options.output`` yet.

    Returns:
        The content of comparison.json.

    Raises:
        RunError: no network of that many weights; every learning rate diverged; a part failed; the directory holds
            parts that were made with other options or text.
        PreparedDataError, CorpusError: what data and text raise.
    """
    chosen = (
        [arm for arm in (*ARMS, *PEERS) if arm.name in options.arms] if options.arms else list(ARMS)
    )
    prepared = open_prepared(options.prepared)
    tokenizer = prepared.tokenizer
    networks = {arm.name: sized(arm, tokenizer.size, options) for arm in chosen}
    options.output.mkdir(parents=True, exist_ok=True)
    keep_to(options.output, _begun_with(options, prepared.sha256))
    tuning = [
        (arm.name, networks[arm.name], rate, options) for arm in chosen for rate in options.rates
    ]
    tried = dict(
        zip(
            [(name, rate) for name, _, rate, _ in tuning],
            do_all(_tune, tuning, options.jobs),
            strict=True,
        )
    )
    runs = []
    for seed in (
        options.seeds
    ):  # a seed of every network before the next seed, so that an early stop leaves a whole
        for arm in chosen:
            whole = _whole_run(arm.name, networks[arm.name], seed, tried, options)
            runs.append((arm.name, networks[arm.name], whole, options))
    trained = do_all(_train, runs, options.jobs)
    counted = do_all(_count, [(order, options) for order in options.orders], options.jobs)
    described = [*trained, *counted]
    evaluations = [
        (description["name"], networks.get(description["arm"]), options)
        for description in described
    ]
    answered = do_all(_evaluate, evaluations, options.jobs)
    figures = {
        "format_version": FORMAT_VERSION,
        "options": _published(options),
        "vocabulary_size": tokenizer.size,
        "prepared_sha256": prepared.sha256,
        "tuning": [{"arm": name, "rate": rate, **values} for (name, rate), values in tried.items()],
        "titles": {arm.name: arm.title for arm in chosen},
        "contestants": [
            {**description, "evaluation": evaluation}
            for description, evaluation in zip(described, answered, strict=True)
        ],
    }
    write_json(options.output / "comparison.json", figures)
    return figures


def _begun_with(options: CompareOptions, prepared_sha256: str) -> dict[str, Any]:
    """All that a part depends on; further arms, seeds and orders may join those that are there."""
    free = ("prepared", "text", "output", "jobs", "arms", "seeds", "orders")
    files = [
        [path.name, path.stat().st_size, path.stat().st_mtime_ns]
        for path in expand_inputs(list(options.text))
    ]
    values = {key: value for key, value in asdict(options).items() if key not in free}
    return {**values, "prepared_sha256": prepared_sha256, "files": files}


def sized(arm: Arm, vocabulary_size: int, options: CompareOptions) -> AnyConfig:
    """The network of an arm: of its published width, or with as many weights as wanted, as nearly as may be.

    Raises:
        RunError: the embedding alone is larger.
    """
    step = HEAD_SIZE if arm.cell == "attention" else 8
    embedding_size = arm.embedding_size or options.embedding_size

    def network(hidden_size: int) -> AnyConfig:
        if arm.cell == "attention":
            return TransformerConfig(vocabulary_size, embedding_size, hidden_size, arm.layers)
        if arm.cell == "cifg":
            return KeyboardConfig(vocabulary_size, embedding_size, hidden_size)
        return NetworkConfig(
            vocabulary_size=vocabulary_size,
            architecture=arm.architecture,
            cell=arm.cell,
            embedding_size=embedding_size,
            hidden_size=hidden_size,
            forward_layers=arm.layers,
            backward_layers=arm.backward_layers,
            gap_hidden_size=embedding_size if arm.architecture == "two_towers" else 0,
        )

    if arm.hidden_size:
        return network(arm.hidden_size)
    parameters = options.parameters
    if arm.like:
        (model,) = (other for other in PEERS if other.name == arm.like)
        parameters = parameter_count(sized(model, vocabulary_size, options))
    smaller, larger = 0, step
    while parameter_count(network(larger)) < parameters:
        smaller, larger = larger, 2 * larger
    while larger - smaller > step:
        middle = (smaller + larger) // 2 // step * step
        if parameter_count(network(middle)) < parameters:
            smaller = middle
        else:
            larger = middle
    if smaller == 0:
        raise RunError(
            f"parameters is {parameters}, less than the smallest {arm.name} with embedding_size"
            f" {embedding_size} has ({parameter_count(network(larger))}); allow more"
        )
    return min(
        network(smaller), network(larger), key=lambda one: abs(parameter_count(one) - parameters)
    )


def _run(
    name: str, network: AnyConfig, rate: float, seed: int, options: CompareOptions
) -> RunConfig:
    """What tuning and training have in common."""
    return RunConfig(
        name=name,
        seed=seed,
        precision=options.precision,
        data=DataOptions(
            str(options.prepared),
            options.rows,
            options.window_tokens,
            carry_share=0.0,
            gaps_per_token=0.2,
        ),
        network=network if isinstance(network, NetworkConfig) else None,
        loss=LossOptions(options.sampled_negatives, previous_weight=0.3, gap_weight=0.7),
        optimizer=OptimizerOptions(learning_rate=rate, schedule="constant", warmup_steps=100),
        minutes=options.minutes * TUNING_SHARE,
        log_every_steps=options.log_every_steps,
        evaluate_every_steps=0,
        save_every_seconds=60.0,
    )


def _fit(config: RunConfig, network: AnyConfig, directory: Path) -> None:
    """Train, or go on with what has begun; networks that are not served are handed to the trainer."""
    torch.manual_seed(config.seed)
    own = None if isinstance(network, NetworkConfig) else build_network(network)
    train(config, directory, resume=find_state(directory) is not None, network=own)


def _whole_run(
    name: str,
    network: AnyConfig,
    seed: int,
    tried: dict[tuple[str, float], dict[str, Any]],
    options: CompareOptions,
) -> RunConfig:
    """The run at the best rate that takes ``options.minutes``, by the speed that tuning showed."""
    finished = [rate for rate in options.rates if tried[name, rate]["held_out"] is not None]
    if not finished:
        raise RunError(
            f"{name}: diverged at every rate ({', '.join(map(str, options.rates))}); give lower ones"
        )
    rate = min(finished, key=lambda each: float(tried[name, each]["held_out"]))
    seconds_per_step = statistics.median(tried[name, each]["seconds_per_step"] for each in finished)
    steps = max(4, round(60 * options.minutes / seconds_per_step))
    base = _run(f"{name}-{seed}", network, rate, seed, options)
    optimizer = replace(
        base.optimizer,
        schedule="warmup_stable_decay",
        warmup_steps=min(100, steps // 4),
        decay_steps=round(DECAY_SHARE * steps),
    )
    return replace(
        base, optimizer=optimizer, steps=steps, minutes=0.0, evaluate_every_steps=max(1, steps // 5)
    )


def _tune(name: str, network: AnyConfig, rate: float, options: CompareOptions) -> dict[str, Any]:
    """A short run at one rate: its held-out figure (lower is better) and CPU seconds a step."""
    directory = options.output / "tuning" / f"{name}-{rate:g}"
    return kept(
        directory / "tried.json", lambda: _tune_now(name, network, rate, directory, options)
    )


def _tune_now(
    name: str, network: AnyConfig, rate: float, directory: Path, options: CompareOptions
) -> dict[str, Any]:
    config = _run(name, network, rate, 0, options)
    diverged = False
    try:
        _fit(config, network, directory)
    except DivergedError:
        diverged = True
    records = read_records(directory / "metrics.jsonl")
    steps = [record for record in records if "tokens_per_second" in record]
    if not diverged and not (records and _figures(records[-1])):
        raise RunError(f"{directory}: was interrupted; give the command again, and it goes on")
    if diverged:
        return {"held_out": None, "seconds_per_step": None}
    if not steps:
        raise RunError(
            f"{directory}: no step was logged in {60 * config.minutes:.0f} CPU seconds; give more minutes"
        )
    return {
        "held_out": _held_out(records[-1]),
        "seconds_per_step": steps[-1]["cpu_seconds"] / steps[-1]["step"],
    }


def _train(
    name: str, network: AnyConfig, config: RunConfig, options: CompareOptions
) -> dict[str, Any]:
    """A whole run, or the rest of it: what it is and how it went."""
    directory = options.output / config.name
    if (state := find_state(directory)) is not None:
        config = options_from_dict(RunConfig, read_state(state).config, str(state))
    if state is None or read_state(state).progress.step < config.steps:
        _fit(config, network, directory)
    if read_state(saved_state(directory)).progress.step < config.steps:
        raise RunError(f"{directory}: was interrupted; give the command again, and it goes on")
    records = [record for record in read_records(directory / "metrics.jsonl") if _figures(record)]
    return {
        "name": config.name,
        "arm": name,
        "seed": config.seed,
        "parameters": parameter_count(network),
        "network": asdict(network),
        "learning_rate": config.optimizer.learning_rate,
        "steps": config.steps,
        "tokens": records[-1]["tokens"],
        "cpu_seconds": records[-1]["cpu_seconds"],
        "curve": [
            {**{key: record[key] for key in ("step", "tokens", "cpu_seconds")}, **_figures(record)}
            for record in records
        ],
    }


def _count(order: int, options: CompareOptions) -> dict[str, Any]:
    """An n-gram of the same text: what it is and how long it took."""
    directory = options.output / f"{order}-gram"
    if not directory.exists():
        build(options.prepared, directory, order)
    description = read_description(directory)
    return {
        "name": directory.name,
        "arm": directory.name,
        "seed": 0,
        "parameters": sum(description["counts"]),
        "tokens": description["text"]["tokens"],
        "cpu_seconds": description["seconds"],
    }


def _evaluate(name: str, network: AnyConfig | None, options: CompareOptions) -> dict[str, Any]:
    """Figures of a trained network or an n-gram, by language."""
    directory = options.output / name
    return kept(directory / "evaluation.json", lambda: _evaluate_now(directory, network, options))


def _evaluate_now(
    directory: Path, network: AnyConfig | None, options: CompareOptions
) -> dict[str, Any]:
    torch.set_num_threads(1)
    contestant = _contestant(directory, network)
    tokenizer = Tokenizer.load(directory / "tokenizer.model")
    files = read_files(options.text, None, None, QUESTION_SEED)
    questions = choose_items(files, tokenizer, options.lines, options.typing_lines, QUESTION_SEED)
    report = evaluate([contestant], questions, QUESTION_SEED)
    return {
        "questions_sha256": report["questions_sha256"],
        "bytes": contestant.about["bytes"],
        "seconds": report["contestants"][0]["seconds"],
        "languages": {
            language: {
                metric: {
                    "value": figure["values"][0],
                    "interval": figure["intervals"][0],
                    "n": figure["n"],
                }
                for metric, figure in summary["metrics"].items()
            }
            for language, summary in report["languages"].items()
        },
    }


def _contestant(directory: Path, sizes: AnyConfig | None) -> EvaluatedSystem:
    """What was trained or counted, behind the decoders that serve."""
    if sizes is None:
        return open_system(directory)
    state = saved_state(directory)
    config = options_from_dict(RunConfig, read_state(state).config, str(state))
    if not isinstance(sizes, NetworkConfig):
        return _not_exported(directory, state, config.name, sizes)
    target = directory / "checkpoint"
    if not target.exists():
        export(ExportOptions(directory, target, name=config.name, gate=False))
    checkpoint = load_checkpoint(target)
    calibration = replace(checkpoint.calibration, forward_weight=FORWARD_WEIGHT)
    predictor = Predictor(replace(checkpoint, calibration=calibration), open_runtime(checkpoint))
    return EvaluatedSystem(
        config.name, predictor, {"bytes": _bytes_below(target)}, checkpoint.capabilities
    )


def _not_exported(
    directory: Path, state: Path, name: str, sizes: TransformerConfig | KeyboardConfig
) -> EvaluatedSystem:
    """A network without graphs, behind a runtime of its own."""
    runtime: KeyboardRuntime | TransformerRuntime
    if isinstance(sizes, KeyboardConfig):
        keyboard = KeyboardNetwork(sizes)
        load_weights(state, keyboard)
        runtime = KeyboardRuntime(keyboard)
    else:
        transformer = Transformer(sizes)
        load_weights(state, transformer)
        runtime = TransformerRuntime(transformer)
    weights = 2 * parameter_count(sizes)  # as fp16, which is how checkpoints keep theirs
    tokenizer = directory / "tokenizer.model"
    checkpoint = Checkpoint(
        directory=directory,
        name=name,
        version="1",
        digest=hashlib.sha256((state / "weights.safetensors").read_bytes()).hexdigest(),
        network=runtime.sizes,
        calibration=Calibration(),
        tokenizer=Tokenizer.load(tokenizer),
        languages=("zh", "en"),
        word_end_probs=(0.0,) * sizes.vocabulary_size,
    )
    return EvaluatedSystem(
        name, Predictor(checkpoint, runtime), {"bytes": weights + tokenizer.stat().st_size}
    )


def _bytes_below(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())


def _figures(record: dict[str, Any]) -> dict[str, float]:
    """The held-out figures of a line of a run's log."""
    return {key: value for key, value in record.items() if key.startswith("heldout_")}


def _held_out(record: dict[str, Any]) -> float:
    """What tuning lowers: bits per character summed over languages, or a stacked network's nats a hidden token."""
    figures = _figures(record)
    bits = [value for key, value in figures.items() if "bits_per_character" in key]
    return sum(bits or figures.values())


def _published(options: CompareOptions) -> dict[str, Any]:
    """The options without the paths, which say nothing elsewhere."""
    return {
        key: value
        for key, value in asdict(options).items()
        if key not in ("prepared", "text", "output", "jobs")
    }
