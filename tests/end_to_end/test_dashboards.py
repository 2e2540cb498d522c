"""Every query of the dashboard and every rule, on a real Prometheus, service and proxy."""

import json
import math
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from research.quickstart import free_port, post
from tests.end_to_end.haproxy import proxying
from tests.end_to_end.prometheus import eventually, get, query
from tests.service.server_process import REAL, ROOT, serving

DEPLOY = ROOT / "deploy"
# What Grafana takes as $__rate_interval: four times the scrape interval of its data source.
RATE_INTERVAL = "20s"

pytestmark = pytest.mark.skipif(
    not (shutil.which("prometheus") and shutil.which("haproxy")),
    reason="prometheus and haproxy are not both installed",
)


def dashboard() -> Any:
    """Return the dashboard that Grafana shows."""
    return json.loads((DEPLOY / "grafana" / "lacuna.json").read_text(encoding="utf-8"))


def rules(name: str) -> list[dict[str, Any]]:
    """Return the rules of a rule file."""
    groups = yaml.safe_load((DEPLOY / name).read_text(encoding="utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


@dataclass
class Watched:
    """A service, the proxy in front of it, and the Prometheus that reads both.

    Attributes:
        port: of the proxy.
        instance: the service's name in Prometheus.
        prometheus: address of Prometheus.
    """

    port: int
    instance: str
    prometheus: str

    def use(self) -> None:
        """Ask questions of each kind, so that the service reads, batches, caches and counts."""
        for path, text in (
            ("/predict", ["I like the", "I like to go to the theat"]),
            ("/cloze", "I ____ the"),
            ("/score", "the cat"),
        ):
            assert post(f"http://127.0.0.1:{self.port}{path}", {"text": text})["results"]

    def finds(self, expression: str) -> bool:
        """Return True if Prometheus has at least one number for *expression*."""
        assert "$" not in expression
        return any(
            math.isfinite(float(sample["value"][1]))
            for sample in query(self.prometheus, expression)
        )


@pytest.fixture(scope="module")
def watched(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """All three, with the deployment's configuration but for addresses and shorter intervals."""
    config = yaml.safe_load((DEPLOY / "prometheus.yml").read_text(encoding="utf-8"))
    config["global"] = dict.fromkeys(config["global"], "500ms")
    config["rule_files"] = [str(DEPLOY / name) for name in config["rule_files"]]
    folder = tmp_path_factory.mktemp("prometheus")
    port = free_port()
    with (
        serving(REAL, "--checkpoint", str(tiny_checkpoint), "--threads", "1") as server,
        proxying(":".join(map(str, server.address)), folder) as proxy,
    ):
        instance = ":".join(map(str, server.address))
        for job, target in zip(
            config["scrape_configs"], (instance, f"127.0.0.1:{proxy.metrics_port}"), strict=True
        ):
            job["static_configs"] = [{"targets": [target]}]
        # JSON is YAML.
        (folder / "prometheus.yml").write_text(json.dumps(config), encoding="utf-8")
        command = [
            "prometheus",
            f"--config.file={folder}/prometheus.yml",
            f"--storage.tsdb.path={folder}/data",
            f"--web.listen-address=127.0.0.1:{port}",
        ]
        with (folder / "log").open("w") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            yield Watched(proxy.port, instance, f"http://127.0.0.1:{port}")
        finally:
            process.terminate()
            process.wait()


def panel_queries(instance: str) -> dict[str, str]:
    """Return each query of the dashboard as Grafana sends it for one instance."""
    return {
        f"{panel['title']} {target['refId']}": target["expr"]
        .replace("$__rate_interval", RATE_INTERVAL)
        .replace("$instance", re.escape(instance).replace("\\", "\\\\"))
        for panel in dashboard()["panels"]
        for target in panel["targets"]
    }


def test_every_panel_and_every_rule_finds_numbers(watched: Watched) -> None:
    """Each panel shows a number, each rule records one, and each alert compares one."""
    expressions = panel_queries(watched.instance)
    expressions |= {rule["record"]: rule["record"] for rule in rules("recording.yml")}
    # The comparison of an alert is empty while nothing is wrong, so look at its left side.
    compared = re.compile(r"(.*) (?:==|>) [0-9.]+\s*", re.DOTALL)
    for rule in rules("alerts.yml"):
        match = compared.fullmatch(rule["expr"])
        assert match, rule["alert"]
        expressions[rule["alert"]] = match[1]

    def empty() -> list[str]:
        watched.use()
        return [name for name, expression in expressions.items() if not watched.finds(expression)]

    assert eventually(lambda: not empty()), empty()


def test_prometheus_can_evaluate_every_rule(watched: Watched) -> None:
    """Each rule runs without an error, and a service that answers everything raises no alert."""
    names = {
        rule.get("record") or rule["alert"]
        for name in ("recording.yml", "alerts.yml")
        for rule in rules(name)
    }

    def evaluated() -> dict[str, dict[str, Any]]:
        groups = get(watched.prometheus, "rules")["groups"]
        return {
            rule["name"]: rule
            for group in groups
            for rule in group["rules"]
            if rule["health"] != "unknown"
        }

    assert eventually(
        lambda: query(watched.prometheus, "lacuna_ready") != [] and evaluated().keys() == names
    )
    assert {rule["health"] for rule in evaluated().values()} == {"ok"}
    # How long a request takes depends on what else the machine does.
    steady = [
        rule for name, rule in evaluated().items() if name not in ("LacunaSlow", "LacunaQueueing")
    ]
    assert {rule["state"] for rule in steady if rule["type"] == "alerting"} == {"inactive"}


def test_the_instance_variable_offers_the_service(watched: Watched) -> None:
    """The dashboard's one variable lists the services."""
    (variable,) = dashboard()["templating"]["list"]
    match = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["query"])
    assert match

    def offered() -> Any:
        return get(watched.prometheus, f"label/{match[2]}/values", **{"match[]": match[1]})

    assert eventually(lambda: offered() == [watched.instance]), offered()
