"""A long time of everything at once: every route, bad input, clients that hang up, reloads. What grows, leaks.

The prefix cache is small, so that it is full soon; what grows after the first third of the time is no cache. A reload
collects garbage, which hides what leaks by the request: a soak without any finds that sooner.
"""

import contextlib
import http.client
import itertools
import json
import random
import socket
import statistics
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.lacuna import ADMIN_KEY, KEY, Place, post
from benchmarks.process import HOST, Server

CACHE_MIB = 8
CLIENTS = 4
SAMPLES = 300
# Descriptors are counted when no client is connected; a connection that was closed is gone by then.
SETTLE_SECONDS = 10.0
# The resident set grows by less than this share from the first to the last third of what is measured: flat. Reloads
# move it by as much for moments; 3 % once let a leak of 5 MiB in a quarter of an hour pass.
FLAT_SHARE = 0.01
# Stands for the status of a reload whose connection broke.
_BROKEN = 0
# A service may answer before it has read all of a longer body, and close.
_LONGEST_BODY = 2**20
_AUTHORISED = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}


def run(
    place: Place, texts: Sequence[str], seconds: float, directories: Sequence[Path], seed: int
) -> dict[str, Any]:
    """Soak a server of its own.

    Args:
        place: where.
        texts: lines to ask with.
        seconds: how long.
        directories: checkpoints to change between, some fifty times in all; none for no reload.
        seed: of what each client asks.

    Returns:
        As `watch` does; raises as it does, too.
    """
    options = ("--keys-file", str(place.keys_file()), "--prefix-cache-mib", str(CACHE_MIB))
    with place.serving(*options) as server:
        return watch(server, texts, seconds, directories, seed)


def watch(
    server: Server, texts: Sequence[str], seconds: float, directories: Sequence[Path], seed: int
) -> dict[str, Any]:
    """Soak a server that is ready, and stop it; arguments are those of `run`.

    Returns:
        ``status``, ``server_errors``, ``reloads``; ``hung_up``, by us; ``cut_short``, by the server, as it may where a
        body is too long; ``broken``, all other connections that did not end in an answer; ``descriptors`` and
        ``resident_mib`` before and after, and in each tenth of the time; ``mib_per_hour``, the slope of the resident
        set (Theil-Sen, which a reload's moments do not bend); ``flat``.

    Raises:
        ServerError: it ended meanwhile, or with another status than 0 when it was stopped.
        Exception: whatever a client raised.
    """
    clients = [_Client(server.port, texts, random.Random(f"{seed}/{n}")) for n in range(CLIENTS)]  # noqa: S311
    before = server.descriptors()
    stop = threading.Event()
    reloads: Counter[int] = Counter()
    pause = max(1.0, seconds / 50)
    samples = []
    with ThreadPoolExecutor(CLIENTS + 1) as threads:
        tasks = [threads.submit(client.ask_until, stop) for client in clients]
        if directories:
            tasks.append(
                threads.submit(_reload_until, stop, server.port, directories, pause, reloads)
            )
        try:
            began = time.monotonic()
            while (passed := time.monotonic() - began) < seconds:
                server.check_alive()
                for task in tasks:
                    if task.done():
                        task.result()  # raises: none ends by itself
                samples.append((passed, server.resident_bytes() / 2**20, server.descriptors()))
                time.sleep(max(0.1, seconds / SAMPLES))
        finally:
            stop.set()
    for task in tasks:
        task.result()
    after = _settled(server, before)
    if server.stop() != 0:
        server.check_alive()  # says with what status it ended
    statuses = sum((client.statuses for client in clients), Counter[int]())
    return {
        "seconds": seconds,
        "requests": statuses.total() + reloads.total() - reloads[_BROKEN],
        "status": {str(status): times for status, times in sorted(statuses.items())},
        "server_errors": sum(
            times for status, times in (statuses + reloads).items() if status >= 500
        ),
        "hung_up": sum(client.hung_up for client in clients),
        "cut_short": sum(client.cut_short for client in clients),
        "broken": sum(client.broken for client in clients) + reloads[_BROKEN],
        "reloads": reloads[200],
        "reloads_refused": reloads.total() - reloads[200] - reloads[_BROKEN],
        "descriptors": {
            "before": before,
            "after": after,
            "most": max(most for _, _, most in samples),
        },
        "leaked_descriptors": max(0, after - before),
        **growth([(passed, mib) for passed, mib, _ in samples]),
    }


