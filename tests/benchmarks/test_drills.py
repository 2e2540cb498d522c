"""The drills count what really happened."""

from pathlib import Path

import pytest

from benchmarks.drills import inject


def test_faults_are_those_of_one_file(tmp_path: Path) -> None:
    """Tests that pass are faults survived, skipped ones were not injected, and a pytest that dies has no results."""
    some, deadly = tmp_path / "test_some.py", tmp_path / "test_deadly.py"
    some.write_text(
        "import pytest\n"
        "def test_good(): pass\n"
        "def test_bad(): raise ValueError\n"
        "@pytest.mark.skip\n"
        "def test_absent(): pass\n",
        encoding="utf-8",
    )
    deadly.write_text("import os\ndef test_deadly(): os._exit(0)\n", encoding="utf-8")
    assert inject(str(some), tmp_path) == {"injected": 2, "survived": 1}
    with pytest.raises(RuntimeError, match=r"test_deadly\.py: pytest ended with status 0"):
        inject(str(deadly), tmp_path)


def test_a_file_without_tests_is_no_success(tmp_path: Path) -> None:
    """0 of 0 faults survived would look like all of them."""
    empty = tmp_path / "test_empty.py"
    empty.write_text("", encoding="utf-8")
    with pytest.raises(RuntimeError, match="pytest ended with status 5"):
        inject(str(empty), tmp_path)
