"""Smooth counted n-grams: interpolated modified Kneser-Ney, for all n-grams or some.

Lines begin with <s>, have no end symbol (as in /score), and no n-gram crosses a line.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.runtime import Float32Array

DISCOUNTS = ("D1", "D2", "D3+")
# Counts that the discounts depend on: 0 to 4, and more
KINDS = 6
# For texts so small that no discount can be estimated, as KenLM's --discount_fallback.
FALLBACK_DISCOUNTS = (0.5, 1.0, 1.5)
Kept = Sequence[NDArray[np.bool_]]


@dataclass(frozen=True, slots=True)
class Grams:
    """The n k-grams of one order, sorted by (prefix, token).

    If a text has too many, rare ones are left out (training/counting.py).
    """

    prefixes: NDArray[np.uint32]  # (n,) ranks of their first k - 1 tokens
    suffixes: NDArray[np.uint32]  # (n,) ranks of their last k - 1 tokens
    tokens: NDArray[np.uint16]  # (n,) their last tokens
    occurrences: NDArray[np.uint32]  # (n,)
    begins: NDArray[np.bool_]  # (n,) True if they begin with <s>
    parents: int  # number of (k-1)-grams
    left_out: NDArray[np.uint32]  # (parents,) occurrences of each parent's k-grams left out
    left_out_kinds: NDArray[np.int64]  # (KINDS,) number of k-grams left out, by occurrences

    def sums(self, values: NDArray[Any]) -> Float32Array:
        """Return the sum of the values (n,) of each parent's k-grams, (parents,).

        Those left out have their occurrences as values.
        """
        sums = np.bincount(self.prefixes, weights=values, minlength=self.parents)
        return (sums + self.left_out).astype(np.float32)


@dataclass(frozen=True, slots=True)
class Smoothed:
    """The n k-grams of one order, smoothed.

    p(w | h) = share(hw) + backoff(h) p(w | h'), h' being h without its first token.
    """

    shares: Float32Array  # (n,)
    backoffs: Float32Array  # (n,) of the contexts h, of which no n-gram is left out
    lower: Float32Array  # (n,) p(w | h')
    discounts: dict[str, Any]


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
    2007, On growing and pruning Kneser-Ney smoothed n-gram models, equation 9. That of an n-gram
    that was left out is its number of occurrences, as all longer ones that end in it were, too.
    Its whole count goes to the backoff weight.

    The uniform distribution below the unigrams covers the *predictable* tokens, (V,).
    """
    adjusted = [counted[-1].occurrences]
    for index in range(len(counted) - 1, 0, -1):
        longer, grams = counted[index], counted[index - 1]
        given = np.where(kept[index - 1], 1, adjusted[0]) if kept else None
        neighbours = np.bincount(longer.suffixes, given, minlength=len(grams.tokens))
        if longer.left_out_kinds.any():
            # Each occurrence has one token before it.
            in_longer = np.bincount(longer.suffixes, longer.occurrences, len(grams.tokens))
            neighbours = neighbours + grams.occurrences - in_longer
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
    discounts = estimate_discounts(adjusted, grams.left_out_kinds)
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


def estimate_discounts(adjusted: NDArray[Any], left_out: NDArray[np.int64]) -> dict[str, Any]:
    """Estimate the discounts of one order from the counts of counts, (KINDS,) of those *left_out*.

    D_i = i - (i + 1) Y n_{i+1} / n_i, with n_i n-grams of adjusted count i and
    Y = n1 / (n1 + 2 n2); D3+ is D_3.
    """
    n = (np.bincount(np.minimum(adjusted, KINDS - 1), minlength=KINDS) + left_out).astype(float)
    if n[1:5].all():
        y = n[1] / (n[1] + 2 * n[2])
        discounts = [float(i - (i + 1) * y * n[i + 1] / n[i]) for i in (1, 2, 3)]
        if all(0 < discount <= i for i, discount in enumerate(discounts, start=1)):
            return {**dict(zip(DISCOUNTS, discounts, strict=True)), "estimated": True}
    return {**dict(zip(DISCOUNTS, FALLBACK_DISCOUNTS, strict=True)), "estimated": False}
