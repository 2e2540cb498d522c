"""HAProxy with deploy/haproxy.cfg in front of a real service process: it refuses slow, huge and excess requests."""

import os
import re
import shutil
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path

import pytest

from research.quickstart import free_port
from tests.service.server_process import FAKE, ROOT, Answer, ServerProcess, exchange, serving

pytestmark = pytest.mark.skipif(
    shutil.which("haproxy") is None, reason="haproxy is not installed (apt-get install haproxy)"
)
PLACES, QUEUE = 2, 3
PATIENCE_SECONDS = 20


@dataclass
class Proxy:
    """HAProxy in front of a service with a fake model."""

    server: ServerProcess
    port: int
    metrics_port: int

    def ask(self, path: str, text: str | list[str], method: str = "POST") -> Answer:
        """One request through the proxy."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_SECONDS)
        try:
            return exchange(connection, method, path, {"text": text} if method == "POST" else None)
        finally:
            connection.close()

    def queued(self) -> int:
        """Requests that wait in the proxy, as it reports them to Prometheus."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics_port}/metrics") as answer:
            metrics = answer.read().decode()
        found = re.search(r'haproxy_backend_current_queue{proxy="service"} (\d+)', metrics)
        assert found
        return int(found[1])

    def seen(self) -> int:
        """Questions that have reached the service, by its own count."""
        metrics = self.server.ask("GET", "/metrics").body.decode()
        series = r'lacuna_requests_total{route="/predict",status="\d+"} (\S+)'
        return sum(int(float(count)) for count in re.findall(series, metrics))

    def send(self, *parts: bytes, pause: float = 0.0) -> bytes:
        """Everything that comes back after some bytes, until the proxy closes the connection."""
        received = b""
        with socket.create_connection(("127.0.0.1", self.port), PATIENCE_SECONDS) as connection:
            try:
                for part in parts:
                    connection.sendall(part)
                    time.sleep(pause)
                while more := connection.recv(65536):
                    received += more
            except ConnectionError:
                pass
        return received


@contextmanager
def proxied(tmp_path: Path, **environment: str) -> Iterator[Proxy]:
    """Run both; *environment* replaces values of haproxy.cfg."""
    port, metrics_port = free_port(), free_port()
    with serving(FAKE) as server, (tmp_path / "haproxy.log").open("wb") as log:
        values = {
            "PROXY_ADDRESS": f"127.0.0.1:{port}",
            "PROXY_METRICS_ADDRESS": f"127.0.0.1:{metrics_port}",
            "SERVICE_ADDRESS": ":".join(map(str, server.address)),
            "MAX_CONCURRENT": str(PLACES),
            "MAX_QUEUE": str(QUEUE),
        }
        command = ["haproxy", "-db", "-f", str(ROOT / "deploy" / "haproxy.cfg")]
        process = subprocess.Popen(
            command, env=os.environ | values | environment, stdout=log, stderr=log
        )
        try:
            proxy = Proxy(server, port, metrics_port)
            wait_for(lambda: can_connect(port))
            yield proxy
        finally:
            process.terminate()
            process.wait()


def can_connect(port: int) -> bool:
    """Return True if something listens on *port*."""
    with socket.socket() as connection:
        return connection.connect_ex(("127.0.0.1", port)) == 0


def wait_for(condition: Callable[[], bool]) -> None:
    """Wait until *condition* holds.

    Raises:
        AssertionError: it does not hold in time.
    """
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def assert_problem(answer: Answer, status: int) -> None:
    """Check that an answer of the proxy has the form of the service's own errors."""
    assert answer.status == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["status"] == status
    assert answer.json()["request_id"]


