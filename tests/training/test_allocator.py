"""Memory that one step frees and the next one asks for again."""

import os
import resource
import subprocess
import sys

import pytest

# Fills 64 MiB and frees them, again and again: malloc has to put its odds and ends aside first. Of the last ten turns
# it says how many pages the system gave, and how many MiB the process grew by. Huge pages are off.
PROGRAM = """
import ctypes, platform, resource, sys
import torch
from training.allocator import keep_freed_memory
PR_SET_THP_DISABLE = 41
ctypes.CDLL(None).prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0)
if sys.argv[1] == "keep":
    keep_freed_memory()
torch.set_num_threads(1)
for turn in range(40):
    if turn == 30:
        before = resource.getrusage(resource.RUSAGE_SELF)
    block = torch.ones(2**24)
    del block
after = resource.getrusage(resource.RUSAGE_SELF)
print(after.ru_minflt - before.ru_minflt, (after.ru_maxrss - before.ru_maxrss) // 1024, platform.libc_ver()[0])
"""
TURNS, BLOCK = 10, 2**26


def pages_and_mib(how: str) -> tuple[int, int]:
    """What the last turns took, whatever malloc is told outside."""
    told = ("MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD")
    environ = {name: value for name, value in os.environ.items() if not name.startswith(told)}
    ran = subprocess.run([sys.executable, "-c", PROGRAM, how], env=environ, capture_output=True, text=True, check=True)
    pages, mib, *libc = ran.stdout.split()
    if libc != ["glibc"]:
        pytest.skip("no glibc, whose malloc this is about")
    return int(pages), int(mib)


def test_large_blocks_are_used_again() -> None:
    """Kept, they cost no new pages and no more memory; else the system gives, and clears, all of them again."""
    pages_of_block = BLOCK // resource.getpagesize()
    pages, mib = pages_and_mib("keep")
    assert pages < pages_of_block / 10
    assert mib == 0
    pages, _ = pages_and_mib("leave")
    assert pages > 0.9 * TURNS * pages_of_block
