"""Build backend: setuptools, and one C++ library that needs neither Python's headers nor libstdc++.

The compiler is $CXX, else one on the PATH, else zig, which the build then asks PyPI for (ziglang).
As a program: ``python build_backend.py OUTPUT`` builds only the library.
"""

import os
import shlex
import shutil
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

from setuptools import build_meta
from setuptools.build_meta import *  # noqa: F403  # the hooks of PEP 517
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

# No product and sum in one rounding: a result is the same on every CPU.
FLAGS = "-std=c++20 -O3 -fPIC -shared -fno-exceptions -fno-rtti -ffp-contract=off"
# GCC 12 warns about its own header of AVX-512 that values are not initialised.
FLAGS += " -Wall -Wextra -Wconversion -Wno-uninitialized -Wno-maybe-uninitialized"
FLAGS += " -Wno-unknown-warning-option"  # clang lacks one of them


def get_requires_for_build_wheel(config_settings: Any = None) -> list[str]:
    """Ask for zig if no compiler is installed."""
    return [*build_meta.get_requires_for_build_wheel(config_settings), *_compiler_packages()]


def get_requires_for_build_editable(config_settings: Any = None) -> list[str]:
    """Ask for zig if no compiler is installed."""
    return [*build_meta.get_requires_for_build_editable(config_settings), *_compiler_packages()]


def build_library(output: Path) -> None:
    """Compile the library to a file."""
    folder = Path(__file__).parent / "model" / "native"
    sources = sorted(folder.glob("*.?pp"))
    checksum = zlib.crc32(b"".join(path.read_bytes() for path in sources))
    output.parent.mkdir(parents=True, exist_ok=True)
    command = [*(_compiler() or _zig()), *FLAGS.split(), f"-DLACUNA_SOURCES={checksum}U"]
    command += [*map(str, folder.glob("*.cpp")), "-o", str(output)]
    subprocess.run(command, check=True)  # noqa: S603  # no input of a user


class BuildLibrary(build_ext):
    """Builds the library instead of an extension module."""

    def get_ext_filename(self, fullname: str) -> str:
        """Return a name without the version of Python."""
        return str(Path(*fullname.split(".")).with_suffix(".so"))

    def build_extension(self, ext: Any) -> None:
        """Compile the library."""
        build_library(Path(self.get_ext_fullpath(ext.name)))


class AnyPython(bdist_wheel):
    """Makes a wheel for a platform and every Python 3."""

    def get_tag(self) -> tuple[str, str, str]:
        """Return the tag."""
        return "py3", "none", super().get_tag()[2]


def _compiler() -> list[str]:
    given = shlex.split(os.environ.get("CXX", ""))
    found = next(filter(shutil.which, ("c++", "g++", "clang++")), None)
    return given or ([found] if found else [])


def _compiler_packages() -> list[str]:
    return [] if _compiler() else ["ziglang>=0.13"]


def _zig() -> list[str]:
    return [sys.executable, "-m", "ziglang", "c++"]


if __name__ == "__main__":
    build_library(Path(sys.argv[1]))
