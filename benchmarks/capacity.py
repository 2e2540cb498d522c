"""``python -m benchmarks.capacity``: simulate a fleet of replicas, to plan its size.

A replica works in rounds: all texts that it has, at most ``BATCH``, take part in each, and a text
needs ``ROUNDS``. A round takes a fixed time, and a time for each text. Both follow from two figures
of one replica: its answers a second to ``TYPISTS`` busy writers, whose texts are in its cache, and
p50 at half of that. Rounds vary as the latency of one request at a time does. Replicas share their
CPUs, and a writer stays on one replica, as behind HAProxy.

Without ``--check`` it plans fleets from these figures of this machine. With it, p50 and p99 of one
and of two replicas at half of the peak are predicted, then measured.
"""

import argparse
import math
import random
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

from benchmarks import open_loop, texts
from benchmarks.machine import provenance
from benchmarks.processes import Server, alone, pin_client
from benchmarks.systems import lacuna
from training.cached_json import check_writable, write_json
from training.evaluation.report import table

# Texts of a round, and rounds of a text, at most and on average.
BATCH, ROUNDS = 64, 3
# Writers of the measurements, which type in turn.
TYPISTS = texts.TYPISTS
# Key presses of a writer on a day, and the share of the busiest hour.
PRESSES_A_DAY, BUSIEST_HOUR = 2_000, 0.1
# A plan keeps p99 below this, though one replica may have so many times the mean of writers.
MOST_SECONDS, IMBALANCE = 0.1, 1.25
WRITERS = (1_000, 100_000, 10_000_000)
LATENCIES = 300  # of one request at a time
SIMULATED_REQUESTS = 20_000
CONNECTIONS = 6  # of each writer


@dataclass(frozen=True, slots=True)
class Costs:
    """The seconds of a round, apart from and for each text, and the factors by which they vary."""

    fixed_seconds: float
    text_seconds: float
    factors: Sequence[float] = (1.0,)

    @classmethod
    def of(
        cls,
        per_second: float,
        times: Sequence[float],
        p50_seconds: float,
        latencies: Sequence[float] = (1.0,),
    ) -> "Costs":
        """Return the costs with which requests at *times* have this p50.

        *per_second* is the peak, and *latencies* are those of one request at a time.
        """
        alone_seconds = open_loop.percentile(latencies, 0.5)
        factors = [each / alone_seconds for each in latencies]
        low, high = 0.0, p50_seconds
        for _ in range(12):
            fixed = (low + high) / 2  # of all rounds; 1 / peak = fixed / TYPISTS + text
            text = max(0.0, 1 / per_second - fixed / TYPISTS)
            costs = cls(fixed / ROUNDS, text / ROUNDS, factors)
            is_slow = open_loop.percentile(simulate(costs, times), 0.5) > p50_seconds
            low, high = (low, fixed) if is_slow else (fixed, high)
        return costs


@dataclass(slots=True)
class _Replica:
    waiting: list[float] = field(default_factory=list)  # arrival of each text
    live: list[tuple[float, int]] = field(default_factory=list)  # with the rounds that are left
    left_seconds: float = 0.0  # of the round, on a CPU of its own

    def begin_round(self, costs: Costs, luck: random.Random) -> None:
        """Start the texts that wait, and the next round."""
        room = BATCH - len(self.live)
        self.live += [(arrival, ROUNDS) for arrival in self.waiting[:room]]
        del self.waiting[:room]
        seconds = costs.fixed_seconds + costs.text_seconds * len(self.live)
        self.left_seconds = seconds * luck.choice(costs.factors)

    def end_round(self, now: float) -> list[float]:
        """Return the latencies of the texts that are answered."""
        self.live = [(arrival, rounds - 1) for arrival, rounds in self.live]
        answered = [now - arrival for arrival, rounds in self.live if rounds == 0]
        self.live = [each for each in self.live if each[1]]
        return answered


def simulate(
    costs: Costs, times: Sequence[float], replicas: int = 1, cpus: int = 1, seed: int = 1
) -> list[float]:
    """Return the latencies, ascending, of requests that arrive at *times* from many writers."""
    luck = random.Random(seed)  # noqa: S311 - a simulation
    fleet = [_Replica() for _ in range(replicas)]
    homes = [luck.randrange(replicas) for _ in range(TYPISTS * replicas)]
    latencies: list[float] = []
    coming = list(reversed(times))
    now = 0.0
    while coming or any(each.live for each in fleet):
        busy = [each for each in fleet if each.live]
        speed = min(1.0, cpus / len(busy)) if busy else 1.0
        first = min(busy, key=lambda each: each.left_seconds, default=None)
        ends = now + first.left_seconds / speed if first else math.inf
        after = min(ends, coming[-1] if coming else math.inf)
        for each in busy:
            each.left_seconds -= (after - now) * speed
        now = after
        if first is None or now < ends:
            changed = fleet[luck.choice(homes)]
            changed.waiting.append(coming.pop())
            if changed.live:
                continue
        else:
            changed = first
            latencies += changed.end_round(now)
        if changed.live or changed.waiting:
            changed.begin_round(costs, luck)
    return sorted(latencies)


