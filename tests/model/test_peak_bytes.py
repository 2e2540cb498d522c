"""Count the bytes that a decoder keeps while its steps wait, and compare them with the bound."""

import gc
import random
import sys
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model.batching import Decoder, Scheduler
from model.checkpoint import DEFAULT_CHECKPOINT, Checkpoint
from model.completions import CompletionQuery
from model.decoding.context import DecoderContext
from model.decoding.next_token import NextToken
from model.decoding.prefix_cache import PrefixCache, PrefixTree
from model.decoding.token_index import TokenIndex
from model.predictor import Predictor, open_model
from model.queries import ClozeQuery, LexiconEntry, PredictQuery, Query, ScoreQuery
from model.runtime import Runtime, open_runtime
from model.tokenizer import Tokenizer
from tests.fakes import TYPING, TableRuntime, table_predictor
from tests.fixtures_checkpoint import build_tiny_checkpoint

RANDOM = random.Random(0)
WORDS = ("the", "cat", "of", "a", "house", "with", "people", "that", "from", "river", "know")
# What all decoders share.
SHARED = (type, types.ModuleType, types.CodeType, types.BuiltinFunctionType)
SHARED += (DecoderContext, PrefixCache, TokenIndex, Tokenizer)


def words(count: int) -> str:
    """Return ordinary words."""
    return " ".join(RANDOM.choice(WORDS) for _ in range(count))


def letters(count: int, alphabet: str = "qzxjkvwbp") -> str:
    """Return letters without any sense."""
    return "".join(RANDOM.choice(alphabet) for _ in range(count))


def choices(count: int, length: int) -> tuple[str, ...]:
    """Return different choices."""
    return tuple(f"{number} {letters(length)}" for number in range(count))


def blanks(count: int) -> str:
    """Return a text with *count* blanks."""
    return " ".join(f"{words(2)} ____ {words(1)}" for _ in range(count))


QUERIES: dict[str, Query] = {
    "a word": PredictQuery("Last night we went to the theat"),
    "a letter that has many spellings": PredictQuery("o" * 54),
    "letters": PredictQuery(letters(400), 100),
    "no stable boundary": PredictQuery("a" * 900, 100),
    "a history": PredictQuery(words(20), history=words(2_000)),
    "a Chinese history": PredictQuery("我昨天", history="我昨天上学迟到了😀" * 1_000),
    "words of the writer": PredictQuery(
        words(20) + " z",
        history="z" * 40 + words(900),
        lexicon=tuple(LexiconEntry(f"z{letters(60)}") for _ in range(200)),
        block=tuple(f"鬱{number}" * 15 for number in range(200)),
    ),
    "corrections": PredictQuery(f"{words(300)} thw", corrections=2, history=words(2_000)),
    "what follows": PredictQuery("I like ", after=letters(90)),
    "words and letters": PredictQuery(letters(40), words=3, letters=True),
    "Chinese": PredictQuery("我昨天上学迟到了" * 40, 20),
    "a score": ScoreQuery(words(200)),
    "a score of byte tokens": ScoreQuery("😀" * 500),
    "details": ScoreQuery(letters(500), details=True),
    "details of spaces": ScoreQuery("鬱\u200b" * 300, details=True),
    "a score after a context": ScoreQuery(words(5), words(300) + " " + letters(80)),
    "a completion": CompletionQuery(words(20), max_tokens=64, top=20, stop=("stop",)),
    "a completion of a sentence": CompletionQuery(f"{words(20)}."),
    "a completion of a letter": CompletionQuery("o" * 54),
    "echoed text": CompletionQuery(words(400), echo=True, top=5),
    "echoed byte tokens": CompletionQuery("😀" * 200, echo=True, top=20),
    "echoed ids": CompletionQuery("", (999,) * 900, echo=True, top=20),
    "a suffix": CompletionQuery(words(20), suffix=words(9)),
    "an open blank": ClozeQuery(blanks(1)),
    "100 candidates": ClozeQuery(blanks(1), 100),
    "fillings": ClozeQuery(blanks(8), fillings=16),
    "a lexicon and blanks": ClozeQuery(
        blanks(3), lexicon=tuple(LexiconEntry(letters(64)) for _ in range(256))
    ),
    "open blanks": ClozeQuery(blanks(3), 20),
    "many open blanks": ClozeQuery(blanks(10)),
    "four choices": ClozeQuery(blanks(1), choices=("a", "the", "my", "her")),
    "many choices": ClozeQuery(blanks(1), choices=choices(200, 2)),
    "choices of several blanks": ClozeQuery(blanks(3), choices=choices(20, 4)),
    "long choices": ClozeQuery(blanks(2), choices=choices(2, 120)),
    "choices of byte tokens": ClozeQuery(blanks(1), choices=("😀" * 90, "😀" * 91)),
    "a list of choices a blank": ClozeQuery(blanks(9), choices=[choices(5, 9)] * 9),
}


