"""Count n-grams and smooth them: interpolated modified Kneser-Ney, for all n-grams or some.

Counting sorts; it needs no dictionary. Orders are built on each other: a k-gram is (rank of its
first k - 1 tokens, last token), packed into one uint64. The peak is about 70 bytes for each token
of text, on one core.

Lines begin with <s>, have no end symbol (as in /score), and no n-gram crosses a line.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.errors import PreparedDataError
from model.runtime import Float32Array
from model.tokenizer import START
from training.progress import progress_bar

DISCOUNTS = ("D1", "D2", "D3+")
# Token ids of lines, back to back (tokens,), and their starts and the last end (lines + 1,)
Text = tuple[NDArray[np.uint16], NDArray[np.int64]]
# For texts so small that no discount can be estimated, as KenLM's --discount_fallback.
FALLBACK_DISCOUNTS = (0.5, 1.0, 1.5)
Kept = Sequence[NDArray[np.bool_]]


@dataclass(frozen=True, slots=True)
class Grams:
    """All n k-grams of one order, sorted by (prefix, token)."""

    prefixes: NDArray[np.uint32]  # (n,) ranks of their first k - 1 tokens
    suffixes: NDArray[np.uint32]  # (n,) ranks of their last k - 1 tokens
    tokens: NDArray[np.uint16]  # (n,) their last tokens
    occurrences: NDArray[np.uint32]  # (n,)
    begins: NDArray[np.bool_]  # (n,) True if they begin with <s>
    parents: int  # number of (k-1)-grams

    def sums(self, values: NDArray[Any]) -> Float32Array:
        """Return the sum of the values (n,) of each parent's k-grams, (parents,)."""
        sums = np.bincount(self.prefixes, weights=values, minlength=self.parents)
        return sums.astype(np.float32)


@dataclass(frozen=True, slots=True)
class Smoothed:
    """The n k-grams of one order, smoothed.

    p(w | h) = share(hw) + backoff(h) p(w | h'), h' being h without its first token.
    """

    shares: Float32Array  # (n,)
    backoffs: Float32Array  # (n,) of the contexts h, of which no n-gram is left out
    lower: Float32Array  # (n,) p(w | h')
    discounts: dict[str, Any]


def count_grams(texts: Iterable[Text], vocabulary_size: int, order: int) -> list[Grams]:
    """Return the n-grams of each order; those of one token are all tokens, seen or not.

    Raises:
        PreparedDataError: the texts are empty.
    """
    stream = _join(texts)
    tokens = np.arange(vocabulary_size, dtype=np.uint16)
    occurrences = np.bincount(stream, minlength=vocabulary_size).astype(np.uint32)
    occurrences[START] = 0  # it is a context and is not counted
    empty = np.zeros(vocabulary_size, dtype=np.uint32)
    counted = [Grams(empty, empty, tokens, occurrences, tokens == START, 1)]
    ranks = stream.astype(np.uint32)  # of the (k-1)-gram that ends at each position
    inside = np.ones(len(stream), dtype=np.bool_)  # True if that (k-1)-gram lies in one line
    progress = progress_bar("n-grams", order, "orders", initial=1)
    for _ in range(1, order):
        inside[1:] = inside[:-1] & (stream[1:] != START)
        inside[0] = False
        counted.append(_extend(counted[-1], stream, ranks, inside))
        progress.update()
    progress.close()
    return counted


def _extend(
    grams: Grams, stream: NDArray[np.uint16], ranks: NDArray[np.uint32], inside: NDArray[np.bool_]
) -> Grams:
    """Return the k-grams that continue the (k-1)-grams; *ranks* become k-grams'."""
    ends = np.flatnonzero(inside).astype(np.uint32)
    keys = ranks[ends - np.uint32(1)].astype(np.uint64) << np.uint64(16)
    keys |= stream[ends]
    by_key = np.argsort(keys)
    keys, ends = keys[by_key], ends[by_key]
    del by_key  # the arrays are as long as the text
    first = np.ones(len(keys), dtype=np.bool_)
    first[1:] = keys[1:] != keys[:-1]
    heads = np.flatnonzero(first)
    distinct = keys[heads]
    del keys
    suffixes = ranks[ends[heads]]
    ranks[ends] = np.cumsum(first, dtype=np.uint32) - np.uint32(1)
    prefixes = (distinct >> np.uint64(16)).astype(np.uint32)
    return Grams(
        prefixes=prefixes,
        suffixes=suffixes,
        tokens=(distinct & np.uint64(0xFFFF)).astype(np.uint16),
        occurrences=np.diff(heads, append=len(ends)).astype(np.uint32),
        begins=grams.begins[prefixes],
        parents=len(grams.tokens),
    )


