"""``python -m training train RUN.toml``: the training loop, which reads as the story of a run.

Truncated back-propagation through time: a batch is one window, the state of the window before comes in detached
(Williams and Peng 1990). Interrupted and resumed, a run in fp32 on a CPU gives the same weights bit for bit.
"""

import argparse
import json
import math
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm import tqdm

from model.checkpoint import is_checkpoint, load_checkpoint
from model.errors import DivergedError, RunError
from model.network import Network
from model.tokenizer import END_OF_GAP
from training.config import OptimizerOptions, RunConfig, load_run, run_from_dict
from training.data.batches import Batch, BatchStream, heldout_batches
from training.data.gaps import TokenFlags
from training.data.prefetch import BatchesAhead
from training.data.shards import Prepared, Shard, open_prepared, weigh
from training.loss import LanguageModel, Losses, NegativeSampler, batch_losses
from training.run_log import RunLog
from training.run_state import (
    SNAPSHOTS,
    Progress,
    describe_base,
    load_optimizer,
    load_weights,
    read_base,
    read_progress,
    save_snapshot,
    snapshot_directory,
    write_whole,
)
from training.schedule import learning_rate


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "run_file", type=Path, help="a TOML run file, such as training/runs/default.toml"
    )
    parser.add_argument("--output", type=Path, help="run directory; default runs/NAME")
    parser.add_argument("--resume", action="store_true", help="go on from the last saved state")
    parser.add_argument(
        "--minutes", type=float, help="overrides the run file's limit of CPU minutes per thread"
    )


def run(arguments: argparse.Namespace) -> int:
    """Run the command."""
    config = load_run(arguments.run_file)
    if arguments.minutes is not None:
        config = replace(config, minutes=arguments.minutes)
    state = train(config, arguments.output or Path("runs") / config.name, resume=arguments.resume)
    sys.stderr.write(f"saved: {state}\n")
    return 0


def train(
    config: RunConfig,
    directory: Path,
    *,
    resume: bool = False,
    network: LanguageModel | None = None,
) -> Path:
    """Train a network until its last step, its time limit, SIGINT or SIGTERM.

    Args:
        config: the run.
        directory: for everything that it writes.
        resume: go on from *directory*'s last saved state.
        network: trained in place of the one that *config* describes; a ``torch.nn.Module``.

    Returns:
        The state directory.

    Raises:
        RunError: no such device, nothing to resume, a run that would be overwritten, a resumed run of other sizes or
            data, a full disk.
        DivergedError: the loss or a gradient is not a number; the last saved state is good.
        PreparedDataError: the prepared data are missing or torn.
    """
    trainer = Trainer(config, directory, resume=resume, network=network)
    with stop_signals() as stopping:
        trainer.run(stopping)
    return directory / "state"


