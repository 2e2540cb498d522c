"""The deployment files agree with the service and with each other: compose, images, scraping, alerts, dashboard."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from service.settings import Settings, read_settings
from tests.service.server_process import REAL, ROOT, serving

DEPLOY = ROOT / "deploy"
# Prometheus adds these to every series.
ADDED = {"instance", "job"}
# Series of the proxy that a rule or a panel reads; test_proxy.py finds them in a real HAProxy.
OF_PROXY = ("haproxy_frontend_requests_denied_total", "haproxy_frontend_http_requests_total")


def read_yaml(path: Path) -> Any:
    """Return the one document of a YAML file."""
    return yaml.safe_load(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    """The services of docker-compose.yml, merge keys resolved."""
    values: dict[str, Any] = read_yaml(ROOT / "docker-compose.yml")["services"]
    return values


@pytest.fixture(scope="module")
def rules() -> list[dict[str, Any]]:
    """Every rule, recording rules first."""
    files = [read_yaml(DEPLOY / name) for name in ("recording.yml", "alerts.yml")]
    return [rule for file in files for group in file["groups"] for rule in group["rules"]]


@pytest.fixture(scope="module")
def dashboard() -> dict[str, Any]:
    """The dashboard that Grafana shows."""
    text = (DEPLOY / "grafana" / "lacuna.json").read_text(encoding="utf-8")
    values: dict[str, Any] = json.loads(text)
    return values


@pytest.fixture(scope="module")
def exported(tiny_checkpoint: Path) -> dict[str, set[str]]:
    """Label names by series name, as a real service exports them before its first question."""
    with serving(REAL, "--checkpoint", str(tiny_checkpoint), "--threads", "1") as server:
        text = server.ask("GET", "/metrics").body.decode()
    series: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            series.setdefault(sample.name, set()).update(sample.labels)
    return series


def test_compose_locks_down_every_container(services: dict[str, Any]) -> None:
    """Each container has a read-only root, no capabilities and no way to new privileges."""
    assert set(services) == {"haproxy", "service", "prometheus", "grafana", "training"}
    for name, service in services.items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert "privileged" not in service, name


def test_compose_publishes_the_proxy_and_not_the_service(services: dict[str, Any]) -> None:
    """Keys are waived in compose: ports are published on loopback only, and none of the service."""
    ports = {name: service.get("ports", []) for name, service in services.items()}
    assert all(port.startswith("127.0.0.1:") for published in ports.values() for port in published)
    assert ports["service"] == []
    assert [port.rpartition(":")[2] for port in ports["haproxy"]] == ["8000"]
    assert services["haproxy"]["environment"]["PROXY_ADDRESS"] == "*:8000"


def test_compose_starts_containers_in_order_and_some_only_on_request(
    services: dict[str, Any],
) -> None:
    """Proxy and Prometheus start when the service is healthy; training and Grafana need a profile."""
    profiles = {name: service.get("profiles") for name, service in services.items()}
    assert {name for name, profile in profiles.items() if profile is None} == {
        "haproxy",
        "service",
        "prometheus",
    }
    for name in ("haproxy", "prometheus"):
        assert services[name]["depends_on"]["service"] == {"condition": "service_healthy"}
    assert "HEALTHCHECK" in (DEPLOY / "Dockerfile").read_text(encoding="utf-8")


def test_compose_sets_only_settings_of_the_service(
    services: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The service reads the variables of compose and image as meant: all interfaces, keys waived by name."""
    dockerfile = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
    image = dict(re.findall(r"(LACUNA_\w+)=(\S+)", dockerfile))
    for variable, value in (image | services["service"]["environment"]).items():
        assert variable.removeprefix("LACUNA_").lower() in Settings.model_fields
        monkeypatch.setenv(variable, re.sub(r"\$\{\w+:-(\w*)\}", r"\1", value))  # as compose does
    settings = read_settings([])
    assert (settings.host, settings.port, settings.allow_anonymous) == ("0.0.0.0", 8000, True)


def test_files_that_compose_names_exist(services: dict[str, Any]) -> None:
    """Every file that compose mounts or builds from is in the repository."""
    for service in services.values():
        mounts = [mount.split(":")[0] for mount in service.get("volumes", [])]
        files = [mount for mount in mounts if mount.startswith("./deploy")]
        files += [service["build"]["dockerfile"]] if "build" in service else []
        for file in files:
            assert (ROOT / file).is_file(), file


def test_images_hold_only_what_they_need() -> None:
    """Both run as a numeric user; the service's image has no training code and installs hashed packages only."""
    for name, packages in (
        ("Dockerfile", {"model/", "service/"}),
        ("Dockerfile.training", {"model/", "training/"}),
    ):
        text = (DEPLOY / name).read_text(encoding="utf-8")
        final = text[text.rindex("\nFROM ") :]
        assert re.search(r"^USER [1-9]\d*:[1-9]\d*$", final, re.MULTILINE), name
        assert set(re.findall(r"^COPY (?!--from)(\S+)", final, re.MULTILINE)) == packages
    dockerfile = (DEPLOY / "Dockerfile").read_text("utf-8")
    assert "--require-hashes --only-binary :all: -r requirements.lock" in dockerfile
    assert "!deploy/requirements.lock" in (ROOT / ".dockerignore").read_text("utf-8").splitlines()


