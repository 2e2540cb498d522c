"""Fill the blanks of a text: words that fit both sides, or the best of given choices.

For one blank, with every other blank read as its filling or as ``<blank>``:

1. *Propose* spans, or all choices, by log P_gap(span | left, right) (span_search.py).
2. *Rescore* the best of them with at most 3 tokens of context on either side:

       s = log P_gap + λ1 log P_F(span, right context | left)
                     + λ2 log P_B(left context, span | right)

3. *Calibrate*: the rescored words keep their total probability M and share it by softmax(s / τ);
   the others keep theirs. The first 16 words sum to F, which becomes F^γ. Of K choices, all are
   divided by τ, and P = (1 - ε) softmax + ε / K.

Several blanks are filled from left to right by a small joint beam. Then a sweep ranks the words of
each blank with all others filled.

A forward-only network has no gap head: its next head proposes, and
s = log P_F(span, right context | left).
"""

from collections.abc import Sequence
from itertools import pairwise, starmap
from typing import Literal, NamedTuple

import numpy as np

from model.batching import Decoder, RunTower, Score, gather
from model.config import SPAN, WORD, Tower
from model.decoding.blanks import Layout, last_line
from model.decoding.cache_lm import CacheLM
from model.decoding.context import DecoderContext, History, load_prefix
from model.decoding.span_search import (
    Line,
    Proposal,
    Span,
    SpanHead,
    score_choices,
    score_lines,
    search_words,
)
from model.queries import ClozeResult, ReadChoices, Usage
from model.runtime import Float32Array, Float64Array
from model.tokenizer import BLANK, END, START

# Proposals that are rescored: of two towers, of a forward-only network, and choices.
RESCORED, RESCORED_BLIND, RESCORED_CHOICES = 16, 32, 32
# Nats below the first proposal at which a proposal is not rescored.
RESCORING_MARGIN = 5.0
# Tokens of context on either side that rescoring scores.
RESCORING_CONTEXT = 3
# Joint fillings that are kept from blank to blank; one in texts with more than MANY blanks.
BEAM, MANY = 4, 8
# Tokens that the backward tower reads between a blank and the next.
MAX_RIGHT = 512


class _Joint(NamedTuple):
    """Fillings of the first blanks, None if nothing fits, and the state before the next blank."""

    fillings: tuple[Span | None, ...]
    log_prob: float
    state: Float32Array


def fill_blanks(context: DecoderContext, layout: Layout, history: History) -> Decoder[ClozeResult]:
    """Decode one query, which is checked already."""
    prefix, cached_tokens = yield from load_prefix(context, layout.before, history)
    cloze = _Cloze(context, layout, prefix.recent.tolist())
    state = prefix.tree.root.state
    fillings: Sequence[Span | None] = [None]
    if len(layout.slots) > 1:
        fillings = yield from cloze.fill_jointly(state)
    ranked = yield from cloze.sweep(state, fillings)
    return layout.result(ranked, Usage(cloze.tokens, cached_tokens))


