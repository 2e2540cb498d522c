"""Counts: a quantised Kneser-Ney n-gram over token ids, pruned or whole, in memory-mapped files.

``python -m training ngram`` estimates it. Each order k has one file, ``K.ngrams``. Its n k-grams
are sorted by (rank of their first k - 1 tokens, last token). A rank is a place in this order; that
of a unigram is its token id. c of the k-grams are contexts: some of the m (k + 1)-grams begin with
them. Little-endian arrays, back to back; those that order 1 or the last order lacks are empty:

    float32 (n,)              for k = 1: p(w), which sums to 1
    uint32 (⌈m / 256⌉,)       item i: number of contexts whose first follower has a rank < 256 i
    uint16 (n,)               for k > 1: last token
    uint8 (n,)                for k > 1: code of the share r = 2 ** (-code / 10)
    uint8 (c,)                rank of the first follower, low 8 bits
    uint8 (c,)                code of the backoff weight, logit = (code - 127.5) / 14
    uint8 (⌈n / 8⌉,)          bit i % 8 of byte i // 8: 1 if the k-gram of rank i is a context

The probability of a token w after a context h, with h' for h without its first token, is

    p(w | h) = (1 - backoff(h)) r(hw) / sum_v r(hv) + backoff(h) p(w | h')

and p(w | h') if nothing is known to follow h. So each row sums to 1 whatever the codes.
"""

import mmap
import os
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.config import CountsConfig
from model.errors import CheckpointError
from model.listed_files import open_listed
from model.runtime import Float32Array, Int64Array
from model.tokenizer import FIRST_BYTE

# Description and content of each file by name
CountsFiles = tuple[CountsConfig, dict[str, bytes]]
BUILD_AGAIN = "build it again with `python -m training ngram`"
_SHARES = np.exp2(np.arange(256) / -10).astype(np.float32)
_BACKOFFS: list[float] = (1 / (1 + np.exp((127.5 - np.arange(256)) / 14))).tolist()
_EDGES = (0.1, 0.2, 0.4, 0.6, 0.8)  # of the classes of backoff weights
_MANY = 256  # followers of a context whose total is kept
_MAX_CONTEXTS, _RECENT = 4096, 32  # that are remembered, and with what they give
_BLOCK = 512  # bits of the bitmap that share a count of contexts before them


@dataclass(frozen=True, slots=True)
class Level:
    """The n k-grams of one order, k >= 2, as estimated; parents are the (k - 1)-grams by rank."""

    followers: NDArray[np.integer[Any]]  # (parents,) number of k-grams that begin with each parent
    tokens: NDArray[np.uint16]  # (n,) last tokens, rising for each parent
    shares: Float32Array  # (n,) probability that the shorter contexts do not give; above 0


# The known contexts at the end of a text, longest first: tokens, number and range of followers
Known = list[tuple[int, tuple[int, int, int]]]
# What a context gives: followers (n,), codes of their shares (n,), shares by code (256,)
Given = tuple[NDArray[np.uint16], NDArray[np.uint8], Float32Array]


