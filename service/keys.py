"""API keys as they are kept: names and SHA-256 hashes in a TOML file, and the command that makes them.

    python -m service.keys new NAME --file keys.toml

A key is made of 32 random bytes, so nobody can find it by trying, and a plain SHA-256 hides it as well as a slow hash
would (docs/decisions/0012-admission.md). What a running service does with keys is `service.keyring`.
"""

import argparse
import hashlib
import os
import re
import secrets
import stat
import sys
import tempfile
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# Keys from the environment were chosen by somebody: 16 characters of token_urlsafe are 96 bits.
SHORTEST_KEY = 16
KEY_BYTES = 32
# Names of keys from LACUNA_KEYS begin so, and no others.
PLAIN = "env-"
MAKE_ONE = "python -m service.keys new NAME makes one"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_PLACE = re.compile(r"\(at (line \d+, column \d+|end of document)\)$")
_LIMITS = ("texts_per_minute", "characters_per_minute")
_FIELDS = ("name", "sha256", *_LIMITS, "admin")


class KeysError(Exception):
    """A key or a keys file that cannot be used; says which entry and field, and the remedy, and never a key."""


class KeysReadError(KeysError):
    """The system does not let a keys file be read, which can change while the file does not: its mode, a disk."""


@dataclass(frozen=True, slots=True)
class Key:
    """One key, without the key itself.

    Attributes:
        name: who uses it: stands in the log, and keeps its cached texts and its rates apart from others'.
        digest: SHA-256 of the key, 32 bytes.
        texts_per_minute, characters_per_minute: its limits; 0 for none, None for the service's defaults.
        admin: whether it may do what is under ``/admin/``, beside all that other keys may.
    """

    name: str
    digest: bytes = field(repr=False)
    texts_per_minute: int | None = None
    characters_per_minute: int | None = None
    admin: bool = False


def read_keys_file(path: Path) -> tuple[Key, ...]:
    """The keys of a file.

    Raises:
        KeysReadError: the system does not let it be read.
        KeysError: it is no regular file, not TOML, or an entry is wrong.
    """
    try:
        return parse_keys(_read_regular(path))
    except OSError as error:
        raise KeysReadError(f"keys file {path}: {error.strerror or type(error).__name__}") from None
    except UnicodeDecodeError as error:
        raise KeysError(f"keys file {path}: not UTF-8 at byte {error.start}") from None
    except KeysError as error:
        raise KeysError(f"keys file {path}: {error}") from None


def parse_keys(text: str) -> tuple[Key, ...]:
    """The keys of a file's *text*.

    Raises:
        KeysError: it is not TOML, or an entry is wrong.
    """
    try:
        document = tomllib.loads(text)
    except (
        ValueError,
        RecursionError,
    ) as error:  # TOMLDecodeError, and what int() says of thousands of digits
        # The rest of the parser's words may hold what stands there.
        place = _PLACE.search(str(error))
        raise KeysError(
            f"not TOML at {place[1] if place else 'some place'}; it must hold [[key]] entries; {MAKE_ONE}"
        ) from None
    entries = document.get("key")
    if set(document) != {"key"} or not isinstance(entries, list) or not entries:
        raise KeysError(f"it must hold [[key]] entries, one at least, and nothing else; {MAKE_ONE}")
    keys = tuple(
        _read_entry(f"entry {number}", entry) for number, entry in enumerate(entries, start=1)
    )
    for what in ("name", "digest"):
        seen: dict[object, int] = {}
        for number, key in enumerate(keys, start=1):
            if (earlier := seen.setdefault(getattr(key, what), number)) != number:
                name = {"name": "name", "digest": "sha256"}[what]
                raise KeysError(
                    f"entry {number}: {name} is that of entry {earlier}; each key needs its own"
                )
    return keys


def plain_keys(keys: Iterable[str]) -> tuple[Key, ...]:
    """Keys that were given as they are, named by their places.

    Raises:
        KeysError: one is short or not printable ASCII.
    """
    named = []
    for position, key in enumerate(keys, start=1):
        if len(key) < SHORTEST_KEY or not all("!" <= character <= "~" for character in key):
            raise KeysError(
                f"API key {position} has {len(key)} characters; it must have at least {SHORTEST_KEY}, printable ASCII "
                f"without spaces: {MAKE_ONE}"
            )
        named.append(Key(f"{PLAIN}{position}", hash_key(key.encode())))
    return tuple(named)


def hash_key(key: bytes) -> bytes:
    """What is kept of a key, and compared."""
    return hashlib.sha256(key).digest()


def main(arguments: Sequence[str] | None = None) -> int:
    """``python -m service.keys``.

    Returns:
        Exit status: 0, or 2 where the entry or the file would be wrong.
    """
    given = _parser().parse_args(arguments)
    try:
        _new(given)
    except (KeysError, OSError) as error:
        sys.stderr.write(f"lacuna: {error}\n")
        return 2
    return 0


