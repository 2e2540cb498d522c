"""Choose the n-grams that a model would miss most, as many as its files may hold."""

from bisect import bisect_left
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from model.config import CountsConfig
from model.counts import file_sizes
from model.errors import PreparedDataError
from model.runtime import Float32Array
from training.kneser_ney import Grams, Smoothed

_INFINITY = int(np.array(np.inf, dtype=np.float32).view(np.uint32))


def relative_entropy(grams: Grams, smoothed: Smoothed) -> Float32Array:
    """Return the nats of the counted text that removing each n-gram hw alone would cost, (n,).

    That is how often h was followed by a token times the Kullback-Leibler divergence of the row of
    h without the n-gram from the row with it. Removed, its share joins the backoff weight, so p
    falls from share + backoff * lower to (backoff + share) * lower, and the tokens that back off
    gain. Stolcke 1998, Entropy-based pruning of backoff language models.
    """
    shares, backoffs, lower = smoothed.shares, smoothed.backoffs, smoothed.lower
    probs = shares + backoffs * lower
    losses: Float32Array = probs * np.log(probs / ((backoffs + shares) * lower))
    losses -= (1 - lower) * backoffs * np.log1p(shares / backoffs)
    losses *= grams.sums(grams.occurrences)[grams.prefixes]
    return losses


def choose(
    counted: Sequence[Grams], losses: Sequence[Float32Array], max_bytes: int
) -> list[NDArray[np.bool_]]:
    """Return True for the n-grams to keep, by order from 2: the largest losses, and prefixes.

    *counted* are the n-grams by order from 1, *losses* those from 2, which are overwritten.

    Raises:
        PreparedDataError: the unigrams alone have more bytes.
    """
    # The largest loss among the n-grams that begin with an n-gram decides if it stays.
    largest: list[Float32Array] = []  # by context
    for level in range(len(losses) - 1, -1, -1):
        prefixes = counted[level + 1].prefixes
        starts = np.flatnonzero(np.diff(prefixes, prepend=prefixes[:1] + np.uint32(1)))
        largest.insert(0, np.maximum.reduceat(losses[level], starts))
        if level:
            contexts = prefixes[starts]
            losses[level - 1][contexts] = np.maximum(losses[level - 1][contexts], largest[0])

    def fits(bits: int) -> bool:
        limit = _threshold(bits)
        ngrams = (int(np.count_nonzero(each > limit)) for each in losses)
        contexts = (int(np.count_nonzero(each > limit)) for each in largest)
        sizes = (len(counted[0].tokens), *ngrams), tuple(contexts)
        config = CountsConfig(ngrams=sizes[0], contexts=sizes[1], training={})
        return sum(file_sizes(config)) <= max_bytes

    # Positive floats are ordered as their bits are.
    found = bisect_left(range(_INFINITY + 1), True, key=fits)
    if found > _INFINITY:
        raise PreparedDataError(f"unigrams alone have more than {max_bytes} bytes; allow more")
    return [each > _threshold(found) for each in losses]


def _threshold(bits: int) -> np.float32:
    return np.float32(np.array(bits, dtype=np.uint32).view(np.float32))