def test_answers_pass_through(tmp_path: Path) -> None:
    """Short and long bodies are answered as by the service, and an anonymous client is no administrator."""
    with proxied(tmp_path) as proxy:
        answer = proxy.ask("/predict", "the cat")
        assert answer.status == 200
        assert answer.headers["x-request-id"]
        assert answer.json()["results"][0]["candidates"][0]["word"] == "word0"
        long = proxy.ask("/score", ["cat " * 1000] * 20)
        assert (long.status, len(long.json()["results"])) == (200, 20)
        assert proxy.ask("/predict", "", "GET").status == 405
        assert proxy.ask("/admin/reload", "").status == 403
        wait_for(lambda: proxy.ask("/readyz", "", "GET").status == 200)
        proxy.server.close()
        wait_for(lambda: proxy.ask("/predict", "the cat").status == 503)
        down = proxy.ask("/predict", "the cat")
        assert_problem(down, 503)
        assert down.headers["retry-after"] == "1"


def test_slow_and_huge_requests_never_reach_the_service(tmp_path: Path) -> None:
    """Headers and bodies that trickle, stop or are too long are refused and their connections closed."""
    start = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    with proxied(tmp_path, REQUEST_TIMEOUT="300ms") as proxy:
        for parts, status in (
            ((start,), b"408"),
            ((start + b"Content-Length: 20\r\n\r\n{",), b"408"),
            ((start + b"X: " + b"x" * 40_000 + b"\r\n\r\n",), b"400"),
            ((start + b"Content-Length: 20000000\r\n\r\n" + b" " * 40_000,), b"413"),
        ):
            assert proxy.send(*parts).startswith(b"HTTP/1.1 " + status), parts[0][-60:]
        trickle = [start + b"Content-Length: 20\r\n\r\n", *[b" "] * 20]
        assert b"200" not in proxy.send(*trickle, pause=0.05)
        assert b"200" not in proxy.send(start, *[b"X: y\r\n"] * 20, pause=0.05)
        assert proxy.ask("/predict", "the cat").status == 200
        assert proxy.seen() == 1


def test_a_full_queue_refuses_at_once_and_the_others_are_answered(tmp_path: Path) -> None:
    """When all places and the queue are taken, the next request gets 429; what waits is answered later."""
    with proxied(tmp_path, QUEUE_TIMEOUT="60s") as proxy, ThreadPoolExecutor(20) as threads:
        waiting = [threads.submit(proxy.ask, "/predict", "hold") for _ in range(PLACES + QUEUE)]
        wait_for(lambda: proxy.queued() == QUEUE)
        refused = proxy.ask("/predict", "the cat")
        assert_problem(refused, 429)
        assert refused.headers["retry-after"] == "1"
        proxy.server.send_signal(signal.SIGUSR1)
        assert [each.result().status for each in waiting] == [200] * (PLACES + QUEUE)
        assert proxy.ask("/predict", "the cat").status == 200


def test_a_flood_is_shed_while_answers_continue(tmp_path: Path) -> None:
    """Many requests at once: each is answered or gets 429, and the service sees only those it answers."""
    with proxied(tmp_path) as proxy, ThreadPoolExecutor(50) as threads:
        answers = list(threads.map(proxy.ask, ["/predict"] * 300, ["slow"] * 300))
        refused = [answer for answer in answers if answer.status != 200]
        assert 0 < len(refused) < 300
        for answer in refused:
            assert_problem(answer, 429)
        assert proxy.seen() == 300 - len(refused)


def test_a_request_does_not_wait_for_long(tmp_path: Path) -> None:
    """A request that has waited for QUEUE_TIMEOUT gets 429 as well."""
    with proxied(tmp_path, QUEUE_TIMEOUT="200ms") as proxy, ThreadPoolExecutor(PLACES + 1) as pool:
        waiting = [pool.submit(proxy.ask, "/predict", "hold") for _ in range(PLACES + 1)]
        refused = next(as_completed(waiting))
        assert_problem(refused.result(), 429)
        assert "waited too long" in refused.result().json()["detail"]
        proxy.server.send_signal(signal.SIGUSR1)
        assert sorted(each.result().status for each in waiting) == [200] * PLACES + [429]
