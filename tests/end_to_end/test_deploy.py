"""The files of the deployment agree with the service and with each other."""

import json
import re
import shutil
import subprocess
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from research.quickstart import free_port
from service.settings import Settings, read_settings
from tests.end_to_end.prometheus import DEPLOY, dashboard, eventually, read_yaml, rules
from tests.service.server_process import METRICS_PORT, REAL, ROOT, serving

# Prometheus adds these to every series.
ADDED = {"instance", "job"}
# Series of the proxy that a rule or a panel reads; test_proxy.py finds them in a real HAProxy.
OF_PROXY = ("haproxy_frontend_requests_denied_total", "haproxy_frontend_http_requests_total")
needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is not installed"
)


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    """The services of docker-compose.yml, merge keys resolved."""
    values: dict[str, Any] = read_yaml(ROOT / "docker-compose.yml")["services"]
    return values


@pytest.fixture(scope="module")
def exported(tiny_checkpoint: Path) -> dict[str, set[str]]:
    """Label names by series name, as a real service exports them before its first question."""
    options = "--checkpoint", str(tiny_checkpoint), "--threads", "1", *METRICS_PORT
    with serving(REAL, *options) as server:
        text = server.metrics()
    series: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            series.setdefault(sample.name, set()).update(sample.labels)
    return series


def as_compose_does(value: str) -> str:
    """Replace variables by their defaults."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", value)


def test_compose_locks_down_every_container(services: dict[str, Any]) -> None:
    """Each container has a read-only root, no capabilities, no way to new privileges, few threads.

    Keys are waived, so ports are on loopback only, and none is a service's.
    """
    names = {"haproxy", "service", "service-2", "prometheus", "grafana", "training"}
    assert set(services) == names
    for name, service in services.items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["pids_limit"] > 0, name
        assert "privileged" not in service, name
        ports = service.get("ports", [])
        assert all(port.startswith("127.0.0.1:") for port in ports), name
        mounts = [mount.split(":")[0] for mount in service.get("volumes", [])]
        files = [mount for mount in mounts if mount.startswith("./deploy")]
        files += [service["build"]["dockerfile"]] if "build" in service else []
        assert all((ROOT / file).is_file() for file in files), name
    assert not any("ports" in services[name] for name in ("service", "service-2"))
    assert [port.rpartition(":")[2] for port in services["haproxy"]["ports"]] == ["8000"]


def test_compose_sets_only_settings_of_the_service(
    services: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The variables of compose and image are settings: all interfaces, keys waived."""
    dockerfile = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
    image = dict(re.findall(r"(LACUNA_\w+)=(\S+)", dockerfile))
    for variable, value in (image | services["service"]["environment"]).items():
        assert variable.removeprefix("LACUNA_").lower() in Settings.model_fields
        monkeypatch.setenv(variable, as_compose_does(value))
    settings = read_settings([])
    assert (settings.host, settings.port, settings.allow_anonymous) == ("0.0.0.0", 8000, True)
    assert settings.allowed_hosts == ("service", "service-2")  # the names that Prometheus uses
    assert settings.drain_seconds == 3


def test_images_hold_only_what_they_need() -> None:
    """Each runs as a numeric user, has its own code only, and packages of its lock with hashes."""
    for name, lock, packages in (
        ("Dockerfile", "requirements.lock", {"model/", "service/"}),
        ("Dockerfile.training", "requirements-training.lock", {"model/", "training/"}),
    ):
        text = (DEPLOY / name).read_text(encoding="utf-8")
        final = text[text.rindex("\nFROM ") :]
        assert re.search(r"^USER [1-9]\d*:[1-9]\d*$", final, re.MULTILINE), name
        assert set(re.findall(r"^COPY (?!--from)(\S+)", final, re.MULTILINE)) == packages
        locks = [lock, "requirements-build.lock"]  # of the second, only the library stays
        assert re.findall(r"^COPY deploy/(\S+)", text, re.MULTILINE) == locks
        options = re.findall(r"pip install .* (--require-hashes .*\S+\.lock)", text)
        assert options == [f"--require-hashes --only-binary :all: -r {each}" for each in locks]
        copied = re.findall(r"^COPY --from=(\S+ \S+)", final, re.MULTILINE)
        assert copied == ["build /opt/lacuna", "native /build/liblacuna.so"]
    ignored = (ROOT / ".dockerignore").read_text("utf-8").splitlines()
    assert "!deploy/requirements*.lock" in ignored


