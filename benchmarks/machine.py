"""The machine and the versions of a measurement."""

import os
import platform
import re
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

from benchmarks.processes import ROOT

_PACKAGES = ("fastapi", "numpy", "onnxruntime", "pydantic", "starlette", "uvicorn")


def provenance(directory: Path = ROOT) -> dict[str, Any]:
    """Return date, CPU, cores, memory, versions and the commit of *directory*, without names of
    hosts or users.
    """
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    commit = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "commit": commit.stdout.strip() or "unknown",
        "cpu": cpu(),
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in _PACKAGES},
    }


def cpu() -> str:
    """Return the processor's name."""
    text = Path("/proc/cpuinfo").read_text()
    found = re.search(r"^model name\s*:\s*(.+)$", text, flags=re.MULTILINE)
    return found[1] if found else platform.machine()
