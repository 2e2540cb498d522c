"""Read a directory that a stranger may have made: only listed files, each with its sum.

``SHA256SUMS`` lists the files in the format of sha256sum. The directory may be a symbolic link, and
so may its files, as long as no link leads out of it. A file is opened without waiting, must be a
regular one and has a largest size by its kind, so a pipe, a device or a sparse file ends at once.
Messages say nothing of a file's content, which their reader may not be allowed to see.
"""

import hashlib
import os
import re
import stat
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

from model.errors import CheckpointError

SUMS = "SHA256SUMS"
COPY_AGAIN = "copy the directory again"
MAX_FILES = 64
MAX_TOTAL_BYTES = 8 << 30
# The largest file of each kind, by the end of its name; config.json is served by GET /model.
_WEIGHTS = 4 << 30
_MAX_BYTES = {".weights": _WEIGHTS, ".ngrams": _WEIGHTS, ".json": 256 << 10, ".model": 4 << 20}
_MAX_OTHER_BYTES = 1 << 20
_BLOCK = 1 << 18

# No part of a path starts with a dot, so none leads out of the directory.
_SUM_LINE = re.compile(r"([0-9a-f]{64}) [ *]((?:[\w-][\w.-]*/)*[\w-][\w.-]*)", re.ASCII)


@dataclass(frozen=True, slots=True)
class ListedFiles:
    """The sum of every listed file, and the content of some; each file had its sum."""

    digest: str  # SHA-256 of SHA256SUMS, hexadecimal
    sums: Mapping[str, str]
    contents: Mapping[str, bytes]


def read_listed_files(
    directory: Path, keep: Collection[str], max_bytes: int = MAX_TOTAL_BYTES
) -> ListedFiles:
    """Verify every listed file; return the contents of those to *keep*, which are small.

    Raises:
        CheckpointError: a file is missing, too large, altered or not a regular one, or leads out,
            or all of them have more than *max_bytes*.
    """
    digest, sums = read_sums(directory)
    if sum(size_of_file(directory, name) for name in sums) > max_bytes:
        raise CheckpointError(
            f"{directory / SUMS} lists more than {max_bytes} bytes of files; choose a smaller"
            " checkpoint or a higher limit"
        )
    contents: dict[str, bytes] = {}
    for name, expected in sums.items():
        found, parts = hashlib.sha256(), []
        with open_listed(directory, name) as file:
            left = os.fstat(file.fileno()).st_size
            while left > 0 and (part := file.read(min(left, _BLOCK))):
                found.update(part)
                left -= len(part)
                if name in keep:
                    parts.append(part)
        if found.hexdigest() != expected:
            raise CheckpointError(
                f"{directory / name} does not have the sum in {SUMS}; it was cut short or altered:"
                f" {COPY_AGAIN}"
            )
        if name in keep:
            contents[name] = b"".join(parts)
    return ListedFiles(digest, sums, contents)


def size_of_file(directory: Path, name: str) -> int:
    """Return the bytes of a file of a directory; :func:`open_listed` has the errors."""
    with open_listed(directory, name) as file:
        return os.fstat(file.fileno()).st_size


def read_sums(directory: Path) -> tuple[str, dict[str, str]]:
    """Return the SHA-256 of SHA256SUMS and the sum of each file that it lists, not yet checked.

    Raises:
        CheckpointError: it cannot be read, or lists no files as sha256sum does.
    """
    if not os.path.isdir(directory):  # noqa: PTH112 - it raises nothing
        raise CheckpointError(f"{directory} is not a directory; name one with {SUMS}")
    with open_listed(directory, SUMS) as file:
        data = file.read(_MAX_OTHER_BYTES)
    return hashlib.sha256(data).hexdigest(), parse_sums(directory, data)


def parse_sums(directory: Path, data: bytes) -> dict[str, str]:
    """Return the sum of each listed file.

    Raises:
        CheckpointError: a line is not one of sha256sum, a path leads out or comes twice, or there
            are too many.
    """
    sums: dict[str, str] = {}
    # splitlines would also split at characters that sha256sum does not write.
    lines = data.decode(errors="replace").removesuffix("\n").split("\n") if data else []
    if len(lines) > MAX_FILES:
        raise CheckpointError(
            f"{directory / SUMS} lists {len(lines)} files; at most {MAX_FILES} are allowed"
        )
    for number, line in enumerate(lines, start=1):
        match = _SUM_LINE.fullmatch(line)
        if match is None or match[2] in sums:
            raise CheckpointError(
                f"{directory / SUMS} line {number} is not 'sum  path' with a path inside the"
                f" directory that comes once; {COPY_AGAIN}"
            )
        sums[match[2]] = match[1]
    return sums


def sums_file(sums: Mapping[str, str]) -> bytes:
    """Return the content of SHA256SUMS for these sums by path."""
    return "".join(f"{sums[path]}  {path}\n" for path in sorted(sums)).encode()


def write_sums(directory: Path, names: Iterable[str]) -> None:
    """List files of a directory in its SHA256SUMS."""
    sums = {}
    for name in names:
        with (directory / name).open("rb") as file:
            sums[name] = hashlib.file_digest(file, "sha256").hexdigest()
    (directory / SUMS).write_bytes(sums_file(sums))


@contextmanager
def open_listed(directory: Path, name: str) -> Iterator[FileIO]:
    """Open a file of a directory to read, at its start.

    Raises:
        CheckpointError: it is missing, unreadable, too large or not a regular file, or a link leads
            out of the directory.
    """
    path = directory / name
    found = os.path.realpath(path)
    if not Path(found).is_relative_to(os.path.realpath(directory)):
        raise CheckpointError(
            f"{path} is a link that leads out of the directory; put the file there"
        )
    try:
        # Without O_NONBLOCK, opening a pipe would wait for its writer.
        flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC
        # With an opener, FileIO closes what it cannot read, such as a directory.
        with FileIO(found, opener=lambda name, _: os.open(name, flags)) as file:
            status = os.fstat(file.fileno())
            limit = _MAX_BYTES.get(path.suffix, _MAX_OTHER_BYTES)
            if not stat.S_ISREG(status.st_mode):
                raise CheckpointError(f"{path} is not a regular file; {COPY_AGAIN}")
            if status.st_size > limit:
                raise CheckpointError(f"{path} has more than {limit} bytes; {COPY_AGAIN}")
            yield file
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is missing; {COPY_AGAIN}") from error
    except OSError as error:
        raise CheckpointError(
            f"{path} cannot be read: {error.strerror}; check its kind and permissions"
        ) from error
