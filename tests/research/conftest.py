"""Tests of research are slow and outside the default run."""

from pathlib import Path

import pytest

from tests.training.conftest import few_bootstrap_rounds, prepared

__all__ = ["few_bootstrap_rounds", "prepared"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test in this folder as slow."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.slow)
