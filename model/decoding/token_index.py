"""The tokens of a vocabulary by spelling, stable boundaries of a text, and token healing.

Spellings are bytes of UTF-8, so byte tokens and learned tokens are one case. In a sorted list, all
tokens that begin with the same bytes are a slice: it does the work of a trie.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from model.tokenizer import START, Tokenizer

# Cached results: of look-ups, and of healing, for texts of at most MAX_CACHED characters, as words
# recur. All users of a checkpoint share these caches: if somebody typed a word before shows in tens
# of microseconds and in nothing else. All caches together take at most some 50 MB.
LOOKUPS, HEALED_TEXTS, CHARACTER_LISTS, MAX_CACHED = 1 << 14, 1 << 12, 1 << 10, 32
# Next characters that are none: the end of a line, and one that is spelled in several bytes.
END_OF_LINE, UNKNOWN_CHARACTER = "\n", ""


class TokenIndex:
    """The tokens of a vocabulary by their spelling; built once per vocabulary."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        spellings = [surface.encode() for surface in tokenizer.surfaces]
        for token in np.flatnonzero(tokenizer.byte_values >= 0).tolist():
            spellings[token] = bytes([int(tokenizer.byte_values[token])])
        tokens = [token for token, spelling in enumerate(spellings) if spelling]
        tokens.sort(key=spellings.__getitem__)
        self._tokenizer = tokenizer
        # Tokens that spell something, by their spelling.
        self.tokens = np.array(tokens, dtype=np.int64)
        self._sorted = [spellings[token] for token in tokens]
        self._by_spelling: dict[bytes, list[int]] = {}
        for token in tokens:
            self._by_spelling.setdefault(spellings[token], []).append(token)
        self.longest = max(map(len, self._sorted))  # bytes of the longest token
        self.is_byte = tokenizer.byte_values >= 0  # (V,)
        # Neighbours inside a token. Between two other characters every encoding has a boundary.
        self._pairs = {
            surface[n : n + 2] for surface in tokenizer.surfaces for n in range(len(surface) - 1)
        }
        self._encode_cached = lru_cache(LOOKUPS)(tokenizer.encode)
        # Tokens that begin with some bytes and are longer, (n,).
        self.extensions = lru_cache(LOOKUPS)(self._extensions)
        # Tokens with which some bytes begin, themselves included.
        self.prefixes = lru_cache(LOOKUPS)(self._prefixes)
        # The characters after some bytes in these, and the number of that of each, (n,).
        self.characters_after = lru_cache(CHARACTER_LISTS)(self._characters_after)
        self._heal_cached = lru_cache(HEALED_TEXTS)(self._heal)
        spellings[START] = b"\n"
        # By id, the bytes that a token adds to a text; none for other control tokens.
        self.spellings = spellings

    def _extensions(self, prefix: bytes) -> NDArray[np.int64]:
        # 0xFF occurs in no UTF-8, so it sorts after every continuation of the prefix.
        first = bisect_right(self._sorted, prefix)
        return self.tokens[first : bisect_left(self._sorted, prefix + b"\xff", first)]

    def _characters_after(self, prefix: bytes) -> tuple[list[str], NDArray[np.int64]]:
        """Without bytes, take all tokens by id: the end of a line, or a byte, has no surface."""
        if prefix:
            cut = [self.spellings[token][len(prefix) :] for token in self.extensions(prefix)]
            found = [rest.decode()[0] for rest in cut]
        else:
            found = [
                surface[:1] or (spelling.decode() if spelling.isascii() else UNKNOWN_CHARACTER)
                for surface, spelling in zip(self._tokenizer.surfaces, self.spellings, strict=True)
            ]
        characters, numbers = np.unique(np.array(found, dtype="U1"), return_inverse=True)
        return characters.tolist(), numbers

    def _prefixes(self, text: bytes) -> Sequence[int]:
        found: list[int] = []
        for length in range(1, min(len(text), self.longest) + 1):
            found += self._by_spelling.get(text[:length], ())
        return found

    def is_stable_boundary(self, text: str, position: int) -> bool:
        """Return True if no token can cross *position*, 0 < position < len(text)."""
        return text[position - 1 : position + 1] not in self._pairs

    def last_stable_boundary(self, text: str, start: int = 0) -> int:
        """Return the last stable boundary inside *text* after *start*; *start* if there is none."""
        for position in range(len(text) - 1, start, -1):
            if text[position - 1 : position + 1] not in self._pairs:
                return position
        return start

    def encode(self, text: str) -> list[int]:
        """Encode normalised text, one stretch between stable boundaries at a time.

        So the tokens of a stretch depend on nothing else. The encoding of a long text sums many
        scores in float32, and rounding decides between almost equal encodings.
        """
        pairs, start = self._pairs, 0
        tokens: list[int] = []
        for position in range(1, len(text) + 1):
            if position == len(text) or text[position - 1 : position + 1] not in pairs:
                tokens += self.encode_whole(text[start:position])
                start = position
        return tokens

    def encode_whole(self, text: str) -> list[int]:
        """Encode normalised text at once. The list is shared: do not change it."""
        return (self._encode_cached if len(text) <= MAX_CACHED else self._tokenizer.encode)(text)

    def heal(self, text: str) -> tuple[Sequence[int], Sequence[int], bytes]:
        """Return tokens before the cut, tokens of the rest, and the rest itself (token healing).

        The cut is the last point of the text that nothing typed later can move.
        A token that crosses the end of *text* may begin before the last token of its encoding. The
        text before it is then encoded as if it ended there. So the cut is the last boundary that
        the encodings of *text* and of all these beginnings share. In Latin text it is at most the
        start of the unfinished word; after a space it is the end of the text.
        """
        return self._heal_cached(text) if len(text) <= MAX_CACHED else self._heal(text)

    def _heal(self, text: str) -> tuple[Sequence[int], Sequence[int], bytes]:
        tokens = self._tokenizer.encode(text)
        data = text.encode()
        if len(data) < self.longest and len(self.extensions(data)):
            return [], tokens, data
        # No token holds a line end, so nothing before the last one matters.
        tail = data[max(0, len(data) - self.longest) :].rpartition(b"\n")[2]
        # Positions are bytes from the end. First those at which a crossing token may begin.
        crossing = [
            len(tail) - start
            for start, byte in enumerate(tail)
            if byte & 0xC0 != 0x80 and len(self.extensions(tail[start:]))
        ]
        if not crossing:
            return tokens, [], b""
        # Token boundaries, back to well before the first of these, but none inside a character.
        numbers: dict[int, int] = {}
        position, number = 0, len(tokens)
        reach = crossing[0] + 2 * self.longest
        while number > 0 and tokens[number - 1] != START and position < reach:
            number -= 1
            position += len(self.spellings[tokens[number]])
            numbers[position] = number
        shared = {position for position in numbers if data[-position] & 0xC0 != 0x80}
        first = max(shared)
        for start in crossing:
            beginning = data[len(data) - first : len(data) - start].decode()
            lengths = [len(self.spellings[token]) for token in self._tokenizer.encode(beginning)]
            shared &= {first - length for length in accumulate(lengths, initial=0)}
        cut = min(shared)
        return tokens[: numbers[cut]], tokens[numbers[cut] :], data[len(data) - cut :]
