"""P(next token) after the spellings of a text's unfinished end, by the native search.

*Spell*: a spelling s is a sequence of tokens after the cut that spells the typed prefix q or its
beginning. Its probability is P(s | left). Those are followed that hold a share of Z = P(q | left),
the sum of

    P(s | left)            if s spells q
    Σ_t P(s, t | left)     if s spells a beginning of q, over tokens t that cross the end of q

These events exclude each other, so their probabilities add up.
"""

import ctypes
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from model.batching import Decoder, Expand, RunTower, Score
from model.decoding.cache_lm import CacheLM
from model.decoding.context import DecoderContext
from model.decoding.prefix_cache import Prefix, PrefixNode, PrefixTree
from model.decoding.questions import Decide, Questions, ask_character, ask_word
from model.native import search as native
from model.native.library import DOUBLE, FLOAT, INT64, address, row_address
from model.queries import Origins
from model.runtime import Float32Array, Int64Array

# Tokens between prefix and cut that are run one by one and kept in the tree: most were needed when
# the text ended there.
MAX_BETWEEN = 16
# A spelling is followed if its probability exceeds this share of Z so far; so many a round. With a
# share of 0 the search is almost exact.
SPELLING_SHARE, SPELLING_ROWS, SPELLING_ROUNDS = 0.03, 16, 6
# Nodes that one query may look at, which bounds its memory: each holds a distribution. Ordinary
# text takes up to 25; one letter again and again, which has many spellings, would take 130.
MAX_NODES = 32
# Distributions that are kept with the correction of the cache language model: a round's.
MAX_MIXED = 16
# Limits of the search for words, which suit typing. With shares and floors of 0 it is almost exact.
# The search is for WIDTH candidates; those after them are what it found on the way.
WIDTH = 5
# A partial word is extended if its probability, without the estimate that it has ended, exceeds
# WORD_FLOOR and this share of the last candidate's; so many a round. A round adds one token.
WORD_SHARE, WORD_FLOOR, WORD_ROWS, WORD_ROUNDS = 1.0, 0.02, 4, 8
# A next token is taken if its probability exceeds this share of the last candidate's; at most so
# many: with and without a space.
BRANCH_SHARE, BRANCHES = 1 / 3, 14
# Most probable tokens of a node that are kept, unless more are needed.
TOP_TOKENS = 32
# Fewer than a hundred tokens exceed it.
HIGH_CUTOFF = 0.01
# The marginals of fewer recent tokens gain too little for a next word to pay for their time.
MIN_RECENT = 24


def limits(spelling_share: float = SPELLING_SHARE) -> native.SearchLimits:
    """Return the limits of a search."""
    return native.SearchLimits(
        *(spelling_share, WORD_SHARE, WORD_FLOOR, BRANCH_SHARE, HIGH_CUTOFF),
        *(MAX_NODES, MAX_MIXED, SPELLING_ROWS, SPELLING_ROUNDS),
        *(WIDTH, WORD_ROWS, WORD_ROUNDS, BRANCHES, TOP_TOKENS),
    )


LIMITS = limits()


class TextEnd(NamedTuple):
    """The end of a text as the search needs it.

    Attributes:
        between: tokens before the cut.
        canonical: the encoding of *prefix*, which is q.
        stem: the unfinished word.
        before: the text before it, in lower case.
        sentence_ended: see CandidateRules.
        is_plain: candidates are shown as they are, and none is blocked.
        asks_words: the writer has own words, apart from those of *before*.
        asks_marks: see CandidateRules.
    """

    between: Sequence[int]
    canonical: Sequence[int]
    prefix: bytes
    stem: str = ""
    before: str = ""
    sentence_ended: bool = False
    is_plain: bool = True
    asks_words: bool = False
    asks_marks: bool = False


@dataclass(slots=True, eq=False)
class Spelling:
    """Tokens after the cut that spell the typed prefix q or its beginning."""

    rest: bytes  # of q, not spelled yet
    prob: float  # P(tokens | left)
    node: PrefixNode  # after the tokens
    crossing: Int64Array | None  # next tokens that cross the end of q, (n,); None if q is spelled
    crossing_probs: Float32Array  # their probabilities, (n,)


class Found(NamedTuple):
    """A candidate.

    Attributes:
        append: its text.
        spaced: the share of its spellings with a space.
        covered: characters at the end of the text that belong to its token.
    """

    append: str
    prob: float
    spaced: float
    covered: int
    origins: Origins


