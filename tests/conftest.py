"""Fixtures that tests of several packages share."""

from pathlib import Path

import pytest

from tests.fixtures_checkpoint import build_tiny_checkpoint


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of two small random LSTM towers with int8 and fp32 graphs; read it, never change it."""
    return build_tiny_checkpoint(tmp_path_factory.mktemp("checkpoints") / "tiny").directory
