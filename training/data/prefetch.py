"""Batches made ahead by other processes, so that a GPU need not wait for them."""

import signal
from collections.abc import Iterator

import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from training.data.batches import Batch, BatchStream

# Batches that each process makes ahead. They last while it plans an epoch: some seven seconds for
# two million lines.
BATCHES_AHEAD = 64

Placed = tuple[Batch, int, int]  # a batch, and epoch and index of the batch after it


class BatchesAhead:
    """The batches of a stream, made by several processes in turn.

    The processes start with the first batch, and end with :meth:`close` until another is asked for.

    Attributes:
        epoch, index: the next batch.
    """

    def __init__(self, stream: BatchStream, processes: int) -> None:
        self.epoch, self.index = stream.epoch, stream.index
        self._stream, self._processes = stream, processes
        self._taken = 0  # since the processes started
        self._batches: Iterator[Placed] | None = None

    def __iter__(self) -> "BatchesAhead":
        return self

    def __next__(self) -> Batch:
        if self._batches is None:
            self._batches = self._start()
        batch, self.epoch, self.index = next(self._batches)
        self._taken += 1
        return batch

    def close(self) -> None:
        """End the processes and drop what they made ahead."""
        self._batches = None
        self._stream.skip(self._taken)
        self._taken = 0

    def _start(self) -> Iterator[Placed]:
        loader: DataLoader[Placed] = DataLoader(
            _Turns(self._stream),
            batch_size=None,
            num_workers=self._processes,
            collate_fn=lambda batch: batch,
            prefetch_factor=BATCHES_AHEAD,
            worker_init_fn=_ignore_signals,
            # A fork keeps the shards mapped and the epoch planned. Torch's threads do not survive
            # it, but batches are made with numpy alone.
            multiprocessing_context="fork",
            generator=torch.Generator(),  # else it would draw from the run's own
        )
        return iter(loader)


class _Turns(IterableDataset[Placed]):
    """Every n-th batch in each of n processes."""

    def __init__(self, stream: BatchStream) -> None:
        self._stream = stream

    def __iter__(self) -> Iterator[Placed]:
        process = get_worker_info()
        assert process is not None  # noqa: S101 - the loader has processes
        stream = self._stream  # a copy, by the fork
        stream.skip(process.id)
        for batch in stream:
            yield batch, stream.epoch, stream.index
            stream.skip(process.num_workers - 1)


def _ignore_signals(_: int) -> None:
    """Leave Ctrl-C and signals to the group to the training process, which saves and ends these."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
