"""API keys: a TOML file of names and hashes, the owner of a token, and the command that makes keys.

    lacuna keys new NAME --file keys.toml

A key is 32 random bytes, which cannot be guessed, so a plain SHA-256 hides it as well as a slow
hash would (docs/decisions/0012-admission.md).
"""

import argparse
import hashlib
import hmac
import json
import logging
import re
import secrets
import sys
import threading
import time
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from model.files import write_atomically
from service.admission import Allowance
from service.guarded_file import GuardedFileError, read_guarded_file

log = logging.getLogger(__name__)

MIN_KEY_LENGTH = 16  # of keys in LACUNA_KEYS; 16 characters of token_urlsafe have 96 bits
LOOK_SECONDS = 1.0  # between two looks at the keys file
MAX_LOOK_SECONDS = 10.0  # after which a file that could not be looked at counts as not in force
_MAKE_ONE = "make one with: lacuna keys new NAME"
_STRICT = ConfigDict(
    extra="forbid", frozen=True, strict=True, regex_engine="python-re", hide_input_in_errors=True
)
_PLACE = re.compile(r"\(at (line \d+, column \d+|end of document)\)$")
_LIMIT = Field(ge=0, description="a whole number; 0 means no limit; the default is the service's")


class KeysError(Exception):
    """A key or a keys file cannot be used; names entry, field and remedy, and never a key."""


class Key(BaseModel):
    """One key, without the key itself. The descriptions say what a field must be."""

    model_config = _STRICT
    name: str = Field(
        pattern=r"^(?!env-)[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z",
        description="1 to 64 letters, digits, '.', '_' or '-', starting with a letter or digit, "
        "but not with env-",
    )
    sha256: str = Field(
        pattern=r"^[0-9A-Fa-f]{64}\Z",
        description=f"64 hexadecimal digits, the hash of a key and not the key; {_MAKE_ONE}",
        repr=False,
    )
    texts_per_minute: Annotated[int | None, _LIMIT] = None
    work_seconds_per_minute: Annotated[int | None, _LIMIT] = None
    admin: bool = Field(False, description="true or false")
    metrics: bool = Field(False, description="true or false")


class _KeysFile(BaseModel):
    model_config = _STRICT
    key: list[Key] = Field(min_length=1)


def read_keys_file(path: Path) -> tuple[Key, ...]:
    """Read the keys of a file.

    Raises:
        KeysError: it cannot be read, others may write it, is not TOML, or an entry is wrong.
    """
    try:
        return parse_keys(read_guarded_file(path))
    except (GuardedFileError, KeysError) as error:
        raise KeysError(f"keys file {path}: {error}") from None


def parse_keys(text: str) -> tuple[Key, ...]:
    """Read the keys of a file's *text*.

    Raises:
        KeysError: it is not TOML, or an entry is wrong.
    """
    try:
        keys = _KeysFile.model_validate(tomllib.loads(text)).key
    except ValidationError as error:  # a ValueError too, so it comes first
        raise KeysError(_explain(error)) from None
    except (ValueError, RecursionError) as error:  # the parser's other words may quote a key
        place = _PLACE.search(str(error))
        raise KeysError(f"not TOML{f' at {place[1]}' if place else ''}; {_MAKE_ONE}") from None
    for field in ("name", "sha256"):
        if len({getattr(key, field).lower() for key in keys}) < len(keys):
            raise KeysError(f"two entries have the same {field}; each key needs its own")
    return tuple(keys)


def _explain(error: ValidationError) -> str:
    """Name entry and field of the first mistake, and the rule, without any value."""
    match error.errors(include_input=False, include_url=False)[0]["loc"]:
        case ("key", int(index), str(field), *_) if field in Key.model_fields:
            return f"entry {index + 1}: {field} must be {Key.model_fields[field].description}"
        case ("key", int(index), *_):
            fields = ", ".join(Key.model_fields)
            return f"entry {index + 1} must be a table [[key]] with no fields but {fields}"
        case _:
            return f"it must hold [[key]] entries, at least one, and nothing else; {_MAKE_ONE}"


def parse_plain_keys(keys: Iterable[str]) -> tuple[Key, ...]:
    """Make entries for keys that are given as they are, named ``env-1``, ``env-2`` and so on.

    Raises:
        KeysError: one is short or not printable ASCII.
    """
    entries = []
    for number, key in enumerate(keys, start=1):
        if len(key) < MIN_KEY_LENGTH or not all("!" <= character <= "~" for character in key):
            raise KeysError(
                f"API key {number} has {len(key)} characters; it must have at least "
                f"{MIN_KEY_LENGTH}, printable ASCII without spaces; {_MAKE_ONE}"
            )
        digest = hash_key(key.encode()).hex()
        entries.append(Key.model_construct(name=f"env-{number}", sha256=digest))
    return tuple(entries)


def hash_key(key: bytes) -> bytes:
    """Return the hash of a key, which is stored and compared."""
    return hashlib.sha256(key).digest()


@dataclass(frozen=True, slots=True)
class Client:
    """The sender of a request: the owner of a key, or a client without a name if none is set."""

    name: str
    allowance: Allowance
    admin: bool = False
    metrics: bool = False

    def cache_salt(self, user: str | None) -> str:
        """Return a salt of cached texts: of the key's users, each has another one."""
        # A hash, so that the name of a user stays nowhere. Names of keys have no NUL, and the word
        # keeps this apart from a salt that the model extends by the hash of a history.
        return f"{self.name}\0user {hash_key(user.encode()).hex()}" if user else self.name