def test_every_image_may_be_pinned(services: dict[str, Any]) -> None:
    """Each image is a variable, so that it can be a digest; its default names a version."""
    for name, service in services.items():
        if "build" not in service:
            pattern = rf"\$\{{{name.upper()}_IMAGE:-[\w/]+:v?\d[\w.]+\}}"
            assert re.fullmatch(pattern, service["image"]), name
            continue
        dockerfile = (ROOT / service["build"]["dockerfile"]).read_text(encoding="utf-8")
        (default,) = re.findall(r"^ARG BASE_IMAGE=(\S+:\d\S+)$", dockerfile, re.MULTILINE)
        # docker-compose 1.29 passes a variable that is not set as an empty one.
        assert f"BASE_IMAGE=${{BASE_IMAGE:-{default}}}" in service["build"]["args"], name
        assert set(re.findall(r"^FROM (\S+)", dockerfile, re.MULTILINE)) == {"$BASE_IMAGE"}


def test_prometheus_scrapes_service_and_proxy(services: dict[str, Any]) -> None:
    """The targets are the containers' ports, the second replica if it runs; rules are mounted."""
    config = read_yaml(DEPLOY / "prometheus.yml")
    targets = {
        job["job_name"]: job["static_configs"][0]["targets"] for job in config["scrape_configs"]
    }
    metrics_port = services["haproxy"]["environment"]["PROXY_METRICS_ADDRESS"].rpartition(":")[2]
    assert targets == {
        "lacuna": [f"service:{services['service']['environment']['LACUNA_METRICS_PORT']}"],
        "haproxy": [f"haproxy:{metrics_port}"],
    }
    (second,) = config["scrape_configs"][0]["dns_sd_configs"]
    port = services["service-2"]["environment"]["LACUNA_METRICS_PORT"]
    assert second == {"names": ["service-2"], "type": "A", "port": int(port)}
    mounts = {mount.split(":")[1] for mount in services["prometheus"]["volumes"]}
    names = ("prometheus.yml", *config["rule_files"])
    assert {f"/etc/prometheus/{name}" for name in names} <= mounts


@pytest.mark.skipif(shutil.which("prometheus") is None, reason="prometheus is not installed")
def test_only_pages_of_prometheus_may_read_its_answers(
    services: dict[str, Any], tmp_path: Path
) -> None:
    """With the options of docker-compose.yml, Prometheus admits no page of another origin."""
    options = [option for option in services["prometheus"]["command"] if "--web." in option]
    port = free_port()
    (tmp_path / "empty.yml").touch()
    command = [
        "prometheus",
        f"--config.file={tmp_path}/empty.yml",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    command += [f"--storage.tsdb.path={tmp_path}", *(as_compose_does(each) for each in options)]

    def admits(origin: str) -> bool:
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/api/v1/labels", headers={"Origin": origin}
        )
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.headers["Access-Control-Allow-Origin"] is not None

    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        try:
            assert eventually(lambda: admits("http://localhost:9090"))
            assert admits("http://127.0.0.1:9090")
            for other in (
                "https://example.org",
                "http://localhost:8000",
                "http://localhost:9090.org",
            ):
                assert not admits(other), other
        finally:
            process.kill()


@pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed"
)
def test_systemd_accepts_and_confines_the_unit(tmp_path: Path) -> None:
    """Every line of the unit is known to systemd, which rates its exposure below 2 of 10."""
    unit = tmp_path / "lacuna.service"
    text = (DEPLOY / "lacuna.service").read_text(encoding="utf-8")
    unit.write_text(re.sub(r"^ExecStart=\S+", "ExecStart=/bin/sh", text, flags=re.MULTILINE))
    for command in (["verify"], ["security", "--offline=true", "--threshold=20"]):
        result = subprocess.run(
            ["systemd-analyze", *command, unit], capture_output=True, text=True, check=False
        )
        assert (result.returncode, result.stderr) == (0, ""), result.stdout