class _Contexts:
    """The contexts of one order k, and the (k + 1)-grams that begin with them."""

    def __init__(
        self,
        flags: NDArray[np.uint8],
        pages: NDArray[np.uint32],
        first: NDArray[np.uint8],
        backoffs: NDArray[np.uint8],
        tokens: NDArray[np.uint16],
        shares: NDArray[np.uint8],
    ) -> None:
        self.tokens, self._shares = tokens, shares
        # Items of a memoryview are plain integers and cost a third of numpy's.
        self._flags, self._first, self._backoffs = flags.data, first.data, backoffs.data
        self._token_ids = tokens.data
        bits = np.unpackbits(flags)
        counts = np.add.reduceat(bits, np.arange(0, len(bits), _BLOCK), dtype=np.uint32)
        self._before = (np.cumsum(counts, dtype=np.uint32) - counts).data
        self._contexts = int(counts.sum())
        self._totals: dict[int, float] = {}  # of contexts with many followers
        self._pages: list[int] = pages.tolist()  # much faster to bisect than an array

    def find(self, rank: int) -> tuple[int, int, int] | None:
        """Return the number of a context and the range of its followers; None if it has none."""
        byte = rank >> 3
        if not self._flags[byte] >> (rank & 7) & 1:
            return None
        block, place = divmod(rank, _BLOCK)
        bits = int.from_bytes(self._flags[block * (_BLOCK // 8) : byte + 1], "little")
        number = self._before[block] + (bits & ((1 << place) - 1)).bit_count()
        begin = self._first_rank(number)
        end = self._first_rank(number + 1) if number + 1 < self._contexts else len(self.tokens)
        return number, begin, end

    def _first_rank(self, number: int) -> int:
        return bisect_right(self._pages, number) - 1 << 8 | self._first[number]

    def follow(self, begin: int, end: int, token: int) -> int | None:
        """Return the rank of the follower that ends in a token, or None."""
        place = bisect_left(self._token_ids, token, begin, end)
        return place if place < end and self._token_ids[place] == token else None

    def share(self, found: tuple[int, int, int], token: int) -> tuple[float, float]:
        """Return what a context of weight 1 gives to one token, and its backoff weight."""
        number, begin, end = found
        backoff, rank = _BACKOFFS[self._backoffs[number]], self.follow(begin, end, token)
        if rank is None:
            return 0.0, backoff
        total = self._totals.get(number)
        if total is None:
            total = float(_SHARES.take(self._shares[begin:end]).sum())
        return (1 - backoff) * float(_SHARES[self._shares[rank]]) / total, backoff

    def weigh(self, number: int, begin: int, end: int, weight: float) -> tuple[Given, float]:
        """Return what a context of this *weight* gives its followers, and its backoff weight."""
        backoff, codes = _BACKOFFS[self._backoffs[number]], self._shares[begin:end]
        total = self._totals.get(number)
        if total is None:
            total = float(_SHARES.take(codes).sum())
            if len(codes) >= _MANY:
                self._totals[number] = total
        shares = _SHARES * np.float32(weight * (1 - backoff) / total)
        return (self.tokens[begin:end], codes, shares), backoff

    def check(self, ngrams: int, vocabulary_size: int) -> None:
        """Check the arrays against n, the number of k-grams; see :meth:`Counts.check`."""
        bits = np.unpackbits(np.asarray(self._flags), count=ngrams, bitorder="little")
        count = int(bits.sum())
        if not count == self._contexts == len(self._first):
            raise ValueError("bits of contexts are of another number")
        sizes: Int64Array = np.diff(np.array([*self._pages, count]))  # contexts by page
        if (sizes < 0).any() or sizes.sum() != count:
            raise ValueError("numbers of contexts are not in order")
        first = np.repeat(np.arange(len(sizes)) << 8, sizes) | np.asarray(self._first)
        if (np.diff(first, append=len(self.tokens)) < 1).any() or first[:1].any():
            raise ValueError("first followers are not in order")
        if bool(count) != bool(len(self.tokens)):
            raise ValueError("contexts have no followers")
        starts = np.zeros(len(self.tokens), dtype=np.bool_)
        starts[first] = True
        if not (starts[1:] | (self.tokens[1:] > self.tokens[:-1])).all():
            raise ValueError("tokens are not in order")
        if count and not FIRST_BYTE <= self.tokens.min() <= self.tokens.max() < vocabulary_size:
            raise ValueError("a token is not in the vocabulary")


class Counts:
    """Probabilities of the next token by counts. Immutable; every row is computed alone.

    *buffers* are the contents of the files by order; each has the size that *config* implies.
    """

    def __init__(self, config: CountsConfig, buffers: Sequence[Any]) -> None:
        self.config = config
        self.ngrams = config.ngrams  # by order
        self.order, self.vocabulary_size = len(config.ngrams), config.ngrams[0]
        files = [
            list(_split(buffer, _parts(config, k))) for k, buffer in enumerate(buffers, start=1)
        ]
        self._unigram: Float32Array = files[0][0]
        self._recent = lru_cache(_RECENT)(self._find)
        # The next context begins with most of this one.
        self._context = lru_cache(_MAX_CONTEXTS)(self._find_context)
        self._orders = [
            _Contexts(low[6], low[1], low[4], low[5], high[2], high[3])
            for low, high in pairwise(files)
        ]

    def distribution(self, context: Sequence[int]) -> tuple[Float32Array, int]:
        """Return P(next token | last tokens of *context*), (V,) float32, and its evidence.

        The row sums to 1. The evidence is 0 if no token is known to follow; else
        1 + 6 (tokens of the longest context that some follow - 1) + class of its backoff weight,
        0 for one below 0.1 to 5 for one of at least 0.8.
        """
        weight, evidence, given = self._recent(tuple(context))
        row = self._unigram * np.float32(weight)
        for tokens, codes, shares in given:
            # Several times faster than row[tokens] += shares
            np.add.at(row, tokens, shares.take(codes))
        return row, evidence

    def probs(self, context: Sequence[int], tokens: Int64Array) -> tuple[Float32Array, int]:
        """Return :meth:`distribution` at these tokens (N,), bit for bit, without the others."""
        weight, evidence, given = self._recent(tuple(context))
        found = self._unigram[tokens] * np.float32(weight)
        for followers, codes, shares in given:
            ids = followers.data
            for n, token in enumerate(tokens.tolist()):
                place = bisect_left(ids, token)
                if place < len(ids) and ids[place] == token:
                    found[n] += shares[codes[place]]
        return found, evidence

    def after(self, known: Known, token: int) -> Known:
        """Return the contexts that are known after a token, which follows those of *known*."""
        after = []
        for order, found in known:
            if order < len(self._orders):
                rank = self._orders[order - 1].follow(*found[1:], token)
                if rank is not None and (longer := self._orders[order].find(rank)):
                    after.append((order + 1, longer))
        if shortest := self._context((token,)):
            after.append((1, shortest))
        return after

    def prob(self, known: Known, token: int) -> float:
        """Return :meth:`distribution` at one token, but for rounding; the fastest for one."""
        prob, weight = 0.0, 1.0
        for order, found in known:
            share, backoff = self._orders[order - 1].share(found, token)
            prob += weight * share
            weight *= backoff
        return prob + weight * float(self._unigram[token])

    def check(self) -> None:
        """Check all arrays: every rank that they name exists, every row is a distribution.

        Raises:
            ValueError: they are not what ``python -m training ngram`` writes.
        """
        unigram = self._unigram
        # NaN is neither
        if not (unigram.min() >= 0 and abs(float(unigram.sum(dtype=float)) - 1) < 1e-3):
            raise ValueError("probabilities of unigrams do not sum to 1")
        if unigram[:FIRST_BYTE].any() or not unigram[FIRST_BYTE:].all():
            raise ValueError("a unigram's probability is 0, or a control token has one")
        for contexts, ngrams in zip(self._orders, self.ngrams, strict=False):
            contexts.check(ngrams, self.vocabulary_size)

    def _find(self, context: Sequence[int]) -> tuple[float, int, list[Given]]:
        """Return the weight of unigrams, the evidence, and what each known context gives.

        A long context may be known though a shorter one was pruned.
        """
        weight, evidence, given = 1.0, 0, []
        tokens = tuple(map(int, context[max(0, len(context) - self.order + 1) :]))
        for start in range(len(tokens)):
            contexts = self._orders[len(tokens) - start - 1]
            if (found := self._context(tokens[start:])) is None:
                continue
            own, backoff = contexts.weigh(*found, weight)
            evidence = evidence or 6 * (len(tokens) - start) - 5 + bisect_right(_EDGES, backoff)
            weight *= backoff
            given.append(own)
        return weight, evidence, given

    def _find_context(self, tokens: tuple[int, ...]) -> tuple[int, int, int] | None:
        """Return the number of a context and the range of its followers; None if it has none."""
        order = len(tokens)
        if order == 1:
            return self._orders[0].find(tokens[0])
        if (shorter := self._context(tokens[:-1])) is None:
            return None
        rank = self._orders[order - 2].follow(*shorter[1:], tokens[-1])
        return None if rank is None else self._orders[order - 1].find(rank)


def file_names(config: CountsConfig) -> list[str]:
    """Return the names of the files of counts, by order."""
    return [f"{order}.ngrams" for order in range(1, len(config.ngrams) + 1)]


def file_sizes(config: CountsConfig) -> list[int]:
    """Return the bytes of each file, by order."""
    return [
        sum(np.dtype(kind).itemsize * length for kind, length in _parts(config, order))
        for order in range(1, len(config.ngrams) + 1)
    ]


def open_counts(directory: Path, folder: str, config: CountsConfig) -> Counts:
    """Map the counts in a folder of a checkpoint, and check them.

    Raises:
        CheckpointError: a file is missing or not what *config* says.
    """
    buffers = []
    for name, wanted in zip(file_names(config), file_sizes(config), strict=True):
        with open_listed(directory, f"{folder}/{name}") as file:
            size = os.fstat(file.fileno()).st_size
            if size != wanted:
                path = directory / folder / name
                raise CheckpointError(f"{path} has {size} bytes, not {wanted}; {BUILD_AGAIN}")
            buffers.append(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if size else b"")
    try:
        counts = Counts(config, buffers)
        counts.check()
    except ValueError as error:
        raise CheckpointError(f"{directory / folder}: {error}; {BUILD_AGAIN}") from error
    return counts


def counts_files(
    unigram: Float32Array, levels: Sequence[Level], training: dict[str, Any]
) -> CountsFiles:
    """Quantise an n-gram of the unigrams (V,) and longer orders; return its files by name."""
    empty = np.empty(0, dtype=np.uint8)
    parts: list[list[NDArray[Any]]] = [[unigram.astype("<f4"), empty, empty, empty]]
    contexts = []
    for level in levels:
        known = level.followers > 0
        followers = level.followers[known]
        first = np.cumsum(followers, dtype=np.int64) - followers
        sums = np.add.reduceat(level.shares, first, dtype=np.float64) if len(first) else first
        codes = -10 * np.log2(level.shares / np.repeat(sums.astype(np.float32), followers))
        logits = 127.5 + 14 * np.log(np.maximum(1 - sums, 1e-9) / sums)
        pages = first.searchsorted(np.arange(0, len(level.tokens), 256))
        parts[-1][1] = pages.astype("<u4")
        flags = np.packbits(known, bitorder="little")
        parts[-1] += [first.astype(np.uint8), _codes(logits), flags]  # the low 8 bits
        parts.append([empty, empty, level.tokens.astype("<u2"), _codes(codes)])
        contexts.append(len(first))
    config = CountsConfig(
        ngrams=(len(unigram), *(len(level.tokens) for level in levels)),
        contexts=tuple(contexts),
        training=training,
    )
    contents = (b"".join(map(bytes, part)) for part in parts)
    return config, dict(zip(file_names(config), contents, strict=True))


def _codes(values: NDArray[Any]) -> NDArray[np.uint8]:
    codes: NDArray[np.uint8] = np.clip(np.rint(values), 0, 255).astype(np.uint8)
    return codes


def _parts(config: CountsConfig, order: int) -> list[tuple[str, int]]:
    """Return the type and length of each array of an order's file."""
    ngrams, *longer = config.ngrams[order - 1 : order + 1]
    contexts = config.contexts[order - 1] if longer else 0
    later = 0 if order == 1 else ngrams
    return [
        ("<f4", ngrams - later),
        ("<u4", (sum(longer) + 255) // 256),
        ("<u2", later),
        ("u1", later),
        ("u1", contexts),
        ("u1", contexts),
        ("u1", (ngrams + 7) // 8 if longer else 0),
    ]


def _split(buffer: Any, parts: Sequence[tuple[str, int]]) -> Iterator[NDArray[Any]]:
    data, start = np.frombuffer(buffer, np.uint8) if len(buffer) else np.empty(0, np.uint8), 0
    for kind, length in parts:
        end = start + np.dtype(kind).itemsize * length
        yield data[start:end].view(kind)
        start = end
