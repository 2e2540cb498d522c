"""The deployment files say what the service does: compose, images, scrape configuration, alerts, hooks."""

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
    """Every alert rule."""
    return [rule for group in read_yaml(DEPLOY / "alerts.yml")["groups"] for rule in group["rules"]]


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
    assert set(compose["services"]) == {"service", "prometheus", "training"}
    for name, service in compose["services"].items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert "privileged" not in service, name


def test_compose_publishes_on_loopback_only(compose: dict[str, Any]) -> None:
    """Keys are waived in compose, so no published port may be reachable from another machine."""
    ports = [port for service in compose["services"].values() for port in service.get("ports", [])]
    assert len(ports) == 2
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_compose_is_valid_for_old_and_new_engines(compose: dict[str, Any]) -> None:
    """docker-compose 1.29 knows no top-level `name`, and Compose v2 warns of `version`; extensions begin with x-."""
    assert {key for key in compose if not key.startswith("x-")} == {"services", "volumes"}


def test_compose_sets_only_settings_that_the_service_has(
    compose: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The variables that compose and image set are read as meant: all interfaces, keys waived by name."""
    image = dict(re.findall(r"(LACUNA_\w+)=(\S+)", (DEPLOY / "Dockerfile").read_text(encoding="utf-8")))
    for variable, value in (image | compose["services"]["service"]["environment"]).items():
        assert variable.removeprefix("LACUNA_").lower() in Settings.model_fields
        monkeypatch.setenv(variable, value)
    settings = Settings()
    assert (settings.host, settings.port, settings.allow_anonymous) == ("0.0.0.0", 8000, True)


def test_training_is_a_profile_and_prometheus_waits_for_a_healthy_service(compose: dict[str, Any]) -> None:
    """`docker-compose up` starts service and Prometheus, in that order; training only when it is asked for."""
    profiles = {name: service.get("profiles") for name, service in compose["services"].items()}
    assert profiles == {"service": None, "prometheus": None, "training": ["training"]}
    assert compose["services"]["prometheus"]["depends_on"] == {"service": {"condition": "service_healthy"}}
    assert "HEALTHCHECK" in (DEPLOY / "Dockerfile").read_text(encoding="utf-8")


def test_what_compose_mounts_and_builds_exists(compose: dict[str, Any]) -> None:
    """Every file that compose mounts read-only or builds from is in the repository."""
    for service in compose["services"].values():
        sources = [mount.split(":")[0] for mount in service.get("volumes", []) if mount.startswith("./deploy")]
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
        assert copied == ({"model/", "service/"} if name == "Dockerfile" else {"model/", "training/"})


def test_prometheus_scrapes_the_service_where_compose_runs_it(compose: dict[str, Any]) -> None:
    """The one scrape target is the compose service at its container port, and the rule file is mounted beside."""
    config = read_yaml(DEPLOY / "prometheus.yml")
    (job,) = config["scrape_configs"]
    container_port = compose["services"]["service"]["ports"][0].rpartition(":")[2]
    assert job["job_name"] == "lacuna"
    assert job["metrics_path"] == "/metrics"
    assert job["static_configs"] == [{"targets": [f"service:{container_port}"]}]
    mounts = [mount.split(":")[1] for mount in compose["services"]["prometheus"]["volumes"]]
    assert config["rule_files"] == ["alerts.yml"]
    assert {"/etc/prometheus/prometheus.yml", "/etc/prometheus/alerts.yml"} <= set(mounts)


def test_alerts_mention_only_what_the_service_exports(
    rules: list[dict[str, Any]], exported: dict[str, set[str]]
) -> None:
    """Every series and label in an alert's expression is on a fresh service's /metrics, or is Prometheus' own."""
    added = {"instance", "job"}  # by Prometheus, to every series
    exported = {**exported, "up": set()}
    assert {rule["alert"] for rule in rules} == {
        "LacunaDown",
        "LacunaNotReady",
        "LacunaErrors",
        "LacunaSlow",
        "LacunaRefusing",
    }
    for rule in rules:
        names = re.findall(r"\b(?:lacuna_\w+|up)\b", rule["expr"])
        assert names, rule["alert"]
        known = added.union(*(exported.get(name, set()) for name in names))
        assert [name for name in names if name not in exported] == [], rule["alert"]
        used = set(re.findall(r"(\w+)(?==~?\")", rule["expr"]))
        used |= {label for group in re.findall(r"by \(([^)]*)\)", rule["expr"]) for label in group.split(", ")}
        assert used <= known, rule["alert"]


def test_alert_texts_use_only_labels_that_the_expression_keeps(rules: list[dict[str, Any]]) -> None:
    """An annotation that names a label which was summed away would read as empty."""
    for rule in rules:
        kept = [set(group.split(", ")) for group in re.findall(r"by \(([^)]*)\)", rule["expr"])] or [{"instance"}]
        used = set(re.findall(r"\$labels\.(\w+)", str(rule["annotations"])))
        assert used <= set.intersection(*kept), rule["alert"]


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
@pytest.mark.parametrize("command", ["check config prometheus.yml", "test rules alerts.test.yml"])
def test_promtool_accepts(command: str) -> None:
    """Prometheus' own checker accepts the configuration, and sees each alert fire and stay quiet as described."""
    result = subprocess.run(["promtool", *command.split()], cwd=DEPLOY, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


def test_the_commit_hook_runs_what_ci_runs() -> None:
    """The one pre-commit hook is `make lint`, a part of `make check`, which is all that .ci/run runs."""
    (repository,) = read_yaml(ROOT / ".pre-commit-config.yaml")["repos"]
    (hook,) = repository["hooks"]
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert (repository["repo"], hook["entry"], hook["language"]) == ("local", "make lint", "system")
    assert re.search(r"^check: lint test$", makefile, re.MULTILINE)
    assert "exec make check" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")