class Trainer:
    """A run in progress: data, network, optimizer, counters. Arguments and errors: :func:`train`."""

    def __init__(
        self,
        config: RunConfig,
        directory: Path,
        *,
        resume: bool = False,
        network: LanguageModel | None = None,
    ) -> None:
        self.config, self.directory = config, directory
        torch.set_num_threads(config.threads)
        torch.manual_seed(config.seed)
        self.device = _device(config.device)
        prepared = open_prepared(Path(config.data.prepared))
        if config.network is not None:
            network = Network(config.network, config.dropout, config.weight_drop)
        if network is None:
            raise RunError("there is no [network]; write its sizes into the run file")
        self.network = cast(nn.Module, network).to(self.device)
        self._model = cast(LanguageModel, self.network)  # the same, as losses see it
        _check(config, self._model, prepared)
        self._data_sha256 = prepared.sha256
        self._base: dict[str, Any] | None = None  # the checkpoint that it began with
        self.sources = weigh(prepared.sources, config.sources, config.data.weights)
        self.flags = TokenFlags.of(prepared.tokenizer)
        counts = _token_counts(self.sources, prepared.tokenizer.size)
        _start_biases(self._model, counts)
        self.optimizer = make_optimizer(config.optimizer, self.network)
        self.progress = Progress()
        self.carried = self._model.initial_state("forward", config.data.rows)
        if resume:
            self._load(snapshot_directory(directory))
        elif any((directory / name).exists() for name in SNAPSHOTS):
            raise RunError(f"{directory}: holds a run already; give --resume, or another --output")
        elif config.start_from:
            start = Path(config.start_from)
            load_weights(start, self.network)
            if is_checkpoint(start):
                self._base = describe_base(load_checkpoint(start))
            else:
                load_optimizer(start, self.optimizer, random_state=False)
        directory.mkdir(parents=True, exist_ok=True)
        write_whole(directory / "config.json", json.dumps(config.to_dict(), indent=1).encode())
        write_whole(directory / "tokenizer.model", prepared.tokenizer.to_bytes())
        negatives = config.loss.sampled_negatives
        self.sampler = NegativeSampler(counts, negatives, self.device) if negatives else None
        stream = BatchStream(
            self.sources,
            self.flags,
            config.data,
            config.seed,
            self.progress.epoch,
            self.progress.index,
        )
        self.batches = (
            BatchesAhead(stream, config.loader_processes) if config.loader_processes else stream
        )
        self.heldout = heldout_batches(prepared.held_out, self.flags, config.data)
        self.log = RunLog(directory, self.progress.step)

    def _load(self, snapshot: Path) -> None:
        self.progress, saved, data = read_progress(snapshot)
        before = run_from_dict(saved, str(snapshot / "state.json"))
        for name in ("network", "data", "seed", "precision", "sources"):
            if getattr(before, name) != getattr(self.config, name):
                raise RunError(
                    f"{snapshot}: was trained with another [{name}]; resume with its own run file"
                )
        if data and data != self._data_sha256:  # (epoch, index) would name other batches
            raise RunError(
                f"{snapshot}: was trained on data {data[:12]}, but {self.config.data.prepared} holds"
                f" {self._data_sha256[:12]}; prepare the same data again, or begin a new run with start_from"
            )
        self._base = read_base(snapshot)
        load_weights(snapshot, self.network)
        self.carried = load_optimizer(snapshot, self.optimizer, random_state=True).to(self.device)

    def run(self, stopping: list[int]) -> None:
        """Train until the end or until *stopping* holds a signal, then save."""
        try:
            self._run(stopping)
        finally:
            if isinstance(self.batches, BatchesAhead):
                self.batches.close()

    def _run(self, stopping: list[int]) -> None:
        config, progress = self.config, self.progress
        started = (
            time.process_time() / config.threads - progress.seconds,
            time.monotonic() - progress.wall_seconds,
        )
        last_saved, evaluated = time.monotonic(), -1
        bar = tqdm(
            total=config.steps or None,
            initial=progress.step,
            unit="step",
            smoothing=0.05,
            mininterval=1.0,
        )
        tally = _Tally()
        while not stopping and not self._finished():
            tally.add(self.update(next(self.batches)))
            progress.step += 1
            progress.epoch, progress.index = self.batches.epoch, self.batches.index
            progress.seconds = time.process_time() / config.threads - started[0]
            progress.wall_seconds = time.monotonic() - started[1]
            bar.update()
            if progress.step % config.log_every_steps == 0:
                values = tally.take()
                loss = values["loss_next"] if "loss_next" in values else values["loss_gap"]
                bar.set_postfix_str(f"loss {loss:.3f}, {values['tokens_per_second']:.0f} tokens/s")
                self._write(values)
            due = config.evaluate_every_steps and progress.step % config.evaluate_every_steps == 0
            if due and not stopping and not self._finished():
                self._write(self.evaluate())
                evaluated = progress.step
            if time.monotonic() - last_saved > config.save_every_seconds:
                self.save()
                last_saved = time.monotonic()
        bar.close()
        self.save()  # before all else: whoever sent a signal may not wait for the last figures
        if evaluated != progress.step:  # a signal may have come while the last step was scored
            self._write(self.evaluate())
        self.log.close()

    def _finished(self) -> bool:
        config, progress = self.config, self.progress
        out_of_steps = config.steps > 0 and progress.step >= config.steps
        return out_of_steps or (config.minutes > 0 and progress.seconds >= 60 * config.minutes)

    def update(self, batch: Batch) -> tuple[Losses, int]:
        """One step of the optimizer."""
        config, step = self.config, self.progress.step
        full = config.full_softmax_steps > 0 and step >= config.steps - config.full_softmax_steps
        rng = np.random.default_rng(
            [config.seed, step, 1]
        )  # of the negatives, a stream apart from the batches'
        self.network.train()
        losses, after = self._losses(batch, None if full else self.sampler, rng)
        self.optimizer.zero_grad(set_to_none=True)
        losses.total.backward()  # type: ignore[no-untyped-call]
        # Clamping would make an infinite gradient a finite one, so the norm is taken before it.
        limit = config.optimizer.clip_norm or math.inf
        norm = nn.utils.clip_grad_norm_(
            self.network.parameters(), math.inf if config.optimizer.clip_value > 0 else limit
        )
        if not (math.isfinite(losses.total.item()) and math.isfinite(norm.item())):
            state, remedy = self.directory / "state", "lower the learning rate or clip harder"
            raise DivergedError(
                f"step {step}: loss {losses.total.item()}, gradient norm {norm.item()}; "
                + (
                    f"{state} holds the last good state; {remedy}, then --resume"
                    if state.exists()
                    else remedy
                )
            )
        if config.optimizer.clip_value > 0:
            nn.utils.clip_grad_value_(self.network.parameters(), config.optimizer.clip_value)
            nn.utils.clip_grad_norm_(self.network.parameters(), limit)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(config.optimizer, step, config.steps)
        self.optimizer.step()
        if batch.stream:
            self.carried = after
        self.progress.tokens += batch.tokens
        return losses, batch.tokens

    def _losses(
        self, batch: Batch, sampler: NegativeSampler | None, rng: np.random.Generator
    ) -> tuple[Losses, Tensor]:
        dtype = torch.bfloat16 if self.config.precision == "bf16" else torch.float32
        if batch.stream:
            states = self.carried * torch.from_numpy(batch.carried).to(self.device).unsqueeze(1)
        else:
            states = self._model.initial_state("forward", batch.forward_inputs.shape[1])
        share = self.config.data.masked_share
        return batch_losses(
            self._model, batch, states, self.config.loss, dtype, sampler, rng, share
        )

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """Held-out figures with the full softmax: nats a token and bits a character by language, nats a gap target."""
        self.network.eval()
        figures: dict[str, float] = {}
        rng = np.random.default_rng(0)
        for language, (batches, characters) in self.heldout.items():
            sums = np.zeros(2)
            counts = np.zeros(2)
            for batch in batches:
                losses, _ = self._losses(batch, None, rng)
                sums += losses.next_sum.item(), losses.gap_sum.item()
                counts += losses.next_count, losses.gap_count
            if counts[0]:
                figures[f"heldout_bits_per_character_{language}"] = float(
                    sums[0] / math.log(2) / characters
                )
            if counts[1]:
                figures[f"heldout_gap_nats_{language}"] = float(sums[1] / counts[1])
        return figures

    def save(self) -> None:
        """Write the snapshot that ``--resume`` goes on from."""
        save_snapshot(
            self.directory / "state",
            self.network,
            self.optimizer,
            self.carried,
            self.progress,
            self.config.to_dict(),
            self._data_sha256,
            self._base,
        )

    def _write(self, values: dict[str, Any]) -> None:
        progress = self.progress
        rate = learning_rate(self.config.optimizer, progress.step, self.config.steps)
        counters = {
            "tokens": progress.tokens,
            "cpu_seconds": round(progress.seconds, 1),
            "learning_rate": rate,
        }
        self.log.write(progress.step, {**counters, **values})


