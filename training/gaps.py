"""Which gaps a row of text is asked for, and where blanks stand in its contexts. Numpy only; no torch.

A row is y_1 … y_L (1-based, as in docs/architecture.md). A gap [a, j) asks for y_a … y_{j-1}; its left context is
the forward tower's state after y_{a-1}, its right context the backward tower's state after y_j.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model.config import PIECE, SPAN, WORD
from model.vocabulary import Vocabulary

LONGEST_GAP = 8
WORD_SHARE, PIECE_SHARE = 0.6, 0.2  # of the draws, see sample_gaps; the rest are spans of 2 to 8 pieces


@dataclass(frozen=True, slots=True)
class PieceFlags:
    """What gap sampling knows of each piece, (V,) bool each.

    Attributes:
        ends_letter: its last character continues a word of a spaced script.
        starts_letter: its first character does, or it is the lone space that ends a word (`Vocabulary.continues_word`).
        has_word_character: it holds a letter, a digit or a Han character.
        ends_word: its surface ends with a space.
        characters: (V,) int64, code points of its surface; a byte piece counts 1 where it begins a character.
    """

    ends_letter: NDArray[np.bool_]
    starts_letter: NDArray[np.bool_]
    has_word_character: NDArray[np.bool_]
    ends_word: NDArray[np.bool_]
    characters: NDArray[np.int64]

    @classmethod
    def of(cls, vocabulary: Vocabulary) -> "PieceFlags":
        """Read the flags off a vocabulary."""
        worded = np.array([any(c.isalnum() for c in surface) for surface in vocabulary.surfaces], dtype=np.bool_)
        worded |= vocabulary.byte_values >= 0
        lengths = np.array([len(surface) for surface in vocabulary.surfaces], dtype=np.int64)
        lengths += (vocabulary.byte_values >= 0) & ((vocabulary.byte_values & 0xC0) != 0x80)
        return cls(vocabulary.ends_letter, vocabulary.continues_word, worded, vocabulary.ends_word, lengths)

    def word_starts(self, pieces: NDArray[np.int64]) -> NDArray[np.int64]:
        """0-based positions in a row at which a word starts, plus its length at the end: words are [s_n, s_{n+1})."""
        joined = self.ends_letter[pieces[:-1]] & self.starts_letter[pieces[1:]]
        inner = np.flatnonzero(~joined) + 1
        return np.concatenate([[0], inner, [len(pieces)]]).astype(np.int64)


@dataclass(frozen=True, slots=True)
class Gap:
    """Pieces [start, end) of a row, 0-based, and the kind asked for."""

    start: int
    end: int
    kind: int


def sample_gaps(
    pieces: NDArray[np.int64],
    flags: PieceFlags,
    cuts: tuple[int, int],
    per_piece: float,
    one_piece_only: bool,
    rng: np.random.Generator,
    breaks: NDArray[np.bool_] | None = None,
) -> list[Gap]:
    """Draw gaps of a row: words, single pieces, spans of 2 to 8 pieces, and those of its cuts.

    Kinds are drawn 60 : 20 : 20, at a place that is uniform over pieces: a word of three pieces is drawn three times as
    often as one of one. Draws that give no gap are dropped and not made up for: words that begin with punctuation or
    exceed 8 pieces, spans at the last piece. On 3,000 lines of each source of the bundled recipe that leaves words,
    pieces and spans 57 : 22 : 21 of 100 in Chinese (9 % of the draws dropped) and 58 : 21 : 21 in English (6 %); gaps
    of cuts come on top, 2 and 3 for every 100 draws.

    Args:
        pieces: (L,), the row.
        flags: of the vocabulary.
        cuts: piece offsets at which the line was cut before it was encoded; -1 for none.
        per_piece: gaps for each piece of the row, at least one gap a row.
        one_piece_only: draw single pieces only.
        rng: source of chance.
        breaks: (L,) bool, pieces that no gap may hold, such as line boundaries inside a window.
    """
    length = len(pieces)
    count = max(1, round(per_piece * length + rng.random() - 0.5))
    starts = rng.integers(0, length, count)
    if one_piece_only:
        gaps = [Gap(int(s), int(s) + 1, PIECE) for s in starts]
        return [g for g in gaps if breaks is None or not breaks[g.start]]
    words = flags.word_starts(pieces)
    draws = rng.random(count)
    gaps = []
    for start, draw in zip(starts.tolist(), draws.tolist(), strict=True):
        if draw < WORD_SHARE:
            n = int(np.searchsorted(words, start, side="right")) - 1
            begin, end = int(words[n]), int(words[n + 1])
            if end - begin <= LONGEST_GAP and flags.has_word_character[pieces[begin]]:
                gaps.append(Gap(begin, end, WORD))
        elif draw < WORD_SHARE + PIECE_SHARE:
            gaps.append(Gap(start, start + 1, PIECE))
        else:
            end = min(length, start + int(rng.integers(2, LONGEST_GAP + 1)))
            if end - start >= 2:
                gaps.append(Gap(start, end, SPAN))
    gaps += _gaps_of_cuts(pieces, words, flags, cuts)
    return [g for g in gaps if breaks is None or not breaks[g.start : g.end].any()]


def _gaps_of_cuts(
    pieces: NDArray[np.int64], words: NDArray[np.int64], flags: PieceFlags, cuts: tuple[int, int]
) -> list[Gap]:
    first, second = cuts
    if first < 0 or first >= len(pieces):
        return []
    if second < 0:  # one cut: the word, or the rest of one, that begins there
        n = int(np.searchsorted(words, first, side="right")) - 1
        second = int(words[n + 1])
    second = min(second, len(pieces))
    if not 0 < second - first <= LONGEST_GAP:
        return []
    several_words = flags.ends_word[pieces[first : second - 1]].any()
    return [Gap(first, second, SPAN if several_words else WORD)]


def sample_blank(
    pieces: NDArray[np.int64], flags: PieceFlags, rng: np.random.Generator, breaks: NDArray[np.bool_] | None = None
) -> tuple[int, int] | None:
    """A word [start, end), 0-based, for a tower to read as one ``<blank>``; None where the row has none to spare."""
    if len(pieces) < 4:
        return None
    words = flags.word_starts(pieces)
    n = int(rng.integers(0, len(words) - 1))
    start, end = int(words[n]), int(words[n + 1])
    if end - start > LONGEST_GAP or end - start == len(pieces) or (breaks is not None and breaks[start:end].any()):
        return None
    return start, end