def test_prometheus_scrapes_service_and_proxy(services: dict[str, Any]) -> None:
    """The targets are the containers' ports, and the rule files are mounted next to the configuration."""
    config = read_yaml(DEPLOY / "prometheus.yml")
    targets = {
        job["job_name"]: job["static_configs"][0]["targets"] for job in config["scrape_configs"]
    }
    metrics_port = services["haproxy"]["environment"]["PROXY_METRICS_ADDRESS"].rpartition(":")[2]
    assert targets == {
        "lacuna": [services["haproxy"]["environment"]["SERVICE_ADDRESS"]],
        "haproxy": [f"haproxy:{metrics_port}"],
    }
    mounts = {mount.split(":")[1] for mount in services["prometheus"]["volumes"]}
    names = ("prometheus.yml", *config["rule_files"])
    assert {f"/etc/prometheus/{name}" for name in names} <= mounts


def names_in(expression: str) -> set[str]:
    """Return the series that an expression reads."""
    without_labels = re.sub(r'"[^"]*"', "", expression)
    return set(re.findall(r"[\w:]*\b(?:lacuna|process|haproxy)_[\w:]*|\bup\b", without_labels))


def labels_by(expression: str) -> list[set[str]]:
    """Return the labels that each aggregation in an expression keeps."""
    return [set(group.split(", ")) for group in re.findall(r"by \(([^)]*)\)", expression)]


def test_rules_and_dashboard_read_only_existing_series(
    rules: list[dict[str, Any]], dashboard: dict[str, Any], exported: dict[str, set[str]]
) -> None:
    """Every series and label in an expression is exported, recorded, or added by Prometheus."""
    known = {name: labels | ADDED for name, labels in exported.items()} | {"up": ADDED}
    known |= {name: ADDED | {"proxy"} for name in OF_PROXY}
    for rule in rules:
        if "record" in rule:
            known[rule["record"]] = set.union(*labels_by(rule["expr"]))
    expressions = [rule["expr"] for rule in rules]
    expressions += [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    for expression in expressions:
        names = names_in(expression)
        assert names, expression
        assert names <= known.keys(), expression
        used = set(re.findall(r"(\w+)=~?\"", expression)).union(*labels_by(expression))
        assert used <= set.union(*(known[name] for name in names)), expression


def test_each_alert_has_a_section_that_says_what_to_do(rules: list[dict[str, Any]]) -> None:
    """Each alert has a severity and a section of docs/operations.md: meaning, what to look at, what to do."""
    document = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    sections = dict(
        re.findall(r"^### (\w+)\n(.*?)(?=^### |\Z)", document, re.MULTILINE | re.DOTALL)
    )
    alerts = {rule["alert"]: rule for rule in rules if "alert" in rule}
    assert sections.keys() == alerts.keys()
    assert {rule["labels"]["severity"] for rule in alerts.values()} == {"page", "ticket"}
    for name, rule in alerts.items():
        assert rule["annotations"]["runbook"] == f"docs/operations.md#{name.lower()}"
        for part in ("Means", "Look at", "Do"):
            assert f"**{part}:**" in sections[name], name
    for job in ("lacuna", "haproxy"):  # by which LacunaDown knows what should be up
        assert f"`job_name: {job}`" in document


def test_grafana_finds_its_files_and_panels_do_not_overlap(
    services: dict[str, Any], dashboard: dict[str, Any]
) -> None:
    """Source, provider and dashboard are mounted where Grafana reads them; each panel is whole."""
    mounts = dict(mount.split(":")[:2] for mount in services["grafana"]["volumes"])
    inside = {Path(file).name: Path(target) for file, target in mounts.items()}
    assert inside["datasource.yml"].parent == Path("/etc/grafana/provisioning/datasources")
    assert inside["provider.yml"].parent == Path("/etc/grafana/provisioning/dashboards")
    (provider,) = read_yaml(DEPLOY / "grafana" / "provider.yml")["providers"]
    assert inside["lacuna.json"].parent == Path(provider["options"]["path"])
    (source,) = read_yaml(DEPLOY / "grafana" / "datasource.yml")["datasources"]
    assert source["url"] == "http://prometheus:9090"
    interval = read_yaml(DEPLOY / "prometheus.yml")["global"]["scrape_interval"]
    assert source["jsonData"]["timeInterval"] == interval
    for part in [*dashboard["panels"], *dashboard["templating"]["list"]]:
        assert part["datasource"] == {"type": source["type"], "uid": source["uid"]}
    cells: list[tuple[int, int]] = []
    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        columns, lines = range(place["w"]), range(place["h"])
        cells += [(place["x"] + x, place["y"] + y) for x in columns for y in lines]
        assert panel["title"]
        assert panel["description"]
        assert panel["fieldConfig"]["defaults"]["unit"]
    assert len(cells) == len(set(cells))
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
@pytest.mark.parametrize("command", ["check config prometheus.yml", "test rules alerts.test.yml"])
def test_promtool_accepts(command: str) -> None:
    """Prometheus' own checker accepts the configuration and sees each alert fire and stay quiet."""
    result = subprocess.run(
        ["promtool", *command.split()], cwd=DEPLOY, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr


def test_the_commit_hook_runs_a_part_of_ci() -> None:
    """The pre-commit hook is `make lint`, a part of `make check`, which .ci/run runs."""
    (repository,) = read_yaml(ROOT / ".pre-commit-config.yaml")["repos"]
    (hook,) = repository["hooks"]
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert (repository["repo"], hook["entry"], hook["language"]) == ("local", "make lint", "system")
    assert re.search(r"^check: lint test$", makefile, re.MULTILINE)
    assert "exec make check" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")
