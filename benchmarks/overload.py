"""``python -m benchmarks.overload``: goodput at ten times the load, as a share of the peak.

The service runs on the first CPU, the client on the others, and HAProxy on one or the other: on a
machine with two CPUs it either shares that of the service or that of the client. Each round
measures every system in turn, because the speed of a shared machine changes: first the peak, with
64 busy connections, then the overload from 640 typists, each with a different source address, who
do not wait for answers (an open loop). Goodput counts answers within the deadline from the
scheduled time, over the last two thirds of the overload.

``--old PATH`` also measures the service of another checkout, without a proxy, in the same rounds.
"""

import argparse
import itertools
import json
import math
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from benchmarks import open_loop, texts
from benchmarks.machine import provenance
from benchmarks.processes import Server, alone, pin_client
from benchmarks.systems import System, lacuna
from training.cached_json import check_writable, write_json
from training.evaluation.report import table

OVERLOAD = 10
DEADLINE_SECONDS = 2.0
ROUTES = {"/predict": "key presses", "/cloze": "blanks"}
# Of each of the users who send the overload; browsers open as many to one host.
_CONNECTIONS = 6
USERS = OVERLOAD * texts.TYPISTS
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
    add("--seconds", type=float, default=5.0, help="of each peak and overload (default: 5)")
    add("--output", type=Path, required=True, metavar="FILE", help="JSON file to write")
    options = parser.parse_args(arguments)
    check_writable(options.output)
    systems = [
        replace(lacuna("HAProxy on the same core"), proxy="server"),
        replace(lacuna("HAProxy on another core"), proxy="client"),
    ]
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
    blanks = texts.lines_with_blank(lines)
    streams = {
        "/predict": (texts.keystrokes(lines), texts.keystrokes(lines, USERS)),
        "/cloze": (blanks, blanks),
    }
    found = []
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        deadline = ("--deadline-seconds", f"{DEADLINE_SECONDS:g}", "--log-level", "warning")
        servers = [
            stack.enter_context(system.serving(cores, Path(folder), *deadline))
            for system in systems
        ]
        for seed, route in itertools.product(range(rounds), ROUTES):
            for system, server in zip(systems, servers, strict=True):
                with alone(server, servers):
                    figures = _overload(server, route, *streams[route], seconds, seed)
                found.append({"system": system.name, "route": route, **figures})
                print(json.dumps(found[-1]), flush=True)
    return found


def _overload(
    server: Server,
    route: str,
    usual: Iterator[str],
    crowd: Iterator[str],
    seconds: float,
    seed: int,
) -> dict[str, Any]:
    peak = _peak(server, route, usual, seconds)
    times = open_loop.arrivals(OVERLOAD * peak, seconds, seed)
    rounded_up = -(-len(times) // USERS) * USERS  # so that users keep their typists
    requests = [texts.post(route, text) for text in islice(crowd, rounded_up)]
    outcome = open_loop.run(
        server.port, requests, times, _CONNECTIONS, USERS, give_up_seconds=DEADLINE_SECONDS
    )
    figures = {"peak_per_second": peak, **goodput(times, outcome, seconds)}
    return figures | {"share_of_peak": figures["goodput_per_second"] / peak}


def _peak(server: Server, route: str, stream: Iterator[str], seconds: float) -> float:
    """Return the answers a second with all connections busy; a short try tells how many texts it
    takes.
    """
    count = _PROBES
    for _ in range(2):
        requests = [texts.post(route, text) for text in islice(stream, count)]
        outcome = open_loop.saturate(server.port, requests, seconds, connections=texts.TYPISTS)
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
                f"{median('accepted_p99_seconds'):.2f} s",
            )
        )
    header = ("system", "requests", "peak a second", "offered", "answered in time")
    return table(rows, (*header, "of the peak", "p99 of the answered"))


if __name__ == "__main__":
    sys.exit(main())
