"""A cache language model: words of the text and of its writer's history are likely to return.

It corrects the network's distribution p(v) of the next token by counts of the N recent tokens, in
two steps. Each keeps the sum of the distribution, and little evidence changes little.

- Unigram marginals (Kneser, Peters and Klakow 1997, "Language model adaptation using dynamic
  marginals"):

      p_0(v) ∝ p(v) (1 + W s(v) / b(v))^E        s(v) = c(v) / (N + M)

  b is a token's share of the training text (the *background*).
- Contexts of k = 1, 2 and 3 tokens, as in a hierarchical Pitman-Yor model (Teh 2006):

      p_k(v) = (c(v) - D) / (n + S) + (S + D t) / (n + S) p_{k-1}(v)

  The context occurred n times, c(v) of them followed by v, with t different followers. Its strength
  S = A √N (b(v_1) … b(v_k))^B falls with the evidence that the text repeats an earlier passage:
  rare tokens meet again by chance less than frequent ones do, and less in a short text.

Nothing is learnt, and only token ids are kept. docs/decisions/0011-memory.md has the gains.
"""

import math
from collections.abc import Sequence

import numpy as np

from model.runtime import Float32Array, Int64Array
from model.tokenizer import FIRST_BYTE

# The most recent tokens, which are counted.
MAX_TOKENS = 3000
WEIGHT, EXPONENT = 0.5, 0.4
# M: the marginals of so many tokens have half their effect.
MARGINAL_TOKENS = 100
# A, B and D of the contexts.
STRENGTH, RARITY, DISCOUNT = 48.0, 0.6, 0.8
# The background of bytes and line ends in a context.
OTHER_BACKGROUND = 0.01
# Tokens of the longest context.
CONTEXT = 3
# The latest occurrences of a context, which are counted.
MAX_OCCURRENCES = 128
# Below so many tokens sorting them is faster than an array of counts as long as the vocabulary.
FEW_TOKENS = 400

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
        self._logs: tuple[Float32Array, set[int]] | None = None  # of 1 + raises; tokens
        if not marginals:
            self._contexts = set(tokens[:-1].tolist())
            return
        counted = tokens[background[tokens] > 0]
        if len(counted) < FEW_TOKENS:
            self._unique, counts = np.unique(counted, return_counts=True)
        else:
            all_counts = np.bincount(counted, minlength=len(background))
            self._unique = all_counts.nonzero()[0]
            counts = all_counts[self._unique]
        shares = counts / (MARGINAL_TOKENS + len(counted))
        factors = (1.0 + WEIGHT * shares / background[self._unique]) ** EXPONENT
        self._raises = (factors - 1.0).astype(np.float32)

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays."""
        return int(self._tokens.nbytes + self._unique.nbytes + self._raises.nbytes)

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

    def mix_logs(self, log_probs: Float32Array, context: Sequence[int]) -> float:
        """Do the same with logarithms in place, but for a constant to add to all: return it."""
        if self._logs is None:
            self._logs = np.log1p(self._raises), set(self._tokens.tolist())
        log_raises, seen = self._logs
        kept, followers = 1.0, dict[int, float]()
        if context and context[-1] in seen:
            kept, followers = self._context_probs(context)
        known = log_probs[self._unique]
        added = float(np.exp(known).dot(self._raises))
        log_probs[self._unique] = known + log_raises
        change = math.log(kept) - math.log1p(added)
        scale = math.exp(-change)
        for token, prob in followers.items():
            log_probs[token] = math.log(math.exp(log_probs[token]) + prob * scale)
        return change

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
