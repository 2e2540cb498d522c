"""JSON to the text in it."""

import json
from collections.abc import Iterable, Iterator

from model.errors import CorpusError
from training.data.file_report import FileReport


def read_json(text: Iterable[str], report: FileReport, field: str | None) -> Iterator[str]:
    """Read the text in JSON Lines."""
    if field is None:
        raise CorpusError(
            f"{report.path}: JSON Lines need the member with the text; add --field NAME"
        )
    for number, line in enumerate("".join(text).split("\n"), 1):
        if line.strip():
            try:
                value = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise CorpusError(f"{report.path}:{number}: not JSON") from error
            found = value.get(field) if isinstance(value, dict) else None
            if not isinstance(found, str):
                raise CorpusError(f"{report.path}:{number}: no text in a member {field!r}")
            yield found
