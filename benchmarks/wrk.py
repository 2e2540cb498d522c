"""Throughput at saturation: wrk keeps a number of connections busy, each sending as soon as it is answered."""

import json
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.process import HOST

_SCRIPT = Path(__file__).with_name("bodies.lua")
# A slow contestant with a long list is not an error.
_TIMEOUT_SECONDS = 60


class WrkError(Exception):
    """wrk is missing or failed."""


@dataclass(frozen=True, slots=True)
class Saturation:
    """What wrk saw.

    Attributes:
        answered: answers, whatever their status.
        seconds: how long it asked.
        sent: requests sent; more than there were bodies means that bodies came again.
        failures: answers with a status other than 2xx or 3xx, and connections that failed or timed out.
    """

    answered: int
    seconds: float
    sent: int
    failures: int

    @property
    def per_second(self) -> float:
        """Good answers a second."""
        return max(0, self.answered - self.failures) / self.seconds


def saturate(
    port: int, path: str, bodies: Sequence[bytes], connections: int, seconds: float
) -> Saturation:
    """Ask as fast as *connections* connections can, for *seconds*, with *bodies* in order.

    Bodies leave in order, over whichever connection is free. With 64 typists in turn and at most 32 requests on their
    way, a typist's next key press leaves 64 requests after the last one: once that has been answered, unless one
    answer is overtaken by 32 later ones.

    Raises:
        WrkError: wrk is not installed, or failed.
    """
    with tempfile.NamedTemporaryFile("wb", suffix=".jsonl") as file:
        file.write(b"\n".join(bodies) + b"\n")
        file.flush()
        command = [
            *(
                "wrk",
                "--threads",
                "1",
                "--connections",
                str(connections),
                "--duration",
                f"{max(1, round(seconds))}s",
            ),
            *("--timeout", f"{_TIMEOUT_SECONDS}s", "--script", str(_SCRIPT)),
            *(f"http://{HOST}:{port}{path}", "--", file.name),
        ]
        try:
            result = subprocess.run(command, capture_output=True, text=True, check=False)
        except FileNotFoundError:
            raise WrkError("wrk is not installed; on Debian: apt-get install wrk") from None
    if result.returncode:
        raise WrkError(f"wrk ended with status {result.returncode}: {result.stderr[-500:]}")
    return parse(result.stdout)


def parse(output: str) -> Saturation:
    """Read what the script wrote at the end.

    Raises:
        WrkError: it wrote nothing of the kind.
    """
    for line in output.splitlines():
        if line.startswith('{"answered"'):
            found: dict[str, Any] = json.loads(line)
            failures = found["bad_status"] + found["broken"]
            return Saturation(
                found["answered"], found["microseconds"] / 1e6, found["sent"], failures
            )
    raise WrkError(f"wrk reported nothing: {output[-500:]}")


def version() -> str:
    """The version of wrk.

    Raises:
        WrkError: it is not installed.
    """
    if shutil.which("wrk") is None:
        raise WrkError("wrk is not installed; on Debian: apt-get install wrk")
    first = subprocess.run(
        ["wrk", "--version"], capture_output=True, text=True, check=False
    ).stdout.split(" [")[0]
    return first.removeprefix("wrk ").strip()