class NextToken:
    """P(next token) at the nodes of the tree of *prefix*, and the search for words.

    It is the network's, mixed with counts, corrected by the cache language model.
    """

    def __init__(
        self,
        context: DecoderContext,
        prefix: Prefix,
        search_limits: native.SearchLimits | None = None,
    ) -> None:
        self._context, self._limits = context, search_limits or LIMITS
        self._library = native.search_library()
        self._search: native.OwnedSearch | None = None
        self._view = native.SearchView()
        self._questions = Questions()
        self.tree = prefix.tree
        self.rows = 0  # that the search wants
        self._nodes = self._rows = self._cached_tokens = 0  # apart from those of the search
        if self.tree.cache_lm is None and context.use_cache_lm:
            recent = prefix.recent.astype(np.int64)
            marginals = len(recent) > MIN_RECENT
            self.tree.cache_lm = CacheLM(recent, context.tokenizer.background, marginals)
        self._cache_lm = self.tree.cache_lm
        self._has_own = context.mixture.layers > 1
        # By address; a node that lives keeps its own.
        self._mixed: dict[int, tuple[PrefixNode, Float32Array]] = {}

    def close(self) -> None:
        """Free the search, which may otherwise wait for the collector."""
        self._search = None

    @property
    def total(self) -> float:
        """Z = P(q | left); 0 if the encoding of q is taken for certain."""
        return float(self._view.total)

    @property
    def cached_tokens(self) -> int:
        """Tokens before the end of the text that were in the tree."""
        return self._cached_tokens + int(self._view.cached_tokens)

    @property
    def network_rows(self) -> int:
        """Tokens run and distributions scored."""
        return self._rows + int(self._view.network_rows)

    @property
    def room(self) -> int:
        """The number of further nodes that a query may look at."""
        return max(0, MAX_NODES - self._nodes - int(self._view.nodes))

    def spell(self, end: TextEnd) -> Decoder[None]:
        """Follow the spellings of q."""
        between = end.between
        if len(between) > MAX_BETWEEN:  # hundreds of letters without a stable boundary are no word
            yield from self._run(self.tree.root, between[:-MAX_BETWEEN])
            end = end._replace(between=between[-MAX_BETWEEN:])
        yield from self._start(end)
        if left_over := self._view.left_over:  # take the rest of the encoding for certain
            self._cached_tokens += int(self._view.cached_tokens)
            self._rows += int(self._view.network_rows)
            last = PrefixNode(self.tree, int(self._read_spellings()[-1][3]))
            yield from self._run(last, end.canonical[-left_over:])
            yield from self._start(end._replace(between=(), canonical=(), prefix=b""))

    def find_words(
        self, total: float, decide: Decide, skips_letters: bool = False
    ) -> Decoder[None]:
        """Search for words; q has the probability *total*. A letter may have to be left out."""
        self._library.lacuna_search_find_words(self._search, total, skips_letters)
        yield from self._advance(decide)

    def take_tail(self, cutoff: float, limit: int, decide: Decide) -> None:
        """Take further next tokens above a cutoff, at most *limit* after each node."""
        take = self._library.lacuna_search_take_tail
        self._questions.call(decide, take, self._search, cutoff, limit)
        self._read()

    def found(self, above: float, limit: int | None = None) -> list[Found]:
        """Return the candidates so far of a probability above that, falling, ties by text."""
        count = int(self._view.found) if limit is None else min(limit, self._view.found)
        rows, written = np.empty((count, native.FOUND)), ctypes.c_int64(count)
        texts = self._library.lacuna_search_found(
            *(self._search, ctypes.addressof(self._context.native_mixture), above),
            *(address(rows, DOUBLE), ctypes.addressof(written)),
        )
        found: list[Found] = []
        if not written.value:
            return found
        values = rows[: written.value].tolist()
        text = ctypes.string_at(texts, 4 * int(values[-1][3])).decode("utf-32-le")
        start = 0
        for prob, spaced, covered, end, *shares in values:
            append = text[start : (start := int(end))]
            found.append(Found(append, prob, spaced, int(covered), self._origins(*shares)))
        return found

    def origins(self, sources: Sequence[tuple[int, int, float]]) -> list[Origins]:
        """Return where the probabilities of tokens come from.

        *sources*: the address of the node before each token, the token, its probability.
        """
        given = np.array(sources, dtype=native.SOURCE)
        shares = np.empty((len(sources), 4))
        self._library.lacuna_search_origins(
            *(self._search, ctypes.addressof(self._context.native_mixture), len(sources)),
            *(address(given, native.SOURCE), address(shares, DOUBLE)),
        )
        return [self._origins(*each) for each in shares.tolist()]

    def _origins(self, network: float, counts: float, cache: float, own: float) -> Origins:
        return Origins(network, counts, cache, own if self._has_own else None)

    @property
    def has_found(self) -> bool:
        """True if there is a candidate."""
        return bool(self._view.found)

    @property
    def cutoff(self) -> float:
        """All candidates of a higher probability are found."""
        return float(self._view.cutoff)

    def spellings(self) -> list[Spelling]:
        """Return the spellings of q that were followed, most probable first."""
        found = []
        for rest, prob, _, place in self._read_spellings():
            node, left = PrefixNode(self.tree, place), self._prefix[-rest:] if rest else b""
            crossing, probs = None, np.zeros(0, dtype=np.float32)
            if left:
                crossing = self._context.index.extensions(left)
                probs = self.probs(node)[crossing]
            found.append(Spelling(left, prob, node, crossing, probs))
        return found

    def expand(self, edges: Sequence[tuple[PrefixNode, int]]) -> Decoder[list[PrefixNode]]:
        """Return the node after each node and token, from the tree or the network, scored."""
        self._nodes += len(edges)
        missing = [(node, token) for node, token in edges if node.child(token) is None]
        if missing:
            self._rows += 2 * len(missing)
            states = yield [RunTower("forward", node.state, (token,)) for node, token in missing]
            rows = yield [self._score(state) for state in states]
            for (node, token), state, probs in zip(missing, states, rows, strict=True):
                self.tree.add(node, token, state, probs)
        return [node.child(token) or node for node, token in edges]

    def probs(self, node: PrefixNode) -> Float32Array:
        """Return the distribution of the next token after a scored node, (V,)."""
        known = self._mixed.get(node.address)
        if known:
            return known[1]
        own = node.next_probs
        if own is None:
            raise ValueError("a node is not scored")
        probs = self._cache_lm.mix(own, node.context) if self._cache_lm else own
        if len(self._mixed) == MAX_MIXED:
            self._mixed.clear()
        self._mixed[node.address] = node, probs
        return probs

    def _score(self, state: Float32Array) -> Score:
        """Request probabilities, (V,); a view would keep those of the whole batch."""
        return Score("next", state[self._context.output["forward"]], np.copy)

    def _run(self, node: PrefixNode, tokens: Sequence[int]) -> Decoder[None]:
        """Run many tokens at once, and go on after them in a tree that is not cached."""
        (state,) = yield [RunTower("forward", node.state, tuple(tokens))]
        self._rows += len(tokens)
        self.tree = PrefixTree(self._context.tokenizer.size, state, tokens)

    def _start(self, end: TextEnd) -> Decoder[None]:
        self._prefix = end.prefix
        tokens = [array("i", tokens).tobytes() for tokens in (end.between, end.canonical)]
        stem, before = end.stem.encode("utf-32-le"), end.before.encode(errors="replace")
        text = native.SearchText(
            *(*tokens, end.prefix, stem, before),
            *(len(end.between), len(end.canonical), len(end.prefix), len(end.stem), len(before)),
            *(self._questions.owner, end.sentence_ended, end.is_plain),
            *(end.asks_words, end.asks_marks, ask_word, ask_character),
        )
        search = self._library.lacuna_search_new(
            *(self._context.vocabulary.address, ctypes.addressof(self._limits)),
            self._cache_lm.address if self._cache_lm else None,
            *(self.tree.address, ctypes.addressof(text)),
        )
        self._search = native.OwnedSearch(search)
        yield from self._advance()

    def _advance(self, decide: Decide = lambda *_: None) -> Decoder[None]:
        """Go on until no more rows are needed."""
        advance = self._library.lacuna_search_advance
        while count := self._questions.call(decide, advance, self._search):
            if count > 0:
                self.rows = count
                yield [Expand(self)]
                continue
            state = self.tree.root.state
            yield [Score("next", state[self._context.output["forward"]], self._keep_root)]
        self._read()

    def _keep_root(self, probs: Float32Array) -> bool:
        self.tree.score_root(probs)
        return True

    def write(self, start: int, states: Float32Array, tokens: Int64Array) -> None:
        """See :class:`model.batching.Expansion`."""
        self._library.lacuna_search_rows(
            self._search,
            row_address(states, FLOAT, start, self.rows, self.tree.state_size),
            row_address(tokens, INT64, start, self.rows, 1),
        )

    def keep(self, start: int, states: Float32Array, probs: Float32Array) -> None:
        """See :class:`model.batching.Expansion`."""
        self._library.lacuna_search_put(
            self._search,
            row_address(states, FLOAT, start, self.rows, self.tree.state_size),
            row_address(probs, FLOAT, start, self.rows, self.tree.vocabulary_size),
        )

    def _read(self) -> None:
        self._library.lacuna_search_read(self._search, ctypes.addressof(self._view))

    def _read_spellings(self) -> list[tuple[int, float, float, int]]:
        rows = np.empty(self._limits.max_nodes + 1, dtype=native.SPELLING)
        count = self._library.lacuna_search_spellings(self._search, rows.ctypes.data)
        found: list[tuple[int, float, float, int]] = rows[:count].tolist()
        return found
