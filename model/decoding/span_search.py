"""Spans for one blank: a search for words, and the probabilities of given choices. No ranking.

A span of n tokens has the probability

    P(span | left, right) = Π P(token k | left, tokens before k, right) · P(end | left, span, right)

With two towers the gap head gives all factors, and ``<eog>`` is the end. A forward-only network has
only its next head, which does not see the right side; there a span ends where its word ends.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from model.batching import Decoder, RunTower, Score
from model.config import GAP_POSITIONS, WORD
from model.decoding.cache_lm import CONTEXT, CacheLM
from model.decoding.context import DecoderContext, largest
from model.runtime import Float32Array
from model.tokenizer import END_OF_GAP

# Tokens of the longest span that is searched.
MAX_SPAN = 6
# Spans that go on after their first token, for each of the first FEW words wanted. Never fewer than
# the words wanted, or twice those shown, unless they are too improbable.
FIRST_WIDTH, FEW = 3, 8
# Nats below the best span at which a span is dropped, unless few are left. Two more than for
# rescoring in cloze.py: the best span has yet to end, which costs something.
BEAM_MARGIN = 7.0


class Span(NamedTuple):
    """Tokens in a blank."""

    tokens: tuple[int, ...]
    log_prob: float  # of the tokens so far, or of the span and its end
    states: tuple[Float32Array, ...]  # forward, before each token and after the last, (S,) each


class Proposal(NamedTuple):
    """A word for a blank."""

    word: str  # without the spaces around it
    log_prob: float  # log P(word | left, right), summed over the spans that spell it
    span: Span  # the most probable of these


class SpanHead:
    """The factors of a span's probability, after the tokens *before*.

    *right* is the backward state after the right side, (S,); None if unknown or not used. *kind* is
    ``WORD`` or ``SPAN`` of :mod:`model.config`; without a gap head, a ``WORD`` does not go on after
    its end.
    """

    def __init__(
        self,
        context: DecoderContext,
        right: Float32Array | None,
        kind: int,
        cache_lm: CacheLM,
        before: Sequence[int],
    ) -> None:
        self._context = context
        self._right = None if right is None else right[context.output["backward"]]
        self._kind = kind
        self._cache_lm = cache_lm
        self._before = tuple(before[-CONTEXT:])

    def step(self, state: Float32Array, position: int) -> Score:
        """Request the token at *position* of a span, from the forward state before it, (S,)."""
        output = state[self._context.output["forward"]]
        if not self._context.two_towers:
            return Score("next", output)
        position = min(position, GAP_POSITIONS - 1)
        return Score("gap", output, right=self._right, position=position, kind=self._kind)

    def split(self, tokens: tuple[int, ...], scores: Float32Array) -> tuple[float, Float32Array]:
        """Return log P of the end after *tokens* and of each next token, (V,), from scores (V,)."""
        log_probs = self._cache_lm.mix_logs(scores, (*self._before, *tokens)[-CONTEXT:])
        if self._context.two_towers:
            end = float(log_probs[END_OF_GAP])
            log_probs[END_OF_GAP] = -np.inf
            return end, log_probs
        if not tokens:
            return -np.inf, log_probs
        # A word of letters ends unless a letter follows, or a space, which belongs to the word.
        tokenizer = self._context.tokenizer
        letters = bool(tokenizer.ends_letter[tokens[-1]])
        end = float(np.logaddexp.reduce(log_probs[~tokenizer.continues_word])) if letters else 0.0
        if self._kind == WORD:
            continues = tokenizer.continues_word & letters
            log_probs = np.where(continues, log_probs, np.float32(-np.inf))
        return end, log_probs


def search_words(
    context: DecoderContext,
    head: SpanHead,
    state: Float32Array,
    takes: Callable[[str], bool],
    wanted: int,
    shown: int,
) -> Decoder[list[Proposal]]:
    """Beam search for the *wanted* most probable words that follow *state* (S,) in a blank.

    *takes* returns True if a span, with the space that it may end in, fits the blank. Improbable
    words are dropped, but for the first *shown*. The search ends when no unfinished span can still
    be among the words.
    """
    found: dict[str, Proposal] = {}
    beam = [Span((), 0.0, (state,))]
    for position in range(MAX_SPAN + 1):
        rows = yield [head.step(span.states[-1], position) for span in beam]
        log_probs = np.empty((len(beam), context.tokenizer.size), dtype=np.float32)
        for n, (span, row) in enumerate(zip(beam, rows, strict=True)):
            end, following = head.split(span.tokens, row)
            if end > -np.inf:
                ended = span._replace(log_prob=span.log_prob + end)
                text = context.tokenizer.decode(span.tokens)
                if is_word(text) and takes(text):
                    add_span(found, text.strip(), ended)
            log_probs[n] = following + np.float32(span.log_prob)
        if position == MAX_SPAN:
            break
        width = max(wanted, 2 * shown, FIRST_WIDTH * min(wanted, FEW)) if position == 0 else wanted
        picks = _continuations(log_probs, found, wanted, width, 2 * shown)
        if not picks:
            break
        # Rows are 64 kB each at 16,000 tokens, dozens in each decoder: keep none while it waits.
        del rows, row, following, log_probs
        states = yield [RunTower("forward", beam[n].states[-1], (token,)) for n, token, _ in picks]
        beam = [
            Span((*beam[n].tokens, token), log_prob, (*beam[n].states, after))
            for (n, token, log_prob), after in zip(picks, states, strict=True)
        ]
    return sorted(found.values(), key=lambda each: (-each.log_prob, each.word))[:wanted]


def _continuations(
    log_probs: Float32Array, found: dict[str, Proposal], wanted: int, width: int, at_least: int
) -> list[tuple[int, int, float]]:
    """Choose (row, token, log P) of unfinished spans (N, V) that may be among the words wanted."""
    ranked = sorted((each.log_prob for each in found.values()), reverse=True)
    floor = ranked[wanted - 1] if len(ranked) >= wanted else -np.inf
    if len(log_probs) > width:  # so many rows reach a higher value that the rest cannot be chosen
        floor = max(floor, float(np.sort(log_probs.max(axis=1))[-width - 1]))
    values = log_probs.ravel()
    chosen = largest(values, width, floor)
    best = max(ranked[0] if ranked else -np.inf, float(log_probs.max()))
    near = int(np.count_nonzero(values[chosen] > best - BEAM_MARGIN))
    places = [divmod(place, log_probs.shape[1]) for place in chosen[: max(at_least, near)].tolist()]
    return [(n, token, float(log_probs[n, token])) for n, token in places]


def score_choices(
    head: SpanHead, state: Float32Array, choices: Sequence[tuple[str, Sequence[tuple[int, ...]]]]
) -> Decoder[list[Proposal]]:
    """Score given words exactly after *state* (S,); each comes with the spans that spell it.

    Spans with a common beginning share its states and scores.
    """
    spans = [tokens for _, spelled in choices for tokens in spelled]
    beginnings: dict[tuple[int, ...], Span] = {(): Span((), 0.0, (state,))}
    ended: dict[tuple[int, ...], float] = {}
    level: list[tuple[int, ...]] = [()]
    for position in range(max(map(len, spans)) + 1):
        rows = yield [head.step(beginnings[tokens].states[-1], position) for tokens in level]
        following: dict[tuple[int, ...], Float32Array] = {}
        for tokens, row in zip(level, rows, strict=True):
            end, following[tokens] = head.split(tokens, row)
            ended[tokens] = beginnings[tokens].log_prob + end
        longer = [tokens[: position + 1] for tokens in spans if len(tokens) > position]
        level = list(dict.fromkeys(longer))
        for tokens in level:
            span, log_prob = beginnings[tokens[:-1]], float(following[tokens[:-1]][tokens[-1]])
            beginnings[tokens] = Span(tokens, span.log_prob + log_prob, span.states)
        rows, following = (), {}  # free while the next tokens run
        states = yield [
            RunTower("forward", beginnings[tokens].states[-1], tokens[-1:]) for tokens in level
        ]
        for tokens, after in zip(level, states, strict=True):
            span = beginnings[tokens]
            beginnings[tokens] = span._replace(states=(*span.states, after))
    found: dict[str, Proposal] = {}
    for word, spelled in choices:
        for tokens in spelled:
            add_span(found, word, beginnings[tokens]._replace(log_prob=ended[tokens]))
    return list(found.values())


def add_span(found: dict[str, Proposal], word: str, span: Span) -> None:
    """Add a span to the words found; a word may be spelled in several ways."""
    before = found.get(word)
    if before is None:
        found[word] = Proposal(word, span.log_prob, span)
    else:
        log_prob = float(np.logaddexp(span.log_prob, before.log_prob))
        likelier = max(before.span, span, key=lambda each: each.log_prob)
        found[word] = Proposal(word, log_prob, likelier)


def is_word(text: str) -> bool:
    """Return True for text with a letter or digit and without broken characters."""
    return any(map(str.isalnum, text)) and "\ufffd" not in text
