"""Text to token ids and back, without loss; trained by ``training/data/train_tokenizer.py``.

A token is a SentencePiece unigram unit. A space belongs to the word before it, so a Latin token
shows if its word ends: ``go to the `` -> ``go▁ to▁ the▁`` but ``go to the`` -> ``go▁ to▁ the``
(docs/decisions/0002-tokenizer.md).

The ids, in order: five control tokens that no text produces, 256 byte tokens for characters without
a token, then the learned tokens.
"""

import hashlib
import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import sentencepiece

from model.errors import TokenizerError
from model.text import is_word_character

UNKNOWN, START, END, BLANK, END_OF_GAP = 0, 1, 2, 3, 4
CONTROL_TOKENS = ("<unk>", "<s>", "</s>", "<blank>", "<eog>")
# No head proposes these; a gap may end in <eog>.
NEVER_PREDICTED = (UNKNOWN, START, END, BLANK)
# SentencePiece writes a space as this character, so the real character is spelled in bytes.
SPACE_MARK = "\u2581"
FIRST_BYTE = len(CONTROL_TOKENS)
MAX_TOKEN_LENGTH = 64  # training makes at most 16
MAX_TOKENS = 1 << 16  # prepared data have ids of 16 bits

# Characters that SentencePiece would lose: a line end (our <s>) and the real U+2581.
_LOSSY = re.compile(f"([\n{SPACE_MARK}])")


class Tokenizer:
    """Encodes any Unicode text, and decodes it to exactly the same text.

    Attributes:
        model_proto: content of a SentencePiece model file.
        size: tokens, control and byte tokens included (V).
        digest: SHA-256 of the model file, hexadecimal.
        surfaces: (V,) the text of each token; empty for control and byte tokens.
        byte_values: (V,) int16: the byte of a byte token, else -1.
        ends_word: (V,) bool: the surface ends with a space.
        starts_letter: (V,) bool: the first character is a word character
            (:func:`is_word_character`); True for bytes.
        ends_letter: (V,) bool: the same for the last character.
        continues_word: (V,) bool: the token starts with a word character, or is a lone space, which
            ends a word without a token for word and space.
        background: (V,) float32: each learned token's share of the tokenizer's training text, by
            its unigram score; 0 for control and byte tokens.

    Raises:
        TokenizerError: not a SentencePiece model, or not one that Lacuna wrote.
    """

    def __init__(self, model_proto: bytes) -> None:
        self.model_proto = model_proto
        self._processor = processor = sentencepiece.SentencePieceProcessor()
        try:
            # SentencePiece accepts no bytes and then crashes on first use.
            processor.LoadFromSerializedProto(model_proto or b"empty")
            self.size: int = processor.get_piece_size()
            if self.size > MAX_TOKENS:
                raise TokenizerError(f"it has {self.size} tokens; at most {MAX_TOKENS} are allowed")
            names: list[str] = processor.id_to_piece(list(range(self.size)))
            if (longest := max(map(len, names))) > MAX_TOKEN_LENGTH:
                raise TokenizerError(
                    f"a token has {longest} characters; at most {MAX_TOKEN_LENGTH} are allowed"
                )
        except (RuntimeError, UnicodeDecodeError) as error:  # the latter: a token that is not UTF-8
            raise TokenizerError(
                f"{len(model_proto)} bytes are not a SentencePiece model; prepare the data again"
            ) from error
        self.digest = hashlib.sha256(model_proto).hexdigest()
        learned = FIRST_BYTE + 256
        if names[:learned] != [*CONTROL_TOKENS, *(f"<0x{value:02X}>" for value in range(256))]:
            raise TokenizerError(
                f"the first {learned} tokens are not {', '.join(CONTROL_TOKENS)} and 256 bytes;"
                " train the tokenizer with: python -m training prepare"
            )
        self.byte_values = np.full(self.size, -1, dtype=np.int16)
        self.byte_values[FIRST_BYTE:learned] = np.arange(256)
        self.surfaces = [""] * learned + [name.replace(SPACE_MARK, " ") for name in names[learned:]]
        self.ends_word = np.array([surface.endswith(" ") for surface in self.surfaces])
        is_byte = self.byte_values >= 0
        letters = [
            [bool(s) and is_word_character(s[end]) for s in self.surfaces] for end in (0, -1)
        ]
        self.starts_letter, self.ends_letter = (is_byte | np.array(flags) for flags in letters)
        self.continues_word = self.starts_letter | np.array([s == " " for s in self.surfaces])
        scores = np.array(processor.get_score(list(range(learned, self.size))), dtype=np.float64)
        weights = np.append(np.zeros(learned), np.exp(scores - scores.max(initial=0.0)))
        self.background = (weights / max(float(weights.sum()), 1e-30)).astype(np.float32)
        self._decoded = [surface.encode() for surface in self.surfaces]
        self._decoded[FIRST_BYTE:learned] = [bytes([value]) for value in range(256)]
        self._decoded[UNKNOWN] = "\ufffd".encode()
        self._decoded[START] = b"\n"

    @classmethod
    def load(cls, path: Path) -> "Tokenizer":
        """Read a SentencePiece model file.

        Raises:
            TokenizerError: the file is missing, unreadable, or not a model that Lacuna wrote.
        """
        try:
            return cls(path.read_bytes())
        except OSError as error:
            raise TokenizerError(
                f"{path}: {error.strerror}; name a tokenizer.model file"
            ) from error
        except TokenizerError as error:
            raise TokenizerError(f"{path}: {error}") from error

    def encode(self, text: str) -> list[int]:
        """Encode text in normal form (:func:`model.text.normalise`); a line end is ``<s>``."""
        ids: list[int] = []
        for part in _LOSSY.split(text):
            if part == "\n":
                ids.append(START)
            elif part == SPACE_MARK:
                ids += [FIRST_BYTE + byte for byte in SPACE_MARK.encode()]
            else:
                ids += self._processor.encode(part)
        return ids

    def encode_all(self, texts: list[str]) -> list[list[int]]:
        """Encode several texts, faster than one by one."""
        if any("\n" in text or SPACE_MARK in text for text in texts):
            return [self.encode(text) for text in texts]
        encoded: list[list[int]] = self._processor.encode(texts, num_threads=1)
        return encoded

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of *ids*: the exact inverse of :meth:`encode`.

        A run of bytes that is not UTF-8 gives U+FFFD; ``<s>`` gives a line end, ``<unk>`` U+FFFD,
        other control tokens nothing.
        """
        return b"".join(self._decoded[token] for token in ids).decode(errors="replace")

    def joins(self, left: int, right: int) -> bool:
        """Return True if two neighbouring tokens belong to one word, which includes its space."""
        return bool(self.ends_letter[left] and self.continues_word[right])
