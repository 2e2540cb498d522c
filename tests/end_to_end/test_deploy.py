"""The deployment files say what the service does: compose, images, scrape configuration, alerts, hooks."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from service.settings import Settings
from tests.service.server_process import REAL, serving

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
# By Prometheus, to every series.
ADDED = {"instance", "job"}


def read_yaml(path: Path) -> Any:
    """The one document of a YAML file."""
    return yaml.safe_load(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    """docker-compose.yml, merge keys resolved."""
    values: dict[str, Any] = read_yaml(ROOT / "docker-compose.yml")
    return values


@pytest.fixture(scope="module")
def rules() -> list[dict[str, Any]]:
    """Every rule, recording rules first."""
    groups = [
        group
        for name in ("recording.yml", "alerts.yml")
        for group in read_yaml(DEPLOY / name)["groups"]
    ]
    return [rule for group in groups for rule in group["rules"]]


@pytest.fixture(scope="module")
def dashboard() -> dict[str, Any]:
    """The dashboard that Grafana is given."""
    values: dict[str, Any] = json.loads(
        (DEPLOY / "grafana" / "lacuna.json").read_text(encoding="utf-8")
    )
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


def test_compose_locks_every_container_down(compose: dict[str, Any]) -> None:
    """Each container has a read-only root, no capabilities and no way to new privileges; none is privileged."""
    assert set(compose["services"]) == {"service", "prometheus", "grafana", "training"}
    for name, service in compose["services"].items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert "privileged" not in service, name


def test_compose_publishes_on_loopback_only(compose: dict[str, Any]) -> None:
    """Keys are waived in compose, so no published port may be reachable from another machine."""
    ports = [port for service in compose["services"].values() for port in service.get("ports", [])]
    assert len(ports) == 3
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_compose_is_valid_for_old_and_new_engines(compose: dict[str, Any]) -> None:
    """docker-compose 1.29 knows no top-level `name`, and Compose v2 warns of `version`; extensions begin with x-."""
    assert {key for key in compose if not key.startswith("x-")} == {"services", "volumes"}


def test_compose_sets_only_settings_that_the_service_has(
    compose: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The variables that compose and image set are read as meant: all interfaces, keys waived by name."""
    image = dict(
        re.findall(r"(LACUNA_\w+)=(\S+)", (DEPLOY / "Dockerfile").read_text(encoding="utf-8"))
    )
    for variable, value in (image | compose["services"]["service"]["environment"]).items():
        assert variable.removeprefix("LACUNA_").lower() in Settings.model_fields
        monkeypatch.setenv(variable, value)
    settings = Settings()
    assert (settings.host, settings.port, settings.allow_anonymous) == ("0.0.0.0", 8000, True)


def test_only_service_and_prometheus_start_unasked(compose: dict[str, Any]) -> None:
    """`docker-compose up` starts service and Prometheus, in that order; training and Grafana only when asked for."""
    profiles = {name: service.get("profiles") for name, service in compose["services"].items()}
    assert profiles == {
        "service": None,
        "prometheus": None,
        "grafana": ["dashboards"],
        "training": ["training"],
    }
    assert compose["services"]["prometheus"]["depends_on"] == {
        "service": {"condition": "service_healthy"}
    }
    assert "HEALTHCHECK" in (DEPLOY / "Dockerfile").read_text(encoding="utf-8")


def test_what_compose_mounts_and_builds_exists(compose: dict[str, Any]) -> None:
    """Every file that compose mounts read-only or builds from is in the repository."""
    for service in compose["services"].values():
        sources = [
            mount.split(":")[0]
            for mount in service.get("volumes", [])
            if mount.startswith("./deploy")
        ]
        sources += [service["build"]["dockerfile"]] if "build" in service else []
        for source in sources:
            assert (ROOT / source).is_file(), source


def test_images_run_as_a_numeric_user_and_the_service_image_has_no_training_code() -> None:
    """Both images name a user id other than root's; the service's final stage copies model/ and service/ alone."""
    for name in ("Dockerfile", "Dockerfile.training"):
        text = (DEPLOY / name).read_text(encoding="utf-8")
        final = text[text.rindex("\nFROM ") :]
        assert re.search(r"^USER [1-9]\d*:[1-9]\d*$", final, re.MULTILINE), name
        copied = set(re.findall(r"^COPY (?!--from)(\S+)", final, re.MULTILINE))
        assert copied == (
            {"model/", "service/"} if name == "Dockerfile" else {"model/", "training/"}
        )


