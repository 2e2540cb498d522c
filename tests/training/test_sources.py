"""Lists of sources."""

from pathlib import Path

import pytest

from model.errors import RunError
from training.data.sources import load_sources, named_sources

ROOT = Path(__file__).parents[2]
GOOD = "[[source]]\nname = 'a'\npath = 'x'\n"


def test_sources_are_read(tmp_path: Path) -> None:
    """Every field of a source is read from TOML; paths start from the root or the file's folder."""
    path = tmp_path / "sources.toml"
    path.write_text(
        GOOD + "weight = 2.5\nlimit_bytes = 9\nconsecutive = true\nfield = 't'\nlanguage = 'zh'\n"
        "[[source]]\nname = 'b'\npath = 'y'\n"
    )
    first, second = load_sources(path)
    assert (first.path, first.weight, first.limit_bytes) == (str(tmp_path / "x"), 2.5, 9)
    assert (first.consecutive, first.field, first.language) == (True, "t", "zh")
    assert (second.path, second.weight, second.limit_bytes) == (str(tmp_path / "y"), 1.0, None)
    assert load_sources(path, Path("root"))[0].path == str(Path("root") / "x")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (GOOD + "wieght = 2\n", "wieght: unknown field"),
        ("[[source]]\nname = 'a'\n", "path: missing"),
        ("[[source]]\nname = 'a/b'\npath = 'x'\n", "name: .*got 'a/b'"),
        (GOOD + "weight = 0\n", "weight: .*got 0"),
        (GOOD + "limit_bytes = 0\n", "limit_bytes: .*got 0"),
        ("", "source: missing"),
    ],
)
def test_faulty_source_lists_are_refused(tmp_path: Path, text: str, message: str) -> None:
    """A misspelt key or an impossible value is an error with file, source and key."""
    path = tmp_path / "sources.toml"
    path.write_text(text)
    with pytest.raises(RunError, match=rf"sources\.toml: .*{message}"):
        load_sources(path)


@pytest.mark.parametrize("name", ["default.toml", "wider.toml"])
def test_committed_source_lists_are_valid(name: str) -> None:
    """The bundled lists name both languages, no absolute path and no text of a benchmark."""
    sources = load_sources(ROOT / "training" / "sources" / name, Path("root"))
    assert {source.language for source in sources} == {"zh", "en"}
    assert all(source.path.startswith("root/") for source in sources)
    assert not any("heldout" in each.path or "benchmark" in each.path for each in sources)


def test_inputs_get_names_of_their_own() -> None:
    """Inputs are named after their files; equal names get a number."""
    sources = named_sources(["a/my-2.txt", "a/my text.txt", "b/my.txt", "b/my.csv", "c/。"])
    assert [each.name for each in sources] == ["my-2", "my_text", "my", "my-3", "text"]
