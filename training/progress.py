"""Progress on standard error: a bar on a terminal, elsewhere a line now and then."""

import sys
from typing import Any

from tqdm import tqdm

LINE_SECONDS = 30.0
_LINE = (
    "{desc}: {n_fmt} of {total_fmt} {unit}, {rate_fmt}, {elapsed} so far, {remaining} left{postfix}"
)


def progress_bar(
    description: str, total: int | None = None, unit: str = "it", initial: int = 0, **options: Any
) -> "tqdm[Any]":
    """Return a bar of *total* units, of which *initial* are done; *options* are those of tqdm.

    Give ``refresh=False`` to `set_postfix_str`, which else writes another line.
    """
    settings = {"desc": description, "total": total, "unit": unit, "initial": initial, **options}
    if sys.stderr.isatty():
        return tqdm(**settings, mininterval=0.5, dynamic_ncols=True)
    return _Lines(**settings, mininterval=LINE_SECONDS, leave=False, bar_format=_LINE)


def write_line(line: str) -> None:
    """Write a line above the bars of a terminal, or between the lines elsewhere."""
    if sys.stderr.isatty():
        tqdm.write(line, file=sys.stderr)
    else:
        sys.stderr.write(f"{line}\n")
        sys.stderr.flush()


class _Lines(tqdm):  # type: ignore[type-arg]
    """A bar that writes whole lines."""

    def display(self, msg: str | None = None, pos: int | None = None) -> None:  # noqa: ARG002 (tqdm's)
        """Write the state as a line; write nothing if tqdm wants the line removed."""
        if text := (str(self) if msg is None else msg):
            self.fp.write(f"{text}\n")
            self.fp.flush()
