"""Random typing: no crash, no error, and answers and cache stay within their limits.

A run has 3,000 key presses. For a million, which take an hour:

    LACUNA_FUZZ_KEYS=1000000 .venv/bin/python -m pytest -m slow tests/model/test_native_fuzz.py

``make native-check`` runs it under sanitizers, which find what does not crash.
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from random import Random
from typing import Any

import pytest

from model.batching import Scheduler
from model.checkpoint import DEFAULT_CHECKPOINT
from model.errors import QueryError
from model.predictor import Predictor, open_model
from model.queries import LexiconEntry, PredictQuery, PredictResult
from tests.fakes import TYPING, TableRuntime, table_predictor

pytestmark = [pytest.mark.slow, pytest.mark.timeout(0)]
KEYS = int(os.environ.get("LACUNA_FUZZ_KEYS", "3000"))
CACHE_BYTES = 0, 3_000, 1 << 16, 1 << 26
WORDS = (
    *("I ", "like ", "the ", "theatre ", "cat, ", "迟到了", "我上学。", "Lagos ", "teh ", "don’t "),
    *(
        "e.g. ",
        "12,000",
        '("',
        "!!",
        "\n",
        "aaaaaaaaaa",
        "，".join("。！？"),
        "臺灣",
        "ａｂ",
        "👩‍👧 ",
    ),
)
RANGES = (32, 127), (0, 0x3000), (0x4E00, 0x9FFF), (0xD000, 0xE000), (0xFF00, 0x10FFFF)
OWN: tuple[dict[str, Any], ...] = (
    {"history": "I met Okonkwo in Lagos. 若琳上学了。Okonkwo smiled."},
    {"lexicon": (LexiconEntry("theatres", 2.0), LexiconEntry("w" * 600), LexiconEntry("若琳琳"))},
    {"block": ("the", "迟到")},
    {"corrections": 2},
    {"letters": True},
    {"words": 3},
    {"after": " the cat"},
)

OpenPredictor = Callable[[int, int], Predictor]


class Unreliable:
    """A runtime of which one call in 200 fails."""

    def __init__(self, runtime: Any, chance: Random) -> None:
        self._runtime, self._chance = runtime, chance

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._runtime, name)
        if name in ("run_tower", "score") and self._chance.random() < 1 / 200:
            raise OSError("a call that fails")
        return found


class Writer:
    """Types, deletes, jumps, and now and then asks for more than the next word."""

    def __init__(self, chance: Random) -> None:
        self._chance, self._text, self._ahead = chance, "", ""

    def press(self) -> PredictQuery:
        """Press a key."""
        chance, text = self._chance, self._text
        action = chance.random()
        if action < 0.1:
            text = text[: -chance.randrange(1, 4)]
        elif action < 0.12 or len(text) > 400:
            text = text[: chance.randrange(len(text) + 1)]
        elif action < 0.14:
            text += chr(chance.randrange(*chance.choice(RANGES)))
        elif action < 0.15:
            text += chance.choice(WORDS).strip() * chance.randrange(1, 40)
        else:
            self._ahead = self._ahead or chance.choice(WORDS)
            text, self._ahead = text + self._ahead[0], self._ahead[1:]
        self._text = text
        more: dict[str, Any] = {}
        while chance.random() < 0.1:
            more |= chance.choice(OWN)
        return PredictQuery(text, 100 if chance.random() < 0.05 else 5, **more)


def check(answer: Any) -> None:
    """Check all that holds for any answer."""
    if isinstance(answer, OSError):
        return
    assert isinstance(answer, PredictResult), answer
    probs = [each.probability for each in answer.candidates]
    assert all(0 < each <= 1 for each in probs)
    assert all(later <= each for each, later in pairwise(probs))
    assert sum(probs) <= 1 + 1e-9
    words = [
        (each.steps[0].append if each.steps else each.append, each.replace)
        for each in answer.candidates
    ]
    assert len({*words}) == len(words)
    if answer.letters:
        letters = [each.probability for each in answer.letters.next]
        assert sum(letters) + answer.letters.end + answer.letters.other == pytest.approx(1)


def type_keys(open_predictor: OpenPredictor, keys: int, seed: int) -> int:
    """Press keys; return how many queries were answered."""
    chance, answered, pressed = Random(seed), 0, 0
    while pressed < keys:  # a reload drops decoders that wait
        predictor = open_predictor(chance.choice(CACHE_BYTES), chance.randrange(1 << 30))
        cache, writers = predictor.cache, [Writer(chance) for _ in range(4)]
        scheduler = Scheduler(Unreliable(predictor.runtime, chance))  # type: ignore[arg-type]
        until = min(keys, pressed + chance.randrange(1, 2_000))
        while pressed < until:
            pressed += 1
            salt = chance.choice(("", "other"))
            try:
                scheduler.add(pressed, predictor.start(chance.choice(writers).press(), salt))
            except QueryError:  # characters that no text has
                continue
            while scheduler.pending > chance.randrange(6):
                if chance.random() < 0.05:
                    scheduler.cancel(pressed - chance.randrange(4))
                if chance.random() < 0.05 and cache._trees:
                    cache._drop_tree(chance.choice(list(cache._trees)))
                for _, answer in scheduler.step():
                    check(answer)
                    answered += 1
                assert cache.bytes <= cache.max_bytes
    return answered


def open_table(cache_bytes: int, seed: int) -> Predictor:
    """Open a fake network, with estimates of ends of words."""
    chance = Random(seed)
    ends = [chance.random() for _ in range(TYPING.size)]
    words = ("i", "like", "the", "theatre", "theatres", "cat", "cats", "a")
    runtime = TableRuntime(TYPING, seed=seed, spread=chance.choice((0.3, 1.5, 6.0)))
    return table_predictor(runtime, word_end_probs=ends, words=words, cache_bytes=cache_bytes)


def test_random_typing_on_a_fake_network() -> None:
    """Typing with reloads, errors, cancelled queries and dropped trees gives sound answers."""
    assert type_keys(open_table, KEYS, 1) > KEYS / 4


def test_random_typing_in_two_threads() -> None:
    """The same on the bundled checkpoint, by two predictors that share it, in two threads."""
    opened = open_model(DEFAULT_CHECKPOINT)
    keys = KEYS // 100 + 20

    def run(seed: int) -> int:
        return type_keys(lambda cache_bytes, _: Predictor(*opened, None, cache_bytes), keys, seed)

    with ThreadPoolExecutor(2) as threads:
        assert min(threads.map(run, (2, 3))) > keys / 4