def panel_queries() -> list[str]:
    """Return each query of the dashboard."""
    return [target["expr"] for panel in dashboard()["panels"] for target in panel["targets"]]


def names_in(expression: str) -> set[str]:
    """Return the series that an expression reads."""
    without_labels = re.sub(r'"[^"]*"', "", expression)
    return set(re.findall(r"[\w:]*\b(?:lacuna|process|haproxy)_[\w:]*|\bup\b", without_labels))


def labels_by(expression: str) -> list[set[str]]:
    """Return the labels that each aggregation in an expression keeps."""
    return [set(group.split(", ")) for group in re.findall(r"by \(([^)]*)\)", expression)]


def test_rules_and_dashboard_read_only_existing_series(exported: dict[str, set[str]]) -> None:
    """Every series and label in an expression is exported, recorded, or added by Prometheus."""
    known = {name: labels | ADDED for name, labels in exported.items()} | {"up": ADDED}
    known |= {name: ADDED | {"proxy"} for name in OF_PROXY}
    for rule in rules("recording.yml"):
        known[rule["record"]] = set.union(*labels_by(rule["expr"]))
    expressions = [rule["expr"] for rule in rules("recording.yml") + rules("alerts.yml")]
    expressions += panel_queries()
    for expression in expressions:
        names = names_in(expression)
        assert names, expression
        assert names <= known.keys(), expression
        used = set(re.findall(r"(\w+)=~?\"", expression)).union(*labels_by(expression))
        assert used <= set.union(*(known[name] for name in names)), expression


def test_each_alert_has_a_section_that_says_what_to_do() -> None:
    """Each alert has a severity and a section of docs/operations.md."""
    document = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    sections = dict(
        re.findall(r"^### (\w+)\n(.*?)(?=^### |\Z)", document, re.MULTILINE | re.DOTALL)
    )
    alerts = {rule["alert"]: rule for rule in rules("alerts.yml")}
    assert sections.keys() == alerts.keys()
    assert {rule["labels"]["severity"] for rule in alerts.values()} == {"page", "ticket"}
    for name, rule in alerts.items():
        assert rule["annotations"]["runbook"] == f"docs/operations.md#{name.lower()}"
        for part in ("Means", "Look at", "Do"):
            assert f"**{part}:**" in sections[name], name
    for job in ("lacuna", "haproxy"):  # by which LacunaDown knows what should be up
        assert f"`job_name: {job}`" in document


def test_grafana_finds_its_files(services: dict[str, Any]) -> None:
    """Source, provider and dashboard are mounted where Grafana reads them."""
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
    for part in [*dashboard()["panels"], *dashboard()["templating"]["list"]]:
        assert part["datasource"] == {"type": source["type"], "uid": source["uid"]}


@needs_promtool
@pytest.mark.parametrize("command", ["check config prometheus.yml", "test rules alerts.test.yml"])
def test_promtool_accepts(command: str) -> None:
    """Prometheus' own checker accepts the configuration and sees each alert fire and stay quiet."""
    result = subprocess.run(
        ["promtool", *command.split()], cwd=DEPLOY, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr


@needs_promtool
def test_promtool_accepts_every_panel(tmp_path: Path) -> None:
    """Prometheus' own checker parses each query of the dashboard as if it were a rule."""
    queries = [expression.replace("$__rate_interval", "20s") for expression in panel_queries()]
    panels = [{"record": f"panel_{number}", "expr": each} for number, each in enumerate(queries)]
    file = tmp_path / "panels.yml"
    file.write_text(json.dumps({"groups": [{"name": "panels", "rules": panels}]}))
    subprocess.run(["promtool", "check", "rules", file], capture_output=True, check=True)
