"""Two keys on a real service, one of them hostile."""

import contextlib
import itertools
import threading
from collections import Counter
from pathlib import Path
from typing import Any

from tests.service.client import key_entry
from tests.service.server_process import REAL, ServerProcess, exchange, serving

# Costly in few bytes. The first two are more work than one request may be; the others are not.
WORDS = [f"word{number}" for number in range(64)]
COSTLY: list[tuple[str, Any]] = [
    ("/cloze", {"text": "____ " * 64, "top_k": 100}),
    ("/cloze", {"text": ["____ ____"] * 64, "choices": WORDS}),
    ("/cloze", {"text": "____ " * 32, "top_k": 90}),
    ("/cloze", {"text": ["I have a ____ here."] * 24, "top_k": 100}),
    ("/cloze", {"text": ["____"] * 64, "choices": WORDS[:16]}),
    ("/predict", {"text": [f"{number}" for number in range(64)], "history": "鬼" * 15_000}),
]
SENDERS = 4
ATTACKS = 12
KEY_PRESSES = "I would like to have"


def bearer(name: str) -> dict[str, str]:
    """Return the header of a key."""
    return {"Authorization": f"Bearer token of {name}"}


def attack(server: ServerProcess, number: int, over: threading.Event, seen: Counter[int]) -> None:
    """Send costly requests, one after another, until the other key is done."""
    with contextlib.closing(server.connect()) as connection:
        for path, body in itertools.islice(itertools.cycle(COSTLY), number, None):
            if over.is_set():
                break
            seen[exchange(connection, "POST", path, body, bearer("hostile")).status] += 1


def test_a_hostile_key_makes_no_refusals_for_another(tmp_path: Path) -> None:
    """While one key sends costly questions in a loop, each key press of another is answered."""
    keys = tmp_path / "keys.toml"
    keys.write_text(key_entry("hostile") + key_entry("writer"))
    keys.chmod(0o600)
    over, seen, pressed = threading.Event(), Counter[int](), Counter[int]()
    with serving(REAL, "--keys-file", str(keys), "--threads", "1") as server:
        senders = [
            threading.Thread(target=attack, args=(server, number, over, seen), daemon=True)
            for number in range(SENDERS)
        ]
        for sender in senders:
            sender.start()
        with contextlib.closing(server.connect()) as connection:
            while seen.total() < ATTACKS:
                for end in range(1, len(KEY_PRESSES) + 1):
                    body = {"text": KEY_PRESSES[:end]}
                    answer = exchange(connection, "POST", "/predict", body, bearer("writer"))
                    pressed[answer.status] += 1
        over.set()
        for sender in senders:
            sender.join()
    assert set(pressed) == {200}
    assert seen[422] > 0  # more work than one request may be
