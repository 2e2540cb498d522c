"""One measurement of one running contestant, as a record (`benchmarks.results`). All others are paused meanwhile."""

import math
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import open_loop, workloads, wrk
from benchmarks.contestants import (
    FIRST_QUESTION,
    START_SECONDS,
    EvaluatedSystem,
    has_five_candidates,
)
from benchmarks.process import Server, free_port
from benchmarks.results import Record

# Before a schedule starts: a process that was paused finds its caches cold.
_WARM_UP_REQUESTS, _WARM_UP_SECONDS = 20, 0.3
# Answers below which a percentile says nothing.
_ENOUGH = {"p50_ms": 1, "p99_ms": 100, "p999_ms": 1000}
_SHARES = {"p50_ms": 0.5, "p99_ms": 0.99, "p999_ms": 0.999}
_SERIES = re.compile(
    r'^lacuna_(network_rows|prefix_cache_tokens)_total\{\w+="(\w+)"\} (\S+)$', flags=re.MULTILINE
)


@dataclass(frozen=True, slots=True)
class Workload:
    """Questions of one kind.

    Attributes:
        name: in tables.
        route: that they go to.
        source: of their texts.
        texts: in each request; more than one are sent as a list.
        connections: that wrk keeps busy.
        most_per_second: requests a second for which fresh texts are made; beyond that they come again, and the record
            says so.
        shares: of saturation, at which latency is measured.
    """

    name: str
    route: str
    source: workloads.Source
    texts: int = 1
    connections: int = 32
    most_per_second: int = 3000
    shares: tuple[float, ...] = ()

    def peek(self, count: int) -> list[bytes]:
        """The next bodies."""
        texts = self.source.peek(count * self.texts)
        if self.texts == 1:
            return [workloads.body(text) for text in texts]
        return [
            workloads.body(texts[start : start + self.texts])
            for start in range(0, len(texts), self.texts)
        ]

    def advance(self, count: int) -> None:
        """Never show the first *count* bodies again, while the text lasts."""
        self.source.advance(count * self.texts)


