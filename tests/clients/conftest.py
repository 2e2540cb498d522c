"""One service for all tests of clients."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.clients.keyed_server import KEY
from tests.service.server_process import REAL, ServerProcess, serving


@pytest.fixture(scope="session")
def server() -> Iterator[ServerProcess]:
    """A service with the bundled checkpoint and a key."""
    options = ("--threads", "1", "--device", "cpu")
    with serving(REAL, *options, environment={"LACUNA_KEYS": KEY}) as running:
        yield running


@pytest.fixture(scope="session")
def address(server: ServerProcess) -> str:
    """Its address."""
    return "http://{}:{}".format(*server.address)


@pytest.fixture(scope="session")
def document(server: ServerProcess) -> Any:
    """Its OpenAPI document."""
    return server.ask("GET", "/openapi.json").json()
