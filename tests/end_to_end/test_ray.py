"""deploy/ray/app.py on a real Ray: two replicas, each with its own writers, metrics and reload."""

import http.client
import json
import re
import threading
import urllib.request
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from research.quickstart import free_port
from tests.end_to_end.prometheus import eventually

ray = pytest.importorskip("ray", reason="ray[serve] is not installed")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
HEADER = "X-Writer"


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, int]]:
    """Two replicas: the port of their proxy, and the first port of their metrics."""
    port, metrics_port = free_port(), free_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))  # Ray writes its token there
        patch.setenv("RAY_SERVE_SESSION_ID_HEADER_KEY", HEADER)  # read by Ray when it starts
        patch.setenv("LACUNA_METRICS_PORT", str(metrics_port))
        ray.init(num_cpus=2, include_dashboard=False, _node_ip_address="127.0.0.1")
        from ray import serve

        from deploy.ray.app import app

        serve.start(http_options={"port": port})
        serve.run(app, name="lacuna")
        assert eventually(lambda: len(counts(metrics_port, "lacuna_ready")) == 2)
        yield port, metrics_port
        serve.shutdown()
        ray.shutdown()


def counts(metrics_port: int, name: str) -> list[float]:
    """Return the sum of a series for each replica."""
    found = []
    for port in range(metrics_port, metrics_port + 4):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
                text = answer.read().decode()
        except OSError:
            continue
        found.append(sum(map(float, re.findall(rf"^{name}(?:{{.*}})? (\S+)$", text, re.MULTILINE))))
    return found


def ask(port: int, writer: str, path: str = "/predict", text: str = "the cat") -> int:
    """Send one question; return its status."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    headers = {"Content-Type": "application/json", HEADER: writer}
    connection.request("POST", path, json.dumps({"text": text}), headers)
    status = connection.getresponse().status
    connection.close()
    return status


def test_each_writer_has_one_replica(fleet: tuple[int, int]) -> None:
    """A writer's questions of both kinds go to one replica; both replicas have writers."""
    port, metrics_port = fleet
    used: set[int] = set()
    for writer in range(20):
        before = counts(metrics_port, "lacuna_inference_seconds_count")
        assert ask(port, f"writer-{writer}") == 200
        assert ask(port, f"writer-{writer}", "/cloze", "the ____ sat") == 200
        after = counts(metrics_port, "lacuna_inference_seconds_count")
        more = [late - early for early, late in zip(before, after, strict=True)]
        assert sorted(more) == [0, 2]
        used.add(more.index(2))
    assert used == {0, 1}


def test_a_broadcast_reloads_every_replica(fleet: tuple[int, int]) -> None:
    """Each replica answers with the model that it loaded, and counts the reload."""
    from ray import serve

    answers: list[Any] = serve.get_app_handle("lacuna").broadcast("reload").results()
    assert [answer["model"] for answer in answers] == [answer["previous"] for answer in answers]
    assert counts(fleet[1], "lacuna_reloads_total") == [1, 1]


def test_new_settings_lose_no_request(fleet: tuple[int, int]) -> None:
    """Ray replaces one replica after the other, while each question is answered."""
    from ray import serve

    from deploy.ray.app import Lacuna

    statuses: Counter[int] = Counter()
    is_over = threading.Event()

    def write(name: str) -> None:
        while not is_over.is_set():
            statuses[ask(fleet[0], name)] += 1

    writers = [threading.Thread(target=write, args=(f"writer-{each}",)) for each in range(4)]
    for writer in writers:
        writer.start()
    options = {"runtime_env": {"env_vars": {"LACUNA_MAX_TEXTS": "32"}}}
    try:
        serve.run(Lacuna.options(ray_actor_options=options).bind(), name="lacuna")
    finally:
        is_over.set()
        for writer in writers:
            writer.join()
    assert statuses.keys() == {200}
