"""The CPUs that this process may use."""

import os
from contextlib import suppress
from pathlib import Path


def usable_cpus(
    groups: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")
) -> int:
    """Return the CPUs by affinity and by the CPU quota of the process's control group (v2)."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with suppress(OSError, ValueError):  # no such group, or no quota: `max`
        group = own.read_text("utf-8").rpartition("0::/")[2].strip()
        quota, period = map(int, (groups / group / "cpu.max").read_text("utf-8").split())
        cpus = min(cpus, quota // period)
    return max(1, cpus)
