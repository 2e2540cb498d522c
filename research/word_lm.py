"""Train a word language model of Penn Treebank or WikiText-2 from a TOML run file, or score it.

Training continues with ``--resume``. ``--scores`` writes every perplexity of
research/word_scores.py to ``scores.json`` in the run directory; run again, it continues with the
part it had reached.
"""

import hashlib
import json
import math
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic.dataclasses import dataclass as pydantic_dataclass
from torch import Tensor, nn
from tqdm import tqdm

from model.config import STRICT
from model.errors import DivergedError, RunError
from model.network import State
from model.runtime import Int64Array
from research.word_corpus import WordCorpus, read_word_corpus
from research.word_network import WordNetwork, WordNetworkOptions
from research.word_scores import score_continuous, score_dynamic, score_ngram
from training.cached_json import cached_json, require_same_settings, write_json
from training.config import Amount, Count, OptimizerOptions, Size, read_options
from training.interrupts import stop_signals
from training.loss import full_cross_entropy
from training.options import argument, option
from training.run_log import RunLog
from training.run_state import (
    Progress,
    StateInfo,
    find_state,
    load_optimizer,
    load_weights,
    read_state,
    save_state,
    saved_state,
)
from training.schedule import learning_rate
from training.trainer import make_optimizer

# Valid text is read in this many rows during training, and in one row by the scores.
VALID_ROWS = 16
VALID_WINDOW = 64
# Each epoch starts so many words later, modulo a window, so that windows begin at other words.
EPOCH_SHIFT = 7919
# Settings that do not change the result of a run.
MACHINE_SETTINGS = ("threads", "device", "save_every_seconds", "evaluate_every_epochs")


@pydantic_dataclass(frozen=True, slots=True, config=STRICT)
class WordRun:
    """A run file; its other settings mean the same as in a run file of the product's network.

    Attributes:
        train, valid, test: files of words separated by spaces; may be compressed.
        rows: parts of the training text that are read side by side, each with its own state.
        window_words: steps of truncated back-propagation; the optimizer's steps are windows.
        activation_penalty: AR, times the mean square of the dropped last outputs
            (arXiv:1708.02182).
        slowness_penalty: TAR, times the mean square of the difference of neighbouring raw outputs.
        evaluate_every_epochs: epochs between perplexities of valid text in the log.
    """

    name: str
    train: str
    valid: str
    test: str
    network: WordNetworkOptions
    optimizer: OptimizerOptions = OptimizerOptions()
    epochs: Size = 30
    rows: Size = 64
    window_words: Size = 35
    activation_penalty: Amount = 0.0
    slowness_penalty: Amount = 0.0
    evaluate_every_epochs: Size = 1
    seed: Count = 1
    threads: Size = 1
    device: str = "cpu"
    precision: Literal["fp32", "bf16"] = "fp32"
    save_every_seconds: Amount = 120.0

    def read_corpus(self) -> WordCorpus:
        """Read the three files."""
        return read_word_corpus(Path(self.train), Path(self.valid), Path(self.test))

    def windows(self, corpus: WordCorpus) -> int:
        """Return the windows of an epoch.

        Raises:
            RunError: the text is too short for one.
        """
        windows = len(corpus.train) // self.rows // self.window_words - 1
        if windows < 1:
            words = len(corpus.train)
            raise RunError(f"{self.train}: {words} words; give fewer rows or window_words")
        return windows


@dataclass(frozen=True, slots=True)
class WordOptions:
    """Options of the command."""

    run_file: Path = argument("TOML run file, such as research/runs/ptb-cpu.toml")
    output: Path | None = option("run directory; runs/NAME unless given", None)
    resume: bool = option("continue from the last saved state", False)
    scores: bool = option("score the trained network on the CPU; train nothing", False)
    ngram: int | None = option("score a Kneser-Ney n-gram of this order; train nothing", None)


def run(options: WordOptions) -> int:
    """Train to the end or until a signal, or score; return 0."""
    config: WordRun = read_options(WordRun, options.run_file)
    directory = options.output or Path("runs") / config.name
    if options.ngram is not None:
        found = score_ngram(config.read_corpus(), options.ngram)
        write_json(directory / f"{options.ngram}-gram.json", found)
    elif options.scores:
        found = score(config, directory)
        write_json(directory / "scores.json", found)
    else:
        trainer = WordTrainer(config, directory, resume=options.resume)
        with stop_signals() as stopping:
            finished = trainer.run(stopping)
        found = {"run": str(directory), "finished": finished}
    sys.stdout.write(json.dumps(found, indent=1) + "\n")
    return 0