class Running:
    """A contestant that has been started; paused unless it is being measured."""

    def __init__(
        self, contestant: EvaluatedSystem, cores: str, checkpoint: Path, log: Path
    ) -> None:
        self.contestant = contestant
        self._start: Callable[[], Server] = lambda: contestant.start(
            free_port(), cores, checkpoint, log
        )
        self.server = self._start()

    @contextmanager
    def awake(self) -> Iterator[Server]:
        """The server, going on for as long as the block lasts."""
        self.server.resume()
        try:
            yield self.server
        finally:
            self.server.pause()

    def first_answer(self, server: Server) -> float:
        """Seconds from the start of *server*'s process to its first right answer."""
        route = self.contestant.routes[0]
        return server.wait_until_right(
            route, FIRST_QUESTION[route], has_five_candidates, START_SECONDS
        )

    def start(self) -> Record:
        """Start a second process of it: seconds to the first right answer, everything in the page cache."""
        server = self._start()
        try:
            return {"measure": "start", "seconds": self.first_answer(server)}
        finally:
            server.stop()

    def memory(self) -> Record:
        """Peak resident memory since it was started, in 10^6 bytes."""
        return {"measure": "memory", "peak_mb": self.server.peak_bytes() / 1e6}

    def saturation(self, workload: Workload, bodies: Sequence[bytes], seconds: float) -> Record:
        """Throughput with all connections busy."""
        with self.awake() as server:
            before = self._counters(server), server.cpu_seconds()
            found = wrk.saturate(server.port, workload.route, bodies, workload.connections, seconds)
            cpu = server.cpu_seconds() - before[1]
            server.ask(
                workload.route, FIRST_QUESTION[workload.route]
            )  # answered once what wrk left behind is done
            return {
                "measure": "saturation",
                "workload": workload.name,
                "per_second": found.per_second,
                "answered": found.answered,
                "failures": found.failures,
                "seconds": found.seconds,
                "sent": found.sent,
                "texts_came_again": found.sent > len(bodies),
                "cpu_us_per_request": 1e6 * cpu / max(1, found.answered),
                **_network_costs(before[0], self._counters(server), found.sent),
            }

    def latency(
        self, workload: Workload, bodies: Sequence[bytes], times: Sequence[float]
    ) -> Record:
        """Latency at a fixed rate; see `benchmarks.open_loop`."""
        with self.awake() as server:
            self._warm_up(server, workload.route)
            requests = [open_loop.post(workload.route, body) for body in bodies]
            before = self._counters(server), server.cpu_seconds()
            outcome = open_loop.run(server.port, requests, times)
            cpu = server.cpu_seconds() - before[1]
            answered = outcome.answered
            return {
                "measure": "open_loop",
                "workload": workload.name,
                "requests": len(times),
                "failures": outcome.failures,
                "seconds": outcome.seconds,
                **percentiles(answered),
                "good_share": outcome.good_share,
                "good_per_second": outcome.good_share * len(times) / outcome.seconds,
                "client_late_p99_ms": _milliseconds(sorted(outcome.lateness), 0.99),
                "cpu_us_per_request": 1e6 * cpu / max(1, len(answered)),
                **_network_costs(before[0], self._counters(server), len(times)),
            }

    def contexts(
        self,
        lengths: Sequence[int],
        beginnings: Sequence[str],
        typed: Sequence[str],
        seconds: float,
    ) -> list[Record]:
        """Latency by length of the text, one request at a time; a record for each length.

        The beginnings are read first and not timed: a person who types on has sent them before.
        """
        beginnings_sent, typed_sent = (
            [open_loop.post("/predict", workloads.body(text)) for text in texts]
            for texts in (beginnings, typed)
        )
        with self.awake() as server:
            open_loop.one_by_one(server.port, beginnings_sent, seconds)
            latencies = open_loop.one_by_one(server.port, typed_sent, seconds)
        records: list[Record] = []
        for turn, length in enumerate(lengths):
            answered = sorted(filter(math.isfinite, latencies[turn :: len(lengths)]))
            failures = len(latencies[turn :: len(lengths)]) - len(answered)
            figures = {
                "requests": len(answered) + failures,
                "failures": failures,
                **percentiles(answered),
            }
            records.append(
                {"measure": "context", "workload": "context", "characters": length, **figures}
            )
        return records

    def _warm_up(self, server: Server, route: str) -> None:
        end = time.perf_counter() + _WARM_UP_SECONDS
        for _ in range(_WARM_UP_REQUESTS):
            server.ask(route, FIRST_QUESTION[route])
            if time.perf_counter() > end:
                break

    def _counters(self, server: Server) -> dict[str, float]:
        return read_counters(server.read("/metrics")) if self.contestant.metrics else {}


def percentiles(ascending: Sequence[float]) -> dict[str, float | None]:
    """p50, p99 and p99.9 of seconds, in milliseconds; None where there are too few answers to tell."""
    return {
        name: _milliseconds(ascending, share) if len(ascending) >= _ENOUGH[name] else None
        for name, share in _SHARES.items()
    }


def read_counters(exposition: str) -> dict[str, float]:
    """Lacuna's counters of network rows and cached tokens, such as ``network_rows/forward``."""
    return {f"{name}/{label}": float(value) for name, label, value in _SERIES.findall(exposition)}


def _network_costs(
    before: dict[str, float], after: dict[str, float], requests: int
) -> dict[str, Any]:
    grown = {name: value - before.get(name, 0.0) for name, value in after.items()}
    rows = {
        name.partition("/")[2]: value
        for name, value in grown.items()
        if name.startswith("network_rows/")
    }
    hits, misses = (grown.get(f"prefix_cache_tokens/{result}", 0.0) for result in ("hit", "miss"))
    if not rows:
        return {}
    return {
        "network_rows_per_request": sum(rows.values()) / max(1, requests),
        "network_rows_by_call": {
            call: value / max(1, requests) for call, value in sorted(rows.items())
        },
        "cached_share_of_tokens": hits / (hits + misses) if hits + misses else None,
        "cached_tokens": hits,
    }


def _milliseconds(ascending: Sequence[float], share: float) -> float | None:
    return 1000 * open_loop.percentile(ascending, share) if ascending else None
