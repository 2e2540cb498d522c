"""Fill blanks with a stacked bidirectional network: masked tokens, one after the other.

Such a network reads a whole line with ``<blank>`` for each masked token and scores one of them. It
has no next token and no end of a span, so spans of every length are tried:

    P(span of n tokens | line) = P(n) Π P(token k | left, tokens before k, n - k + 1 blanks, right)

P(n) is a constant. Each factor costs a pass over the line (docs/decisions/0008). Several blanks are
filled from left to right, with those further right as one ``<blank>`` each. Then each is filled
again with all others filled.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import groupby, islice
from typing import Any

import numpy as np

from model.batching import Decoder, Fill
from model.config import Calibration
from model.decoding.blank_words import BlankWords
from model.decoding.blanks import Layout, last_line
from model.decoding.context import DecoderContext, History, largest
from model.decoding.span_search import Line, Proposal, Span, add_span, is_word
from model.queries import ClozeResult, Filling, Usage
from model.runtime import Float32Array
from model.text import Language
from model.tokenizer import BLANK, START, Tokenizer

# P(n): roughly the shares of words with n tokens in the training text; then LONGER a token.
LENGTH_PROBS, LONGER = (0.8, 0.15, 0.05), 0.3
# Spans of each length that go on after their first token, and words that are found.
WIDTH = 12
# Tokens of the line on either side of a blank; and of a place in it, with those of a choice.
MAX_SIDE, MAX_REACH = 64, 128
# Lines that wait at the same time.
FILL_ROWS = 64

# Tokens of the line left and right of a blank.
Sides = tuple[tuple[int, ...], tuple[int, ...]]


def fill_masked(context: DecoderContext, layout: Layout, history: History) -> Decoder[ClozeResult]:
    """Decode one query, which is checked already."""
    encode, count = context.index.encode, len(layout.slots)
    blank_words = BlankWords(context, layout, history)
    parts = [encode(layout.before), *(encode(slot.after) for slot in layout.slots)]
    lines = [encode(slot.line) for slot in layout.slots]
    fillings: list[tuple[int, ...]] = [(BLANK,)] * count
    ranked: list[list[tuple[str, float]]] = [[] for _ in range(count)]
    for _ in range(2 if count > 1 else 1):
        for number, slot in enumerate(layout.slots):
            left = list(parts[0])
            for earlier in range(number):
                left += [*fillings[earlier], *parts[earlier + 1]]
            right = list(lines[number])
            for later in range(number + 1, count):
                if layout.slots[later - 1].line_ends:
                    break
                right += [*fillings[later], *lines[later]]
            sides = (START, *last_line(left)[-MAX_SIDE:]), tuple(right[:MAX_SIDE])
            if layout.choices is None:
                takes = partial(blank_words.take, slot)
                found = yield from _search(context.tokenizer, sides, takes)
            else:
                words = [(word, slot.spellings(word)) for word in layout.choices[number]]
                found = yield from _score(context.index.encode_whole, sides, words)
            found.sort(key=lambda each: (-each.log_prob, each.word))
            fillings[number] = found[0].span.tokens if found else (BLANK,)
            is_open = layout.choices is None
            ranked[number] = _calibrate(found, context.calibration, slot.language, is_open)
    # Of several blanks, only the best filling is known.
    first = [each[0][0] if each else None for each in ranked]
    joint = [(first, math.prod(each[0][1] for each in ranked if each))]
    shown = [[Filling(*each) for each in words] for words in ranked]
    return layout.result(shown, Usage(sum(map(len, parts))), joint)


def _search(
    tokenizer: Tokenizer, sides: Sides, takes: Callable[[str, Line], bool]
) -> Decoder[list[Proposal]]:
    """Beam search for the most probable words of each length."""
    found: dict[str, Proposal] = {}
    for length, share in enumerate(LENGTH_PROBS, start=1):
        beam = [Span((), float(np.log(share)))]
        for position in range(length):
            rows = yield [_fill_step(sides, span.tokens, length) for span in beam]
            log_probs = np.stack(
                [row + np.float32(span.log_prob) for row, span in zip(rows, beam, strict=True)]
            )
            longer = []
            # Tokens that do not continue the word are skipped, so look at more than are kept.
            for place in largest(log_probs.ravel(), 4 * WIDTH).tolist():
                row, token = divmod(place, log_probs.shape[1])
                tokens = (*beam[row].tokens, token)
                if position == 0 or tokenizer.joins(*tokens[-2:]):
                    longer.append(Span(tokens, float(log_probs[row, token])))
            del rows, log_probs  # they are 64 kB for each span
            beam = longer[: 4 * WIDTH if position + 1 == length else WIDTH]
            if not beam:
                break
        for span in beam:
            text = tokenizer.decode(span.tokens)
            if is_word(text) and takes(text, span.tokens):
                add_span(found, text.strip(), span)
    return sorted(found.values(), key=lambda each: -each.log_prob)[:WIDTH]


def _score(
    encode: Callable[[str], list[int]], sides: Sides, words: Sequence[tuple[str, list[str]]]
) -> Decoder[list[Proposal]]:
    """Score every choice by all spans that spell it."""
    spelled = [(word, tuple(encode(text))) for word, texts in words for text in texts]
    sums = dict.fromkeys((tokens for _, tokens in spelled), 0.0)
    places = _places(sums)
    while batch := list(islice(places, FILL_ROWS)):
        steps = []
        for place, groups in batch:
            line = next(iter(groups.values()))[0]
            steps.append(_fill_step(sides, line[:place], len(line), _picker(list(groups))))
        for (_, groups), log_probs in zip(batch, (yield steps), strict=True):
            for group, log_prob in zip(groups.values(), log_probs, strict=True):
                for line in group:
                    sums[line] += log_prob
    found: dict[str, Proposal] = {}
    for word, tokens in spelled:
        length = len(tokens)
        log_prob = float(np.log(LENGTH_PROBS[min(length, len(LENGTH_PROBS)) - 1]))
        log_prob += max(0, length - len(LENGTH_PROBS)) * float(np.log(LONGER))
        add_span(found, word, Span(tokens, log_prob + sums[tokens]))
    return list(found.values())


def _places(spans: Iterable[Line]) -> Iterator[tuple[int, dict[int, list[Line]]]]:
    """Yield each place of each span, spans by their token there, if all else they read is equal."""
    for length, same_length in groupby(sorted(spans, key=lambda line: (len(line), line)), len):
        groups = [list(same_length)]
        for place in range(length):
            longer: list[list[Line]] = []
            for group in groups:
                by_token: dict[int, list[Line]] = {}
                for line in group:
                    by_token.setdefault(line[place], []).append(line)
                yield place, by_token
                longer += by_token.values()
            groups = longer


def _picker(tokens: list[int]) -> Callable[[Float32Array], list[float]]:
    return lambda row: row[tokens].tolist()


def _fill_step(
    sides: Sides,
    tokens: Line,
    length: int,
    reduce: Callable[[Float32Array], Any] | None = None,
) -> Fill:
    """Request the token after *tokens* in a span of *length*."""
    left = (*sides[0], *tokens)[-MAX_REACH:]
    right = (*[BLANK] * min(MAX_REACH, length - len(tokens)), *sides[1])[:MAX_REACH]
    return Fill((*left, *right), len(left), reduce)


def _calibrate(
    found: Sequence[Proposal], calibration: Calibration, language: Language, is_open: bool
) -> list[tuple[str, float]]:
    """Return (word, probability), most probable first.

    Found words get M softmax(s / τ), with M their total probability; K choices get
    (1 - ε) softmax(s / τ) + ε / K.
    """
    if not found:
        return []
    log_probs = np.array([each.log_prob for each in found])
    temperatures = calibration.cloze_temperature if is_open else calibration.choice_temperature
    scaled = log_probs / temperatures[language]
    probs = np.minimum(np.exp(scaled - np.logaddexp.reduce(scaled)), 1.0)  # or 1 + 2e-16
    if is_open:
        probs *= min(1.0, float(np.exp(log_probs).sum()))
    else:
        mix = calibration.choice_uniform_mix[language]
        probs = (1 - mix) * probs + mix / len(probs)
    return [(each.word, prob) for each, prob in zip(found, probs.tolist(), strict=True)]
