"""The forward tower's states after earlier texts, so that a key press costs only its own tokens.

A *prefix* is the beginning of a text up to a point that no token can cross
(:meth:`TokenIndex.is_stable_boundary`). The state after it depends on exactly this text, so it
serves every text that continues it. Each prefix has a *tree* (a trie) of the tokens that were tried
after it while its next word was typed, with their states and distributions.

The cache changes no answer: its values are bit for bit those of a computation. One thread owns it.
"""

import sys
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from model.decoding.cache_lm import CONTEXT, MAX_TOKENS, CacheLM
from model.queries import Origins
from model.runtime import Float32Array

# A prefix is looked up by its length and so many last characters, then compared as a whole.
TAIL = 16
# A prefix is searched so many characters before the end of a text.
REACH = 256
# Bytes of a prefix in addition to its arrays and its text: objects, keys, table slots.
OVERHEAD = 800
# Bytes of a token and its probability in a list: two objects and two references.
LISTED_TOKEN = 72
# Bytes of the origins of a token.
KEPT_ORIGINS = 250
# Share of the bytes for trees. The rest is for states, a tenth of the size and useful for longer.
TREES = 0.75

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
    origins: dict[int, Origins] = field(default_factory=dict)  # by the next token


class PrefixTree:
    """A trie of nodes that counts its own bytes, without the state of its root.

    Of two decoders that compute the same node at the same time, the first one adds it.
    """

    __slots__ = ("bytes", "cache_lm", "root")

    def __init__(self, root: PrefixNode) -> None:
        self.root = root
        self.bytes: int = root.next_probs.nbytes
        self.cache_lm: CacheLM | None = None

    def expand(
        self, node: PrefixNode, token: int, state: Float32Array, probs: Float32Array
    ) -> None:
        """Add the node after *token*, with its state (S,) and distribution (V,)."""
        if token not in node.children:
            context = (*node.context, token)[-CONTEXT:]
            node.children[token] = PrefixNode(state, context, probs)
            self.bytes += state.nbytes + probs.nbytes

    def set_next_probs(self, node: PrefixNode, probs: Float32Array) -> None:
        """Add the distribution (V,) of a node that has none."""
        if node.next_probs is NOT_SCORED:
            node.next_probs = probs
            self.bytes += probs.nbytes

    def set_top(self, node: PrefixNode, allowed: str, top: TopTokens) -> None:
        """Keep the most probable of the tokens that *allowed* names."""
        before = node.top.get(allowed)
        node.top[allowed] = top
        self.bytes += LISTED_TOKEN * (len(top.tokens) - (len(before.tokens) if before else 0))

    def add_origins(self, node: PrefixNode, origins: Mapping[int, Origins]) -> None:
        """Keep the origins of next tokens."""
        node.origins.update(origins)
        self.bytes += KEPT_ORIGINS * len(origins)

    def set_cache_lm(self, cache_lm: CacheLM) -> None:
        """Keep the cache language model of the prefix."""
        self.cache_lm = cache_lm
        self.bytes += cache_lm.nbytes


class Prefix:
    """The beginning of a text."""

    __slots__ = ("bytes", "counted_bytes", "owner", "recent", "text", "tokens", "tree")

    def __init__(
        self, owner: str, text: str, tokens: int, root: PrefixNode, recent: NDArray[np.uint16]
    ) -> None:
        self.owner = owner  # texts of other owners never find it
        self.text = text  # normalised
        self.tokens = tokens  # their number
        self.tree = PrefixTree(root)
        # The last tokens, with those of the history, (n,). A view would keep all of them.
        self.recent = recent if len(recent) <= MAX_TOKENS else recent[-MAX_TOKENS:].copy()
        self.bytes = root.state.nbytes + self.recent.nbytes + sys.getsizeof(text) + OVERHEAD
        self.counted_bytes = 0  # of the tree, by the cache


class PrefixCache:
    """The most recently used prefixes, in *max_bytes*; 0 keeps nothing.

    Trees are dropped first, later the prefixes themselves.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        # By owner, length and last characters.
        self._prefixes: OrderedDict[tuple[str, int, str], Prefix] = OrderedDict()
        self._trees: OrderedDict[tuple[str, int, str], Prefix] = OrderedDict()
        self._prefix_bytes = 0
        self._tree_bytes = 0

    @property
    def bytes(self) -> int:
        """Bytes of all entries."""
        return self._prefix_bytes + self._tree_bytes

    def __len__(self) -> int:
        return len(self._prefixes)

    def get(self, owner: str, text: str) -> Prefix | None:
        """Return the prefix that is exactly *text*."""
        prefix = self._prefixes.get((owner, len(text), text[-TAIL:]))
        return prefix if prefix is not None and prefix.text == text else None

    def find(
        self, owner: str, text: str, is_stable_boundary: Callable[[str, int], bool]
    ) -> Prefix | None:
        """Return the longest prefix of *text* that ends at a stable boundary or at its end."""
        end = len(text)
        for position in range(end, max(0, end - REACH) - 1, -1):
            if 0 < position < end and not is_stable_boundary(text, position):
                continue
            key = owner, position, text[max(0, position - TAIL) : position]
            prefix = self._prefixes.get(key)
            if prefix is not None and text.startswith(prefix.text):
                self._prefixes.move_to_end(key)
                return prefix
        return None

    def add(self, prefix: Prefix) -> Prefix:
        """Return the prefix of the same text that another decoder added meanwhile, or add this."""
        added = self.get(prefix.owner, prefix.text)
        if added is None:
            self.put(prefix)
        return added or prefix

    def put(self, prefix: Prefix) -> None:
        """Add *prefix*, or count what its tree has gained; then drop what exceeds the limit."""
        if not self.max_bytes:
            return
        key = prefix.owner, len(prefix.text), prefix.text[-TAIL:]
        before = self._prefixes.get(key)
        if before is not prefix:
            if before is not None:
                self._drop(key)
            self._prefixes[key] = prefix
            self._prefix_bytes += prefix.bytes
        if prefix.tree.bytes:
            self._tree_bytes += prefix.tree.bytes - prefix.counted_bytes
            prefix.counted_bytes = prefix.tree.bytes
            self._trees[key] = prefix
            self._trees.move_to_end(key)
        while self._tree_bytes > self.max_bytes * TREES:
            self._drop_tree(next(iter(self._trees)))
        while self._prefix_bytes > self.max_bytes * (1 - TREES):
            self._drop(next(iter(self._prefixes)))

    def _drop_tree(self, key: tuple[str, int, str]) -> None:
        """Replace a tree. A decoder that works on the old one keeps it."""
        prefix = self._trees.pop(key)
        self._tree_bytes -= prefix.counted_bytes
        prefix.counted_bytes = 0
        prefix.tree = PrefixTree(PrefixNode(prefix.tree.root.state, prefix.tree.root.context))

    def _drop(self, key: tuple[str, int, str]) -> None:
        if key in self._trees:
            self._drop_tree(key)
        self._prefix_bytes -= self._prefixes.pop(key).bytes
