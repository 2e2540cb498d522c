"""Records of measurements, and what the issue's table asks of them: ratios within a repeat, then their median.

A record is a flat dictionary: ``repeat``, ``workload``, ``contestant``, ``measure`` and figures. Ratios are taken
within one repeat, where both contestants met the same minute of the machine.
"""

import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Record = dict[str, Any]
NAIVE = ("naive", "naive-2-threads")
SHORT, LONG = 10, 5000  # characters of context that are compared
HALF, BUSY = 0.5, 0.7  # of saturation


@dataclass(frozen=True, slots=True)
class Spread:
    """The median of some repeats, with the least and the greatest."""

    median: float
    least: float
    greatest: float
    repeats: int

    @classmethod
    def of(cls, values: Iterable[float | None]) -> "Spread | None":
        """Of those values that are there; None if none is."""
        found = [value for value in values if value is not None and math.isfinite(value)]
        return cls(statistics.median(found), min(found), max(found), len(found)) if found else None


@dataclass(frozen=True, slots=True)
class Promise:
    """One row of the table of what must be shown.

    Attributes:
        text: what is measured.
        better: which direction is good.
        floor: what must be reached.
        aim: what should be.
        unit: behind the figures.
        value: the figure in one repeat's records, or None where something is missing.
    """

    text: str
    better: Literal["more", "less"]
    floor: float
    aim: float
    unit: str
    value: Callable[["Repeat"], float | None]

    def verdict(self, measured: Spread | None) -> str:
        """``aim``, ``floor``, ``missed``, or ``not measured``; by the median."""
        if measured is None:
            return "not measured"
        sign = 1 if self.better == "more" else -1
        if sign * measured.median >= sign * self.aim:
            return "aim"
        return "floor" if sign * measured.median >= sign * self.floor else "missed"


class Repeat:
    """The records of one repeat."""

    def __init__(self, records: Iterable[Record]) -> None:
        self._records = list(records)

    def value(self, figure: str, **where: Any) -> float | None:
        """The *figure* of the one record with these values; None where there is no such record or figure."""
        for record in self._records:
            if all(record.get(key) == value for key, value in where.items()):
                found = record.get(figure)
                return None if found is None else float(found)
        return None

    def throughput(self, workload: str, contestant: str) -> float | None:
        """Answers a second at saturation."""
        return self.value(
            "per_second", measure="saturation", workload=workload, contestant=contestant
        )

    def latency(
        self, percentile: str, contestant: str, share: float, of: str | None = None
    ) -> float | None:
        """A percentile, in milliseconds, of the keystroke trace at a *share* of the saturation of *of*, or its own."""
        where = {"measure": "open_loop", "workload": "keystrokes", "contestant": contestant}
        return self.value(percentile, share=share, of=of or contestant, **where)

    def context(self, characters: int) -> float | None:
        """Lacuna's median latency, in milliseconds, after so many characters."""
        return self.value("p50_ms", measure="context", contestant="lacuna", characters=characters)


def ratio(numerator: float | None, denominator: float | None) -> float | None:
    """None where either is missing or nothing is divided by."""
    return numerator / denominator if numerator is not None and denominator else None


def _best_naive(repeat: Repeat) -> float | None:
    return max(filter(None, (repeat.throughput("cold", name) for name in NAIVE)), default=None)


def _added(repeat: Repeat) -> float | None:
    ours = repeat.latency("p50_ms", "lacuna", HALF)
    theirs = repeat.latency("p50_ms", "reference", HALF, of="lacuna")
    return ours - theirs if ours is not None and theirs is not None else None


def _tail(repeat: Repeat, contestant: str) -> float | None:
    return ratio(
        repeat.latency("p99_ms", contestant, BUSY), repeat.latency("p50_ms", contestant, BUSY)
    )


PROMISES = (
    Promise(
        "keystroke trace: saturation throughput / reference",
        "more",
        0.3,
        0.7,
        "×",
        lambda r: ratio(
            r.throughput("keystrokes", "lacuna"), r.throughput("keystrokes", "reference")
        ),
    ),
    Promise(
        "keystroke trace: p50 added over the reference at half load",
        "less",
        1.5,
        0.5,
        " ms",
        _added,
    ),
    Promise(
        "p50 at 5,000 characters of context / at 10",
        "less",
        1.3,
        1.05,
        "×",
        lambda r: ratio(r.context(LONG), r.context(SHORT)),
    ),
    Promise(
        "cold 20-token `/predict`: throughput / naive torch fp32",
        "more",
        8,
        20,
        "×",
        lambda r: ratio(r.throughput("cold", "lacuna"), _best_naive(r)),
    ),
    Promise(
        "cold 20-token `/predict`: throughput / LitServe",
        "more",
        4,
        10,
        "×",
        lambda r: ratio(r.throughput("cold", "lacuna"), r.throughput("cold", "litserve")),
    ),
    Promise(
        "`/cloze` 50 tokens: throughput / fill-mask on BERT-base",
        "more",
        8,
        20,
        "×",
        lambda r: ratio(r.throughput("cloze", "lacuna"), r.throughput("cloze", "fill-mask")),
    ),
    Promise(
        "p99 / p50 at 70 % of saturation, against the reference's own",
        "less",
        2,
        1.3,
        "×",
        lambda r: ratio(_tail(r, "lacuna"), _tail(r, "reference")),
    ),
    Promise(
        "start to first answer",
        "less",
        2.5,
        1,
        " s",
        lambda r: r.value("seconds", measure="start", contestant="lacuna"),
    ),
    Promise(
        "peak RSS after the whole benchmark",
        "less",
        350,
        200,
        " MB",
        lambda r: r.value("peak_mb", measure="memory", contestant="lacuna"),
    ),
)


def by_repeat(records: Sequence[Record]) -> list[Repeat]:
    """The records of each repeat, in order."""
    numbers = sorted({record["repeat"] for record in records})
    return [
        Repeat(record for record in records if record["repeat"] == number) for number in numbers
    ]


def spread(records: Sequence[Record], figure: str, **where: Any) -> Spread | None:
    """Over all repeats, a *figure* of the records with these values."""
    return Spread.of(repeat.value(figure, **where) for repeat in by_repeat(records))


def promised(records: Sequence[Record]) -> list[tuple[Promise, Spread | None]]:
    """Each promise with what was measured. Peak memory only grows, so of it the greatest stands for all repeats."""
    rows = []
    for promise in PROMISES:
        measured = Spread.of(promise.value(repeat) for repeat in by_repeat(records))
        if measured is not None and promise.unit == " MB":
            measured = Spread(
                measured.greatest, measured.least, measured.greatest, measured.repeats
            )
        rows.append((promise, measured))
    return rows
