"""Text to token ids and back, without loss. Not the training of a vocabulary (``training/data/text_sources.py``), and no networks.

A token is a SentencePiece unigram unit. A space belongs to the word before it, so a Latin token says itself whether its
word ends: ``go to the `` -> ``go▁ to▁ the▁`` but ``go to the`` -> ``go▁ to▁ the`` (docs/decisions/0002-vocabulary.md).

The ids, in order: five control tokens that no text produces, 256 byte tokens for characters that are not in the
vocabulary, then the learned tokens.
"""

import hashlib
import re
import unicodedata
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

import numpy as np
import sentencepiece

from model.errors import TokenizerError

UNKNOWN, START, END, BLANK, END_OF_GAP = 0, 1, 2, 3, 4
CONTROL_TOKENS = ("<unk>", "<s>", "</s>", "<blank>", "<eog>")
# SentencePiece writes a space as this character, and reads the real character as a space: we spell it in bytes.
SPACE_MARK = "\u2581"
FIRST_BYTE = len(CONTROL_TOKENS)

# Characters that a plain encoder would lose: a line end (our <s>) and the real U+2581.
_LOSSY = re.compile(f"[\n{SPACE_MARK}]")
# Scripts written without spaces, where a word boundary may stand between any two tokens.
_UNSPACED = re.compile(
    "[\u2e80-\u312f\u31a0-\u31ef\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9f\U0001b000-\U0001b16f\U00020000-\U000323af]"
)


# Marks on one letter, in form C; no language has so many (the bound of Unicode's stream-safe format, UAX 15). To put
# more of them in order takes time that grows with their square: 0.15 s for 10,000.
MAX_MARKS = 30


# Where all marks lie that normalisation puts in order; a table of them is slow to look through.
_BLOCKS = re.compile(
    f"[\u0300-\u309a\ua66f-\uabff\ufb1e-\ufe2f\U000101fd-\U0001ffff]{{{MAX_MARKS + 1}}}"
)


@lru_cache(maxsize=1)
def _long_runs() -> re.Pattern[str]:
    marks = "".join(
        character for character in map(chr, range(0x20000)) if unicodedata.combining(character)
    )
    return re.compile(f"[{marks}]{{{MAX_MARKS + 1},}}")


def normalise(text: str) -> str:
    """Return *text* in Unicode normalisation form C, the only form in which tokens are counted.

    A letter with more than ``MAX_MARKS`` marks is left as it is, with them.
    """
    if _BLOCKS.search(text) is None:
        return unicodedata.normalize("NFC", text)
    parts, end = [], 0
    for match in _long_runs().finditer(text):
        letter = max(end, match.start() - 1)
        parts += [unicodedata.normalize("NFC", text[end:letter]), text[letter : match.end()]]
        end = match.end()
    return "".join([*parts, unicodedata.normalize("NFC", text[end:])])


def normalise_with_offsets(text: str) -> tuple[str, list[int]]:
    """Normalise and say where every character came from.

    Args:
        text: any Unicode text.

    Returns:
        The text in form C and a list of ``len(normalised) + 1`` code-point offsets that never decrease: ``offsets[i]``
        is where the normalised character ``i`` starts in *text*, and the last one is ``len(text)``.
    """
    whole = normalise(text)
    if whole == text:
        return text, list(range(len(text) + 1))
    parts: list[str] = []
    offsets: list[int] = []
    start = 0
    for end in range(1, len(text) + 1):
        if end < len(text) and _may_compose_backwards(text[end]):
            continue
        part = normalise(text[start:end])
        parts.append(part)
        offsets.extend(min(start + index, end - 1) for index in range(len(part)))
        start = end
    if (
        "".join(parts) != whole
    ):  # a newer Unicode composes letters that we took for independent: keep order, lose precision
        last = max(len(text) - 1, 0)
        offsets = [min(index, last) for index in range(len(whole))]
    return whole, [*offsets, len(text)]


def is_word_character(character: str) -> bool:
    """Whether *character* continues a word of a spaced script: a letter, digit, mark, apostrophe or underscore.

    Chinese characters and kana are none: each stands for itself.
    """
    if character in "'’_":
        return True
    return unicodedata.category(character)[0] in "LNM" and _UNSPACED.match(character) is None


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


def _may_compose_backwards(character: str) -> bool:
    """Whether form C may join *character* to what stands before it: marks, and the later jamo of a syllable."""
    return unicodedata.category(character)[0] == "M" or "\u1160" <= character <= "\u11ff"
