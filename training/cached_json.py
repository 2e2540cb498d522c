"""Keep the results of long work as JSON files, so that an interrupted command continues."""

import hashlib
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from model.errors import RunError
from model.files import write_atomically

_SHOWN_CHARACTERS = 40


def cached_json(path: Path, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return the JSON of *path*; call *make* and write it first if the file is missing."""
    if not path.exists():
        write_json(path, make())
    return dict(json.loads(path.read_text(encoding="utf-8")))


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Write a JSON file atomically; make its folder if it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, _to_json(values).encode())


def report_json(path: Path, values: dict[str, Any]) -> None:
    """Write a JSON file and print it."""
    write_json(path, values)
    sys.stdout.write(_to_json(values))


def check_writable(path: Path) -> None:
    """Make the folder of a file before long work; OSError if no file can be written there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=path.parent):
        pass


def require_same_settings(directory: Path, settings: dict[str, Any]) -> None:
    """Record the settings that results in *directory* depend on, or compare them with the record.

    Raises:
        RunError: the directory holds results of other settings.
    """
    settings = json.loads(json.dumps(settings, default=str))  # lists in place of tuples
    before = cached_json(directory / "settings.json", lambda: settings)
    different = [
        f"{name.replace('_', '-')} was {_short(before.get(name))}, is {_short(settings.get(name))}"
        for name in sorted(before.keys() | settings.keys())
        if before.get(name) != settings.get(name)
    ]
    if different:
        raise RunError(
            f"{directory} has results of other settings: {'; '.join(different)}; go on with the"
            " earlier ones, or name another --output"
        )


def _short(value: Any) -> str:
    """Return a setting for a message; of a long one, such as a list of files, its hash."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _SHOWN_CHARACTERS else hashlib.sha256(text.encode()).hexdigest()[:8]


def _to_json(values: dict[str, Any]) -> str:
    return json.dumps(values, ensure_ascii=False, indent=1) + "\n"
