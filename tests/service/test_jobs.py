"""Tests of service/jobs.py: whose text is started, and what a text took."""

from typing import Any, cast

import pytest

from service.estimate import Work
from service.jobs import LIVE_BYTES, ROUND_WORK, Job, Lines, Task


def tasks(tenant: str, count: int, in_round: int = 1, peak_bytes: int = 0) -> list[Task]:
    """Return the texts of one request."""
    works = [Work(10 * in_round, in_round)] * count
    job = Job([], works, tenant, "", 0, cast("Any", None))
    return [Task(job, n, cast("Any", None), works[n], peak_bytes) for n in range(count)]


def start(lines: Lines) -> dict[str, int]:
    """Start what may start; return the number of live texts of each tenant."""
    while lines.start_next():
        pass
    live = [task.job.tenant for task in lines.live]
    return {tenant: live.count(tenant) for tenant in live}


@pytest.mark.parametrize(
    ("in_round", "peak_bytes", "alone", "beside"),
    [
        (1, 0, 48, 12),  # texts
        (1, LIVE_BYTES // 64, 48, 12),
        (1, LIVE_BYTES // 8, 6, 1),
        (1, LIVE_BYTES, 1, 0),
        (ROUND_WORK // 8, 0, 4, 2),
        (ROUND_WORK, 0, 1, 1),
    ],
)
def test_a_tenant_leaves_room_in_the_batch(
    in_round: int, peak_bytes: int, alone: int, beside: int
) -> None:
    """Of texts, bytes and work in a round each takes a part, and some is left for a newcomer."""
    lines = Lines(64, lambda: True)
    lines.add(tasks("hog", 99, in_round, peak_bytes))
    assert start(lines) == {"hog": alone}
    lines.add(tasks("second", 99, in_round, peak_bytes))
    assert start(lines).get("second", 0) == beside
    lines.add(tasks("newcomer", 1))
    assert start(lines)["newcomer"] == 1


def test_a_tenant_alone_uses_the_whole_batch() -> None:
    """With one key, or none, texts start oldest first up to the size of the batch."""
    lines = Lines(64, lambda: False)
    lines.add(tasks("", 99, in_round=ROUND_WORK))
    assert start(lines) == {"": 64}
    assert lines.waiting == 35


def test_tenants_take_turns() -> None:
    """When places become free, tenants get one each, whatever the length of their lines."""
    lines = Lines(2, lambda: True)
    for tenant, count in (("a", 9), ("b", 2), ("c", 9)):
        lines.add(tasks(tenant, count))
    order = ""
    while task := lines.start_next():
        order += task.job.tenant
        lines.end(task)
    assert order == "abcabc" + "ac" * 7
    assert (lines.tenants, lines.waiting) == (0, 0)


def test_live_texts_share_the_seconds_of_a_round_by_their_work() -> None:
    """A text took its part of each round that it was live in."""
    lines = Lines(64, lambda: False)
    lines.add(tasks("", 1, in_round=300))
    long = lines.start_next()
    lines.worked(1.0)
    lines.add(tasks("", 1, in_round=100))
    short = lines.start_next()
    lines.worked(4.0)
    assert short and long
    assert lines.end(short) == pytest.approx(1.0)
    lines.worked(1.0)
    assert lines.end(long) == pytest.approx(1.0 + 3.0 + 1.0)
