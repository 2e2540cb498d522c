"""Shared by decoders: a checkpoint, the prefix of a text, the distribution of the next token."""

import hashlib
from collections.abc import Sequence
from functools import cached_property, lru_cache, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.batching import Decoder, RunTower, Score
from model.checkpoint import Checkpoint
from model.config import Sizes, Tower
from model.decoding.cache_lm import CONTEXT, MAX_TOKENS, CacheLM
from model.decoding.candidates import is_known
from model.decoding.prefix_cache import (
    NOT_SCORED,
    Prefix,
    PrefixCache,
    PrefixNode,
    PrefixTree,
    TopTokens,
)
from model.decoding.token_index import TokenIndex
from model.decoding.typing_errors import Words
from model.decoding.writer_words import NO_LEXICON, Lexicon, SearchedText
from model.mixture import Mixture
from model.queries import LexiconEntry
from model.runtime import Float32Array, initial_states, output_slice
from model.text import read_text
from model.tokenizer import START

# A long text is read in stretches of so many characters. The state after each is cached, so that a
# text which differs only near its end is not read from its start.
STRETCH = 192
# The allowed next tokens: all, those that continue a word of letters, byte tokens.
ALL, LETTERS, BYTES = "all", "letters", "bytes"
# Most probable tokens of a node that are kept, unless more are needed.
TOP_TOKENS = 32
# Distributions that are kept with the correction of the cache language model: a round's.
MAX_MIXED = 16
# Fewer than a hundred tokens exceed HIGH_CUTOFF, and most exceed LOW_CUTOFF.
HIGH_CUTOFF, LOW_CUTOFF = 0.01, 1e-6
# Words whose look-up is kept.
KNOWN_CACHED = 1 << 14
# The marginals of fewer recent tokens gain too little for a next word to pay for their time.
MIN_RECENT = 24


class DecoderContext:
    """A checkpoint as decoders see it; built once, never changed."""

    def __init__(
        self, checkpoint: Checkpoint, sizes: Sizes, cache: PrefixCache, use_cache_lm: bool
    ) -> None:
        self.tokenizer = checkpoint.tokenizer
        self.index = TokenIndex(checkpoint.tokenizer)
        self.two_towers = sizes.architecture == "two_towers"
        self.calibration = checkpoint.calibration
        self.word_end_probs = checkpoint.word_end_probs  # by token: a word ends after it
        self.words = checkpoint.words
        # Words recur, and a look-up takes microseconds.
        self.is_known = lru_cache(KNOWN_CACHED)(partial(is_known, checkpoint.words))
        # By token: it is a known word, or a Chinese one.
        words = [surface.strip(" ") for surface in self.tokenizer.surfaces]
        self.is_word = [word.isalpha() and is_known(checkpoint.words, word) for word in words]
        self.cache = cache
        self.use_cache_lm = use_cache_lm
        self.mixture, self.has_network = Mixture.of(checkpoint), checkpoint.network is not None
        towers: tuple[Tower, ...] = ("forward", "backward")
        # By tower: the state before any token, (S,), and the part of it that heads score, (H,).
        self.initial = {tower: initial_states(sizes, tower, 1)[0] for tower in towers}
        self.output = {tower: output_slice(sizes, tower) for tower in towers}

    @cached_property
    def letter_tokens(self) -> Words:
        """The tokens that are words of Latin letters, or parts of them."""
        return Words(self.tokenizer.surfaces)


class History:
    """Earlier text of a writer, a lexicon and blocked words.

    They are read once for all texts of a request, and no more of them than the texts need.

    Attributes:
        owner: texts of the same writer, by all of that and *cache_salt*, share cached prefixes.
    """

    def __init__(
        self,
        text: str = "",
        cache_salt: str = "",
        lexicon: Sequence[LexiconEntry] = (),
        block: Sequence[str] = (),
    ) -> None:
        self._text = read_text(text).text if text else ""
        self._tokens: NDArray[np.uint16] | None = None
        self._words: SearchedText | None = None
        self.owner = cache_salt
        if text or lexicon or block:
            words = repr(([(each.word, each.weight) for each in lexicon], [*block]))
            digest = hashlib.sha256(self._text.encode())
            self.owner += f"\0{digest.hexdigest()}{hashlib.sha256(words.encode()).hexdigest()}"
        self.lexicon = Lexicon(lexicon, block) if lexicon or block else NO_LEXICON

    @property
    def words(self) -> SearchedText:
        """The text, to look up its words."""
        if self._words is None:
            self._words = SearchedText(self._text)
        return self._words

    def tokens(self, index: TokenIndex) -> NDArray[np.uint16]:
        """Return its last tokens and the start of a text, (n,)."""
        if self._tokens is None:
            tokens = [*index.encode(self._text), START][-MAX_TOKENS:]
            self._tokens = np.array(tokens, dtype=np.uint16)
        return self._tokens


