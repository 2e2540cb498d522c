"""`docker-compose up --build` on a Docker engine: HAProxy, a healthy service, Prometheus."""

import os
import re
import shutil
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from research.quickstart import free_port, post
from tests.end_to_end.prometheus import eventually, query

ROOT = Path(__file__).resolve().parents[2]
# The engine must have these already: a test downloads nothing.
BASE_IMAGES = ("python:3.11-slim", "haproxy:3.2", "prom/prometheus:v3.5.0")
PROJECT = "lacuna-test"


def run(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command in the repository's root."""
    variables = {**os.environ, **environment}
    return subprocess.run(
        command, cwd=ROOT, env=variables, capture_output=True, text=True, check=False
    )


def engine_is_ready() -> bool:
    """Return True if there are docker-compose and a Docker engine with the base images."""
    if not (shutil.which("docker") and shutil.which("docker-compose")):
        return False
    return run("docker", "image", "inspect", *BASE_IMAGES).returncode == 0


pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not engine_is_ready(), reason="no Docker engine with docker-compose and the base images"
    ),
    pytest.mark.timeout(900),
]


@dataclass(frozen=True)
class Stack:
    """Addresses of proxy and Prometheus, and commands inside the service's container."""

    proxy: str
    prometheus: str

    def python(self, code: str) -> str:
        """Return what *code* prints when the service's container runs it."""
        result = run("docker-compose", "-p", PROJECT, "exec", "-T", "service", "python", "-c", code)
        assert result.returncode == 0, result.stderr
        return result.stdout.strip()


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    """The compose file's containers on free ports; they and their volume are removed at the end."""
    ports = {"LACUNA_PORT": str(free_port()), "PROMETHEUS_PORT": str(free_port())}
    try:
        up = run("docker-compose", "-p", PROJECT, "up", "--build", "--detach", **ports)
        assert up.returncode == 0, up.stdout[-2000:] + up.stderr[-2000:]
        yield Stack(*(f"http://127.0.0.1:{port}" for port in ports.values()))
    finally:
        run("docker-compose", "-p", PROJECT, "down", "--volumes", **ports)


def test_the_service_answers_and_prometheus_counts_it(stack: Stack) -> None:
    """The service answers through HAProxy; Prometheus reads both and counts the question."""
    answer = post(f"{stack.proxy}/predict", {"text": "I would like a cup of "})
    assert answer["results"][0]["candidates"]
    assert eventually(lambda: len(query(stack.prometheus, "up == 1")) == 2)
    counted = 'lacuna_requests_total{route="/predict",status="200"} >= 1'
    assert eventually(lambda: len(query(stack.prometheus, counted)) == 1)


def test_any_user_id_may_run_the_image_within_limits(stack: Stack) -> None:
    """The image serves under an unknown user id, locked down."""
    del stack  # has built the image
    name = f"{PROJECT}-anyone"
    locks = ("--read-only", "--tmpfs=/tmp", "--cap-drop=ALL", "--security-opt=no-new-privileges")
    limits = ("--user=54321:54321", "--memory=200m", "--cpus=1")
    ask = (
        "import http.client as h; c = h.HTTPConnection('127.0.0.1', 8000); "
        "c.request('GET', '/readyz'); print(c.getresponse().status)"
    )

    def python(code: str) -> str:
        return run("docker", "exec", name, "python", "-c", code).stdout.strip()

    try:
        started = run("docker", "run", "--detach", f"--name={name}", *locks, *limits,
                      "--env=LACUNA_ALLOW_ANONYMOUS=true", "lacuna:local")  # fmt: skip
        assert started.returncode == 0, started.stderr
        assert eventually(lambda: python(ask) == "200")
        assert python("import os; print(os.getuid())") == "54321"
    finally:
        run("docker", "rm", "--force", name)


def test_one_container_answers_this_machine_only(stack: Stack) -> None:
    """`docker run`, as docs/operations.md shows it, answers loopback and no other host name."""
    del stack  # has built the image
    document = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    (line,) = re.findall(r"^docker run .*$", document, re.MULTILINE)
    name, port = f"{PROJECT}-alone", free_port()
    words = line.replace(":8000:", f":{port}:").split()
    address = f"http://127.0.0.1:{port}"

    def status(host: str) -> int:
        request = urllib.request.Request(f"{address}/model", headers={"Host": host})
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code

    try:
        started = run(*words[:2], "--detach", f"--name={name}", *words[2:])
        assert started.returncode == 0, started.stderr
        assert eventually(lambda: status("localhost") == 200)
        assert post(f"{address}/predict", {"text": "I would like a cup of "})["results"]
        assert status("example.org") == 421
    finally:
        run("docker", "rm", "--force", name)


def test_the_service_container_is_small_and_locked(stack: Stack) -> None:
    """It has no torch, training code or pip, a user without rights, and only /tmp to write to."""
    absent = ("torch", "onnx", "safetensors", "training", "pip")
    find = f"import importlib.util as u; print([m for m in {absent} if u.find_spec(m)])"
    assert stack.python(find) == "[]"
    assert stack.python("import os; print(os.getuid())") == "10001"
    rights = "print(open('/proc/1/status').read().split('CapEff:')[1].split()[0].strip('0'))"
    assert stack.python(rights) == ""
    folders = "('/', '/app', '/opt', '/tmp')"
    writable = f"import os; print([p for p in {folders} if os.access(p, os.W_OK)])"
    assert stack.python(writable) == "['/tmp']"
