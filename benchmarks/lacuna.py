"""Lacuna as its operator starts it, for drills: which checkpoint, which options, and who may ask."""

import http.client
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.contestants import LACUNA, START_SECONDS
from benchmarks.process import HOST, Server, free_port
from service.keys import hash_key

# Of servers that live for a drill.
KEY, ADMIN_KEY = "a-key-of-a-drill-0123456789", "an-administrator-of-a-drill-0123"


@dataclass(frozen=True, slots=True)
class Place:
    """Where drills take place.

    Attributes:
        checkpoint: that is served.
        cores: CPUs of the servers, as taskset reads them.
        folder: for logs, keys and copies.
    """

    checkpoint: Path
    cores: str
    folder: Path

    def start(self, *options: str, port: int | None = None) -> Server:
        """A server that is ready; to be stopped.

        Args:
            options: of ``python -m service``, beside port, checkpoint and ``--threads 1``.
            port: by default a free one.
        """
        ours = replace(LACUNA, arguments=(*LACUNA.arguments, "--log-level", "warning", *options))
        port = port or free_port()
        server = ours.start(port, self.cores, self.checkpoint, self.folder / f"{port}.log")
        try:
            server.wait_until_ready(START_SECONDS)
        except BaseException:
            server.stop()
            raise
        return server

    @contextmanager
    def serving(self, *options: str) -> Iterator[Server]:
        """A server that lives as long as the block."""
        server = self.start(*options)
        try:
            yield server
        finally:
            server.stop()

    def keys_file(self) -> Path:
        """A keys file with `KEY` and the administrator's `ADMIN_KEY`."""
        path = self.folder / "keys.toml"
        entries = (("drill", KEY, "false"), ("admin", ADMIN_KEY, "true"))
        lines = [
            f'[[key]]\nname = "{name}"\nsha256 = "{hash_key(key.encode()).hex()}"\nadmin = {admin}\n'
            for name, key, admin in entries
        ]
        path.write_text("\n".join(lines), encoding="utf-8")
        return path


def post(
    port: int, path: str, body: Mapping[str, Any] | bytes, headers: Mapping[str, str] | None = None
) -> tuple[int, int]:
    """One POST on a connection of its own.

    Returns:
        Status, and seconds of Retry-After, 0 where there is none.

    Raises:
        OSError, http.client.HTTPException: nobody listens, or hung up.
    """
    connection = http.client.HTTPConnection(HOST, port, timeout=60)
    content = body if isinstance(body, bytes) else json.dumps(body, ensure_ascii=False).encode()
    try:
        connection.request(
            "POST", path, content, {"Content-Type": "application/json", **(headers or {})}
        )
        answer = connection.getresponse()
        answer.read()
        return answer.status, int(answer.headers.get("Retry-After", 0))
    finally:
        connection.close()


def pick_cores() -> tuple[str, set[int]]:
    """The first CPU for servers, and the others, or the same if there is no other, for whoever asks."""
    first, *others = sorted(os.sched_getaffinity(0))
    return str(first), set(others) or {first}
