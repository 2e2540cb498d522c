"""An interpolated modified Kneser-Ney n-gram over token ids, behind the Runtime protocol.

It reads what ``python -m training ngram`` wrote (training/ngram.py estimates it) and answers the
same calls as a recurrent network: its "state" is the last tokens read. So the decoders of the
network also run over the n-gram, and the two are compared with nothing else changed. It has no
backward tower and no gap head.

A directory holds a trie in flat, memory-mapped arrays, one level for each order k:

    ngram.json         sizes, discounts, description of the counted text
    tokenizer.model    SentencePiece model
    unigram.npy        float32 (V,), p(w) interpolated with the uniform distribution
    tokens.K.npy       uint16 (n_K,), last token of each K-gram, K >= 2, sorted by (prefix, token)
    discounted.K.npy   float32 (n_K,), (a(hw) - D(a(hw))) / sum_v a(hv)
    children.K.npy     uint32 (n_K + 1,), K < order: first (K+1)-gram that continues each K-gram
    backoff.K.npy      float32 (n_K,), K < order: gamma(h), the weight of the shorter context

The rank of a K-gram is its position in that order; the rank of a unigram is its token id.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.config import ForwardSizes
from model.errors import CheckpointError
from model.runtime import Float32Array, Int64Array, WindowRuntime

NGRAM_FORMAT_VERSION = 1
DESCRIPTION = "ngram.json"


@dataclass(frozen=True, slots=True)
class Level:
    """The K-grams of one order as contexts, and the (K+1)-grams that continue them."""

    children: NDArray[np.uint32]
    backoff: Float32Array
    tokens: NDArray[np.uint16]
    discounted: Float32Array


class NGramRuntime(WindowRuntime):
    """A modified Kneser-Ney n-gram; every row is computed alone, so no answer depends on its batch.

    States and outputs hold ``order - 1`` tokens; *description* is the content of ``ngram.json``.
    """

    def __init__(
        self, unigram: Float32Array, levels: Sequence[Level], description: dict[str, Any]
    ) -> None:
        self.order = len(levels) + 1
        self.description = description
        self.head_rows = 64
        self.sizes = ForwardSizes(len(unigram), self.order - 1)
        self._unigram = unigram
        self._levels = tuple(levels)

    def score_next(self, contexts: Int64Array) -> Float32Array:
        """Return log-probabilities (N, V) of the next token after contexts (N, order - 1)."""
        answers = np.empty((len(contexts), len(self._unigram)), dtype=np.float32)
        with np.errstate(divide="ignore"):
            for row, context in zip(answers, contexts.tolist(), strict=True):
                np.log(self.distribution(context), out=row)
        return answers

    def distribution(self, context: Sequence[int]) -> Float32Array:
        """Return P(next token | the last tokens of *context*), (V,) float32, which sums to 1.

        From the unigrams upwards, p_k(w | h) = discounted(hw) + gamma(h) p_{k-1}(w | h less its
        first token). Unseen contexts, and those with a control token inside, leave everything to
        the shorter ones.

        Chen & Goodman 1999, An empirical study of smoothing techniques for language modeling,
        equations 26-28.
        """
        probabilities = self._unigram.copy()
        for length in range(1, min(len(context), self.order - 1) + 1):
            node = self._find(context[-length:])
            if node is None:  # every longer context contains this one and is unseen, too
                break
            level = self._levels[length - 1]
            begin, end = int(level.children[node]), int(level.children[node + 1])
            if begin < end:
                probabilities *= level.backoff[node]
                probabilities[level.tokens[begin:end]] += level.discounted[begin:end]
        return probabilities

    def _find(self, tokens: Sequence[int]) -> int | None:
        """Return the rank of an n-gram among those of its order, or None if it is unseen."""
        node = tokens[0]
        for token, level in zip(tokens[1:], self._levels, strict=False):
            begin, end = int(level.children[node]), int(level.children[node + 1])
            # np.uint16: a plain int would make numpy convert the whole slice first
            place = begin + int(level.tokens[begin:end].searchsorted(np.uint16(token)))
            if place == end or level.tokens[place] != token:
                return None
            node = place
        return node


def open_ngram(directory: Path, description: dict[str, Any] | None = None) -> NGramRuntime:
    """Open memory-mapped arrays, and the description of ``order`` and ``counts`` next to them.

    Raises:
        CheckpointError: the directory is missing, torn or of another format version.
    """
    description = description or read_description(directory)
    try:
        order, counts = int(description["order"]), [int(count) for count in description["counts"]]
        unigram = _read(directory / "unigram.npy", np.float32, counts[0])
        levels = [
            Level(
                children=_read(directory / f"children.{k}.npy", np.uint32, counts[k - 1] + 1),
                backoff=_read(directory / f"backoff.{k}.npy", np.float32, counts[k - 1]),
                tokens=_read(directory / f"tokens.{k + 1}.npy", np.uint16, counts[k]),
                discounted=_read(directory / f"discounted.{k + 1}.npy", np.float32, counts[k]),
            )
            for k in range(1, order)
        ]
    except (KeyError, IndexError, TypeError, ValueError, OSError) as error:
        raise CheckpointError(
            f"{directory}: the n-gram cannot be read ({error!r}); build it again"
        ) from error
    return NGramRuntime(unigram, levels, description)


def read_description(directory: Path) -> dict[str, Any]:
    """Return the content of ``ngram.json``.

    Raises:
        CheckpointError: it is missing, not JSON or of another format version.
    """
    path = directory / DESCRIPTION
    try:
        description: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if description["format_version"] != NGRAM_FORMAT_VERSION:
            raise ValueError(f"format_version is not {NGRAM_FORMAT_VERSION}")
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{path}: not readable ({error!r}); build it with `python -m training ngram`"
        ) from error
    return description


def size_in_bytes(directory: Path) -> int:
    """Return the size of the n-gram's arrays on disk."""
    return sum(path.stat().st_size for path in directory.glob("*.npy"))


def _read(path: Path, dtype: type[np.generic], length: int) -> NDArray[Any]:
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    if array.dtype != dtype or array.shape != (length,):
        raise ValueError(
            f"{path.name} holds {array.dtype} {array.shape}, expected {np.dtype(dtype)} ({length},)"
        )
    # A plain array: each slice of an np.memmap costs several microseconds more.
    return np.asarray(array)
