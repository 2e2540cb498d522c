"""What an operator wants to know before the night: one function for each, on real processes, with plain figures.

Servers get one core and clients another, where there are two. Nothing here judges; the table is
``benchmarks/operations_report.py``.
"""

import contextlib
import http.client
import itertools
import math
import random
import re
import statistics
import subprocess
import sys
import threading
import time
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import open_loop, workloads
from benchmarks.contestants import ROOT
from benchmarks.lacuna import Place, post
from benchmarks.measurements import percentiles
from benchmarks.process import Server

# Of the overload: short, so that a few seconds show what a queue of many would.
DEADLINE_SECONDS = 2.0
OVERLOAD = 10
HELD_SHARE = 0.7
# In the closed loop that finds the capacity.
_BUSY_CONNECTIONS = 32
# More than are let in before the deadline at once.
_OVERLOAD_CONNECTIONS = 1024
_PROBES = 100
# How long a client tries again before it counts its request as lost.
PATIENCE_SECONDS = 60.0
_CLIENTS = 2
# Between two tries where nobody says how long to wait.
_SOON_SECONDS = 0.1
# Exit statuses of pytest where all tests ran: they passed, or some failed.
_PYTEST_RAN = (0, 1)
FAULTS = {
    "engine, memory, clock, disk": "tests/end_to_end/test_faults.py",
    "headers that trickle or never end": "tests/service/test_protocol.py",
    "bad checkpoints, signals at bad times": "tests/service/test_reloading.py",
    "bad input, settings and clients": "tests/end_to_end/test_service_process.py",
    "keys files altered while running": "tests/service/test_keyring.py",
}


class Load:
    """Fresh questions of two kinds.

    Args:
        lines: from `benchmarks.workloads.read_lines`.
    """

    def __init__(self, lines: Sequence[str]) -> None:
        self._keystrokes = workloads.Keystrokes(lines)
        self._luck = random.Random(3)  # noqa: S311 - who is let in is no secret
        # When all are used up they come again: far more than a prefix cache holds have come between.
        turns = itertools.cycle(range(max(len(workloads.units(line)) for line in lines)))
        self._blanked = (
            _with_blank(text)
            for turn in turns
            for line in lines
            if (text := workloads.rotated(line, turn))
        )

    def take(self, route: str, count: int) -> list[bytes]:
        """The next requests: keystrokes for /predict, lines with one open blank for /cloze."""
        if route == "/cloze":
            texts = list(itertools.islice(self._blanked, count))
        else:
            texts = self._keystrokes.peek(count)
            self._keystrokes.advance(count)
        return [open_loop.post(route, workloads.body(text)) for text in texts]

    def thin(self, route: str, count: int) -> list[bytes]:
        """The next requests of those who are let in under overload: of each `OVERLOAD`, one at random.

        Each key press then has those of its typist to read that were refused. (Each tenth would be of 32 of the 64
        typists alone, who take turns, and of them each fifth.)
        """
        offered = self.take(route, count * OVERLOAD)
        return [
            offered[first + self._luck.randrange(OVERLOAD)]
            for first in range(0, len(offered), OVERLOAD)
        ]


def capacity(place: Place, load: Load, seconds: float) -> dict[str, Any]:
    """Answers a second of one server on one core, all connections busy, by route; and what its cache holds."""
    found: dict[str, Any] = {}
    with place.serving() as server:
        for route in ("/predict", "/cloze"):
            found[route] = _saturate(server, partial(load.take, route), seconds)
    return {"answers_per_second": found, "cores": place.cores}


def cached_prefix(place: Place, prompts: Sequence[str]) -> dict[str, Any]:
    """Bytes of the prefix cache for each of many different texts."""
    with place.serving("--prefix-cache-mib", "1024") as server:
        for text in prompts:
            server.ask("/predict", {"text": text})
        (size,) = re.findall(
            r"^lacuna_prefix_cache_bytes (\S+)$", server.read("/metrics"), flags=re.MULTILINE
        )
    characters = sum(map(len, prompts)) / len(prompts)
    return {
        "texts": len(prompts),
        "characters": characters,
        "bytes_per_text": float(size) / len(prompts),
    }


def held_load(place: Place, load: Load, per_second: float, seconds: float) -> dict[str, Any]:
    """Keystrokes at `HELD_SHARE` of a capacity, arriving by chance."""
    rate = HELD_SHARE * per_second
    times = open_loop.arrivals(rate, seconds, seed=1)
    with place.serving() as server:
        _saturate(server, partial(load.take, "/predict"), 0.2)  # warm
        outcome = open_loop.run(server.port, load.take("/predict", len(times)), times)
    return {
        "rate": rate,
        "seconds": seconds,
        "requests": len(times),
        "errors": outcome.failures,
        **percentiles(outcome.answered),
        "good_share": outcome.good_share,
    }


