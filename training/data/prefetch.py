"""A run's batches made ahead by other processes, for a GPU that would wait for them: the same, in the same order."""

import signal
from collections.abc import Iterator

import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from training.data.batches import Batch, BatchStream

# Batches that each process makes ahead: they last while it plans an epoch, some seven seconds for two million lines.
BATCHES_AHEAD = 64


class BatchesAhead:
    """The batches of *stream*, made by *processes* processes by turns.

    The processes begin with the first batch and end with :meth:`close`; another batch begins them anew.

    Attributes:
        epoch, index: where the next batch stands.
    """

    def __init__(self, stream: BatchStream, processes: int) -> None:
        self.epoch, self.index = stream.epoch, stream.index
        self._stream, self._processes = stream, processes
        self._taken = 0  # since the processes began
        self._batches: Iterator[tuple[Batch, int, int]] | None = None

    def __iter__(self) -> "BatchesAhead":
        return self

    def __next__(self) -> Batch:
        if self._batches is None:
            self._batches = self._begin()
        batch, self.epoch, self.index = next(self._batches)
        self._taken += 1
        return batch

    def close(self) -> None:
        """End the processes; what they made ahead is dropped."""
        self._batches = None
        self._stream.skip(self._taken)
        self._taken = 0

    def _begin(self) -> Iterator[tuple[Batch, int, int]]:
        loader: DataLoader[tuple[Batch, int, int]] = DataLoader(
            _Turns(self._stream),
            batch_size=None,
            num_workers=self._processes,
            collate_fn=_as_it_is,  # type: ignore[arg-type]  # typed for lists of samples, which these are not
            prefetch_factor=BATCHES_AHEAD,
            worker_init_fn=_leave_signals,
            # The shards stay mapped and the epoch planned, which another start would do again. Torch's threads do not
            # survive it, but what makes batches is numpy.
            multiprocessing_context="fork",
            generator=torch.Generator(),  # else it would draw from the run's own
        )
        return iter(loader)


class _Turns(IterableDataset[tuple[Batch, int, int]]):
    """In each of n processes every n-th batch, with where the batch after it stands."""

    def __init__(self, stream: BatchStream) -> None:
        self._stream = stream

    def __iter__(self) -> Iterator[tuple[Batch, int, int]]:
        process = get_worker_info()
        assert process is not None  # noqa: S101 - the loader has processes
        stream = self._stream  # this process's own, by the fork
        stream.skip(process.id)
        for batch in stream:
            yield batch, stream.epoch, stream.index
            stream.skip(process.num_workers - 1)


def _as_it_is(batch: tuple[Batch, int, int]) -> tuple[Batch, int, int]:
    return batch


def _leave_signals(_: int) -> None:
    """Ctrl-C, or a signal to the whole group, is for the training process, which still saves and then ends these."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
