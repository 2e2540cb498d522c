"""P(next token) in Python: what the native search is tested against."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from model.batching import Decoder, RunTower, Score
from model.decoding.context import DecoderContext, History, largest, most_probable
from model.runtime import Float32Array
from model.tokenizer import START
from tests.reference.cache_lm import CONTEXT, CacheLM

# The allowed next tokens: all, those that continue a word of letters, byte tokens.
ALL, LETTERS, BYTES = "all", "letters", "bytes"
# Most probable tokens of a node that are kept, unless more are needed.
TOP_TOKENS = 32
# Distributions that are kept with the correction of the cache language model: a round's.
MAX_MIXED = 16
# Fewer than a hundred tokens exceed HIGH_CUTOFF, and most exceed LOW_CUTOFF.
HIGH_CUTOFF, LOW_CUTOFF = 0.01, 1e-6
# The marginals of fewer recent tokens gain too little for a next word to pay for their time.
MIN_RECENT = 24
NOT_SCORED: Float32Array = np.zeros(0, dtype=np.float32)


class TopTokens(NamedTuple):
    """The most probable next tokens, most probable first, among those that are allowed."""

    tokens: list[int]
    probs: list[float]
    cutoff: float  # every allowed token with a higher probability is in the list
    total: float  # probability of all allowed tokens


@dataclass(slots=True, eq=False)
class PrefixNode:
    """The forward tower after some tokens. Only :class:`PrefixTree` adds to a node."""

    state: Float32Array  # (S,)
    context: tuple[int, ...]  # the last tokens, for the cache language model
    next_probs: Float32Array = field(default_factory=lambda: NOT_SCORED)  # (V,)
    top: dict[str, TopTokens] = field(default_factory=dict)  # by name of the allowed tokens
    children: dict[int, "PrefixNode"] = field(default_factory=dict)  # by the next token
    is_unmixed: bool = False  # the cache language model is known to change nothing here
    kept: float = 0.0  # the factor of the probabilities that it keeps; 0 if it was not asked


class PrefixTree:
    """A trie of nodes."""

    def __init__(self, root: PrefixNode) -> None:
        self.root = root

    def expand(
        self, node: PrefixNode, token: int, state: Float32Array, probs: Float32Array
    ) -> None:
        """Add the node after *token*, with its state (S,) and distribution (V,)."""
        context = (*node.context, token)[-CONTEXT:]
        node.children.setdefault(token, PrefixNode(state, context, probs))


@dataclass(slots=True, eq=False)
class Prefix:
    """The beginning of a text that is not cached."""

    recent: list[int]  # with those of the history
    tree: PrefixTree


def load_prefix(context: DecoderContext, text: str, history: History) -> Decoder[Prefix]:
    """Read a text from its start."""
    tokens = context.index.encode(text)
    (state,) = yield [RunTower("forward", context.initial["forward"], (START, *tokens))]
    recent = [*history.tokens(context.index).tolist(), *tokens]
    return Prefix(recent, PrefixTree(PrefixNode(state, tuple(recent[-CONTEXT:]))))


# The step from a node to the node after a token.
Edge = tuple[PrefixNode, int]


class NextToken:
    """P(next token) at the nodes of the tree of *prefix*.

    It is the network's, mixed with counts, corrected by the cache language model.
    """

    def __init__(self, context: DecoderContext, prefix: Prefix) -> None:
        self._context = context
        self.tree = prefix.tree
        self.network_rows = 0  # tokens run and distributions scored
        self.nodes = 0  # looked at, in the tree or not: so the cache changes no answer
        self._cache_lm = None
        if context.use_cache_lm:
            recent = np.array(prefix.recent, dtype=np.int64)
            marginals = len(recent) > MIN_RECENT
            self._cache_lm = CacheLM(recent, context.tokenizer.background, marginals)
        self._mixed: dict[PrefixNode, Float32Array] = {}

    def run(self, node: PrefixNode, tokens: Sequence[int]) -> Decoder[PrefixNode]:
        """Run many tokens at once; return the node after them, in a tree that is not cached."""
        (state,) = yield [RunTower("forward", node.state, tuple(tokens))]
        self.network_rows += len(tokens)
        self.tree = PrefixTree(PrefixNode(state, tuple(tokens[-CONTEXT:])))
        return self.tree.root

    def score(self, node: PrefixNode) -> Decoder[None]:
        """Score a node that was run but not scored."""
        self.nodes += 1
        if node.next_probs is NOT_SCORED:
            self.network_rows += 1
            (probs,) = yield [self._score(node.state)]
            node.next_probs = probs

    def expand(self, edges: Sequence[Edge]) -> Decoder[list[PrefixNode]]:
        """Return the node after each edge, from the tree or from the network, scored."""
        self.nodes += len(edges)
        missing = [(node, token) for node, token in edges if token not in node.children]
        if missing:
            self.network_rows += 2 * len(missing)
            states = yield [RunTower("forward", node.state, (token,)) for node, token in missing]
            rows = yield [self._score(state) for state in states]
            for (node, token), state, probs in zip(missing, states, rows, strict=True):
                self.tree.expand(node, token, state, probs)
        return [node.children[token] for node, token in edges]

    def _score(self, state: Float32Array) -> Score:
        """Request probabilities, (V,); a view would keep those of the whole batch."""
        return Score("next", state[self._context.output["forward"]], np.copy)

    def probs(self, node: PrefixNode) -> Float32Array:
        """Return the distribution of the next token, (V,)."""
        if self._cache_lm is None or node.is_unmixed:
            return node.next_probs
        probs = self._mixed.get(node)
        if probs is None:
            probs = self._cache_lm.mix(node.next_probs, node.context)
            node.is_unmixed = probs is node.next_probs
            if len(self._mixed) == MAX_MIXED:
                self._mixed.clear()
            self._mixed[node] = probs
        return probs

    def kept(self, node: PrefixNode) -> float:
        """Return the factor of the probabilities of a node that the cache language model keeps."""
        if self._cache_lm is None or node.is_unmixed:
            return 1.0
        node.kept = node.kept or self._cache_lm.kept(node.next_probs, node.context)
        return node.kept

    def top(self, node: PrefixNode, allowed: str, cutoff: float, count: int) -> TopTokens:
        """Return the most probable of the tokens that *allowed* names.

        They are at least *count*, or all whose probability exceeds *cutoff*.
        """
        top = node.top.get(allowed)
        if top is None or (cutoff < top.cutoff and len(top.tokens) < count):
            cutoff *= 0.999  # rounding must not decide about a token at the cutoff
            tokenizer, probs = self._context.tokenizer, self.probs(node)
            masks = {LETTERS: tokenizer.starts_letter, BYTES: tokenizer.byte_values >= 0}
            mask = masks.get(allowed)
            probs = probs if mask is None else probs * mask
            total = 1.0 if mask is None else float(np.add.reduce(probs))
            if cutoff < HIGH_CUTOFF:
                count = max(count, TOP_TOKENS)
                tokens = most_probable(probs, count)
                cutoff = float(probs[tokens[-1]]) if len(tokens) == count else 0.0
            else:  # few tokens exceed it
                tokens = largest(probs, len(probs), cutoff)
            top = TopTokens(tokens.tolist(), probs[tokens].tolist(), cutoff, total)
            node.top[allowed] = top
        return top
