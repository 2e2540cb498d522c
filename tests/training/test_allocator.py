"""Memory that one step frees and the next one asks for again."""

import subprocess
import sys

import pytest

# Fills 64 MiB and frees them, often enough for malloc to have put its odds and ends aside, and counts the pages that
# the system gives when they are filled again, and how many MiB more than at first the process has taken by then.
PROGRAM = """
import platform, resource, sys
import torch
from training.allocator import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
torch.set_num_threads(1)
for turn in range(30):
    before = resource.getrusage(resource.RUSAGE_SELF)
    most = most if turn else before.ru_maxrss
    block = torch.ones(2**24)
    pages = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before.ru_minflt
    del block
most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - most
print(pages, most // 1024, platform.libc_ver()[0])
"""
PAGES = 2**26 // 4096


def pages_and_mib(how: str) -> tuple[int, int]:
    """What the last of many turns and what all of them took."""
    ran = subprocess.run([sys.executable, "-c", PROGRAM, how], capture_output=True, text=True, check=True)
    pages, mib, *libc = ran.stdout.split()
    if libc != ["glibc"]:
        pytest.skip("no glibc, whose malloc this is about")
    return int(pages), int(mib)


def test_a_large_block_is_used_again() -> None:
    """Kept, it costs no new pages and some blocks' worth of memory; else the system gives, and clears, all again."""
    pages, mib = pages_and_mib("keep")
    assert pages < PAGES / 100
    assert mib < 10 * 64
    pages, _ = pages_and_mib("leave")
    assert pages > PAGES / 2
