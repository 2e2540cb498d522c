"""What was read before, so that a keystroke costs what it adds, however long the text is.

A *prefix* is a text from its start; the forward state after it is always that of the encoding of exactly this text, so
an entry is good for any text that goes on from it at a seam (:meth:`TokenIndex.is_seam`). Under a prefix hangs a tree
of the few tokens that were tried after it while its next word was typed: their states and distributions.

Nothing here is needed for an answer: what is found is bit for bit what would be computed. One thread owns a cache.
"""

import sys
from collections import OrderedDict
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from model.decoding.cache_lm import REMEMBERED, CacheLM
from model.runtime import Float32Array

# A prefix is looked up by its length and its last characters, then compared as a whole.
TAIL = 16
# How many characters before the end of a text a prefix of it is looked for.
REACH = 256
# Bytes of a prefix beside its state and its text: objects, keys, table slots.
OVERHEAD = 800
# Share of the bytes that trees may take; the rest holds bare states, a tenth of the size and good for far longer.
TREES = 0.75

UNASKED: Float32Array = np.zeros(0, dtype=np.float32)
# Tokens, most probable first, their probabilities, the bar that all above it are here, and the probability of all that
# were let in.
Best = tuple[list[int], list[float], float, float]

Written = NDArray[np.uint16]

_Key = tuple[str, int, str]


class Reading:
    """The forward tower after some tokens, and what was asked of it since.

    Attributes:
        state: flat state, (S,) float32.
        row: probabilities of the next token by the network, calibrated, (V,) float32; ``UNASKED`` before.
        before: the last few tokens read.
        best: the most probable tokens, as they were asked for, by which of them were let in.
        further: readings of one token more, by its id.
    """

    __slots__ = ("before", "best", "further", "row", "state")

    def __init__(
        self, state: Float32Array, row: Float32Array = UNASKED, before: tuple[int, ...] = ()
    ) -> None:
        self.state = state
        self.row = row
        self.before = before
        self.best: dict[str, Best] = {}
        self.further: dict[int, Reading] = {}

    def alone(self) -> "Reading":
        """The same without what follows it: no two prefixes share a tree, or none could say what it holds."""
        return Reading(self.state, self.row, self.before)


class Prefix:
    """A text that was read from its start, in tokens that end where it ends.

    Attributes:
        text: normalised.
        tokens: how many it was read as.
        reading: after it.
        written: the last tokens that a memory holds of what was written: of the history, and of the text; (n,) uint16.
        memory: of these, once it was asked for.
        tree_bytes: what hangs under the reading, kept up by whoever makes it grow.
        counted_bytes: how much of that the cache has counted.
    """

    __slots__ = (
        "bytes",
        "counted_bytes",
        "memory",
        "reading",
        "text",
        "tokens",
        "tree_bytes",
        "written",
    )

    def __init__(self, text: str, tokens: int, reading: Reading, written: Written) -> None:
        self.text = text
        self.tokens = tokens
        self.reading = reading
        self.written = written[-REMEMBERED:]
        self.memory: CacheLM | None = None
        self.bytes = reading.state.nbytes + self.written.nbytes + sys.getsizeof(text) + OVERHEAD
        self.tree_bytes = reading.row.nbytes
        self.counted_bytes = 0


class PrefixCache:
    """Prefixes, least recently used dropped first: their trees, and later the prefixes themselves.

    Args:
        max_bytes: what all entries may take together, as far as they are counted: texts, states and distributions, and
            a round sum for the objects; 0 keeps nothing.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._prefixes: OrderedDict[_Key, Prefix] = OrderedDict()
        self._trees: OrderedDict[_Key, Prefix] = OrderedDict()
        self._prefix_bytes = 0
        self._tree_bytes = 0

    @property
    def bytes(self) -> int:
        """Bytes that the entries take."""
        return self._prefix_bytes + self._tree_bytes

    def __len__(self) -> int:
        return len(self._prefixes)

    def find(self, tenant: str, text: str, is_seam: Callable[[str, int], bool]) -> Prefix | None:
        """The longest known prefix of *text* that ends at a seam of it or at its end.

        Args:
            tenant: whose; nobody finds what another has read.
            text: normalised.
            is_seam: whether no token reaches over a position of a text.
        """
        end = len(text)
        for position in range(end, max(0, end - REACH) - 1, -1):
            if 0 < position < end and not is_seam(text, position):
                continue
            key = (tenant, position, text[max(0, position - TAIL) : position])
            prefix = self._prefixes.get(key)
            if prefix is not None and text.startswith(prefix.text):
                self._prefixes.move_to_end(key)
                return prefix
        return None

    def get(self, tenant: str, text: str) -> Prefix | None:
        """The prefix that is exactly *text*, if it is known."""
        prefix = self._prefixes.get(_key(tenant, text))
        return prefix if prefix is not None and prefix.text == text else None

    def keep(self, tenant: str, prefix: Prefix) -> None:
        """Take *prefix* in, or count anew what hangs under it; then drop what is too much."""
        if not self.max_bytes:
            return
        key = _key(tenant, prefix.text)
        before = self._prefixes.get(key)
        if before is not prefix:
            if before is not None:
                self._drop(key)
            self._prefixes[key] = prefix
            self._prefix_bytes += prefix.bytes
        if prefix.tree_bytes:
            self._tree_bytes += prefix.tree_bytes - prefix.counted_bytes
            prefix.counted_bytes = prefix.tree_bytes
            self._trees[key] = prefix
            self._trees.move_to_end(key)
        while self._tree_bytes > self.max_bytes * TREES:
            self._cut_down(next(iter(self._trees)))
        while self._prefix_bytes > self.max_bytes * (1 - TREES):
            self._drop(next(iter(self._prefixes)))

    def _cut_down(self, key: _Key) -> None:
        prefix = self._trees.pop(key)
        self._tree_bytes -= prefix.counted_bytes
        prefix.tree_bytes = prefix.counted_bytes = 0
        # A decoder may be at work in the tree: it keeps the old one.
        prefix.reading = Reading(prefix.reading.state, before=prefix.reading.before)
        prefix.memory = None

    def _drop(self, key: _Key) -> None:
        if key in self._trees:
            self._cut_down(key)
        self._prefix_bytes -= self._prefixes.pop(key).bytes


def _key(tenant: str, text: str) -> _Key:
    return tenant, len(text), text[-TAIL:]
