"""Penn Treebank and WikiText-2: `python -m research word-lm RUN.toml [--resume]`, then `--scores`.

Trains a language model of words on continuous text. Interrupted, it goes on with --resume. `--scores` scores what was
trained (research/word_scores.py) and writes scores.json into the run directory; interrupted, it goes on with the part
that it was at.
"""

import argparse
import hashlib
import json
import math
import sys
import time
from dataclasses import asdict, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic.dataclasses import dataclass
from torch import Tensor, nn
from tqdm import tqdm

from model.errors import DivergedError, RunError
from research.cached_json import do_all, kept
from research.word_corpus import Ids, WordCorpus, read_word_corpus
from research.word_network import WordNetwork, WordNetworkOptions
from research.word_scores import (
    dynamic_nats,
    fit_dynamic,
    grids,
    perplexity,
    score_continuous,
    score_ngram,
    score_reset,
)
from training.config import STRICT, OptimizerOptions, read_options
from training.loss import full_cross_entropy
from training.run_log import RunLog
from training.run_state import (
    Progress,
    StateInfo,
    find_state,
    keep_to,
    load_optimizer,
    load_weights,
    read_state,
    save_state,
    saved_state,
    write_whole,
)
from training.schedule import learning_rate
from training.trainer import make_optimizer, stop_signals

# Rows of valid text that are read side by side while training goes on; the scores at the end read one.
VALID_ROWS = 16


@dataclass(frozen=True, slots=True, config=STRICT)
class WordRun:
    """A whole run.

    Attributes:
        name: of the run directory, under ``runs/`` unless ``--output`` says otherwise.
        train, valid, test: files of words separated by spaces, compressed or not.
        network: sizes and dropout.
        optimizer: peak, schedule, clipping; ``warmup_steps`` and ``decay_steps`` count windows.
        epochs: passes over the training text.
        rows: the text is cut into so many tokens that are read side by side, each carrying its state on.
        window_words: steps of truncated back-propagation.
        activation_penalty: AR, times the mean square of the dropped last outputs (Merity et al. 2017).
        slowness_penalty: TAR, times the mean square of the difference of neighbouring raw outputs.
        evaluate_every_epochs: passes between perplexities of valid text, and lines of the log.
        seed: of weights, dropout and where windows begin.
        threads, device, precision: as in a run file of the product's network.
        save_every_seconds: a snapshot that ``--resume`` goes on from.
    """

    name: str
    train: str
    valid: str
    test: str
    network: WordNetworkOptions
    optimizer: OptimizerOptions = field(default_factory=OptimizerOptions)
    epochs: int = 30
    rows: int = 64
    window_words: int = 35
    activation_penalty: float = 0.0
    slowness_penalty: float = 0.0
    evaluate_every_epochs: int = 1
    seed: int = 1
    threads: int = 1
    device: str = "cpu"
    precision: Literal["fp32", "bf16"] = "fp32"
    save_every_seconds: float = 120.0

    def __post_init__(self) -> None:
        for name in ("epochs", "rows", "window_words", "evaluate_every_epochs", "threads"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "run_file", type=Path, help="a TOML run file, such as research/runs/ptb-cpu.toml"
    )
    parser.add_argument("--output", type=Path, help="run directory; default runs/NAME")
    parser.add_argument("--resume", action="store_true", help="go on from the last saved state")
    parser.add_argument(
        "--ngram",
        type=int,
        metavar="ORDER",
        help="train nothing; score a Kneser-Ney n-gram instead",
    )
    parser.add_argument(
        "--scores",
        action="store_true",
        help="train nothing; score what was saved on valid and test",
    )
    parser.add_argument(
        "--jobs", type=int, default=1, help="of scores, processes side by side (default: 1)"
    )


