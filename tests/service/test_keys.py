"""Tests of service/keys.py: the file of named keys, and the command that makes them."""

import hashlib
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from service.keys import Key, KeysError, main, parse_keys, plain_keys, read_keys_file
from tests.service.server_process import ROOT, clean_environment

KEY = "0123456789abcdef"
SHA256 = hashlib.sha256(KEY.encode()).hexdigest()
OTHER = hashlib.sha256(b"another").hexdigest()


def entry(**values: object) -> str:
    """An entry with these values, as TOML, beside or over a good name and hash."""
    merged = {"name": '"keyboard"', "sha256": f'"{SHA256}"'} | values
    return "[[key]]\n" + "".join(
        f"{name} = {value}\n" for name, value in merged.items() if value is not None
    )


def test_entries_are_read() -> None:
    """Name, hash, limits and rights of each key; limits that are left out are the service's to set."""
    text = "# people\n" + entry(texts_per_minute=600, characters_per_minute=0, admin="true")
    text += entry(name='"b.2_-"', sha256=f'"{OTHER.upper()}"')
    first, second = parse_keys(text)
    assert first == Key("keyboard", bytes.fromhex(SHA256), 600, 0, True)
    assert second == Key("b.2_-", bytes.fromhex(OTHER), None, None, False)


def test_hashes_are_not_shown() -> None:
    """What Python shows of a key has its name and neither key nor hash."""
    shown = repr(parse_keys(entry()))
    assert "keyboard" in shown
    assert SHA256 not in shown
    assert repr(bytes.fromhex(SHA256))[2:8] not in shown


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (f"{KEY}\n", r"not TOML at line 1, column 17"),
        (f"# old\n{KEY}=\n", r"not TOML at line 2"),
        (f'[[key]]\nname = "{KEY}', r"not TOML at end of document|not TOML at line 2"),
        ("", r"\[\[key\]\] entries, one at least"),
        ("key = []", r"entries, one at least"),
        ("[key]\nname = 'a'", r"\[\[key\]\] entries"),
        (f"{entry()}\n[[{KEY}]]\n", "nothing else"),
        ("key = [1]", r"entry 1 must be a table"),
        (entry(name=None), r"entry 1: name must be 1 to 64"),
        (entry(name='""'), r"entry 1: name must be"),
        (entry(name='"a b"'), r"entry 1: name must be"),
        (entry(name=f'"{"a" * 65}"'), r"entry 1: name must be"),
        (entry(name='"env-1"'), r"entry 1: name begins with env-"),
        (entry(sha256=None), r"entry 1: sha256 must be 64 hexadecimal digits"),
        (
            entry(sha256=f'"{KEY}"'),
            r"entry 1: sha256 .* the hash of a key and not the key; python -m service\.keys new",
        ),
        (entry(sha256=7), r"entry 1: sha256"),
        (entry(admin='"yes"'), r"entry 1: admin must be true or false"),
        (entry(texts_per_minute="9" * 5000), r"not TOML at some place"),
        (
            entry(texts_per_minute="-1"),
            r"entry 1: texts_per_minute must be a whole number from 0 on",
        ),
        (entry(characters_per_minute="1.5"), r"entry 1: characters_per_minute must be"),
        (entry(characters_per_minute="true"), r"entry 1: characters_per_minute must be"),
        (
            entry() + entry(name='"b"', sha256=f'"{OTHER}"', **{KEY: 1}),
            r"entry 2 has 1 fields that are unknown",
        ),
        (entry() + entry(sha256=f'"{OTHER}"'), r"entry 2: name is that of entry 1"),
        (entry() + entry(name='"b"'), r"entry 2: sha256 is that of entry 1"),
    ],
)
def test_a_wrong_file_is_an_error_that_tells_no_key(tmp_path: Path, text: str, told: str) -> None:
    """What is wrong is named by entry and field, with the remedy, and without anything that may be a key or a hash."""
    file = tmp_path / "keys.toml"
    file.write_text(text)
    with pytest.raises(KeysError, match=told) as refused:
        read_keys_file(file)
    message = str(refused.value)
    assert message.startswith(f"keys file {file}: ")
    assert not any(secret in message for secret in (KEY, SHA256, OTHER))


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    """A missing file and one that is not text are errors that name it."""
    with pytest.raises(KeysError, match="no-keys: No such file"):
        read_keys_file(tmp_path / "no-keys")
    (tmp_path / "bytes").write_bytes(b"# \xff")
    with pytest.raises(KeysError, match="bytes: not UTF-8 at byte 2"):
        read_keys_file(tmp_path / "bytes")


