"""Where and with what was measured."""

import os
import platform
import re
import subprocess
from pathlib import Path
from typing import Any

from benchmarks import wrk
from benchmarks.contestants import PEERS_PYTHON, ROOT

_OURS = (
    "fastapi",
    "httptools",
    "numpy",
    "onnxruntime",
    "pydantic",
    "sentencepiece",
    "starlette",
    "uvicorn",
    "uvloop",
)
_PEERS = (*_OURS, "litserve", "torch", "transformers")
_LIST_VERSIONS = """
import sys
from importlib.metadata import PackageNotFoundError, version
for name in sys.argv[1:]:
    try:
        print(name, version(name))
    except PackageNotFoundError:
        pass
"""


def describe(python: str) -> dict[str, Any]:
    """What `basis` says, and what a comparison with peers needs beside it."""
    peers = _versions(str(PEERS_PYTHON), _PEERS) if PEERS_PYTHON.exists() else {}
    return {**basis(python), "wrk": wrk.version(), "peers_packages": peers}


def basis(python: str) -> dict[str, Any]:
    """CPU, cores, kernel, versions and commit, as plain values. No names of hosts, users or directories.

    Args:
        python: the interpreter that runs the product.
    """
    return {
        "cpu": cpu(),
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "packages": _versions(python, _OURS),
        "git_commit": _commit(),
    }


def cpu() -> str:
    """The processor's name."""
    found = re.search(
        r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), flags=re.MULTILINE
    )
    return found[1] if found else platform.machine()


def _versions(python: str, names: tuple[str, ...]) -> dict[str, str]:
    result = subprocess.run(
        [python, "-c", _LIST_VERSIONS, *names], capture_output=True, text=True, check=True
    )
    return dict(line.split() for line in result.stdout.splitlines() if line)


def _commit() -> str:
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    return (
        subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, check=False
        ).stdout.strip()
        or "unknown"
    )
