"""The cache language model in Python: what the native one is tested against."""

from collections.abc import Sequence

import numpy as np

from model.decoding.cache_lm import (
    DISCOUNT,
    EXPONENT,
    MARGINAL_TOKENS,
    MAX_OCCURRENCES,
    MAX_TOKENS,
    OTHER_BACKGROUND,
    RARITY,
    STRENGTH,
    WEIGHT,
)
from model.runtime import Float32Array, Int64Array
from model.tokenizer import FIRST_BYTE

CONTEXT = 3

# Stands before the first token, so that every token has a context; and a context with what follows.
_BEFORE: Int64Array = np.full(CONTEXT - 1, -1, dtype=np.int64)
_WINDOW: Int64Array = np.arange(CONTEXT + 1)
_NO_TOKENS: Int64Array = np.zeros(0, dtype=np.int64)
_NO_RAISES: Float32Array = np.zeros(0, dtype=np.float32)


class CacheLM:
    """Counts of recent *tokens* (n,), with control tokens between texts that are apart.

    *background* is the share of each token in the training text, (V,); those of 0 do not count.
    Without *marginals*, only contexts do.
    """

    def __init__(
        self, tokens: Int64Array, background: Float32Array, marginals: bool = True
    ) -> None:
        tokens = tokens[-MAX_TOKENS:]
        self._tokens = np.concatenate((_BEFORE, tokens))
        self._background = background
        self._strength = STRENGTH * len(tokens) ** 0.5
        self._unique, self._raises = _NO_TOKENS, _NO_RAISES
        self._contexts: set[int] | None = None  # of one token, if nothing else counts
        if not marginals:
            self._contexts = set(tokens[:-1].tolist())
            return
        counted = tokens[background[tokens] > 0]
        self._unique, counts = np.unique(counted, return_counts=True)
        shares = counts / (MARGINAL_TOKENS + len(counted))
        factors = (1.0 + WEIGHT * shares / background[self._unique]) ** EXPONENT
        self._raises = (factors - 1.0).astype(np.float32)

    def kept(self, probs: Float32Array, context: Sequence[int]) -> float:
        """Return the factor of *probs* that :meth:`mix` leaves, before its own share is added."""
        if self._contexts is not None and not (context and context[-1] in self._contexts):
            return 1.0
        kept, _ = self._context_probs(context)
        added = probs[self._unique] * self._raises
        return kept / (1.0 + float(np.add.reduce(added)))

    def mix(self, probs: Float32Array, context: Sequence[int]) -> Float32Array:
        """Return *probs* (V,), which sum to 1, as corrected after the tokens of *context*."""
        if self._contexts is not None and not (context and context[-1] in self._contexts):
            return probs
        kept, followers = self._context_probs(context)
        if not len(self._unique):
            if not followers:
                return probs
            mixed = probs * np.float32(kept)
        else:
            known = probs[self._unique]
            added = known * self._raises
            scale = np.float32(kept / (1.0 + float(np.add.reduce(added))))
            mixed = probs * scale
            mixed[self._unique] = (known + added) * scale
        for token, prob in followers.items():
            mixed[token] += prob
        return mixed

    def _context_probs(self, context: Sequence[int]) -> tuple[float, dict[int, float]]:
        """Return the share that the contexts leave to p_0, and what they add to each token."""
        kept, added = 1.0, dict[int, float]()
        strength = self._strength
        for token, counts in zip(reversed(context), self._followers(context), strict=False):
            strength *= (float(self._background[token]) or OTHER_BACKGROUND) ** RARITY
            total = sum(counts.values()) + strength
            share = (strength + DISCOUNT * len(counts)) / total
            kept *= share
            for follower in added:
                added[follower] *= share
            for follower, count in counts.items():
                added[follower] = added.get(follower, 0.0) + (count - DISCOUNT) / total
        return kept, added

    def _followers(self, context: Sequence[int]) -> list[dict[int, int]]:
        """Count what followed the last one, two and three tokens of *context*, if they occurred."""
        tokens = self._tokens
        places = (tokens[CONTEXT - 1 : -1] == context[-1]).nonzero()[0] if context else tokens[:0]
        found: list[dict[int, int]] = []
        if not len(places):
            return found
        for window in tokens[places[-MAX_OCCURRENCES:, None] + _WINDOW].tolist():
            follower = window[-1]
            if follower < FIRST_BYTE:
                continue
            for length, token in enumerate(reversed(context[-CONTEXT:])):
                if window[CONTEXT - 1 - length] != token:
                    break
                if length == len(found):
                    found.append({})
                found[length][follower] = found[length].get(follower, 0) + 1
        return found
