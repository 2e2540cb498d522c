"""Results that are kept as JSON files."""

from pathlib import Path

import pytest

from model.errors import RunError
from training.cached_json import cached_json, require_same_settings, write_json


def test_a_result_is_made_once(tmp_path: Path) -> None:
    """A kept result is read, not made."""
    path = tmp_path / "new" / "a.json"
    assert cached_json(path, lambda: {"a": 1}) == {"a": 1}
    assert cached_json(path, lambda: {"a": 2}) == {"a": 1}


def test_other_settings_are_refused(tmp_path: Path) -> None:
    """Equal settings pass, whatever their order."""
    require_same_settings(tmp_path, {"a": 1, "b": 2})
    require_same_settings(tmp_path, {"b": 2, "a": 1})
    with pytest.raises(RunError, match="other text or options"):
        require_same_settings(tmp_path, {"a": 1})


def test_a_folder_that_cannot_be_made_is_a_named_error(tmp_path: Path) -> None:
    """The error names the file."""
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(RunError, match=r"a\.json: cannot write"):
        write_json(tmp_path / "file" / "a.json", {})
