"""Requests, keys and rights on a real process: what one client can find out or do to another."""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.service.client import key_entry
from tests.service.server_process import REAL, ServerProcess, serving

_TYPED = "I like the cat and 4711 "


@pytest.fixture(scope="module")
def keyed(
    tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerProcess]:
    """A service with the keys `one` and `other`."""
    file = tmp_path_factory.mktemp("keys") / "keys.toml"
    file.write_text(key_entry("one") + key_entry("other"))
    options = "--checkpoint", str(tiny_checkpoint), "--threads", "1", "--keys-file", str(file)
    with serving(REAL, *options) as running:
        yield running


@pytest.fixture(scope="module")
def keyless(tiny_checkpoint: Path) -> Iterator[ServerProcess]:
    """A service without keys."""
    with serving(REAL, "--checkpoint", str(tiny_checkpoint), "--threads", "1") as running:
        yield running


def _bearer(name: str) -> dict[str, str]:
    return {"Authorization": f"Bearer token of {name}"}


def _cached(server: ServerProcess, headers: Mapping[str, str], path: str, **body: Any) -> int:
    answer = server.ask("POST", path, body, headers)
    assert answer.status == 200, answer.body
    found: int = answer.json()["usage"]["cached_tokens"]
    return found


@pytest.mark.parametrize(("path", "end"), [("/predict", ""), ("/cloze", "____")])
def test_users_of_a_key_do_not_find_each_others_texts(
    keyed: ServerProcess, path: str, end: str
) -> None:
    """Cached texts are found by the same key with the same `user` only, who is not logged."""
    text = f"{_TYPED}{path.strip('/')} {end}"
    ann = {"user": "ann@example.org"}

    def cached(key: str, **more: str) -> int:
        return _cached(keyed, _bearer(key), path, text=text, **more)

    assert (cached("one", **ann), cached("one", **ann) > 0) == (0, True)
    for key, more in (
        ("one", {"user": "ann@example.com"}),
        ("one", {}),
        ("one", {"history": ann["user"]}),
        ("one", {"history": "a", **ann}),
        ("other", ann),
    ):
        assert (cached(key, **more), cached(key, **more) > 0) == (0, True)
    metrics = keyed.ask("GET", "/metrics", headers=_bearer("one")).body.decode()
    keyed.logged(route="/metrics")
    assert "ann" not in metrics + "".join(keyed.lines)


def test_a_number_that_was_typed_cannot_be_guessed_without_keys(keyless: ServerProcess) -> None:
    """Right and wrong guesses get the same fields; times are whole steps of 10 ms."""
    words = _TYPED.split(" ")
    for end in range(1, len(words)):
        keyless.ask("POST", "/predict", {"text": " ".join(words[:end])})
    seen = set()
    for guess in ("4710", "4711", "4712", "0000"):
        for path, end in (("/predict", ""), ("/cloze", "____ .")):
            text = f"{_TYPED.replace('4711', guess)}{end}"
            answer = keyless.ask("POST", path, {"text": text})
            seen.add((path, json.dumps(answer.json()["usage"])))
            times = re.findall(r"dur=(\d+)\.000", answer.headers["server-timing"])
            assert [int(milliseconds) % 10 for milliseconds in times] == [0, 0]
    assert len(seen) == 2


@pytest.mark.parametrize("path", ["/predict", "/cloze", "/score"])
@pytest.mark.parametrize(
    ("user", "detail"),
    [
        ("", "is empty"),
        ("鬼" * 129, "is too long; send at most 128 characters"),
        ("鬼\ud800", "has a lone surrogate"),
        (["鬼"], "must be a string"),
    ],
)
def test_a_user_is_a_short_string(
    keyless: ServerProcess, path: str, user: Any, detail: str
) -> None:
    """Any other value is 422, by field and reason; its characters come back nowhere."""
    refused = keyless.ask("POST", path, {"text": "a ____", "user": user})
    assert refused.status == 422
    (error,) = refused.json()["errors"]
    assert error["pointer"] == "/user"
    assert detail in error["detail"]
    assert "鬼" not in refused.body.decode() + "".join(keyless.lines)
    good = keyless.ask("POST", path, {"text": "a ____", "user": "鬼" * 128})
    assert good.status == 200