def load_prefix(
    context: DecoderContext, text: str, history: History
) -> Decoder[tuple[Prefix, int]]:
    """Return the prefix that is normalised *text*, and how many of its tokens were cached.

    The forward tower runs on from the longest prefix that is cached for the same owner of
    *history*. The caller encodes what follows *text* separately.
    """
    index, cache, owner = context.index, context.cache, history.owner
    prefix = cache.find(owner, text, index.is_stable_boundary)
    cached_tokens = 0 if prefix is None else prefix.tokens
    prefix = prefix or cache.get(owner, "")
    if prefix is None:
        (state,) = yield [RunTower("forward", context.initial["forward"], (START,))]
        root, recent = PrefixNode(state, (START,)), history.tokens(index)
        prefix = cache.add(Prefix(owner, "", 0, root, recent))
    while len(prefix.text) < len(text):
        start, end = len(prefix.text), len(text)
        if end > start + STRETCH:
            boundary = index.last_stable_boundary(text[: start + STRETCH + 1], start)
            end = boundary if boundary > start else end
        longer = cache.get(owner, text[:end])
        if longer is not None:
            cached_tokens += longer.tokens - prefix.tokens
            prefix = longer
            continue
        tokens = index.encode(text[start:end])
        # Tokens that were tried while they were typed are in the tree of the shorter prefix.
        node, walked = prefix.tree.root, 0
        while walked < len(tokens) and tokens[walked] in node.children:
            node = node.children[tokens[walked]]
            walked += 1
        if cached_tokens == prefix.tokens:
            cached_tokens += walked
        recent = np.append(prefix.recent, np.array(tokens, dtype=np.uint16))
        state, probs = node.state, node.next_probs
        if walked < len(tokens):
            rest = tuple(tokens[walked:])
            (state,) = yield [RunTower("forward", state, rest)]
            probs = NOT_SCORED
        root = PrefixNode(state, tuple(recent[-CONTEXT:].tolist()), probs)
        prefix = cache.add(Prefix(owner, text[:end], prefix.tokens + len(tokens), root, recent))
    return prefix, cached_tokens


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
        if self.tree.cache_lm is None and context.use_cache_lm:
            recent = prefix.recent.astype(np.int64)
            marginals = len(recent) > MIN_RECENT
            self.tree.set_cache_lm(CacheLM(recent, context.tokenizer.background, marginals))
        self._cache_lm = self.tree.cache_lm
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
            self.tree.set_next_probs(node, probs)

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
            index, probs = self._context.index, self.probs(node)
            mask = {LETTERS: index.starts_letter, BYTES: index.is_byte}.get(allowed)
            probs = probs if mask is None else probs * mask
            total = 1.0 if mask is None else float(np.add.reduce(probs))
            if cutoff < HIGH_CUTOFF:
                count = max(count, TOP_TOKENS)
                tokens = most_probable(probs, count)
                cutoff = float(probs[tokens[-1]]) if len(tokens) == count else 0.0
            else:  # few tokens exceed it
                tokens = largest(probs, len(probs), cutoff)
            top = TopTokens(tokens.tolist(), probs[tokens].tolist(), cutoff, total)
            self.tree.set_top(node, allowed, top)
        return top


def largest(
    values: NDArray[np.floating[Any]], count: int, above: float = -np.inf
) -> NDArray[np.int64]:
    """Return indices of the *count* largest *values* (n,) above *above*, falling, ties by index."""
    chosen = (values > above).nonzero()[0]
    if len(chosen) > 4 * count:  # a partition is faster than to sort them all
        picked = values[chosen]
        chosen = chosen[picked >= np.partition(picked, len(picked) - count)[len(picked) - count]]
    return chosen[(-values[chosen]).argsort(kind="stable")[:count]]


def most_probable(probs: Float32Array, count: int) -> NDArray[np.int64]:
    """Return what `largest` does for probabilities (V,) above 0, faster: try high cutoffs first."""
    cutoff = 1.0 / (16 * count)
    while cutoff > LOW_CUTOFF:
        chosen = (probs > cutoff).nonzero()[0]
        if len(chosen) >= count:
            return chosen[(-probs[chosen]).argsort(kind="stable")[:count]]
        cutoff /= 8.0
    return largest(probs, count, 0.0)
