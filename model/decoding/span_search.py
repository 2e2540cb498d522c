"""Spans for one blank: a search for words, and the probabilities of given choices. No ranking.

A span of n tokens has the probability

    P(span | left, right) = Π P(token k | left, tokens before k, right) · P(end | left, span, right)

With two towers the gap head gives all factors, and ``<eog>`` is the end. A forward-only network has
only its next head, which does not see the right side; there a span ends where its word ends.

The gap head errs about rare words. So its factor of the first token is multiplied by powers of
P(token | left) and of P_counts(right tokens | left, token), and divided by the sum.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any, NamedTuple

import numpy as np

from model.batching import Decoder, RunTower, Score
from model.config import GAP_POSITIONS, WORD
from model.decoding.cache_lm import CacheLM
from model.decoding.context import DecoderContext, largest
from model.native.rows import best_tokens
from model.native.search import CONTEXT
from model.runtime import Float32Array, Float64Array, Int64Array, log_of
from model.text import is_han
from model.tokenizer import END_OF_GAP

# Tokens of the longest span that is searched.
MAX_SPAN = 6
# The exponent of P(next token | left) in the factor of a span's first token.
NEXT_WEIGHT = 0.25
# The exponent of P_counts(first tokens of the right side | left, token) in it, for the best tokens.
RIGHT_WEIGHT, RIGHT_TOKENS, WEIGHED = 0.5, 2, 200
# Spans that go on after their first token, for each of the first FEW words wanted.
FIRST_WIDTH, FEW = 4, 6
# Nats below the best span at which a span is dropped, unless few are left.
BEAM_MARGIN = 7.0
# Texts of spans that are known to be words or not.
WORDS_CACHED = 1 << 13
# The lower bound of a log-probability that others are compared with.
LEAST = -1_000.0
# Given spans of which more than the first token of the right context is scored.
EXTENDED = 12
# Given spans that are scored at the same time, and tokens of each that are run in one round: a
# decoder keeps no more states and outputs, whatever it is asked.
GIVEN_LINES, GIVEN_TOKENS = 32, 16


# Tokens that are scored after a state.
Line = tuple[int, ...]
# Log P of a span's end, and next tokens (n,) with log P, (n,).
Continuations = tuple[float, Int64Array, Float32Array]


class Span(NamedTuple):
    """Tokens in a blank."""

    tokens: tuple[int, ...]
    log_prob: float  # of the tokens so far, or of the span and its end


class Proposal(NamedTuple):
    """A word for a blank."""

    word: str  # without the spaces around it
    log_prob: float  # log P(word | left, right), summed over the spans that spell it
    span: Span  # the most probable of these
    written: float = 0.0  # share of the probability of the word that its writer's words give


class SpanHead:
    """The factors of a span's probability, after the tokens *before*.

    *right* is the backward state after the right side, (S,); None if unknown or not used. The right
    side begins with *following*, if it is known. Without a gap head, a span is a word and does not
    go on after its end.
    """

    def __init__(
        self,
        context: DecoderContext,
        right: Float32Array | None,
        cache_lm: CacheLM,
        before: Sequence[int],
        following: Line = (),
    ) -> None:
        self._context, self._following = context, following[:RIGHT_TOKENS]
        self._right = None if right is None else right[context.output["backward"]]
        self._cache_lm = cache_lm
        self._before = tuple(before[-CONTEXT:])
        self._next: Float32Array | None = None  # P(next token | left), (V,)
        self._mixed: Float32Array | None = None  # the same without the cache language model
        self.states: dict[Line, Float32Array] = {}  # after first tokens that were searched, (S,)

    def step(
        self,
        output: Float32Array,
        position: int,
        reduce: Callable[[Float32Array], Any] | None = None,
    ) -> Score:
        """Request the token at *position* of a span, from the forward output before it, (H,)."""
        if not self._context.two_towers:
            return Score("next", output, reduce)
        position = min(position, GAP_POSITIONS - 1)
        return Score("gap", output, reduce, self._right, position, WORD)

    def read_next(self, state: Float32Array) -> Decoder[Float32Array]:
        """Return P(next token | left), (V,), after the left side; it is asked for once."""
        if self._next is None:
            (row,) = yield [Score("next", state[self._context.output["forward"]], np.copy)]
            self._next, self._mixed = self.mix(row, ()), row
        return self._next

    def first_probs(self, tokens: Sequence[int]) -> tuple[list[float], float, list[float]] | None:
        """Return what :func:`find_origins` asks of tokens after the left side, if it was read."""
        if self._next is None or self._mixed is None:
            return None
        kept = self._cache_lm.kept(self._mixed, self._before)
        ids = list(tokens)
        return self._mixed[ids].tolist(), kept, self._next[ids].tolist()

    def mix(self, probs: Float32Array, tokens: Line) -> Float32Array:
        """Correct P(next token), (V,), after the last tokens of a span."""
        return self._cache_lm.mix(probs, (*self._before, *tokens)[-CONTEXT:])

    def best(self, tokens: Line, count: int, scores: Float32Array) -> Continuations:
        """Return the end and the *count* best next tokens of :meth:`split`."""
        end, log_probs, change = self.split(tokens, scores)
        best = best_tokens(log_probs, count)
        return end, best, log_probs[best] + np.float32(change)

    def split(self, tokens: Line, scores: Float32Array) -> tuple[float, Float32Array, float]:
        """Return log P of the end after *tokens* and of each next token, from scores (V,).

        A constant is to be added to those of tokens, (V,), which overwrite the scores.
        """
        log_probs: Float32Array = scores if self._context.two_towers else log_of(scores)
        change = self._cache_lm.mix_logs(log_probs, (*self._before, *tokens)[-CONTEXT:])
        if self._context.two_towers:
            end = float(log_probs[END_OF_GAP]) + change
            log_probs[END_OF_GAP] = -np.inf
            if self._next is not None and not tokens:
                log_probs += np.float32(change) + NEXT_WEIGHT * log_of(self._next)
                self._weigh_right(log_probs)
                change = -float(log_of(np.exp(log_probs).sum()))
            return end, log_probs, change
        log_probs += np.float32(change)
        if not tokens:
            return -np.inf, log_probs, 0.0
        # A word of letters ends unless a letter follows, or a space, which belongs to the word.
        tokenizer = self._context.tokenizer
        letters = bool(tokenizer.ends_letter[tokens[-1]])
        end = float(np.logaddexp.reduce(log_probs[~tokenizer.continues_word])) if letters else 0.0
        continues = tokenizer.continues_word & letters
        return end, np.where(continues, log_probs, np.float32(-np.inf)), 0.0

    def score_rest(
        self, states: list[Float32Array], spans: Sequence[Line], right: Line
    ) -> Decoder[tuple[Float64Array, list[Float32Array]]]:
        """Return log P of each line after its first token, (N,), and states before its last one.

        A line is a span and *right*; without that, the end of its last word is the last token.
        *states* (S,) are those before the lines, and are replaced.
        """
        tokenizer, lines = self._context.tokenizer, [(*span, *right) for span in spans]
        ends = [len(line) - bool(right or not tokenizer.ends_letter[line[-1]]) for line in lines]
        read, totals = [0] * len(lines), np.zeros(len(lines))  # tokens, log P
        waiting: list[tuple[int, int, Float32Array]] = []  # line, place, output before it

        def prob_at(n: int, place: int, row: Float32Array) -> Any:
            line, span = lines[n], spans[n]
            if place == len(line):
                return row[~tokenizer.continues_word].sum()
            if place < len(span):
                row = self.mix(row, span[max(0, place - CONTEXT) : place])
            return row[line[place]]

        for n, span in enumerate(spans):
            if ends[n] and span[:1] in self.states:
                states[n], read[n] = self.states[span[:1]], 1
                waiting.append((n, 1, states[n][self._context.output["forward"]]))
        while True:
            if waiting:
                probs = yield [
                    Score("next", output, partial(prob_at, n, place))
                    for n, place, output in waiting
                ]
                log_probs = log_of(np.array(probs, dtype=np.float32))
                np.add.at(totals, [n for n, _, _ in waiting], log_probs)
            live = [n for n, end in enumerate(ends) if read[n] < end]
            if not live:
                return totals, states
            parts = [lines[n][read[n] : ends[n]][:GIVEN_TOKENS] for n in live]
            runs = yield [
                RunTower("forward", states[n], part, True)
                for n, part in zip(live, parts, strict=True)
            ]
            waiting = []
            for n, (outputs, states[n]) in zip(live, runs, strict=True):
                waiting += [(n, place, output) for place, output in enumerate(outputs, read[n] + 1)]
                read[n] += len(outputs)

    def _weigh_right(self, log_probs: Float32Array) -> None:
        """Raise in place the first tokens (V,) of a span after which the right side is likely.

        A token within a word is as good as others on average.
        """
        following, tokenizer = self._following, self._context.tokenizer
        if not following:
            return
        tokens = best_tokens(log_probs, WEIGHED)
        if tokenizer.continues_word[following[0]]:
            tokens = tokens[~tokenizer.ends_letter[tokens]]
        mixture = self._context.mixture
        found = mixture.log_probs_of_next(self._before, tokens.tolist(), following)
        if found is not None:
            raises = RIGHT_WEIGHT * found
            log_probs[tokens] += (raises - raises.mean()).astype(np.float32)


def search_words(
    context: DecoderContext,
    head: SpanHead,
    state: Float32Array,
    takes: Callable[[str, Line], bool],
    wanted: int,
    kept: int,
) -> Decoder[list[Proposal]]:
    """Beam search for the *wanted* most probable words that follow *state* (S,) in a blank.

    *takes* returns True if a span, with the space that it may end in, fits the blank; it also gets
    the tokens. Improbable spans are dropped, but for the first *kept* of each length. The search
    ends when no unfinished span can still be among the words. Other words that it found come last.
    """
    output = context.output["forward"]
    found: dict[str, Proposal] = {}
    beam: list[Span] = [Span((), 0.0)]
    states: Sequence[Float32Array] = [state]
    yield from head.read_next(state)
    for position in range(MAX_SPAN + 1):
        width = max(wanted, kept, FIRST_WIDTH * min(wanted, FEW)) if position == 0 else wanted
        ends = yield [
            head.step(state[output], position, partial(head.best, span.tokens, width))
            for span, state in zip(beam, states, strict=True)
        ]
        for span, (end, _, _) in zip(beam, ends, strict=True):
            if end > -np.inf:
                text = context.tokenizer.decode(span.tokens)
                if is_word(text) and takes(text, span.tokens):
                    add_span(found, text.strip(), Span(span.tokens, span.log_prob + end))
        picks = _continuations(beam, ends, found, wanted, width, kept)
        if position == MAX_SPAN or not picks:
            break
        states = yield [RunTower("forward", states[n], (token,)) for n, token, _ in picks]
        beam = [Span((*beam[n].tokens, token), log_prob) for n, token, log_prob in picks]
        if position == 0:
            head.states = dict(zip((span.tokens for span in beam), states, strict=True))
    return sorted(found.values(), key=lambda each: (-each.log_prob, each.word))


def _continuations(
    beam: Sequence[Span],
    ends: Sequence[Continuations],
    found: dict[str, Proposal],
    wanted: int,
    width: int,
    at_least: int,
) -> list[tuple[int, int, float]]:
    """Choose (span, token, log P) of spans that go on and may be among the words wanted."""
    ranked = sorted((each.log_prob for each in found.values()), reverse=True)
    floor = ranked[wanted - 1] if len(ranked) >= wanted else -np.inf
    base = np.array([span.log_prob for span in beam], dtype=np.float32)
    owners = np.repeat(np.arange(len(beam)), [len(tokens) for _, tokens, _ in ends])
    values = base[owners] + np.concatenate([log_probs for *_, log_probs in ends])
    chosen = largest(values, width, floor)
    best = max([*ranked[:1], *values[chosen[:1]].tolist()], default=0.0)
    near = int(np.count_nonzero(values[chosen] > best - BEAM_MARGIN))
    chosen = chosen[: max(at_least, near)]
    tokens = np.concatenate([tokens for _, tokens, _ in ends])[chosen].tolist()
    return list(zip(owners[chosen].tolist(), tokens, values[chosen].tolist(), strict=True))


def score_spans(
    head: SpanHead,
    state: Float32Array,
    spans: Sequence[Line],
    right: Line,
    bias: Float64Array,
) -> Decoder[Float64Array]:
    """Return *bias* (N,) + log P(span, *right* | left) of each span after *state* (S,), (N,).

    Without *right*, it is log P(span, end of its last word | left). The tokens of *right* after the
    first are scored for the best EXTENDED spans; to the others they are as probable as to these on
    average. The cache language model of *head* corrects the spans, but not *right*, which it knows.
    """
    following = yield from head.read_next(state)
    scores: Float64Array = bias + log_of(following[[span[0] for span in spans]])
    states: dict[int, Float32Array] = {}  # of the best
    for start in range(0, len(spans), GIVEN_LINES):
        part = spans[start : start + GIVEN_LINES]
        found, after = yield from head.score_rest([state] * len(part), part, right[:1])
        scores[start : start + GIVEN_LINES] += found
        states |= dict(enumerate(after, start))
        best = sorted(states, key=lambda n: (-scores[n], n))[:EXTENDED]
        states = {n: states[n] for n in best}
    if len(right) > 1:
        after = list(states.values())
        found, _ = yield from head.score_rest(after, [()] * len(after), right)
        more = found.clip(min=LEAST)
        scores += more.mean()
        scores[list(states)] += more - more.mean()
    return scores


def add_span(found: dict[str, Proposal], word: str, span: Span) -> None:
    """Add a span to the words found; a word may be spelled in several ways."""
    before = found.get(word)
    if before is None:
        found[word] = Proposal(word, span.log_prob, span)
    else:
        log_prob = float(np.logaddexp(span.log_prob, before.log_prob))
        likelier = max(before.span, span, key=lambda each: each.log_prob)
        found[word] = Proposal(word, log_prob, likelier)


@lru_cache(WORDS_CACHED)
def is_word(text: str) -> bool:
    """Return True for text with a letter or digit, without broken characters or Chinese and marks.

    Some tokens are a Chinese word and a comma.
    """
    if any(map(is_han, text)) and not text.strip().isalnum():
        return False
    return any(map(str.isalnum, text)) and "\ufffd" not in text