def _new(given: argparse.Namespace) -> None:
    token = secrets.token_urlsafe(KEY_BYTES)
    values = {
        "name": given.name,
        "sha256": hash_key(token.encode()).hex(),
        "texts_per_minute": given.texts_per_minute,
        "characters_per_minute": given.characters_per_minute,
        "admin": given.admin,
    }
    entry = _write_entry(_read_entry("the new key", values))
    if given.file is None:
        sys.stderr.write(entry)
    else:
        _append(given.file, entry)
    sys.stdout.write(f"{token}\n")


def _read_regular(path: Path) -> str:
    """The text of a file that has an end: whoever reads a pipe waits for its writer, who may never come."""
    with open(
        path, encoding="utf-8", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)
    ) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise KeysError(
                "is no regular file but a pipe or a device; write the keys to a file and name that"
            )
        return file.read()


def _read_entry(where: str, entry: Any) -> Key:
    if not isinstance(entry, dict):
        raise KeysError(f"{where} must be a table: [[key]]")
    if unknown := len(set(entry) - set(_FIELDS)):
        raise KeysError(
            f"{where} has {unknown} fields that are unknown; those of a key are {', '.join(_FIELDS)}"
        )
    name, digest, admin = entry.get("name"), entry.get("sha256"), entry.get("admin", False)
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise KeysError(
            f"{where}: name must be 1 to 64 letters, digits, '.', '_' or '-', the first a letter or digit"
        )
    if name.startswith(PLAIN):
        raise KeysError(
            f"{where}: name begins with {PLAIN}, as keys of LACUNA_KEYS are named; choose another"
        )
    if not isinstance(digest, str) or not _SHA256.fullmatch(digest.lower()):
        raise KeysError(
            f"{where}: sha256 must be 64 hexadecimal digits, the hash of a key and not the key; {MAKE_ONE}"
        )
    if not isinstance(admin, bool):
        raise KeysError(f"{where}: admin must be true or false")
    texts, characters = (_read_limit(where, entry, limit) for limit in _LIMITS)
    return Key(name, bytes.fromhex(digest), texts, characters, admin)


def _read_limit(where: str, entry: dict[str, Any], limit: str) -> int | None:
    value = entry.get(limit)
    if value is None or (type(value) is int and value >= 0):
        return value
    raise KeysError(
        f"{where}: {limit} must be a whole number from 0 on; 0 means no limit, left out the service's own"
    )


def _write_entry(key: Key) -> str:
    lines = ["[[key]]", f'name = "{key.name}"', f'sha256 = "{key.digest.hex()}"']
    for limit in _LIMITS:
        lines += [f"{limit} = {getattr(key, limit)}"] if getattr(key, limit) is not None else []
    lines += ["admin = true"] if key.admin else []
    return "\n".join(lines) + "\n"


def _append(path: Path, entry: str) -> None:
    """Add *entry* to a file, which a service that reads it meanwhile sees as it was or as it is then."""
    path = path.resolve()
    before, old = "", None
    if path.exists():
        read_keys_file(path)
        before, old = path.read_text("utf-8").rstrip("\n") + "\n\n", path.stat()
    parse_keys(before + entry)
    try:
        _replace(path, before + entry, old)
    except OSError as error:  # the system's message would name the file that is written beside
        raise KeysError(
            f"cannot write {path.name} in {path.parent}: {error.strerror or type(error).__name__}; make that "
            "directory, name a file in another one, or run this as a user who may write there"
        ) from None


def _replace(path: Path, text: str, old: os.stat_result | None) -> None:
    """Write *text* beside *path*, with the mode and the owner of the *old* file, and put it in its place."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(handle)
        if old is not None:  # a service that may not be whoever runs this has to read it on
            os.chown(name, old.st_uid, old.st_gid)
            Path(name).chmod(old.st_mode & 0o777)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m service.keys", description="Make API keys.", allow_abbrev=False
    )
    commands = parser.add_subparsers(dest="command", required=True)
    new = commands.add_parser(
        "new", help="make a key: printed once, on standard output; kept as a hash, in an entry"
    )
    new.add_argument("name", metavar="NAME", help="who uses it")
    new.add_argument("--admin", action="store_true", help="may also administer the service")
    new.add_argument(
        "--texts-per-minute",
        type=int,
        metavar="N",
        help="0 for no limit; left out, the service's default",
    )
    new.add_argument(
        "--characters-per-minute", type=int, metavar="N", help="the same, for code points"
    )
    new.add_argument(
        "--file",
        type=Path,
        metavar="FILE",
        help="append the entry here; otherwise to standard error",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
