"""Tests of service/cgroup.py."""

import os
from pathlib import Path

import pytest

from service.cgroup import available_cpus, memory_limit


def group(root: Path, files: dict[str, str]) -> Path:
    """A control group with these *files*."""
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)
    return root


def version_1(quota: str, path: str = "") -> dict[str, str]:
    """The CPU files of a version 1 group with a period of a tenth of a second."""
    return {f"cpu{path}/cpu.cfs_quota_us": f"{quota}\n", f"cpu{path}/cpu.cfs_period_us": "100000\n"}


def own(root: Path, *lines: str) -> Path:
    """What the kernel says of this process's groups; without *lines* it is in the root."""
    (root / "self").write_text("".join(f"{line}\n" for line in lines or ["0::/"]))
    return root / "self"


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
    assert available_cpus(group(tmp_path, files), own(tmp_path)) == cpus


def test_cpus_follow_affinity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that is bound to fewer CPUs than its quota has those."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 5}, raising=False)
    assert available_cpus(group(tmp_path, {"cpu.max": "800000 100000"}), own(tmp_path)) == 2


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
def test_memory_follows_the_control_group(
    tmp_path: Path, files: dict[str, str], limit: int | None
) -> None:
    """The limit of either version in bytes, and None where there is none."""
    assert memory_limit(group(tmp_path, files), own(tmp_path)) == limit


UNIT = "0::/system.slice/lacuna.service"


@pytest.mark.parametrize(
    ("files", "lines", "cpus"),
    [
        ({"system.slice/lacuna.service/cpu.max": "200000 100000\n"}, [UNIT], 2),
        (
            {
                "system.slice/lacuna.service/cpu.max": "max 100000\n",
                "system.slice/cpu.max": "300000 100000\n",
            },
            [UNIT],
            3,
        ),
        (
            {
                "system.slice/cpu.max": "200000 100000",
                "system.slice/lacuna.service/cpu.max": "300000 100000",
            },
            [UNIT],
            2,
        ),
        ({"system.slice/another.service/cpu.max": "200000 100000\n"}, [UNIT], 64),
        ({"cpu.max": "200000 100000\n"}, ["0::/of/the/host"], 2),
        (
            version_1("300000", "/system.slice/lacuna.service"),
            ["4:cpuset:/", "2:cpu,cpuacct:/system.slice/lacuna.service"],
            3,
        ),
        (
            version_1("300000", "/system.slice"),
            ["2:cpu,cpuacct:/system.slice/lacuna.service", "0::/"],
            3,
        ),
        (version_1("300000"), ["2:cpu,cpuacct:/docker/of-the-host"], 3),
    ],
)
def test_cpus_follow_the_group_of_a_unit(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    files: dict[str, str],
    lines: list[str],
    cpus: int,
) -> None:
    """The least quota between the own group and the root holds, other groups' do not, and missing files say nothing."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)), raising=False)
    assert available_cpus(group(tmp_path, files), own(tmp_path, *lines)) == cpus


@pytest.mark.parametrize(
    ("files", "lines", "limit"),
    [
        ({"system.slice/lacuna.service/memory.max": "1048576\n"}, [UNIT], 1 << 20),
        (
            {
                "system.slice/memory.max": "1048576\n",
                "system.slice/lacuna.service/memory.max": "max\n",
            },
            [UNIT],
            1 << 20,
        ),
        (
            {"system.slice/memory.max": "9\n", "system.slice/lacuna.service/memory.max": "10\n"},
            [UNIT],
            9,
        ),
        ({"system.slice/another.service/memory.max": "1048576\n"}, [UNIT], None),
        (
            {"memory/a:b/memory.limit_in_bytes": "9\n", "memory/memory.limit_in_bytes": "10\n"},
            ["4:memory:/a:b"],
            9,
        ),
        ({"memory/memory.limit_in_bytes": "9\n"}, ["4:memory:/docker/of-the-host", "0::/"], 9),
    ],
)
def test_memory_follows_the_group_of_a_unit(
    tmp_path: Path, files: dict[str, str], lines: list[str], limit: int | None
) -> None:
    """The least limit between the own group and the root holds, other groups' do not, and missing files say nothing."""
    assert memory_limit(group(tmp_path, files), own(tmp_path, *lines)) == limit


def test_a_group_outside_what_is_mounted_counts_as_the_root(tmp_path: Path) -> None:
    """A path that leads out of the mounted groups is not followed: what lies there is no group."""
    group(tmp_path, {"outside/memory.max": "9\n", "mounted/memory.max": "10\n"})
    assert memory_limit(tmp_path / "mounted", own(tmp_path, "0::/../outside")) == 10


def test_a_kernel_without_groups_limits_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where neither the groups nor the process's own are to be found, affinity alone holds."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)), raising=False)
    assert available_cpus(tmp_path / "none", tmp_path / "self") == 64
    assert memory_limit(tmp_path / "none", tmp_path / "self") is None
