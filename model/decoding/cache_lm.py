"""What the text so far, and what its writer wrote before, say of the next token: counts beside the network.

A network forgets a name within some tens of words; its own text repeats it. Two corrections of a head's distribution
p(v), each exactly normalised:

- *marginals*: p(v) is multiplied by (1 + W s(v) / b(v))^E, s being v's share of the remembered tokens and b that of
  the vocabulary's training text: what is rare elsewhere and stood here is likelier to come again (after Kneser, Peters
  and Klakow 1997, Language model adaptation using dynamic marginals);
- *contexts*: what followed the same one to three tokens before, counted and discounted, the rest of the mass being left
  to the shorter context and at last to p: p_k(v) = (c - D) / (n + S_k) + (S_k + D t) / (n + S_k) p_{k-1}(v), n
  occurrences of the context with t different followers (Teh 2006, a hierarchical Pitman-Yor language model).

Nothing is learnt from and nothing is kept but ids of tokens. docs/decisions/0011-memory.md has what it gains.
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from model.runtime import Float32Array, Integers

# Tokens that are remembered, the latest ones.
REMEMBERED = 3000
WEIGHT, EXPONENT = 0.5, 0.4
DISCOUNT = 0.8
# Times that a context occurred which are looked at, the latest ones.
OCCURRENCES = 64
# Tokens up to which they are sorted.
FEW = 400
# S_k after contexts of one, two and three tokens.
STRENGTHS = (15.0, 2.0, 2.0)


class CacheLM:
    """Tokens that were written, and what they say of the next one.

    Args:
        tokens: in order, separated by control tokens where they do not follow on, (n,); the last REMEMBERED count.
        background: by token, its share of the vocabulary's training text, (V,); 0 where it is not to be counted.
    """

    def __init__(self, tokens: Integers, background: Float32Array) -> None:
        self._tokens = tokens[-REMEMBERED:]
        self._countable = background > 0
        counted = self._tokens[self._countable[self._tokens]]
        if len(counted) < FEW:  # sorting a few is faster than counting all there are
            self._unique, counts = np.unique(counted, return_counts=True)
        else:
            everything = np.bincount(counted, minlength=len(background))
            self._unique = everything.nonzero()[0]
            counts = everything[self._unique]
        shares = counts / max(1, len(counted))
        raised = (1.0 + WEIGHT * shares / background[self._unique]) ** EXPONENT
        self._raised = (raised - 1.0).astype(np.float32)

    @property
    def nbytes(self) -> int:
        """Bytes that its arrays take."""
        return int(self._tokens.nbytes + self._unique.nbytes + self._raised.nbytes)

    def gain(self, tokens: Sequence[int]) -> float:
        """What the marginals add to the log-probability of tokens, but for the normalisation."""
        places = np.searchsorted(self._unique, tokens).clip(max=max(0, len(self._unique) - 1))
        found = (
            self._unique[places] == tokens
            if len(self._unique)
            else np.zeros(len(tokens), dtype=np.bool_)
        )
        return float(np.log1p(self._raised[places[found]]).sum())

    def mix(self, row: Float32Array, before: Sequence[int]) -> Float32Array:
        """Correct a distribution.

        Args:
            row: probabilities that sum to 1, (V,); left as it is.
            before: the tokens that the next one follows, the last few of them.

        Returns:
            A new row that sums to 1 as well; what was 0 stays 0 unless it was written after the same tokens.
        """
        known = row[self._unique]
        extra = known * self._raised
        left, added = self._followed(before)
        scale = np.float32(left / (1.0 + float(np.add.reduce(extra))))
        mixed = row * scale
        mixed[self._unique] = (known + extra) * scale
        if added:
            mixed[list(added)] += np.array(list(added.values()), dtype=np.float32)
        return mixed

    def mix_logarithms(self, row: Float32Array, before: Sequence[int]) -> Float32Array:
        """The same for log-probabilities (V,) that sum to 1: a new row of logarithms."""
        extra = np.exp(row[self._unique]) * self._raised
        left, added = self._followed(before)
        mixed = row + np.float32(np.log(left) - np.log1p(float(np.add.reduce(extra))))
        mixed[self._unique] += np.log1p(self._raised)
        if added:
            tokens = list(added)
            mixed[tokens] = np.logaddexp(
                mixed[tokens], np.log(np.array(list(added.values()), dtype=np.float32))
            )
        return mixed

    def _followed(self, before: Sequence[int]) -> tuple[float, dict[int, float]]:
        """What the contexts leave of the mass of a row, and what they add to tokens."""
        left, added = 1.0, dict[int, float]()
        for strength, followers in zip(STRENGTHS, self._followers(before), strict=False):
            count = followers.total()
            share = (strength + DISCOUNT * len(followers)) / (count + strength)
            left *= share
            for token in added:
                added[token] *= share
            for token, times in followers.items():
                added[token] = added.get(token, 0.0) + (times - DISCOUNT) / (count + strength)
        return left, added

    def _followers(self, before: Sequence[int]) -> list[Counter[int]]:
        """What followed the last token of *before*, the last two, and so on, as long as anything did."""
        found: list[Counter[int]] = []
        places = np.flatnonzero(self._tokens[:-1] == before[-1]) if before else self._tokens[:0]
        for length in range(1, len(STRENGTHS) + 1):
            if length > 1:
                if len(before) < length:
                    break
                places = places[places >= length - 1]
                places = places[self._tokens[places - (length - 1)] == before[-length]]
            followed = self._tokens[places[-OCCURRENCES:] + 1]
            followers = Counter(followed[self._countable[followed]].tolist())
            if not followers:
                break
            found.append(followers)
        return found
