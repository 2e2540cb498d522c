"""A record of how one file was read."""

from collections import Counter
from dataclasses import dataclass, field


@dataclass(slots=True)
class FileReport:
    """A record of how one file was read, filled meanwhile."""

    path: str
    kind: str
    encoding: str = ""
    bytes: int = 0  # after decompression
    lines: int = 0  # yielded
    # By reason in plain words, such as "markup" or "subtitle times"
    removed: Counter[str] = field(default_factory=Counter)
    fields: tuple[str, ...] = ()  # columns or JSON members that were read
    warnings: list[str] = field(default_factory=list)
