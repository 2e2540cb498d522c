"""Words for blanks: which may come, and which are the writer's own.

A word of the lexicon has a probability before anything is read. What is read changes it as it
changes that of its first token t:

    P(word) = MIXTURE c / (S + Σ c) · P_gap(t | left, right) / b(t)

The change is bounded. c, MIXTURE and S are of writer_words.py, b is a token's share of the
training text.
"""

from collections.abc import Sequence

import numpy as np

from model.batching import Decoder
from model.decoding.blanks import Layout, Slot
from model.decoding.context import DecoderContext, History
from model.decoding.span_search import Proposal, Span, SpanHead
from model.decoding.writer_words import MIXTURE, SMOOTHING, SearchedText
from model.runtime import Float32Array
from model.text import is_han

# Bounds of the change by the first token, and words of a lexicon that are added to a blank.
MIN_LIFT, MAX_LIFT, MAX_ADDED = 0.1, 100.0, 16
# The share of tokens that are not counted.
OTHER_BACKGROUND = 1e-5


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
        (log_probs,) = yield [head.step(output, 0, lambda row: head.split((), row)[1][firsts])]
        lifts = np.exp(log_probs) / np.maximum(self._background[firsts], OTHER_BACKGROUND)
        counts = np.array([count for _, count in self._own])
        added = MIXTURE * counts / (SMOOTHING + counts.sum()) * lifts.clip(MIN_LIFT, MAX_LIFT)
        best = (-added).argsort(kind="stable")[:MAX_ADDED].tolist()
        scale = 1.0 + float(added[best].sum())
        words = {each.word: (each, prob / scale) for each, prob in ranked}
        for n in best:
            word, span = self._own[n][0], Span(tuple(encode(spelled[n])), 0.0)
            proposal, prob = words.pop(word, (Proposal(word, 0.0, span), 0.0))
            words[word] = proposal, prob + float(added[n]) / scale
        return sorted(words.values(), key=lambda each: (-each[1], each[0].word))
