"""Which gaps a row of text is asked for, and where blanks stand in its contexts. Numpy only; no torch.

A row is y_1 … y_L (1-based, as in docs/architecture.md). A gap [a, j) asks for y_a … y_{j-1}; its left context is
the forward tower's state after y_{a-1}, its right context the backward tower's state after y_j.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model.config import SPAN, TOKEN, WORD
from model.tokenizer import Tokenizer

MAX_GAP = 8
WORD_SHARE, TOKEN_SHARE = (
    0.6,
    0.2,
)  # of the draws, see sample_gaps; the rest are spans of 2 to 8 tokens


@dataclass(frozen=True, slots=True)
class TokenFlags:
    """What gap sampling knows of each token, (V,) bool each.

    Attributes:
        ends_letter: its last character continues a word of a spaced script.
        starts_letter: its first character does, or it is the lone space that ends a word (`Tokenizer.continues_word`).
        has_word_character: it holds a letter, a digit or a Han character.
        ends_word: its surface ends with a space.
        characters: (V,) int64, code points of its surface; a byte token counts 1 where it begins a character.
    """

    ends_letter: NDArray[np.bool_]
    starts_letter: NDArray[np.bool_]
    has_word_character: NDArray[np.bool_]
    ends_word: NDArray[np.bool_]
    characters: NDArray[np.int64]

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> "TokenFlags":
        """Read the flags off a vocabulary."""
        worded = np.array(
            [any(c.isalnum() for c in surface) for surface in tokenizer.surfaces], dtype=np.bool_
        )
        worded |= tokenizer.byte_values >= 0
        lengths = np.array([len(surface) for surface in tokenizer.surfaces], dtype=np.int64)
        lengths += (tokenizer.byte_values >= 0) & ((tokenizer.byte_values & 0xC0) != 0x80)
        return cls(
            tokenizer.ends_letter, tokenizer.continues_word, worded, tokenizer.ends_word, lengths
        )

    def word_starts(self, tokens: NDArray[np.int64]) -> NDArray[np.int64]:
        """0-based positions in a row at which a word starts, plus its length at the end: words are [s_n, s_{n+1})."""
        joined = self.ends_letter[tokens[:-1]] & self.starts_letter[tokens[1:]]
        inner = np.flatnonzero(~joined) + 1
        return np.concatenate([[0], inner, [len(tokens)]]).astype(np.int64)


@dataclass(frozen=True, slots=True)
class Gap:
    """Tokens [start, end) of a row, 0-based, and the kind asked for."""

    start: int
    end: int
    kind: int


def sample_gaps(
    tokens: NDArray[np.int64],
    flags: TokenFlags,
    cuts: tuple[int, int],
    per_token: float,
    rng: np.random.Generator,
    breaks: NDArray[np.bool_] | None = None,
) -> list[Gap]:
    """Draw gaps of a row: words, single tokens, spans of 2 to 8 tokens, and those of its cuts.

    Kinds are drawn 60 : 20 : 20, at a place that is uniform over tokens: a word of three tokens is drawn three times as
    often as one of one. Draws that give no gap are dropped and not made up for: words that begin with punctuation or
    exceed 8 tokens, spans at the last token. On 3,000 lines of each source of the bundled recipe that leaves words,
    tokens and spans 57 : 22 : 21 of 100 in Chinese (9 % of the draws dropped) and 58 : 21 : 21 in English (6 %); gaps
    of cuts come on top, 2 and 3 for every 100 draws.

    Args:
        tokens: (L,), the row.
        flags: of the vocabulary.
        cuts: token offsets at which the line was cut before it was encoded; -1 for none.
        per_token: gaps for each token of the row, at least one gap a row.
        rng: source of chance.
        breaks: (L,) bool, tokens that no gap may hold, such as line boundaries inside a window.
    """
    length = len(tokens)
    count = max(1, round(per_token * length + rng.random() - 0.5))
    starts = rng.integers(0, length, count)
    words = flags.word_starts(tokens)
    draws = rng.random(count)
    gaps = []
    for start, draw in zip(starts.tolist(), draws.tolist(), strict=True):
        if draw < WORD_SHARE:
            n = int(np.searchsorted(words, start, side="right")) - 1
            begin, end = int(words[n]), int(words[n + 1])
            if end - begin <= MAX_GAP and flags.has_word_character[tokens[begin]]:
                gaps.append(Gap(begin, end, WORD))
        elif draw < WORD_SHARE + TOKEN_SHARE:
            gaps.append(Gap(start, start + 1, TOKEN))
        else:
            end = min(length, start + int(rng.integers(2, MAX_GAP + 1)))
            if end - start >= 2:
                gaps.append(Gap(start, end, SPAN))
    gaps += _gaps_of_cuts(tokens, words, flags, cuts)
    return [g for g in gaps if breaks is None or not breaks[g.start : g.end].any()]


def _gaps_of_cuts(
    tokens: NDArray[np.int64], words: NDArray[np.int64], flags: TokenFlags, cuts: tuple[int, int]
) -> list[Gap]:
    first, second = cuts
    if first < 0 or first >= len(tokens):
        return []
    if second < 0:  # one cut: the word, or the rest of one, that begins there
        n = int(np.searchsorted(words, first, side="right")) - 1
        second = int(words[n + 1])
    second = min(second, len(tokens))
    if not 0 < second - first <= MAX_GAP:
        return []
    several_words = flags.ends_word[tokens[first : second - 1]].any()
    return [Gap(first, second, SPAN if several_words else WORD)]


def sample_blank(
    tokens: NDArray[np.int64],
    flags: TokenFlags,
    rng: np.random.Generator,
    breaks: NDArray[np.bool_] | None = None,
) -> tuple[int, int] | None:
    """A word [start, end), 0-based, for a tower to read as one ``<blank>``; None where the row has none to spare."""
    if len(tokens) < 4:
        return None
    words = flags.word_starts(tokens)
    n = int(rng.integers(0, len(words) - 1))
    start, end = int(words[n]), int(words[n + 1])
    if (
        end - start > MAX_GAP
        or end - start == len(tokens)
        or (breaks is not None and breaks[start:end].any())
    ):
        return None
    return start, end
