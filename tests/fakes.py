"""Fakes for slow or opaque parts: a tokenizer of given tokens, and a network that is a table."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from model.batching import Scheduler
from model.checkpoint import Checkpoint
from model.config import GAP_POSITIONS, Calibration, NetworkConfig, Sizes, Tower
from model.predictor import Predictor
from model.queries import Query
from model.runtime import BoolArray, Float32Array, Head, Int64Array
from model.tokenizer import CONTROL_TOKENS, END_OF_GAP, FIRST_BYTE, SPACE_MARK, Tokenizer

NORMAL, UNKNOWN_TYPE, CONTROL, BYTE = 1, 2, 3, 6


def hand_tokenizer(tokens: Sequence[str]) -> Tokenizer:
    """Return a tokenizer of exactly these tokens, after the control and byte tokens.

    A text is encoded in as few tokens as possible; single characters score lower than other tokens.
    """
    model = b""
    for number, name in enumerate(CONTROL_TOKENS):
        model += _token(name, 0.0, UNKNOWN_TYPE if number == 0 else CONTROL)
    for value in range(256):
        model += _token(f"<0x{value:02X}>", 0.0, BYTE)
    for token in tokens:
        model += _token(token.replace(" ", SPACE_MARK), -5.0 - (len(token) == 1), NORMAL)
    # unigram, whitespace as suffix, byte fallback; ids of <unk>, <s>, </s>, no padding
    trainer = {3: 1, 24: 1, 35: 1, 40: 0, 41: 1, 42: 2, 43: (1 << 64) - 1}
    model += _message(2, b"".join(_number(*each) for each in trainer.items()))
    normalizer = _message(1, b"identity") + _number(3, 0) + _number(4, 0) + _number(5, 1)
    return Tokenizer(model + _message(3, normalizer))


class TableRuntime:
    """A network whose state is the last two tokens, and whose heads are random tables.

    Args:
        tokenizer: of the tokens that it predicts.
        support: ids with a probability above 0, apart from ``<eog>``; None for all learned tokens.
        seed: of the tables.
        architecture: ``two_towers`` or ``forward``.
        spread: standard deviation of the scores; a small one is close to uniform.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        support: Sequence[int] | None = None,
        *,
        seed: int = 0,
        architecture: Any = "two_towers",
        spread: float = 1.5,
    ) -> None:
        two, size = int(architecture == "two_towers"), tokenizer.size
        self.tokenizer = tokenizer
        self.head_rows = 1000
        self.sizes = NetworkConfig(size, architecture, "rnn_tanh", 1, 2, 1, two, two)
        self.calls: list[tuple[str, int]] = []
        self._support = np.zeros(size, dtype=np.bool_)
        self._support[range(FIRST_BYTE + 256, size) if support is None else list(support)] = True
        rows = dict.fromkeys(("next", "next_before", "previous", "previous_before"), size)
        rows |= {"left": size, "right": size, "unknown": 1, "position": GAP_POSITIONS, "kind": 3}
        random = np.random.default_rng(seed)
        self._tables = {
            name: (random.normal(size=(count, size)) * spread).astype(np.float32)
            for name, count in rows.items()
        }

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
        """Look up the last two tokens; for a gap, both sides, position and kind."""
        self.calls.append((head, len(inputs[0])))
        tables = self._tables
        if head != "gap":
            before, last = inputs[0].astype(np.int64).T
            scores = tables[head][last] + tables[f"{head}_before"][before] / 2
            return self._normalised(scores, np.zeros(len(last), dtype=np.bool_))
        left, right, known, positions, kinds = inputs
        scores = tables["left"][left[:, 1].astype(np.int64)] + tables["kind"][kinds]
        from_right = tables["right"][right[:, 1].astype(np.int64)]
        scores += np.where(known[:, None], from_right, tables["unknown"])
        scores += tables["position"][np.minimum(positions, GAP_POSITIONS - 1)]
        return self._normalised(scores, positions > 0)

    def _normalised(self, scores: Float32Array, can_end: BoolArray) -> Float32Array:
        allowed = np.tile(self._support, (len(scores), 1))
        allowed[:, END_OF_GAP] = can_end
        masked = np.where(allowed, scores, np.float32(-np.inf))
        totals = np.logaddexp.reduce(masked.astype(np.float64), axis=1, keepdims=True)
        return (masked - totals).astype(np.float32)


def fake_checkpoint(
    tokenizer: Tokenizer, network: Sizes, calibration: Calibration | None = None, **values: Any
) -> Checkpoint:
    """Return a checkpoint without files."""
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


def table_predictor(
    runtime: TableRuntime,
    calibration: Calibration | None = None,
    word_end_probs: Sequence[float] | None = None,
    **options: Any,
) -> Predictor:
    """Return a predictor on a table."""
    values = {} if word_end_probs is None else {"word_end_probs": tuple(word_end_probs)}
    checkpoint = fake_checkpoint(runtime.tokenizer, runtime.sizes, calibration, **values)
    return Predictor(checkpoint, runtime, **options)


def answer(predictor: Predictor, query: Query, tenant: str = "") -> Any:
    """Return the answer to one query."""
    scheduler = Scheduler(predictor.runtime)
    scheduler.add(0, predictor.start(query, tenant))
    while scheduler.pending:
        for _, result in scheduler.step():
            if isinstance(result, Exception):
                raise result
    return result


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _message(field: int, content: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*encoded, value])


def _token(name: str, score: float, kind: int) -> bytes:
    number = _varint(2 << 3 | 5) + np.float32(score).tobytes()
    return _message(1, _message(1, name.encode()) + number + _number(3, kind))
