"""`/cloze` by a stacked bidirectional network: tokens under masks, one after the other.

Such a network reads a whole line with ``<blank>`` where something is missing and says what stands at one of these
places; it knows neither "next" nor the end of a span. So lengths are tried one by one:

    P(span of n tokens | around it) = P(n) Π P(token k | left, tokens before k, n - k + 1 blanks, right)

Each factor is normalised over tokens, so the product is over spans of n tokens; P(n) is a constant of this module. Each
token of each attempt costs a pass over the line (docs/decisions/0008-stacked-bidirectional.md).

Several blanks: left to right, those to come being one ``<blank>`` each; then once more with the others filled.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from model.decoding.blanks import Layout
from model.decoding.context import DecoderContext, largest
from model.queries import Blank, ClozeQuery, ClozeResult, Filling, Usage, choice_lists
from model.steps import Decoder, Fill, ask
from model.text import language_at_end
from model.tokenizer import BLANK, START

# P(n): the share of words of the training text's languages that are n tokens long, roughly; further lengths of given
# choices fall by LONGER each.
LENGTHS, LONGER = (0.8, 0.15, 0.05), 0.3
# Spans of each length that are filled on after their first token.
WIDTH = 12
# Tokens of the line that are read on either side: a line is read anew for every token of every attempt.
CONTEXT = 64


@dataclass(frozen=True, slots=True)
class _Word:
    """A word for a blank: its log-probability, summed over what spells it, and the most probable of these spans."""

    word: str
    mass: float
    tokens: tuple[int, ...]


def fill_masked(
    resources: DecoderContext, query: ClozeQuery, layout: Layout
) -> Decoder[ClozeResult]:
    """Decode one query.

    Args:
        resources: of the checkpoint.
        query: checked (:func:`model.queries.check_query`).
        layout: its blanks (:func:`model.decoding.cloze.lay_out`).
    """
    filler = _Filler(resources, query, layout)
    count = len(layout.slots)
    fillings: list[tuple[int, ...] | None] = [None] * count
    answers: list[list[Filling]] = [[] for _ in range(count)]
    for _ in range(2 if count > 1 else 1):
        for number in range(count):
            words = yield from filler.words(number, fillings)
            fillings[number] = words[0].tokens if words else None
            answers[number] = filler.answer(number, words)
    blanks, filled, position = [], [], 0
    for slot, answer in zip(layout.slots, answers, strict=True):
        blanks.append(Blank(slot.start, slot.end, tuple(answer)))
        filled += [
            query.text[position : slot.start],
            answer[0].word if answer else query.text[slot.start : slot.end],
        ]
        position = slot.end
    return ClozeResult(
        "".join([*filled, query.text[position:]]), tuple(blanks), Usage(filler.tokens_read, 0)
    )


class _Filler:
    """One text with its blanks, encoded part by part."""

    def __init__(self, resources: DecoderContext, query: ClozeQuery, layout: Layout) -> None:
        encode = resources.index.encode
        self._resources = resources
        self._slots = layout.slots
        self._top_k = query.top_k
        self._before = encode(layout.before)
        self._after = [encode(slot.after) for slot in layout.slots]
        self._lines = [encode(slot.line) for slot in layout.slots]
        self.tokens_read = len(self._before) + sum(map(len, self._after))
        sent = None if query.choices is None else choice_lists(query.choices, len(layout.slots))
        self._choices = sent
        texts = [layout.before, *(slot.after for slot in layout.slots)]
        self._languages = [
            "zh" if "zh" in {language_at_end(left), language_at_end(right[:8])} else "en"
            for left, right in pairwise(texts)
        ]

    def words(
        self, number: int, fillings: Sequence[tuple[int, ...] | None]
    ) -> Decoder[list[_Word]]:
        """Words for one blank, most probable first; of given choices every one."""
        left, right = self._around(number, fillings)
        if self._choices is None:
            words = yield from self._search(number, left, right)
        else:
            words = yield from self._score(number, left, right)
        return sorted(words, key=lambda each: (-each.mass, each.word))

    def answer(self, number: int, words: Sequence[_Word]) -> list[Filling]:
        """What is answered of the words for one blank, most probable first.

        Without choices M softmax(s / τ), M being the mass of what was found; with K choices (1 - ε) softmax(s / τ) +
        ε / K.
        """
        if not words:
            return []
        calibration, language = self._resources.calibration, self._languages[number]
        masses = np.array([each.mass for each in words])
        sent = None if self._choices is None else self._choices[number]
        temperature = (
            calibration.cloze_temperature if sent is None else calibration.choice_temperature
        )
        scaled = masses / temperature[language]
        shares = np.minimum(
            np.exp(scaled - np.logaddexp.reduce(scaled)), 1.0
        )  # or 1 + 2e-16 of one alone
        if sent is None:
            shares *= min(1.0, float(np.exp(masses).sum()))
            pairs = zip(words[: self._top_k], shares.tolist(), strict=False)
            return [Filling(each.word, probability) for each, probability in pairs]
        lapse = calibration.choice_uniform_mix[language]
        shares = (1 - lapse) * shares + lapse / len(shares)
        return [
            Filling(sent[each.word], share)
            for each, share in zip(words, shares.tolist(), strict=True)
        ]

    def _around(
        self, number: int, fillings: Sequence[tuple[int, ...] | None]
    ) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """What the line holds left and right of a blank; a blank without filling is read as ``<blank>``."""
        left = list(self._before)
        for earlier in range(number):
            left += [*(fillings[earlier] or (BLANK,)), *self._after[earlier]]
        if START in left:
            left = left[len(left) - left[::-1].index(START) :]
        right: list[int] = []
        for later in range(number, len(self._slots)):
            right += self._lines[later]
            if self._slots[later].line_ends:
                break
            right += fillings[later + 1] or (BLANK,)
        return (START, *left[-CONTEXT:]), tuple(right[:CONTEXT])

    def _search(
        self, number: int, left: tuple[int, ...], right: tuple[int, ...]
    ) -> Decoder[list[_Word]]:
        """The most probable words of each length that is tried."""
        tokenizer, takes = self._resources.tokenizer, self._slots[number].takes
        width = max(WIDTH, self._top_k)
        found: dict[str, _Word] = {}
        for length, share in enumerate(LENGTHS, start=1):
            beam: list[tuple[tuple[int, ...], float]] = [((), float(np.log(share)))]
            for position in range(length):
                rows = yield from ask(
                    [self._step(left, tokens, length, right) for tokens, _ in beam]
                )
                masses = np.stack(
                    [row + np.float32(mass) for row, (_, mass) in zip(rows, beam, strict=True)]
                )
                grown = []
                # Tokens that do not continue the word are passed over, so more are looked at than are kept.
                for place in largest(masses.ravel(), 4 * width, -np.inf).tolist():
                    row, token = divmod(place, masses.shape[1])
                    tokens = (*beam[row][0], token)
                    if position == 0 or tokenizer.joins(*tokens[-2:]):
                        grown.append((tokens, float(masses[row, token])))
                beam = grown[: 4 * width if position + 1 == length else width]
                if not beam:
                    break
            for tokens, mass in beam:
                text = tokenizer.decode(tokens)
                word = text.strip()
                if any(map(str.isalnum, word)) and "\ufffd" not in word and takes(text):
                    before = found.get(word)
                    found[word] = (
                        _Word(word, mass, tokens) if before is None else _both(before, mass, tokens)
                    )
        return sorted(found.values(), key=lambda each: -each.mass)[: max(self._top_k, width)]

    def _score(
        self, number: int, left: tuple[int, ...], right: tuple[int, ...]
    ) -> Decoder[list[_Word]]:
        """Every choice, by all that spells it."""
        tokenizer, slot = self._resources.tokenizer, self._slots[number]
        spelled = [
            (word, tuple(tokenizer.encode(text)))
            for word in (self._choices or [])[number]
            for text in slot.spellings(word)
        ]
        steps = {(tokens[:k], len(tokens)) for _, tokens in spelled for k in range(len(tokens))}
        asked = sorted(steps)
        rows = yield from ask([self._step(left, tokens, length, right) for tokens, length in asked])
        answers = dict(zip(asked, rows, strict=True))
        found: dict[str, _Word] = {}
        for word, tokens in spelled:
            length = len(tokens)
            mass = float(np.log(LENGTHS[min(length, len(LENGTHS)) - 1]))
            mass += max(0, length - len(LENGTHS)) * float(np.log(LONGER))
            mass += sum(float(answers[tokens[:k], length][token]) for k, token in enumerate(tokens))
            before = found.get(word)
            found[word] = (
                _Word(word, mass, tokens) if before is None else _both(before, mass, tokens)
            )
        return list(found.values())

    @staticmethod
    def _step(
        left: tuple[int, ...], tokens: tuple[int, ...], length: int, right: tuple[int, ...]
    ) -> Fill:
        """Ask for the token after *tokens* in a span of *length*."""
        return Fill(
            (*left, *tokens, *[BLANK] * (length - len(tokens)), *right), len(left) + len(tokens)
        )


def _both(word: _Word, mass: float, tokens: tuple[int, ...]) -> _Word:
    """A word that is spelt in a further way."""
    best = tokens if mass > word.mass else word.tokens
    return _Word(word.word, float(np.logaddexp(word.mass, mass)), best)
