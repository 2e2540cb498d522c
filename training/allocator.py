"""What is freed by one step is there for the next."""

import ctypes
from contextlib import suppress

# Of malloc.h; a threshold of -1 is never reached.
_M_TRIM_THRESHOLD = -1
_M_MMAP_MAX = -4
_NEVER = -1


def keep_freed_memory() -> None:
    """Tell glibc's malloc to keep freed blocks of any size, for the rest of the process (mallopt(3)).

    It returns blocks above 32 MiB to the system at once, and a step of training frees hundreds of MiB in such blocks
    and asks for them again: the system has to clear every page of them once more. What is computed stays the same; the
    process keeps what it needed at most, and some blocks more until malloc fits them together. Does nothing where there
    is no glibc.
    """
    with suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_MAX, 0)
        libc.mallopt(_M_TRIM_THRESHOLD, _NEVER)
