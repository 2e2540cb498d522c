"""Imports, packages loaded by serving, pinned versions, and the map of modules."""

import json
import re
import shutil
import subprocess
import sys
import tomllib
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("model", "service", "training")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
PIN = r"^([A-Za-z0-9._-]+)==([0-9A-Za-z.]+)"
# Of a lock: a pin, for which systems, and hashes.
ENTRY = PIN + r"(?: ; [^\\\n]+)?(?: \\\n    --hash=sha256:[0-9a-f]{64})+\n"


def lint_imports(directory: Path) -> str:
    """Check the import contracts of a directory's own packages; return the report."""
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    environment = {"PYTHONPATH": str(directory), "COLUMNS": "200"}
    return subprocess.run(
        command, cwd=directory, env=environment, capture_output=True, text=True, check=False
    ).stdout


def test_import_contracts_hold() -> None:
    """The code as it is breaks no contract."""
    assert re.search(r"Contracts: \d+ kept, 0 broken", lint_imports(ROOT))


@pytest.mark.parametrize(
    ("planted", "broken"),
    [
        ({"service/__init__.py": "import model.network"}, 1),
        (
            {
                "training/__init__.py": "import service, research",
                "model/config.py": "import fastapi, torch",
            },
            5,
        ),
    ],
)
def test_planted_imports_break_contracts(
    tmp_path: Path, planted: dict[str, str], broken: int
) -> None:
    """A forbidden import is found, also inside a function."""
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    ignore = shutil.ignore_patterns("__pycache__", "pretrained", ".venv")
    for package in (*PACKAGES, "research", "benchmarks"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=ignore)
    for module, statement in planted.items():
        with (tmp_path / module).open("a", encoding="utf-8") as file:
            file.write(f"\n\ndef planted() -> None:\n    {statement}\n")
    assert f"Contracts: {5 - broken} kept, {broken} broken" in lint_imports(tmp_path)


LOAD_AND_ANSWER = """
import sys
from service.__main__ import create_app, load, read_settings
settings = read_settings(["--checkpoint", sys.argv[1], "--device", "cpu"])
create_app(settings, lambda on_call: load(settings, on_call), on_failure=print)
loaded = load(settings, lambda *_: None)  # answers one query of each kind
assert {"predict", "cloze", "score"} <= set(loaded.description["capabilities"])
print(*sorted({name.partition(".")[0] for name in sys.modules}))
"""


