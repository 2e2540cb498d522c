"""``python -m benchmarks.operations``: every drill, in some 25 minutes; what each measured, as JSON, part by part.

Parts that are measured again replace their own figures in the file and no others, so that the soak can be made at
another time. ``--report`` measures nothing and writes the table in docs/operations.md from the file.
"""

import argparse
import datetime
import json
import os
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import drills, fuzz, machine, mutations, operations_report, soak, workloads
from benchmarks.contestants import ROOT
from benchmarks.lacuna import Place, pick_cores
from benchmarks.operations_report import LONG_SECONDS, ROWS, SOAKS
from model.checkpoint import load_checkpoint, revise_checkpoint
from research.toy_corpus import write_corpus

_TOY_LINES = 4000
_MINUTE = 60.0


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much of everything."""

    seconds: float = 15.0
    load_seconds: float = 120.0
    prompts: int = 1000
    reloads: int = 20
    restarts: int = 5
    overload_seconds: float = 9.0
    overload_rounds: int = 5
    faults: tuple[str, ...] = tuple(drills.FAULTS.values())
    fuzz_cases: int = 20_000
    mutations: int = 600


QUICK = Sizes(
    seconds=1.0,
    load_seconds=2.0,
    prompts=20,
    reloads=2,
    restarts=1,
    overload_seconds=1.0,
    overload_rounds=1,
    faults=("tests/service/test_protocol.py",),
    fuzz_cases=120,
    mutations=21,
)


class Measurements:
    """The drills as parts, each a function of nothing.

    Args:
        place: where.
        sizes: how much.
        soak_seconds: how long the soak lasts; that without reloads takes `_without_reloads` of it.
        text: a directory of ``*.txt``; None for text that the project writes itself.
    """

    def __init__(self, place: Place, sizes: Sizes, soak_seconds: float, text: Path | None) -> None:
        self._place = place
        self._sizes = sizes
        self.checkpoint = load_checkpoint(place.checkpoint)
        if text is None:
            text = place.folder / "text"
            text.mkdir()
            write_corpus(text, _TOY_LINES, seed=1)
        self._lines = workloads.read_lines(text)
        self._load = drills.Load(self._lines)
        copy = revise_checkpoint(
            place.checkpoint, card="# Another edition\n", output=place.folder / "another"
        )
        self._directories = [place.checkpoint, copy.directory]
        self._capacity: float | None = None
        self.parts: Mapping[str, Callable[[], dict[str, Any]]] = {
            "capacity": self._measure_capacity,
            "prefix": lambda: drills.cached_prefix(place, self._lines[: sizes.prompts]),
            "load": self._measure_load,
            "overload_keystrokes": lambda: self._overload("/predict"),
            "overload_blanks": lambda: self._overload("/cloze"),
            "reloads": lambda: drills.reloads(place, self._directories, self._lines, sizes.reloads),
            "restarts": lambda: drills.restarts(place, self._lines, sizes.restarts),
            "faults": lambda: drills.faults(sizes.faults, place.folder),
            "fuzz": self._fuzz,
            "mutations": lambda: mutations.report(
                list(mutations.run(place.checkpoint, sizes.mutations, seed=1))
            ),
            "soak": lambda: soak.run(place, self._lines, soak_seconds, self._directories, seed=1),
            "soak_without_reloads": lambda: soak.run(
                place, self._lines, _without_reloads(soak_seconds), (), seed=1
            ),
        }

    def _measure_capacity(self) -> dict[str, Any]:
        found = drills.capacity(self._place, self._load, self._sizes.seconds)
        self._capacity = found["answers_per_second"]["/predict"]
        return found

    def _measure_load(self) -> dict[str, Any]:
        if self._capacity is None:
            self._measure_capacity()
        assert self._capacity is not None  # noqa: S101 - just measured
        return drills.held_load(self._place, self._load, self._capacity, self._sizes.load_seconds)

    def _overload(self, route: str) -> dict[str, Any]:
        seconds, rounds = self._sizes.overload_seconds, self._sizes.overload_rounds
        return drills.overload(self._place, self._load, route, seconds, rounds)

    def _fuzz(self) -> dict[str, Any]:
        with self._place.serving("--keys-file", str(self._place.keys_file())) as server:
            return fuzz.run(server, self._sizes.fuzz_cases, seed=1)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, or write the table.

    Returns:
        0; 1 where something failed that must not (`operations_report.failed`).
    """
    options = _parse(arguments)
    if options.report:
        operations_report.write(options.output, operations_report.DOCUMENT)
        return 0
    cores, others = pick_cores()
    os.sched_setaffinity(0, others)
    with tempfile.TemporaryDirectory() as folder:
        place = Place(options.checkpoint.resolve(), cores, Path(folder))
        sizes = QUICK if options.quick else Sizes()
        measured = Measurements(place, sizes, options.soak_minutes * _MINUTE, options.text)
        result: dict[str, Any] = {"format": 1, "parts": {}}
        if options.output.exists():
            result = json.loads(options.output.read_text("utf-8"))
        for name in options.parts or [
            name for name in measured.parts if name not in SOAKS or options.soak_minutes
        ]:
            figures = measured.parts[name]()
            result["parts"][name] = _provenance(measured, options.quick) | figures
            options.output.parent.mkdir(parents=True, exist_ok=True)
            options.output.write_text(
                json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
            )
            print(f"{name}: {json.dumps(figures)[:400]}", flush=True)
    failures = operations_report.failed(result["parts"])
    print("\n".join(failures) or "nothing failed", flush=True)
    return int(bool(failures))


def _without_reloads(soak_seconds: float) -> float:
    """A third of the soak, but long enough to be judged where that is."""
    return max(soak_seconds / 3, min(soak_seconds, LONG_SECONDS))


def _provenance(measured: Measurements, quick: bool) -> dict[str, Any]:
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "quick": quick,
        "checkpoint": f"{measured.checkpoint.name} {measured.checkpoint.version}",
        "machine": machine.basis(sys.executable),
    }


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.operations", description=(__doc__ or "").partition("\n")[0]
    )
    add = parser.add_argument
    add("--checkpoint", type=Path, default=ROOT / "model" / "pretrained" / "default", metavar="DIR")
    add(
        "--text", type=Path, metavar="DIR", help="*.txt files, a sentence a line; default: own text"
    )
    add(
        "--parts", nargs="+", metavar="PART", choices=[*ROWS], help=f"only these: {', '.join(ROWS)}"
    )
    add(
        "--soak-minutes",
        type=float,
        default=0.0,
        help="how long the soak lasts (default: 0, none); a third of it more without reloads",
    )
    add("--quick", action="store_true", help="little of everything: whether it works, not how well")
    add(
        "--output",
        type=Path,
        metavar="FILE",
        help="figures, to be added to; default: docs/results/operations.json",
    )
    add(
        "--report",
        action="store_true",
        help="measure nothing; write the table in docs/operations.md",
    )
    options = parser.parse_args(arguments)
    if set(options.parts or ()) & set(SOAKS) and not options.soak_minutes:
        parser.error("a soak needs --soak-minutes")
    if options.quick and not options.output:
        parser.error("--quick needs --output: the committed figures are of whole drills")
    options.output = options.output or operations_report.FIGURES
    return options


if __name__ == "__main__":
    sys.exit(main())
