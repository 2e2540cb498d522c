"""A network mixed with counts, behind the Runtime protocol.

    P(next token) = (1 - λ) P_network + λ P_counts

and again with the next counts, if there are several. λ is fitted for each language and class
of evidence (Jelinek and Mercer 1980, "Interpolated estimation of Markov source parameters from
sparse data"). Only the next head is mixed.

States and forward outputs hold the last tokens, before those of the network's top layer:

    state     network's lower layers | last tokens | network's top layer
    output                             last tokens | network's output

Tokens are float32 (exact below 2**24), oldest first; 0 = none yet.
"""

import ctypes
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from model.config import EVIDENCE, CountsWeights, Tower, WindowSizes
from model.counts import Counts
from model.native import search as native
from model.native.library import DOUBLE, INT8, address
from model.runtime import (
    Float32Array,
    Float64Array,
    Head,
    Int32Array,
    Int64Array,
    Runtime,
    append_tokens,
    output_slice,
)
from model.text import LANGUAGES, LETTER, is_han
from model.tokenizer import Tokenizer

if TYPE_CHECKING:
    from model.checkpoint import Checkpoint

# Tokens of the longest context of counts.
WINDOW = 4
# Rows of a call of score without a network.
HEAD_ROWS = 64


class Mixture:
    """Counts with their *weights*, in the order in which they are mixed in.

    The language is that of the last token with a Chinese character or a letter; without one, the
    mean weight of the languages counts.
    """

    def __init__(
        self, counts: Sequence[Counts], weights: CountsWeights, tokenizer: Tokenizer
    ) -> None:
        self.layers = len(counts)
        self.vocabulary_size = tokenizer.size
        self._layers: list[tuple[Counts, Float64Array]] = []  # weights by language and evidence
        for each, own in zip(counts, weights, strict=False):
            by_language = np.array([own[language] for language in LANGUAGES])
            mean = by_language.mean(axis=0, keepdims=True)
            self._layers.append((each, np.concatenate([by_language, mean])))
        self._languages = [_language(surface) for surface in tokenizer.surfaces]  # by token
        codes = [-1 if each is None else each for each in self._languages]
        self._codes = np.array(codes, dtype=np.int8)

    @classmethod
    def of(cls, checkpoint: "Checkpoint") -> "Mixture":
        """Return the mixture that a checkpoint describes."""
        weights = checkpoint.calibration.counts_weights
        return cls(checkpoint.counts, weights, checkpoint.tokenizer)

    def mix(self, rows: Float32Array | None, contexts: Int32Array) -> Float32Array:
        """Mix rows (N, V) after contexts (N, C) in place; None, return those of counts alone."""
        languages = [self._language_of(context) for context in contexts.tolist()]
        for counts, weights in self._layers:
            shares = weights.take(languages, axis=0)
            if rows is None:
                rows = np.zeros((len(contexts), self.vocabulary_size), dtype=np.float32)
                shares = np.ones_like(shares)
            counts.mix(rows, contexts, shares)
        if rows is None:
            raise ValueError("neither a network nor counts")
        return rows

    def parts(
        self, context: Sequence[int], tokens: Sequence[int], has_network: bool
    ) -> list[list[float]]:
        """Return what each counts give to the mixed probabilities of *tokens* after a context."""
        parts: list[list[float]] = []
        for counts, weights in self._layers:
            probs, evidence = counts.probs(context, tokens)
            language = self._language_of(context)
            weight = float(weights[language, evidence]) if has_network or parts else 1.0
            parts = [[(1 - weight) * value for value in part] for part in parts]
            parts.append([weight * value for value in probs.tolist()])
        return parts

    def native(self, window_place: int, has_network: bool) -> native.Mixture:
        """Return what the native search reads, while this lives.

        *window_place*: of the last tokens in a state.
        """
        count = max(1, self.layers)
        counts, weights = (ctypes.c_void_p * count)(), (ctypes.c_void_p * count)()
        for n, (each, own) in enumerate(self._layers):
            counts[n], weights[n] = each.address, address(own, DOUBLE)
        found = native.Mixture(
            *(ctypes.addressof(counts), ctypes.addressof(weights), address(self._codes, INT8)),
            *(self.layers, len(LANGUAGES), EVIDENCE, has_network),
            *(window_place, WINDOW if self.layers else 0),
        )
        found.kept = counts, weights
        return found

    def log_probs_of_next(
        self, context: Sequence[int], tokens: Sequence[int], following: Sequence[int]
    ) -> Float64Array | None:
        """Return log P_counts(*following* | context, token) for each of *tokens*, (N,), or None."""
        if not self._layers:
            return None
        return self._layers[0][0].log_probs_of_next(context, tokens, following)

    def _language_of(self, context: Sequence[int]) -> int:
        codes = (self._languages[token] for token in reversed(context))
        return next((code for code in codes if code is not None), len(LANGUAGES))


class MixtureRuntime:
    """Runs a network, if there is one, and mixes counts into its next head."""

    def __init__(self, network: Runtime | None, mixture: Mixture) -> None:
        sizes = network.sizes if network else None
        self.sizes = WindowSizes.of(sizes, mixture.vocabulary_size, WINDOW)
        self.head_rows = network.head_rows if network else HEAD_ROWS
        self.name = network.name if network else "counts"
        self.network, self._mixture = network, mixture
        self._place = output_slice(self.sizes, "forward").start  # of the tokens in a state

    def run_tower(
        self, tower: Tower, states: Float32Array, tokens: Int64Array, lengths: Int64Array
    ) -> tuple[Float32Array, Float32Array]:
        """See :meth:`model.runtime.Runtime.run_tower`."""
        if tower == "backward" and self.network:
            return self.network.run_tower(tower, states, tokens, lengths)
        place, top = self._place, self._place + WINDOW
        window, windows = append_tokens(states[:, place:top], tokens, lengths)
        if not self.network:
            return window, windows
        inner = np.concatenate([states[:, :place], states[:, top:]], axis=1)
        inner, outputs = self.network.run_tower(tower, inner, tokens, lengths)
        states = np.empty_like(states)
        states[:, :place], states[:, place:top] = inner[:, :place], window
        states[:, top:] = inner[:, place:]
        return states, np.concatenate([windows, outputs], axis=2)

    def score(self, head: Head, *inputs: npt.NDArray[Any]) -> Float32Array:
        """See :meth:`model.runtime.Runtime.score`."""
        if self.network and head not in ("next", "gap"):
            return self.network.score(head, *inputs)
        contexts, outputs = inputs[0][:, :WINDOW], np.ascontiguousarray(inputs[0][:, WINDOW:])
        if self.network and head == "gap":
            return self.network.score(head, outputs, *inputs[1:])
        rows = self.network.score("next", outputs) if self.network else None
        return self._mixture.mix(rows, contexts.astype(np.int32))


def _language(surface: str) -> int | None:
    """Return the index of a token's language in LANGUAGES; None if its *surface* has none."""
    if any(map(is_han, surface)):
        return LANGUAGES.index("zh")
    return LANGUAGES.index("en") if LETTER.search(surface) else None
