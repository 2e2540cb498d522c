"""Words for blanks: which may come, which repeat a word nearby, and which are the writer's own.

A sentence seldom repeats a word at once, or in its next blank, but a network is fond of copies. So
a repetition loses as many nats as make it come first about as often as it is right
(docs/decisions/0005). Function words repeat freely, and `看看` or `very, very` stay possible.

A word of the lexicon has a probability before anything is read. What is read changes it as it
changes that of its first token t:

    P(word) = MIXTURE c / (S + Σ c) · P_gap(t | left, right) / b(t)

The change is bounded. c, MIXTURE and S are of writer_words.py, b is a token's share of the
training text.
"""

import re
from collections.abc import Sequence
from functools import partial

import numpy as np

from model.batching import Decoder
from model.decoding.blanks import Layout, Slot
from model.decoding.context import DecoderContext, History
from model.decoding.span_search import Proposal, Span, SpanHead
from model.decoding.writer_words import MIXTURE, SMOOTHING, SearchedText
from model.runtime import Float32Array, Float64Array
from model.text import HAN, is_han

# Tokens next to a blank in which a repetition is looked for.
NEAR = 4
# A token with a greater share of the training text is a function word.
COMMON = 5e-4
# Nats that a word loses if it repeats one that is next to the blank, or one token further (for a
# Chinese character, as in `看看`, and for others), and if it fills another blank as well.
CHARACTER_REPETITION, NEAR_REPETITION, JOINT_REPETITION = 1.5, 3.0, 3.5
# Bounds of the change by the first token, and words of a lexicon that are added to a blank.
MIN_LIFT, MAX_LIFT, MAX_ADDED = 0.1, 100.0, 16
# The share of tokens that are not counted.
OTHER_BACKGROUND = 1e-5
# Chinese characters, other words, and marks.
_UNITS = re.compile(rf"[{HAN}]|[^\W_{HAN}]+|[^\w\s]")


class BlankWords:
    """The words that may fill the blanks of one text."""

    def __init__(self, context: DecoderContext, layout: Layout, history: History) -> None:
        self._context, self._lexicon = context, history.lexicon
        self._background = context.tokenizer.background
        self._texts = SearchedText(layout.reading.text), history.words
        self._own = history.lexicon.counts
        self._firsts: dict[str, int] = {}  # of spelled words of the lexicon

    def take(self, slot: Slot, text: str, tokens: Sequence[int]) -> bool:
        """Return True if *text* fits a blank, is not blocked, and known if of several *tokens*."""
        word = text.strip()
        if not slot.takes(text) or self._lexicon.blocks("", word):
            return False
        return (
            len(tokens) == 1
            or is_han(word[0])
            or self._context.is_known(word)
            or word in self._lexicon
            or any(word in text for text in self._texts)
        )

    def repetitions(
        self, found: Sequence[Proposal], before: str, after: str, others: Sequence[str | None]
    ) -> Float64Array:
        """Return the nats that each word loses between two texts, with words in other blanks."""
        sides = before.casefold(), after.casefold()
        filled = [word.casefold() for word in others if word]
        return np.array([self._repetition(each, *sides, filled) for each in found])

    def _repetition(
        self, proposal: Proposal, before: str, after: str, others: Sequence[str]
    ) -> float:
        first, *rest = proposal.span.tokens
        if not rest and self._background[first] > COMMON:
            return 0.0
        word = proposal.word.casefold()
        if word in others:
            return JOINT_REPETITION
        loss = CHARACTER_REPETITION if len(word) == 1 and is_han(word) else NEAR_REPETITION
        left, found, between = before.rpartition(word)
        if found and _is_next(left[-1:], word, between):
            return loss
        between, found, right = after.partition(word)
        return loss if found and _is_next(right[:1], word, between) else 0.0

    def add_own(
        self, ranked: list[tuple[Proposal, float]], slot: Slot, head: SpanHead, output: Float32Array
    ) -> Decoder[list[tuple[Proposal, float]]]:
        """Add the writer's own words, after the forward output before the blank, (H,)."""
        if not self._own:
            return ranked
        encode = self._context.index.encode_whole
        spelled = [slot.spellings(word)[-1] for word, _ in self._own]
        for text in spelled:
            if text not in self._firsts:
                self._firsts[text] = encode(text)[0]
        firsts = np.array([self._firsts[text] for text in spelled])
        ((_, log_probs, change),) = yield [head.step(output, 0, partial(head.split, ()))]
        probs = np.exp(log_probs[firsts] + np.float32(change))
        lifts = probs / np.maximum(self._background[firsts], OTHER_BACKGROUND)
        counts = np.array([count for _, count in self._own])
        added = MIXTURE * counts / (SMOOTHING + counts.sum()) * lifts.clip(MIN_LIFT, MAX_LIFT)
        best = (-added).argsort(kind="stable")[:MAX_ADDED].tolist()
        scale = 1.0 + float(added[best].sum())
        words = {each.word: (each, prob / scale) for each, prob in ranked}
        for n in best:
            word, span = self._own[n][0], Span(tuple(encode(spelled[n])), 0.0)
            proposal, prob = words.pop(word, (Proposal(word, 0.0, span), 0.0))
            own = float(added[n]) / scale
            words[word] = proposal._replace(written=own / (prob + own)), prob + own
        return sorted(words.values(), key=lambda each: (-each[1], each[0].word))


def _is_next(edge: str, word: str, between: str) -> bool:
    """Return True if a *word* after or before *edge* is at most one word or mark from a blank."""
    is_whole = is_han(word[0]) or not (edge.isalnum() or between[:1].isalnum())
    return is_whole and len(_UNITS.findall(between)) <= 1
