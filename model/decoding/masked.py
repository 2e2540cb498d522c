"""Fill blanks with a stacked bidirectional network: masked tokens, one after the other.

Such a network reads a whole line with ``<blank>`` for each masked token and scores one of them. It
has no next token and no end of a span, so spans of every length are tried:

    P(span of n tokens | line) = P(n) Π P(token k | left, tokens before k, n - k + 1 blanks, right)

P(n) is a constant. Each factor costs a pass over the line (docs/decisions/0008). Several blanks are
filled from left to right, with those further right as one ``<blank>`` each. Then each is filled
again with all others filled.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from model.batching import Decoder, Fill
from model.decoding.blanks import Layout
from model.decoding.context import DecoderContext, largest
from model.decoding.span_search import is_word
from model.queries import ClozeQuery, ClozeResult, Usage
from model.tokenizer import BLANK, START

# P(n): roughly the shares of words with n tokens in the training text; then LONGER a token.
LENGTH_PROBS, LONGER = (0.8, 0.15, 0.05), 0.3
# Spans of each length that go on after their first token.
WIDTH = 12
# Tokens of the line on either side of a blank.
MAX_SIDE = 64


# Tokens of the line left and right of a blank.
Sides = tuple[tuple[int, ...], tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class _Word:
    """A word, log P summed over the spans that spell it, and the most probable span."""

    word: str
    log_prob: float
    tokens: tuple[int, ...]


def fill_masked(context: DecoderContext, query: ClozeQuery, layout: Layout) -> Decoder[ClozeResult]:
    """Decode one query that is checked already, with the blanks of *layout*."""
    filler = _Filler(context, query, layout)
    count = len(layout.slots)
    fillings: list[tuple[int, ...] | None] = [None] * count
    ranked: list[list[tuple[str, float]]] = [[] for _ in range(count)]
    for _ in range(2 if count > 1 else 1):
        for number in range(count):
            words = yield from filler.rank(number, fillings)
            fillings[number] = words[0].tokens if words else None
            ranked[number] = filler.calibrate(number, words)
    return layout.result(ranked, query, Usage(filler.tokens))


class _Filler:
    """One text with its blanks, encoded part by part."""

    def __init__(self, context: DecoderContext, query: ClozeQuery, layout: Layout) -> None:
        encode = context.index.encode
        self._context = context
        self._slots = layout.slots
        self._top_k = query.top_k
        self._parts = [encode(layout.before), *(encode(slot.after) for slot in layout.slots)]
        self._lines = [encode(slot.line) for slot in layout.slots]
        self.tokens = sum(map(len, self._parts))
        self._choices = layout.choices(query)

    def rank(self, number: int, fillings: Sequence[tuple[int, ...] | None]) -> Decoder[list[_Word]]:
        """Rank the words for one blank, most probable first; of given choices every one.

        *fillings* are the tokens in all blanks; a blank with None is read as ``<blank>``.
        """
        left = list(self._parts[0])
        for earlier in range(number):
            left += [*(fillings[earlier] or (BLANK,)), *self._parts[earlier + 1]]
        if START in left:
            left = left[len(left) - left[::-1].index(START) :]
        right: list[int] = []
        for later in range(number, len(self._slots)):
            right += self._lines[later]
            if self._slots[later].line_ends:
                break
            right += fillings[later + 1] or (BLANK,)
        sides = (START, *left[-MAX_SIDE:]), tuple(right[:MAX_SIDE])
        if self._choices is None:
            words = yield from self._search(number, sides)
        else:
            words = yield from self._score(number, sides, list(self._choices[number]))
        return sorted(words, key=lambda each: (-each.log_prob, each.word))

    def calibrate(self, number: int, words: Sequence[_Word]) -> list[tuple[str, float]]:
        """Return (word, probability) for one blank, most probable first.

        Found words get M softmax(s / τ), with M their total probability; K choices get
        (1 - ε) softmax(s / τ) + ε / K.
        """
        if not words:
            return []
        calibration, language = self._context.calibration, self._slots[number].language
        log_probs = np.array([each.log_prob for each in words])
        if self._choices is None:
            scaled = log_probs / calibration.cloze_temperature[language]
        else:
            scaled = log_probs / calibration.choice_temperature[language]
        probs = np.minimum(np.exp(scaled - np.logaddexp.reduce(scaled)), 1.0)  # or 1 + 2e-16
        if self._choices is None:
            probs *= min(1.0, float(np.exp(log_probs).sum()))
        else:
            mix = calibration.choice_uniform_mix[language]
            probs = (1 - mix) * probs + mix / len(probs)
        return [(each.word, prob) for each, prob in zip(words, probs.tolist(), strict=True)]

    def _search(self, number: int, sides: Sides) -> Decoder[list[_Word]]:
        """Beam search for the most probable words of each length."""
        tokenizer, takes = self._context.tokenizer, self._slots[number].takes
        width = max(WIDTH, self._top_k)
        found: dict[str, _Word] = {}
        for length, share in enumerate(LENGTH_PROBS, start=1):
            beam: list[tuple[tuple[int, ...], float]] = [((), float(np.log(share)))]
            for position in range(length):
                rows = yield [_fill_step(sides, tokens, length) for tokens, _ in beam]
                log_probs = np.stack(
                    [row + np.float32(before) for row, (_, before) in zip(rows, beam, strict=True)]
                )
                longer = []
                # Tokens that do not continue the word are skipped, so look at more than are kept.
                for place in largest(log_probs.ravel(), 4 * width).tolist():
                    row, token = divmod(place, log_probs.shape[1])
                    tokens = (*beam[row][0], token)
                    if position == 0 or tokenizer.joins(*tokens[-2:]):
                        longer.append((tokens, float(log_probs[row, token])))
                beam = longer[: 4 * width if position + 1 == length else width]
                if not beam:
                    break
            for tokens, log_prob in beam:
                text = tokenizer.decode(tokens)
                if is_word(text) and takes(text):
                    _add_spelling(found, text.strip(), log_prob, tokens)
        return sorted(found.values(), key=lambda each: -each.log_prob)[:width]

    def _score(self, number: int, sides: Sides, words: Sequence[str]) -> Decoder[list[_Word]]:
        """Score every choice by all spans that spell it."""
        encode, spellings = self._context.tokenizer.encode, self._slots[number].spellings
        spelled = [(word, tuple(encode(text))) for word in words for text in spellings(word)]
        steps = sorted(
            {(tokens[:k], len(tokens)) for _, tokens in spelled for k in range(len(tokens))}
        )
        rows = yield [_fill_step(sides, tokens, length) for tokens, length in steps]
        scores = dict(zip(steps, rows, strict=True))
        found: dict[str, _Word] = {}
        for word, tokens in spelled:
            length = len(tokens)
            log_prob = float(np.log(LENGTH_PROBS[min(length, len(LENGTH_PROBS)) - 1]))
            log_prob += max(0, length - len(LENGTH_PROBS)) * float(np.log(LONGER))
            log_prob += sum(
                float(scores[tokens[:k], length][token]) for k, token in enumerate(tokens)
            )
            _add_spelling(found, word, log_prob, tokens)
        return list(found.values())


def _fill_step(sides: Sides, tokens: tuple[int, ...], length: int) -> Fill:
    """Request the token after *tokens* in a span of *length*."""
    left, right = sides
    blanks = [BLANK] * (length - len(tokens))
    return Fill((*left, *tokens, *blanks, *right), len(left) + len(tokens))


def _add_spelling(
    found: dict[str, _Word], word: str, log_prob: float, tokens: tuple[int, ...]
) -> None:
    """Add a span to the words found; a word may be spelled in several ways."""
    before = found.get(word)
    if before is not None:
        tokens = tokens if log_prob > before.log_prob else before.tokens
        log_prob = float(np.logaddexp(before.log_prob, log_prob))
    found[word] = _Word(word, log_prob, tokens)
