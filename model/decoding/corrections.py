"""Offer corrections: words that were probably meant by misspelt letters at the end of a text.

A word w that is a few errors away from the typed letters q, or whose beginning is, explains them as
well as the words that begin with q do. Bayes' rule weighs both, as in writer_words.py:

    odds(w) = P(w | left) P(q | w) / P(q | left)

P(w | left) is the network's, or that of a word of the writer. P(q | w) is of typing_errors.py.
Words are found as the network spells them, one token at a time, so a correction is one that fits
what precedes it. If q is a word itself, it is never displaced: corrections need long odds, and none
comes before what continues it.
"""

from collections import Counter
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from model.batching import Decoder
from model.decoding.candidates import start_of_word
from model.decoding.context import DecoderContext, History, largest, load_prefix
from model.decoding.next_token import NextToken, TextEnd
from model.decoding.origins import Shown, Source, with_origins
from model.decoding.prefix_cache import PrefixNode
from model.decoding.typing_errors import Typed, Words
from model.decoding.writer_words import MIXTURE, OWN_TEXT, SMOOTHING, TINY, AddedWord
from model.queries import Candidate
from model.runtime import Float64Array
from model.text import APOSTROPHES, LATIN_LETTER, NormalText
from model.words import spelled_words

# Letters of a word from which on one error is corrected, and two; and of the longest such word.
ONE_ERROR, TWO_ERRORS, MAX_TYPED = 3, 5, 24
# Odds of a correction that is offered, and of one of a word that is known.
MIN_ODDS, KNOWN_ODDS = 0.02, 10.0
# Tokens that are compared with the typed letters, and parts of words that are read on; rounds.
MAX_COMPARED, PARTS, ROUNDS = 1_000, 6, 3
# Corrections that are offered, and words of the writer that are compared.
MAX_OFFERED, MAX_OWN = 5, 256
# More than the most probable error.
MAX_ERROR = 1e-2


class _Part(NamedTuple):
    """The beginning of a word, of which the last token is not run yet."""

    prob: float  # P(part | left)
    node: PrefixNode  # before the last token
    token: int
    spelled: str
    table: Float64Array  # of Typed
    odds: float  # the most that words which begin so can have


class _Found(NamedTuple):
    """The odds of a word, those that the writer's words add, and its likeliest last token."""

    word: str
    odds: float
    own_odds: float
    likeliest: float
    source: Source | None


def correct(
    context: DecoderContext,
    reading: NormalText,
    history: History,
    edits: int,
    candidates: tuple[Candidate, ...],
) -> Decoder[tuple[Candidate, ...]]:
    """Return *candidates* with corrections of at most *edits* errors, falling."""
    text = reading.text
    start = start_of_word(text)
    stem = text[start:]
    edits = min(edits, (len(stem) >= ONE_ERROR) + (len(stem) >= TWO_ERRORS))
    if not edits or len(stem) > MAX_TYPED or not all(map(LATIN_LETTER.match, stem)):
        return candidates
    index = context.index
    boundary = start
    if start > 0 and not index.is_stable_boundary(text, start):
        boundary = index.last_stable_boundary(text[:start])
    prefix, _ = yield from load_prefix(context, text[:boundary], history)
    next_token, tree = NextToken(context, prefix), prefix.tree
    try:
        between = index.encode_whole(text[boundary:start])
        yield from next_token.spell(TextEnd(between, index.encode_whole(stem), stem.encode()))
        node = next_token.tree.root
        for token in between:
            node = node.child(token) or node
        total = next_token.total
        search = _Corrections(context, next_token, history, text[:start], stem, edits, total)
        yield from search.spell(node)
        search.add_own()
        return search.merged(reading, candidates)
    finally:  # a cancelled query leaves nodes, too
        if prefix.tree is tree:  # not dropped meanwhile
            context.cache.put(prefix)


