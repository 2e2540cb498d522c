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

import ctypes
import math
from collections.abc import Sequence

import numpy as np

from model.native import search as native
from model.native.library import DOUBLE, FLOAT, INT32, INT64, address
from model.native.search import CONTEXT
from model.runtime import Float32Array, Float64Array, Int64Array
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
# The latest occurrences of a context, which are counted.
MAX_OCCURRENCES = 128
# Below so many tokens sorting them is faster than an array of counts as long as the vocabulary.
FEW_TOKENS = 400

# Stands before the first token, so that every token has a context.
_BEFORE: Int64Array = np.full(CONTEXT - 1, -1, dtype=np.int64)
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
        self._unique, self._raises = _NO_TOKENS, _NO_RAISES
        if marginals:
            self._count(tokens[background[tokens] > 0])
        self._log_raises: Float32Array | None = None
        self._native = native.CacheLM(
            *(address(self._tokens, INT64), address(background, FLOAT)),
            *(address(self._unique, INT64), address(self._raises, FLOAT)),
            *(len(self._tokens), len(self._unique), FIRST_BYTE, MAX_OCCURRENCES),
            *(STRENGTH * len(tokens) ** 0.5, RARITY, DISCOUNT, OTHER_BACKGROUND),
        )
        self.address = ctypes.addressof(self._native)  # for the native search

    def _count(self, counted: Int64Array) -> None:
        """Count tokens for the marginals."""
        if len(counted) < FEW_TOKENS:
            self._unique, counts = np.unique(counted, return_counts=True)
        else:
            all_counts = np.bincount(counted, minlength=len(self._background))
            self._unique = all_counts.nonzero()[0]
            counts = all_counts[self._unique]
        shares = counts / (MARGINAL_TOKENS + len(counted))
        factors = (1.0 + WEIGHT * shares / self._background[self._unique]) ** EXPONENT
        self._raises = (factors - 1.0).astype(np.float32)

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays."""
        return int(self._tokens.nbytes + self._unique.nbytes + self._raises.nbytes)

    def kept(self, probs: Float32Array, context: Sequence[int]) -> float:
        """Return the factor of *probs* that :meth:`mix` leaves, before its own share is added."""
        kept, _, _ = self._context_probs(context)
        added = probs[self._unique] * self._raises
        return kept / (1.0 + float(np.add.reduce(added)))

    def mix(self, probs: Float32Array, context: Sequence[int]) -> Float32Array:
        """Return *probs* (V,), which sum to 1, as corrected after the tokens of *context*."""
        mixed, kept = np.empty_like(probs), ctypes.c_double()
        last = np.array(context[-CONTEXT:], dtype=np.int32)
        changed = native.search_library().lacuna_cache_lm_mix(
            *(self.address, address(probs, FLOAT), len(probs), address(last, INT32), len(last)),
            *(address(mixed, FLOAT), ctypes.addressof(kept)),
        )
        return mixed if changed else probs

    def mix_logs(self, log_probs: Float32Array, context: Sequence[int]) -> float:
        """Do the same with logarithms in place, but for a constant to add to all: return it."""
        if self._log_raises is None:
            self._log_raises = np.log1p(self._raises)
        kept, followers, own = self._context_probs(context)
        known = log_probs[self._unique]
        added = float(np.exp(known).dot(self._raises))
        log_probs[self._unique] = known + self._log_raises
        change = math.log(kept) - math.log1p(added)
        scale = math.exp(-change)
        for token, prob in zip(followers.tolist(), own.tolist(), strict=True):
            log_probs[token] = math.log(math.exp(log_probs[token]) + prob * scale)
        return change

    def _context_probs(self, context: Sequence[int]) -> tuple[float, Int64Array, Float64Array]:
        """Return the share that the contexts leave to p_0, what followed, and what each gains."""
        last, kept = np.array(context[-CONTEXT:], dtype=np.int32), ctypes.c_double()
        followers, probs = np.empty(MAX_OCCURRENCES, dtype=np.int64), np.empty(MAX_OCCURRENCES)
        count = native.search_library().lacuna_cache_lm_followers(
            *(self.address, address(last, INT32), len(last), address(followers, INT64)),
            *(address(probs, DOUBLE), ctypes.addressof(kept)),
        )
        return kept.value, followers[:count], probs[:count]
