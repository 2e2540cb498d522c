"""An upper bound of the memory that a decoder keeps while its steps wait, from lengths alone.

States, outputs and distributions count exactly; tokens and other objects by their largest size. The
rows of the call that is running are not included: its decoders drop them at once.
"""

from collections.abc import Sequence
from typing import cast

from model.batching import CHUNK_TOKENS
from model.completions import CompletionQuery
from model.config import Sizes
from model.decoding.after import MAX_AFTER, WEIGHED
from model.decoding.blank_words import MAX_ADDED
from model.decoding.blanks import count_blanks
from model.decoding.cache_lm import MAX_TOKENS
from model.decoding.cloze import BEAM, KEPT, MANY, SEARCHED, SEARCHED_BLIND
from model.decoding.completion import MAX_SPELLINGS, cloze_of
from model.decoding.masked import FILL_ROWS, MAX_REACH, WIDTH
from model.decoding.next_token import MAX_MIXED, MAX_NODES
from model.decoding.phrases import PHRASES
from model.decoding.score import ROWS
from model.decoding.span_search import (
    EXTENDED,
    FEW,
    FIRST_WIDTH,
    GIVEN_LINES,
    GIVEN_TOKENS,
    MAX_SPAN,
)
from model.queries import ClozeQuery, Limits, PredictQuery, Query, ScoreQuery

# Objects of any decoder, with its counts of recent tokens, and of a candidate, span or choice.
DECODER, COUNTS, OBJECT = 16_000, 30 * MAX_TOKENS, 600
# A code point and its tokens, in ASCII and in any text. A learned token takes 36 bytes, a byte
# token 9, and the normal form of one character has at most 12 bytes of UTF-8.
ASCII_CHARACTER, CHARACTER = 45, 125
# A code point of a history, in ASCII and in any text: as sent, as read, in lower case. A word of a
# lexicon, or a blocked one.
ASCII_HISTORY, HISTORY, LISTED_WORD = 3, 12, 1_500
# Tables of tokens and words that are compared with one that is misspelt.
COMPARISONS = 2_000_000
# A word for a blank in an answer, and a code point of a text with the details of its tokens.
FILLING, DETAIL = 150, 700
# One of the most probable tokens at a place, with its text.
LISTED_TOP = 160