class _Tally:
    """Means between two lines of the log."""

    def __init__(self) -> None:
        self._clear()

    def _clear(self) -> None:
        self._sums, self._counts, self._tokens = np.zeros(3), np.zeros(3), 0
        self._since = time.monotonic()

    def add(self, update: tuple[Losses, int]) -> None:
        losses, tokens = update
        self._sums += losses.next_sum.item(), losses.previous_sum.item(), losses.gap_sum.item()
        self._counts += losses.next_count, losses.previous_count, losses.gap_count
        self._tokens += tokens

    def take(self) -> dict[str, float]:
        means = self._sums / np.maximum(self._counts, 1)
        rate = self._tokens / (time.monotonic() - self._since)
        names = ("loss_next", "loss_previous", "loss_gap")
        values = {n: float(m) for n, m, c in zip(names, means, self._counts, strict=True) if c}
        self._clear()
        return {**values, "tokens_per_second": rate}


def _device(name: str) -> torch.device:
    """The device of a run file.

    Raises:
        RunError: torch has no such device here.
    """
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise RunError(
            f"device is {name!r}, which torch does not know; choose cpu or cuda"
        ) from error
    if device.type not in ("cpu", "cuda"):
        raise RunError(f"device is {name!r}, which training does not know; choose cpu or cuda")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise RunError(
            f"device is {name!r}, but torch finds {torch.cuda.device_count()} GPUs; choose cpu or another"
        )
    return device


