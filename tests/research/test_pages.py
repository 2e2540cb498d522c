"""The generated pages and their plots."""

from pathlib import Path

import pytest

from research.quality_page import quality_tables
from research.tutorial_page import (
    draw_curves,
    draw_gradients,
    fill_page,
    read_figures,
    tutorial_tables,
)

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize(
    ("name", "tables"), [("quality.md", quality_tables), ("tutorial.md", tutorial_tables)]
)
def test_the_page_is_what_its_figures_give(name: str, tables: object) -> None:
    """Written again from the committed figures, the page is the same."""
    assert callable(tables)
    assert fill_page(name, tables(DOCS / "results")) == (DOCS / name).read_text(encoding="utf-8")


def test_the_plots_are_drawn(tmp_path: Path) -> None:
    """Both plots of the tutorial come from the committed figures."""
    draw_curves(read_figures(DOCS / "results" / "tutorial.json"), tmp_path / "curves.png")
    gradients = read_figures(DOCS / "results" / "vanishing_gradients.json")
    draw_gradients(gradients, tmp_path / "gradients.png")
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in tmp_path.iterdir())
