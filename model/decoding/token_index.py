"""Which tokens can stand where: a vocabulary sorted by spelling, and token healing's choice of where to begin.

Spelling is in bytes of UTF-8, so that byte tokens and learned tokens are one case. Sorted by it, all tokens that begin
with the same bytes stand side by side: what a trie would find is a slice. No networks here.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from model.tokenizer import START, Tokenizer

# Stretches whose tokens are remembered, of at most so many characters, and stretches whose cut is. All who use a
# checkpoint share these, as words recur: whether a stretch was typed before shows in tens of microseconds, and in
# nothing else. Together they take at most some 50 MB.
STRETCHES, REMEMBERED, CUTS = 1 << 14, 32, 1 << 12


class TokenIndex:
    """The tokens of a vocabulary by their spelling; built once per vocabulary.

    Attributes:
        spellings: by id, the bytes a token adds to a text; empty for control tokens, a line end for ``<s>``.
        longest: bytes of the longest learned token.
        starts_letter: (V,) float32, 1 for tokens that continue a word: a product masks a row faster than an index does.
        is_byte: (V,) float32, 1 for byte tokens.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        spellings = [surface.encode() for surface in tokenizer.surfaces]
        for token in np.flatnonzero(tokenizer.byte_values >= 0).tolist():
            spellings[token] = bytes([int(tokenizer.byte_values[token])])
        tokens = sorted(
            (token for token, spelling in enumerate(spellings) if spelling),
            key=spellings.__getitem__,
        )
        self._sorted = [spellings[token] for token in tokens]
        self._tokens = np.array(tokens, dtype=np.int64)
        self._spelled: dict[bytes, list[int]] = {}
        for token in tokens:
            self._spelled.setdefault(spellings[token], []).append(token)
        self.longest = max(map(len, self._sorted))
        self.starts_letter = tokenizer.starts_letter.astype(np.float32)
        self.is_byte = (tokenizer.byte_values >= 0).astype(np.float32)
        # Two characters that stand side by side in no token are never in one token.
        self._pairs = {
            surface[n : n + 2] for surface in tokenizer.surfaces for n in range(len(surface) - 1)
        }
        # Words recur: what a stretch is encoded as is remembered, by all who share the vocabulary.
        self._remembered = lru_cache(maxsize=STRETCHES)(lambda text: tuple(tokenizer.encode(text)))
        self._extended = lru_cache(maxsize=STRETCHES)(self._extending)
        self._begun = lru_cache(maxsize=STRETCHES)(self._prefixes)
        self._healed = lru_cache(maxsize=CUTS)(self._heal)
        spellings[START] = b"\n"
        self.spellings = spellings

    def extending(self, prefix: bytes) -> NDArray[np.int64]:
        """Ids of the tokens that begin with *prefix* (not empty) and go on."""
        return self._extended(prefix) if len(prefix) < self.longest else self._tokens[:0]

    def _extending(self, prefix: bytes) -> NDArray[np.int64]:
        # 0xFF occurs in no UTF-8, so it sorts after everything that goes on from the prefix.
        first = bisect_right(self._sorted, prefix)
        return self._tokens[first : bisect_left(self._sorted, prefix + b"\xff", first)]

    def prefixes(self, target: bytes) -> Sequence[int]:
        """Ids of the tokens that *target* begins with, those that equal it included."""
        return self._begun(target[: self.longest])

    def _prefixes(self, target: bytes) -> Sequence[int]:
        spelled = self._spelled
        return tuple(
            token
            for length in range(1, len(target) + 1)
            for token in spelled.get(target[:length], ())
        )

    def is_seam(self, text: str, position: int) -> bool:
        """Whether no token can reach over *position*, 0 < position < len(text): a boundary whatever else is typed."""
        return text[position - 1 : position + 1] not in self._pairs

    def last_seam(self, text: str, start: int = 0) -> int:
        """The last seam inside *text* after *start*; *start* where there is none."""
        pairs = self._pairs
        for position in range(len(text) - 1, start, -1):
            if text[position - 1 : position + 1] not in pairs:
                return position
        return start

    def encode(self, text: str) -> list[int]:
        """Encode normalised text stretch by stretch, cut at its seams.

        The tokens of a stretch depend on nothing outside of it. Encoding the whole at once may choose another of two
        all but equally good ways, as sums of scores are rounded the more the longer they are.
        """
        pairs, start = self._pairs, 0
        tokens: list[int] = []
        for position in range(1, len(text)):
            if text[position - 1 : position + 1] not in pairs:
                tokens += self._stretch(text[start:position])
                start = position
        return tokens + list(self._stretch(text[start:]))

    def _stretch(self, text: str) -> Sequence[int]:
        return self._remembered(text) if len(text) <= REMEMBERED else self._tokenizer.encode(text)

    def heal(self, text: str) -> tuple[Sequence[int], Sequence[int], bytes]:
        """Cut a text at the last point that nothing typed after it can move.

        A token that reaches over the end of *text* may begin earlier than the last token of its encoding does, and
        makes the text before itself encode as if it ended there. So the cut is the last boundary that the encodings
        of *text* and of all those beginnings share. In Latin text that is at most the start of the unfinished word;
        after a space it is the very end.

        Args:
            text: normalised text.

        Returns:
            Tokens before the cut; the tokens that encode the rest; the rest itself. Together they encode *text*.
        """
        return self._healed(text) if len(text) <= REMEMBERED else self._heal(text)

    def _heal(self, text: str) -> tuple[Sequence[int], Sequence[int], bytes]:
        tokens = self._tokenizer.encode(text)
        data = text.encode()
        if self._is_extended(data):
            return [], tokens, data
        # No token holds a line end, so nothing before the last one can matter.
        tail = data[max(0, len(data) - self.longest) :].rpartition(b"\n")[2]
        reaching = [
            len(tail) - start
            for start in _character_starts(tail)
            if self._is_extended(tail[start:])
        ]
        if not reaching:
            return tokens, [], b""
        # All offsets count bytes from the end. Walk back to a boundary well before the first of those beginnings.
        boundaries: dict[int, int] = {}
        offset, number = 0, len(tokens)
        while (
            number > 0 and tokens[number - 1] != START and offset < reaching[0] + 2 * self.longest
        ):
            number -= 1
            offset += len(self.spellings[tokens[number]])
            boundaries[offset] = number
        # A boundary inside a character that is spelled in bytes is no place to cut.
        shared = {boundary for boundary in boundaries if data[-boundary] & 0xC0 != 0x80}
        first = max(shared)
        for start in reaching:
            shared &= self._boundaries(data[len(data) - first : len(data) - start].decode(), first)
        cut = min(shared)
        return tokens[: boundaries[cut]], tokens[boundaries[cut] :], data[len(data) - cut :]

    def _boundaries(self, text: str, offset: int) -> set[int]:
        """Boundaries of the encoding of *text*, which begins *offset* bytes before the end of something longer."""
        found = {offset}
        for token in self._tokenizer.encode(text):
            offset -= len(self.spellings[token])
            found.add(offset)
        return found

    def _is_extended(self, prefix: bytes) -> bool:
        return len(self.extending(prefix)) > 0


def _character_starts(data: bytes) -> list[int]:
    return [offset for offset, byte in enumerate(data) if byte & 0xC0 != 0x80]
