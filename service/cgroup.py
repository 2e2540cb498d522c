"""What a container's control group allots: CPUs and memory. Reads version 2, or version 1 where the kernel has that."""

import math
import os
from pathlib import Path

# As a container sees it: its own group is the root.
ROOT = Path("/sys/fs/cgroup")


def available_cpus(root: Path = ROOT) -> int:
    """CPUs that this process may use: by affinity, and by the control group's quota, rounded down, at least 1."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _words(root / "cpu.max") or [
        *_words(root / "cpu" / "cpu.cfs_quota_us"),
        *_words(root / "cpu" / "cpu.cfs_period_us"),
    ]
    try:
        cpus = int(quota[0]) / int(quota[1])  # microseconds by microseconds
    except (IndexError, ValueError, ZeroDivisionError):  # no group, or `max`
        return allowed
    return max(1, min(allowed, math.floor(cpus))) if cpus > 0 else allowed  # version 1 says -1 where there is no quota


def memory_limit(root: Path = ROOT) -> int | None:
    """Bytes that the control group may use; None without a limit. Version 1 gives a number past any memory instead."""
    limit = _words(root / "memory.max") or _words(root / "memory" / "memory.limit_in_bytes")
    return int(limit[0]) if limit and limit[0].isdecimal() else None


def _words(path: Path) -> list[str]:
    try:
        return path.read_text("ascii").split()
    except (OSError, ValueError):
        return []
