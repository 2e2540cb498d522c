"""A service under attack: started under a limit of memory and watched from outside.

A second process watches it, which no attack delays: ``python -m benchmarks.target PORT PID LIMIT``
asks /livez, keeps the peak of the resident set, and writes both when its standard input ends.
"""

import http.client
import json
import os
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from benchmarks.processes import HOST, ROOT, Server, exchange, free_port
from benchmarks.systems import CHECKPOINT, System
from service.auth import hash_key

LIMIT_BYTES = 1 << 30
# The keys of the attacked service, by the name of their owner.
KEYS = {name: f"the-key-of-{name}-0123456789" for name in ("honest", "hostile", "admin")}
# The longest time that /livez may take.
LIVE_SECONDS = 1.0
_LOOK_SECONDS, _PROBE_SECONDS = 0.02, 0.2
_ENTER = 'echo $$ > "$1" || exit 3; [ "$2" = 0 ] || ulimit -n "$2"; shift 2; exec "$@"'


class FellError(Exception):
    """The attack succeeded; the message says how."""


@dataclass(slots=True)
class Target:
    """A running service. *figures* are those of the attack; they are printed and kept."""

    server: Server
    folder: Path  # of its checkpoint, and of files of the attack
    metrics_port: int
    system: System
    figures: dict[str, Any] = field(default_factory=dict)

    @property
    def checkpoint(self) -> Path:
        """The configured checkpoint, a link."""
        return self.folder / "checkpoint"

    def cpu_seconds(self) -> float:
        """Return the CPU time of the service itself, to a microsecond."""
        return time.clock_gettime((~self.server.first.pid << 3) | 2)

    def resident_mib(self) -> float:
        """Return the resident set of the service itself."""
        return memory_mib(self.server.first.pid, "VmRSS")

    def ask(
        self, path: str, body: Any = None, key: str = "", timeout: float = 60
    ) -> tuple[int, bytes, dict[str, str]]:
        """GET, or POST *body* as JSON with the key of that owner: status, body and headers.

        The status is 0 if the connection broke or nothing came within *timeout* seconds.
        """
        headers = {"Authorization": f"Bearer {KEYS[key]}"} if key else {}
        content = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        method = "GET" if body is None else "POST"
        try:
            return exchange(self.server.port, method, path, content, headers, timeout)
        except (OSError, http.client.HTTPException):
            return 0, b"", {}

    def cpu_of(self, path: str, body: Any, key: str = "", timeout: float = 60) -> tuple[int, float]:
        """Return the status of one request, and the CPU seconds until the service rests again."""
        before = self.cpu_seconds()
        status, _, _ = self.ask(path, body, key, timeout)
        return status, self.rest(timeout) - before

    def rest(self, seconds: float) -> float:
        """Wait until the service uses no CPU, *seconds* at most; return its CPU time so far."""
        end, last = time.monotonic() + seconds, -1.0
        with suppress(OSError):  # the process has ended
            while (now := self.cpu_seconds()) - last > 0.003 and time.monotonic() < end:
                last = now
                time.sleep(0.05)
        return max(now, last)

    def must_settle(self, start_mib: float, margin_mib: float, seconds: float = 20) -> None:
        """Wait for the resident set to come back to within *margin_mib* of the start.

        Raises:
            FellError: it did not within *seconds*.
        """
        end = time.monotonic() + seconds
        while time.monotonic() < end and self.resident_mib() > start_mib + margin_mib:
            time.sleep(0.2)
        after = self.figures["after_mib"] = round(self.resident_mib())
        if after > start_mib + margin_mib:
            raise FellError(f"keeps {after} MiB; {start_mib:.0f} at the start")


@contextmanager
def limited(descriptors: int = 0) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield the kind of limit on memory, and a command prefix that puts a process under it.

    The limit is a memory control group (v1 or v2) without swap if one can be made. Otherwise the
    watch kills the process whose resident set grows beyond the limit. *descriptors* is the
    process's limit of open files, 0 for the one of this process.
    """
    group = _new_group()
    entry = str(group / "cgroup.procs") if group else os.devnull
    prefix = ("sh", "-c", _ENTER, "sh", entry, str(descriptors))
    try:
        yield ("control group" if group else "watch of the resident set"), prefix
    finally:
        if group:
            end = time.monotonic() + 5
            while group.exists() and time.monotonic() < end:
                with suppress(OSError):  # its last process is still ending
                    group.rmdir()


def _new_group() -> Path | None:
    root = Path("/sys/fs/cgroup")
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, kinds, own = line.split(":", 2)
        if "memory" in kinds.split(","):
            base, limits = root / "memory", ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes")
            values = (LIMIT_BYTES, LIMIT_BYTES)
        elif not kinds and (root / "cgroup.controllers").exists():
            base, limits, values = root, ("memory.max", "memory.swap.max"), (LIMIT_BYTES, 0)
        else:
            continue
        group = base / own.lstrip("/") / f"lacuna-attack-{os.getpid()}-{time.monotonic_ns()}"
        try:
            group.mkdir()
        except OSError:
            continue
        try:
            for name, value in zip(limits, values, strict=True):
                (group / name).write_text(str(value))
        except OSError:
            group.rmdir()
        else:
            return group
    return None


@contextmanager
def attacked(
    system: System,
    folder: Path,
    cores: Sequence[int],
    keys: bool = False,
    descriptors: int = 0,
    own_metrics_port: bool = False,
) -> Iterator[Target]:
    """Run a fresh service under the limit for as long as the block lasts.

    The target's figures then also have ``limit``, ``peak_mib`` and ``livez_seconds``.

    Raises:
        FellError: it died, or /livez was late or not 200, whatever the attack itself found.
    """
    checkpoint = folder / "checkpoint"
    checkpoint.symlink_to(system.checkpoint or system.directory / CHECKPOINT)
    metrics_port = free_port()
    options = ["--metrics-port", str(metrics_port)] if own_metrics_port else []
    if keys:
        entries = [
            f'[[key]]\nname = "{name}"\nsha256 = "{hash_key(key.encode()).hex()}"\n'
            f"admin = {json.dumps(name == 'admin')}\n"
            for name, key in KEYS.items()
        ]
        file = folder / "keys.toml"
        file.write_text("\n".join(entries))
        file.chmod(0o600)
        options += ["--keys-file", str(file)]
    with limited(descriptors) as (kind, prefix):
        started = replace(system, prefix=prefix, checkpoint=checkpoint)
        server = started.start(cores, folder, *options)
        try:
            server.wait_until_answering("/readyz")
            target = Target(server, folder, metrics_port, system)
            target.figures["limit"] = kind
            for path in ("/predict", "/cloze", "/score"):  # what the first ones leave is no growth
                target.ask(path, {"text": "How are [MASK] "}, "honest" if keys else "")
            with watched(target):
                yield target
        finally:
            server.stop()


@contextmanager
def watched(target: Target) -> Iterator[None]:
    """Watch *target* from another process while the block lasts; raise `FellError` as above."""
    pid, port = target.server.first.pid, target.server.inner_ports[0]
    limit = 0 if target.figures["limit"] == "control group" else LIMIT_BYTES
    command = [sys.executable, "-m", "benchmarks.target", str(port), str(pid), str(limit)]
    watch = subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    finding, seen = None, {"figures": {"peak_mib": 0}, "failures": []}
    try:
        if watch.stdout:
            watch.stdout.readline()  # it watches
        yield
    except FellError as error:
        finding = error
    finally:
        seen = json.loads(watch.communicate()[0])
        target.figures |= seen["figures"]
    if (status := target.server.first.poll()) is not None:
        peak = seen["figures"]["peak_mib"]
        raise FellError(f"the process ended with status {status} at {peak} MiB")
    if finding:
        raise finding
    if seen["failures"]:
        raise FellError(f"/livez: {seen['failures'][0]} ({len(seen['failures'])} times)")


def memory_mib(pid: int, field: str) -> float:
    """Return a line of /proc/PID/status, such as VmRSS or VmHWM, in MiB; 0 if it has ended."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith(field):
                return int(line.split()[1]) / 1024
    return 0.0


def _seconds_without_cpu(pid: int) -> float:
    """Return how long a process's first thread, the event loop, was ready and had no CPU."""
    with suppress(OSError):
        return int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) / 1e9
    return 0.0


def raise_descriptor_limit() -> None:
    """Allow this process as many open files as it may have."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def watch(port: int, pid: int, limit_bytes: int) -> dict[str, Any]:
    """Watch until standard input ends; kill the process above *limit_bytes*, if not 0."""
    failures: list[str] = []
    peak = slowest = 0.0
    ended = threading.Event()

    def probe() -> None:
        nonlocal slowest
        while not ended.wait(_PROBE_SECONDS):
            began, waited, what = time.monotonic(), _seconds_without_cpu(pid), ""
            connection = http.client.HTTPConnection(HOST, port, timeout=10 * LIVE_SECONDS)
            try:
                connection.request("GET", "/livez")
                status = connection.getresponse().status
                what = "" if status == 200 else f"status {status}"
            except (OSError, http.client.HTTPException) as error:
                what = type(error).__name__
            finally:
                connection.close()
            # Other work on the machine is not the attack's.
            took = time.monotonic() - began - (_seconds_without_cpu(pid) - waited)
            slowest = max(slowest, took)
            if what or took > LIVE_SECONDS:
                failures.append(f"{what or 'late'} after {took:.1f} s")

    prober = threading.Thread(target=probe)
    prober.start()
    reader = threading.Thread(target=sys.stdin.read)
    reader.start()
    print("watching", flush=True)
    while reader.is_alive():
        peak = max(peak, memory_mib(pid, "VmHWM"))
        if limit_bytes and memory_mib(pid, "VmRSS") > limit_bytes >> 20:
            os.kill(pid, 9)
        time.sleep(_LOOK_SECONDS)
    ended.set()
    prober.join()
    figures = {"peak_mib": round(peak), "livez_seconds": round(slowest, 2)}
    return {"figures": figures, "failures": failures}


if __name__ == "__main__":
    print(json.dumps(watch(*map(int, sys.argv[1:]))))
