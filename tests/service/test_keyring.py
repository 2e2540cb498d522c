"""Tests of service/keyring.py: who a token belongs to, and what becomes of that when the file changes."""

import asyncio
import hmac
import logging
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from service.keyring import KeyRing
from service.keys import Key, KeysError, KeysReadError, hash_key, read_keys_file
from service.settings import Settings
from tests.service.client import until

PLAIN = "plain-key-0123456789"


def entry(name: str, more: str = "", token: str = "") -> str:
    """An entry for the key *token*, by default ``token of NAME``."""
    return f'[[key]]\nname = "{name}"\nsha256 = "{hash_key((token or f"token of {name}").encode()).hex()}"\n{more}\n'


class Ring:
    """A key ring on a file, and what it told of reloads."""

    def __init__(self, directory: Path, text: str, **settings: Any) -> None:
        self.file = directory / "keys.toml"
        self.told: list[bool] = []
        self._moment = 1_000_000_000
        self.write(text)
        self.ring = KeyRing(Settings(keys_file=self.file, **settings), self.told.append)

    def write(self, text: str) -> None:
        """Change the file, and the time of the change, as another second would."""
        self.file.write_text(text)
        self._moment += 1
        os.utime(self.file, (self._moment, self._moment))

    def change(self, text: str) -> None:
        """Change the file and have it looked at."""
        self.write(text)
        self.ring.refresh()

    def name(self, token: str) -> str | None:
        """Whose key it is."""
        client = self.ring.find(token.encode())
        return client and client.name


def test_keys_of_variable_and_file_count(tmp_path: Path) -> None:
    """Both are known, by their names; no other token is."""
    ring = Ring(tmp_path, entry("a") + entry("root", "admin = true"), keys=PLAIN)
    assert [ring.name(token) for token in ("token of a", "token of root", PLAIN)] == [
        "a",
        "root",
        "env-1",
    ]
    assert [ring.name(token) for token in ("", "a", "token of b", PLAIN[:-1])] == [None] * 4
    rights = [ring.ring.find(token) for token in (b"token of a", b"token of root", PLAIN.encode())]
    assert [client and client.admin for client in rights] == [False, True, False]


def test_every_key_is_compared_in_constant_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keys are compared by hmac.compare_digest, all of them whichever fits, as digests of one length."""
    ring = Ring(tmp_path, entry("a") + entry("b") + entry("c"))
    compared: list[tuple[int, int]] = []
    original = hmac.compare_digest

    def spy(left: bytes, right: bytes) -> bool:
        compared.append((len(left), len(right)))
        return original(left, right)

    monkeypatch.setattr(hmac, "compare_digest", spy)
    for token in ("token of a", "token of c", "none"):
        compared.clear()
        ring.name(token)
        assert compared == [(32, 32)] * 3


def test_keys_rotate_without_a_restart(tmp_path: Path) -> None:
    """After a change of the file new keys are good and removed ones are not; it is logged by number and counted."""
    ring = Ring(tmp_path, entry("a") + entry("b"), keys=PLAIN)
    ring.change(entry("b") + entry("c"))
    assert [ring.name(f"token of {name}") for name in "abc"] == [None, "b", "c"]
    assert ring.name(PLAIN) == "env-1"
    assert ring.told == [True]


@pytest.mark.fault
@pytest.mark.parametrize("spoilt", ["", "no TOML", entry("a") + entry("a"), None, "a directory"])
def test_a_bad_new_file_leaves_the_old_keys(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, spoilt: str | None
) -> None:
    """A file that is empty, wrong, gone or none is told once, with the reason; old keys stay until a good one comes."""
    ring = Ring(tmp_path, entry("a"))
    if spoilt is None:
        ring.file.unlink()
    elif spoilt == "a directory":
        ring.file.unlink()
        ring.file.mkdir()
    else:
        ring.write(spoilt)
    with caplog.at_level(logging.INFO):
        for _ in range(3):
            ring.ring.refresh()
    assert ring.told == [False]
    (line,) = caplog.records
    assert line.levelno == logging.ERROR
    assert str(ring.file) in line.__dict__["fields"]["reason"]
    assert ring.name("token of a") == "a"
    assert ring.ring.demanded
    if ring.file.is_dir():
        ring.file.rmdir()
    ring.change(entry("b"))
    assert (ring.name("token of a"), ring.name("token of b"), ring.told) == (
        None,
        "b",
        [False, True],
    )


@pytest.mark.fault
def test_a_fault_while_looking_does_not_end_the_watch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever goes wrong once is told, and the next change is seen: a revoked key would else work on unnoticed."""
    ring = Ring(tmp_path, entry("first"))
    monkeypatch.setattr("service.keyring.LOOK_SECONDS", 0.001)
    looks = iter([MemoryError("once")])

    def look() -> None:
        ring.told.append(True)
        for fault in looks:
            raise fault

    monkeypatch.setattr(ring.ring, "refresh", look)

    async def watch() -> None:
        watching = asyncio.ensure_future(ring.ring.watch())
        await until(lambda: ring.told[:3] == [True, False, True])
        watching.cancel()

    asyncio.run(watch())