class _Client:
    """Asks one thing after another on one connection, and does what a client should not."""

    def __init__(self, port: int, texts: Sequence[str], source: random.Random) -> None:
        self.statuses: Counter[int] = Counter()
        self.hung_up = self.cut_short = self.broken = 0
        self._port = port
        self._texts = texts
        self._source = source
        self._connection = http.client.HTTPConnection(HOST, port, timeout=60)

    def ask_until(self, stop: threading.Event) -> None:
        doings: tuple[tuple[Callable[[], None], int], ...] = (
            (self._ask, 70),
            (self._read, 10),
            (self._ask_wrongly, 15),
            (self._hang_up, 5),
        )
        with contextlib.closing(self._connection):
            while not stop.is_set():
                (do,) = self._source.choices(
                    [do for do, _ in doings], [weight for _, weight in doings]
                )
                do()

    def _ask(self) -> None:
        text = self._source.choice(self._texts)
        part = text[: self._source.randrange(1, len(text) + 1)]
        path, body = self._source.choice(
            (
                ("/predict", {"text": part}),
                ("/predict", {"text": part, "top_k": 100}),
                ("/predict", {"text": [part, text], "history": text}),
                ("/cloze", {"text": f"{part} ____ {text[len(part) :]}"}),
                ("/cloze", {"text": f"{part} ____", "choices": ["cat", "猫", text[:1]]}),
                ("/score", {"text": [text, part]}),
            )
        )
        self._exchange("POST", path, json.dumps(body).encode(), _AUTHORISED)

    def _read(self) -> None:
        paths = (
            "/model",
            "/livez",
            "/readyz",
            "/metrics",
            "/docs",
            "/openapi.json",
            "/none",
            "/predict",
        )
        self._exchange("GET", self._source.choice(paths), None, _AUTHORISED)

    def _ask_wrongly(self) -> None:
        bodies = (
            b"",
            b"{",
            b'{"text": 5}',
            b'{"text": "\\ud800"}',
            b"[" * 10_000,
            b'{"text": "' + b"a" * 1_100_000,
        )
        headers: dict[str, str] = self._source.choice(
            (_AUTHORISED, _AUTHORISED, {}, {"Authorization": "Bearer x"})
        )
        path = self._source.choice(("/predict", "/cloze", "/score", "/admin/reload", "/Predict"))
        self._exchange("POST", path, self._source.choice(bodies), headers)

    def _hang_up(self) -> None:
        """Before, within or after a request, or after what is none."""
        body = json.dumps({"text": [self._source.choice(self._texts) for _ in range(16)]}).encode()
        head = f"POST /predict HTTP/1.1\r\nHost: {HOST}\r\nAuthorization: Bearer {KEY}\r\n"
        whole = (
            f"{head}Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode()
            + body
        )
        sent = self._source.choice((b"", whole[:20], whole[:-5], whole, b"\x16\x03\x01\x02\x00"))
        try:
            connection = socket.create_connection((HOST, self._port), 60)
        except OSError:
            self.broken += 1
            return
        with contextlib.suppress(OSError), connection:
            connection.sendall(sent)
        self.hung_up += 1

    def _exchange(
        self, method: str, path: str, body: bytes | None, headers: dict[str, str]
    ) -> None:
        try:
            self._connection.request(method, path, body, headers)
            answer = self._connection.getresponse()
            answer.read()
            self.statuses[answer.status] += 1
        except (OSError, http.client.HTTPException):
            self._connection.close()
            if len(body or b"") > _LONGEST_BODY:
                self.cut_short += 1
            else:
                self.broken += 1


def _reload_until(
    stop: threading.Event,
    port: int,
    directories: Sequence[Path],
    pause: float,
    statuses: Counter[int],
) -> None:
    """Change checkpoints; each fourth directory is none."""
    number = 0
    while not stop.wait(pause):
        number += 1
        directory = "/nowhere" if number % 4 == 0 else str(directories[number % len(directories)])
        status = _BROKEN
        with contextlib.suppress(OSError, http.client.HTTPException):
            status, _ = post(
                port,
                "/admin/reload",
                {"checkpoint": directory},
                {"Authorization": f"Bearer {ADMIN_KEY}"},
            )
        statuses[status] += 1


def _settled(server: Server, before: int) -> int:
    """Open descriptors, once they are no more than *before*, or when it is clear that they will not be."""
    end = time.monotonic() + SETTLE_SECONDS
    while (now := server.descriptors()) > before and time.monotonic() < end:
        time.sleep(0.1)
    return now


def growth(samples: Sequence[tuple[float, float]]) -> dict[str, Any]:
    """What a resident set does after the first third of its samples (seconds, MiB); tenths are of all of them."""
    parts, count = min(10, len(samples)), len(samples)
    tenths = [samples[count * part // parts : count * (part + 1) // parts] for part in range(parts)]
    kept = samples[len(samples) // 3 :]
    slope = statistics.median(
        (later[1] - earlier[1]) / (later[0] - earlier[0])
        for earlier, later in itertools.combinations(kept, 2)
    )
    third = max(1, len(kept) // 3)
    first, last = (
        statistics.median(mib for _, mib in part) for part in (kept[:third], kept[-third:])
    )
    return {
        "resident_mib": {"first": round(first, 1), "last": round(last, 1)},
        "resident_mib_by_tenth": [
            round(statistics.median(mib for _, mib in tenth), 1) for tenth in tenths
        ],
        "mib_per_hour": round(slope * 3600, 2),
        "flat": last - first <= FLAT_SHARE * first,
    }