def test_serving_on_a_cpu_loads_no_training_library(tiny_checkpoint: Path) -> None:
    """A process that has answered every kind of query has loaded none of them."""
    command = [sys.executable, "-c", LOAD_AND_ANSWER, str(tiny_checkpoint)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    modules = set(result.stdout.split())
    assert {"service", "model", "onnxruntime"} <= modules
    libraries = {"torch", "onnx", "safetensors", "tensorboard", "matplotlib", "tqdm", "training"}
    assert not modules & libraries


def test_onnx_runtime_reports_to_nobody(tmp_path: Path) -> None:
    """ONNX Runtime makes none of the files that it makes in order to report its use."""
    command = [sys.executable, "-c", "import model.onnx_runtime"]
    environment = {"PYTHONPATH": str(ROOT), "HOME": str(tmp_path)}  # no CI: it would report nothing
    subprocess.run(command, env=environment, check=True)
    assert not list(tmp_path.iterdir())


def names_of(lines: list[str]) -> set[str]:
    """Return the canonical names of required packages."""
    return {canonicalize_name(Requirement(line).name) for line in lines}


def pins() -> dict[str, str]:
    """Return the versions in constraints.txt, which contains only comments and exact pins."""
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    pin = re.compile(PIN + r"$", re.MULTILINE)
    assert re.sub(r"#.*|\s", "", pin.sub("", text)) == "", "not a plain pin"
    return {canonicalize_name(name): version for name, version in pin.findall(text)}


def locked(text: str) -> dict[str, str]:
    """Return the versions in the text of a lock."""
    entries = re.findall(ENTRY, text, flags=re.MULTILINE)
    return {canonicalize_name(name): version for name, version in entries}


def closure(lines: list[str]) -> set[str]:
    """Return the names of what an install brings, as far as it is installed here."""
    reached, waiting = set[tuple[str, str]](), [Requirement(line) for line in lines]
    while waiting:
        required = waiting.pop()
        name = canonicalize_name(required.name)
        for extra in {"", *required.extras} - {known for key, known in reached if key == name}:
            with suppress(PackageNotFoundError):  # a library of an accelerator or another system
                children = [Requirement(child) for child in requires(name) or []]
                reached.add((name, extra))
                waiting += [
                    child
                    for child in children
                    if child.marker is None or child.marker.evaluate({"extra": extra})
                ]
    return {name for name, _ in reached}


def test_every_dependency_is_pinned_with_those_it_pulls_in() -> None:
    """Every package that an install of all extras brings is pinned, and no other."""
    reached = closure(sum(EXTRAS.values(), PROJECT["dependencies"]))
    # torch pins libraries of accelerators itself; a virtual environment has setuptools and pip.
    unpinned = {name for name in reached if not name.startswith(("nvidia-", "cuda-"))} - set(pins())
    assert unpinned <= {"triton", "setuptools", "pip"}, "run `make constraints`"
    assert set(pins()) <= reached, "in constraints.txt, though nothing needs it"


@pytest.mark.parametrize(
    ("lock", "extras"), [("requirements.lock", ()), ("requirements-training.lock", ("train",))]
)
def test_each_lock_has_the_packages_of_its_image_at_their_pins(
    lock: str, extras: tuple[str, ...]
) -> None:
    """A lock has pinned versions and hashes of all packages of an image, and nothing else."""
    text = (ROOT / "deploy" / lock).read_text(encoding="utf-8")
    found = locked(text)
    assert re.sub(ENTRY, "", text, flags=re.MULTILINE) == ""
    needed = closure(sum((EXTRAS[extra] for extra in extras), PROJECT["dependencies"]))
    expected = {name: version for name, version in pins().items() if name in needed}
    # Libraries that torch pins itself, tools of any environment, and packages of another system.
    other = {name for name in found if name.startswith(("nvidia-", "cuda-"))} if extras else set()
    other |= {"colorama", "pywin32"} | ({"triton", "setuptools"} if extras else set())
    kept = {name: version for name, version in found.items() if name not in other}
    assert kept == expected, "run `make lock`"


def test_the_lock_of_the_build_has_its_compiler_with_hashes() -> None:
    """The images compile the native library with zig, a wheel, and setuptools."""
    text = (ROOT / "deploy/requirements-build.lock").read_text(encoding="utf-8")
    assert re.sub(ENTRY, "", text, flags=re.MULTILINE) == ""
    assert set(locked(text)) == {"setuptools", "ziglang"}


def test_the_bill_of_materials_lists_the_lock() -> None:
    """The SBOM has no time or serial number, and the packages, versions and hashes of the lock."""
    bill = json.loads((ROOT / "deploy" / "sbom.cdx.json").read_text(encoding="utf-8"))
    lock = (ROOT / "deploy" / "requirements.lock").read_text(encoding="utf-8")
    assert bill["bomFormat"] == "CycloneDX"
    assert "serialNumber" not in bill and "timestamp" not in bill["metadata"]
    listed = {part["name"]: part["version"] for part in bill["components"]}
    assert len(listed) == len(bill["components"])
    assert listed == locked(lock), "run `make sbom`"
    hashes = {
        digest["content"]
        for part in bill["components"]
        for reference in part["externalReferences"]
        for digest in reference["hashes"]
    }
    assert hashes == set(re.findall(r"sha256:([0-9a-f]{64})", lock))
    product = bill["metadata"]["component"]
    assert (product["name"], product["version"]) == (PROJECT["name"], PROJECT["version"])


def test_every_direct_dependency_has_a_reason() -> None:
    """The table of dependencies has one row for each direct dependency, and no other."""
    text = (ROOT / "docs/decisions/0001-dependencies.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ([a-z][^|]*) \| \S", text, flags=re.MULTILINE)
    named = [name for row in rows for name in row.split(", ") if name != "package"]
    direct = names_of(PROJECT["dependencies"] + EXTRAS["train"] + EXTRAS["dev"])
    assert names_of(named) == direct and len(named) == len(direct)
    assert names_of(EXTRAS["gpu"]) <= direct


def test_the_module_map_names_every_module() -> None:
    """The map in docs/architecture.md names each module of the product, and no other."""
    text = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^([\w/]+/).*\n((?:  .+\n)+)", text.split("```")[1], re.MULTILINE)
    mapped = {
        f"{folder}{name}.py"
        for folder, lines in blocks
        for names in re.findall(r"^  (\w+(?:  \w+)*)", lines, re.MULTILINE)
        for name in names.split()
    }
    paths = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    present = {path.relative_to(ROOT).as_posix() for path in paths if path.stem != "__init__"}
    assert mapped == present