class _Corrections:
    """The corrections of one word, *stem*, after *left*."""

    def __init__(
        self,
        context: DecoderContext,
        next_token: NextToken,
        history: History,
        left: str,
        stem: str,
        edits: int,
        typed_prob: float,
    ) -> None:
        self._context, self._next_token, self._history = context, next_token, history
        self._left, self._stem = left, stem
        self._typed = Typed(stem, edits)
        self._typed_prob = max(typed_prob, TINY)
        self._found: dict[str, _Found] = {}
        self._parts: list[_Part] = []
        self._own: set[str] = set()

    def spell(self, node: PrefixNode) -> Decoder[None]:
        """Spell words after a node while they may be offered."""
        self._take(node, 1.0, "", self._typed.start)
        for _ in range(ROUNDS - 1):
            self._parts.sort(key=lambda part: -part.odds)
            chosen = self._parts[: min(PARTS, self._next_token.room)]
            self._parts = []
            if not chosen:
                break
            edges = [(part.node, part.token) for part in chosen]
            nodes = yield from self._next_token.expand(edges)
            for part, after in zip(chosen, nodes, strict=True):
                self._take(after, part.prob, part.spelled, part.table)

    def _take(self, node: PrefixNode, prob: float, spelled: str, table: Float64Array) -> None:
        """Take the tokens after a node with which words are a few errors from the typed letters."""
        context, words = self._context, self._context.letter_tokens
        all_probs = self._next_token.probs(node)
        probs = all_probs[words.places] * np.float64(prob)
        cutoff = MIN_ODDS * self._typed_prob / _most(table)
        chosen = largest(probs, MAX_COMPARED, cutoff)
        lengths = words.lengths[chosen]
        codes = words.codes[chosen, : int(lengths.max(initial=0))]
        explained, tables = self._typed.explain(table, codes, lengths)
        given = probs[chosen] / self._typed_prob
        odds, most = given * explained, given * np.maximum(explained, _most(tables))
        for n in (most > MIN_ODDS / 4).nonzero()[0].tolist():
            token = int(words.places[chosen[n]])
            surface = context.tokenizer.surfaces[token]
            word, ended = spelled + surface.rstrip(" "), 1.0
            if not surface.endswith(" "):
                ended = context.word_end_probs[token]
                part = _Part(
                    float(probs[chosen[n]]), node, token, word, tables[:, n], float(most[n])
                )
                if part.odds * (1.0 - ended) > MIN_ODDS:
                    self._parts.append(part)
            source = node.address, token, float(all_probs[token])
            self._add(word, float(odds[n]) * ended, 0.0, source)

    def add_own(self) -> None:
        """Add words of lexicon, history and text."""
        lexicon, letters = self._history.lexicon, set(self._stem.lower())
        before, earlier = spelled_words(self._left), self._history.words.all()
        counts = Counter(dict(lexicon.counts))
        for words, share in ((earlier, 1.0), (before, OWN_TEXT)):
            for word, count in Counter(words).items():
                counts[word] += share * count  # type: ignore[assignment]
        total = SMOOTHING + lexicon.total + len(earlier) + OWN_TEXT * len(before)
        size = len(self._stem)
        near = [
            word
            for word, _ in counts.most_common()
            if len(word) >= size - 2 and len(letters - set(word[: size + 2].lower())) <= 2
        ]
        compared = Words(near[:MAX_OWN])
        explained, _ = self._typed.explain(self._typed.start, compared.codes, compared.lengths)
        for place, prob in zip(compared.places.tolist(), explained.tolist(), strict=True):
            odds = MIXTURE * counts[near[place]] / total * prob / self._typed_prob
            self._own.add(near[place])
            self._add(near[place], 0.0, odds, None)

    def _add(self, word: str, odds: float, own_odds: float, source: Source | None) -> None:
        """Add to the odds of a word, if it may be offered."""
        if not odds + own_odds > 0:
            return
        stem = self._stem
        if stem.isupper():
            word = word.upper()
        elif stem[0].isupper():
            word = word[0].upper() + word[1:]
        key = word.casefold()
        found = self._found.get(key)
        if found is None:
            if key.startswith(stem.casefold()) or key[-1] in APOSTROPHES:
                return
            if not (self._context.is_known(word) or own_odds):
                return
            if self._history.lexicon.blocks(self._left, word):
                return
            found = _Found(word, 0.0, 0.0, 0.0, None)
        likeliest = found.likeliest, found.source
        if odds + own_odds > found.likeliest:  # of writings that differ in capitals, too
            likeliest = odds + own_odds, source or found.source
            found = found._replace(word=word)
        self._found[key] = _Found(
            found.word, found.odds + odds, found.own_odds + own_odds, *likeliest
        )

    def merged(
        self, reading: NormalText, candidates: tuple[Candidate, ...]
    ) -> tuple[Candidate, ...]:
        """Return candidates with the corrections among them."""
        is_word = self._context.is_known(self._stem) or self._stem in self._own
        least = KNOWN_ODDS if is_word else MIN_ODDS
        found = {each.word: each for each in self._found.values()}
        odds = {word: each.odds + each.own_odds for word, each in found.items()}
        chosen = sorted(odds, key=lambda word: (-odds[word], word))[:MAX_OFFERED]
        chosen = [word for word in chosen if odds[word] > least]
        if not chosen or (is_word and not candidates):
            return candidates
        total = sum([odds[word] for word in chosen])
        if is_word:  # what continues it keeps at least half of its probability
            odds, total = {word: odds[word] / total for word in chosen}, 1.0
        scale = 1.0 / (1.0 + total)
        plain = [replace(each, probability=scale * each.probability) for each in candidates]
        most = plain[0].probability if is_word else 1.0
        start = len(self._left)
        shown, sources, added = list[Shown](), list[Source | None](), dict[str, AddedWord]()
        for word in chosen:
            written = word if reading.text == reading.sent else reading.write(word, start)
            prob = min(most, scale * odds[word])
            shown.append((written, written, prob, True))
            each = found[word]
            sources.append(each.source)
            if each.own_odds:
                share = each.own_odds / (each.odds + each.own_odds)
                added[written] = AddedWord(prob * share, start)
        count = len(reading.sent) - reading.span(start, len(reading.text))[0]
        corrected = with_origins(self._next_token, shown, sources, added)
        return tuple(
            sorted(
                [*plain, *[replace(each, replace=count) for each in corrected]],
                key=lambda each: (-each.probability, each.replace is not None, each.append),
            )
        )


def _most(tables: Float64Array) -> Any:
    """Return the most that tables (edits + 1, …, typed + 1) leave for the typed letters."""
    return np.maximum(tables[0].max(axis=-1) * MAX_ERROR, tables[1:].max(axis=(0, -1)))