def _check(config: RunConfig, network: LanguageModel, prepared: Prepared) -> None:
    if (size := len(network.output_bias)) != prepared.tokenizer.size:
        raise RunError(
            f"vocabulary_size is {size}, but {config.data.prepared} has"
            f" {prepared.tokenizer.size} tokens; write that into the run file"
        )
    for field, names in (("sources", config.sources), ("[data.weights]", config.data.weights)):
        unknown = sorted(set(names) - {s.name for s in prepared.sources})
        if unknown:
            raise RunError(f"{field}: {unknown[0]!r} is not in {config.data.prepared}")


def _token_counts(sources: list[Shard], size: int) -> NDArray[np.int64]:
    counts = np.zeros(size, dtype=np.int64)
    for source in sources:
        counts += np.bincount(source.ids, minlength=size)
    counts += 1  # unseen tokens stay possible
    counts[: END_OF_GAP + 1] = (
        0  # controls are never contrasted with; <eog> joins the gap head's negatives by name
    )
    return counts


def _start_biases(network: LanguageModel, counts: NDArray[np.int64]) -> None:
    """Begin with the tokens' frequencies, so that the first steps need not learn them."""
    biases = torch.from_numpy(np.log(np.maximum(counts, 1) / counts.sum()).astype(np.float32))
    with torch.no_grad():
        network.output_bias.copy_(biases)
        if isinstance(network, Network) and network.config.architecture == "two_towers":
            network.gap_bias.copy_(biases)
            network.gap_bias[END_OF_GAP] = math.log(0.3)


def make_optimizer(options: OptimizerOptions, network: nn.Module) -> torch.optim.Optimizer:
    """The optimizer of a run, over all of *network*'s parameters."""
    parameters = list(network.parameters())
    if options.name == "sgd":
        return torch.optim.SGD(
            parameters,
            options.learning_rate,
            momentum=options.beta1,
            weight_decay=options.weight_decay,
        )
    betas = (options.beta1, options.beta2)
    return torch.optim.AdamW(
        parameters,
        options.learning_rate,
        betas=betas,
        weight_decay=options.weight_decay,
        fused=True,
    )


@contextmanager
def stop_signals() -> Iterator[list[int]]:
    """A list that SIGINT and SIGTERM are appended to; the handlers before are put back at the end."""
    received: list[int] = []

    def note(number: int, _: FrameType | None) -> None:
        received.append(number)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
