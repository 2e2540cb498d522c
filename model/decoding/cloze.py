"""What stands in the blanks of a text: words that fit both sides, or the best of given choices.

For one blank, all others being read as fillings or as ``<blank>``:

1. *Propose* (:mod:`model.decoding.span_search`): spans and their mass by the gap head, P(span | left, right) =
   Π P(token k | left, span so far, right) · P(<eog>); the exact mass of every choice where there are choices.
2. *Rescore* the best few: s = log P_gap + λ1 log P_F(span, right context | left) + λ2 log P_B(left context, span |
   right), the contexts at most 3 tokens long.
3. P(word) = M · softmax(s / τ) over those that were rescored, M being their gap mass; the others keep theirs. The first
   16 sum to F then, which is brought to F^γ. With choices everything is normalised over the choices, and τ is one of
   their own, which divides their masses too.

Several blanks: left to right with a small joint beam, then one sweep in which every blank sees the fillings of all the
others; a blank's candidates are those of the sweep, given the other fillings.

A forward-only network has no gap head. Its next head proposes, and s = log P_F(span, right context | left): the
posterior over what was proposed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from model.config import SPAN, WORD
from model.decoding.blanks import Layout, find_blanks
from model.decoding.cache_lm import CacheLM
from model.decoding.context import CONTEXT as CONTEXT_REMEMBERED
from model.decoding.context import DecoderContext, read_text, salted
from model.decoding.prefix_cache import Written
from model.decoding.span_search import (
    GapHead,
    Head,
    NextHead,
    Proposal,
    Span,
    score_choices,
    search_words,
)
from model.queries import (
    Blank,
    ClozeQuery,
    ClozeResult,
    Filling,
    Usage,
    check_choice_lists,
    choice_lists,
)
from model.runtime import Float32Array
from model.steps import Advance, Decoder, Next, Previous, Trace, ask, together
from model.text import language_at_end, normalise
from model.tokenizer import BLANK, END, START

# Candidates that are rescored: proposals, those made without seeing the right side, and choices.
RESCORED, RESCORED_BLIND, RESCORED_CHOICES = 16, 32, 32
# Nats behind the first proposal at which one is past saving.
FAR_BEHIND = 5.0
# Tokens of context that rescoring reads on either side.
CONTEXT = 3
# Joint fillings that are kept from blank to blank; only one in texts with more blanks than MANY.
JOINT, MANY = 4, 8
# The backward tower reads this much between a blank and the next: what is further away is forgotten anyhow.
RIGHT_TOKENS = 512


@dataclass(frozen=True, slots=True, eq=False)
class _Ranked:
    """A proposal with the probability that is answered."""

    word: str
    span: Span
    probability: float


@dataclass(frozen=True, slots=True, eq=False)
class _Right:
    """What stands right of a blank: the backward state after it, None where it is unknown, and its first tokens."""

    state: Float32Array | None
    tokens: tuple[int, ...]


@dataclass(frozen=True, slots=True, eq=False)
class _Joint:
    """Fillings of the first blanks, None where nothing fits; log P of them all; the state before the next blank."""

    fillings: tuple[Span | None, ...]
    score: float
    state: Float32Array


def lay_out(query: ClozeQuery, blanks: int) -> Layout:
    """Find the blanks of a query and see that its choices fit them.

    Args:
        query: checked (:func:`model.queries.check_query`).
        blanks: how many are allowed.

    Raises:
        QueryError: no blank, too many, or not one list of choices for each.
    """
    layout = find_blanks(query.text, query.blank, blanks)
    if query.choices is not None:
        check_choice_lists(query.choices, len(layout.slots))
    return layout


def fill_blanks(
    resources: DecoderContext, query: ClozeQuery, layout: Layout, tenant: str = ""
) -> Decoder[ClozeResult]:
    """Decode one query; see the module's description.

    Args:
        resources: of the checkpoint.
        query: checked (:func:`model.queries.check_query`).
        layout: its blanks (:func:`lay_out`).
        tenant: whose texts it may find in the cache.
    """
    sent = None if query.choices is None else choice_lists(query.choices, len(layout.slots))
    choices = None if sent is None else [list(group) for group in sent]
    history = normalise(query.history)
    prefix, known = yield from read_text(resources, layout.before, salted(tenant, history), history)
    cloze = _Cloze(resources, layout, choices, query.top_k, prefix.written)
    state = prefix.reading.state
    fillings: tuple[Span | None, ...] = (None,) * len(layout.slots)
    if len(layout.slots) > 1:
        fillings = yield from cloze.fill_jointly(state)
    candidates = yield from cloze.sweep(state, fillings)
    blanks, filled, position = [], [], 0
    for number, (slot, ranked) in enumerate(zip(layout.slots, candidates, strict=True)):
        if sent is None:
            shown = [Filling(each.word, each.probability) for each in ranked[: query.top_k]]
        else:
            shown = [Filling(sent[number][each.word], each.probability) for each in ranked]
        blanks.append(Blank(slot.start, slot.end, tuple(shown)))
        filled += [
            query.text[position : slot.start],
            ranked[0].word if ranked else query.text[slot.start : slot.end],
        ]
        position = slot.end
    return ClozeResult(
        "".join([*filled, query.text[position:]]), tuple(blanks), Usage(cloze.tokens_read, known)
    )


class _Cloze:
    """One text with its blanks, encoded part by part: no token reaches over the edge of a blank."""

    def __init__(
        self,
        resources: DecoderContext,
        layout: Layout,
        choices: list[list[str]] | None,
        shown: int,
        written: Written,
    ) -> None:
        encode = resources.index.encode
        self._resources = resources
        self._slots = layout.slots
        self._choices = choices
        self._shown = shown
        self.before = encode(layout.before)
        self._after = [encode(slot.after) for slot in layout.slots]
        self._lines = [encode(slot.line) for slot in layout.slots]
        self.tokens_read = len(self.before) + sum(map(len, self._after))
        # What stands right of a blank does not follow what stands left of it.
        apart = [token for tokens in self._after for token in (START, *tokens)]
        remembered = [*written.tolist(), *apart] if resources.use_cache_lm else []
        self._memory = CacheLM(np.array(remembered, dtype=np.int64), resources.tokenizer.background)
        self._two_towers = resources.network.architecture == "two_towers"
        calibration = resources.calibration
        temperatures = (
            calibration.cloze_temperature if choices is None else calibration.choice_temperature
        )
        texts = [layout.before, *(slot.after for slot in layout.slots)]
        beside = [
            {language_at_end(left), language_at_end(right[:8])} for left, right in pairwise(texts)
        ]
        languages = ["zh" if "zh" in each else "en" for each in beside]
        self._temperatures = [temperatures[language] for language in languages]
        self._lapse_rates = [calibration.choice_uniform_mix[language] for language in languages]
        self._mass_exponents = [
            calibration.cloze_coverage_exponent[language] for language in languages
        ]

    # ------------------------------------------------------------------------------------------------ several blanks

    def fill_jointly(self, state: Float32Array) -> Decoder[tuple[Span | None, ...]]:
        """Fill all blanks from left to right, those to the right of each being read as ``<blank>``."""
        rights = yield from self._read_rights([None] * len(self._slots))
        width = JOINT if len(self._slots) <= MANY else 1
        beam = [_Joint((), 0.0, state)]
        for number, right in enumerate(rights):
            found = yield from together(
                [self._candidates(number, joint.state, right, JOINT, JOINT) for joint in beam]
            )
            ways: list[tuple[float, _Joint, Span | None]] = []
            for joint, ranked in zip(beam, found, strict=True):
                ways += [
                    (joint.score + float(np.log(max(each.probability, 1e-300))), joint, each.span)
                    for each in ranked
                ]
            # Where nothing fits, the blank stays a blank for those that follow.
            ways = ways or [(joint.score, joint, None) for joint in beam]
            ways.sort(key=lambda way: -way[0])
            chosen = ways[:width]
            states = yield from ask(
                [self._read_after(number, joint.state, span) for _, joint, span in chosen]
            )
            beam = [
                _Joint((*joint.fillings, span), score, after)
                for (score, joint, span), after in zip(chosen, states, strict=True)
            ]
        return beam[0].fillings

    def sweep(
        self, state: Float32Array, fillings: Sequence[Span | None]
    ) -> Decoder[list[list[_Ranked]]]:
        """Ask for each blank's words, left to right, all others being filled; the best word stays."""
        rights = yield from self._read_rights(fillings)
        counted = RESCORED if self._two_towers else RESCORED_BLIND
        wanted = max(self._shown, counted)
        answers = []
        for number, right in enumerate(rights):
            ranked = yield from self._candidates(number, state, right, wanted, self._shown, counted)
            answers.append(ranked)
            if number + 1 < len(rights):
                (state,) = yield from ask(
                    [self._read_after(number, state, ranked[0].span if ranked else None)]
                )
        return answers

    def _read_after(self, number: int, state: Float32Array, span: Span | None) -> Advance:
        """Read on to the next blank, from the end of *span*, or from *state* before the blank where nothing fits."""
        if span is None:
            return Advance("forward", state, (BLANK, *self._after[number]))
        return Advance("forward", span.states[-1], tuple(self._after[number]))

    def _read_rights(self, fillings: Sequence[Span | None]) -> Decoder[list[_Right]]:
        """What stands right of each blank on its line; a blank with no filling is read as ``<blank>``."""
        rights: list[_Right] = []
        for number in reversed(range(len(self._slots))):
            slot, tokens = self._slots[number], self._lines[number][:RIGHT_TOKENS]
            state = None
            if self._two_towers and slot.known:
                state, reading = self._resources.initial("backward"), [END]
                if not slot.line_ends:  # go on from what is right of the next blank
                    filling, further = fillings[number + 1], rights[-1].state
                    if further is not None:
                        state, reading = further, []
                    reading += [BLANK] if filling is None else reversed(filling.tokens)
                (state,) = yield from ask(
                    [Advance("backward", state, (*reading, *reversed(tokens)))]
                )
            rights.append(_Right(state, tuple(tokens[:CONTEXT]) if slot.known else ()))
        return rights[::-1]

    # ----------------------------------------------------------------------------------------------------- one blank

    def _candidates(
        self,
        number: int,
        state: Float32Array,
        right: _Right,
        wanted: int,
        shown: int,
        counted: int = 0,
    ) -> Decoder[list[_Ranked]]:
        """Words for one blank with their probabilities, most probable first.

        Args:
            number: of the blank.
            state: forward state before it.
            right: what stands right of it.
            wanted: words to look for.
            shown: how many of them are worth finding however improbable.
            counted: words that F is the mass of; 0 leaves it as it is.
        """
        if self._choices is None:
            head, takes = self._head(number, right, WORD), self._slots[number].takes
            # One side alone says too little for any word to be past saving.
            shown = shown if self._two_towers else wanted
            found = yield from search_words(self._resources, head, state, takes, wanted, shown)
        else:
            found = yield from self._score_choices(number, state, right)
        if not found:
            return []
        found.sort(key=lambda each: (-each.mass, each.word))
        masses = np.array([each.mass for each in found])
        scores = yield from self._rescore(number, found, right)
        if scores is None:
            scores = masses
        temperature = self._temperatures[number]
        if self._choices is not None:
            masses = _log_softmax(masses / temperature)
        # Rescoring moves the mass of those that it looked at; that of the others is what it was.
        count = len(scores)
        masses[:count] = np.logaddexp.reduce(masses[:count]) + _log_softmax(scores / temperature)
        if self._choices is not None and (lapse := self._lapse_rates[number]):
            masses = np.logaddexp(masses + np.log1p(-lapse), np.log(lapse / len(masses)))
        elif self._choices is None and counted:
            _raise(masses, counted, self._mass_exponents[number])
        probabilities = np.minimum(np.exp(masses), 1.0)  # one choice alone may come to 1 + 7e-16
        ranked = [
            _Ranked(each.word, each.span, probability)
            for each, probability in zip(found, probabilities.tolist(), strict=True)
        ]
        return sorted(ranked, key=lambda each: (-each.probability, each.word))

    def _head(self, number: int, right: _Right, kind: int) -> Head:
        left = self.before if number == 0 else self._after[number - 1]
        before = tuple(left[-CONTEXT_REMEMBERED:])
        if self._two_towers:
            return GapHead(self._resources, right.state, kind, self._memory, before)
        return NextHead(self._resources, self._choices is None, self._memory, before)

    def _score_choices(
        self, number: int, state: Float32Array, right: _Right
    ) -> Decoder[list[Proposal]]:
        """The exact mass of every choice, asked for as what it is: a word, or a span of several."""
        tokenizer, words = (
            self._resources.tokenizer,
            [] if self._choices is None else self._choices[number],
        )
        groups: dict[int, list[tuple[str, list[tuple[int, ...]]]]] = {}
        for word in words:
            spelled = [
                tuple(tokenizer.encode(text)) for text in self._slots[number].spellings(word)
            ]
            several = any(
                not tokenizer.joins(*pair) for tokens in spelled for pair in pairwise(tokens)
            )
            groups.setdefault(SPAN if several else WORD, []).append((word, spelled))
        found = yield from together(
            [
                score_choices(self._head(number, right, kind), state, choices)
                for kind, choices in groups.items()
            ]
        )
        return [proposal for group in found for proposal in group]

    # ----------------------------------------------------------------------------------------------------- rescoring

    def _rescore(
        self, number: int, found: list[Proposal], right: _Right
    ) -> Decoder[NDArray[np.float64] | None]:
        """Scores s of the first few proposals, (at most len(found),); None where nothing asks for them."""
        calibration = self._resources.calibration
        if not self._two_towers:
            if not right.tokens:
                return None
            spans = [each.span for each in found[:RESCORED_BLIND]]
            scores = yield from self._forward_scores(spans, right)
            scores += [self._memory.gain(span.tokens) for span in spans]
            return scores
        forward = calibration.forward_weight
        backward = calibration.backward_weight if right.state is not None else 0.0
        if forward == 0 and backward == 0:
            return None
        chosen = found[: RESCORED if self._choices is None else RESCORED_CHOICES]
        if self._choices is None:
            chosen = [each for each in chosen if each.mass > found[0].mass - FAR_BEHIND]
        spans = [each.span for each in chosen]
        scores = np.array([each.mass for each in chosen])
        if forward != 0:
            scores += forward * (yield from self._forward_scores(spans, right))
        if backward != 0 and right.state is not None:
            scores += backward * (yield from self._backward_scores(number, spans, right.state))
        return scores

    def _forward_scores(self, spans: Sequence[Span], right: _Right) -> Decoder[NDArray[np.float64]]:
        """Log P_F of each span and of the right context after it, given what stands left; (len(spans),)."""
        traces = yield from ask(
            [Trace("forward", span.states[-1], right.tokens[:-1]) for span in spans]
        )
        # Spans that begin alike share the states of their beginnings, and with them the rows.
        before = {
            id(state): self._resources.output("forward", state)
            for span in spans
            for state in span.states
        }
        asked: list[list[tuple[Float32Array, int]]] = []
        for span, outputs in zip(spans, traces, strict=True):
            # Where nothing stands right there is one output too many.
            tokens = (*span.tokens, *right.tokens)
            asked.append(
                list(
                    zip(
                        [*(before[id(state)] for state in span.states), *outputs],
                        tokens,
                        strict=False,
                    )
                )
            )
        return (yield from _sums(Next, asked))

    def _backward_scores(
        self, number: int, spans: Sequence[Span], state: Float32Array
    ) -> Decoder[NDArray[np.float64]]:
        """Log P_B of each span and of the left context before it, given what stands right; (len(spans),)."""
        left = self.before if number == 0 else self._after[number - 1]
        if START in left:
            left = left[len(left) - left[::-1].index(START) :]
        readings = [(*reversed(span.tokens), *reversed(left[-CONTEXT:])) for span in spans]
        traces = yield from ask([Trace("backward", state, reading[:-1]) for reading in readings])
        first = self._resources.output("backward", state)
        asked = [
            list(zip([first, *outputs], reading, strict=True))
            for reading, outputs in zip(readings, traces, strict=True)
        ]
        return (yield from _sums(Previous, asked))


