"""Read keys and settings from files that only the operator can have written."""

import os
import stat
from pathlib import Path

MAX_BYTES = 1 << 20


class GuardedFileError(Exception):
    """A file cannot be read, or others could have written it; says why and the remedy."""


def read_guarded_file(path: Path) -> str:
    """Return the text of a file, which neither its group nor others may change or replace.

    All is checked on the opened file, so that a swap changes nothing and no pipe is waited for.

    Raises:
        GuardedFileError: it is missing, no regular file, unsafe, too long or not UTF-8.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            mode = os.fstat(descriptor).st_mode
            if not stat.S_ISREG(mode):
                raise GuardedFileError("is not a regular file; write it to a file and name that")
            if mode & (stat.S_IWGRP | stat.S_IWOTH):
                raise GuardedFileError(f"others may write to it; run: chmod go-w {path}")
            data = os.read(descriptor, MAX_BYTES + 1)
        finally:
            os.close(descriptor)
        for folder in {path.parent, path.resolve().parent}:
            mode = folder.stat().st_mode
            if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
                raise GuardedFileError(f"others may replace it; run: chmod o-w {folder}")
        if len(data) > MAX_BYTES:
            raise GuardedFileError(f"has more than {MAX_BYTES} bytes; shorten it")
        return data.decode("utf-8")
    except OSError as error:
        raise GuardedFileError(error.strerror or type(error).__name__) from None
    except UnicodeDecodeError as error:
        raise GuardedFileError(f"not UTF-8 at byte {error.start}") from None
