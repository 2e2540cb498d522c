"""Tests of service/auth.py: the keys file, the command that makes keys, and the keys in force."""

import hashlib
import hmac
import logging
import os
import stat
import threading
from pathlib import Path
from typing import Any

import pytest

from service.auth import (
    Key,
    KeyRing,
    KeysError,
    hash_key,
    main,
    parse_keys,
    parse_plain_keys,
    read_keys_file,
)
from tests.service.client import key_entry

KEY = "0123456789abcdef"
SHA256 = hashlib.sha256(KEY.encode()).hexdigest()
OTHER = hashlib.sha256(b"another").hexdigest()
PATIENCE_SECONDS = 60


def entry(**values: object) -> str:
    """Return an entry with these TOML values added to a good name and hash, or in their place."""
    merged = {"name": '"keyboard"', "sha256": f'"{SHA256}"'} | values
    return "[[key]]\n" + "".join(
        f"{name} = {value}\n" for name, value in merged.items() if value is not None
    )


def test_entries_are_read() -> None:
    """Name, hash, limits and rights of each key are read; missing limits are None."""
    text = "# people\n" + entry(texts_per_minute=600, work_seconds_per_minute=0, admin="true")
    first, second = parse_keys(text + entry(name='"b.2_-"', sha256=f'"{OTHER.upper()}"'))
    limits = {"texts_per_minute": 600, "work_seconds_per_minute": 0}
    assert first == Key(name="keyboard", sha256=SHA256, admin=True, **limits)
    assert second == Key(name="b.2_-", sha256=OTHER.upper())
    assert SHA256 not in repr(first)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"{KEY}\n", "not TOML at line 1, column 17; make one with"),
        ("", r"\[\[key\]\] entries, at least one"),
        ("[key]\nname = 'a'", r"\[\[key\]\] entries"),
        (f"{entry()}\n[[{KEY}]]\n", "nothing else"),
        ("key = [1]", "entry 1 must be a table"),
        (entry(name=None), "entry 1: name must be 1 to 64"),
        (entry(name='"a b"'), "entry 1: name must be"),
        (entry(name=f'"{"a" * 65}"'), "entry 1: name must be"),
        (entry(name='"env-1"'), "entry 1: name must .* not with env-"),
        (entry(sha256=None), "entry 1: sha256 must be 64 hexadecimal digits"),
        (entry(sha256=f'"{KEY}"'), "the hash of a key and not the key; make one with: lacuna keys"),
        (entry(admin='"yes"'), "entry 1: admin must be true or false"),
        (entry(texts_per_minute="9" * 5000), "not TOML; "),
        (entry(texts_per_minute="-1"), "entry 1: texts_per_minute must be a whole number"),
        (entry(work_seconds_per_minute="1.5"), "entry 1: work_seconds_per_minute must be"),
        (entry() + entry(name='"b"', **{KEY: 1}), "entry 2 must be a table .* no fields but name"),
        (entry() + entry(sha256=f'"{OTHER}"'), "two entries have the same name"),
        (entry() + entry(name='"b"'), "two entries have the same sha256"),
    ],
)
def test_a_wrong_file_is_an_error_that_shows_no_key(
    tmp_path: Path, text: str, message: str
) -> None:
    """The error names file, entry, field and remedy, without any part of a key or a hash."""
    file = tmp_path / "keys.toml"
    file.write_text(text)
    with pytest.raises(KeysError, match=message) as refused:
        read_keys_file(file)
    assert str(refused.value).startswith(f"keys file {file}: ")
    assert not any(secret in str(refused.value) for secret in (KEY, SHA256, OTHER))


def test_a_file_that_cannot_be_read_is_refused_at_once(tmp_path: Path) -> None:
    """A missing file, bytes that are not text, a pipe, a directory, a long file are errors."""
    (tmp_path / "bytes").write_bytes(b"# \xff")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "long").write_text("#" * (1 << 20) + "\n")
    for name, message in {
        "missing": "No such file",
        "bytes": "not UTF-8 at byte 2",
        "pipe": "not a regular file",
        ".": "not a regular file",
        "long": "has more than 1048576 bytes",
    }.items():
        with pytest.raises(KeysError, match=message):
            read_keys_file(tmp_path / name)


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_a_file_that_others_may_write_is_refused(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str], mode: int
) -> None:
    """At the start, for `lacuna keys new`, and later, when the old keys stay; chmod is named."""
    ring = Ring(tmp_path, key_entry("a"))
    ring.file.chmod(mode)
    ring.change(key_entry("b"))
    remedy = f"others may write to it; run: chmod go-w {ring.file}"
    assert remedy in caplog.records[-1].__dict__["fields"]["reason"]
    assert (ring.names("token of a", "token of b"), ring.is_current) == (["a", None], False)
    with pytest.raises(KeysError, match="chmod go-w"):
        read_keys_file(ring.file)
    assert main(["new", "c", "--file", str(ring.file)]) == 2
    assert remedy in capsys.readouterr().err
    ring.file.chmod(0o644)
    ring.refresh()
    assert (ring.names("token of a", "token of b"), ring.is_current) == ([None, "b"], True)


