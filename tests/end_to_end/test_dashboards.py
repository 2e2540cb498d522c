"""Every query of the dashboard and every rule, on a real Prometheus, service and proxy."""

import json
import math
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from research.quickstart import free_port, post
from tests.end_to_end.haproxy import proxying
from tests.end_to_end.prometheus import DEPLOY, dashboard, eventually, query, read_yaml, rules
from tests.service.server_process import REAL, serving

# What Grafana takes as $__rate_interval: four times the scrape interval of its data source.
RATE_INTERVAL = "20s"

pytestmark = pytest.mark.skipif(
    not (shutil.which("prometheus") and shutil.which("haproxy")),
    reason="prometheus and haproxy are not both installed",
)


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
    config = read_yaml(DEPLOY / "prometheus.yml")
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
    """Each panel shows a number, each rule records one, and each alert compares one.

    The dashboard's one variable lists the services.
    """
    (variable,) = dashboard()["templating"]["list"]
    assert variable["query"] == "label_values(lacuna_ready, instance)"
    expressions = panel_queries(watched.instance)
    expressions["variable"] = f'lacuna_ready{{instance="{watched.instance}"}}'
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
