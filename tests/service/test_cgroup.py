"""Tests of service/cgroup.py."""

import os
from pathlib import Path

import pytest

from service.cgroup import available_cpus, memory_limit


def group(root: Path, files: dict[str, str]) -> Path:
    """A control group with these *files*."""
    for name, content in files.items():
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text(content)
    return root


def version_1(quota: str) -> dict[str, str]:
    """The CPU files of a version 1 group with a period of a tenth of a second."""
    return {"cpu/cpu.cfs_quota_us": f"{quota}\n", "cpu/cpu.cfs_period_us": "100000\n"}


@pytest.mark.parametrize(
    ("files", "cpus"),
    [
        ({}, 64),
        ({"cpu.max": "max 100000\n"}, 64),
        ({"cpu.max": "6400000 100000\n"}, 64),
        ({"cpu.max": "9900000 100000\n"}, 64),
        ({"cpu.max": "250000 100000\n"}, 2),
        ({"cpu.max": "50000 100000\n"}, 1),
        ({"cpu.max": "nonsense"}, 64),
        (version_1("-1"), 64),
        (version_1("300000"), 3),
        (version_1("50000"), 1),
        ({"cpu/cpu.cfs_quota_us": "300000\n"}, 64),
        ({"cpu.max": "200000 100000\n", **version_1("300000")}, 2),
    ],
)
def test_cpus_follow_the_control_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], cpus: int
) -> None:
    """The quota of either version bounds the 64 CPUs of the machine, rounded down but at least 1."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)), raising=False)
    assert available_cpus(group(tmp_path, files)) == cpus


def test_cpus_follow_affinity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that is bound to fewer CPUs than its quota has those."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 5}, raising=False)
    assert available_cpus(group(tmp_path, {"cpu.max": "800000 100000"})) == 2


@pytest.mark.parametrize(
    ("files", "limit"),
    [
        ({}, None),
        ({"memory.max": "max\n"}, None),
        ({"memory.max": "268435456\n"}, 1 << 28),
        ({"memory/memory.limit_in_bytes": "268435456\n"}, 1 << 28),
        ({"memory.max": "1048576\n", "memory/memory.limit_in_bytes": "268435456\n"}, 1 << 20),
    ],
)
def test_memory_follows_the_control_group(tmp_path: Path, files: dict[str, str], limit: int | None) -> None:
    """The limit of either version in bytes, and None where there is none."""
    assert memory_limit(group(tmp_path, files)) == limit
