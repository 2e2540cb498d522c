"""Requests, keys and rights on a real process: what one client can find out or do to another."""

import json
import re
import shutil
import signal
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.service.client import key_entry
from tests.service.server_process import REAL, ServerProcess, serving

_TYPED = "I like the cat and 4711 "
_NAMES = ("one", "root", "scraper", "nobody")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of keys and checkpoint of the service `keyed`."""
    return tmp_path_factory.mktemp("keys")


@pytest.fixture(scope="module")
def keyed(tiny_checkpoint: Path, folder: Path) -> Iterator[ServerProcess]:
    """A service with the keys `one` and `other`, of which none has a right, `root` and `scraper`.

    Its checkpoint is the link `current`.
    """
    file, link = folder / "keys.toml", folder / "current"
    rights = key_entry("root", "admin = true") + key_entry("scraper", "metrics = true")
    file.write_text(key_entry("one") + key_entry("other") + rights)
    link.symlink_to(tiny_checkpoint)
    options = "--checkpoint", str(link), "--threads", "1", "--keys-file", str(file)
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
    metrics = keyed.ask("GET", "/metrics", headers=_bearer("scraper")).body.decode()
    keyed.logged(route="/metrics", status=200)
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


def _status(server: ServerProcess, *lines: str) -> int:
    """Return the status of a request with exactly these lines."""
    with socket.create_connection(server.address) as connection:
        connection.sendall("\r\n".join([*lines, "Connection: close", "", ""]).encode())
        return int(b"".join(iter(lambda: connection.recv(65536), b"")).split(b" ")[1])


def test_metrics_need_their_own_right(keyed: ServerProcess, keyless: ServerProcess) -> None:
    """A tenant's key gets 403; keys with `metrics` or `admin` are answered, at any address."""
    asked = {name: keyed.ask("GET", "/metrics", headers=_bearer(name)) for name in _NAMES}
    assert {name: answer.status for name, answer in asked.items()} == {
        "one": 403, "root": 200, "scraper": 200, "nobody": 401,
    }  # fmt: skip
    assert re.search("--metrics.*metrics_port", asked["one"].json()["detail"])
    assert keyless.ask("GET", "/metrics").status == 200
    key = "Authorization: Bearer token of scraper"
    for host, status in (("10.0.0.7:8000", 200), ("[fd00::7]", 200), ("rebound.example", 421)):
        assert _status(keyed, "GET /metrics HTTP/1.1", f"Host: {host}", key) == status


def test_administration_needs_an_administrators_key(
    keyed: ServerProcess, keyless: ServerProcess
) -> None:
    """Without keys no client may reload over HTTP, and the refusal names keys and SIGHUP."""
    statuses = [keyed.ask("POST", "/admin/reload", headers=_bearer(name)).status for name in _NAMES]
    assert statuses == [403, 200, 403, 401]
    refused = keyless.ask("POST", "/admin/reload")
    assert refused.status == 403
    assert re.search("keys_file.*--admin.*SIGHUP", refused.json()["detail"])
    keyless.send_signal(signal.SIGHUP)
    keyless.logged(event="reloaded")


@pytest.mark.parametrize("values", [("localhost", "localhost"), ("localhost", "other")])
@pytest.mark.parametrize(
    ("name", "status"),
    [("Host", 400), ("Authorization", 400), ("Content-Type", 400), ("Content-Encoding", 400),
     ("X-Forwarded-For", 200)],
)  # fmt: skip
def test_a_header_that_decides_comes_once(
    keyless: ServerProcess, name: str, status: int, values: tuple[str, str]
) -> None:
    """A proxy and the service could each believe another one of two. Others may come again."""
    host = [] if name == "Host" else ["Host: localhost"]
    sent = [f"{name}: {value}" for value in values]
    assert _status(keyless, "GET /model HTTP/1.1", *host, *sent) == status


def test_a_path_that_is_not_utf8_is_as_good_as_any(
    keyed: ServerProcess, folder: Path, tiny_checkpoint: Path
) -> None:
    """Its checkpoint is loaded; a refusal escapes it, in an answer and a line of valid Unicode."""
    link, odd, missing = (folder / name for name in ("current", "caf\udce9", "鬼\udcff"))
    shutil.copytree(tiny_checkpoint, odd)
    answers = []
    for target in (odd, missing, tiny_checkpoint):
        link.unlink()
        link.symlink_to(target)
        answers.append(keyed.ask("POST", "/admin/reload", headers=_bearer("root")))
    assert [answer.status for answer in answers] == [200, 422, 200]
    detail = answers[1].json()["detail"]
    assert f"{folder}/鬼\\udcff" in detail
    assert keyed.logged(event="reload failed")["reason"] == detail
