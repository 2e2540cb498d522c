"""Fakes for slow or opaque parts: a tokenizer of given tokens, and a network that is a table."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sentencepiece.sentencepiece_model_pb2 import ModelProto

from model.batching import Scheduler
from model.checkpoint import Checkpoint
from model.config import GAP_POSITIONS, Calibration, NetworkConfig, Tower
from model.decoding import next_token
from model.predictor import Predictor
from model.queries import Query
from model.runtime import BoolArray, Float32Array, Head, Int64Array
from model.tokenizer import CONTROL_TOKENS, END_OF_GAP, FIRST_BYTE, SPACE_MARK, Tokenizer
from model.words import KnownWords


def hand_tokenizer(tokens: Sequence[str]) -> Tokenizer:
    """Return a tokenizer of exactly these tokens, after the control and byte tokens.

    A text is encoded in as few tokens as possible; single characters score lower than other tokens.
    """
    model: Any = ModelProto()
    kinds = model.SentencePiece
    for number, name in enumerate(CONTROL_TOKENS):
        model.pieces.add(piece=name, score=0.0, type=kinds.CONTROL if number else kinds.UNKNOWN)
    for value in range(256):
        model.pieces.add(piece=f"<0x{value:02X}>", score=0.0, type=kinds.BYTE)
    for token in tokens:
        model.pieces.add(piece=token.replace(" ", SPACE_MARK), score=-5.0 - (len(token) == 1))
    model.trainer_spec.treat_whitespace_as_suffix = model.trainer_spec.byte_fallback = True
    model.normalizer_spec.name = "identity"
    model.normalizer_spec.add_dummy_prefix = False
    model.normalizer_spec.remove_extra_whitespaces = False
    return Tokenizer(model.SerializeToString())


TYPING = hand_tokenizer(
    ("I ", "like ", "the", "the ", "theatre ", "t", "th", "he", "he ", "a", "s ", "re ", "cat",
     "cat ", ",", ", ", " ", "迟", "迟到", "到", "了", "上学", "。")
)  # fmt: skip


class TableRuntime:
    """A network whose state is the last two tokens, and whose heads are random tables.

    Args:
        tokenizer: of the tokens that it predicts.
        support: ids with a probability above 0, apart from ``<eog>``; None for all learned tokens.
        seed: of the tables.
        architecture: ``two_towers`` or ``forward``.
        spread: standard deviation of the scores; a small one is close to uniform.
    """

    name = "table"

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
            rows = self._normalised(scores, np.zeros(len(last), dtype=np.bool_))
            return np.exp(rows) if head == "next" else rows
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


def table_predictor(
    runtime: Any,
    calibration: Calibration | None = None,
    word_end_probs: Sequence[float] = (),
    words: Sequence[str] = (),
    tokenizer: Tokenizer | None = None,
    **options: Any,
) -> Predictor:
    """Return a predictor on a table, without files; *tokenizer* is the table's by default."""
    tokenizer = tokenizer or runtime.tokenizer
    checkpoint = Checkpoint(
        directory=Path("nowhere"),
        name="fake",
        version="0",
        digest="0" * 64,
        network=runtime.sizes,
        calibration=calibration or Calibration(),
        tokenizer=tokenizer,
        languages=("zh", "en"),
        word_end_probs=tuple(word_end_probs) or (0.0,) * tokenizer.size,
        words=KnownWords(words),
    )
    return Predictor(checkpoint, runtime, **options)


def answer(predictor: Predictor, query: Query, cache_salt: str = "") -> Any:
    """Return the answer to one query."""
    scheduler = Scheduler(predictor.runtime)
    scheduler.add(0, predictor.start(query, cache_salt))
    while scheduler.pending:
        for _, result in scheduler.step():
            if isinstance(result, Exception):
                raise result
    return result


def set_search_limits(monkeypatch: pytest.MonkeyPatch, **limits: float) -> None:
    """Change limits of the search for next words (SearchLimits)."""
    changed = next_token.limits()
    for name, limit in limits.items():
        setattr(changed, name, limit)
    monkeypatch.setattr(next_token, "LIMITS", changed)
    monkeypatch.setattr(next_token, "MAX_NODES", changed.max_nodes)
