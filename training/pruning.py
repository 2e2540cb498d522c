"""Remove the n-grams that a model misses least, until its files fit into a number of bytes."""

from bisect import bisect_left
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from model.config import CountsConfig
from model.counts import Level, file_sizes
from model.errors import PreparedDataError
from model.runtime import Float32Array

_INFINITY = int(np.array(np.inf, dtype=np.float32).view(np.uint32))


def relative_entropy(
    seen: Float32Array, shares: Float32Array, backoffs: Float32Array, lower: Float32Array
) -> Float32Array:
    """Return the nats of a text (n,) that removing each n-gram hw alone would cost.

    That is how often h was followed by a token, (n,), times the Kullback-Leibler divergence of the
    row of h without the n-gram from the row with it. Removed, its share joins the backoff weight,
    so p falls from share + backoff * lower to (backoff + share) * lower, and the tokens that back
    off gain. *lower* is p(w | h'). Stolcke 1998, Entropy-based pruning of backoff language models.
    """
    probs = shares + backoffs * lower
    losses: Float32Array = probs * np.log(probs / ((backoffs + shares) * lower))
    losses -= (1 - lower) * backoffs * np.log1p(shares / backoffs)
    losses *= seen
    return losses


def prune(
    unigrams: int, levels: Sequence[Level], losses: Sequence[Float32Array], max_bytes: int
) -> list[Level]:
    """Keep the n-grams above the lowest threshold of loss whose files fit; and their prefixes.

    The shares of removed n-grams are left to the backoff weight. *losses* are overwritten.

    Raises:
        PreparedDataError: the unigrams alone have more bytes.
    """
    first = [np.cumsum(each.followers, dtype=np.int64) - each.followers for each in levels]
    contexts = [each.followers > 0 for each in levels]
    # The largest loss among the n-grams that begin with an n-gram decides if it stays.
    longest: list[Float32Array] = []
    for level in reversed(range(len(levels))):
        starts = first[level][contexts[level]]
        longest.insert(0, np.maximum.reduceat(losses[level], starts))
        if level:
            below = losses[level - 1]
            below[contexts[level]] = np.maximum(below[contexts[level]], longest[0])

    def fits(bits: int) -> bool:
        limit = _threshold(bits)
        kept = (int(np.count_nonzero(each > limit)) for each in losses)
        followed = (int(np.count_nonzero(each > limit)) for each in longest)
        config = CountsConfig(ngrams=(unigrams, *kept), contexts=tuple(followed), training={})
        return sum(file_sizes(config)) <= max_bytes

    # Positive floats are ordered as their bits are.
    found = bisect_left(range(_INFINITY + 1), True, key=fits)
    if found > _INFINITY:
        raise PreparedDataError(f"unigrams alone have more than {max_bytes} bytes; allow more")
    limit, pruned = _threshold(found), []
    stays: NDArray[np.bool_] = np.ones(unigrams, dtype=np.bool_)
    for level, each in enumerate(levels):
        keep = losses[level] > limit
        followers = np.zeros(len(each.followers), dtype=np.uint32)
        starts = first[level][contexts[level]]
        followers[contexts[level]] = np.add.reduceat(keep, starts, dtype=np.uint32)
        pruned.append(Level(followers[stays], each.tokens[keep], each.shares[keep]))
        stays = keep
    return pruned


def _threshold(bits: int) -> np.float32:
    return np.float32(np.array(bits, dtype=np.uint32).view(np.float32))