def test_the_service_image_installs_only_what_the_lock_has_hashes_of() -> None:
    """The build tells pip to refuse what has no hash, and may see the lock."""
    assert "--require-hashes --only-binary :all: -r requirements.lock" in (
        DEPLOY / "Dockerfile"
    ).read_text("utf-8")
    assert "!deploy/requirements.lock" in (ROOT / ".dockerignore").read_text("utf-8").splitlines()


def test_compose_bounds_the_service(compose: dict[str, Any]) -> None:
    """CacheLM and CPUs of the service have limits that can be set by variables which are no settings of the service."""
    service = compose["services"]["service"]
    assert service["mem_limit"] == "${SERVICE_MEMORY:-1g}"
    assert (
        service["cpus"] == "${SERVICE_CPUS:-0}"
    )  # all: a number above those of the machine would be refused


def test_prometheus_scrapes_the_service_where_compose_runs_it(compose: dict[str, Any]) -> None:
    """The one scrape target is the compose service at its container port, and the rule files are mounted beside."""
    config = read_yaml(DEPLOY / "prometheus.yml")
    (job,) = config["scrape_configs"]
    container_port = compose["services"]["service"]["ports"][0].rpartition(":")[2]
    assert job["job_name"] == "lacuna"
    assert job["metrics_path"] == "/metrics"
    assert job["static_configs"] == [{"targets": [f"service:{container_port}"]}]
    mounts = [mount.split(":")[1] for mount in compose["services"]["prometheus"]["volumes"]]
    assert config["rule_files"] == ["recording.yml", "alerts.yml"]
    assert {f"/etc/prometheus/{name}" for name in ("prometheus.yml", *config["rule_files"])} <= set(
        mounts
    )


def names_in(expression: str) -> set[str]:
    """Series that an expression asks for; those of functions and labels carry none of our prefixes."""
    return set(
        re.findall(r"[\w:]*\b(?:lacuna|process)_[\w:]*|\bup\b", re.sub(r'"[^"]*"', "", expression))
    )


def labels_by(expression: str) -> list[set[str]]:
    """Labels that each aggregation in an expression keeps."""
    return [set(group.split(", ")) for group in re.findall(r"by \(([^)]*)\)", expression)]