class KeyRing:
    """The *plain* keys of the settings, and those of the file at *path*, watched for changes.

    *limits* are texts and seconds of estimated work per minute, for keys whose entries set none.

    Raises:
        KeysError: a key or the file cannot be used.
    """

    def __init__(
        self, plain: Iterable[str] = (), path: Path | None = None, limits: tuple[int, int] = (0, 0)
    ) -> None:
        self._plain = parse_plain_keys(plain)
        self._path = path
        self._limits = limits
        self.anonymous = Client("", Allowance(limits))  # the client if no keys are set
        # Replaced as a whole: the event loop reads it while another thread looks at the file.
        self._clients: dict[bytes, Client] = {}
        self._installed: tuple[Key, ...] = ()
        self._failure: str | None = None
        self._looked = time.monotonic()
        self._closed = threading.Event()
        self._install(read_keys_file(path) if path else ())

    @property
    def is_current(self) -> bool:
        """True if the keys file was looked at in the last seconds and its keys are in force."""
        looked = time.monotonic() - self._looked < MAX_LOOK_SECONDS
        return self._path is None or (self._failure is None and looked)

    def find(self, token: bytes) -> Client | None:
        """Return the owner of *token*.

        Every key is compared in constant time, so that the time taken reveals nothing about them.
        """
        digest = hash_key(token)
        found = None
        for known, client in self._clients.items():
            if hmac.compare_digest(digest, known):
                found = client
        return found

    def watch(self) -> None:
        """Look at the keys file every second until `close`, on a daemon thread: a disk may hang."""

        def look() -> None:
            while not self._closed.wait(LOOK_SECONDS):
                self.refresh()

        if self._path is not None:
            threading.Thread(target=look, name="keys", daemon=True).start()

    def close(self) -> None:
        """End the watch."""
        self._closed.set()

    def refresh(self) -> None:
        """Read the file again; the old keys stay until its keys can be used. Log changes once."""
        try:
            keys = read_keys_file(self._path) if self._path else ()
            self._failure = None
            if keys != self._installed:
                self._install(keys)
                log.info("keys reloaded", extra={"fields": {"keys": len(keys)}})
        except Exception as error:  # even an unexpected one: the watch must go on
            reason = str(error) if isinstance(error, KeysError) else type(error).__name__
            if reason != self._failure:
                fields = {"reason": reason}
                log.error("keys not reloaded; the old ones stay", extra={"fields": fields})
            self._failure = reason
        self._looked = time.monotonic()

    def _install(self, keys: tuple[Key, ...]) -> None:
        """Put *keys* in force; a key that keeps name and limits keeps its allowance."""
        before = {client.name: client.allowance for client in self._clients.values()}
        clients = {}
        for key in (*self._plain, *keys):
            texts, work = key.texts_per_minute, key.work_seconds_per_minute
            limits = (
                self._limits[0] if texts is None else texts,
                self._limits[1] if work is None else work,
            )
            allowance = before.get(key.name)
            if allowance is None or allowance.limits != limits:
                allowance = Allowance(limits)
            clients[bytes.fromhex(key.sha256)] = Client(key.name, allowance, key.admin, key.metrics)
        self._clients, self._installed = clients, keys
        self.required = bool(clients)
        self.is_shared = len(clients) > 1  # by several tenants


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``lacuna keys``; return 0, or 2 if the entry or the file would be wrong."""
    parser = argparse.ArgumentParser("lacuna keys", allow_abbrev=False)
    new = parser.add_subparsers(required=True, metavar="new").add_parser(
        "new", help="make a key: print it once, and keep its hash in an entry"
    )
    new.add_argument("name", metavar="NAME", help="who uses it")
    new.add_argument("--admin", action="store_true", help="it may also administer the service")
    new.add_argument("--metrics", action="store_true", help="it may also read /metrics")
    for option in ("--texts-per-minute", "--work-seconds-per-minute"):
        new.add_argument(option, type=int, metavar="N", help=_LIMIT.description)
    new.add_argument("--file", type=Path, help="append the entry here (default: standard error)")
    given = vars(parser.parse_args(arguments))
    path, key = given.pop("file"), secrets.token_urlsafe(32)
    values = given | {"sha256": hash_key(key.encode()).hex()}
    entry = "[[key]]\n" + "".join(
        f"{name} = {json.dumps(value, ensure_ascii=False)}\n"
        for name, value in values.items()
        if value is not None
    )
    try:
        if path and path.exists():
            read_keys_file(path)
            parse_keys(text := f"{read_guarded_file(path).rstrip()}\n\n{entry}")
        else:
            parse_keys(text := entry)
        if path:
            write_atomically(path, text.encode(), mode=0o600)
        else:
            sys.stderr.write(entry)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        sys.stderr.write(f"lacuna: cannot write {path}: {reason}; name a writable folder\n")
        return 2
    except (GuardedFileError, KeysError) as error:
        sys.stderr.write(f"lacuna: {error}\n")
        return 2
    sys.stdout.write(f"{key}\n")
    return 0
