"""Shared by decoders: a checkpoint, a writer, the prefix of a text, the largest of values."""

import hashlib
import math
from collections.abc import Sequence
from functools import cached_property, lru_cache, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.batching import Decoder, RunTower
from model.checkpoint import Checkpoint
from model.config import Sizes, Tower
from model.decoding.cache_lm import MAX_TOKENS, OTHER_BACKGROUND
from model.decoding.candidates import is_known
from model.decoding.prefix_cache import Prefix, PrefixCache, PrefixTree
from model.decoding.token_index import TokenIndex
from model.decoding.typing_errors import Words
from model.decoding.vocabulary import NativeVocabulary
from model.decoding.writer_words import NO_LEXICON, TINY, Lexicon, SearchedText
from model.mixture import Mixture
from model.native.search import CONTEXT
from model.queries import LexiconEntry
from model.runtime import Float32Array, initial_states, output_slice
from model.text import read_text
from model.tokenizer import START

# A long text is read in stretches of so many characters. The state after each is cached, so that a
# text which differs only near its end is not read from its start.
STRETCH = 192
# Most tokens exceed it.
LOW_CUTOFF = 1e-6
# Words whose look-up is kept.
KNOWN_CACHED = 1 << 14


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
        self.vocabulary = NativeVocabulary(
            self.tokenizer, self.index, self.words, self.is_word, self.word_end_probs
        )
        place = self.output["forward"].start
        self.native_mixture = self.mixture.native(place, self.has_network)

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
        tree, recent = PrefixTree(context.tokenizer.size, state, (START,)), history.tokens(index)
        prefix = cache.add(Prefix(owner, "", 0, tree, recent))
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
        while walked < len(tokens) and (after := node.child(tokens[walked])):
            node = after
            walked += 1
        if cached_tokens == prefix.tokens:
            cached_tokens += walked
        recent = np.append(prefix.recent, np.array(tokens, dtype=np.uint16))
        state, probs = node.state, node.next_probs
        if walked < len(tokens):
            rest = tuple(tokens[walked:])
            (state,) = yield [RunTower("forward", state, rest)]
            probs = None
        tree = PrefixTree(context.tokenizer.size, state, recent[-CONTEXT:].tolist(), probs)
        prefix = cache.add(Prefix(owner, text[:end], prefix.tokens + len(tokens), tree, recent))
    return prefix, cached_tokens


def typed_prob(context: DecoderContext, text: str, start: int, cut: int, total: float) -> float:
    """Return the probability of *text* from *start*; of all after *cut* it is *total*.

    That of what lies between them is estimated by shares of the training text.
    """
    background = context.tokenizer.background
    between = context.index.encode_whole(text[min(start, cut) : max(start, cut)])
    share = math.prod([float(background[token]) or OTHER_BACKGROUND for token in between])
    return total * share if start < cut else min(1.0, total / max(share, TINY))


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