def test_plain_keys_are_named_by_their_places() -> None:
    """Keys of the environment have names of their own, no limits and no rights beyond asking."""
    assert plain_keys([KEY, f"{KEY}2"])[0] == Key("env-1", bytes.fromhex(SHA256))
    assert [key.name for key in plain_keys([KEY, f"{KEY}2"])] == ["env-1", "env-2"]


@pytest.mark.parametrize("key", ["hunter2", "not printable \x01 at all", "schlüssel-schlüssel"])
def test_a_bad_plain_key_is_an_error_that_does_not_tell_it(key: str) -> None:
    """A short or unprintable key is refused by number and length, without showing it."""
    with pytest.raises(KeysError, match=f"API key 2 has {len(key)} characters") as refused:
        plain_keys([KEY, key])
    assert key not in str(refused.value)


def test_new_prints_the_key_once_and_an_entry_with_its_hash(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The key, of 256 random bits, goes to standard output alone; the entry to standard error, with the hash alone."""
    assert main(["new", "keyboard", "--admin", "--texts-per-minute", "600"]) == 0
    printed = capsys.readouterr()
    key = printed.out.strip()
    assert len(key) == 43
    assert key not in printed.err
    digest = hashlib.sha256(key.encode()).digest()
    assert parse_keys(printed.err) == (Key("keyboard", digest, 600, None, True),)
    main(["new", "keyboard"])
    assert capsys.readouterr().out.strip() != key


def test_new_appends_to_a_file_and_keeps_what_is_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A new file is for its owner only; later entries leave comments, mode, owner and earlier keys as they are."""
    file = tmp_path / "keys.toml"
    assert main(["new", "one", "--file", str(file)]) == 0
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    file.write_text(f"# people\n{file.read_text()}")
    file.chmod(0o640)
    if os.geteuid() == 0:
        os.chown(file, 65534, 65534)
    owner = file.stat().st_uid, file.stat().st_gid
    assert main(["new", "two", "--characters-per-minute", "0", "--file", str(file)]) == 0
    first, second = capsys.readouterr().out.split()
    assert [(key.name, key.digest) for key in read_keys_file(file)] == [
        (name, hashlib.sha256(key.encode()).digest())
        for name, key in (("one", first), ("two", second))
    ]
    assert file.read_text().startswith("# people\n")
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    assert (file.stat().st_uid, file.stat().st_gid) == owner
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("place", ["none/keys.toml", "file/keys.toml"])
def test_new_names_the_directory_that_it_cannot_write_to(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], place: str
) -> None:
    """Not the file that it writes beside, which nobody has named; says what to do, prints no key, leaves nothing."""
    (tmp_path / "file").touch()
    file = tmp_path / place
    assert main(["new", "one", "--file", str(file)]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert f"cannot write keys.toml in {file.parent}: No" in printed.err
    assert "make that directory" in printed.err
    assert ".keys.toml." not in printed.err


def test_what_is_no_file_is_refused_at_once(tmp_path: Path) -> None:
    """A pipe, which nobody writes into, a device, a directory: an error that says so, and no waiting."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path, told in (
        (pipe, "no regular file"),
        (Path(os.devnull), "no regular file"),
        (tmp_path, "directory"),
    ):
        with pytest.raises(KeysError, match=f"keys file {path}: .*{told}"):
            read_keys_file(path)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("one",), "entry 2: name is that of entry 1"),
        (('a"b',), "the new key: name must be"),
        (("two", "--texts-per-minute", "-1"), "the new key: texts_per_minute"),
    ],
)
def test_new_refuses_what_the_service_would_refuse(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], told: str
) -> None:
    """An entry that would make the file wrong is not written, no key is printed, and the status is 2."""
    file = tmp_path / "keys.toml"
    main(["new", "one", "--file", str(file)])
    before = file.read_bytes()
    capsys.readouterr()
    assert main(["new", *arguments, "--file", str(file)]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert told in printed.err
    assert file.read_bytes() == before


def test_the_command_runs_as_a_module() -> None:
    """`python -m service.keys` is the command."""
    command = [sys.executable, "-m", "service.keys", "new", "a"]
    answer = subprocess.run(
        command, cwd=ROOT, env=clean_environment(), capture_output=True, text=True, check=True
    )
    assert (
        parse_keys(answer.stderr)[0].digest
        == hashlib.sha256(answer.stdout.strip().encode()).digest()
    )
