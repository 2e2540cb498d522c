"""The keys in force: who a token belongs to, what each key may still send, and the file that is watched for changes."""

import asyncio
import hmac
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from service.keys import Key, KeysError, KeysReadError, hash_key, plain_keys, read_keys_file
from service.logs import describe
from service.rate_limit import Allowance
from service.settings import Settings

log = logging.getLogger(__name__)

# Seconds between two looks at the keys file.
LOOK_SECONDS = 1.0
# Seconds after which a look that has not ended is told: until it does, no key is revoked.
MAX_LOOK = 10.0
_KEPT = "keys not reloaded; the old ones stay"


@dataclass(frozen=True, slots=True)
class Client:
    """Whoever asks: a key, or anybody where no keys are set.

    Attributes:
        name: the key's name; empty for anybody.
        allowance: what may still be sent.
        admin: whether the key may administer the service.
    """

    name: str
    allowance: Allowance
    admin: bool = False


class KeyRing:
    """Knows keys by their hashes.

    Args:
        settings: keys, keys file, and the limits of keys that have none of their own.
        on_reload: told, after each change of the file, whether it could be used.

    Attributes:
        anybody: who asks where no keys are set.

    Raises:
        KeysError: a key or the file cannot be used.
    """

    def __init__(
        self, settings: Settings, on_reload: Callable[[bool], None] = lambda _: None
    ) -> None:
        self._defaults = settings.texts_per_minute, settings.characters_per_minute
        self._plain = plain_keys(key.get_secret_value() for key in settings.keys)
        self._path = settings.keys_file
        self._on_reload = on_reload
        self.anybody = Client("", Allowance(*self._defaults))
        # Replaced as a whole, as the event loop reads it while another thread looks at the file.
        self._clients: dict[bytes, Client] = {}
        # Why the last look could not read the file, where the next one may, though the file stays as it is.
        self._unread: str | None = None
        self._seen = None if self._path is None else _stamp(self._path)
        self._use(self._plain + (() if self._path is None else read_keys_file(self._path)))

    @property
    def demanded(self) -> bool:
        """Whether a key must be sent."""
        return bool(self._clients)

    def find(self, token: bytes) -> Client | None:
        """Whose key *token* is.

        Every key is compared, in constant time, so that the time taken says nothing about any of them.
        """
        digest = hash_key(token)
        found = None
        for known, client in self._clients.items():
            if hmac.compare_digest(digest, known):
                found = client
        return found

    async def watch(self) -> None:
        """Look at the file every second, on a thread, until cancelled."""
        while self._path is not None:
            await asyncio.sleep(LOOK_SECONDS)
            look = asyncio.ensure_future(asyncio.to_thread(self.refresh))
            await asyncio.wait((look,), timeout=MAX_LOOK)
            if not look.done():
                late = f"keys file {self._path}: not read within {MAX_LOOK:g} s; see whether its disk answers"
                self._tell_unread(late, {"reason": late})
            try:
                await look
            except Exception as error:  # not to be expected; rotation must go on with the next look
                self._tell_unread(type(error).__name__, {"exception": describe(error)})

    def refresh(self) -> None:
        """Read the file again if it has changed, or could not be read; the old keys stay until it can be used.

        What is wrong is told once: with the change, or where the file cannot be read, when the reason is another one.
        """
        if self._path is None or (
            (stamp := _stamp(self._path)) == self._seen and self._unread is None
        ):
            return
        self._seen = stamp
        try:
            keys = read_keys_file(self._path)
        except KeysReadError as error:
            self._tell_unread(str(error), {"reason": str(error)})
            return
        except KeysError as error:
            self._unread = None
            log.error(_KEPT, extra={"fields": {"reason": str(error)}})
            self._on_reload(False)
            return
        self._unread = None
        self._use(self._plain + keys)
        log.info("keys reloaded", extra={"fields": {"keys": len(keys)}})
        self._on_reload(True)

    def _tell_unread(self, why: str, fields: dict[str, object]) -> None:
        if why != self._unread:
            self._unread = why
            log.error(_KEPT, extra={"fields": fields})
            self._on_reload(False)

    def _use(self, keys: tuple[Key, ...]) -> None:
        """Put *keys* in force; a key that keeps its name and its limits goes on with what it has left."""
        before = {client.name: client.allowance for client in self._clients.values()}
        clients = {}
        for key in keys:
            own = key.texts_per_minute, key.characters_per_minute
            texts, characters = (
                default if limit is None else limit
                for limit, default in zip(own, self._defaults, strict=True)
            )
            allowance = before.get(key.name)
            if allowance is None or allowance.limits != (texts, characters):
                allowance = Allowance(texts, characters)
            clients[key.digest] = Client(key.name, allowance, key.admin)
        self._clients = clients


def _stamp(path: Path) -> tuple[int, int, int, int] | None:
    """What changes when a file, its mode or its owner is changed, or it is replaced; None where it is missing."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino
