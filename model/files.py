"""Replace files and directories so that neither a reader nor a crash sees half of one."""

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def write_atomically(path: Path, data: bytes, mode: int = 0o666) -> None:
    """Write a file next to its final name, synchronise it to disk and rename it into place.

    A symbolic link is followed. A file that is replaced passes on its owner and its permissions; a
    new one gets *mode*, less the process's umask. The folder must exist.

    Raises:
        OSError: the disk is full or not writable; the old file is untouched.
    """
    path = path.resolve()
    fresh = path.with_name(f".{path.name}.{secrets.token_hex(4)}.new")
    try:
        with (
            _named(path),
            os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file,
        ):
            file.write(data)
        if path.exists():
            old = path.stat()
            os.chown(fresh, old.st_uid, old.st_gid)
            fresh.chmod(old.st_mode & 0o777)
        _synchronise(fresh)
        fresh.replace(path)
    finally:
        fresh.unlink(missing_ok=True)
    _synchronise(path.parent)


@contextmanager
def replaced_directory(target: Path) -> Iterator[Path]:
    """Yield an empty directory that replaces *target* when the block ends without an error.

    It lies next to *target* as ``.NAME.new``, is synchronised to disk and then renamed. If the
    block or a rename fails, it is removed and *target* stays. No system call replaces a directory,
    so the old one is first renamed to :func:`previous_directory`; a crash between the two renames
    leaves it there. A symbolic link is followed, and missing parents are made.

    Raises:
        OSError: the disk is full or not writable; *target* is untouched.
    """
    target = target.resolve()
    fresh, previous = target.with_name(f".{target.name}.new"), previous_directory(target)
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    try:
        with _named(target):
            yield fresh
        for path in (*fresh.rglob("*"), fresh):
            if not path.is_symlink():
                _synchronise(path)
        if target.exists():
            shutil.rmtree(previous, ignore_errors=True)
            target.rename(previous)
        try:
            fresh.rename(target)
        except OSError:
            if previous.exists() and not target.exists():
                previous.rename(target)
            raise
        shutil.rmtree(previous, ignore_errors=True)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    _synchronise(target.parent)


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Add *path* to an error of a write that has no path."""
    try:
        yield
    except OSError as error:
        if error.errno and error.filename is None:
            error.filename = str(path)
        raise


def previous_directory(target: Path) -> Path:
    """Return the name of the old directory until the new one is in place."""
    return target.with_name(f".{target.name}.old")


def _synchronise(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
