"""Spans for one blank: a search for words, and exact probabilities of given choices. Neither ranks nor rescores them.

Two heads can say what a span begins with and how it goes on: the gap head, which sees both sides and ends a span by
``<eog>``; and the next head of a forward-only network, which sees the left side and ends a span where its word ends.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from model.config import GAP_POSITIONS
from model.decoding.cache_lm import CacheLM
from model.decoding.context import CONTEXT, DecoderContext, largest
from model.runtime import Float32Array
from model.steps import Advance, Decoder, Gap, Next, Single, ask
from model.tokenizer import END_OF_GAP

# The longest span that is searched for, in tokens.
LONGEST = 6
# Spans that are read on after the first token for each of the first few words wanted; never fewer than words are
# wanted, or twice as many as are shown, unless they are too far behind.
FIRST_WIDTH, FEW = 3, 8
# Nats behind the best span at which one is not read on, beyond the few that are shown: what it could still become would
# hardly be rescored. Two more than cloze.FAR_BEHIND: the best one has yet to end, which costs it something.
FAR_BEHIND = 7.0


@dataclass(frozen=True, slots=True, eq=False)
class Span:
    """Tokens in a blank, and the forward states around each of them.

    Attributes:
        tokens: of the span, (n,).
        mass: log P, of the tokens so far or of the span with its end.
        states: forward states before each token and after the last, n + 1 of them.
    """

    tokens: tuple[int, ...]
    mass: float
    states: tuple[Float32Array, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Proposal:
    """A word for a blank.

    Attributes:
        word: without spaces around it.
        mass: log P(word | left, right), summed over the spans that spell it.
        span: the most probable of those.
    """

    word: str
    mass: float
    span: Span


class Head(Protocol):
    """What proposes spans."""

    def step(self, state: Float32Array, position: int) -> Single:
        """Ask for the token at *position* of a span, from the forward state before it."""
        ...

    def split(self, tokens: tuple[int, ...], row: Float32Array) -> tuple[float, Float32Array]:
        """From a row (V,) that was asked for: log P(the span ends here), and log P of each token that goes on, (V,)."""
        ...


class GapHead:
    """Both sides are seen at once.

    Args:
        resources: of the checkpoint.
        right: backward state after the right side, (S,); None where that is unknown.
        kind: ``WORD`` or ``SPAN`` of :mod:`model.config`.
        memory: of what stands elsewhere.
        before: the last tokens on the left.
    """

    def __init__(
        self,
        resources: DecoderContext,
        right: Float32Array | None,
        kind: int,
        memory: CacheLM,
        before: tuple[int, ...],
    ) -> None:
        self._resources = resources
        self._memory = memory
        self._before = before
        self._right = None if right is None else resources.output("backward", right)
        self._kind = kind

    def step(self, state: Float32Array, position: int) -> Single:
        """See :class:`Head`."""
        return Gap(
            self._resources.output("forward", state),
            self._right,
            min(position, GAP_POSITIONS - 1),
            self._kind,
        )

    def split(self, tokens: tuple[int, ...], row: Float32Array) -> tuple[float, Float32Array]:
        """See :class:`Head`."""
        goes_on = self._memory.mix_logarithms(row, (*self._before, *tokens)[-CONTEXT:])
        ends = float(goes_on[END_OF_GAP])
        goes_on[END_OF_GAP] = -np.inf
        return ends, goes_on


class NextHead:
    """Only the left side is seen; a span ends where its word does: after letters, if neither letter nor space follows.

    Args:
        resources: of the checkpoint.
        one_word: nothing goes on after the end of a word.
        memory: of what stands elsewhere.
        before: the last tokens on the left.
    """

    def __init__(
        self, resources: DecoderContext, one_word: bool, memory: CacheLM, before: tuple[int, ...]
    ) -> None:
        self._resources = resources
        self._memory = memory
        self._before = before
        self._one_word = one_word

    def step(self, state: Float32Array, position: int) -> Single:  # noqa: ARG002 - the protocol's
        """See :class:`Head`."""
        return Next(self._resources.output("forward", state))

    def split(self, tokens: tuple[int, ...], row: Float32Array) -> tuple[float, Float32Array]:
        """See :class:`Head`."""
        tokenizer = self._resources.tokenizer
        row = self._memory.mix_logarithms(row, (*self._before, *tokens)[-CONTEXT:])
        if not tokens:
            return -np.inf, row
        letters = bool(tokenizer.ends_letter[tokens[-1]])
        # A space of its own may still belong to the word; with it the span is another one.
        ends = float(np.logaddexp.reduce(row[~tokenizer.continues_word])) if letters else 0.0
        if not self._one_word:
            return ends, row
        return ends, np.where(tokenizer.continues_word & letters, row, np.float32(-np.inf))


def search_words(
    resources: DecoderContext,
    head: Head,
    state: Float32Array,
    takes: Callable[[str], bool],
    wanted: int,
    shown: int,
) -> Decoder[list[Proposal]]:
    """Beam search for the most probable words of a blank.

    Args:
        resources: of the checkpoint.
        head: what proposes.
        state: forward state before the blank, (S,).
        takes: whether a span, with the space that it may end in, can stand in the blank.
        wanted: how many words; fewer where the beam holds no more.
        shown: how many of them are worth finding however improbable.

    Returns:
        Proposals, most probable first; fewer than *wanted* where the others are too far behind. The search ends early
        when nothing unfinished can still be among them.
    """
    found: dict[str, Proposal] = {}
    beam = [Span((), 0.0, (state,))]
    for position in range(LONGEST + 1):
        rows = yield from ask([head.step(span.states[-1], position) for span in beam])
        masses = np.empty((len(beam), resources.tokenizer.size), dtype=np.float32)
        for n, (span, row) in enumerate(zip(beam, rows, strict=True)):
            ends, goes_on = head.split(span.tokens, row)
            if ends > -np.inf:
                _note(
                    found,
                    resources.tokenizer.decode(span.tokens),
                    replace(span, mass=span.mass + ends),
                    takes,
                )
            masses[n] = goes_on + np.float32(span.mass)
        if position == LONGEST:
            break
        width = max(wanted, 2 * shown, FIRST_WIDTH * min(wanted, FEW)) if position == 0 else wanted
        ranked = sorted((each.mass for each in found.values()), reverse=True)
        floor = ranked[wanted - 1] if len(ranked) >= wanted else -np.inf
        if (
            len(beam) > width
        ):  # so many rows hold something above this that the rest cannot be among the best
            floor = max(floor, float(np.sort(masses.max(axis=1))[-width - 1]))
        flat = largest(masses.ravel(), width, floor)
        best = max(ranked[0] if ranked else -np.inf, float(masses.max()))
        close = max(2 * shown, int(np.count_nonzero(masses.ravel()[flat] > best - FAR_BEHIND)))
        picks = [divmod(place, masses.shape[1]) for place in flat[:close].tolist()]
        if not picks:
            break
        picked = [(n, token, float(masses[n, token])) for n, token in picks]
        # Rows are 64 KB each at 16,000 tokens, dozens of them in every decoder that waits: none is kept meanwhile.
        del rows, row, goes_on, masses
        states = yield from ask(
            [Advance("forward", beam[n].states[-1], (token,)) for n, token in picks]
        )
        beam = [
            Span((*beam[n].tokens, token), mass, (*beam[n].states, after))
            for (n, token, mass), after in zip(picked, states, strict=True)
        ]
    return sorted(found.values(), key=lambda each: (-each.mass, each.word))[:wanted]


def score_choices(
    head: Head, state: Float32Array, choices: Sequence[tuple[str, Sequence[tuple[int, ...]]]]
) -> Decoder[list[Proposal]]:
    """Exact mass of given words; the states and rows of common beginnings are shared.

    Args:
        head: what proposes.
        state: forward state before the blank, (S,).
        choices: each word, and the spans that spell it, at least one, none empty.

    Returns:
        One proposal per choice, in their order.
    """
    spans = [tokens for _, spelled in choices for tokens in spelled]
    beginnings: dict[tuple[int, ...], Span] = {(): Span((), 0.0, (state,))}
    ended: dict[tuple[int, ...], float] = {}
    level: list[tuple[int, ...]] = [()]
    for position in range(max(map(len, spans)) + 1):
        rows = yield from ask(
            [head.step(beginnings[tokens].states[-1], position) for tokens in level]
        )
        goes_on: dict[tuple[int, ...], Float32Array] = {}
        for tokens, row in zip(level, rows, strict=True):
            ends, goes_on[tokens] = head.split(tokens, row)
            ended[tokens] = beginnings[tokens].mass + ends
        level = list(
            dict.fromkeys(tokens[: position + 1] for tokens in spans if len(tokens) > position)
        )
        masses = [
            beginnings[tokens[:-1]].mass + float(goes_on[tokens[:-1]][tokens[-1]])
            for tokens in level
        ]
        rows, goes_on = (), {}  # not kept while the next tokens are read
        states = yield from ask(
            [
                Advance("forward", beginnings[tokens[:-1]].states[-1], tokens[-1:])
                for tokens in level
            ]
        )
        for tokens, mass, after in zip(level, masses, states, strict=True):
            beginnings[tokens] = Span(tokens, mass, (*beginnings[tokens[:-1]].states, after))
    proposals = []
    for word, spelled in choices:
        own = [replace(beginnings[tokens], mass=ended[tokens]) for tokens in spelled]
        mass = float(np.logaddexp.reduce([span.mass for span in own]))
        proposals.append(Proposal(word, mass, max(own, key=lambda span: span.mass)))
    return proposals


def _note(found: dict[str, Proposal], text: str, span: Span, takes: Callable[[str], bool]) -> None:
    """Add a span that has ended to what was found, if it is a word and fits its place."""
    word = text.strip()
    # A blank asks for a word: spaces or punctuation alone answer nothing, nor does half a character.
    if not any(map(str.isalnum, word)) or "\ufffd" in word or not takes(text):
        return
    before = found.get(word)
    if before is None:
        found[word] = Proposal(word, span.mass, span)
    else:
        better = max(span, before.span, key=lambda each: each.mass)
        found[word] = Proposal(word, float(np.logaddexp(span.mass, before.mass)), better)
