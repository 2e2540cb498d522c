"""An interpolated modified Kneser-Ney n-gram over token ids, behind the protocol of model/runtime.py.

It reads what `python -m training ngram` wrote (the estimation is in training/ngram.py) and answers the same calls as a
recurrent network: its "state" is the last tokens read. So the decoders that serve the network also run over the
n-gram, and the two are compared with nothing else changed. It has no backward tower and no gap head.

A directory holds a trie in flat arrays, one level for each order k, no dictionaries, memory-mapped:

    ngram.json            sizes, discounts, what text was counted
    tokenizer.model      the vocabulary of its tokens
    unigram.npy           float32 (V,)    p(w), interpolated with the uniform distribution; 0 where never predicted
    tokens.K.npy          uint16 (n_K,)   last token of each K-gram, K >= 2, sorted by (rank of its prefix, token)
    discounted.K.npy      float32 (n_K,)  (a(hw) - D(a(hw))) / sum_v a(hv)
    children.K.npy        uint32 (n_K+1,) K < order: where the (K+1)-grams that continue each K-gram begin
    backoff.K.npy         float32 (n_K,)  K < order: gamma(h), the weight of the shorter context

The rank of a K-gram is its place in that order; a unigram's rank is its token id.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from model.config import NetworkConfig
from model.errors import CheckpointError
from model.forward_only import ForwardOnlyRuntime, forward_only

NGRAM_FORMAT_VERSION = 1
DESCRIPTION = "ngram.json"

Float32Array = NDArray[np.float32]
Ids = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Level:
    """The K-grams of one order as contexts: how each goes on, and how much each leaves to the shorter context.

    Attributes:
        children: (n_K + 1,) uint32, bounds of each context's slice in ``tokens`` and ``discounted``.
        backoff: (n_K,) float32, gamma(h).
        tokens: (n_{K+1},) uint16, the tokens that follow, rising within a slice.
        discounted: (n_{K+1},) float32, their discounted relative frequencies.
    """

    children: NDArray[np.uint32]
    backoff: Float32Array
    tokens: NDArray[np.uint16]
    discounted: Float32Array


class NGramRuntime(ForwardOnlyRuntime):
    """A modified Kneser-Ney n-gram that answers as a forward-only network does.

    Every row is computed by itself, so an answer cannot depend on its batch.

    Attributes:
        config: a ``forward`` network of one layer whose ``hidden_size`` is ``order - 1``: a state row, and an output
            row, holds the last ``order - 1`` token ids as float32 (exact below 2**24), oldest first, 0 = none yet.
        order: length of the longest n-gram.
        description: the content of ``ngram.json``.
    """

    def __init__(
        self, unigram: Float32Array, levels: Sequence[Level], description: dict[str, Any]
    ) -> None:
        self.order = len(levels) + 1
        self.description = description
        self.head_rows = 64
        self.config = NetworkConfig(
            vocabulary_size=len(unigram),
            architecture="forward",
            cell="rnn_tanh",
            embedding_size=1,
            hidden_size=self.order - 1,
            forward_layers=1,
            backward_layers=0,
            gap_hidden_size=0,
        )
        self._unigram = unigram
        self._levels = tuple(levels)

    def advance(
        self, tower: Literal["forward", "backward"], states: Float32Array, tokens: Ids, lengths: Ids
    ) -> tuple[Float32Array, Float32Array]:
        """Read tokens: append them to the contexts.

        Args:
            tower: ``forward``; there is no other.
            states: (N, order - 1) float32.
            tokens: (N, T) int64, right-padded.
            lengths: (N,) int64, tokens of each row.

        Returns:
            The states (N, order - 1) after each row's own tokens, and the contexts (N, T, order - 1) after every token.

        Raises:
            UnsupportedError: the backward tower was asked for.
        """
        if tower != "forward":
            raise forward_only()
        rows, width = states.shape
        read = np.concatenate([states, tokens.astype(np.float32)], axis=1)
        windows = np.lib.stride_tricks.sliding_window_view(
            read, width, axis=1
        )  # (N, T + 1, order - 1)
        return windows[np.arange(rows), lengths].copy(), windows[:, 1:].copy()

    def next_log_probabilities(self, outputs: Float32Array) -> Float32Array:
        """Log-probabilities (N, V) in nats of every next token, -inf where never predicted; contexts (N, order - 1)."""
        answers = np.empty((len(outputs), len(self._unigram)), dtype=np.float32)
        with np.errstate(divide="ignore"):
            for row, context in zip(answers, outputs.astype(np.int64).tolist(), strict=True):
                np.log(self.distribution(context), out=row)
        return answers

    def distribution(self, context: Sequence[int]) -> Float32Array:
        """P(next token | context), (V,) float32, summing to 1 over the tokens that can be predicted.

        From the unigrams upwards, p_k(w | h) = discounted(hw) + gamma(h) p_{k-1}(w | h less its first token).
        Contexts that were never seen, and those that hold a control token inside, leave all to the shorter ones.

        Args:
            context: the last tokens, oldest first; more than ``order - 1`` are ignored.

        Chen & Goodman 1999, An empirical study of smoothing techniques for language modeling, equations 26-28.
        """
        probabilities = self._unigram.copy()
        for length in range(1, min(len(context), self.order - 1) + 1):
            node = self._find(context[-length:])
            if (
                node is None
            ):  # every longer context contains this one, so none of them was seen either
                break
            level = self._levels[length - 1]
            begin, end = int(level.children[node]), int(level.children[node + 1])
            if begin < end:
                probabilities *= level.backoff[node]
                probabilities[level.tokens[begin:end]] += level.discounted[begin:end]
        return probabilities

    def _find(self, tokens: Sequence[int]) -> int | None:
        """Rank of an n-gram among those of its order, by a binary search a level; None if it was never seen."""
        node = tokens[0]
        for token, level in zip(tokens[1:], self._levels, strict=False):
            begin, end = int(level.children[node]), int(level.children[node + 1])
            # np.uint16: a plain int would make numpy convert the whole slice first
            place = begin + int(level.tokens[begin:end].searchsorted(np.uint16(token)))
            if place == end or level.tokens[place] != token:
                return None
            node = place
        return node


def open_ngram(directory: Path) -> NGramRuntime:
    """Open what ``python -m training ngram`` wrote; arrays are memory-mapped and read when first used.

    Raises:
        CheckpointError: the directory is missing, torn or of another format version.
    """
    return open_arrays(directory, read_description(directory))


def open_arrays(directory: Path, description: dict[str, Any]) -> NGramRuntime:
    """Open the arrays that a description goes with.

    Args:
        directory: that holds them.
        description: with ``order`` and ``counts``, as in ``ngram.json``.

    Raises:
        CheckpointError: they are missing, torn or of other sizes.
    """
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
    """The content of ``ngram.json``.

    Raises:
        CheckpointError: it is missing, not JSON or of another format version.
    """
    path = directory / DESCRIPTION
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{path}: not readable ({error!r}); build it with `python -m training ngram`"
        ) from error
    version = description.get("format_version") if isinstance(description, dict) else None
    if version != NGRAM_FORMAT_VERSION:
        raise CheckpointError(
            f"{path}: format version {version}, this program reads {NGRAM_FORMAT_VERSION}"
        )
    return dict(description)


def size_in_bytes(directory: Path) -> int:
    """Bytes of the n-gram's arrays on disk, which are also what is mapped when it runs."""
    return sum(path.stat().st_size for path in directory.glob("*.npy"))


def _read(path: Path, dtype: type[np.generic], length: int) -> NDArray[Any]:
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    if array.dtype != dtype or array.shape != (length,):
        raise ValueError(
            f"{path.name} holds {array.dtype} {array.shape}, expected {np.dtype(dtype)} ({length},)"
        )
    # The plain view: slicing an np.memmap costs several microseconds more
    return np.asarray(array)