def test_rules_and_dashboard_ask_only_for_what_there_is(
    rules: list[dict[str, Any]], dashboard: dict[str, Any], exported: dict[str, set[str]]
) -> None:
    """Every series and label in an expression is on a fresh service's /metrics, recorded, or Prometheus' own."""
    known = {name: labels | ADDED for name, labels in exported.items()} | {"up": ADDED}
    known |= {
        rule["record"]: set.union(*labels_by(rule["expr"])) for rule in rules if "record" in rule
    }
    expressions = [rule["expr"] for rule in rules]
    expressions += [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    for expression in expressions:
        names = names_in(expression)
        assert names, expression
        assert names <= known.keys(), expression
        used = set(re.findall(r"(\w+)=~?\"", expression)).union(*labels_by(expression))
        assert used <= set.union(*(known[name] for name in names)), expression


def test_a_recorded_series_is_named_after_the_labels_that_it_keeps(
    rules: list[dict[str, Any]],
) -> None:
    """`level:metric:operations`, Prometheus' convention: the level is what the rule aggregates by, `le` apart."""
    recorded = [rule for rule in rules if "record" in rule]
    assert recorded
    for rule in recorded:
        level, metric, operations = rule["record"].split(":")
        kept = set.union(*labels_by(rule["expr"])) - {"le"}
        assert set(level.split("_")) == kept, rule["record"]
        assert operations
        assert metric.startswith("lacuna_")


def test_each_alert_says_what_to_do(rules: list[dict[str, Any]]) -> None:
    """Each alert has a severity and leads to its section of docs/operations.md, with what to look at and to do."""
    document = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    sections = dict(
        re.findall(r"^### (\w+)\n(.*?)(?=^### |\Z)", document, re.MULTILINE | re.DOTALL)
    )
    alerts = {rule["alert"]: rule for rule in rules if "alert" in rule}
    assert sections.keys() == alerts.keys()
    for name, rule in alerts.items():
        assert rule["labels"]["severity"] in ("page", "ticket")
        assert rule["annotations"]["description"]
        assert (
            rule["annotations"]["runbook"] == f"docs/operations.md#{name.lower()}"
        )  # as anchors of headings are made
        assert [f"**{part}:**" in sections[name] for part in ("Means", "Look at", "Do")] == [
            True
        ] * 3, name


def test_the_document_says_which_job_the_alerts_ask_for(rules: list[dict[str, Any]]) -> None:
    """A Prometheus of somebody else that scrapes under another name would never see the service down."""
    document = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    jobs = {job for rule in rules for job in re.findall(r'job="([^"]*)"', rule["expr"])}
    assert jobs
    assert all(f"`job_name: {job}`" in document for job in jobs)


def test_a_broken_keys_file_raises_an_alert(rules: list[dict[str, Any]]) -> None:
    """The service goes on with the old keys, a revoked one among them, so somebody must be told."""
    assert any("lacuna_keys_current" in rule["expr"] for rule in rules if "alert" in rule)


def test_alert_texts_use_only_labels_that_the_expression_keeps(rules: list[dict[str, Any]]) -> None:
    """An annotation that names a label which was summed away would read as empty."""
    recorded = {
        rule["record"]: set(rule["record"].partition(":")[0].split("_"))
        for rule in rules
        if "record" in rule
    }
    for rule in rules:
        kept = [recorded.get(name, ADDED) for name in names_in(rule["expr"])]
        used = set(re.findall(r"\$labels\.(\w+)", str(rule.get("annotations"))))
        assert used <= set.intersection(*kept, *labels_by(rule["expr"])), rule


def test_the_dashboard_is_provisioned_where_compose_runs_it(
    compose: dict[str, Any], dashboard: dict[str, Any]
) -> None:
    """Grafana finds source, provider and dashboard at its mounts; all panels ask that source."""
    mounts = dict(mount.split(":")[:2] for mount in compose["services"]["grafana"]["volumes"])
    inside = {Path(source).name: Path(target) for source, target in mounts.items()}
    assert inside["datasource.yml"].parent == Path("/etc/grafana/provisioning/datasources")
    assert inside["provider.yml"].parent == Path("/etc/grafana/provisioning/dashboards")
    (provider,) = read_yaml(DEPLOY / "grafana" / "provider.yml")["providers"]
    assert inside["lacuna.json"].parent == Path(provider["options"]["path"])
    (source,) = read_yaml(DEPLOY / "grafana" / "datasource.yml")["datasources"]
    assert source["url"] == "http://prometheus:9090"
    assert (
        source["jsonData"]["timeInterval"]
        == read_yaml(DEPLOY / "prometheus.yml")["global"]["scrape_interval"]
    )
    asks = [*dashboard["panels"], *dashboard["templating"]["list"]]
    assert all(
        part["datasource"] == {"type": source["type"], "uid": source["uid"]} for part in asks
    )


def test_panels_are_whole_and_do_not_overlap(dashboard: dict[str, Any]) -> None:
    """Each panel has an id of its own, a title, a description, a unit and a place of its own on the 24 columns."""
    cells: list[tuple[int, int]] = []
    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells += [
            (place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])
        ]
        assert panel["title"]
        assert panel["description"]
        assert panel["fieldConfig"]["defaults"]["unit"]
    assert len(cells) == len(set(cells))
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
@pytest.mark.parametrize("command", ["check config prometheus.yml", "test rules alerts.test.yml"])
def test_promtool_accepts(command: str) -> None:
    """Prometheus' own checker accepts the configuration, and sees each alert fire and stay quiet as described."""
    result = subprocess.run(
        ["promtool", *command.split()], cwd=DEPLOY, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr


def test_the_commit_hook_runs_what_ci_runs() -> None:
    """The one pre-commit hook is `make lint`, a part of `make check`, which is all that .ci/run runs."""
    (repository,) = read_yaml(ROOT / ".pre-commit-config.yaml")["repos"]
    (hook,) = repository["hooks"]
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert (repository["repo"], hook["entry"], hook["language"]) == ("local", "make lint", "system")
    assert re.search(r"^check: lint test$", makefile, re.MULTILINE)
    assert "exec make check" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")
