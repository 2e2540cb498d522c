"""The forward tower's states after earlier texts, so that a key press costs only its own tokens.

A *prefix* is the beginning of a text up to a point that no token can cross
(:meth:`TokenIndex.is_stable_boundary`). The state after it depends on exactly this text, so it
serves every text that continues it. Each prefix has a *tree* (a trie) of the tokens that were tried
after it while its next word was typed, with their states and distributions.

The cache changes no answer: its values are bit for bit those of a computation. One thread owns it.
"""

import ctypes
import sys
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.decoding.cache_lm import MAX_TOKENS, CacheLM
from model.native import search as native
from model.native.library import FLOAT, INT32, address
from model.runtime import Float32Array

# A prefix is looked up by its length and so many last characters, then compared as a whole.
TAIL = 16
# A prefix is searched so many characters before the end of a text.
REACH = 256
# Bytes of a prefix in addition to its arrays and its text: objects, keys, table slots.
OVERHEAD = 800
# Share of the bytes for trees. The rest is for states, a tenth of the size and useful for longer.
TREES = 0.75


class PrefixNode:
    """The forward tower after some tokens: a node of a tree, which it keeps alive."""

    __slots__ = ("_view", "address", "tree")

    def __init__(self, tree: "PrefixTree", node: int) -> None:
        self.tree, self.address = tree, node
        self._view = native.Node.from_address(node)

    @property
    def state(self) -> Float32Array:
        """The state, (S,)."""
        return self._array(self._view.state, self.tree.state_size)

    @property
    def next_probs(self) -> Float32Array | None:
        """P(next token) without the cache language model, (V,), if it is scored."""
        place = self._view.probs
        return self._array(place, self.tree.vocabulary_size) if place else None

    @property
    def context(self) -> tuple[int, ...]:
        """The last tokens, for the cache language model."""
        return tuple(self._view.context[: self._view.context_size])

    def child(self, token: int) -> "PrefixNode | None":
        """Return the node after *token*, if it is in the tree."""
        found = native.search_library().lacuna_node_child(self.address, token)
        return PrefixNode(self.tree, found) if found else None

    def _array(self, place: int, size: int) -> Float32Array:
        values: Any = (ctypes.c_float * size).from_address(place)
        values.tree = self.tree  # keeps the memory
        array: Float32Array = np.frombuffer(values, dtype=np.float32)
        return array


class PrefixTree:
    """A trie of nodes that counts its own bytes, without the state of its root.

    Its root, after the tokens of *context*, has a *state* (S,) and perhaps a distribution, *probs*
    (V,).
    """

    __slots__ = (
        *("__weakref__", "_library", "_root", "address", "cache_lm"),
        *("state_size", "vocabulary_size"),
    )

    def __init__(
        self,
        vocabulary_size: int,
        state: Float32Array,
        context: Sequence[int],
        probs: Float32Array | None = None,
    ) -> None:
        self._library = native.search_library()
        self.state_size, self.vocabulary_size = len(state), vocabulary_size
        last = np.array(context, dtype=np.int32)
        tree = self._library.lacuna_tree_new(
            *(self.state_size, vocabulary_size, address(state, FLOAT)),
            *(address(last, INT32), len(last)),
            None if probs is None else address(probs, FLOAT, vocabulary_size),
        )
        self.address = native.OwnedTree(tree)
        self._root: int = self._library.lacuna_tree_root(self.address)
        self.cache_lm: CacheLM | None = None

    @property
    def root(self) -> PrefixNode:
        """The node before any token."""
        return PrefixNode(self, self._root)

    @property
    def bytes(self) -> int:
        """Bytes of nodes and counts."""
        counts = self.cache_lm.nbytes if self.cache_lm else 0
        own: int = self._library.lacuna_tree_bytes(self.address)
        return own + counts

    def add(
        self, node: PrefixNode, token: int, state: Float32Array, probs: Float32Array
    ) -> PrefixNode:
        """Return the node after *token*, which is added unless it is there."""
        added = self._library.lacuna_node_add(
            *(self.address, node.address, token, address(state, FLOAT, self.state_size)),
            address(probs, FLOAT, self.vocabulary_size),
        )
        return PrefixNode(self, added)

    def score_root(self, probs: Float32Array) -> None:
        """Set the distribution of the root, if it has none."""
        row = address(probs, FLOAT, self.vocabulary_size)
        self._library.lacuna_node_score(self.address, self._root, row)


class Prefix:
    """The beginning of a text."""

    __slots__ = ("bytes", "counted_bytes", "owner", "recent", "text", "tokens", "tree")

    def __init__(
        self, owner: str, text: str, tokens: int, tree: PrefixTree, recent: NDArray[np.uint16]
    ) -> None:
        self.owner = owner  # texts of other owners never find it
        self.text = text  # normalised
        self.tokens = tokens  # their number
        self.tree = tree
        # The last tokens, with those of the history, (n,). A view would keep all of them.
        self.recent = recent if len(recent) <= MAX_TOKENS else recent[-MAX_TOKENS:].copy()
        self.bytes = 4 * tree.state_size + self.recent.nbytes + sys.getsizeof(text) + OVERHEAD
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
        if used := prefix.tree.bytes:
            self._tree_bytes += used - prefix.counted_bytes
            prefix.counted_bytes = used
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
        root = prefix.tree.root
        prefix.tree = PrefixTree(prefix.tree.vocabulary_size, root.state, root.context)

    def _drop(self, key: tuple[str, int, str]) -> None:
        if key in self._trees:
            self._drop_tree(key)
        self._prefix_bytes -= self._prefixes.pop(key).bytes