def run(arguments: argparse.Namespace) -> int:
    """Train to the end, or until a signal, or score; 0 on success."""
    config: WordRun = read_options(WordRun, arguments.run_file)
    directory = arguments.output or Path("runs") / config.name
    if arguments.ngram is not None:
        corpus = read_word_corpus(Path(config.train), Path(config.valid), Path(config.test))
        counted = score_ngram(corpus, arguments.ngram)
        directory.mkdir(parents=True, exist_ok=True)
        write_whole(
            directory / f"{arguments.ngram}-gram.json",
            (json.dumps(counted, indent=1) + "\n").encode(),
        )
        sys.stdout.write(json.dumps(counted, indent=1) + "\n")
        return 0
    if arguments.scores:
        described = score(config, directory, arguments.jobs)
        write_whole(directory / "scores.json", (json.dumps(described, indent=1) + "\n").encode())
        sys.stdout.write(json.dumps(described["scores"], indent=1) + "\n")
        return 0
    trainer = WordTrainer(config, directory, resume=arguments.resume)
    with stop_signals() as stopping:
        finished = trainer.run(stopping)
    sys.stderr.write(
        f"{'finished' if finished else 'interrupted; --resume goes on'}: {trainer.directory}\n"
    )
    return 0


def score(config: WordRun, directory: Path, jobs: int = 1) -> dict[str, Any]:
    """Every perplexity of a run that is at its end, on the CPU wherever it was trained; the run stays as it is.

    Parts that are done are kept in the directory ``scores`` of the run.

    Returns:
        ``run``, ``progress`` and ``scores``: each perplexity on ``valid`` and ``test``, the settings that valid chose.

    Raises:
        RunError: parts of other weights or grids are there; what :func:`open_trained` raises.
        CorpusError: a text cannot be read.
    """
    network, corpus, progress = open_trained(config, directory)
    parts = directory / "scores"
    parts.mkdir(exist_ok=True)
    weights = hashlib.sha256(
        (saved_state(directory) / "weights.safetensors").read_bytes()
    ).hexdigest()
    keep_to(parts, {"weights": weights, "corpus": corpus.sha256, **grids()})
    given: dict[str, float] = {}
    first = [(config, directory, name, given) for name in ("continuous", "reset", "settings")]
    continuous, reset, settings = do_all(_score_part, first, jobs)
    learning = [(config, directory, f"dynamic-{name}", settings) for name in ("valid", "test")]
    valid, test = do_all(_score_part, learning, jobs)
    scores = {
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "continuous": continuous["continuous"],
        "reset": reset,
        "cache": continuous["cache"],
        "dynamic": {**settings, "valid": valid["perplexity"], "test": test["perplexity"]},
    }
    return {"run": asdict(config), "progress": asdict(progress), "scores": scores}


def _score_part(
    config: WordRun, directory: Path, part: str, settings: dict[str, float]
) -> dict[str, Any]:
    """One part of the scores, kept; *settings* are those of dynamic evaluation."""

    def make() -> dict[str, Any]:
        network, corpus, _ = open_trained(config, directory)
        if part == "continuous":
            return score_continuous(network, corpus)
        if part == "reset":
            return score_reset(network, corpus)
        if part == "settings":
            return fit_dynamic(network, corpus.valid)
        text = getattr(corpus, part.removeprefix("dynamic-"))
        return {"perplexity": perplexity(dynamic_nats(network, text, **settings))}

    return kept(directory / "scores" / f"{part}.json", make)


