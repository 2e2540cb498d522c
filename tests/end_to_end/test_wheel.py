"""The wheel: its files, its size, and the service that it installs."""

import ctypes
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

from model.native.library import network_library
from research.quickstart import post, serving

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ("lacuna.py", "model", "service", "training")
ABOUT = ("build_backend.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE")
# PyPI takes no larger file.
MAX_BYTES = 100_000_000

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the sources: an older build next to them would leak into a wheel."""
    copy, ignored = (
        tmp_path_factory.mktemp("sources"),
        shutil.ignore_patterns("__pycache__", "*.so"),
    )
    for name in (*SOURCES, *ABOUT):
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, copy / name, ignore=ignored)
        else:
            shutil.copy(ROOT / name, copy)
    return copy


@pytest.fixture(scope="module")
def wheel(copy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built by the system's compiler from the source distribution."""
    folder, sources = tmp_path_factory.mktemp("wheel"), tmp_path_factory.mktemp("sdist")
    code = f"import build_backend; build_backend.build_sdist({str(sources)!r})"
    subprocess.run([sys.executable, "-c", code], cwd=copy, check=True)
    options = ("--quiet", "--no-deps", "--no-index", "--no-build-isolation")
    command = [sys.executable, "-m", "pip", "wheel", *options, "--wheel-dir", folder]
    subprocess.run([*command, *sources.iterdir()], check=True)
    (built,) = folder.iterdir()
    return built


def test_it_holds_the_packages_and_nothing_else(wheel: Path) -> None:
    """Every file of the three packages, the command, and five files about the wheel."""
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    about = {name.partition("/")[2] for name in names if ".dist-info/" in name}
    expected = {
        path.relative_to(ROOT).as_posix()
        for name in SOURCES
        for path in [ROOT / name, *(ROOT / name).rglob("*")]
        if path.is_file() and path.suffix != ".pyc"
    }
    assert {name for name in names if ".dist-info/" not in name} == expected
    assert about - {"licenses/LICENSE"} == {
        "METADATA", "RECORD", "WHEEL", "entry_points.txt", "top_level.txt",
    }  # fmt: skip
    assert wheel.stat().st_size < MAX_BYTES


def test_it_is_built_without_a_compiler(copy: Path, tmp_path: Path) -> None:
    """The build asks the package index for zig, whose library knows this CPU as that of here."""
    tools = tmp_path / "tools"
    tools.mkdir()
    shutil.rmtree(copy / "model/pretrained")  # large
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--wheel-dir", tmp_path, copy]
    environment = {key: value for key, value in os.environ.items() if key != "CXX"}
    environment["PATH"] = str(tools)
    built = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if "No matching distribution found for" in built.stderr:
        pytest.skip("no package index has ziglang")
    assert built.returncode == 0, built.stderr
    (wheel,) = tmp_path.glob("*-py3-none-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        library = archive.extract("model/native/liblacuna.so", tmp_path)
    supported = network_library().lacuna_network_supported()
    assert ctypes.CDLL(library).lacuna_network_supported() == supported


def test_it_requires_no_torch(wheel: Path) -> None:
    """Without an extra, pip installs what serving needs."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [each for each in archive.namelist() if each.endswith("/METADATA")]
        required = Parser().parsestr(archive.read(name).decode()).get_all("Requires-Dist", [])
    plain = [each for each in required if "extra ==" not in each]
    assert any(each.startswith("onnxruntime") for each in plain)
    assert not any(each.startswith("torch") for each in plain)


def test_it_serves_from_another_environment(wheel: Path, tmp_path: Path) -> None:
    """`lacuna serve` of a new environment answers, with the checkpoint that was installed."""
    folder = tmp_path / "venv"
    venv.create(folder, with_pip=True)
    python = ("env", "--unset=PYTHONPATH", str(folder / "bin" / "python"))
    options = ("--quiet", "--no-deps", "--no-index")
    subprocess.run([*python, "-m", "pip", "install", *options, wheel], check=True)
    find = [*python, "-c", "import service; print(service.__file__)"]
    found = subprocess.run(find, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    packages = Path(found).parents[1]
    assert packages.is_relative_to(folder)
    # Dependencies come from this environment; links of editable installs are not followed there.
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib"), encoding="utf-8")
    serve = [*python[:2], str(folder / "bin" / "lacuna"), "serve"]
    with serving(serve, tmp_path) as address:
        answer = post(f"{address}/predict", {"text": "I would like a cup of "})
    assert answer["results"][0]["candidates"]