def test_a_file_that_others_may_replace_is_refused(tmp_path: Path) -> None:
    """Others may not write to its folder, nor to that of a link to it, unless it is sticky."""
    folder = tmp_path / "open"
    folder.mkdir()
    (tmp_path / "keys.toml").write_text(key_entry("a"))
    (folder / "link").symlink_to(tmp_path / "keys.toml")
    for mode, refused in ((0o757, True), (0o1777, False), (0o775, False)):
        folder.chmod(mode)
        if refused:
            with pytest.raises(KeysError, match=f"others may replace it; run: chmod o-w {folder}"):
                read_keys_file(folder / "link")
        else:
            assert read_keys_file(folder / "link")


@pytest.mark.parametrize("key", ["hunter2", "not printable \x01 at all", "schlüssel-schlüssel"])
def test_a_bad_plain_key_is_an_error_that_does_not_show_it(key: str) -> None:
    """A short or unprintable key is refused by number and length."""
    with pytest.raises(KeysError, match=f"API key 2 has {len(key)} characters") as refused:
        parse_plain_keys([KEY, key])
    assert key not in str(refused.value)


def test_new_prints_the_key_and_appends_its_entry(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A new file is for its owner only; later entries keep comments, mode, owner and keys."""
    file = tmp_path / "keys.toml"
    assert main(["new", "one", "--file", str(file)]) == 0
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    file.write_text(f"# people\n{file.read_text()}")
    file.chmod(0o640)
    if os.geteuid() == 0:
        os.chown(file, 65534, 65534)
    owner = file.stat().st_uid, file.stat().st_gid
    limits = ["--work-seconds-per-minute", "0", "--admin"]
    assert main(["new", "two", *limits, "--file", str(file)]) == 0
    first, second = capsys.readouterr().out.split()
    assert len(first) == len(second) == 43
    assert read_keys_file(file) == (
        Key(name="one", sha256=hash_key(first.encode()).hex()),
        Key(
            name="two",
            sha256=hash_key(second.encode()).hex(),
            work_seconds_per_minute=0,
            admin=True,
        ),
    )
    assert file.read_text().startswith("# people\n")
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    assert (file.stat().st_uid, file.stat().st_gid) == owner
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["one"], "two entries have the same name"),
        (['a"b'], "name must be"),
        (["two", "--texts-per-minute", "-1"], "texts_per_minute must be"),
        (["two", "--file", "missing/keys.toml"], "cannot write missing/keys.toml: No such file"),
    ],
)
def test_new_refuses_what_the_service_would_refuse(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    """An entry that would be wrong is not written, no key is printed, and the status is 2."""
    file = tmp_path / "keys.toml"
    main(["new", "one", "--file", str(file)])
    before = file.read_bytes()
    capsys.readouterr()
    assert main(["new", "--file", str(file), *arguments]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert message in printed.err
    assert file.read_bytes() == before


def test_new_without_a_file_prints_the_entry(capsys: pytest.CaptureFixture[str]) -> None:
    """The entry goes to standard error; standard output has the key alone."""
    assert main(["new", "a"]) == 0
    printed = capsys.readouterr()
    (key,) = parse_keys(printed.err)
    assert key.sha256 == hash_key(printed.out.strip().encode()).hex()


class Ring(KeyRing):
    """A key ring on a file."""

    def __init__(
        self, directory: Path, text: str, plain: tuple[str, ...] = (), **given: Any
    ) -> None:
        self.file = directory / "keys.toml"
        self.file.write_text(text)
        super().__init__(plain, self.file, **given)

    def change(self, text: str) -> None:
        """Change the file and look at it."""
        self.file.write_text(text)
        self.refresh()

    def names(self, *tokens: str) -> list[str | None]:
        """Return whose keys they are."""
        clients = [self.find(token.encode()) for token in tokens]
        return [client and client.name for client in clients]


def test_keys_of_settings_and_file_count(tmp_path: Path) -> None:
    """Each has its name, rights and limits, or the service's limits; no other token is known."""
    text = key_entry("a", "texts_per_minute = 1\nwork_seconds_per_minute = 0")
    ring = Ring(tmp_path, text + key_entry("root", "admin = true"), (KEY,), limits=(7, 8))
    assert ring.names("", "a", "token of b", KEY[:-1]) == [None] * 4
    clients = [ring.find(token) for token in (b"token of a", b"token of root", KEY.encode())]
    found = [each and (each.name, each.admin, each.allowance.limits) for each in clients]
    assert found == [("a", False, (1, 0)), ("root", True, (7, 8)), ("env-1", False, (7, 8))]
    assert ring.anonymous.allowance.limits == (7, 8)
    assert (KeyRing().required, KeyRing().is_current) == (False, True)


def test_every_key_is_compared_in_constant_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All keys are compared by hmac.compare_digest, whichever fits, as digests of one length."""
    ring = Ring(tmp_path, key_entry("a") + key_entry("b") + key_entry("c"))
    compared: list[tuple[int, int]] = []
    original = hmac.compare_digest

    def spy(left: bytes, right: bytes) -> bool:
        compared.append((len(left), len(right)))
        return original(left, right)

    monkeypatch.setattr(hmac, "compare_digest", spy)
    for token in ("token of a", "token of c", "none"):
        compared.clear()
        ring.names(token)
        assert compared == [(32, 32)] * 3


@pytest.mark.fault
@pytest.mark.parametrize("spoilt", ["", "no TOML", key_entry("a") + key_entry("a"), None])
def test_a_bad_new_file_leaves_the_old_keys(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, spoilt: str | None
) -> None:
    """An unusable file is logged once, with the reason; the old keys stay meanwhile."""
    ring = Ring(tmp_path, key_entry("a"))
    if spoilt is None:
        ring.file.unlink()
    else:
        ring.file.write_text(spoilt)
    for _ in range(3):
        ring.refresh()
    (line,) = caplog.records
    assert line.levelno == logging.ERROR
    assert str(ring.file) in line.__dict__["fields"]["reason"]
    assert (ring.names("token of a"), ring.required, ring.is_current) == (["a"], True, False)
    ring.change(key_entry("b"))
    assert ring.names("token of a", "token of b") == [None, "b"]
    assert ring.is_current


@pytest.mark.fault
def test_the_watch_survives_faults_and_shows_a_disk_that_hangs(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the file cannot be read, the gauge shows it; afterwards the new keys are in force."""
    ring = Ring(tmp_path, key_entry("a"))
    ring.file.write_text(key_entry("b"))
    hangs, answers, looked_again = threading.Event(), threading.Event(), threading.Event()
    looks: list[Path] = []

    def look(path: Path) -> tuple[Key, ...]:
        looks.append(path)
        if len(looks) == 1:
            raise MemoryError
        if len(looks) == 2:
            hangs.set()
            answers.wait()
        if len(looks) == 3:
            looked_again.set()
        return read_keys_file(path)

    monkeypatch.setattr("service.auth.read_keys_file", look)
    monkeypatch.setattr("service.auth.LOOK_SECONDS", 0.001)
    monkeypatch.setattr("service.auth.MAX_LOOK_SECONDS", 0.0)
    ring.watch()
    try:
        assert hangs.wait(PATIENCE_SECONDS)
        assert [line.__dict__["fields"]["reason"] for line in caplog.records] == ["MemoryError"]
        assert (ring.names("token of a"), ring.is_current) == (["a"], False)
    finally:
        answers.set()
        assert looked_again.wait(PATIENCE_SECONDS)
        ring.close()
    monkeypatch.setattr("service.auth.MAX_LOOK_SECONDS", float("inf"))
    assert (ring.names("token of b"), ring.is_current) == (["b"], True)


def test_a_key_keeps_its_allowance_over_a_reload(tmp_path: Path) -> None:
    """Another key's rotation, or a new key under the old name, refills nothing; new limits do."""

    def allowance(token: bytes = b"token of a") -> Any:
        client = ring.find(token)
        return client and client.allowance

    limit = "texts_per_minute = 5"
    ring = Ring(tmp_path, key_entry("a", limit) + key_entry("b"))
    first = allowance()
    ring.change(key_entry("a", limit) + key_entry("c"))
    assert allowance() is first
    ring.change(key_entry("a", limit, token="rotated"))
    assert allowance() is None
    assert allowance(b"rotated") is first
    ring.change(key_entry("a", "texts_per_minute = 6", token="rotated"))
    assert allowance(b"rotated").limits == (6, 0)
