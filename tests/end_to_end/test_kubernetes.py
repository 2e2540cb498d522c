"""The manifests of deploy/kubernetes are valid, and agree with the service and its proxy."""

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import generate_latest

from service.app import create_app
from service.engine import STOP_SECONDS
from service.logs import FLUSH_SECONDS
from service.middleware import OPEN_ROUTES
from service.settings import Settings, read_settings
from tests.end_to_end.prometheus import DEPLOY, read_yaml
from tests.service.server_process import ROOT

Objects = dict[tuple[str, str], dict[str, Any]]


@pytest.fixture(scope="module")
def objects() -> Objects:
    """The objects by kind and name."""
    files = sorted((DEPLOY / "kubernetes").glob("*.yaml"))
    found = [each for file in files for each in yaml.safe_load_all(file.read_text("utf-8"))]
    return {(each["kind"], each["metadata"]["name"]): each for each in found}


def pod(objects: Objects, name: str) -> dict[str, Any]:
    """Return the pods' specification of a deployment."""
    value: dict[str, Any] = objects["Deployment", name]["spec"]["template"]["spec"]
    return value


def container(objects: Objects, name: str) -> dict[str, Any]:
    """Return the one container of a deployment."""
    (value,) = pod(objects, name)["containers"]
    return dict(value)


def variables(objects: Objects, name: str) -> dict[str, str]:
    """Return the environment of a deployment's container; without values that pods differ in."""
    return {each["name"]: each.get("value", "") for each in container(objects, name)["env"]}


def ports(objects: Objects, name: str) -> dict[str, int]:
    """Return the ports of a deployment's container by name."""
    return {each["name"]: each["containerPort"] for each in container(objects, name)["ports"]}


def proxy_config(objects: Objects) -> str:
    """Return the configuration that the proxy's container makes of deploy/haproxy.cfg."""
    edit, _, rest = container(objects, "haproxy")["args"][0].partition(" > ")
    assert rest.endswith(" && exec haproxy -W -db -f /tmp/haproxy.cfg")
    command = edit.replace("/etc/haproxy/", f"{DEPLOY}/")
    return subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True).stdout


def test_manifests_follow_the_schemas_of_kubernetes(objects: Objects) -> None:
    """Every object of Kubernetes itself has known fields of the right types only."""
    validator = pytest.importorskip("kubernetes_validate")
    of_others = {("ServiceMonitor", "lacuna")}
    assert of_others < objects.keys()
    for name in objects.keys() - of_others:
        validator.validate(objects[name], "1.37", strict=True)
    faulty = objects["Service", "lacuna"] | {"specs": {}}
    with pytest.raises(validator.ValidationError):
        validator.validate(faulty, "1.37", strict=True)


def test_selectors_and_ports_find_their_pods(objects: Objects) -> None:
    """Each selector is the label of a deployment's pods, and each port is one of these pods."""
    labels = {}
    for name in ("lacuna", "haproxy"):
        spec = objects["Deployment", name]["spec"]
        labels[name] = spec["template"]["metadata"]["labels"]
        assert spec["selector"]["matchLabels"] == labels[name]
        budget = objects["PodDisruptionBudget", name]["spec"]
        policy = objects["NetworkPolicy", name]["spec"]
        for selector in (budget["selector"], policy["podSelector"]):
            assert selector["matchLabels"] == labels[name]
        allowed = [port["port"] for rule in policy["ingress"] for port in rule["ports"]]
        assert allowed == list(ports(objects, name)) == ["http", "metrics"]
    services = {"lacuna": "haproxy", "lacuna-replicas": "lacuna"}
    for name, target in services.items():
        service = objects["Service", name]
        assert service["spec"]["selector"] == service["metadata"]["labels"] == labels[target]
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= set(
            ports(objects, target)
        )
    (incoming, _) = objects["NetworkPolicy", "lacuna"]["spec"]["ingress"]
    assert incoming["from"][0]["podSelector"]["matchLabels"] == labels["haproxy"]
    (outgoing, _) = objects["NetworkPolicy", "haproxy"]["spec"]["egress"]
    assert outgoing["to"][0]["podSelector"]["matchLabels"] == labels["lacuna"]
    assert outgoing["ports"] == [{"port": ports(objects, "lacuna")["http"]}]
    # The job of a series is the value of this label. Alerts ask for both jobs.
    monitor = objects["ServiceMonitor", "lacuna"]["spec"]
    (rule,) = monitor["selector"]["matchExpressions"]
    assert [{rule["key"]: value} for value in rule["values"]] == list(labels.values())
    assert monitor["jobLabel"] == rule["key"]


def test_pods_have_no_rights_they_do_not_need(objects: Objects) -> None:
    """Pods run as a user, read-only, without capabilities, tokens, or variables of Services."""
    for name in ("lacuna", "haproxy"):
        spec, context = pod(objects, name), container(objects, name)["securityContext"]
        assert spec["enableServiceLinks"] is spec["automountServiceAccountToken"] is False
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert context["allowPrivilegeEscalation"] is False
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert context["readOnlyRootFilesystem"] is True
        assert "memory" in container(objects, name)["resources"]["limits"]


