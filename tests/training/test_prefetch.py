"""Batches made ahead by other processes."""

from dataclasses import fields
from itertools import islice

import numpy as np
import pytest

from tests.training.made_up_text import flags, options, shard
from training.data.batches import BatchStream
from training.data.epoch import plan_epoch
from training.data.prefetch import BatchesAhead


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # more processes than cores
@pytest.mark.parametrize("begin", [0, 5])
def test_batches_are_the_same_in_the_same_order(begin: int) -> None:
    """Three processes in turn give what one stream gives, also over the end of an epoch."""
    sources = [shard(1, 40, consecutive=False), shard(2, 40, consecutive=True)]
    stream, other = (BatchStream(sources, flags(), options(), 5, index=begin) for _ in range(2))
    length = len(plan_epoch(sources, options(), 5, 0))
    ahead = BatchesAhead(other, processes=3)
    for number, (ours, theirs) in enumerate(
        zip(islice(ahead, 2 * length + 1), stream, strict=False)
    ):
        if number == length:
            ahead.close()  # the next batch starts new processes at the same place
        assert (ahead.epoch, ahead.index) == (stream.epoch, stream.index)
        for field in fields(ours):
            assert np.array_equal(getattr(ours, field.name), getattr(theirs, field.name))
    ahead.close()
    assert stream.epoch == 2
