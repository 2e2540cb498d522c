"""Random lines of text, and random token ids of a made-up vocabulary."""

import random
from collections.abc import Callable
from pathlib import Path

import numpy as np

from training.config import DataOptions
from training.data.gaps import TokenFlags
from training.data.shards import NO_CUT, Shard

WORDS = ("the", "a", "cat", "dog", "house", "river", "walks", "sees", "likes", "near", "old", "new")
HAN = "我你他们我们老师学生手机昨天今天喜欢批评旅游了的在去说很好，。？！"
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


def english(rng: random.Random) -> str:
    """A random English sentence."""
    return " ".join(rng.choices(WORDS, k=rng.randint(4, 12))).capitalize() + "."


def chinese(rng: random.Random) -> str:
    """A random Chinese sentence."""
    return "".join(rng.choices(HAN, k=rng.randint(6, 20))) + "。"


def write_lines(
    path: Path, count: int, make: Callable[[random.Random], str], seed: int = 0
) -> list[str]:
    """Write random lines to a file and return them."""
    rng = random.Random(seed)
    lines = [make(rng) for _ in range(count)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return lines
