"""Spans for one blank: a search for words, and the probabilities of given choices. No ranking.

A span of n tokens has the probability

    P(span | left, right) = Π P(token k | left, tokens before k, right) · P(end | left, span, right)

With two towers the gap head gives all factors, and ``<eog>`` is the end. A forward-only network has
only its next head, which does not see the right side; there a span ends where its word ends.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from model.batching import Decoder, RunTower, Score
from model.config import GAP_POSITIONS
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


@dataclass(frozen=True, slots=True, eq=False)
class Span:
    """Tokens in a blank."""

    tokens: tuple[int, ...]
    log_prob: float  # of the tokens so far, or of the span and its end
    states: tuple[
        Float32Array, ...
    ]  # forward states before each token and after the last, (S,) each


@dataclass(frozen=True, slots=True, eq=False)
class Proposal:
    """A word for a blank."""

    word: str  # without the spaces around it
    log_prob: float  # log P(word | left, right), summed over the spans that spell it
    span: Span  # the most probable of these


class SpanHead:
    """The factors of a span's probability.

    Args:
        context: of the checkpoint.
        right: backward state after the right side, (S,); None if unknown or not used.
        kind: ``WORD`` or ``SPAN`` of :mod:`model.config`.
        one_word: a span does not go on after the end of a word; for a forward-only network.
        cache_lm: of the text around the blank.
        before: the last tokens on the left.
    """

    def __init__(
        self,
        context: DecoderContext,
        right: Float32Array | None,
        kind: int,
        one_word: bool,
        cache_lm: CacheLM,
        before: Sequence[int],
    ) -> None:
        self._context = context
        self._right = None if right is None else right[context.output["backward"]]
        self._kind = kind
        self._one_word = one_word
        self._cache_lm = cache_lm
        self._before = tuple(before[-CONTEXT:])
        self._two_towers = context.two_towers

    def step(self, state: Float32Array, position: int) -> Score:
        """Request the token at *position* of a span, from the forward state before it, (S,)."""
        output = state[self._context.output["forward"]]
        if not self._two_towers:
            return Score("next", output)
        position = min(position, GAP_POSITIONS - 1)
        return Score("gap", output, right=self._right, position=position, kind=self._kind)

    def split(self, tokens: tuple[int, ...], scores: Float32Array) -> tuple[float, Float32Array]:
        """Return log P of the end after *tokens* and of each next token, (V,), from scores (V,)."""
        log_probs = self._cache_lm.mix_logs(scores, (*self._before, *tokens)[-CONTEXT:])
        if self._two_towers:
            end = float(log_probs[END_OF_GAP])
            log_probs[END_OF_GAP] = -np.inf
            return end, log_probs
        if not tokens:
            return -np.inf, log_probs
        # A word of letters ends unless a letter follows, or a space, which belongs to the word.
        tokenizer = self._context.tokenizer
        letters = bool(tokenizer.ends_letter[tokens[-1]])
        end = float(np.logaddexp.reduce(log_probs[~tokenizer.continues_word])) if letters else 0.0
        if self._one_word:
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
    """Beam search for the most probable words of a blank.

    Args:
        context: of the checkpoint.
        head: scores the spans.
        state: forward state before the blank, (S,).
        takes: returns True if a span, with the space that it may end in, fits the blank.
        wanted: how many words.
        shown: how many of them to find however improbable they are.

    Returns:
        Proposals, most probable first; fewer than *wanted* if the others are too improbable. The
        search ends when no unfinished span can still be among them.
    """
    found: dict[str, Proposal] = {}
    beam = [Span((), 0.0, (state,))]
    for position in range(MAX_SPAN + 1):
        rows = yield [head.step(span.states[-1], position) for span in beam]
        log_probs = np.empty((len(beam), context.tokenizer.size), dtype=np.float32)
        for n, (span, row) in enumerate(zip(beam, rows, strict=True)):
            end, following = head.split(span.tokens, row)
            if end > -np.inf:
                ended = replace(span, log_prob=span.log_prob + end)
                _add_span(found, context.tokenizer.decode(span.tokens), ended, takes)
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
    """Score given words exactly. Spans with a common beginning share its states and scores.

    Args:
        head: scores the spans.
        state: forward state before the blank, (S,).
        choices: each word and the spans that spell it, at least one, none empty.

    Returns:
        One proposal for each choice, in their order.
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
        before = [beginnings[tokens[:-1]] for tokens in level]
        log_probs = [
            span.log_prob + float(following[span.tokens][tokens[-1]])
            for span, tokens in zip(before, level, strict=True)
        ]
        rows, following = (), {}  # free while the next tokens run
        states = yield [
            RunTower("forward", span.states[-1], tokens[-1:])
            for span, tokens in zip(before, level, strict=True)
        ]
        for tokens, span, log_prob, after in zip(level, before, log_probs, states, strict=True):
            beginnings[tokens] = Span(tokens, log_prob, (*span.states, after))
    proposals = []
    for word, spelled in choices:
        own = [replace(beginnings[tokens], log_prob=ended[tokens]) for tokens in spelled]
        log_prob = float(np.logaddexp.reduce([span.log_prob for span in own]))
        proposals.append(Proposal(word, log_prob, max(own, key=lambda span: span.log_prob)))
    return proposals


def _add_span(
    found: dict[str, Proposal], text: str, span: Span, takes: Callable[[str], bool]
) -> None:
    """Add an ended span to the words found, if it is a word and fits the blank."""
    if not is_word(text) or not takes(text):
        return
    word = text.strip()
    before = found.get(word)
    if before is None:
        found[word] = Proposal(word, span.log_prob, span)
    else:
        log_prob = float(np.logaddexp(span.log_prob, before.log_prob))
        likelier = max(span, before.span, key=lambda each: each.log_prob)
        found[word] = Proposal(word, log_prob, likelier)


def is_word(text: str) -> bool:
    """Return True for text with a letter or digit and without broken characters."""
    return any(map(str.isalnum, text)) and "\ufffd" not in text
