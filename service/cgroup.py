"""What control groups allot to this process: CPUs and memory. Reads version 2, or version 1 where the kernel has that.

A limit binds every group below it, so the least one between the own group and the root holds: systemd's stands at the
unit's group. A container sees its own group as the root, and may be told of a path that only the host has: groups that
are not there say nothing.
"""

import math
import os
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
# Which groups this process is in: a line `0::PATH` of version 2, or `NUMBER:CONTROLLER,…:PATH` of version 1.
OWN = Path("/proc/self/cgroup")


def available_cpus(root: Path = ROOT, own: Path = OWN) -> int:
    """CPUs that this process may use: by affinity, and by its groups' least quota, rounded down, at least 1."""
    allowed = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    quotas = [_words(group / "cpu.max") for group in _groups(root, own, "")]
    quotas += [
        _words(group / "cpu.cfs_quota_us") + _words(group / "cpu.cfs_period_us")
        for group in _groups(root, own, "cpu")
    ]
    return max(1, math.floor(min(allowed, *map(_cpus, quotas))))


def memory_limit(root: Path = ROOT, own: Path = OWN) -> int | None:
    """Bytes that this process may use: its groups' least limit, None without one.

    Version 1 gives a number past any memory instead.
    """
    limits = [_words(group / "memory.max") for group in _groups(root, own, "")]
    limits += [_words(group / "memory.limit_in_bytes") for group in _groups(root, own, "memory")]
    return min((int(limit[0]) for limit in limits if limit and limit[0].isdecimal()), default=None)


def _groups(root: Path, own: Path, controller: str) -> list[Path]:
    """The directories from the root to the own group, of version 1's *controller* or, where it is empty, version 2."""
    names: list[str] = []
    for line in _read(own).splitlines():
        controllers, _, path = line.partition(":")[2].partition(":")
        if controller in controllers.split(","):
            names = path.strip("/").split("/")
    if ".." in names:  # outside what is mounted here
        names = []
    return [root.joinpath(controller, *names[:depth]) for depth in range(len(names) + 1)]


def _cpus(quota: list[str]) -> float:
    """CPUs of a quota and its period, both in microseconds."""
    try:
        cpus = int(quota[0]) / int(quota[1])
    except (IndexError, ValueError, ZeroDivisionError):  # no group, or `max`
        return math.inf
    return cpus if cpus > 0 else math.inf  # version 1 says -1 where there is no quota


def _words(path: Path) -> list[str]:
    return _read(path).split()


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8", "surrogateescape")  # a group may have any name
    except OSError:
        return ""