def most_per_second(costs: Costs) -> float:
    """Return the rate of one replica, alone on a CPU, at which p99 is `MOST_SECONDS`."""
    low, high = 0.0, 1 / (ROUNDS * (costs.text_seconds + costs.fixed_seconds / BATCH))
    for _ in range(8):
        middle = (low + high) / 2
        late = open_loop.percentile(_at(costs, middle), 0.99) > MOST_SECONDS
        low, high = (low, middle) if late else (middle, high)
    return low


def plan(costs: Costs, resident_bytes: int) -> list[dict[str, Any]]:
    """Return the fleets for `WRITERS`, at least two replicas, with their latencies."""
    most, fleets = most_per_second(costs), []
    for writers in WRITERS:
        rate = writers * PRESSES_A_DAY * BUSIEST_HOUR / 3600
        replicas = max(2, math.ceil(rate * IMBALANCE / most))
        latencies = _at(costs, rate / replicas)
        fleets.append(
            {
                "writers": writers,
                "per_second": rate,
                "replicas": replicas,
                "gigabytes": replicas * resident_bytes / 1e9,
                "p50_seconds": open_loop.percentile(latencies, 0.5),
                "p99_seconds": open_loop.percentile(latencies, 0.99),
            }
        )
    return fleets


def _at(costs: Costs, rate: float) -> list[float]:
    return simulate(costs, open_loop.arrivals(rate, SIMULATED_REQUESTS / rate, seed=1))


def measure_costs(server: Server, stream: Iterator[str], seconds: float) -> tuple[Costs, float]:
    """Return the costs of a running replica, and its answers a second."""
    single = open_loop.saturate(server.port, _posts(stream, LATENCIES), math.inf, connections=1)
    fresh = _posts(stream, int(3_000 * seconds))
    outcome = open_loop.saturate(server.port, fresh, seconds, connections=1, users=TYPISTS)
    per_second = len(outcome.answered) / outcome.seconds
    times = open_loop.arrivals(per_second / 2, seconds, seed=100)
    p50_seconds = open_loop.percentile(_type(server, stream, times), 0.5)
    latencies = [each for each in single.latencies_from_sending if math.isfinite(each)]
    return Costs.of(per_second, times, p50_seconds, latencies), per_second


def _type(server: Server, stream: Iterator[str], times: Sequence[float]) -> list[float]:
    """Return the latencies, ascending, of key presses of many writers at *times*."""
    posts = _posts(stream, len(times))
    return open_loop.run(server.port, posts, times, CONNECTIONS, TYPISTS).answered


def _posts(stream: Iterator[str], count: int) -> list[bytes]:
    return [texts.post("/predict", text) for text in islice(stream, count)]


def check(
    servers: Sequence[Server], stream: Iterator[str], rounds: int, seconds: float
) -> list[dict[str, Any]]:
    """Predict and measure latencies of one and of two replicas on one CPU, in turns."""
    found = []
    for seed in range(rounds):
        with alone(servers[0], servers):
            costs, per_second = measure_costs(servers[0], stream, seconds)
        for replicas, server in enumerate(servers, 1):
            times = open_loop.arrivals(per_second / 2, seconds, seed)
            with alone(server, servers):
                both = simulate(costs, times, replicas, seed=seed), _type(server, stream, times)
            figures = {
                f"{kind}_p{percent}_ms": 1000 * open_loop.percentile(latencies, percent / 100)
                for kind, latencies in zip(("predicted", "measured"), both, strict=True)
                for percent in (50, 99)
            }
            found.append({"replicas": replicas, "per_second": per_second / 2, **figures})
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Plan or check, print a table and write JSON; 0."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.capacity", description=(__doc__ or "").partition("\n")[0]
    )
    add = parser.add_argument
    add("--check", action="store_true", help="compare predictions with replicas on this machine")
    add("--text", type=Path, metavar="DIR", help="*.txt, a sentence a line (default: toy corpus)")
    add("--rounds", type=int, default=5, help="of --check; the median counts (default: 5)")
    add("--seconds", type=float, default=5.0, help="of each measurement (default: 5)")
    add("--output", type=Path, required=True, metavar="FILE", help="JSON file to write")
    options = parser.parse_args(arguments)
    check_writable(options.output)
    cpus, stream = pin_client(), texts.keystrokes(texts.read_lines(options.text))
    one = replace(lacuna(), proxy="server")
    systems = [one, replace(one, replicas=2)] if options.check else [one]
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        servers = [
            stack.enter_context(system.serving(cpus, Path(folder), "--log-level", "warning"))
            for system in systems
        ]
        if options.check:
            found = check(servers, stream, options.rounds, options.seconds)
            rows = _medians(found)
        else:
            costs, _ = measure_costs(servers[0], stream, options.seconds)
            rows = found = plan(costs, servers[0].resident_bytes())
    write_json(options.output, {**provenance(), "figures": found})
    cells = [[f"{value:,.3g}" for value in row.values()] for row in rows]
    sys.stdout.write(table(cells, list(rows[0])))
    return 0


def _medians(found: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    by_replicas = [[each for each in found if each["replicas"] == n] for n in (1, 2)]
    return [
        {name: statistics.median(each[name] for each in mine) for name in mine[0]}
        for mine in by_replicas
    ]


if __name__ == "__main__":
    sys.exit(main())