def _sums(
    head: type[Next] | type[Previous], asked: Sequence[Sequence[tuple[Float32Array, int]]]
) -> Decoder[NDArray[np.float64]]:
    """Ask for the log-probability of each token after its output, and add up those of each list, (len(asked),).

    Tokens that are asked of one and the same output share its row.
    """
    outputs = {id(output): output for group in asked for output, _ in group}
    tokens: dict[int, dict[int, int]] = {
        key: {} for key in outputs
    }  # by output: place in the answer of each token
    for group in asked:
        for output, token in group:
            tokens[id(output)].setdefault(token, len(tokens[id(output)]))
    rows = yield from ask([head(output, tuple(tokens[key])) for key, output in outputs.items()])
    found = dict(zip(outputs, rows, strict=True))
    return np.array(
        [
            sum(float(found[id(output)][tokens[id(output)][token]]) for output, token in group)
            for group in asked
        ]
    )


def _raise(masses: NDArray[np.float64], count: int, exponent: float) -> None:
    """Bring F, what the first *count* of log masses (n,) sum to, to F^exponent; the others share what that leaves."""
    found = min(1.0, float(np.exp(masses[:count]).sum()))
    if 0.0 < found < 1.0:
        raised = found**exponent
        masses[:count] += np.log(raised / found)
        masses[count:] += np.log((1.0 - raised) / (1.0 - found))


def _log_softmax(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    total = np.logaddexp.reduce(scores)
    if total == -np.inf:  # nothing is possible, so nothing is preferred
        return np.full(len(scores), -np.log(len(scores)))
    normalised: NDArray[np.float64] = scores - total
    return normalised