def smooth(
    counted: Sequence[Grams], predictable: NDArray[np.bool_], kept: Kept = ()
) -> tuple[Float32Array, list[Smoothed]]:
    """Discount each order; return p of the unigrams (V,), and the longer orders.

    The adjusted count of an n-gram is its number of occurrences at the highest order and if it
    begins with <s>, else the number of different tokens that precede it. D1, D2, D3+ are estimated
    for each order. Chen & Goodman 1999; <s> as in Heafield et al. 2013, Scalable modified
    Kneser-Ney language model estimation.

    *kept* are the n-grams that will stay, by order from 2. One that will not gives its own adjusted
    count to the shorter one, and not a count of 1, because that replaces it: Siivola et al.
    2007, On growing and pruning Kneser-Ney smoothed n-gram models, equation 9.

    The uniform distribution below the unigrams covers the *predictable* tokens, (V,).
    """
    adjusted = [counted[-1].occurrences]
    for index in range(len(counted) - 1, 0, -1):
        longer, grams = counted[index], counted[index - 1]
        given = np.where(kept[index - 1], 1, adjusted[0]) if kept else None
        neighbours = np.bincount(longer.suffixes, given, minlength=len(grams.tokens))
        counts = np.where(grams.begins, grams.occurrences, neighbours.astype(np.uint32))
        adjusted.insert(0, counts)
    lower = np.full(1, 1 / predictable.sum(), dtype=np.float32)  # p of the empty n-gram
    smoothed: list[Smoothed] = []
    for grams in counted:
        each = _discount(grams, adjusted.pop(0), lower)
        lower = each.shares + each.backoffs * each.lower
        if not smoothed:
            lower = unigram = np.where(predictable, lower, np.float32(0))
        smoothed.append(each)
    return unigram, smoothed[1:]


def _discount(grams: Grams, adjusted: NDArray[np.uint32], lower: Float32Array) -> Smoothed:
    """Smooth the k-grams; *lower* is p of each (k-1)-gram."""
    discounts = estimate_discounts(adjusted)
    # Index 0: a token that does not occur in the text.
    by_count = np.array([0.0, *(discounts[name] for name in DISCOUNTS)], dtype=np.float32)
    taken = by_count[np.minimum(adjusted, 3)]
    totals = grams.sums(adjusted)
    backoffs = (grams.sums(taken) / np.maximum(totals, 1)).astype(np.float32)
    return Smoothed(
        (adjusted.astype(np.float32) - taken) / totals[grams.prefixes],
        backoffs[grams.prefixes],
        lower[grams.suffixes],
        discounts,
    )


def estimate_discounts(adjusted: NDArray[Any]) -> dict[str, Any]:
    """Estimate the discounts of one order from the counts of counts.

    D_i = i - (i + 1) Y n_{i+1} / n_i, with n_i n-grams of adjusted count i and
    Y = n1 / (n1 + 2 n2); D3+ is D_3.
    """
    n = np.bincount(np.minimum(adjusted, 5), minlength=6).astype(float)
    if n[1:5].all():
        y = n[1] / (n[1] + 2 * n[2])
        discounts = [float(i - (i + 1) * y * n[i + 1] / n[i]) for i in (1, 2, 3)]
        if all(0 < discount <= i for i, discount in enumerate(discounts, start=1)):
            return {**dict(zip(DISCOUNTS, discounts, strict=True)), "estimated": True}
    return {**dict(zip(DISCOUNTS, FALLBACK_DISCOUNTS, strict=True)), "estimated": False}


def _join(texts: Iterable[Text]) -> NDArray[np.uint16]:
    """Join all lines, each after its <s>."""
    parts = [np.insert(ids, offsets[:-1], START) for ids, offsets in texts]
    if not any(map(len, parts)):
        raise PreparedDataError("no text to count; prepare at least one line")
    return np.concatenate(parts).astype(np.uint16, copy=False)