def score(config: WordRun, directory: Path) -> dict[str, Any]:
    """Return every perplexity of a finished run; needs its weights and no other part of its state.

    Raises:
        RunError: the run is not finished, or the parts in ``scores/`` belong to other weights.
    """
    torch.set_num_threads(config.threads)
    corpus = config.read_corpus()
    state = saved_state(directory)
    progress = _check_state(state, config, corpus)
    steps = config.windows(corpus) * config.epochs
    if progress.step != steps:
        raise RunError(
            f"{directory}: is at step {progress.step} of {steps}; finish it with --resume"
        )
    network = WordNetwork(len(corpus.words), config.network)
    load_weights(state, network)
    network.eval()
    parts = directory / "scores"
    weights = hashlib.sha256((state / "weights.safetensors").read_bytes()).hexdigest()
    require_same_settings(parts, {"weights": weights, "corpus": corpus.sha256})
    scores = {
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        **cached_json(parts / "continuous.json", lambda: score_continuous(network, corpus)),
        "dynamic": cached_json(parts / "dynamic.json", lambda: score_dynamic(network, corpus)),
    }
    return {"run": asdict(config), "progress": asdict(progress), "scores": scores}


def _check_state(state: Path, config: WordRun, corpus: WordCorpus) -> Progress:
    """Return the progress of a saved state.

    Raises:
        RunError: it is damaged, or belongs to another run or text.
    """
    info = read_state(state)
    now = json.loads(json.dumps(asdict(config)))
    for key in now.keys() - MACHINE_SETTINGS:
        if now[key] != info.config.get(key):
            raise RunError(f"{state}: has another {key}; resume with its own run file")
    if info.data_sha256 != corpus.sha256:  # an id would mean another word
        raise RunError(
            f"{state}: was trained on corpus {info.data_sha256[:12]}, but the files are"
            f" {corpus.sha256[:12]}; restore them, or start another run"
        )
    return info.progress


def columns(ids: Int64Array, rows: int) -> Tensor:
    """Cut a text into *rows* equal parts side by side, (length, rows) int64; drop the rest."""
    length = len(ids) // rows
    return torch.from_numpy(np.ascontiguousarray(ids[: length * rows].reshape(rows, length).T))