def overload(place: Place, load: Load, route: str, seconds: float, rounds: int) -> dict[str, Any]:
    """`OVERLOAD` times what a server can do, offered whether or not it answers; goodput is what comes in time.

    In rounds, as the speed of a machine that others share changes from one minute to the next: each measures peak and
    overload one after the other.

    Args:
        place: where.
        load: questions.
        route: of which kind.
        seconds: of each peak, and of the overload.
        rounds: an odd number, so that one of them is the median.

    Returns:
        The round whose ``share_of_peak`` is the median, whole, and all ``rounds``. Of each, what `goodput` does, and
        it as shares of ``peak_per_second``. For key presses there is a second peak, ``thinned_peak_per_second``: of
        those who are let in one by one each has more to read than where all are.
    """
    with place.serving("--deadline-seconds", f"{DEADLINE_SECONDS:g}") as server:
        found = [_overload_once(server, load, route, seconds, seed) for seed in range(rounds)]
    return {
        "route": route,
        "deadline_seconds": DEADLINE_SECONDS,
        **median_round(found),
        "rounds": found,
    }


def median_round(rounds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The one of an odd number of rounds of overload whose share of the peak is the median."""
    return sorted(rounds, key=lambda each: each["share_of_peak"])[len(rounds) // 2]


def _overload_once(
    server: Server, load: Load, route: str, seconds: float, seed: int
) -> dict[str, Any]:
    peaks = {"peak": _saturate(server, partial(load.take, route), seconds)}
    if route == "/predict":
        peaks["thinned_peak"] = _saturate(server, partial(load.thin, route), seconds)
    times = open_loop.arrivals(OVERLOAD * peaks["peak"], seconds, seed)
    requests = load.take(route, len(times))
    outcome = open_loop.run(server.port, requests, times, _OVERLOAD_CONNECTIONS, DEADLINE_SECONDS)
    found = goodput(times, outcome, seconds)
    for peak, rate in peaks.items():
        found[f"{peak}_per_second"] = rate
        found[f"share_of_{peak}"] = found["goodput_per_second"] / rate
        found[f"share_of_{peak}_from_sending"] = found["goodput_from_sending_per_second"] / rate
    return found


def goodput(times: Sequence[float], outcome: open_loop.Outcome, seconds: float) -> dict[str, Any]:
    """What came of a schedule of *seconds*; rates are those of its last two thirds, when the queue is full.

    From the schedule as users see it, and from sending: a client that falls behind holds its own backlog against the
    server otherwise. ``unanswered`` was sent, and nothing came back.
    """
    begin = seconds / 3
    from_sending = outcome.latencies_from_sending
    sent = [due + wait for due, wait in zip(times, outcome.waits, strict=True)]
    counted = [begin < moment < seconds for moment in sent]
    in_time = sum(
        due > begin and latency <= DEADLINE_SECONDS
        for due, latency in zip(times, outcome.latencies, strict=True)
    )
    in_time_from_sending = sum(
        counts and latency <= DEADLINE_SECONDS
        for counts, latency in zip(counted, from_sending, strict=True)
    )
    return {
        "scheduled": len(times),
        "sent": outcome.sent,
        "abandoned": outcome.abandoned,
        "unanswered": outcome.sent - outcome.statuses.total(),
        "offered_per_second": len(times) / seconds,
        "sent_per_second": sum(counted) / (seconds - begin),
        "goodput_per_second": in_time / (seconds - begin),
        "goodput_from_sending_per_second": in_time_from_sending / (seconds - begin),
        "accepted_p99_seconds": _p99(outcome.latencies),
        "accepted_p99_from_sending_seconds": _p99(from_sending),
        "status": {str(status): count for status, count in sorted(outcome.statuses.items())},
    }


def reloads(
    place: Place, directories: Sequence[Path], texts: Sequence[str], count: int
) -> dict[str, Any]:
    """Change the checkpoint *count* times under load."""
    with place.serving() as server, _Clients(server.port, texts) as clients:
        changed = Counter(
            post(
                server.port,
                "/admin/reload",
                {"checkpoint": str(directories[(number + 1) % len(directories)])},
            )[0]
            for number in range(count)
        )
    return {"reloads": changed[200], "failed": count - changed[200], **clients.figures()}


def restarts(place: Place, texts: Sequence[str], count: int) -> dict[str, Any]:
    """Stop a server by SIGTERM, with a drain, and start it again on its port, *count* times under load."""
    options = ("--drain-seconds", "1")
    server = place.start(*options)
    statuses: Counter[int] = Counter()
    try:
        with _Clients(server.port, texts) as clients:
            for _ in range(count):
                clients.wait_for_more(20)
                statuses[server.stop()] += 1
                server = place.start(*options, port=server.port)
            clients.wait_for_more(20)
    finally:
        server.stop()
    return {"restarts": statuses[0], "failed": count - statuses[0], **clients.figures()}


def faults(files: Sequence[str], folder: Path) -> dict[str, Any]:
    """Faults that tests inject, by kind, nearly all of them into real processes; see `inject`."""
    return {kind: inject(file, folder) for kind, file in FAULTS.items() if file in files}


def inject(file: str, folder: Path) -> dict[str, int]:
    """Run those tests of a file that make something go wrong, which are marked ``fault``.

    Returns:
        ``injected``, such tests that were not skipped, and ``survived``, those of them that passed.

    Raises:
        RuntimeError: pytest came to no end, such as a process that a test took down with it; with its last words.
    """
    results = folder / "faults.xml"
    results.unlink(missing_ok=True)  # else those of another file would be taken for this one's
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-m",
        "fault",
        "-p",
        "no:cacheprovider",
        f"--junitxml={results}",
        file,
    ]
    done = subprocess.run(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if done.returncode not in _PYTEST_RAN or not results.exists():
        raise RuntimeError(
            f"{file}: pytest ended with status {done.returncode}:\n{done.stdout[-2000:]}"
        )
    (suite,) = ElementTree.parse(results).getroot().iter("testsuite")  # noqa: S314 - we have just had it written
    counts = {key: int(suite.attrib[key]) for key in ("tests", "errors", "failures", "skipped")}
    injected = counts["tests"] - counts["skipped"]
    return {"injected": injected, "survived": injected - counts["errors"] - counts["failures"]}


def _with_blank(line: str) -> str:
    """The line without its middle word, or two of its Chinese characters."""
    middle = len(line) // 2
    if workloads.is_chinese(line):
        return f"{line[: middle - 1]}{workloads.BLANK}{line[middle + 1 :]}"
    words = line.split(" ")
    words[len(words) // 2] = workloads.BLANK
    return " ".join(words)


def _saturate(server: Server, take: Callable[[int], Sequence[bytes]], seconds: float) -> float:
    """Answers a second with all connections busy: a few requests say how many make so many seconds."""
    rate = _rush(server, take(_PROBES))
    return _rush(server, take(max(_PROBES, math.ceil(rate * seconds))))


def _p99(latencies: Sequence[float]) -> float | None:
    """Of those that are finite; None of none."""
    answered = sorted(filter(math.isfinite, latencies))
    return open_loop.percentile(answered, 0.99) if answered else None


def _rush(server: Server, requests: Sequence[bytes]) -> float:
    outcome = open_loop.run(server.port, requests, [0.0] * len(requests), _BUSY_CONNECTIONS)
    return len(outcome.answered) / outcome.seconds


class _Clients:
    """Ask all the time that a block lasts, and ask again where a server is not there or says so, as clients should."""

    def __init__(self, port: int, texts: Sequence[str]) -> None:
        self._port = port
        self._texts = texts
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._seconds: list[float] = []
        self._threads = [
            threading.Thread(target=self._ask_on, args=(number,)) for number in range(_CLIENTS)
        ]

    def __enter__(self) -> "_Clients":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def figures(self) -> dict[str, Any]:
        """Requests that were made, tries beyond the first, requests that were given up; how long, tries together."""
        return {
            **{name: self._counts[name] for name in ("requests", "retries", "lost")},
            "median_seconds": statistics.median(self._seconds),
            "slowest_seconds": max(self._seconds),
        }

    def wait_for_more(self, answers: int) -> None:
        """Until so many more requests have come to an end."""
        wanted = self._counts["requests"] + answers
        while self._counts["requests"] < wanted:
            time.sleep(0.01)

    def _ask_on(self, number: int) -> None:
        for turn in range(number, 1 << 30, _CLIENTS):
            if self._stop.is_set():
                return
            text = self._texts[turn % len(self._texts)]
            began = time.monotonic()
            tries, answered = self._ask(("/predict", "/cloze")[turn % 2], {"text": f"{text} ____"})
            with self._lock:
                self._seconds.append(time.monotonic() - began)
                self._counts.update(requests=1, retries=tries - 1, lost=int(not answered))

    def _ask(self, path: str, body: dict[str, str]) -> tuple[int, bool]:
        end, tries = time.monotonic() + PATIENCE_SECONDS, 0
        while time.monotonic() < end:
            tries += 1
            status, retry_after = 0, 0  # nobody listens
            with contextlib.suppress(OSError, http.client.HTTPException):
                status, retry_after = post(self._port, path, body)
            if status not in (0, 429, 503):
                return tries, status == 200
            time.sleep(max(retry_after, _SOON_SECONDS))
        return tries, False
