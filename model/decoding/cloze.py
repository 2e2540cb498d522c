"""Fill the blanks of a text: words that fit both sides, or the best of given choices.

For one blank, with every other blank read as its filling or as ``<blank>``:

1. *Propose* words by log P_gap(word | left, right) (span_search.py).
2. *Rescore* the best of them by the chain, over at most 3 tokens of right context:

       s = log P_gap + λ log P(word, right context | left)

   P is the next head's, mixed with counts, and corrected by the cache language model.
3. *Calibrate*: the rescored words keep their total probability M and share it by softmax(s / τ);
   the others keep theirs. A word that repeats a word nearby loses some nats, and the writer's own
   words are added (blank_words.py). The first 24 words sum to F, which becomes F^γ.

Given choices are compared without P_gap, and may be phrases: how probable they are anywhere says
less about them, so

    s = log P(choice, right context | left) - β log P(choice | start)

and of K choices, each has (1 - ε) softmax(s / τ) + ε / K.

Several blanks are filled together, from left to right, by a small beam. Then the words of each are
ranked with all others filled by the best filling. Nothing depends on how many candidates or
fillings are asked for.

A forward-only network has no gap head: its next head proposes, and s is the chain alone.
"""

from collections.abc import Sequence
from functools import cache, partial
from typing import NamedTuple

import numpy as np

from model.batching import Decoder, RunTower, gather
from model.checks import ReadChoices
from model.decoding.blank_words import NEAR, BlankWords
from model.decoding.blanks import Layout, last_line
from model.decoding.cache_lm import CacheLM
from model.decoding.context import DecoderContext, History, load_prefix
from model.decoding.origins import fillings_of
from model.decoding.span_search import (
    LEAST,
    Line,
    Proposal,
    Span,
    SpanHead,
    add_span,
    score_spans,
    search_words,
)
from model.queries import ClozeResult, Filling, Usage
from model.runtime import Float32Array, Float64Array
from model.tokenizer import BLANK, END, START

# Proposals that the search is sure of, of two towers and of a forward-only network; and those that
# are rescored.
SEARCHED, SEARCHED_BLIND, RESCORED = 14, 32, 24
# Spans of each length that are searched on, however improbable they are.
KEPT = 5
# Tokens of right context that rescoring scores.
RESCORING_CONTEXT = 3
# Joint fillings that are kept from blank to blank; one in texts with more than MANY blanks.
BEAM, MANY = 4, 8
# Tokens that the backward tower reads between a blank and the next.
MAX_RIGHT = 512


# Words with their probabilities, best first.
Ranked = list[tuple[Proposal, float]]


class _Joint(NamedTuple):
    """Fillings of the first blanks, None if nothing fits, and the state before the next blank."""

    fillings: tuple[Proposal | None, ...]
    log_prob: float
    state: Float32Array

    @property
    def words(self) -> tuple[str | None, ...]:
        """The words of the fillings."""
        return tuple(each and each.word for each in self.fillings)


def fill_blanks(context: DecoderContext, layout: Layout, history: History) -> Decoder[ClozeResult]:
    """Decode one query, which is checked already."""
    prefix, cached_tokens = yield from load_prefix(context, layout.before, history)
    cloze = _Cloze(context, layout, history, prefix.recent.tolist())
    state = prefix.tree.root.state
    joints = [_Joint((None,), 0.0, state)]
    if len(layout.slots) > 1:
        joints = yield from cloze.fill_jointly(state, layout.query.fillings)
    ranked = yield from cloze.rank_each(state, joints[0])
    fillings = [(each.words, float(np.exp(each.log_prob))) for each in joints]
    if len(layout.slots) == 1:
        fillings = [((each.word,), each.probability) for each in ranked[0]]
    return layout.result(ranked, Usage(cloze.tokens, cached_tokens), fillings)


