"""Text to token ids and back, without loss. Not the training of a vocabulary (``training/data/text_sources.py``), and no networks.

A token is a SentencePiece unigram unit. A space belongs to the word before it, so a Latin token says itself whether its
word ends: ``go to the `` -> ``go▁ to▁ the▁`` but ``go to the`` -> ``go▁ to▁ the`` (docs/decisions/0002-tokenizer.md).

The ids, in order: five control tokens that no text produces, 256 byte tokens for characters that are not in the
vocabulary, then the learned tokens.
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
# SentencePiece writes a space as this character, and reads the real character as a space: we spell it in bytes.
SPACE_MARK = "\u2581"
FIRST_BYTE = len(CONTROL_TOKENS)

# Characters that a plain encoder would lose: a line end (our <s>) and the real U+2581.
_LOSSY = re.compile(f"[\n{SPACE_MARK}]")


class Tokenizer:
    """A vocabulary that encodes any Unicode text and decodes it to exactly what it was.

    Attributes:
        size: tokens, control and byte tokens included (V).
        digest: SHA-256 of the model file, hexadecimal.
        surfaces: (V,) the text of each token; empty for control and byte tokens.
        byte_values: (V,) int16: the byte of a byte token, else -1.
        ends_word: (V,) bool: the surface ends with a space.
        starts_letter: (V,) bool: the first character is a word character (:func:`is_word_character`); True for bytes.
        ends_letter: (V,) bool: the same for the last character.
        continues_word: (V,) bool: belongs to the word before it, if that ends in a word character: it starts with one,
            or is a lone space (a word without a token for itself and its space is two: ``quick`` and a space).
        never_predicted: (4,) int64: ids that no head may propose: ``<unk> <s> </s> <blank>``.
        background: (V,) float32: each learned token's share of the vocabulary's training text, by its unigram score; 0
            for control and byte tokens.
    """

    def __init__(self, processor: sentencepiece.SentencePieceProcessor, model_proto: bytes) -> None:
        self._processor = processor
        self._model_proto = model_proto
        self.size: int = processor.get_piece_size()
        self.digest = hashlib.sha256(model_proto).hexdigest()
        names: list[str] = processor.id_to_piece(list(range(self.size)))
        learned = FIRST_BYTE + 256
        expected = [*CONTROL_TOKENS, *(f"<0x{value:02X}>" for value in range(256))]
        if names[:learned] != expected:
            raise TokenizerError(
                f"the first {learned} tokens are not {', '.join(CONTROL_TOKENS)} and 256 bytes;"
                " train the vocabulary with: python -m training prepare"
            )
        self.byte_values = np.full(self.size, -1, dtype=np.int16)
        self.byte_values[FIRST_BYTE:learned] = np.arange(256)
        self.surfaces: list[str] = [""] * learned + [
            name.replace(SPACE_MARK, " ") for name in names[learned:]
        ]
        self.ends_word = np.array(
            [surface.endswith(" ") for surface in self.surfaces], dtype=np.bool_
        )
        is_byte = self.byte_values >= 0
        self.starts_letter = is_byte | np.array(
            [bool(s) and is_word_character(s[0]) for s in self.surfaces]
        )
        self.ends_letter = is_byte | np.array(
            [bool(s) and is_word_character(s[-1]) for s in self.surfaces]
        )
        self.continues_word = self.starts_letter | np.array(
            [surface == " " for surface in self.surfaces]
        )
        self.never_predicted = np.array([UNKNOWN, START, END, BLANK], dtype=np.int64)
        scores = np.array(processor.get_score(list(range(learned, self.size))), dtype=np.float64)
        weights = np.append(np.zeros(learned), np.exp(scores - scores.max(initial=0.0)))
        self.background = (weights / max(float(weights.sum()), 1e-30)).astype(np.float32)
        # What a token adds to decoded text: a byte, or characters.
        self._additions: list[int | str] = [*self.surfaces]
        self._additions[FIRST_BYTE:learned] = range(256)
        self._additions[UNKNOWN] = "\ufffd"
        self._additions[START] = "\n"

    @classmethod
    def load(cls, path: Path) -> "Tokenizer":
        """Read a SentencePiece model file.

        Raises:
            TokenizerError: the file is missing, unreadable, or not a vocabulary that Lacuna wrote.
        """
        try:
            model_proto = path.read_bytes()
        except OSError as error:
            raise TokenizerError(
                f"{path}: {error.strerror}; name a tokenizer.model file"
            ) from error
        try:
            return cls.from_bytes(model_proto)
        except TokenizerError as error:
            raise TokenizerError(f"{path}: {error}") from error

    @classmethod
    def from_bytes(cls, model_proto: bytes) -> "Tokenizer":
        """Build from the bytes of a model file.

        Raises:
            TokenizerError: not a SentencePiece model, or not one that Lacuna wrote.
        """
        # SentencePiece reads nothing from no bytes and then crashes on first use.
        if not model_proto:
            raise TokenizerError("the model is empty; prepare the data again")
        processor = sentencepiece.SentencePieceProcessor()
        try:
            processor.LoadFromSerializedProto(model_proto)
            return cls(processor, model_proto)
        except (RuntimeError, UnicodeDecodeError) as error:  # the latter: a token that is not UTF-8
            raise TokenizerError(
                f"{len(model_proto)} bytes that are not a SentencePiece model; prepare the data again"
            ) from error

    def to_bytes(self) -> bytes:
        """Return the bytes of the model file, as read."""
        return self._model_proto

    def encode(self, text: str) -> list[int]:
        """Encode normalised text; every text has ids, and :meth:`decode` gives it back.

        Args:
            text: text in form C (:func:`normalise`), without lone surrogates. A line end becomes ``<s>``.

        Returns:
            Token ids; empty for empty text.

        Raises:
            UnicodeEncodeError: a lone surrogate, which is not text.
        """
        ids: list[int] = []
        position = 0
        for match in _LOSSY.finditer(text):
            ids.extend(self._encode_plain(text[position : match.start()]))
            ids.extend(
                [START] if match[0] == "\n" else [FIRST_BYTE + byte for byte in SPACE_MARK.encode()]
            )
            position = match.end()
        ids.extend(self._encode_plain(text[position:]))
        return ids

    def encode_many(self, texts: list[str], threads: int = 1) -> list[list[int]]:
        """Encode texts as :meth:`encode` does, in one call and on several threads."""
        try:
            many: list[list[int]] = self._processor.encode(texts, num_threads=threads)
        except (RuntimeError, TypeError):
            return [
                self.encode(text) for text in texts
            ]  # a lone surrogate: raises the error that says so
        for index, text in enumerate(texts):
            if _LOSSY.search(text) is not None:
                many[index] = self.encode(text)
        return many

    def _encode_plain(self, text: str) -> list[int]:
        try:
            ids: list[int] = self._processor.encode(text)
        except RuntimeError:
            text.encode()  # a lone surrogate: raises the error that says so
            raise
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of *ids*: the exact inverse of :meth:`encode`.

        A run of bytes that is not UTF-8 gives U+FFFD; ``<s>`` gives a line end, ``<unk>`` U+FFFD, others nothing.
        """
        parts: list[str] = []
        run = bytearray()
        for token in ids:
            value = self._additions[token]
            if isinstance(value, int):
                run.append(value)
                continue
            if run:
                parts.append(run.decode("utf-8", errors="replace"))
                run.clear()
            parts.append(value)
        parts.append(run.decode("utf-8", errors="replace"))
        return "".join(parts)

    def joins(self, left: int, right: int) -> bool:
        """Whether no word boundary stands between two neighbouring tokens: the space after a word is part of it."""
        return bool(self.ends_letter[left] and self.continues_word[right])
