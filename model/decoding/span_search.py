"""Spans for one blank: a search for words, and the probabilities of given choices. No ranking.

A span of n tokens has the probability

    P(span | left, right) = Π P(token k | left, tokens before k, right) · P(end | left, span, right)

With two towers the gap head gives all factors, and ``<eog>`` is the end. A forward-only network has
only its next head, which does not see the right side; there a span ends where its word ends.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple

import numpy as np

from model.batching import Decoder, RunTower, Score
from model.config import GAP_POSITIONS, WORD, Tower
from model.decoding.cache_lm import CONTEXT, CacheLM
from model.decoding.context import DecoderContext, largest
from model.runtime import Float32Array, log_of
from model.tokenizer import END_OF_GAP

# Tokens of the longest span that is searched.
MAX_SPAN = 6
# Spans that go on after their first token, for each of the first FEW words wanted.
FIRST_WIDTH, FEW = 3, 8
# Nats below the best span at which a span is dropped, unless few are left. Two more than for
# rescoring in cloze.py: the best span has yet to end, which costs something.
BEAM_MARGIN = 7.0
# Given lines that are scored at the same time, and tokens of them that are run in one round: a
# decoder keeps no more states and outputs, whatever it is asked.
GIVEN_LINES, GIVEN_TOKENS = 32, 64


# Tokens that are scored after a state.
Line = tuple[int, ...]
# Requests log P of a line's end, and of each of some next tokens, after its first tokens: from the
# output there (H,), the line, the number of its first tokens, and the next tokens.
LineStep = Callable[[Float32Array, Line, int, list[int]], Score]


class Span(NamedTuple):
    """Tokens in a blank."""

    tokens: tuple[int, ...]
    log_prob: float  # of the tokens so far, or of the span and its end


class Proposal(NamedTuple):
    """A word for a blank."""

    word: str  # without the spaces around it
    log_prob: float  # log P(word | left, right), summed over the spans that spell it
    span: Span  # the most probable of these


class SpanHead:
    """The factors of a span's probability, after the tokens *before*.

    *right* is the backward state after the right side, (S,); None if unknown or not used. Without a
    gap head, a span is a word and does not go on after its end.
    """

    def __init__(
        self,
        context: DecoderContext,
        right: Float32Array | None,
        cache_lm: CacheLM,
        before: Sequence[int],
    ) -> None:
        self._context = context
        self._right = None if right is None else right[context.output["backward"]]
        self._cache_lm = cache_lm
        self._before = tuple(before[-CONTEXT:])

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

    def split(self, tokens: tuple[int, ...], scores: Float32Array) -> tuple[float, Float32Array]:
        """Return log P of the end after *tokens* and of each next token, (V,), from scores (V,).

        *tokens* may be the last ``CONTEXT`` of the span.
        """
        scores = scores if self._context.two_towers else log_of(scores)
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
        continues = tokenizer.continues_word & letters
        return end, np.where(continues, log_probs, np.float32(-np.inf))


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
    for position in range(MAX_SPAN + 1):
        rows = yield [head.step(state[output], position) for state in states]
        log_probs = np.empty((len(beam), context.tokenizer.size), dtype=np.float32)
        for n, (span, row) in enumerate(zip(beam, rows, strict=True)):
            end, following = head.split(span.tokens, row)
            if end > -np.inf:
                ended = span._replace(log_prob=span.log_prob + end)
                text = context.tokenizer.decode(span.tokens)
                if is_word(text) and takes(text, span.tokens):
                    add_span(found, text.strip(), ended)
            log_probs[n] = following + np.float32(span.log_prob)
        if position == MAX_SPAN:
            break
        width = max(wanted, kept, FIRST_WIDTH * min(wanted, FEW)) if position == 0 else wanted
        picks = _continuations(log_probs, found, wanted, width, kept)
        if not picks:
            break
        # Rows are 64 kB each at 16,000 tokens, dozens in each decoder: keep none while it waits.
        del rows, row, following, log_probs
        states = yield [RunTower("forward", states[n], (token,)) for n, token, _ in picks]
        beam = [Span((*beam[n].tokens, token), log_prob) for n, token, log_prob in picks]
    return sorted(found.values(), key=lambda each: (-each.log_prob, each.word))


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
    context: DecoderContext,
    head: SpanHead,
    state: Float32Array,
    choices: Sequence[tuple[str, Sequence[Line]]],
) -> Decoder[list[Proposal]]:
    """Score given words exactly after *state* (S,); each comes with the spans that spell it."""

    def step(output: Float32Array, line: Line, place: int, following: list[int]) -> Score:
        recent = line[max(0, place - CONTEXT) : place]

        def split(row: Float32Array) -> tuple[float, list[float]]:
            end, log_probs = head.split(recent, row)
            return end, log_probs[following].tolist()

        return head.step(output, place, split)

    spans = [tokens for _, spelled in choices for tokens in spelled]
    log_probs = yield from score_lines(context, "forward", state, spans, step, ends=True)
    return sum_spans(choices, log_probs)


def sum_spans(
    choices: Sequence[tuple[str, Sequence[Line]]], log_probs: Mapping[Line, float]
) -> list[Proposal]:
    """Return given words, of which each comes with the spans that spell it."""
    found: dict[str, Proposal] = {}
    for word, spelled in choices:
        for tokens in spelled:
            add_span(found, word, Span(tokens, log_probs[tokens]))
    return list(found.values())


def score_lines(
    context: DecoderContext,
    tower: Tower,
    state: Float32Array,
    lines: Sequence[Line],
    step: LineStep,
    ends: bool = False,
) -> Decoder[dict[Line, float]]:
    """Return log P of each line after *state* (S,), with *ends* that of its end included.

    Lines with a common beginning share its states and scores.
    """
    found: dict[Line, float] = {}
    ordered = sorted(set(lines))
    for start in range(0, len(ordered), GIVEN_LINES):
        branches = [_Branch(state, 0.0, 0, ordered[start : start + GIVEN_LINES])]
        while branches:
            branches = yield from _grow(branches, context.output[tower], tower, step, ends, found)
    return found


class _Branch(NamedTuple):
    """Lines with a common beginning of *place* tokens."""

    state: Float32Array  # after the beginning, (S,)
    log_prob: float  # of the beginning
    place: int
    lines: list[Line]


class _Run(NamedTuple):
    """Tokens from *start* to *stop* that lines of one branch share."""

    state: Float32Array  # before the tokens, (S,)
    start: int
    stop: int
    lines: list[Line]
    is_end: bool  # of a line whose end is not wanted, so neither is the state after it


def _grow(
    branches: list[_Branch],
    output: slice,
    tower: Tower,
    step: LineStep,
    ends: bool,
    found: dict[Line, float],
) -> Decoder[list[_Branch]]:
    """Run on from the end of each branch to where its lines differ or end."""
    parts = [_by_token(branch) for branch in branches]
    most = max(1, GIVEN_TOKENS // max(1, sum(map(len, parts))))
    runs: list[_Run] = []
    for branch, by_token in zip(branches, parts, strict=True):
        for lines in by_token.values():
            first, last, stop = lines[0], lines[-1], branch.place + 1
            limit = min(len(first), branch.place + most)
            while stop < limit and first[stop] == last[stop]:
                stop += 1
            is_end = not ends and len(lines) == 1 and stop == len(first)
            runs.append(_Run(branch.state, branch.place, stop, lines, is_end))
    traces = yield [
        RunTower(tower, run.state, run.lines[0][run.start : run.stop - run.is_end], True)
        for run in runs
    ]
    steps = [
        step(branch.state[output], branch.lines[0], branch.place, list(by_token))
        for branch, by_token in zip(branches, parts, strict=True)
    ]
    for run, (outputs, _) in zip(runs, traces, strict=True):
        line = run.lines[0]
        for place, before in zip(range(run.start + 1, run.stop), outputs, strict=False):
            steps.append(step(before, line, place, [line[place]]))
    rows = iter((yield steps))
    log_probs: list[float] = []  # of each run, its first token included
    for branch in branches:
        end, following = next(rows)
        log_probs += [branch.log_prob + log_prob for log_prob in following]
        if len(branch.lines[0]) == branch.place:  # in order, so it is the first
            found[branch.lines[0]] = branch.log_prob + (end if ends else 0.0)
    longer: list[_Branch] = []
    for run, (_, state), log_prob in zip(runs, traces, log_probs, strict=True):
        for _, (following,) in islice(rows, run.stop - run.start - 1):
            log_prob += following
        if run.is_end:
            found[run.lines[0]] = log_prob
        else:
            longer.append(_Branch(state, log_prob, run.stop, run.lines))
    return longer


def _by_token(branch: _Branch) -> dict[int, list[Line]]:
    """Return the lines that go on after their common beginning, by their next token."""
    by_token: dict[int, list[Line]] = {}
    for line in branch.lines:
        if len(line) > branch.place:
            by_token.setdefault(line[branch.place], []).append(line)
    return by_token


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