class _Cloze:
    """One text with its blanks. Its parts are encoded apart: no token crosses the edge of a blank.

    The right side of a blank is the backward state after it, (S,), None if nothing is known of it.
    """

    def __init__(self, context: DecoderContext, layout: Layout, recent: list[int]) -> None:
        encode = context.index.encode
        self._context = context
        self._slots = layout.slots
        self._top_k = layout.query.top_k
        # Tokens before each blank, back to the blank before it, and after the last one.
        self._parts = [encode(layout.before), *(encode(slot.after) for slot in layout.slots)]
        self._lines = [encode(slot.line) for slot in layout.slots]
        self.tokens = sum(map(len, self._parts))  # of the text
        self._choices = layout.choices
        # The spans that spell the choices of the last list, so that all blanks share them.
        self._last_choices: ReadChoices | None = None
        self._spelled: dict[str, Line] = {}
        # The text right of a blank does not follow the text left of it.
        apart = [token for tokens in self._parts[1:] for token in (START, *tokens)]
        counted = [*recent, *apart] if context.use_cache_lm else []
        self._cache_lm = CacheLM(np.array(counted, dtype=np.int64), context.tokenizer.background)
        self._two_towers = context.two_towers

    # ------------------------------------------------------------------------------ several blanks

    def fill_jointly(self, state: Float32Array) -> Decoder[tuple[Span | None, ...]]:
        """Fill all blanks from left to right, with those further right read as ``<blank>``."""
        rights = yield from self._run_rights([None] * len(self._slots))
        width = BEAM if len(self._slots) <= MANY else 1
        beam = [_Joint((), 0.0, state)]
        for number, right in enumerate(rights):
            found = yield from gather(
                [self._rank(number, joint.state, right, BEAM, BEAM) for joint in beam]
            )
            longer: list[tuple[float, _Joint, Span | None]] = [
                (joint.log_prob + float(np.log(max(prob, 1e-300))), joint, proposal.span)
                for joint, ranked in zip(beam, found, strict=True)
                for proposal, prob in ranked
            ]
            # If nothing fits, the blank stays a blank to those that follow.
            chosen = longer or [(joint.log_prob, joint, None) for joint in beam]
            chosen = sorted(chosen, key=lambda each: -each[0])[:width]
            states = yield [self._run_after(number, joint.state, span) for _, joint, span in chosen]
            beam = [
                _Joint((*joint.fillings, span), log_prob, after)
                for (log_prob, joint, span), after in zip(chosen, states, strict=True)
            ]
        return beam[0].fillings

    def sweep(
        self, state: Float32Array, fillings: Sequence[Span | None]
    ) -> Decoder[list[list[tuple[str, float]]]]:
        """Rank the words of each blank with all others filled; its best word stays."""
        rights = yield from self._run_rights(fillings)
        rescored = RESCORED if self._two_towers else RESCORED_BLIND
        wanted = max(self._top_k, rescored)
        answers: list[list[tuple[str, float]]] = []
        for number, right in enumerate(rights):
            ranked = yield from self._rank(number, state, right, wanted, self._top_k, rescored)
            answers.append([(proposal.word, prob) for proposal, prob in ranked])
            if number + 1 < len(rights):
                step = self._run_after(number, state, ranked[0][0].span if ranked else None)
                (state,) = yield [step]
        return answers

    def _run_after(self, number: int, state: Float32Array, span: Span | None) -> RunTower:
        """Run on to the next blank, after *span*, or after ``<blank>`` if nothing fits."""
        after = self._parts[number + 1]
        filling = (BLANK,) if span is None else span.tokens
        return RunTower("forward", state, (*filling, *after))

    def _run_rights(self, fillings: Sequence[Span | None]) -> Decoder[list[Float32Array | None]]:
        """Run the backward tower to each blank on its line, last blank first."""
        rights: list[Float32Array | None] = []
        for number, slot in reversed(list(enumerate(self._slots))):
            state = None
            if self._two_towers and slot.known:
                state, start = self._context.initial["backward"], [END]
                if not slot.line_ends:  # continue from the right side of the next blank
                    filling, further = fillings[number + 1], rights[-1]
                    if further is not None:
                        state, start = further, []
                    start += [BLANK] if filling is None else reversed(filling.tokens)
                tokens = reversed(self._lines[number][:MAX_RIGHT])
                (state,) = yield [RunTower("backward", state, (*start, *tokens))]
            rights.append(state)
        return rights[::-1]

    # ----------------------------------------------------------------------------------- one blank

    def _rank(
        self,
        number: int,
        state: Float32Array,
        right: Float32Array | None,
        wanted: int,
        shown: int,
        covering: int = 0,
    ) -> Decoder[list[tuple[Proposal, float]]]:
        """Return *wanted* words for a blank after *state*, with probabilities, best first.

        Improbable words are dropped, but for the first *shown*. The total probability F of the
        first *covering* words becomes F^γ.
        """
        slot, calibration = self._slots[number], self._context.calibration
        if self._choices is not None:
            found = yield from self._score_choices(self._choices[number], number, state, right)
        else:
            # One side alone says too little to drop improbable words.
            shown = shown if self._two_towers else wanted
            head = self._head(number, right, WORD)
            found = yield from search_words(self._context, head, state, slot.takes, wanted, shown)
        if not found:
            return []
        found.sort(key=lambda each: (-each.log_prob, each.word))
        log_probs = np.array([each.log_prob for each in found])
        scores = yield from self._rescore(number, found, state, right)
        temperature = calibration.cloze_temperature[slot.language]
        if self._choices is not None:
            temperature = calibration.choice_temperature[slot.language]
            log_probs = _log_softmax(log_probs / temperature)
        count = len(scores)
        total = np.logaddexp.reduce(log_probs[:count])
        log_probs[:count] = total + _log_softmax(scores / temperature)
        if self._choices is not None and (mix := calibration.choice_uniform_mix[slot.language]):
            log_probs = np.logaddexp(log_probs + np.log1p(-mix), np.log(mix / len(log_probs)))
        elif self._choices is None and covering:
            _raise_coverage(log_probs, covering, calibration.cloze_coverage_exponent[slot.language])
        probs = np.minimum(np.exp(log_probs), 1.0)  # a lone choice may exceed 1 by 7e-16
        ranked = zip(found, probs.tolist(), strict=True)
        return sorted(ranked, key=lambda each: (-each[1], each[0].word))

    def _head(self, number: int, right: Float32Array | None, kind: int) -> SpanHead:
        return SpanHead(self._context, right, kind, self._cache_lm, self._parts[number])

    def _score_choices(
        self, words: ReadChoices, number: int, state: Float32Array, right: Float32Array | None
    ) -> Decoder[list[Proposal]]:
        """Score each choice as the kind of gap that it is: a word, or a span of several words."""
        context, slot = self._context, self._slots[number]
        if words is not self._last_choices:
            self._last_choices, self._spelled = words, {}
        groups: dict[int, list[tuple[str, list[tuple[int, ...]]]]] = {}
        for word in words:
            spelled = [self._spell(text) for text in slot.spellings(word)]
            pairs = [pair for tokens in spelled for pair in pairwise(tokens)]
            kind = WORD if all(starmap(context.tokenizer.joins, pairs)) else SPAN
            groups.setdefault(kind, []).append((word, spelled))
        found = yield from gather(
            [
                score_choices(context, self._head(number, right, kind), state, choices)
                for kind, choices in groups.items()
            ]
        )
        return [proposal for group in found for proposal in group]

    def _spell(self, text: str) -> Line:
        if text not in self._spelled:
            self._spelled[text] = tuple(self._context.index.encode_whole(text))
        return self._spelled[text]

    def _rescore(
        self,
        number: int,
        found: list[Proposal],
        state: Float32Array,
        right: Float32Array | None,
    ) -> Decoder[Float64Array]:
        """Return the scores s of the first proposals; log P_gap of all if nothing rescores them."""
        scores = np.array([each.log_prob for each in found])
        if not self._two_towers:
            if not self._right_context(number):
                return scores
            spans = [each.span for each in found[:RESCORED_BLIND]]
            scores = yield from self._forward_log_probs(number, spans, state)
            scores += [self._cache_lm.log_marginal(span.tokens) for span in spans]
            return scores
        calibration = self._context.calibration
        forward_weight = calibration.forward_weight
        backward_weight = 0.0 if right is None else calibration.backward_weight
        if forward_weight == 0 and backward_weight == 0:
            return scores
        if self._choices is None:
            found = found[: min(RESCORED, int((scores > scores[0] - RESCORING_MARGIN).sum()))]
        spans = [each.span for each in found[:RESCORED_CHOICES]]
        scores = scores[: len(spans)]
        if forward_weight != 0:
            scores += forward_weight * (yield from self._forward_log_probs(number, spans, state))
        if backward_weight != 0 and right is not None:
            log_probs = yield from self._backward_log_probs(number, spans, right)
            scores += backward_weight * log_probs
        return scores

    def _right_context(self, number: int) -> tuple[int, ...]:
        return tuple(self._lines[number][:RESCORING_CONTEXT]) if self._slots[number].known else ()

    def _forward_log_probs(
        self, number: int, spans: Sequence[Span], state: Float32Array
    ) -> Decoder[Float64Array]:
        """Return log P_F(span, right context | left) of each span, (len(spans),)."""
        context = self._right_context(number)
        lines = [(*span.tokens, *context) for span in spans]
        return (yield from self._log_probs("forward", "next", state, lines))

    def _backward_log_probs(
        self, number: int, spans: Sequence[Span], right: Float32Array
    ) -> Decoder[Float64Array]:
        """Return log P_B(left context, span | right) of each span, (len(spans),)."""
        context = last_line(self._parts[number])[-RESCORING_CONTEXT:]
        lines = [(*reversed(span.tokens), *reversed(context)) for span in spans]
        return (yield from self._log_probs("backward", "previous", right, lines))

    def _log_probs(
        self,
        tower: Tower,
        head: Literal["next", "previous"],
        state: Float32Array,
        lines: Sequence[Line],
    ) -> Decoder[Float64Array]:
        """Return log P of each line after *state*, (len(lines),)."""

        def step(output: Float32Array, _line: Line, _place: int, following: list[int]) -> Score:
            return Score(head, output, lambda row: (0.0, row[following].tolist()))

        log_probs = yield from score_lines(self._context, tower, state, lines, step)
        return np.array([log_probs[line] for line in lines])


def _raise_coverage(log_probs: Float64Array, count: int, exponent: float) -> None:
    """Raise the total F of the first *count* words to F^exponent; the others share the rest."""
    total = min(1.0, float(np.exp(log_probs[:count]).sum()))
    if 0.0 < total < 1.0:
        raised = total**exponent
        log_probs[:count] += np.log(raised / total)
        log_probs[count:] += np.log((1.0 - raised) / (1.0 - total))


def _log_softmax(scores: Float64Array) -> Float64Array:
    total = np.logaddexp.reduce(scores)
    if total == -np.inf:  # nothing is possible, so nothing is preferred
        return np.full(len(scores), -np.log(len(scores)))
    normalised: Float64Array = scores - total
    return normalised