def open_trained(config: WordRun, directory: Path) -> tuple[WordNetwork, WordCorpus, Progress]:
    """What a run that is at its end has made, on the CPU and in evaluation mode, its text, and how it got there.

    Of its state the weights are enough; the optimizer's half may be missing.

    Raises:
        RunError: the run is not at its end, or is another one, or has saved nothing.
        CorpusError: a text cannot be read.
    """
    torch.set_num_threads(config.threads)
    corpus = read_word_corpus(Path(config.train), Path(config.valid), Path(config.test))
    snapshot = saved_state(directory)
    progress = _check_snapshot(snapshot, config, corpus)
    steps = _windows(config, len(corpus.train) // config.rows, corpus) * config.epochs
    if progress.step != steps:
        raise RunError(
            f"{directory}: is at step {progress.step} of {steps}; --resume it to its end first"
        )
    network = WordNetwork(len(corpus.words), config.network)
    load_weights(snapshot, network)
    return network.eval(), corpus, progress


def _windows(config: WordRun, length: int, corpus: WordCorpus) -> int:
    """Windows of an epoch, all whole, of text that is *length* words long in each row.

    Raises:
        RunError: not one.
    """
    windows = (length - config.window_words) // config.window_words
    if windows < 1:
        raise RunError(
            f"rows is {config.rows} and window_words {config.window_words}, too many for"
            f" {len(corpus.train)} words; give fewer"
        )
    return windows


def _check_snapshot(snapshot: Path, config: WordRun, corpus: WordCorpus) -> Progress:
    """Where a snapshot stands.

    Raises:
        RunError: it is torn, or one of another run or text.
    """
    info = read_state(snapshot)
    progress, saved, read = info.progress, info.config, info.data_sha256
    of_the_machine = ("threads", "device", "save_every_seconds", "evaluate_every_epochs")
    before = {key: value for key, value in saved.items() if key not in of_the_machine}
    now = json.loads(json.dumps(asdict(config)))
    changed = sorted(key for key, value in before.items() if now.get(key) != value)
    if changed:
        raise RunError(
            f"{snapshot}: was trained with another {changed[0]}; resume with its own run file"
        )
    if read and read != corpus.sha256:  # an id would name another word
        raise RunError(
            f"{snapshot}: was trained on a corpus {read[:12]}, but {config.train}, {config.valid} and"
            f" {config.test} are {corpus.sha256[:12]}; put its own files there, or begin another run"
        )
    return progress


def columns(ids: Ids, rows: int, path: str) -> Tensor:
    """Cut a text into *rows* equal parts that stand side by side, (length, rows) int64; what is left over is dropped.

    Raises:
        RunError: fewer than two words a row, with *path*, which the text was read from.
    """
    length = len(ids) // rows
    if length < 2:
        raise RunError(
            f"{path}: has {len(ids)} words, too few for {rows} rows; give fewer rows, or more text"
        )
    return torch.from_numpy(np.ascontiguousarray(ids[: length * rows].reshape(rows, length).T))


class WordTrainer:
    """A run in progress.

    Raises:
        RunError: nothing to resume, a run that would be overwritten, a resumed run of other options, no such device.
        CorpusError: a text cannot be read.
    """

    def __init__(self, config: WordRun, directory: Path, *, resume: bool = False) -> None:
        self.config, self.directory = config, directory
        torch.set_num_threads(config.threads)
        torch.manual_seed(config.seed)
        self.device = torch.device(config.device)
        self.dtype = torch.bfloat16 if config.precision == "bf16" else torch.float32
        self.corpus = read_word_corpus(Path(config.train), Path(config.valid), Path(config.test))
        self.network = WordNetwork(len(self.corpus.words), config.network).to(self.device)
        self.optimizer = make_optimizer(config.optimizer, self.network)
        self.text = columns(self.corpus.train, config.rows, config.train).to(self.device)
        valid_rows = max(1, min(VALID_ROWS, len(self.corpus.valid) // 2))
        self.valid_text = columns(self.corpus.valid, valid_rows, config.valid).to(self.device)
        self.windows = _windows(config, len(self.text), self.corpus)  # of an epoch, all whole
        self.progress = Progress()
        self.states = self.network.initial_states(config.rows)
        if resume:
            self._load(saved_state(directory))
        elif find_state(directory) is not None:
            raise RunError(f"{directory}: holds a run already; give --resume, or another --output")

    @property
    def steps(self) -> int:
        """Updates of the whole run."""
        return self.windows * self.config.epochs

    def run(self, stopping: list[int]) -> bool:
        """Train until the end or until *stopping* holds a signal, then save; whether it is the end."""
        config, progress = self.config, self.progress
        self.directory.mkdir(parents=True, exist_ok=True)
        write_whole(self.directory / "config.json", json.dumps(asdict(config), indent=1).encode())
        log = RunLog(self.directory, progress.step)
        started = (
            time.process_time() / config.threads - progress.seconds,
            time.monotonic() - progress.wall_seconds,
        )
        last_saved = time.monotonic()
        bar = tqdm(
            total=self.steps,
            initial=progress.step,
            unit="step",
            smoothing=0.05,
            mininterval=1.0,
            disable=None,
        )
        nats: list[float] = []
        while not stopping and progress.step < self.steps:
            nats.append(self._update())
            progress.step += 1
            progress.epoch, progress.index = divmod(progress.step, self.windows)
            progress.seconds = time.process_time() / config.threads - started[0]
            progress.wall_seconds = time.monotonic() - started[1]
            bar.update()
            if progress.index == 0:
                self.states = self.network.initial_states(config.rows)
            if (
                progress.step % (self.windows * config.evaluate_every_epochs) == 0
                or progress.step == self.steps
            ):
                values = {
                    "loss_next": float(np.mean(nats)),
                    "heldout_perplexity": self.valid_perplexity(),
                }
                nats.clear()
                bar.set_postfix_str(f"valid {values['heldout_perplexity']:.2f}")
                rate = learning_rate(config.optimizer, progress.step - 1, self.steps)
                counters = {"tokens": progress.tokens, "cpu_seconds": round(progress.seconds, 1)}
                log.write(progress.step, {**counters, "learning_rate": rate, **values})
            if time.monotonic() - last_saved > config.save_every_seconds:
                self.save()
                last_saved = time.monotonic()
        bar.close()
        self.save()
        log.close()
        return progress.step >= self.steps

    def _update(self) -> float:
        """One window; nats a word."""
        config, step = self.config, self.progress.step
        # Each epoch leaves out some words at the start, so that windows do not begin at the same words every time.
        left_out = self.progress.epoch * 7919 % config.window_words
        begin = left_out + self.progress.index * config.window_words
        end = begin + config.window_words
        inputs, targets = self.text[begin:end], self.text[begin + 1 : end + 1]
        torch.manual_seed(
            config.seed * 1_000_003 + step
        )  # so that a resumed run drops what an unbroken one drops
        self.network.train()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.dtype == torch.bfloat16):
            outputs = self.network(inputs, self.states, self.dtype)
        loss = self._nats(outputs.dropped, targets) / targets.numel()
        penalty = outputs.dropped.float().square().mean() * config.activation_penalty
        penalty = (
            penalty + outputs.raw.float().diff(dim=0).square().mean() * config.slowness_penalty
        )
        self.optimizer.zero_grad(set_to_none=True)
        (loss + penalty).backward()
        norm = nn.utils.clip_grad_norm_(
            self.network.parameters(), config.optimizer.clip_norm or math.inf
        )
        if not (math.isfinite(loss.item()) and math.isfinite(norm.item())):
            raise DivergedError(
                f"step {step}: loss {loss.item()}, gradient norm {norm.item()}; begin a new run at a lower learning"
                " rate, in another --output"
            )
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(config.optimizer, step, self.steps)
        self.optimizer.step()
        self.states = outputs.states
        self.progress.tokens += inputs.numel()
        return loss.item()

    def _nats(self, outputs: Tensor, words: Tensor) -> Tensor:
        """Summed over a window: outputs (T, B, e), words (T, B) int64."""
        weight, bias = self.network.embedding.weight, self.network.output_bias
        return full_cross_entropy(outputs.flatten(0, 1), words.flatten(), weight, bias)

    @torch.no_grad()
    def valid_perplexity(self) -> float:
        """Perplexity of valid text, a few rows side by side: a little above that of the scores."""
        self.network.eval()
        text = self.valid_text
        states, nats = self.network.initial_states(text.shape[1]), 0.0
        for begin in range(0, len(text) - 1, 64):
            window = text[begin : begin + 65]
            with torch.autocast(
                self.device.type, torch.bfloat16, enabled=self.dtype == torch.bfloat16
            ):
                outputs = self.network(window[:-1], states, self.dtype)
            nats += self._nats(outputs.dropped, window[1:]).item()
            states = outputs.states
        return math.exp(nats / (text[1:].numel()))

    def save(self) -> None:
        """Write the snapshot that ``--resume`` goes on from."""
        carried = torch.cat([part for state in self.states for part in state], dim=1)
        info = StateInfo(self.progress, asdict(self.config), self.corpus.sha256)
        save_state(self.directory / "state", self.network, self.optimizer, carried, info)

    def _load(self, snapshot: Path) -> None:
        self.progress = _check_snapshot(snapshot, self.config, self.corpus)
        load_weights(snapshot, self.network)
        carried = load_optimizer(snapshot, self.optimizer, random_state=True).to(self.device)
        widths = [part.shape[1] for state in self.states for part in state]
        parts = list(torch.split(carried, widths, dim=1))
        self.states = [(parts[n], parts[n + 1]) for n in range(0, len(parts), 2)]
