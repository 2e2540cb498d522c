"""``python -m benchmarks.serving``: Lacuna and its peers under the same load, on the same core, in one run.

Within a repeat each workload meets every contestant before the next workload begins, so that what else the machine does
hits all alike. All servers live for the whole run, and all but the one being measured are paused. What has been
measured is written after each repeat.
"""

import argparse
import datetime
import hashlib
import itertools
import json
import math
import os
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import FrameType
from typing import Any

from benchmarks import machine, open_loop, report, workloads
from benchmarks.contestants import CONTESTANTS, ROOT, check_tokens, top_tokens
from benchmarks.measurements import Running, Workload
from benchmarks.process import ServerError
from benchmarks.results import BUSY, HALF, Record
from benchmarks.wrk import WrkError
from model.checkpoint import load_checkpoint
from model.errors import LacunaError
from model.tokenizer import Tokenizer
from research.toy_corpus import write_corpus

CONTEXT_CHARACTERS = (10, 100, 1000, 5000)
CONTEXT_CONTESTANTS = ("lacuna", "reference", "naive")
CONTEXT_PRESSES = 40
COLD_TOKENS, CLOZE_TOKENS, LIST_TEXTS = 20, 50, 16
WORKLOADS = ("keystrokes", "cold", "cloze", "lists", "context", "start")
# A contestant that remembers nothing may be given the same texts again.
_FORGETFUL = "reference"
_CHECKED_TEXTS = 32
# Requests a second, where a share of saturation would be less than that.
_LOWEST_RATE = 1.0
_TOY_LINES = 4000


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, or report what was measured.

    Returns:
        0; 1 where a contestant failed; 2 where something is missing; 130 after Ctrl-C.
    """
    options = _parse(arguments)
    if options.report:
        report.write(json.loads(options.report.read_text("utf-8")), options.output, options.publish)
        return 0
    signal.signal(signal.SIGTERM, _interrupt)
    os.sched_setaffinity(0, _cores(options.client_cores))
    try:
        with ExitStack() as stack:
            result = _measure(options, stack)
    except KeyboardInterrupt:
        _say(f"stopped; complete repeats are in {options.output}")
        return 130
    except (WrkError, workloads.TextError, LacunaError) as error:
        _say(f"cannot measure: {error}")
        return 2
    except ServerError as error:
        _say(f"a contestant failed: {error}")
        return 1
    report.write(result, options.output, options.publish)
    _say(report.promises_table(result["records"]))
    return 0


def _measure(options: argparse.Namespace, stack: ExitStack) -> dict[str, Any]:
    checkpoint = load_checkpoint(options.checkpoint)
    lines = _lines(options.text, stack)
    result: dict[str, Any] = {
        "format": 1,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "repeats": options.repeats,
        "seconds": options.seconds,
        "server_cores": options.server_cores,
        "client_cores": options.client_cores,
        "text": _describe_text(lines, own=options.text is None),
        "checkpoint": {
            "name": checkpoint.name,
            "version": checkpoint.version,
            "digest": checkpoint.digest,
        },
        "machine": machine.describe(sys.executable),
        "same_top_token": {},
        "records": [],
    }
    loads, contexts = _workloads(options, lines, checkpoint.tokenizer)
    same_questions = workloads.Prompts(lines, checkpoint.tokenizer, COLD_TOKENS).peek(
        _CHECKED_TEXTS
    )
    running = _start_all(options, stack, result["same_top_token"], same_questions)
    for repeat in range(options.repeats):
        for record in _repeat(options, repeat, running, loads, contexts):
            result["records"].append({"repeat": repeat, **record})
            _say(_progress(repeat, record))
        result["complete_repeats"] = repeat + 1
        report.write_json(result, options.output)
    return result


def _start_all(
    options: argparse.Namespace,
    stack: ExitStack,
    same_top_token: dict[str, float],
    texts: Sequence[str],
) -> list[Running]:
    """Start every contestant, see that it answers, and that those with the same weights answer alike; pause it."""
    expected = top_tokens(options.checkpoint, texts)
    logs = options.output / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    started = []
    for name in options.contestants:
        contestant = CONTESTANTS[name]
        if missing := contestant.missing():
            raise WrkError(f"{name}: {missing}")
        running = Running(
            contestant, options.server_cores, options.checkpoint, logs / f"{name}.log"
        )
        stack.callback(running.server.stop)
        seconds = running.first_answer(running.server)
        if contestant.tokens:
            same_top_token[name] = check_tokens(contestant, running.server, texts, expected)
        running.server.pause()
        _say(f"{name}: first answer after {seconds:.2f} s")
        started.append(running)
    return started


def _repeat(
    options: argparse.Namespace,
    repeat: int,
    running: Sequence[Running],
    loads: Sequence[Workload],
    contexts: workloads.Contexts,
) -> Iterator[Record]:
    """All records of one repeat, as they are made."""
    for load in loads:
        able = [one for one in running if load.route in one.contestant.routes]
        yield from _saturations_and_latencies(options, repeat, able, load)
    if "context" in options.workloads:
        beginnings, typed = contexts.take(max(2, round(options.seconds)))
        for one in running:
            if one.contestant.name in CONTEXT_CONTESTANTS:
                for record in one.contexts(
                    CONTEXT_CHARACTERS, beginnings, typed, 2 * options.seconds
                ):
                    yield {"contestant": one.contestant.name, **record}
    for one in running:
        if "start" in options.workloads:
            yield {"contestant": one.contestant.name, **one.start()}
        yield {"contestant": one.contestant.name, **one.memory()}


def _saturations_and_latencies(
    options: argparse.Namespace, repeat: int, running: Sequence[Running], load: Workload
) -> Iterator[Record]:
    bodies = load.peek(math.ceil(load.most_per_second * options.seconds))
    most: dict[str, float] = {}
    used = 0
    for one in running:
        name = one.contestant.name
        record = one.saturation(load, bodies, options.seconds)
        most[name] = record["per_second"]
        used = max(used, 0 if name == _FORGETFUL else record["sent"])
        yield {"contestant": name, **record}
    load.advance(min(used, len(bodies)))
    for share in load.shares:
        # The reference is measured at its own load, and beside Lacuna at Lacuna's.
        points = [(one, one.contestant.name) for one in running]
        if "lacuna" in most:
            points += [(one, "lacuna") for one in running if one.contestant.name == _FORGETFUL]
            points.sort(key=lambda point: point[1] != "lacuna")
        seed = 1000 * repeat + round(100 * share)
        rates = [max(_LOWEST_RATE, share * most[of]) for _, of in points]
        schedules = [open_loop.arrivals(rate, options.seconds, seed) for rate in rates]
        fresh = load.peek(max(map(len, schedules), default=0))
        used = 0
        for (one, of), rate, times in zip(points, rates, schedules, strict=True):
            name = one.contestant.name
            used = max(used, 0 if name == _FORGETFUL else len(times))
            yield {
                "contestant": name,
                "share": share,
                "of": of,
                "rate": rate,
                **one.latency(load, fresh, times),
            }
        load.advance(used)


def _workloads(
    options: argparse.Namespace, lines: Sequence[str], tokenizer: Tokenizer
) -> tuple[list[Workload], workloads.Contexts]:
    prompts = workloads.Prompts(lines, tokenizer, COLD_TOKENS)
    clozes = workloads.Clozes(workloads.Prompts(lines, tokenizer, CLOZE_TOKENS, seed=2), tokenizer)
    shares = (HALF,) if options.quick else (0.25, HALF, BUSY)
    every = (
        Workload(
            "keystrokes",
            "/predict",
            workloads.Keystrokes(lines),
            most_per_second=12_000,
            shares=shares,
        ),
        Workload("cold", "/predict", prompts, shares=(HALF,)),
        Workload("cloze", "/cloze", clozes, shares=(HALF,)),
        # 16 connections with 16 texts each stay within Lacuna's queue of 512.
        Workload(
            "lists", "/predict", prompts, texts=LIST_TEXTS, connections=16, most_per_second=250
        ),
    )
    chosen = [workload for workload in every if workload.name in options.workloads]
    return chosen, workloads.Contexts(lines, CONTEXT_CHARACTERS, CONTEXT_PRESSES)


def _lines(directory: Path | None, stack: ExitStack) -> list[str]:
    if directory is None:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        write_corpus(directory, _TOY_LINES, seed=1)
    return workloads.read_lines(directory)


def _describe_text(lines: Sequence[str], own: bool) -> dict[str, Any]:
    digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()
    return {"own": own, "lines": len(lines), "characters": sum(map(len, lines)), "sha256": digest}


def _progress(repeat: int, record: Record) -> str:
    shown = {
        "saturation": "{per_second:9.1f} /s, {cpu_us_per_request:.0f} µs CPU each",
        "open_loop": "{rate:9.1f} /s ({share:.0%} of {of}): p50 {p50_ms} ms, p99 {p99_ms} ms",
        "context": "{characters:5d} characters: p50 {p50_ms} ms",
        "start": "{seconds:9.2f} s to the first answer",
        "memory": "{peak_mb:9.1f} MB at most",
    }[record["measure"]]
    rounded = {
        key: round(value, 3) if isinstance(value, float) and key.endswith("_ms") else value
        for key, value in record.items()
    }
    again = "; texts came again" if record.get("texts_came_again") else ""
    failed = f"; {record['failures']} failed" if record.get("failures") else ""
    where = f"{record.get('workload', ''):10s} {record['contestant']:15s}"
    return f"repeat {repeat + 1}  {where} {shown.format_map(rounded)}{failed}{again}"


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.serving", description=(__doc__ or "").partition("\n")[0]
    )
    add = parser.add_argument
    add(
        "--text",
        type=Path,
        metavar="DIR",
        help="*.txt files, a sentence a line, Chinese and English; default: own text",
    )
    add("--checkpoint", type=Path, default=ROOT / "model" / "pretrained" / "default", metavar="DIR")
    add("--repeats", type=int, default=5)
    add(
        "--seconds",
        type=float,
        default=5.0,
        help="of each measurement (default: 5; wrk counts whole seconds)",
    )
    add(
        "--contestants",
        type=_names(tuple(CONTESTANTS)),
        default=list(CONTESTANTS),
        metavar="A,B",
        help=", ".join(CONTESTANTS),
    )
    add(
        "--workloads",
        type=_names(WORKLOADS),
        default=list(WORKLOADS),
        metavar="A,B",
        help=", ".join(WORKLOADS),
    )
    add(
        "--server-cores",
        default="0",
        metavar="LIST",
        help="as taskset reads it, such as 0 or 0,2-3 (default: 0)",
    )
    add(
        "--client-cores",
        default="1",
        metavar="LIST",
        help="should share none with the servers (default: 1)",
    )
    add(
        "--output",
        type=Path,
        default=ROOT / "runs" / "benchmarks",
        metavar="DIR",
        help="for JSON, table, plot, logs",
    )
    add(
        "--quick",
        action="store_true",
        help="one repeat of a second each: whether it works, not how fast it is",
    )
    add("--report", type=Path, metavar="FILE", help="measure nothing; report this JSON anew")
    add("--publish", action="store_true", help="write tables, plot and figures into docs/ as well")
    options = parser.parse_args(arguments)
    if options.quick:
        options.repeats, options.seconds = 1, 1.0
    if options.repeats < 1 or options.seconds < 1:
        parser.error("--repeats and --seconds must be at least 1")
    options.checkpoint, options.output = options.checkpoint.resolve(), options.output.resolve()
    return options


def _names(known: Sequence[str]) -> Any:
    def read(value: str) -> list[str]:
        names = value.split(",")
        if unknown := [name for name in names if name not in known]:
            raise argparse.ArgumentTypeError(
                f"{', '.join(unknown)}: choose among {', '.join(known)}"
            )
        return names

    return read


def _cores(text: str) -> set[int]:
    """The cores of a list such as ``0,2-3``."""
    ends = [[int(end) for end in part.split("-")] for part in text.split(",")]
    return set(itertools.chain.from_iterable(range(pair[0], pair[-1] + 1) for pair in ends))


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
