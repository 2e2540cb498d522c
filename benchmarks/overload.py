"""``python -m benchmarks.overload``: goodput at ten times the load, as a share of the peak.

The service runs on the first CPU, the client on the others, and HAProxy on one or the other: on a
machine with two CPUs it either shares that of the service or that of the client. Each round
measures every system in turn, because the speed of a shared machine changes: first the peak, with
64 busy connections, then the overload from 640 typists, each with a different source address, who
do not wait for answers (an open loop). Goodput counts answers within the deadline from the
scheduled time, over the last two thirds of the overload.

``--old PATH`` also measures the service of another checkout, without a proxy, in the same rounds.
``--fleet`` measures one process and two replicas instead: the peak; latency and cache hits at half
of it; and, at a quarter of it, the requests that get no 200 while each process in turn restarts.
"""

import argparse
import itertools
import json
import math
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from benchmarks import open_loop, texts
from benchmarks.machine import provenance
from benchmarks.processes import Server, alone, pin_client
from benchmarks.systems import FIRST_QUESTION, NOTICE_SECONDS, System, lacuna
from training.cached_json import check_writable, write_json
from training.evaluation.report import table

OVERLOAD = 10
DEADLINE_SECONDS = 2.0
ROUTES = {"/predict": "key presses", "/cloze": "blanks"}
# Of each of the users who send the overload; browsers open as many to one host.
_CONNECTIONS = 6
USERS = OVERLOAD * texts.TYPISTS
_PROBES = 200
# Of tables: figure → title and format. A table has those of its figures.
_COLUMNS = {
    "peak_per_second": ("peak a second", "{:,.0f}"),
    "offered_per_second": ("offered", "{:,.0f}"),
    "goodput_per_second": ("answered in time", "{:,.0f}"),
    "share_of_peak": ("of the peak", "{:.0%}"),
    "accepted_p99_seconds": ("p99 of the answered", "{:.2f} s"),
    "p50_seconds": ("p50", "{:.3f} s"),
    "p99_seconds": ("p99", "{:.3f} s"),
    "lost_share": ("lost on restart", "{:.2%}"),
    "cache_hit_share": ("cache hits", "{:.0%}"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print a table and write JSON; 0."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.overload", description=(__doc__ or "").partition("\n")[0]
    )
    add = parser.add_argument
    add("--replicas", type=int, default=1, choices=(1, 2), help="behind HAProxy (default: 1)")
    add("--cores", type=int, default=1, help="CPUs of the service (default: 1)")
    add("--fleet", action="store_true", help="one process and two replicas, without overload")
    add("--old", type=Path, metavar="PATH", help="another checkout, measured without a proxy")
    add("--text", type=Path, metavar="DIR", help="*.txt, a sentence a line (default: toy corpus)")
    add("--rounds", type=int, default=5, help="an odd number; the median counts (default: 5)")
    add("--seconds", type=float, default=5.0, help="of each peak and overload (default: 5)")
    add("--output", type=Path, required=True, metavar="FILE", help="JSON file to write")
    options = parser.parse_args(arguments)
    check_writable(options.output)
    systems = [
        replace(lacuna("HAProxy on the same core"), proxy="server", replicas=options.replicas),
        replace(lacuna("HAProxy on another core"), proxy="client", replicas=options.replicas),
    ]
    systems += [lacuna("old", options.old)] if options.old else []
    drill = fleet if options.fleet else overload
    if options.fleet:
        one = replace(systems[0], name="one process", replicas=1)
        systems = [one, replace(one, name="two replicas behind HAProxy", replicas=2)]
    lines = texts.read_lines(options.text)
    result = {
        **provenance(),
        "old_commit": provenance(options.old)["commit"] if options.old else None,
        "deadline_seconds": DEADLINE_SECONDS,
        "rounds": measure(systems, lines, options.rounds, options.seconds, drill, options.cores),
    }
    write_json(options.output, result)
    sys.stdout.write(overload_table(result["rounds"]))
    return 0


def measure(
    systems: Sequence[System],
    lines: Sequence[str],
    rounds: int,
    seconds: float,
    drill: Callable[..., dict[str, Any]],
    cores: int = 1,
) -> list[dict[str, Any]]:
    """Return the figures of every system, route and round, in turns."""
    cpus = pin_client(cores)
    blanks = texts.lines_with_blank(lines)
    streams = {
        "/predict": (texts.keystrokes(lines), texts.keystrokes(lines, USERS)),
        "/cloze": (blanks, blanks),
    }
    found = []
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        deadline = ("--deadline-seconds", f"{DEADLINE_SECONDS:g}", "--log-level", "warning")
        servers = [
            stack.enter_context(system.serving(cpus, Path(folder), *deadline)) for system in systems
        ]
        for seed, route in itertools.product(range(rounds), ROUTES):
            for system, server in zip(systems, servers, strict=True):
                with alone(server, servers):
                    figures = drill(server, route, *streams[route], seconds, seed)
                found.append({"system": system.name, "route": route, **figures})
                print(json.dumps(found[-1]), flush=True)
    return found


def overload(
    server: Server,
    route: str,
    usual: Iterator[str],
    crowd: Iterator[str],
    seconds: float,
    seed: int,
) -> dict[str, Any]:
    """Return the peak of one system and its goodput at ten times the load."""
    rate = _peak(server, route, usual, seconds)
    times = open_loop.arrivals(OVERLOAD * rate, seconds, seed)
    requests = _posts(route, crowd, len(times), USERS)
    outcome = open_loop.run(
        server.port, requests, times, _CONNECTIONS, USERS, give_up_seconds=DEADLINE_SECONDS
    )
    figures = {"peak_per_second": rate, **goodput(times, outcome, seconds)}
    return figures | {"share_of_peak": figures["goodput_per_second"] / rate}


def fleet(
    server: Server, route: str, usual: Iterator[str], _: object, seconds: float, seed: int
) -> dict[str, Any]:
    """Return the peak of one system; latency and cache hits at half of it; losses on restarts."""
    rate = _peak(server, route, usual, seconds)

    def type_on(share: float) -> open_loop.Outcome:
        times = open_loop.arrivals(share * rate, seconds, seed)
        requests = _posts(route, usual, len(times), texts.TYPISTS)
        return open_loop.run(server.port, requests, times, _CONNECTIONS, texts.TYPISTS)

    before = _cached_tokens(server)
    latencies = type_on(1 / 2).latencies
    hits, misses = (now - then for now, then in zip(_cached_tokens(server), before, strict=True))
    sent: list[float] = []
    with ThreadPoolExecutor(1) as thread:
        restarts = thread.submit(_restart_all, server, route)
        while not restarts.done():
            sent += type_on(1 / 4).latencies
        restarts.result()
    return {
        "peak_per_second": rate,
        "p50_seconds": open_loop.percentile(latencies, 0.5),
        "p99_seconds": open_loop.percentile(latencies, 0.99),
        "lost_share": sum(map(math.isinf, sent)) / len(sent),
        "cache_hit_share": hits / (hits + misses),
    }


def _restart_all(server: Server, route: str) -> None:
    for number, port in enumerate(server.inner_ports):
        server.restart(number)
        server.wait_until_answering(route, FIRST_QUESTION[route], port)
        time.sleep(NOTICE_SECONDS)


def _cached_tokens(server: Server) -> list[float]:
    pages = "".join(server.ask("/metrics", port=port).decode() for port in server.inner_ports)
    series = r'^lacuna_prefix_cache_tokens_total{result="%s"} (\S+)'
    return [sum(map(float, re.findall(series % result, pages, re.M))) for result in ("hit", "miss")]


def _posts(route: str, stream: Iterator[str], count: int, users: int) -> list[bytes]:
    """Return *count* requests or more, so that all users keep their typists."""
    rounded_up = -(-count // users) * users
    return [texts.post(route, text) for text in islice(stream, rounded_up)]


def _peak(server: Server, route: str, stream: Iterator[str], seconds: float) -> float:
    """Return the answers a second if each typist always waits for one; a short try tells how many
    texts it takes.
    """
    count = _PROBES
    for _ in range(2):
        requests = _posts(route, stream, count, texts.TYPISTS)
        outcome = open_loop.saturate(server.port, requests, seconds, 1, texts.TYPISTS)
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
    columns = {figure: column for figure, column in _COLUMNS.items() if figure in rounds[0]}
    rows = []
    for system, route in dict.fromkeys((each["system"], each["route"]) for each in rounds):
        mine = [each for each in rounds if (each["system"], each["route"]) == (system, route)]
        row = [system, ROUTES[route]]
        for figure, (_, form) in columns.items():
            values = (math.nan if each[figure] is None else each[figure] for each in mine)
            row.append(form.format(statistics.median(values)))
        rows.append(row)
    return table(rows, ("system", "requests", *(title for title, _ in columns.values())))


if __name__ == "__main__":
    sys.exit(main())
