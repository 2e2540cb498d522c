"""Files of Prometheus and Grafana, queries to a Prometheus, and waiting for its next scrape."""

import json
import time
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from tests.service.server_process import ROOT

DEPLOY = ROOT / "deploy"
PATIENCE_SECONDS = 90


def read_yaml(path: Path) -> Any:
    """Return the one document of a YAML file."""
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def dashboard() -> Any:
    """Return the dashboard that Grafana shows."""
    return json.loads((DEPLOY / "grafana" / "lacuna.json").read_text(encoding="utf-8"))


def rules(name: str) -> list[dict[str, Any]]:
    """Return the rules of a rule file."""
    return [rule for group in read_yaml(DEPLOY / name)["groups"] for rule in group["rules"]]


def query(address: str, expression: str) -> list[dict[str, Any]]:
    """Return the samples of an instant query; raise an OSError if Prometheus does not answer."""
    question = urllib.parse.urlencode({"query": expression})
    with urllib.request.urlopen(f"{address}/api/v1/query?{question}", timeout=10) as answer:
        result: list[dict[str, Any]] = json.load(answer)["data"]["result"]
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
