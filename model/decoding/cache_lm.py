"""A cache language model: words of the text and of its writer's history are likely to return.

It corrects the network's distribution p(v) of the next token by counts of the recent tokens, in two
steps. Each keeps the sum of the distribution.

- Unigram marginals (Kneser, Peters and Klakow 1997, "Language model adaptation using dynamic
  marginals"):

      p_0(v) ∝ p(v) (1 + W s(v) / b(v))^E

  s is a token's share of the recent tokens, b its share of the training text (the *background*).
- Contexts of k = 1, 2 and 3 tokens, as in a hierarchical Pitman-Yor model (Teh 2006):

      p_k(v) = (c(v) - D) / (n + S_k) + (S_k + D t) / (n + S_k) p_{k-1}(v)

  The context occurred n times, c(v) of them followed by v, with t different followers.

Nothing is learnt, and only token ids are kept. docs/decisions/0011-memory.md has the gains.
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from model.runtime import Float32Array, Int64Array

# The most recent tokens, which are counted.
MAX_TOKENS = 3000
WEIGHT, EXPONENT = 0.5, 0.4
DISCOUNT = 0.8
# S_k for contexts of one, two and three tokens.
STRENGTHS = (15.0, 2.0, 2.0)
# Tokens of the longest context.
CONTEXT = len(STRENGTHS)
# The latest occurrences of a context, which are counted.
MAX_OCCURRENCES = 64
# Below so many tokens sorting them is faster than an array of counts as long as the vocabulary.
FEW_TOKENS = 400


class CacheLM:
    """Counts of recent *tokens* (n,), with control tokens between texts that are apart.

    *background* is the share of each token in the training text, (V,); those of 0 do not count.
    """

    def __init__(self, tokens: Int64Array, background: Float32Array) -> None:
        self._tokens = tokens[-MAX_TOKENS:]
        self._is_counted = background > 0
        counted = self._tokens[self._is_counted[self._tokens]]
        if len(counted) < FEW_TOKENS:
            self._unique, counts = np.unique(counted, return_counts=True)
        else:
            all_counts = np.bincount(counted, minlength=len(background))
            self._unique = all_counts.nonzero()[0]
            counts = all_counts[self._unique]
        shares = counts / max(1, len(counted))
        factors = (1.0 + WEIGHT * shares / background[self._unique]) ** EXPONENT
        self._raises = (factors - 1.0).astype(np.float32)

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays."""
        return int(self._tokens.nbytes + self._unique.nbytes + self._raises.nbytes)

    def log_marginal(self, tokens: Sequence[int]) -> float:
        """Sum the logarithms of the marginals' factors over *tokens*, without normalisation."""
        if not len(self._unique):
            return 0.0
        places = np.searchsorted(self._unique, tokens).clip(max=len(self._unique) - 1)
        found = self._unique[places] == tokens
        return float(np.log1p(self._raises[places[found]]).sum())

    def mix(self, probs: Float32Array, context: Sequence[int]) -> Float32Array:
        """Return *probs* (V,), which sum to 1, as corrected after the tokens of *context*."""
        known = probs[self._unique]
        added = known * self._raises
        kept, followers = self._context_probs(context)
        scale = np.float32(kept / (1.0 + float(np.add.reduce(added))))
        mixed = probs * scale
        mixed[self._unique] = (known + added) * scale
        if followers:
            mixed[list(followers)] += np.array(list(followers.values()), dtype=np.float32)
        return mixed

    def mix_logs(self, log_probs: Float32Array, context: Sequence[int]) -> Float32Array:
        """Do the same with logarithms of probabilities, (V,)."""
        added = np.exp(log_probs[self._unique]) * self._raises
        kept, followers = self._context_probs(context)
        mixed = log_probs + np.float32(np.log(kept) - np.log1p(float(np.add.reduce(added))))
        mixed[self._unique] += np.log1p(self._raises)
        if followers:
            tokens = list(followers)
            added = np.array(list(followers.values()), dtype=np.float32)
            mixed[tokens] = np.logaddexp(mixed[tokens], np.log(added))
        return mixed

    def _context_probs(self, context: Sequence[int]) -> tuple[float, dict[int, float]]:
        """Return the share that the contexts leave to p_0, and what they add to each token."""
        kept, added = 1.0, dict[int, float]()
        places = self._tokens[:0]
        for length, strength in enumerate(STRENGTHS, 1):
            if len(context) < length:
                break
            if length == 1:
                places = np.flatnonzero(self._tokens[:-1] == context[-1])
            else:
                places = places[places >= length - 1]
                places = places[self._tokens[places - (length - 1)] == context[-length]]
            followers = self._tokens[places[-MAX_OCCURRENCES:] + 1]
            counts = Counter(followers[self._is_counted[followers]].tolist())
            if not counts:
                break
            total = counts.total() + strength
            share = (strength + DISCOUNT * len(counts)) / total
            kept *= share
            for token in added:
                added[token] *= share
            for token, count in counts.items():
                added[token] = added.get(token, 0.0) + (count - DISCOUNT) / total
        return kept, added
