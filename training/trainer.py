"""Train a network: `python -m training train RUN.toml`.

Truncated back-propagation through time: a batch is one window, and the state of the window before
enters it detached (Williams and Peng 1990). A run in fp32 on a CPU that is interrupted and resumed
ends in the same weights, bit for bit.
"""

import math
import sys
import time
from collections.abc import Sequence
from contextlib import closing, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from model.checkpoint import is_checkpoint
from model.errors import DivergedError, RunError
from model.files import write_atomically
from model.network import Network
from training.config import OptimizerOptions, RunConfig, read_run
from training.data.batches import Batch, BatchStream, held_out_batches
from training.data.gaps import TokenFlags
from training.data.shards import Prepared, open_prepared, weigh_sources
from training.divergence import LossWatch, diverged
from training.interrupts import stop_signals
from training.loss import (
    LanguageModel,
    Losses,
    NegativeSampler,
    batch_losses,
    count_tokens,
    set_biases,
)
from training.options import argument, capped_threads, option
from training.progress import progress_bar, write_line
from training.ranks import Ranks, choose_device, joined
from training.recorded_data import check_same_run, find_data
from training.run_log import Means, RunLog, held_out_line, held_out_loss
from training.run_state import (
    BEST,
    Progress,
    StateInfo,
    copy_state,
    find_state,
    load_checkpoint_weights,
    load_optimizer,
    load_weights,
    read_state,
    save_state,
    saved_state,
)
from training.schedule import learning_rate


@dataclass(frozen=True, slots=True)
class TrainOptions:
    """Options of the command."""

    run_file: Path = argument("run file; begin with training/runs/small.toml", "RUN.toml")
    output: Path | None = option("run directory (default: runs/ and the run's name)", None)
    resume: bool = option("continue from the last saved state", False)
    minutes: float | None = option("CPU minutes per thread; replaces the run file's", None)
    prepared: Path | None = option("prepared data; replaces the run file's", None, metavar="DIR")


def run(options: TrainOptions) -> int:
    """Run the command; 0 at the end of the run, 130 if a signal stopped it."""
    config = read_run(options.run_file, options.prepared, options.minutes)
    directory = options.output or Path("runs") / config.name
    with joined(config):
        finished = train(config, directory, resume=options.resume)
        if Ranks().is_first:
            step = read_state(directory / "state").progress.step
            sys.stderr.write(f"saved: {directory / 'state'}, step {step}\n")
            if not finished:
                sys.stderr.write("interrupted; the same command with --resume goes on\n")
            elif step < config.steps:
                sys.stderr.write(f"the minutes end before step {config.steps}; --resume goes on\n")
    return 0 if finished else 130


def train(
    config: RunConfig,
    directory: Path,
    *,
    resume: bool = False,
    network: LanguageModel | None = None,
) -> bool:
    """Train until the last step, the time limit, SIGINT or SIGTERM; return False after a signal.

    The run directory *directory* receives every file. *resume* continues from the last state saved
    there. *network* is trained if *config* has none.

    Raises:
        RunError: no such device, nothing to resume, a run that would be overwritten, a resumed run
            of other sizes or data, a full disk.
        DivergedError: the loss is not a number or worse than a uniform guess.
        PreparedDataError: the prepared data are missing or damaged.
        OSError: the run directory is not writable.
    """
    trainer = Trainer(config, directory, resume=resume, network=network)
    with stop_signals() as stopping:
        trainer.run(stopping)
        return trainer.is_finished and not trainer.ranks.any(stopping)


