"""Random token ids of a made-up vocabulary."""

import numpy as np

from training.config import DataOptions
from training.data.gaps import TokenFlags
from training.data.shards import NO_CUT, Shard

V = 60
FIRST = 10  # tokens from here on are text; the last ten are punctuation


def flags() -> TokenFlags:
    """Flags of a vocabulary in which even tokens end a word."""
    ids = np.arange(V)
    worded = (ids >= FIRST) & (ids < V - 10)
    ones = np.ones(V, dtype=np.int64)
    return TokenFlags(worded & (ids % 2 == 1), worded, worded, worded & (ids % 2 == 0), ones)


def shard(seed: int, lines: int, *, consecutive: bool, weight: float = 1.0) -> Shard:
    """Random lines of 1 to 29 tokens."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 30, lines)
    cuts = [(NO_CUT, NO_CUT) if n < 4 else (1, 3) for n in lengths]
    table = np.array([[n, *cut] for n, cut in zip(lengths, cuts, strict=True)], dtype=np.uint32)
    ids = rng.integers(FIRST, V, int(lengths.sum())).astype(np.uint16)
    return Shard(f"s{seed}", "en", consecutive, weight, ids, table, int(lengths.sum()))


def options(**changes: object) -> DataOptions:
    """Small batches with many gaps and blanks."""
    values: dict[str, object] = {
        "prepared": "",
        "rows": 4,
        "window_tokens": 16,
        "lookahead_tokens": 5,
        "gaps_per_token": 0.5,
        "forward_blank_share": 0.5,
        "backward_blank_share": 0.5,
    }
    return DataOptions(**values | changes)
