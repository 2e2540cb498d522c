"""``make lock``: prints what the service image installs, each package at its pin with the hashes of its wheels.

Python 3.11 on Linux, for both processors that the image is built for. pip resolves and knows the hashes, from whichever
index it is told to use; the lock names none. Run it with Python 3.11: pip reads markers as the Python that runs it.
"""

import json
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROCESSORS = ("x86_64", "aarch64")
# What glibc a wheel may ask for: those of python:3.11-slim are newer than all of these.
PLATFORMS = ("manylinux2014", "manylinux_2_17", "manylinux_2_27", "manylinux_2_28")
HEADER = "# What deploy/Dockerfile installs; written by make lock from pyproject.toml and constraints.txt."


def wheels(processor: str) -> dict[str, str]:
    """``sha256:…`` of the wheel of each package, by ``name==version``, as pip would install them."""
    dependencies = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"][
        "dependencies"
    ]
    platforms = [option for name in PLATFORMS for option in ("--platform", f"{name}_{processor}")]
    with tempfile.TemporaryDirectory() as directory:
        report = Path(directory) / "report.json"
        subprocess.run(  # noqa: S603
            [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed", "--report", report,
             "--target", directory, "--only-binary", ":all:", "--implementation", "cp", "--python-version", "3.11",
             *platforms, "-c", ROOT / "constraints.txt", *dependencies],
            check=True,
        )  # fmt: skip
        installed = json.loads(report.read_text("utf-8"))["install"]
    return {
        f"{wheel['metadata']['name']}=={wheel['metadata']['version']}": "sha256:"
        + wheel["download_info"]["archive_info"]["hashes"]["sha256"]
        for wheel in installed
    }


def main() -> None:
    """Print the lock."""
    found = [wheels(processor) for processor in PROCESSORS]
    lines = [HEADER]
    for pin in sorted(found[0] | found[1], key=str.lower):
        hashes = sorted({hashes[pin] for hashes in found if pin in hashes})
        lines.append(" \\\n    --hash=".join([pin, *hashes]))
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
