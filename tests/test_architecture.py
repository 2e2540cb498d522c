"""The house holds: who may import whom, what serving may load, what the pins and the module map must cover."""

import re
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("model", "service", "training")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def lint_imports(directory: Path) -> subprocess.CompletedProcess[str]:
    """Run the import contracts of `directory`'s own pyproject.toml over `directory`'s own packages."""
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    environment = {
        "PYTHONPATH": str(directory),
        "PATH": str(Path(sys.executable).parent),
        "COLUMNS": "200",
    }
    return subprocess.run(
        command, cwd=directory, env=environment, capture_output=True, text=True, check=False
    )


@pytest.fixture
def copied_house(tmp_path: Path) -> Path:
    """All packages and pyproject.toml, copied to where a violation can be planted."""
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for package in (*PACKAGES, "research", "benchmarks"):
        shutil.copytree(
            ROOT / package,
            tmp_path / package,
            ignore=shutil.ignore_patterns("__pycache__", "pretrained", ".venv"),
        )
    return tmp_path


def test_import_contracts_hold() -> None:
    """The import contracts of pyproject.toml hold for the code as it is."""
    result = lint_imports(ROOT)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize(
    ("module", "statement"),
    [
        ("service/__init__.py", "import training"),
        ("training/__init__.py", "import service"),
        ("model/config.py", "import training"),
        ("model/config.py", "import research"),
        ("service/__init__.py", "import benchmarks"),
        ("training/__init__.py", "import research"),
        ("model/config.py", "import fastapi"),
        ("model/config.py", "import torch"),
        ("service/__init__.py", "import onnx"),
        ("service/__init__.py", "import model.network"),
    ],
)
def test_a_planted_violation_breaks_a_contract(
    copied_house: Path, module: str, statement: str
) -> None:
    """Each kind of forbidden import is caught, wherever it is written, also inside a function."""
    with (copied_house / module).open("a", encoding="utf-8") as file:
        file.write(f"\n\ndef planted() -> None:\n    {statement}\n")
    result = lint_imports(copied_house)
    assert result.returncode != 0
    assert "BROKEN" in result.stdout, result.stdout + result.stderr


LOAD_AND_ANSWER = """
import sys
from service.__main__ import create_app, load, read_settings
settings = read_settings(["--checkpoint", sys.argv[1], "--device", "cpu"])
create_app(settings, lambda on_call: load(settings, on_call), on_failure=print)
loaded = load(settings, lambda kind, rows, network_rows: None)  # answers one query of each kind to warm up
assert {"predict", "cloze", "score"} <= set(loaded.description["capabilities"])
print(*sorted({name.partition(".")[0] for name in sys.modules}))
"""


