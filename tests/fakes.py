"""Fakes of the parts that are slow or opaque: a vocabulary written by hand and a network that is a table."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from model.checkpoint import Checkpoint
from model.config import GAP_POSITIONS, Calibration, NetworkConfig, Tower
from model.runtime import Float32Array, Head, Int64Array
from model.tokenizer import CONTROL_TOKENS, END_OF_GAP, FIRST_BYTE, SPACE_MARK, Tokenizer

NORMAL, UNKNOWN_TYPE, CONTROL, BYTE = 1, 2, 3, 6


def hand_tokenizer(tokens: Sequence[str]) -> Tokenizer:
    """A vocabulary of exactly these tokens (spaces as spaces), after the control and byte tokens.

    All cost the same, so a text is encoded in as few of them as can be; single characters cost a little more.
    """
    model = b"".join(
        _message(1, _token(name, 0.0, UNKNOWN_TYPE if number == 0 else CONTROL))
        for number, name in enumerate(CONTROL_TOKENS)
    )
    model += b"".join(_message(1, _token(f"<0x{value:02X}>", 0.0, BYTE)) for value in range(256))
    for token in tokens:
        model += _message(
            1, _token(token.replace(" ", SPACE_MARK), -5.0 - (len(token) == 1), NORMAL)
        )
    trainer = (
        _number(3, 1) + _number(24, 1) + _number(35, 1)
    )  # unigram, whitespace as suffix, byte fallback
    trainer += (
        _number(40, 0) + _number(41, 1) + _number(42, 2) + _number(43, (1 << 64) - 1)
    )  # unk, bos, eos, no pad
    normalizer = _message(1, b"identity") + _number(3, 0) + _number(4, 0) + _number(5, 1)
    return Tokenizer.from_bytes(model + _message(2, trainer) + _message(3, normalizer))


class TableRuntime:
    """A network whose state is the last two tokens, and whose heads look scores up in random tables.

    Args:
        tokenizer: whose tokens it predicts.
        support: ids that it can predict, ``<eog>`` apart; all others have probability 0.
        seed: of the tables.
        architecture: ``two_towers`` or ``forward``.
        spread: standard deviation of the scores: small is close to uniform.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        support: Sequence[int] | None = None,
        *,
        seed: int = 0,
        architecture: str = "two_towers",
        spread: float = 1.5,
    ) -> None:
        two = architecture == "two_towers"
        self.head_rows = 1000
        self.sizes = NetworkConfig(
            vocabulary_size=tokenizer.size,
            architecture=architecture,  # type: ignore[arg-type]
            cell="rnn_tanh",
            embedding_size=1,
            hidden_size=2,
            forward_layers=1,
            backward_layers=1 if two else 0,
            gap_hidden_size=1 if two else 0,
        )
        self._support = np.array(
            range(FIRST_BYTE + 256, tokenizer.size) if support is None else support
        )
        random = np.random.default_rng(seed)
        size = tokenizer.size
        self._tables = {
            name: (random.normal(size=(rows, size)) * spread).astype(np.float32)
            for name, rows in {
                "next": size, "next_before": size, "previous": size, "previous_before": size, "gap_left": size,
                "gap_right": size, "gap_unknown": 1, "gap_position": GAP_POSITIONS, "gap_kind": 3,
            }.items()
        }  # fmt: skip
        self.calls: list[tuple[str, int]] = []

    def run_tower(
        self, tower: Tower, states: Float32Array, tokens: Int64Array, lengths: Int64Array
    ) -> tuple[Float32Array, Float32Array]:
        """Remember the last two tokens of every row."""
        self.calls.append((tower, len(states)))
        states = states.copy()
        outputs = np.full((*tokens.shape, 2), np.nan, dtype=np.float32)
        for row, length in enumerate(lengths.tolist()):
            for step in range(length):
                states[row] = (states[row, 1], tokens[row, step])
                outputs[row, step] = states[row]
        return states, outputs

    def score(self, head: Head, *inputs: Any) -> Float32Array:
        """Look the last two tokens up; for a gap, add the scores of both sides, position and kind."""
        self.calls.append((head, len(inputs[0])))
        if head != "gap":
            return self._rows(
                [self._pair(head, output) for output in inputs[0]], inputs[0][:, 0] < 0
            )
        tables, scores = self._tables, []
        for left, right, known, position, kind in zip(*inputs, strict=True):
            of_right = tables["gap_right"][int(right[1])] if known else tables["gap_unknown"][0]
            of_position = tables["gap_position"][min(int(position), GAP_POSITIONS - 1)]
            of_left = tables["gap_left"][int(left[1])]
            scores.append(of_left + of_right + of_position + tables["gap_kind"][int(kind)])
        return self._rows(scores, inputs[3] > 0)

    def _pair(self, table: str, output: Float32Array) -> Float32Array:
        before, last = output.astype(np.int64).tolist()
        scores: Float32Array = (
            self._tables[table][last] + np.float32(0.5) * self._tables[f"{table}_before"][before]
        )
        return scores

    def _rows(self, scores: list[Float32Array], closable: Any) -> Float32Array:
        result = np.full((len(scores), self.sizes.vocabulary_size), -np.inf, dtype=np.float32)
        for row, (values, closes) in enumerate(zip(scores, closable, strict=True)):
            allowed = np.append(self._support, END_OF_GAP) if closes else self._support
            result[row, allowed] = values[allowed] - np.logaddexp.reduce(
                values[allowed].astype(np.float64)
            )
        return result


def fake_checkpoint(
    tokenizer: Tokenizer,
    network: NetworkConfig,
    calibration: Calibration | None = None,
    **values: Any,
) -> Checkpoint:
    """A checkpoint that lies nowhere."""
    return Checkpoint(
        directory=Path("nowhere"),
        name="fake",
        version="0",
        digest="0" * 64,
        network=network,
        calibration=calibration or Calibration(),
        tokenizer=tokenizer,
        languages=("zh", "en"),
        **{"word_end_probs": (0.0,) * tokenizer.size, **values},
    )


def numbers(values: npt.ArrayLike) -> list[float]:
    """Plain floats, for comparisons."""
    return np.asarray(values, dtype=np.float64).tolist()  # type: ignore[no-any-return]


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*encoded, value])


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _message(field: int, content: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(content)) + content


def _token(name: str, score: float, kind: int) -> bytes:
    return (
        _message(1, name.encode())
        + _varint(2 << 3 | 5)
        + np.float32(score).tobytes()
        + _number(3, kind)
    )
