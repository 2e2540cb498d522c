"""The processes that ``torchrun`` starts, one per device: they share the rows of each batch.

Every rank has the whole network and makes the whole batch, and keeps the rows ``rank, rank + size,
…`` with their carried states. Losses are divided by the targets of the whole batch, so gradients
add up. Without ``torchrun`` there is one rank, and nothing is sent.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, distributed, nn

from model.errors import RunError
from training.config import RunConfig
from training.data.batches import Batch
from training.loss import Losses

_COLUMNS = ("forward_inputs", "forward_targets", "backward_inputs", "backward_targets", "continues")
_GAPS = ("gap_forward", "gap_backward", "gap_position", "gap_kind", "gap_target")


def choose_device(name: str) -> torch.device:
    """Return the device of a run file; under ``torchrun``, the GPU of this process.

    Raises:
        RunError: torch finds no such GPU.
    """
    device = torch.device(name)
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", device.index or 0)))
        if device.index >= (gpus := torch.cuda.device_count()):
            raise RunError(f"device is {str(device)!r}, but torch finds {gpus} GPUs; choose cpu")
    return device


@contextmanager
def joined(config: RunConfig) -> Iterator[None]:
    """Join the other processes of ``torchrun``, if it started this one, and leave together.

    Raises:
        RunError: as :func:`choose_device`, or the network is stacked.
    """
    if not distributed.is_torchelastic_launched():
        yield
        return
    if config.network and config.network.architecture == "stacked_bidirectional":
        raise RunError("a stacked_bidirectional network trains on one process; omit torchrun")
    if (device := choose_device(config.device)).type == "cuda":
        torch.cuda.set_device(device)
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield
        distributed.barrier()  # torchrun ends all processes as soon as one returns 130
    finally:
        distributed.destroy_process_group()


class Ranks:
    """This process among those of the run; all ranks must call the same methods in turn."""

    def __init__(self) -> None:
        self.rank, self.size, self.on_this_machine, backend = 0, 1, 1, "gloo"
        if distributed.is_initialized():
            self.rank, self.size = distributed.get_rank(), distributed.get_world_size()
            self.on_this_machine = int(os.environ["LOCAL_WORLD_SIZE"])
            backend = distributed.get_backend()
        self._device = torch.device("cuda" if backend == "nccl" else "cpu")
        self.is_first = self.rank == 0  # writes the files and the progress

    def rows(self, states: Tensor) -> Tensor:
        """Return this rank's rows of (B, S)."""
        return states[self.rank :: self.size]

    def all_rows(self, states: Tensor, count: int) -> Tensor:
        """Return the *count* rows of all ranks, (count, S)."""
        if self.size == 1:
            return states
        whole = states.new_zeros(count, states.shape[1])
        self.rows(whole).copy_(states)
        distributed.all_reduce(whole)
        return whole

    def share(self, batch: Batch) -> Batch:
        """Return this rank's rows of a batch, maybe none."""
        if self.size == 1:
            return batch
        mine = batch.gap_row % self.size == self.rank
        parts = {name: getattr(batch, name)[..., self.rank :: self.size] for name in _COLUMNS}
        parts |= {name: getattr(batch, name)[mine] for name in _GAPS}
        return replace(batch, gap_row=batch.gap_row[mine] // self.size, **parts)

    def add_losses(self, losses: Losses) -> Losses:
        """Return the nats of the whole batch; ``total`` stays this rank's part, with a gradient."""
        if self.size == 1:
            return losses
        nats = torch.stack([each.detach() for each, _ in losses.by_head.values()])
        distributed.all_reduce(nats)
        heads = zip(losses.by_head.items(), nats, strict=True)
        return Losses(losses.total, {head: (each, count) for (head, (_, count)), each in heads})

    def add_gradients(self, network: nn.Module) -> None:
        """Replace each gradient by the sum of all ranks'; None stays if no rank has one."""
        if self.size == 1:
            return
        parameters = list(network.parameters())
        parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        present = torch.tensor([p.grad is not None for p in parameters], device=self._device)
        flat = torch.cat([*(part.flatten() for part in parts), present.float()])
        distributed.all_reduce(flat)
        *sums, present = torch.split(flat, [*(p.numel() for p in parameters), len(parameters)])
        for p, gradient, ranks in zip(parameters, sums, present.tolist(), strict=True):
            p.grad = gradient.view_as(p) if ranks else None

    def seed_dropout(self, seed: int, step: int) -> None:
        """Seed the dropout of each rank, which a resumed run draws again."""
        if self.size > 1:
            words = np.random.SeedSequence([seed, step, self.rank]).generate_state(1, np.uint64)
            torch.manual_seed(int(words[0]))

    def largest(self, value: float) -> float:
        """Return the largest *value* of all ranks."""
        if self.size == 1:
            return value
        agreed = torch.tensor(value, dtype=torch.float64, device=self._device)
        distributed.all_reduce(agreed, distributed.ReduceOp.MAX)
        return agreed.item()

    def any(self, condition: object) -> bool:
        """Return True if *condition* is true on any rank."""
        return self.largest(float(bool(condition))) > 0
