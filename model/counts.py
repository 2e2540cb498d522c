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

import ctypes
import mmap
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.config import EVIDENCE, CountsConfig
from model.errors import CheckpointError
from model.listed_files import open_listed
from model.native import library as native
from model.native.library import BYTE, DOUBLE, FLOAT, INT32, RANK, TOKEN, address
from model.runtime import Float32Array, Float64Array, Int32Array, Int64Array
from model.tokenizer import FIRST_BYTE

# Description and content of each file by name
CountsFiles = tuple[CountsConfig, dict[str, bytes]]
BUILD_AGAIN = "build it again with `python -m training ngram`"
_SHARES = np.exp2(np.arange(256) / -10).astype(np.float32)
_BACKOFFS = 1 / (1 + np.exp((127.5 - np.arange(256)) / 14))
# As in native/counts.cpp: bits of the bitmap that share a count of contexts, slots for sums.
_BLOCK, _TOTALS = 512, 1024


@dataclass(frozen=True, slots=True)
class Level:
    """The n k-grams of one order, k >= 2, as estimated; parents are the (k - 1)-grams by rank."""

    followers: NDArray[np.integer[Any]]  # (parents,) number of k-grams that begin with each parent
    tokens: NDArray[np.uint16]  # (n,) last tokens, rising for each parent
    shares: Float32Array  # (n,) probability that the shorter contexts do not give; above 0


class _Order:
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
        self._flags, self._pages, self._first, self._tokens = flags, pages, first, tokens
        bits = np.unpackbits(flags)
        counts = np.add.reduceat(bits, np.arange(0, len(bits), _BLOCK), dtype=np.uint32)
        before = np.cumsum(counts, dtype=np.uint32) - counts
        self._contexts = int(counts.sum())
        totals = np.zeros(_TOTALS, dtype=np.uint64)
        self.native = native.Order(
            address(flags, BYTE),
            address(before, RANK),
            address(pages, RANK),
            *(address(first, BYTE), address(backoffs, BYTE)),
            address(tokens, TOKEN),
            address(shares, BYTE),
            address(totals, np.dtype("u8")),
            len(pages),
            self._contexts,
            len(tokens),
        )
        self._kept_alive = before, totals, backoffs, shares

    def check(self, ngrams: int, vocabulary_size: int) -> None:
        """Check the arrays against n, the number of k-grams; see :meth:`Counts.check`."""
        bits = np.unpackbits(self._flags, count=ngrams, bitorder="little")
        count = int(bits.sum())
        if not count == self._contexts == len(self._first):
            raise ValueError("bits of contexts are of another number")
        sizes: Int64Array = np.diff(
            np.append(self._pages.astype(np.int64), count)
        )  # contexts by page
        if (sizes < 0).any() or sizes.sum() != count:
            raise ValueError("numbers of contexts are not in order")
        first = np.repeat(np.arange(len(sizes)) << 8, sizes) | self._first
        if (np.diff(first, append=len(self._tokens)) < 1).any() or first[:1].any():
            raise ValueError("first followers are not in order")
        if bool(count) != bool(len(self._tokens)):
            raise ValueError("contexts have no followers")
        starts = np.zeros(len(self._tokens), dtype=np.bool_)
        starts[first] = True
        if not (starts[1:] | (self._tokens[1:] > self._tokens[:-1])).all():
            raise ValueError("tokens are not in order")
        if count and not FIRST_BYTE <= self._tokens.min() <= self._tokens.max() < vocabulary_size:
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
        self._orders = [
            _Order(low[6], low[1], low[4], low[5], high[2], high[3])
            for low, high in pairwise(files)
        ]
        self._library = native.counts_library()
        self._native_orders = (native.Order * len(self._orders))(
            *(each.native for each in self._orders)
        )
        self._native = native.Counts(
            ctypes.addressof(self._native_orders),
            *(address(self._unigram, FLOAT), address(_SHARES, FLOAT), address(_BACKOFFS, DOUBLE)),
            len(self._orders),
            self.vocabulary_size,
        )
        self.address = ctypes.addressof(self._native)  # of the structure of counts.cpp

    def mix(self, rows: Float32Array, contexts: Int32Array, weights: Float64Array) -> None:
        """Replace each of *rows* (N, V) by (1 - w) row + w P(next token | context), in place.

        *contexts* (N, C) are its last tokens, *weights* (N, EVIDENCE) the w by evidence: 0 if no
        token is known to follow; else 1 + 6 (tokens of the longest context that some follow - 1) +
        class of its backoff weight, 0 for one below 0.1 to 5 for one of at least 0.8. Arrays are
        contiguous.

        Raises:
            ValueError: an array has another shape or type, or is not contiguous.
        """
        count = len(contexts)
        if rows.shape != (count, self.vocabulary_size) or weights.shape != (count, EVIDENCE):
            raise ValueError("rows, contexts and weights are of different shapes")
        self._library.lacuna_counts_mix(
            self.address,
            len(rows),
            address(rows, FLOAT),
            address(contexts, INT32),
            contexts.shape[1],
            address(weights, DOUBLE),
        )

    def probs(self, context: Sequence[int], tokens: Sequence[int]) -> tuple[Float32Array, int]:
        """Return P(token | last tokens of *context*), (N,) float32, and the evidence of it.

        They are bit for bit those of a row of :meth:`mix`.
        """
        left, ids = _int32(context), _int32(tokens)
        found = np.empty(len(ids), dtype=np.float32)
        evidence: int = self._library.lacuna_counts_probs(
            self.address,
            *(address(left, INT32), len(left)),
            *(len(ids), address(ids, INT32), address(found, FLOAT)),
        )
        return found, evidence

    def log_probs_of_next(
        self, context: Sequence[int], tokens: Sequence[int], following: Sequence[int]
    ) -> Float64Array:
        """Return log P(*following* | context, token) for each of *tokens*, (N,)."""
        left, ids, after = _int32(context), _int32(tokens), _int32(following)
        found = np.empty(len(ids))
        self._library.lacuna_counts_log_probs_of_next(
            self.address,
            *(address(left, INT32), len(left), len(ids), address(ids, INT32)),
            *(len(after), address(after, INT32), address(found, DOUBLE)),
        )
        return found

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


def _int32(tokens: Sequence[int]) -> Int32Array:
    return np.array(tokens, dtype=np.int32)


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
