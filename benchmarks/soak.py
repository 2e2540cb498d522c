"""``python -m benchmarks.soak``: every route, bad input, lost clients and reloads, for long.

The service must answer no 5xx, break no connection, leak no descriptor, and keep its memory flat.
Its prefix cache is small, so that it is full soon. A reload collects garbage, which hides leaks by
request; ``--no-reloads`` finds those sooner.
"""

import argparse
import contextlib
import http.client
import itertools
import json
import random
import socket
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks import texts
from benchmarks.machine import provenance
from benchmarks.processes import HOST, ROOT, exchange, pin_client
from benchmarks.systems import CHECKPOINT, lacuna
from model.checkpoint import revise_checkpoint
from service.auth import hash_key
from training.cached_json import check_writable, write_json

KEY, ADMIN_KEY = "a-key-of-the-soak-0123456789", "an-administrator-of-the-soak-0123"
CACHE_MIB, CLIENTS, SAMPLES = 8, 4, 300
# After the clients have gone, descriptors of closed connections need a moment.
_SETTLE_SECONDS = 10.0
# Memory is flat if it grows by less than this share from the first to the last third of the soak.
FLAT_SHARE = 0.01
# A shorter soak still fills caches and pools.
_LONG_SECONDS = 600.0
# The service may answer before it has read all of a longer body, and close.
_LONGEST_BODY = 2**20
_BAD_BODIES = (
    b"",
    b"{",
    b'{"text": 5}',
    b'{"text": "\\ud800"}',
    b"[" * 10_000,
    b'{"text": "' + b"a" * 1_100_000,
)
_HANG_UP_SHARE, _DOCUMENT_SHARE, _WRONG_SHARE = 0.05, 0.10, 0.15
_DOCUMENTS = ("/model", "/livez", "/readyz", "/metrics", "/docs", "/openapi.json", "/none")


def main(arguments: Sequence[str] | None = None) -> int:
    """Soak, print and write JSON.

    Returns:
        0; 1 if there was a 5xx, a broken connection, a leak, or memory that grows.
    """
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.soak", description=(__doc__ or "").partition("\n")[0]
    )
    add = parser.add_argument
    add("--minutes", type=float, default=30.0, help="default: 30")
    add("--no-reloads", action="store_true", help="never reload the checkpoint")
    add("--text", type=Path, metavar="DIR", help="*.txt, a sentence a line (default: toy corpus)")
    add(
        "--checkpoint", type=Path, default=ROOT / CHECKPOINT, metavar="DIR", help="default: bundled"
    )
    add("--output", type=Path, required=True, metavar="FILE", help="JSON file to write")
    options = parser.parse_args(arguments)
    check_writable(options.output)
    with tempfile.TemporaryDirectory() as folder:
        seconds, reloads = 60 * options.minutes, not options.no_reloads
        lines = texts.read_lines(options.text)
        found = run(options.checkpoint.resolve(), Path(folder), lines, seconds, reloads)
    result = {**provenance(), **found}
    write_json(options.output, result)
    print(json.dumps(found, indent=1))
    problems = failures(found)
    print("\n".join(problems) or "nothing failed")
    return int(bool(problems))


def failures(found: dict[str, Any]) -> list[str]:
    """Return what must not happen in a soak, a line each."""
    counts = found["counts"]
    problems = [f"{name}: {counts[name]}" for name in counts if name[0] == "5" or name == "broken"]
    problems += [f"reload: {name}" for name in found["reloads"] if name not in ("200", "422")]
    if found["leaked_descriptors"]:
        problems.append(f"leaked descriptors: {found['leaked_descriptors']}")
    if found["seconds"] >= _LONG_SECONDS and not found["flat"]:
        problems.append(f"memory is not flat: {found['resident_mib']} MiB")
    return problems


def run(
    checkpoint: Path, folder: Path, lines: Sequence[str], seconds: float, reloads: bool
) -> dict[str, Any]:
    """Start a server and soak it.

    Args:
        checkpoint: that is served.
        folder: for keys, log and a second edition of the checkpoint.
        lines: texts to ask with.
        seconds: how long.
        reloads: change between the two editions some fifty times.

    Returns:
        ``counts`` of statuses and of connections (`_ask_until`), ``reloads`` by status, and memory
        (`growth`).

    Raises:
        ServerError: the server ended early.
    """
    current = folder / "current"
    current.symlink_to(checkpoint)
    second = revise_checkpoint(checkpoint, card="# Second edition\n", output=folder / "second")
    options = ["--keys-file", str(_keys_file(folder)), "--log-level", "warning"]
    options += ["--prefix-cache-mib", str(CACHE_MIB)]
    stop, samples = threading.Event(), []
    server = replace(lacuna(), checkpoint=current).start(pin_client(), folder, *options)
    try:
        server.wait_until_answering("/readyz")
        before = server.descriptors()
        with ThreadPoolExecutor(CLIENTS + 1) as threads:
            clients = [
                threads.submit(_ask_until, stop, server.port, lines, seed)
                for seed in range(CLIENTS)
            ]
            targets = [checkpoint, second.directory, folder / "nothing"] if reloads else []
            pause = max(1.0, seconds / 50)
            reloading = threads.submit(_reload_until, stop, server.port, current, targets, pause)
            try:
                began = time.monotonic()
                while (passed := time.monotonic() - began) < seconds:
                    server.check_alive()
                    samples.append((passed, server.resident_bytes() / 2**20))
                    time.sleep(max(0.1, seconds / SAMPLES))
            finally:
                stop.set()
        deadline = time.monotonic() + _SETTLE_SECONDS
        while (after := server.descriptors()) > before and time.monotonic() < deadline:
            time.sleep(0.1)
    finally:
        status = server.stop()
    return {
        "seconds": seconds,
        "counts": dict(sum((client.result() for client in clients), Counter())),
        "reloads": dict(reloading.result()),
        "leaked_descriptors": max(0, after - before),
        "exit_status": status,
        **growth(samples),
    }


