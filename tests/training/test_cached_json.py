"""Results that are kept as JSON files."""

from pathlib import Path

import pytest

from model.errors import RunError
from training.cached_json import cached_json, require_same_settings


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