class Trainer:
    """A run in progress. Its arguments and errors are those of :func:`train`."""

    def __init__(
        self,
        config: RunConfig,
        directory: Path,
        *,
        resume: bool = False,
        network: LanguageModel | None = None,
    ) -> None:
        self.ranks = Ranks()
        threads = capped_threads(config.threads, self.ranks.on_this_machine)
        self.config = config = replace(config, threads=threads)
        self.directory = directory
        torch.set_num_threads(config.threads)
        torch.manual_seed(config.seed)
        self.device = choose_device(config.device)
        info = read_state(saved_state(directory)) if resume else None
        prepared = open_prepared(find_data(config, directory, info))
        chosen: Network | LanguageModel | None = network
        if config.network is not None:
            chosen = Network(config.network, config.dropout, config.weight_drop)
        if chosen is None:
            raise RunError("there is no [network]; write its sizes into the run file")
        self.network = chosen.to(self.device)
        _check(config, self.network, prepared)
        self.sources = weigh_sources(prepared.sources, config.data.source_weights)
        self.flags = TokenFlags.of(prepared.tokenizer)
        counts = count_tokens(self.sources, prepared.tokenizer.size)
        set_biases(self.network, counts)
        self.optimizer = make_optimizer(config.optimizer, self.network)
        states = self.network.initial_state("forward", config.data.rows)
        self.carried_states = self.ranks.rows(states)
        self.progress = Progress()
        self._data_sha256 = prepared.sha256
        self._base: dict[str, Any] | None = None
        self._load(info)
        self.log: RunLog | None = None
        if self.ranks.is_first:
            directory.mkdir(parents=True, exist_ok=True)
            write_atomically(directory / "tokenizer.model", prepared.tokenizer.model_proto)
            self.log = RunLog(directory, self.progress.step)
        negatives = config.loss.sampled_negatives
        self.sampler = NegativeSampler(counts, negatives, self.device) if negatives else None
        begin = self.progress.epoch, self.progress.index
        self.batches = BatchStream(
            self.sources, self.flags, config.data, config.seed, *begin, config.loader_processes
        )
        self.held_out = held_out_batches(prepared.held_out, self.flags, config.data)
        self.watch = LossWatch(prepared.tokenizer.size)
        self._last_batch: Batch | None = None

    def _load(self, info: StateInfo | None) -> None:
        """Start from the saved state of *info*, from another run or checkpoint, or fresh."""
        if info is not None:
            self._resume(saved_state(self.directory), info)
        elif find_state(self.directory) is not None:
            raise RunError(
                f"{self.directory}: contains a run already; give --resume, or another --output"
            )
        elif self.config.start_from:
            start = Path(self.config.start_from)
            if is_checkpoint(start):
                self._base = load_checkpoint_weights(start, self.network)
            else:
                load_weights(start, self.network)
                load_optimizer(start, self.optimizer, random_state=False)

    def _resume(self, state: Path, info: StateInfo) -> None:
        check_same_run(info, self.config, self._data_sha256, state)
        self.progress, self._base = info.progress, info.base
        if self.progress.best_step == self.progress.step:  # a crash may have come before the copy
            self._keep_best(state)
        load_weights(state, self.network)
        carried_states = load_optimizer(state, self.optimizer, random_state=True)
        self.carried_states = self.ranks.rows(carried_states).to(self.device)

    def run(self, stopping: list[int]) -> None:
        """Train until the end or until *stopping* has a signal, then save."""
        config, progress = self.config, self.progress
        if config.keep_best and not any(characters for _, characters in self.held_out.values()):
            raise RunError(
                f"{config.data.prepared}: keep_best needs held-out text; prepare with"
                " --held-out-share above 0"
            )
        cpu_start = time.process_time() / config.threads - progress.cpu_seconds
        wall_start = time.monotonic() - progress.wall_seconds
        last_saved, means = time.monotonic(), Means()
        steps = config.steps or None
        others = {"smoothing": 0.05, "disable": not self.ranks.is_first}
        bar = progress_bar("train", steps, "steps", progress.step, **others)
        log = closing(self.log) if self.log else nullcontext()
        with closing(self.batches), log, closing(bar):
            while not self.ranks.any(stopping):
                finished = self.is_finished
                if self._evaluation_is_due(finished):
                    if finished:  # a kill may follow a signal during the evaluation
                        self.save()
                    self._evaluate(stopping)
                    continue  # a signal may have come
                if finished:
                    break
                means.add(*self.update(next(self.batches)))
                progress.step += 1
                progress.epoch, progress.index = self.batches.epoch, self.batches.index
                seconds = time.process_time() / config.threads - cpu_start
                progress.cpu_seconds = self.ranks.largest(seconds)
                progress.wall_seconds = time.monotonic() - wall_start
                bar.update()
                if progress.step % config.log_every_steps == 0:
                    values, means = means.figures(), Means()
                    loss, rate = next(iter(values.values())), values["tokens_per_second"]
                    bar.set_postfix_str(f"loss {loss:.3f}, {rate:.0f} tokens/s", refresh=False)
                    self._write(values)
                if self.watch.has_diverged():
                    raise self._diverged(str(self.watch))
                is_late = time.monotonic() - last_saved > config.save_every_seconds
                if self.ranks.any(is_late) and self._is_good():
                    self.save()
                    last_saved = time.monotonic()
            self.save()

    def _evaluation_is_due(self, finished: bool) -> bool:
        """Return True at steps that do not depend on where a run was interrupted."""
        config, progress = self.config, self.progress
        every = config.evaluate_every_steps
        planned = every > 0 and progress.step % every == 0 and (progress.step or config.keep_best)
        return progress.step != progress.evaluated_step and bool(planned or finished)

    def _evaluate(self, stopping: list[int]) -> None:
        """Print and log held-out figures, and keep the state if it is the best so far."""
        figures = self.evaluate(stopping)
        if self.ranks.any(stopping):
            return  # a resumed run makes this evaluation anew
        progress = self.progress
        if not all(map(math.isfinite, figures.values())):
            raise self._diverged(f"held-out figures {figures}")
        progress.evaluated_step = progress.step
        self._write(figures)
        if figures and self.ranks.is_first:
            write_line(f"step {progress.step}: {held_out_line(figures)}")
        if self.config.keep_best:
            loss = self.held_out_loss(figures)
            if progress.step == 0:
                progress.first_loss = loss
            if progress.best_loss is None or loss < progress.best_loss:
                progress.best_step, progress.best_loss = progress.step, loss
                self.save()
                self._keep_best(self.directory / "state")

    def _keep_best(self, state: Path) -> None:
        if self.ranks.is_first:
            copy_state(state, self.directory / BEST)

    def held_out_loss(self, figures: dict[str, float]) -> float:
        """Return the mean of the figures of :meth:`evaluate`, weighted by characters."""
        return held_out_loss(figures, {code: count for code, (_, count) in self.held_out.items()})

    @property
    def is_finished(self) -> bool:
        """True after the last step, or if time is up."""
        config, progress = self.config, self.progress
        out_of_steps = config.steps > 0 and progress.step >= config.steps
        return out_of_steps or 0 < 60 * config.minutes <= progress.cpu_seconds

    def update(self, batch: Batch) -> tuple[Losses, int]:
        """Make one step of the optimizer; return its losses and the tokens of the batch.

        Raises:
            DivergedError: the loss or a gradient is not finite.
        """
        config, step = self.config, self.progress.step
        full = config.full_softmax_steps > 0 and step >= config.steps - config.full_softmax_steps
        # Negatives have a stream of random numbers of their own, apart from that of batches.
        rng = np.random.default_rng([config.seed, step, 1])
        self.network.train()
        self.ranks.seed_dropout(config.seed, step)
        losses, after = self._losses(batch, None if full else self.sampler, rng)
        self.optimizer.zero_grad(set_to_none=True)
        losses.total.backward()  # type: ignore[no-untyped-call]
        self.ranks.add_gradients(self.network)
        limit = config.optimizer.clip_norm or math.inf
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), limit).item()
        if not (math.isfinite(losses.per_target) and math.isfinite(norm)):
            raise self._diverged(f"loss {losses.per_target}, gradient norm {norm}")
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(config.optimizer, step, config.steps)
        self.optimizer.step()
        if batch.windows:
            self.carried_states = after
        self.progress.tokens += batch.tokens
        self._last_batch = batch
        self.watch.add(losses.per_target)
        return losses, batch.tokens

    def _losses(
        self, batch: Batch, sampler: NegativeSampler | None, rng: np.random.Generator
    ) -> tuple[Losses, Tensor]:
        config, batch = self.config, self.ranks.share(batch)
        dtype = torch.bfloat16 if config.precision == "bf16" else torch.float32
        if batch.windows:
            carried = torch.from_numpy(batch.continues).to(self.device).unsqueeze(1)
            states = self.carried_states * carried
        else:
            states = self.network.initial_state("forward", batch.forward_inputs.shape[1])
        losses, after = batch_losses(self.network, batch, states, config.loss, dtype, sampler, rng)
        return self.ranks.add_losses(losses), after

    @torch.no_grad()
    def evaluate(self, stopping: Sequence[int] = ()) -> dict[str, float]:
        """Return held-out figures with the full softmax, by language.

        These are bits per character of the forward tower and nats per target of the gap head. They
        are incomplete if *stopping* receives a signal.
        """
        self.network.eval()
        figures: dict[str, float] = {}
        rng = np.random.default_rng(0)
        for language, (batches, characters) in self.held_out.items():
            means = Means()
            for batch in batches:
                if self.ranks.any(stopping):
                    return figures
                means.add(self._losses(batch, None, rng)[0], batch.tokens)
            if means.counts["next"]:
                bits = means.nats["next"] / math.log(2) / characters
                figures[f"heldout_bits_per_character_{language}"] = bits
            if means.counts["gap"]:
                figures[f"heldout_gap_nats_{language}"] = means.nats["gap"] / means.counts["gap"]
        return figures

    @torch.no_grad()
    def _is_good(self) -> bool:
        """Return True if the state knows the last batch better than a uniform guess."""
        if self._last_batch is None:
            return True
        self.network.eval()
        losses, _ = self._losses(self._last_batch, None, np.random.default_rng(0))
        return self.watch.is_good(losses.per_target)

    def save(self) -> None:
        """Write the state that ``--resume`` continues from.

        Raises:
            DivergedError: the state is worse than a uniform guess; nothing is written.
        """
        if not self._is_good():
            raise self._diverged(str(self.watch))
        info = StateInfo(self.progress, asdict(self.config), self._data_sha256, self._base)
        carried_states = self.ranks.all_rows(self.carried_states, self.config.data.rows)
        if self.ranks.is_first:
            state = self.directory / "state"
            save_state(state, self.network, self.optimizer, carried_states, info)
        self.ranks.any(False)  # nobody goes on, or leaves, before the state is there

    def _diverged(self, reason: str) -> DivergedError:
        rate = self.config.optimizer.learning_rate
        return diverged(self.directory, self.progress.step, reason, rate)

    def _write(self, values: dict[str, Any]) -> None:
        if self.log is None:
            return
        progress = self.progress
        counters = {
            "tokens": progress.tokens,
            "cpu_seconds": round(progress.cpu_seconds, 1),
            "learning_rate": learning_rate(self.config.optimizer, progress.step, self.config.steps),
        }
        self.log.write(progress.step, {**counters, **values})


def _check(config: RunConfig, network: Network | LanguageModel, prepared: Prepared) -> None:
    """Raise RunError if network and data do not fit, or a named source is unknown."""
    if (size := len(network.output_bias)) != prepared.tokenizer.size:
        raise RunError(
            f"vocabulary_size is {size}, but {config.data.prepared} has {prepared.tokenizer.size}"
            " tokens; write that into the run file"
        )
    known = {source.name for source in prepared.sources}
    if unknown := sorted(config.data.source_weights.keys() - known):
        raise RunError(f"source {unknown[0]!r} is not in {config.data.prepared}")


def make_optimizer(options: OptimizerOptions, network: nn.Module) -> torch.optim.AdamW:
    """Return the optimizer of a run, over all parameters of *network*."""
    rate, decay = options.learning_rate, options.weight_decay
    betas = (options.beta1, options.beta2)
    return torch.optim.AdamW(network.parameters(), rate, betas, weight_decay=decay, fused=True)