def test_serving_on_a_cpu_loads_no_training_library(tiny_checkpoint: Path) -> None:
    """A process that has answered every kind of question on a CPU holds no torch, onnx, safetensors, training code."""
    command = [sys.executable, "-c", LOAD_AND_ANSWER, str(tiny_checkpoint)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    modules = set(result.stdout.split())
    assert {"service", "model", "onnxruntime"} <= modules
    assert (
        modules & {"torch", "onnx", "safetensors", "tensorboard", "matplotlib", "tqdm", "training"}
        == set()
    )


def requirement_names(lines: list[str]) -> set[str]:
    """Canonical names in lines of requirements."""
    return {canonicalize_name(Requirement(line).name) for line in lines}


def pins() -> dict[str, str]:
    """Version by canonical name in constraints.txt, which may hold nothing but comments and exact pins."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    result = {}
    for line in lines:
        if line and not line.startswith("#"):
            match = re.fullmatch(r"([A-Za-z0-9._-]+)==([0-9A-Za-z.]+)", line)
            assert match, f"not a plain pin: {line}"
            result[canonicalize_name(match[1])] = match[2]
    return result


def closure(requirements: list[str]) -> set[str]:
    """Canonical names of what an install of *requirements* brings, as far as it is installed here."""
    reached: set[str] = set()
    waiting = list(requirements)
    seen: set[str] = set()
    while waiting:
        line = waiting.pop()
        requirement = Requirement(line)
        name = canonicalize_name(requirement.name)
        extras = requirement.extras or {""}
        if (requirement.marker and not requirement.marker.evaluate({"extra": ""})) or line in seen:
            continue
        seen.add(line)
        try:
            children = requires(name) or []
        except PackageNotFoundError:
            continue  # an accelerator's own libraries, or another platform's
        reached.add(name)
        for child in children:
            marker = Requirement(child).marker
            if marker is None or any(marker.evaluate({"extra": extra}) for extra in {"", *extras}):
                waiting.append(child.split(";")[0])
    return reached


def test_every_dependency_is_pinned_with_those_it_pulls_in() -> None:
    """constraints.txt names every package that an install of all extras brings, and no other."""
    extras = PROJECT["optional-dependencies"].values()
    reached = closure([*PROJECT["dependencies"], *(line for extra in extras for line in extra)])
    # torch pins an accelerator's libraries itself; setuptools and pip come with the virtual environment.
    exempt = {
        name
        for name in reached
        if name.startswith(("nvidia-", "cuda-")) or name in {"triton", "setuptools", "pip"}
    }
    assert reached - exempt - set(pins()) == set(), (
        "missing from constraints.txt: run `make constraints`"
    )
    assert set(pins()) - reached == set(), "in constraints.txt, though nothing needs it"


def test_the_lock_of_the_image_is_what_serving_needs_at_its_pins() -> None:
    """deploy/requirements.lock has serving's packages, with hashes, at constraints.txt's versions, and no index."""
    text = (ROOT / "deploy" / "requirements.lock").read_text(encoding="utf-8")
    entry = r"^([A-Za-z0-9._-]+)==([0-9A-Za-z.]+)(?: ; [^\\\n]+)?(?: \\\n    --hash=sha256:[0-9a-f]{64})+\n"
    found = {
        canonicalize_name(name): version
        for name, version in re.findall(entry, text, flags=re.MULTILINE)
    }
    needed = closure(PROJECT["dependencies"])
    pinned = {name: version for name, version in pins().items() if name in needed}
    elsewhere = {"colorama", "pywin32"}  # the lock holds for every system; these are for Windows
    assert {name: found[name] for name in found.keys() - elsewhere} == pinned, "run `make lock`"
    assert re.sub(entry, "", text, flags=re.MULTILINE) == ""
    assert "://" not in text


def test_every_direct_dependency_has_a_reason() -> None:
    """docs/decisions/0001-dependencies.md has one table row for each direct dependency, and none for any other."""
    text = (ROOT / "docs/decisions/0001-dependencies.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ([a-z][^|]*) \| \S", text, flags=re.MULTILINE)
    named = [
        canonicalize_name(Requirement(name).name)
        for row in rows
        for name in row.split(", ")
        if name != "package"
    ]
    extras = PROJECT["optional-dependencies"]
    direct = requirement_names(PROJECT["dependencies"] + extras["train"] + extras["dev"])
    assert sorted(named) == sorted(direct)
    assert requirement_names(extras["gpu"]) <= direct


def test_the_module_map_names_every_module() -> None:
    """The map in docs/architecture.md names each module of the product, and no other."""
    text = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    mapped, folder = set(), ""
    for line in text.split("```")[1].splitlines():
        if match := re.match(r"([\w/]+/)(?:\s|$)", line):
            folder = match[1]
        elif line:
            names = re.match(r"  (\w+(?:  \w+)*)", line)
            assert names, line
            mapped |= {f"{folder}{name}.py" for name in names[1].split()}
    present = {
        path.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
        if path.name != "__init__.py"
    }
    assert present - mapped == set(), "modules without a line"
    assert mapped - present == set(), "lines without a module"
