"""``python -m benchmarks.overload``: goodput at ten times the load, as a share of the measured peak.

The service and HAProxy share one CPU, the client has another. Each round measures every system one after
the other, because the speed of a shared machine changes: first the peak with all of 32 connections busy,
then the overload, which is offered at fixed times if it is answered or not (an open loop). Goodput counts
answers within the deadline from the scheduled time, over the last two thirds of the overload.

``--old PATH`` also measures the service of another checkout, without a proxy, in the same rounds.
"""

import argparse
import json
import math
import random
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import Any

from benchmarks import open_loop, texts
from benchmarks.machine import provenance
from benchmarks.processes import Server, pin_client
from benchmarks.systems import System, lacuna
from training.cached_json import write_json
from training.evaluation.report import table
from training.run_state import check_writable

OVERLOAD = 10
DEADLINE_SECONDS = 2.0
ROUTES = {"/predict": "key presses", "/cloze": "blanks"}
# More connections than requests that are accepted at once.
_CONNECTIONS = 1024
_PROBES = 200


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print a table and write JSON; 0."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.overload", description=(__doc__ or "").partition("\n")[0]
    )
    add = parser.add_argument
    add("--old", type=Path, metavar="PATH", help="another checkout, measured without a proxy")
    add("--text", type=Path, metavar="DIR", help="*.txt, a sentence a line (default: toy corpus)")
    add("--rounds", type=int, default=5, help="an odd number; the median counts (default: 5)")
    add("--seconds", type=float, default=8.0, help="of each peak and overload (default: 8)")
    add("--output", type=Path, required=True, metavar="FILE", help="JSON file to write")
    options = parser.parse_args(arguments)
    check_writable(options.output)
    systems = [lacuna("behind HAProxy", proxied=True)]
    systems += [lacuna("old", options.old)] if options.old else []
    lines = texts.read_lines(options.text)
    result = {
        **provenance(),
        "old_commit": provenance(options.old)["commit"] if options.old else None,
        "deadline_seconds": DEADLINE_SECONDS,
        "rounds": measure(systems, lines, options.rounds, options.seconds),
    }
    write_json(options.output, result)
    sys.stdout.write(overload_table(result["rounds"]))
    return 0


def measure(
    systems: Sequence[System], lines: Sequence[str], rounds: int, seconds: float
) -> list[dict[str, Any]]:
    """Return the figures of every system, route and round, in turns."""
    cores = pin_client()
    found = []
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        deadline = ("--deadline-seconds", f"{DEADLINE_SECONDS:g}", "--log-level", "warning")
        servers = [
            stack.enter_context(system.serving(cores, Path(folder), *deadline))
            for system in systems
        ]
        streams = {"/predict": texts.keystrokes(lines), "/cloze": texts.lines_with_blank(lines)}
        for seed in range(rounds):
            for route in ROUTES:
                for system, server in zip(systems, servers, strict=True):
                    with ExitStack() as others:
                        for other in servers:
                            if other is not server:
                                others.enter_context(other.paused())
                        figures = _overload(server, route, streams[route], seconds, seed)
                    found.append({"system": system.name, "route": route, **figures})
                    print(json.dumps(found[-1]), flush=True)
    return found


def _overload(
    server: Server, route: str, stream: Iterator[str], seconds: float, seed: int
) -> dict[str, Any]:
    peak = _peak(server, route, stream, seconds)
    times = open_loop.arrivals(OVERLOAD * peak, seconds, seed)
    requests = [texts.post(route, text) for text in islice(stream, len(times))]
    outcome = open_loop.run(server.port, requests, times, _CONNECTIONS, DEADLINE_SECONDS)
    figures = {"peak_per_second": peak, **goodput(times, outcome, seconds)}
    figures["share_of_peak"] = figures["goodput_per_second"] / peak
    if route == "/predict":
        thinned = _peak(server, route, thin(stream, seed), seconds / 2)
        figures["thinned_peak_per_second"] = thinned
        figures["share_of_thinned_peak"] = figures["goodput_per_second"] / thinned
    return figures


def thin(stream: Iterator[str], seed: int) -> Iterator[str]:
    """Yield one text at random of each `OVERLOAD`: those that are accepted under overload.

    Each of these key presses has those of its typist to read that were refused before it. So their
    peak is what a system could reach that refused the others at no cost.
    """
    luck = random.Random(seed)  # noqa: S311 - a sample is no secret
    while offered := list(islice(stream, OVERLOAD)):
        yield luck.choice(offered)


def _peak(server: Server, route: str, stream: Iterator[str], seconds: float) -> float:
    """Return the answers a second with all connections busy; a short try tells how many texts it takes."""
    count = _PROBES
    for _ in range(2):
        requests = [texts.post(route, text) for text in islice(stream, count)]
        outcome = open_loop.saturate(server.port, requests, seconds)
        rate = len(outcome.answered) / outcome.seconds
        count = max(_PROBES, math.ceil(2 * rate * seconds))
    return rate


def goodput(times: Sequence[float], outcome: open_loop.Outcome, seconds: float) -> dict[str, Any]:
    """Return the results of a schedule of *seconds*; rates are those of its last two thirds.

    By then the queues are full. ``unsent`` are requests that the client could not send within the
    deadline; ``unanswered`` were sent, and nothing came back.
    """
    begin = seconds / 3
    counted = [
        latency
        for due, latency in zip(times, outcome.latencies, strict=True)
        if due >= begin and math.isfinite(latency)
    ]
    unsent = sum(map(math.isinf, outcome.waits))
    return {
        "offered_per_second": len(times) / seconds,
        "goodput_per_second": sum(each <= DEADLINE_SECONDS for each in counted) / (seconds - begin),
        "accepted_p99_seconds": open_loop.percentile(counted, 0.99) if counted else None,
        "status": {str(status): count for status, count in sorted(outcome.statuses.items())},
        "unsent": unsent,
        "unanswered": len(times) - unsent - outcome.statuses.total(),
    }


def overload_table(rounds: Sequence[dict[str, Any]]) -> str:
    """Return a row for each system and kind of request: medians over the rounds."""
    rows = []
    for system, route in dict.fromkeys((each["system"], each["route"]) for each in rounds):
        mine = [each for each in rounds if (each["system"], each["route"]) == (system, route)]

        def median(figure: str, mine: Sequence[dict[str, Any]] = mine) -> float:
            return statistics.median(each[figure] or math.nan for each in mine)

        rows.append(
            (
                system,
                ROUTES[route],
                f"{median('peak_per_second'):,.0f}",
                f"{median('offered_per_second'):,.0f}",
                f"{median('goodput_per_second'):,.0f}",
                f"{median('share_of_peak'):.0%}",
                f"{median('share_of_thinned_peak'):.0%}" if route == "/predict" else "–",
                f"{median('accepted_p99_seconds'):.2f} s",
            )
        )
    header = ("system", "requests", "peak a second", "offered", "answered in time")
    return table(rows, (*header, "of the peak", "of the thinned peak", "p99 of the answered"))


if __name__ == "__main__":
    sys.exit(main())
