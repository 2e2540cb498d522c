"""Requests to a Prometheus, and waiting for its next scrape."""

import json
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from typing import Any

PATIENCE_SECONDS = 90


def get(address: str, path: str, **parameters: str) -> Any:
    """Return the ``data`` of an answer of Prometheus' API.

    Raises:
        AssertionError: Prometheus refuses the question.
        OSError: it does not answer, for example while it starts.
    """
    question = urllib.parse.urlencode(parameters)
    try:
        with urllib.request.urlopen(f"{address}/api/v1/{path}?{question}", timeout=10) as answer:
            return json.load(answer)["data"]
    except urllib.error.HTTPError as error:
        assert error.code >= 500, f"{parameters}: {error.read().decode()}"
        raise


def query(address: str, expression: str) -> list[dict[str, Any]]:
    """Return the samples of an instant query."""
    result: list[dict[str, Any]] = get(address, "query", query=expression)["result"]
    return result


def eventually(condition: Callable[[], bool]) -> bool:
    """Wait for *condition*; return False if it does not hold in time."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        try:
            if condition():
                return True
        except OSError:  # Prometheus is still starting
            pass
        time.sleep(0.5)
    return False