class _Cloze:
    """One text with its blanks. Its parts are encoded apart: no token crosses the edge of a blank.

    The right side of a blank is the backward state after it, (S,), None if nothing is known of it.
    """

    def __init__(
        self, context: DecoderContext, layout: Layout, history: History, recent: list[int]
    ) -> None:
        encode = cache(context.index.encode)
        self._context = context
        self._slots = layout.slots
        self._words = BlankWords(context, layout, history)
        # Tokens before each blank, back to the blank before it, and after the last one.
        self._parts = [encode(layout.before), *(encode(slot.after) for slot in layout.slots)]
        self._lines = [encode(slot.line) for slot in layout.slots]
        self.tokens = sum(map(len, self._parts))  # of the text
        # Words that are shown; None, all may be, as two may be written alike.
        is_plain = layout.choices is None and layout.reading.sent == layout.reading.text
        self._shown = max(layout.query.top_k, layout.query.fillings) if is_plain else None
        self._choices = layout.choices
        # The spans that spell the choices of the last list, so that all blanks share them.
        self._last_choices: ReadChoices | None = None
        self._spelled: dict[str, Line] = {}
        self._priors: dict[Line, float] = {}
        # A word seldom returns at once, so the tokens next to a blank do not count.
        counted = recent[: len(recent) - min(NEAR, len(self._parts[0]))]
        for number, tokens in enumerate(self._parts[1:], 1):
            last = number == len(self._slots)
            counted += [START, *tokens[NEAR : len(tokens) if last else -NEAR]]
        counted = counted if context.use_cache_lm else []
        self._cache_lm = CacheLM(np.array(counted, dtype=np.int64), context.tokenizer.background)
        self._two_towers, self._output = context.two_towers, context.output["forward"]

    # ------------------------------------------------------------------------------ several blanks

    def fill_jointly(self, state: Float32Array, count: int) -> Decoder[list[_Joint]]:
        """Return the *count* best fillings of all blanks that a search finds, best first.

        It goes from left to right, with blanks further right read as ``<blank>``.
        """
        rights = yield from self._run_rights([None] * len(self._slots))
        width = BEAM if len(self._slots) <= MANY else 1
        beam = [_Joint((), 0.0, state)]
        for number, right in enumerate(rights):
            yield from self._read_choices(number)
            found = yield from gather(
                [
                    self._rank(number, joint.state, self._head(number, right), joint.words, BEAM)
                    for joint in beam
                ]
            )
            longer: list[tuple[float, _Joint, Proposal | None]] = [
                (joint.log_prob + float(np.log(max(prob, 1e-300))), joint, proposal)
                for joint, ranked in zip(beam, found, strict=True)
                for proposal, prob in ranked[:BEAM]
            ]
            # If nothing fits, the blank stays a blank to those that follow.
            chosen = longer or [(joint.log_prob, joint, None) for joint in beam]
            last = number + 1 == len(rights)
            chosen = sorted(chosen, key=lambda each: -each[0])[: count if last else width]
            states: Sequence[Float32Array] = [state] * len(chosen)  # the last ones are not needed
            if not last:
                steps = [self._run_after(number, joint.state, word) for _, joint, word in chosen]
                states = yield steps
            beam = [
                _Joint((*joint.fillings, word), log_prob, after)
                for (log_prob, joint, word), after in zip(chosen, states, strict=True)
            ]
        return beam

    def rank_each(self, state: Float32Array, joint: _Joint) -> Decoder[list[list[Filling]]]:
        """Rank the words of each blank with all others filled as in *joint*."""
        rights = yield from self._run_rights(joint.fillings)
        wanted = SEARCHED if self._two_towers else SEARCHED_BLIND
        answers: list[list[Filling]] = []
        for number, (right, filling) in enumerate(zip(rights, joint.fillings, strict=True)):
            yield from self._read_choices(number)
            others = [*joint.words[:number], *joint.words[number + 1 :]]
            head = self._head(number, right)
            ranked = yield from self._rank(number, state, head, others, wanted, RESCORED)
            shown = ranked[: self._shown]
            answers.append(fillings_of(self._context, state[self._output], head, shown))
            if number + 1 < len(rights):
                (state,) = yield [self._run_after(number, state, filling)]
        return answers

    def _run_after(self, number: int, state: Float32Array, word: Proposal | None) -> RunTower:
        """Run on to the next blank, after *word*, or after ``<blank>`` if nothing fits."""
        after = self._parts[number + 1]
        filling = (BLANK,) if word is None else word.span.tokens
        return RunTower("forward", state, (*filling, *after))

    def _run_rights(
        self, fillings: Sequence[Proposal | None]
    ) -> Decoder[list[Float32Array | None]]:
        """Run the backward tower to each blank on its line, last blank first."""
        rights: list[Float32Array | None] = []
        for number, slot in reversed(list(enumerate(self._slots))):
            state = None
            if self._two_towers and slot.known and self._choices is None:
                state, start = self._context.initial["backward"], [END]
                if not slot.line_ends:  # continue from the right side of the next blank
                    filling, further = fillings[number + 1], rights[-1]
                    if further is not None:
                        state, start = further, []
                    start += [BLANK] if filling is None else reversed(filling.span.tokens)
                tokens = reversed(self._lines[number][:MAX_RIGHT])
                (state,) = yield [RunTower("backward", state, (*start, *tokens))]
            rights.append(state)
        return rights[::-1]

    # ----------------------------------------------------------------------------------- one blank

    def _rank(
        self,
        number: int,
        state: Float32Array,
        head: SpanHead,
        others: Sequence[str | None],
        wanted: int,
        covering: int = 0,
    ) -> Decoder[Ranked]:
        """Return words for a blank after *state*, with probabilities, best first.

        The search ends when *wanted* are found. *others* fill the other blanks. The total
        probability F of the first *covering* words becomes F^γ.
        """
        if self._choices is not None:
            words = self._choices[number]
            return (yield from self._rank_choices(number, words, head, state, others))
        slot, calibration = self._slots[number], self._context.calibration
        # One side alone says too little to drop improbable words.
        kept = KEPT if self._two_towers else 2 * wanted
        takes = partial(self._words.take, slot)
        found = yield from search_words(self._context, head, state, takes, wanted, kept)
        log_probs = np.array([each.log_prob for each in found])
        if found:
            scores = yield from self._rescore(number, found[: covering or wanted], head, state)
            scores /= calibration.cloze_temperature[slot.language]
            scores -= self._repetitions(number, found[: len(scores)], others)
            _share(log_probs, scores)
        if covering:
            _raise_coverage(log_probs, covering, calibration.cloze_coverage_exponent[slot.language])
        ranked = _ranked(found, log_probs)
        return (yield from self._words.add_own(ranked, slot, head, state[self._output]))

    def _rescore(
        self, number: int, found: list[Proposal], head: SpanHead, state: Float32Array
    ) -> Decoder[Float64Array]:
        """Return the scores s of the first proposals."""
        weight = self._context.calibration.chain_weight[self._slots[number].language]
        scores = np.array([each.log_prob for each in found])
        if not self._two_towers:
            scores, weight = np.zeros(len(found)), 1.0
        elif weight == 0:
            return scores
        else:
            scores /= weight
        spans = [each.span.tokens for each in found]
        right = self._right(number)
        return weight * (yield from score_spans(head, state, spans, right, scores))

    def _rank_choices(
        self,
        number: int,
        words: ReadChoices,
        head: SpanHead,
        state: Float32Array,
        others: Sequence[str | None],
    ) -> Decoder[Ranked]:
        """Return all choices of a blank with their probabilities, best first."""
        context, slot = self._context, self._slots[number]
        spelled = [(word, self._spell(text)) for word in words for text in slot.spellings(word)]
        spans = [span for _, span in spelled]
        weight = context.calibration.choice_prior_weight[slot.language]
        bias = -weight * np.array([self._priors[span] for span in spans])
        scores = yield from score_spans(head, state, spans, self._right(number), bias)
        by_word: dict[str, Proposal] = {}
        for (word, span), score in zip(spelled, scores.tolist(), strict=True):
            add_span(by_word, word, Span(span, score))
        found = sorted(by_word.values(), key=lambda each: (-each.log_prob, each.word))
        log_probs = np.array([each.log_prob for each in found])
        log_probs = _log_softmax(log_probs / context.calibration.choice_temperature[slot.language])
        if any(others):
            log_probs = _log_softmax(log_probs - self._words.repetitions(found, "", "", others))
        if mix := context.calibration.choice_uniform_mix[slot.language]:
            log_probs = np.logaddexp(log_probs + np.log1p(-mix), np.log(mix / len(log_probs)))
        return _ranked(found, log_probs)

    def _right(self, number: int) -> Line:
        return tuple(self._lines[number][:RESCORING_CONTEXT]) if self._slots[number].known else ()

    def _repetitions(
        self, number: int, found: Sequence[Proposal], others: Sequence[str | None]
    ) -> Float64Array:
        """Return the nats that each word loses as it repeats one near it or in another blank."""
        decode = self._context.tokenizer.decode
        before, after = last_line(self._parts[number])[-NEAR:], self._lines[number][:NEAR]
        return self._words.repetitions(found, decode(before), decode(after), others)

    def _head(self, number: int, right: Float32Array | None) -> SpanHead:
        before, following = self._parts[number], self._right(number)
        return SpanHead(self._context, right, self._cache_lm, before, following)

    def _read_choices(self, number: int) -> Decoder[None]:
        """Spell the choices of a blank, and compute log P(choice | start)."""
        if self._choices is None:
            return
        context, words, slot = self._context, self._choices[number], self._slots[number]
        if words is not self._last_choices:
            self._last_choices, self._spelled, self._priors = words, {}, {}
        spans = {self._spell(text): None for word in words for text in slot.spellings(word)}
        if new := [span for span in spans if span not in self._priors]:
            (state,) = yield [RunTower("forward", context.initial["forward"], (START,))]
            nothing = CacheLM(np.zeros(0, dtype=np.int64), context.tokenizer.background)
            head = SpanHead(context, None, nothing, ())
            log_probs = yield from score_spans(head, state, new, (), np.zeros(len(new)))
            self._priors.update(zip(new, log_probs.clip(min=LEAST).tolist(), strict=True))

    def _spell(self, text: str) -> Line:
        if text not in self._spelled:
            self._spelled[text] = tuple(self._context.index.encode_whole(text))
        return self._spelled[text]


def _ranked(found: Sequence[Proposal], log_probs: Float64Array) -> Ranked:
    """Return proposals with their probabilities, best first."""
    probs = np.minimum(np.exp(log_probs), 1.0)  # a lone choice may exceed 1 by 7e-16
    ranked = zip(found, probs.tolist(), strict=True)
    return sorted(ranked, key=lambda each: (-each[1], each[0].word))


def _share(log_probs: Float64Array, scores: Float64Array) -> None:
    """Let the first of the *log_probs* share their total by softmax(*scores*)."""
    first = log_probs[: len(scores)]
    first[:] = np.logaddexp.reduce(first) + _log_softmax(scores)


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