class WordTrainer:
    """A run in progress.

    Raises:
        RunError: nothing to resume, a run that would be overwritten, or other options.
    """

    def __init__(self, config: WordRun, directory: Path, *, resume: bool = False) -> None:
        self.config, self.directory = config, directory
        torch.set_num_threads(config.threads)
        torch.manual_seed(config.seed)
        self.device = torch.device(config.device)
        self.corpus = config.read_corpus()
        self.network = WordNetwork(len(self.corpus.words), config.network).to(self.device)
        self.optimizer = make_optimizer(config.optimizer, self.network)
        self.text = columns(self.corpus.train, config.rows).to(self.device)
        rows = max(1, min(VALID_ROWS, len(self.corpus.valid) // 2))
        self.valid_text = columns(self.corpus.valid, rows).to(self.device)
        self.windows = config.windows(self.corpus)
        self.steps = self.windows * config.epochs
        self.progress = Progress()
        self.states = self.network.initial_states(config.rows)
        if resume:
            self._load(saved_state(directory))
        elif find_state(directory) is not None:
            raise RunError(f"{directory}: has a run already; give --resume, or another --output")

    def run(self, stopping: list[int]) -> bool:
        """Train to the end or until *stopping* has a signal, then save; return True at the end."""
        config, progress = self.config, self.progress
        write_json(self.directory / "config.json", asdict(config))
        log = RunLog(self.directory, progress.step)
        cpu_start = time.process_time() / config.threads - progress.cpu_seconds
        wall_start = time.monotonic() - progress.wall_seconds
        last_saved = time.monotonic()
        bar = tqdm(total=self.steps, initial=progress.step, unit="step", disable=None)
        nats: list[float] = []
        while not stopping and progress.step < self.steps:
            nats.append(self._update())
            progress.step += 1
            progress.epoch, progress.index = divmod(progress.step, self.windows)
            progress.cpu_seconds = time.process_time() / config.threads - cpu_start
            progress.wall_seconds = time.monotonic() - wall_start
            bar.update()
            if progress.index == 0:
                self.states = self.network.initial_states(config.rows)
                if not progress.epoch % config.evaluate_every_epochs or progress.step == self.steps:
                    self._log(log, float(np.mean(nats)))
                    nats.clear()
            if time.monotonic() - last_saved > config.save_every_seconds:
                self.save()
                last_saved = time.monotonic()
        bar.close()
        self.save()
        log.close()
        return progress.step >= self.steps

    def _log(self, log: RunLog, loss: float) -> None:
        values = {
            "tokens": self.progress.tokens,
            "cpu_seconds": round(self.progress.cpu_seconds, 1),
            "loss_next": loss,
            "heldout_perplexity": self.valid_perplexity(),
        }
        log.write(self.progress.step, values)

    def _update(self) -> float:
        """Train on one window; return nats per word."""
        config, step = self.config, self.progress.step
        skipped = self.progress.epoch * EPOCH_SHIFT % config.window_words
        begin = skipped + self.progress.index * config.window_words
        end = begin + config.window_words
        inputs, targets = self.text[begin:end], self.text[begin + 1 : end + 1]
        # A resumed run must draw the dropout masks of an uninterrupted one.
        torch.manual_seed(config.seed * 1_000_003 + step)
        self.network.train()
        outputs, raw, states = self._read(inputs, self.states)
        loss = self._nats(outputs, targets) / targets.numel()
        activation = outputs.float().square().mean() * config.activation_penalty
        slowness = raw.float().diff(dim=0).square().mean() * config.slowness_penalty
        self.optimizer.zero_grad(set_to_none=True)
        (loss + (activation + slowness)).backward()  # type: ignore[no-untyped-call]
        limit = config.optimizer.clip_norm or math.inf
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), limit)
        if not (math.isfinite(loss.item()) and math.isfinite(norm.item())):
            raise DivergedError(
                f"step {step}: loss {loss.item()}, gradient norm {norm.item()}; start again with"
                " a lower learning rate and another --output"
            )
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(config.optimizer, step, self.steps)
        self.optimizer.step()
        self.states = states
        self.progress.tokens += inputs.numel()
        return loss.item()

    def _read(self, words: Tensor, states: list[State]) -> tuple[Tensor, Tensor, list[State]]:
        """Run the network in the precision of the run."""
        dtype = torch.bfloat16 if self.config.precision == "bf16" else torch.float32
        with torch.autocast(self.device.type, dtype, enabled=dtype == torch.bfloat16):
            outputs: tuple[Tensor, Tensor, list[State]] = self.network(words, states, dtype)
        return outputs

    def _nats(self, outputs: Tensor, words: Tensor) -> Tensor:
        """Sum nats over a window: outputs (T, B, e), words (T, B) int64."""
        weight, bias = self.network.embedding.weight, self.network.output_bias
        return full_cross_entropy(outputs.flatten(0, 1), words.flatten(), weight, bias)

    @torch.no_grad()
    def valid_perplexity(self) -> float:
        """Return the perplexity of valid text in a few rows; a little above the final score."""
        self.network.eval()
        text, nats = self.valid_text, 0.0
        states = self.network.initial_states(text.shape[1])
        for begin in range(0, len(text) - 1, VALID_WINDOW):
            window = text[begin : begin + VALID_WINDOW + 1]
            outputs, _, states = self._read(window[:-1], states)
            nats += self._nats(outputs, window[1:]).item()
        return math.exp(nats / text[1:].numel())

    def save(self) -> None:
        """Write the state that ``--resume`` continues from."""
        carried = torch.cat([part for state in self.states for part in state], dim=1)
        info = StateInfo(self.progress, asdict(self.config), self.corpus.sha256)
        save_state(self.directory / "state", self.network, self.optimizer, carried, info)

    def _load(self, state: Path) -> None:
        self.progress = _check_state(state, self.config, self.corpus)
        load_weights(state, self.network)
        carried = load_optimizer(state, self.optimizer, random_state=True).to(self.device)
        widths = [part.shape[1] for state in self.states for part in state]
        parts = list(torch.split(carried, widths, dim=1))
        self.states = [(parts[n], parts[n + 1]) for n in range(0, len(parts), 2)]