def _keys_file(folder: Path) -> Path:
    lines = [
        f'[[key]]\nname = "{name}"\nsha256 = "{hash_key(key.encode()).hex()}"\nadmin = {admin}\n'
        for name, key, admin in (("soak", KEY, "false"), ("admin", ADMIN_KEY, "true"))
    ]
    path = folder / "keys.toml"
    path.write_text("".join(lines), encoding="utf-8")
    return path


def _ask_until(stop: threading.Event, port: int, lines: Sequence[str], seed: int) -> Counter[str]:
    """Send one request after the other, and do what a client should not.

    Returns:
        How often each status came. ``hung_up``: connections that the client closed. ``cut_short``:
        those that the service closed before the end of a too long body, which is right. ``broken``:
        all other failures.
    """
    counts: Counter[str] = Counter()
    luck = random.Random(seed)  # noqa: S311 - no secret
    while not stop.is_set():
        if luck.random() < _HANG_UP_SHARE:
            _hang_up(port, luck.choices(lines, k=16), luck)
            counts["hung_up"] += 1
            continue
        method, path, body, key = _request(luck.choice(lines), luck)
        try:
            headers = {"Authorization": f"Bearer {key}"} if key else {}
            status, _, _ = exchange(port, method, path, body, headers)
            counts[str(status)] += 1
        except (OSError, http.client.HTTPException):
            counts["cut_short" if len(body or b"") > _LONGEST_BODY else "broken"] += 1
    return counts


def _request(text: str, luck: random.Random) -> tuple[str, str, bytes | None, str]:
    """Return method, path, body and key of a question, of a document, or of a wrong request."""
    kind = luck.random()
    if kind < _DOCUMENT_SHARE:
        return "GET", luck.choice(_DOCUMENTS), None, KEY
    if kind < _DOCUMENT_SHARE + _WRONG_SHARE:
        path = luck.choice(("/predict", "/cloze", "/score", "/admin/reload", "/Predict"))
        return "POST", path, luck.choice(_BAD_BODIES), luck.choice((KEY, KEY, "", "unknown"))
    part = text[: luck.randrange(1, len(text) + 1)]
    questions: tuple[tuple[str, dict[str, Any]], ...] = (
        ("/predict", {"text": part}),
        ("/predict", {"text": part, "top_k": 100}),
        ("/predict", {"text": [part, text], "history": text}),
        ("/cloze", {"text": f"{part} ____ {text[len(part) :]}"}),
        ("/cloze", {"text": f"{part} ____", "choices": ["cat", "猫", text[:1]]}),
        ("/score", {"text": [text, part]}),
    )
    path, question = luck.choice(questions)
    return "POST", path, json.dumps(question).encode(), KEY


def _hang_up(port: int, lines: Sequence[str], luck: random.Random) -> None:
    """Close a connection before, within or after a request, or after bytes other than HTTP."""
    request = texts.post("/predict", list(lines))
    request = request.replace(b"\r\n", f"\r\nAuthorization: Bearer {KEY}\r\n".encode(), 1)
    sent = luck.choice((b"", request[:20], request[:-5], request, b"\x16\x03\x01\x02\x00"))
    with contextlib.suppress(OSError), socket.create_connection((HOST, port)) as connection:
        connection.sendall(sent)


def _reload_until(
    stop: threading.Event, port: int, current: Path, targets: Sequence[Path], pause: float
) -> Counter[str]:
    """Point the link *current* at each target in turn and reload; return the statuses."""
    statuses: Counter[str] = Counter()
    headers = {"Authorization": f"Bearer {ADMIN_KEY}"}
    for target in itertools.cycle(targets):
        if stop.wait(pause):
            break
        following = current.with_name("following")
        following.symlink_to(target)
        following.replace(current)
        status, _, _ = exchange(port, "POST", "/admin/reload", None, headers)
        statuses[str(status)] += 1
    return statuses


def growth(samples: Sequence[tuple[float, float]]) -> dict[str, Any]:
    """Return how resident memory develops after the first third of the samples (seconds, MiB).

    ``mib_per_hour`` is the Theil-Sen slope, which the moments of a reload do not bend.
    """
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
        "mib_per_hour": round(slope * 3600, 2),
        "flat": last - first <= FLAT_SHARE * first,
    }


if __name__ == "__main__":
    sys.exit(main())