FEW = ("an open blank", "open blanks", "four choices")


def held_bytes(*roots: object) -> int:
    """Count everything that is reachable from *roots* and belongs to one decoder."""
    seen: set[int] = set()
    total, stack = 0, list(roots)
    while stack:
        each = stack.pop()
        if id(each) in seen or isinstance(each, SHARED):
            continue
        seen.add(id(each))
        if isinstance(each, PrefixTree):  # the rest is native
            total += each.bytes + 4 * each.state_size
        if isinstance(each, NextToken):
            each._read()
            total += 4 * vocabulary_size * each._view.mixed
        if isinstance(each, np.ndarray):
            total += 0 if each.base is not None else each.nbytes
            stack += [] if each.base is None else [each.base]
        elif isinstance(each, types.FunctionType):
            stack += each.__closure__ or ()
        elif not (isinstance(each, list | tuple) and len(each) == vocabulary_size):
            total += sys.getsizeof(each)
            stack += gc.get_referents(each)
    return total


vocabulary_size = 0  # lists as long belong to all decoders


def probe(decoder: Decoder[Any], peaks: list[int]) -> Decoder[Any]:
    """Run a decoder, and note the bytes that it and its steps hold whenever it waits."""
    results: Any = None
    while True:
        try:
            steps: Sequence[Any] | None = decoder.send(results)
        except StopIteration as stop:
            return stop.value
        results = None
        peaks.append(held_bytes(decoder, steps))
        results = yield steps or []
        steps = None


def peak_of(predictor: Predictor, query: Query) -> int:
    """Return the most bytes that the decoder of a query held while it waited."""
    global vocabulary_size
    vocabulary_size = predictor.runtime.sizes.vocabulary_size
    peaks: list[int] = []
    scheduler = Scheduler(predictor.runtime)
    scheduler.add(0, probe(predictor.start(query), peaks))
    while scheduler.pending:
        for _, answer in scheduler.step():
            assert not isinstance(answer, Exception), answer
    return max(peaks)


@pytest.fixture(scope="module")
def bundled() -> tuple[Checkpoint, Runtime]:
    """The bundled checkpoint."""
    return open_model(DEFAULT_CHECKPOINT)


@pytest.mark.parametrize("query", QUERIES.values(), ids=QUERIES)
def test_a_decoder_keeps_no_more_than_the_bound(
    bundled: tuple[Checkpoint, Runtime], query: Query
) -> None:
    """Estimated from lengths alone, the bound is at most 10 times the kept bytes, or a few MB."""
    predictor = Predictor(*bundled)  # with an empty cache, which would count, too
    peak, bound = peak_of(predictor, query), predictor.peak_bytes(query)
    assert peak <= bound <= max(10 * peak, 4_000_000), (peak, bound)


def test_a_forward_network_keeps_no_more_than_the_bound() -> None:
    """It searches more widely for a word in a blank."""
    predictor = table_predictor(TableRuntime(TYPING, architecture="forward"))
    for name in FEW:
        assert peak_of(predictor, QUERIES[name]) <= predictor.peak_bytes(QUERIES[name]), name


def test_a_stacked_network_keeps_no_more_than_the_bound(tmp_path: Path) -> None:
    """It reads whole lines for every token of a blank."""
    checkpoint = build_tiny_checkpoint(tmp_path / "c", architecture="stacked_bidirectional")
    predictor = Predictor(checkpoint, open_runtime(checkpoint))
    for name in FEW:
        assert peak_of(predictor, QUERIES[name]) <= predictor.peak_bytes(QUERIES[name]), name
