"""The drills count what really happened."""

import math
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest

from benchmarks.drills import OVERLOAD, Load, goodput, inject
from benchmarks.open_loop import Outcome
from benchmarks.workloads import TYPISTS


def test_goodput_from_sending_is_that_of_the_server() -> None:
    """A client that is late itself gets no answer in time by its schedule; by its sending, what the server answered."""
    times = [float(second) for second in range(30)]
    waits = [1.75] * 20 + [math.inf] * 10
    latencies = [2.25] * 19 + [math.inf] * 11
    found = goodput(
        times, Outcome(latencies, [], 30.0, Counter({200: 19}), waits, abandoned=10), 30.0
    )
    assert (found["scheduled"], found["sent"], found["abandoned"], found["unanswered"]) == (
        30,
        20,
        10,
        1,
    )
    # After the first ten seconds eleven were sent, the last of which nobody answered.
    assert (found["sent_per_second"], found["goodput_from_sending_per_second"]) == (
        11 / 20,
        10 / 20,
    )
    assert (found["offered_per_second"], found["goodput_per_second"]) == (1, 0)
    assert (found["accepted_p99_seconds"], found["accepted_p99_from_sending_seconds"]) == (
        2.25,
        0.5,
    )


def test_goodput_of_nothing_is_none() -> None:
    """Where nobody was answered there is no slowest answer."""
    found = goodput([20.0], Outcome([math.inf], [], 30.0, Counter({429: 1}), [0.0]), 30.0)
    assert (found["goodput_per_second"], found["accepted_p99_seconds"]) == (0, None)
    assert found["accepted_p99_from_sending_seconds"] is None


def test_thinned_key_presses_are_of_every_typist() -> None:
    """One of ten is let in, whoever types it: each typist is among them, some ten key presses further each time."""
    lines = [chr(ord("\u4e00") + number) + "a" * 200 for number in range(TYPISTS)]
    texts = [
        request.rpartition(b'"text":"')[2].decode()
        for request in Load(lines).thin("/predict", 20 * TYPISTS)
    ]
    assert len(texts) == 20 * TYPISTS
    by_typist = {line[0]: [len(text) for text in texts if text[0] == line[0]] for line in lines}
    assert min(map(len, by_typist.values())) > 10
    steps = [
        later - earlier for lengths in by_typist.values() for earlier, later in pairwise(lengths)
    ]
    assert sum(steps) / len(steps) == pytest.approx(OVERLOAD, rel=0.1)


def test_questions_never_end() -> None:
    """When every line has been turned all the way round, the first one comes again."""
    taken = Load(["one two three", "天地玄黄"]).take("/cloze", 12)
    assert len(set(taken)) == 5
    assert taken[5:10] == taken[:5]


def test_faults_are_those_of_one_file(tmp_path: Path) -> None:
    """Marked tests that pass are faults survived; skipped ones were none; a pytest that dies has no results."""
    some, deadly = tmp_path / "test_some.py", tmp_path / "test_deadly.py"
    some.write_text(
        "import pytest\n"
        "def test_of_no_fault(): pass\n"
        "@pytest.mark.fault\n"
        "def test_good(): pass\n"
        "@pytest.mark.fault\n"
        "def test_bad(): raise ValueError\n"
        "@pytest.mark.fault\n"
        "@pytest.mark.skip\n"
        "def test_absent(): pass\n",
        encoding="utf-8",
    )
    deadly.write_text(
        "import os, pytest\n@pytest.mark.fault\ndef test_deadly(): os._exit(0)\n", encoding="utf-8"
    )
    assert inject(str(some), tmp_path) == {"injected": 2, "survived": 1}
    with pytest.raises(RuntimeError, match=r"test_deadly\.py: pytest ended with status 0"):
        inject(str(deadly), tmp_path)


def test_a_file_without_tests_is_no_success(tmp_path: Path) -> None:
    """0 of 0 faults survived would look like all of them."""
    empty = tmp_path / "test_empty.py"
    empty.write_text("", encoding="utf-8")
    with pytest.raises(RuntimeError, match="pytest ended with status 5"):
        inject(str(empty), tmp_path)