class PeakBytes:
    """Computes the bounds for networks of some *sizes*, for queries within *limits*."""

    def __init__(self, sizes: Sizes, limits: Limits) -> None:
        self._limits = limits
        self._architecture = sizes.architecture
        self._row = 4 * sizes.vocabulary_size
        self._output = 4 * sizes.output_size("forward")
        self._state = 4 * sizes.state_size("forward")
        self._backward = 4 * sizes.state_size("backward")
        self._predict = (MAX_NODES + 2) * (self._state + self._row) + MAX_MIXED * self._row
        self._score = CHUNK_TOKENS * (self._output + OBJECT) + 4 * self._state
        self._score += 2 * ROWS * (self._state + OBJECT)  # what precedes a text

    def of(self, query: Query) -> int:
        """Return the bound for one query, in bytes."""
        text = query.text
        fixed = DECODER + min(_size([text]), CHARACTER * self._limits.characters)
        if isinstance(query, ScoreQuery):
            return fixed + self._score + self._context(query)
        if isinstance(query, CompletionQuery):
            return fixed + COUNTS + self._completion(query)
        memory = COUNTS + self._writer(query)
        if isinstance(query, PredictQuery):
            candidates = 10 * OBJECT * min(query.top_k, self._limits.top_k)
            searches = 1 + (PHRASES if query.words > 1 else query.letters or query.corrections > 0)
            if query.after:
                memory += WEIGHED * (self._state + MAX_AFTER * (self._output + OBJECT))
            if query.corrections:  # words and tables
                memory += 4 * self._writer(query) + fixed + COMPARISONS
            return searches * (fixed + self._predict) + memory + candidates
        return 2 * fixed + memory + self._cloze(query)

    def _writer(self, query: PredictQuery | ClozeQuery) -> int:
        """Return the bytes of the writer's texts and words, as if its texts did not share it."""
        character = ASCII_HISTORY if query.history.isascii() else HISTORY
        words = sum([min(len(each), self._limits.lexicon) for each in (query.lexicon, query.block)])
        return character * min(len(query.history), self._limits.history) + LISTED_WORD * words

    def _context(self, query: ScoreQuery) -> int:
        """Return the bytes of a context, and of the details of a text."""
        characters = min(len(query.text), self._limits.characters) if query.details else 0
        context = min(_size([query.context]), CHARACTER * self._limits.characters)
        return DETAIL * characters + context

    def _completion(self, query: CompletionQuery) -> int:
        """Return the bytes of prompt and completion, whose tokens may be listed with others."""
        count = min(query.max_tokens, self._limits.tokens)
        work = self._predict + 3 * MAX_SPELLINGS * (self._row + self._state)
        if query.suffix:
            work = self._cloze(cloze_of(query))
        if query.echo and query.top is not None:
            characters = min(len(query.text), self._limits.characters)
            count += len(query.tokens) + (CHARACTER // ASCII_CHARACTER + 1) * characters
            work += self._score
        listed = 0 if query.top is None else OBJECT + LISTED_TOP * query.top
        return work + count * (OBJECT + listed) + ASCII_CHARACTER * len(query.tokens)

    def _cloze(self, query: ClozeQuery) -> int:
        blanks = min(count_blanks(query), self._limits.blanks)
        joint = BEAM if 1 < blanks <= MANY else 1
        if query.choices is None:
            work, shown = self._open(blanks > 1, joint)
        else:
            shared = not query.choices or isinstance(query.choices[0], str)
            lists = cast("Sequence[Sequence[str]]", [query.choices] if shared else query.choices)
            shown = min(self._limits.choices, max(map(len, lists)))
            characters = min(max(map(_size, lists)), CHARACTER * self._limits.choice_characters)
            work = self._given(shown, characters) * joint
            work += 0 if shared else sum(map(_size, lists))  # what fills each blank
        fillings = min(query.fillings, self._limits.fillings) * (OBJECT + 16 * blanks)
        return blanks * (FILLING * shown + self._backward + OBJECT) + fillings + work

    def _open(self, several: bool, joint: int) -> tuple[int, int]:
        """Return the bytes of a search for words, and the most words that it finds."""
        if self._architecture == "stacked_bidirectional":
            return WIDTH * (12 * OBJECT + 16 * MAX_REACH), WIDTH
        two_towers = self._architecture == "two_towers"
        wanted, kept = (SEARCHED, KEPT) if two_towers else (SEARCHED_BLIND, 2 * SEARCHED_BLIND)
        work, rows = self._search(wanted, kept)
        words = rows + MAX_SPAN * wanted + MAX_ADDED
        if several:  # the rows of one filling may wait for those of another
            searched, rows = self._search(BEAM, KEPT)
            work = max(work, joint * (searched + rows * self._row))
        return work, words

    def _search(self, wanted: int, kept: int) -> tuple[int, int]:
        """Return the bytes of a search for words, and the most rows that it requests at once."""
        rows = max(wanted, kept, FIRST_WIDTH * min(wanted, FEW))
        spans = 2 * rows * self._state + (rows + MAX_SPAN * wanted + MAX_ADDED) * OBJECT
        work = max(spans, self._lines(rows, MAX_SPAN + 1))
        return work + rows * self._state + 2 * self._row, rows  # with states after first tokens

    def _lines(self, lines: int, length: int) -> int:
        """Return the bytes that scoring given lines takes, and those that are extended."""
        lines = min(GIVEN_LINES, lines)
        outputs = lines * min(GIVEN_TOKENS, length) * (self._output + 2 * OBJECT)
        return (2 * lines + EXTENDED) * self._state + outputs

    def _given(self, choices: int, characters: int) -> int:
        """Return the bytes of choices with some bytes of text in all, each spelled in two ways."""
        objects = 2 * (choices * OBJECT + characters)
        if self._architecture == "stacked_bidirectional":
            return objects + FILL_ROWS * 32 * MAX_REACH
        return objects + self._lines(2 * choices, characters) + 2 * self._row


def _size(texts: Sequence[str]) -> int:
    """Return an upper bound of the bytes of texts and their tokens."""
    return sum(len(text) * (ASCII_CHARACTER if text.isascii() else CHARACTER) for text in texts)