class Disk:
    """Reads keys files, or fails to as a test says; put in the reader's place."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.fault: str | None = None
        self.answers = threading.Event()
        self.answers.set()
        self.read: list[Path] = []
        monkeypatch.setattr("service.keyring.read_keys_file", self._read)

    def _read(self, path: Path) -> tuple[Key, ...]:
        self.read.append(path)
        self.answers.wait()
        if self.fault is not None:
            raise KeysReadError(f"keys file {path}: {self.fault}")
        return read_keys_file(path)


@pytest.mark.fault
def test_a_file_that_cannot_be_read_is_tried_at_every_look(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Want of descriptors, a bad disk: told when the reason changes, and over once it can be read, though unchanged."""
    ring, disk = Ring(tmp_path, entry("a")), Disk(monkeypatch)
    ring.write(entry("b"))
    with caplog.at_level(logging.ERROR):
        for disk.fault in ("Too many open files", "Too many open files", "Input/output error"):
            ring.ring.refresh()
    reasons = [line.__dict__["fields"]["reason"].rpartition(": ")[2] for line in caplog.records]
    assert reasons == ["Too many open files", "Input/output error"]
    assert (ring.told, ring.name("token of a")) == ([False, False], "a")
    disk.fault = None
    ring.ring.refresh()
    assert (ring.told, ring.name("token of a"), ring.name("token of b")) == (
        [False, False, True],
        None,
        "b",
    )
    disk.read.clear()
    ring.ring.refresh()
    assert disk.read == []


@pytest.mark.fault
def test_a_change_of_the_mode_is_a_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that could not be read for its mode keeps time, size and inode with another mode; it is read again."""
    ring, disk = Ring(tmp_path, entry("a")), Disk(monkeypatch)
    before = ring.file.stat().st_ctime_ns
    while (
        ring.file.stat().st_ctime_ns == before
    ):  # the clock of some file systems moves every few milliseconds
        ring.file.chmod(0o600)
    ring.ring.refresh()
    assert disk.read == [ring.file]


@pytest.mark.fault
def test_a_pipe_in_the_files_place_is_refused_at_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody writes into it, so who waited would never see another change; a file in its place is read."""
    ring = Ring(tmp_path, entry("a"))
    ring.file.unlink()
    os.mkfifo(ring.file)
    for _ in range(2):
        ring.ring.refresh()
    (line,) = caplog.records
    assert "no regular file" in line.__dict__["fields"]["reason"]
    assert (ring.told, ring.name("token of a")) == ([False], "a")
    ring.file.unlink()
    ring.change(entry("b"))
    assert (ring.told, ring.name("token of b")) == ([False, True], "b")


@pytest.mark.fault
def test_a_look_that_hangs_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a disk does not answer no key is revoked, so the log and the gauge say so; when it does, all is as new."""
    ring, disk = Ring(tmp_path, entry("a")), Disk(monkeypatch)
    monkeypatch.setattr("service.keyring.LOOK_SECONDS", 0.001)
    monkeypatch.setattr("service.keyring.MAX_LOOK", 0.001)
    disk.answers.clear()
    ring.write(entry("b"))

    async def watch() -> None:
        watching = asyncio.ensure_future(ring.ring.watch())
        await until(lambda: ring.told[-1:] == [False])
        assert "not read within" in caplog.records[0].__dict__["fields"]["reason"]
        assert ring.name("token of a") == "a"
        disk.answers.set()
        await until(lambda: ring.told[-1:] == [True])
        assert ring.name("token of b") == "b"
        watching.cancel()

    asyncio.run(watch())


def test_an_unchanged_file_is_not_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A look at a file whose times, size and inode are as before reads nothing; a replaced file is read."""
    ring = Ring(tmp_path, entry("a"))
    read = Disk(monkeypatch).read
    ring.ring.refresh()
    assert read == []
    moment = ring.file.stat().st_mtime_ns
    other = tmp_path / "other"
    other.write_text(entry("b"))
    os.utime(other, ns=(moment, moment))
    other.replace(ring.file)
    ring.ring.refresh()
    assert read == [ring.file]
    assert ring.name("token of b") == "b"


@pytest.mark.fault
def test_a_wrong_file_at_the_start_is_an_error(tmp_path: Path) -> None:
    """Without keys that can be used there is no ring, so no service that lets in everybody."""
    with pytest.raises(KeysError):
        Ring(tmp_path, "")


def test_what_a_key_has_left_survives_a_reload(tmp_path: Path) -> None:
    """Another key's rotation, or a new key under the old name, gives nobody a fresh allowance; new limits do."""

    def left(token: bytes = b"token of a") -> Any:
        client = ring.ring.find(token)
        return client and client.allowance

    ring = Ring(tmp_path, entry("a", "texts_per_minute = 5") + entry("b"))
    first = left()
    ring.change(entry("a", "texts_per_minute = 5") + entry("c"))
    assert left() is first
    ring.change(entry("a", "texts_per_minute = 5", token="rotated"))
    assert left() is None
    assert left(b"rotated") is first
    ring.change(entry("a", "texts_per_minute = 6", token="rotated"))
    assert left(b"rotated").limits == (6, 0)


def test_limits_are_the_keys_own_or_the_settings(tmp_path: Path) -> None:
    """Limits that a key does not have are the service's defaults; 0 lifts them; they also hold for anybody."""
    text = entry("own", "texts_per_minute = 1\ncharacters_per_minute = 0") + entry("none")
    ring = Ring(tmp_path, text, keys=PLAIN, texts_per_minute=7, characters_per_minute=8).ring
    clients = [ring.find(token) for token in (b"token of own", b"token of none", PLAIN.encode())]
    assert [client and client.allowance.limits for client in clients] == [(1, 0), (7, 8), (7, 8)]
    assert ring.anybody.allowance.limits == (7, 8)


def test_without_keys_nobody_needs_one() -> None:
    """No keys at all: none is demanded, and anybody has no name."""
    ring = KeyRing(Settings())
    assert not ring.demanded
    assert (ring.anybody.name, ring.anybody.admin) == ("", False)
