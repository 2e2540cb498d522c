"""``python -m benchmarks.serving``: Lacuna and its peers under the same load, in one run.

Within a repeat each workload meets every system before the next workload begins, because the speed
of a shared machine changes. All servers live for the whole run, and all but the measured one are
paused. The client runs on other CPUs. ``--old PATH`` compares key presses with the service of
another checkout.
"""

import argparse
import json
import math
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
from benchmarks.processes import Server, ServerError, alone, pin_client
from benchmarks.systems import CHECKPOINT, FIRST_QUESTION, PEERS, System, lacuna
from model.checkpoint import load_checkpoint
from training.cached_json import check_writable, write_json
from training.evaluation.report import table

Record = dict[str, Any]
# Share of its own saturation at which the latency of a system is measured.
LOAD = 0.5
# A key press that is answered within 20 ms feels instant (Hard et al. 2018, arXiv:1811.03604).
GOOD_SECONDS = 0.020
# Characters before the first timed key press, number of those key presses, and systems that can
# be asked so much.
LENGTHS, PRESSES, WITH_LENGTHS = (10, 5000), 40, ("lacuna", "old", "reference", "naive")
COLD_TOKENS, CLOZE_TOKENS, LIST_TEXTS = 20, 50, 16
# Requests a second for which there are fresh texts, by workload: more than any system but the
# reference answers. When they are used up, the measurement ends earlier.
WORKLOADS = {
    "key presses": ("/predict", 3000),
    "cold texts": ("/predict", 3000),
    "blanks": ("/cloze", 500),
    "lists": ("/predict", 200),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print tables and write JSON.

    Returns:
        0; 1 if a system failed.
    """
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.serving", description=(__doc__ or "").partition("\n")[0]
    )
    add = parser.add_argument
    add(
        "--old", type=Path, metavar="PATH", help="another checkout: compare with it, not with peers"
    )
    add("--text", type=Path, metavar="DIR", help="*.txt, a sentence a line (default: toy corpus)")
    add("--repeats", type=int, default=5, help="turns of every system (default: 5)")
    add("--seconds", type=float, default=4.0, help="of each measurement (default: 4)")
    add("--output", type=Path, required=True, metavar="FILE", help="JSON file to write")
    options = parser.parse_args(arguments)
    check_writable(options.output)
    systems = [lacuna(), lacuna("old", options.old)] if options.old else [lacuna(), *PEERS]
    workloads = ["key presses"] if options.old else [*WORKLOADS]
    lines = texts.read_lines(options.text)
    try:
        records = measure(systems, lines, workloads, options.repeats, options.seconds)
    except ServerError as error:
        print(f"a system failed: {error}", file=sys.stderr)
        return 1
    checkpoint = load_checkpoint(lacuna().directory / CHECKPOINT)
    about = {"checkpoint": f"{checkpoint.name} {checkpoint.version}", "seconds": options.seconds}
    result = {**provenance(), **about, "records": records}
    write_json(options.output, result)
    sys.stdout.write(throughput_table(records) + "\n" + latency_table(records))
    if options.old:
        print(ratio(records))
    return 0


def measure(
    systems: Sequence[System],
    lines: Sequence[str],
    workloads: Sequence[str],
    repeats: int,
    seconds: float,
) -> list[Record]:
    """Return the records of all repeats."""
    cores = pin_client()
    streams = request_streams(lines)
    records: list[Record] = []
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        servers = [stack.enter_context(system.serving(cores, Path(folder))) for system in systems]
        for repeat in range(repeats):
            for record in _repeat(systems, servers, streams, workloads, seconds, lines):
                records.append({"repeat": repeat, **record})
                print(json.dumps(records[-1]), flush=True)
            for system in systems:
                with alone(None, servers):
                    server = system.start(cores, Path(folder))
                    try:
                        route = system.routes[0]
                        start = server.wait_until_answering(route, FIRST_QUESTION[route])
                    finally:
                        server.stop()
                records.append({"repeat": repeat, "system": system.name, "start_seconds": start})
        for system, server in zip(systems, servers, strict=True):
            resident = server.resident_bytes() / 1e6
            records.append({"repeat": 0, "system": system.name, "resident_mb": resident})
    return records


def request_streams(lines: Sequence[str]) -> dict[str, Iterator[str | list[str]]]:
    """Return the endless texts of each workload.

    Key presses: 64 typists in turn. Cold texts: 20 tokens, which no cache helps. Blanks: 50 tokens
    with
    one word left out. Lists: 16 cold texts in one request.
    """
    tokenizer = load_checkpoint(lacuna().directory / CHECKPOINT).tokenizer
    cold, long = (texts.stretches(lines, tokenizer, size) for size in (COLD_TOKENS, CLOZE_TOKENS))

    def lists() -> Iterator[list[str]]:
        while True:
            yield list(islice(cold, LIST_TEXTS))

    return {
        "key presses": texts.keystrokes(lines),
        "cold texts": cold,
        "blanks": map(texts.with_blank, long),
        "lists": lists(),
    }


def _repeat(
    systems: Sequence[System],
    servers: Sequence[Server],
    streams: dict[str, Iterator[str | list[str]]],
    workloads: Sequence[str],
    seconds: float,
    lines: Sequence[str],
) -> Iterator[Record]:
    for workload in workloads:
        route, most = WORKLOADS[workload]
        fresh = [texts.post(route, text) for text in islice(streams[workload], int(most * seconds))]
        later = list(islice(streams[workload], int(most * seconds * LOAD)))
        for system, server in zip(systems, servers, strict=True):
            if route not in system.routes:
                continue
            with alone(server, servers):
                record = _saturation(server, fresh, seconds)
                if workload == "key presses":
                    requests = [texts.post(route, text) for text in later]
                    record |= _latency(server, requests, record["per_second"], seconds)
            yield {"system": system.name, "workload": workload, **record}
    typed = texts.running_texts(lines)
    for system, server in zip(systems, servers, strict=True):
        if system.name in WITH_LENGTHS and "key presses" in workloads:
            with alone(server, servers):
                yield {"system": system.name, "workload": "lengths", **_lengths(server, typed)}


def _saturation(server: Server, requests: Sequence[bytes], seconds: float) -> Record:
    """Return throughput with 32 busy connections, and CPU time by request."""
    before = server.cpu_seconds()
    outcome = open_loop.saturate(server.port, requests, seconds)
    answered = len(outcome.answered)
    return {
        "per_second": answered / outcome.seconds,
        "cpu_us": 1e6 * (server.cpu_seconds() - before) / max(1, answered),
        "failures": outcome.statuses.total() - answered,
    }


def _latency(server: Server, requests: Sequence[bytes], most: float, seconds: float) -> Record:
    """Return latencies at `LOAD` of the rate *most*, arriving at random."""
    times = open_loop.arrivals(LOAD * most, seconds, seed=1)[: len(requests)]
    outcome = open_loop.run(server.port, requests, times)
    return {
        "p50_ms": 1000 * open_loop.percentile(outcome.answered, 0.5),
        "p99_ms": 1000 * open_loop.percentile(outcome.answered, 0.99),
        "good_share": sum(each <= GOOD_SECONDS for each in outcome.latencies) / len(times),
        "late_failures": len(times) - len(outcome.answered),
    }


def _lengths(server: Server, typed: Sequence[str]) -> Record:
    """Return the median latency of key presses, one at a time, by the characters before them."""
    found = {}
    for length in LENGTHS:
        latencies = []
        for text in typed:
            ends = range(length, min(length + PRESSES, len(text)) + 1)
            requests = [texts.post("/predict", text[:end]) for end in ends]
            outcome = open_loop.saturate(server.port, requests, 60.0, connections=1)
            latencies += outcome.latencies_from_sending[1:]  # the first one reads the whole text
        found[f"p50_ms_at_{length}"] = 1000 * open_loop.percentile(latencies, 0.5)
    return found


def median(
    records: Sequence[Record], system: str, figure: str, workload: str | None = None
) -> float:
    """Return the median of a figure over the repeats; NaN if it was not measured."""
    found = [
        record[figure]
        for record in records
        if record["system"] == system and record.get("workload") == workload and figure in record
    ]
    return statistics.median(found) if found else math.nan


def ratio(records: Sequence[Record]) -> str:
    """Return the throughput of key presses as a share of the old one, taken within each repeat."""
    new, old = (
        [each["per_second"] for each in records if each["system"] == name and "per_second" in each]
        for name in ("lacuna", "old")
    )
    shares = [mine / other for mine, other in zip(new, old, strict=True)]
    middle, least, most = statistics.median(shares), min(shares), max(shares)
    return f"key presses: {middle:.3f} of the old throughput ({least:.3f} to {most:.3f})"


def throughput_table(records: Sequence[Record]) -> str:
    """Return answers a second by system and workload."""
    systems = dict.fromkeys(record["system"] for record in records)
    rows = [
        [name, *(shown(median(records, name, "per_second", workload)) for workload in WORKLOADS)]
        for name in systems
    ]
    return table(rows, ["answers a second", *WORKLOADS])


def latency_table(records: Sequence[Record]) -> str:
    """Return latencies of key presses, start and memory by system."""
    figures = [
        *((figure, "key presses") for figure in ("p50_ms", "p99_ms")),
        *((f"p50_ms_at_{length}", "lengths") for length in LENGTHS),
        ("start_seconds", None),
        ("resident_mb", None),
    ]
    rows = [
        [name, *(shown(median(records, name, figure, workload)) for figure, workload in figures)]
        for name in dict.fromkeys(record["system"] for record in records)
    ]
    header = ["", "p50 ms", "p99 ms", *(f"ms after {length:,} characters" for length in LENGTHS)]
    return table(rows, [*header, "start s", "memory MB"])


def shown(value: float) -> str:
    """Return a number with two significant digits, or a dash for NaN."""
    if math.isnan(value):
        return "–"
    rounded = float(f"{value:.2g}")
    return f"{rounded:,.0f}" if rounded >= 10 else f"{rounded:g}"


if __name__ == "__main__":
    sys.exit(main())