def test_service_is_set_up_probed_and_ended_by_its_own_rules(
    objects: Objects, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Variables are settings, ports and probes are the service's, and a drain has time to end."""
    dockerfile = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
    image = dict(re.findall(r"(LACUNA_\w+)=(\S+)", dockerfile))
    for variable, value in (image | variables(objects, "lacuna")).items():
        monkeypatch.setenv(variable, value)
    settings = read_settings([])
    found = {"http": settings.port, "metrics": settings.metrics_port}
    assert found == ports(objects, "lacuna")
    spec, main = pod(objects, "lacuna"), container(objects, "lacuna")
    assert f"USER {spec['securityContext']['runAsUser']}:" in dockerfile
    for probe in (main["readinessProbe"], main["livenessProbe"]):
        assert probe["httpGet"]["port"] == "http"
        assert probe["httpGet"]["path"] in OPEN_ROUTES
    end_seconds = settings.drain_seconds + settings.grace_seconds + STOP_SECONDS + FLUSH_SECONDS
    assert spec["terminationGracePeriodSeconds"] > end_seconds
    assert settings.keys_file is not None
    assert str(settings.keys_file.parent) in {each["mountPath"] for each in main["volumeMounts"]}


def test_replicas_grow_by_a_metric_of_the_service(objects: Objects) -> None:
    """Autoscaling reads CPU and a gauge that the service exports."""
    spec = objects["HorizontalPodAutoscaler", "lacuna"]["spec"]
    assert ("Deployment", spec["scaleTargetRef"]["name"]) in objects
    resource, pods = spec["metrics"]
    assert resource["resource"]["name"] in container(objects, "lacuna")["resources"]["requests"]
    app = create_app(Settings(), lambda _: pytest.fail("loaded"), pytest.fail)
    exported = generate_latest(app.state.lacuna.metrics.registry).decode()
    assert f"# TYPE {pods['pods']['metric']['name']} gauge\n" in exported


def test_proxy_has_a_place_for_every_replica(objects: Objects, tmp_path: Path) -> None:
    """The edited haproxy.cfg has as many servers as there may be replicas, found by name."""
    config = proxy_config(objects)
    most = objects["HorizontalPodAutoscaler", "lacuna"]["spec"]["maxReplicas"]
    assert objects["Deployment", "lacuna"]["spec"]["strategy"]["rollingUpdate"]["maxSurge"] == 0
    servers = re.findall(r"^ +server.*", config, re.MULTILINE)
    start = f'    server-template replica {most} "${{SERVICE_ADDRESS}}" hash-key addr check '
    assert [server[: len(start)] for server in servers] == [start] * 2
    values = variables(objects, "haproxy")
    presets = set(re.findall(r"^ +presetenv (\w+)", config, re.MULTILINE))
    assert values.keys() - presets == {"NAMESPACE"}
    name, _, port = values["SERVICE_ADDRESS"].partition(":")
    assert objects["Service", name.split(".")[0]]["spec"]["clusterIP"] == "None"
    assert int(port) == ports(objects, "lacuna")["http"]
    assert values["PROXY_ADDRESS"] == f"*:{ports(objects, 'haproxy')['http']}"
    assert values["PROXY_METRICS_ADDRESS"] == f"*:{ports(objects, 'haproxy')['metrics']}"
    if shutil.which("haproxy") is None:
        pytest.skip("haproxy is not installed")
    version = subprocess.run(["haproxy", "-v"], capture_output=True, text=True, check=True).stdout
    if re.search(r"version [12]\.", version):  # the manifest's has 3.2
        config = config.replace("hash-key addr ", "")
    (tmp_path / "haproxy.cfg").write_text(config, encoding="utf-8")
    command = ["haproxy", "-c", "-f", str(tmp_path / "haproxy.cfg")]
    environment = os.environ | {"SERVICE_ADDRESS": "127.0.0.1:8000"}
    result = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert result.returncode == 0, result.stderr


def test_kustomize_builds_all_manifests(objects: Objects, tmp_path: Path) -> None:
    """The kustomization names every manifest and haproxy.cfg; a component mounts checkpoints."""
    base = read_yaml(DEPLOY / "kustomization.yaml")
    assert {DEPLOY / file for file in base["resources"]} == set(
        (DEPLOY / "kubernetes").glob("*.yaml")
    )
    (generated,) = base["configMapGenerator"]
    assert (generated["name"], generated["files"]) == ("haproxy", ["haproxy.cfg"])
    volumes = {each["name"]: each for each in pod(objects, "haproxy")["volumes"]}
    assert volumes["config"]["configMap"]["name"] == generated["name"]
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed")
    (tmp_path / "lacuna").symlink_to(ROOT)
    names = {"resources": ["lacuna/deploy"], "components": ["lacuna/deploy/kubernetes/checkpoint"]}
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(names), encoding="utf-8")
    command = ["kubectl", "kustomize", str(tmp_path)]
    built = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    changed = {(each["kind"], each["metadata"]["name"]): each for each in yaml.safe_load_all(built)}
    assert len(changed) == len(objects) + 1
    checkpoint = Path(variables(changed, "lacuna")["LACUNA_CHECKPOINT"])
    mounts = {each["mountPath"]: each for each in container(changed, "lacuna")["volumeMounts"]}
    volumes = {each["name"]: each for each in pod(changed, "lacuna")["volumes"]}
    assert "persistentVolumeClaim" in volumes[mounts[str(checkpoint.parent)]["name"]]
