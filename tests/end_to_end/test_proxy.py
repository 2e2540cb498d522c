"""HAProxy with deploy/haproxy.cfg before a service: it refuses slow, huge and excess requests."""

import re
import shutil
import signal
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path

import pytest

from tests.end_to_end.haproxy import Proxy, proxying
from tests.service.server_process import FAKE, Answer, ServerProcess, exchange, serving

pytestmark = pytest.mark.skipif(
    shutil.which("haproxy") is None, reason="haproxy is not installed (apt-get install haproxy)"
)
PLACES, QUEUE = 2, 3
PATIENCE_SECONDS = 20


@dataclass
class Proxied:
    """A service with a fake model and the proxy in front of it."""

    server: ServerProcess
    proxy: Proxy

    def ask(
        self, path: str, text: str | list[str], method: str = "POST", source: str = "127.0.0.1"
    ) -> Answer:
        """Send one request through the proxy from the address *source*."""
        connection = HTTPConnection(
            "127.0.0.1", self.proxy.port, timeout=PATIENCE_SECONDS, source_address=(source, 0)
        )
        try:
            return exchange(connection, method, path, {"text": text} if method == "POST" else None)
        finally:
            connection.close()

    def queued(self) -> int:
        """Return the number of requests that wait in the proxy."""
        series = r'haproxy_server_current_queue{proxy="service",server="service"} (\d+)'
        return int(re.findall(series, self.proxy.metrics())[0])

    def seen(self) -> int:
        """Return the number of questions that have reached the service."""
        metrics = self.server.metrics()
        series = r'lacuna_requests_total{route="/predict",status="\d+"} (\S+)'
        return sum(int(float(count)) for count in re.findall(series, metrics))

    def send(self, *parts: bytes, pause: float = 0.0) -> bytes:
        """Send some bytes and return all that comes back until the proxy closes the connection."""
        received = b""
        address = ("127.0.0.1", self.proxy.port)
        with socket.create_connection(address, PATIENCE_SECONDS) as connection:
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
def proxied(folder: Path, **values: str) -> Iterator[Proxied]:
    """Run both; *values* replace those of haproxy.cfg."""
    limits = {"MAX_CONCURRENT": str(PLACES), "MAX_QUEUE": str(QUEUE)}
    with serving(FAKE) as server:
        address = ":".join(map(str, server.address))
        with proxying(address, folder, **limits | values) as proxy:
            yield Proxied(server, proxy)


def wait_for(condition: Callable[[], bool]) -> None:
    """Ask until *condition* holds."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline


def assert_problem(answer: Answer, status: int) -> None:
    """Check that an answer of the proxy has the form of the service's own errors."""
    assert answer.status == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["status"] == status
    assert answer.json()["request_id"]


def test_answers_pass_through(tmp_path: Path) -> None:
    """Bodies are answered as by the service, but a client without a key may not administer."""
    with proxied(tmp_path) as both:
        answer = both.ask("/predict", "the cat")
        assert answer.status == 200
        assert answer.headers["x-request-id"]
        assert answer.json()["results"][0]["candidates"][0]["word"] == "word0"
        long = both.ask("/score", ["cat " * 1000] * 20)
        assert (long.status, len(long.json()["results"])) == (200, 20)
        assert both.ask("/predict", "", "GET").status == 405
        assert both.ask("/admin/reload", "").status == 403
        for series in ("requests_denied_total", "http_requests_total"):  # which an alert reads
            assert f'haproxy_frontend_{series}{{proxy="public"}}' in both.proxy.metrics()
        wait_for(lambda: both.ask("/readyz", "", "GET").status == 200)
        both.server.close()
        while (down := both.ask("/predict", "the cat")).status != 503:
            assert_problem(down, 429)  # while the proxy does not know yet
        assert_problem(down, 503)
        assert down.headers["retry-after"] == "1"


def test_slow_and_huge_requests_never_reach_the_service(tmp_path: Path) -> None:
    """Headers and bodies that trickle, stop or are too long end their connections."""
    start = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    with proxied(tmp_path, REQUEST_TIMEOUT="300ms") as both:
        for parts, status in (
            ((start,), b"408"),
            ((start + b"Content-Length: 20\r\n\r\n{",), b"408"),
            ((start + b"X: " + b"x" * 40_000 + b"\r\n\r\n",), b"400"),
            ((start + b"Content-Length: 20000000\r\n\r\n" + b" " * 40_000,), b"413"),
        ):
            assert both.send(*parts).startswith(b"HTTP/1.1 " + status), parts[0][-60:]
        trickle = [start + b"Content-Length: 20\r\n\r\n", *[b" "] * 20]
        assert b"200" not in both.send(*trickle, pause=0.05)
        assert b"200" not in both.send(start, *[b"X: y\r\n"] * 20, pause=0.05)
        assert both.ask("/predict", "the cat").status == 200
        assert both.seen() == 1


def test_a_full_queue_refuses_at_once_and_newcomers_first(tmp_path: Path) -> None:
    """When requests wait, a new address gets 429; one that was answered lately may fill the queue.

    What waits is answered later.
    """
    values = {"QUEUE_TIMEOUT": "60s", "MAX_QUEUE_OF_NEWCOMERS": "1"}
    with proxied(tmp_path, **values) as both, ThreadPoolExecutor(20) as threads:
        waiting = [threads.submit(both.ask, "/predict", "hold") for _ in range(PLACES + 1)]
        wait_for(lambda: both.queued() == 1)
        assert both.ask("/predict", "the cat", source="127.0.0.2").status == 429
        waiting += [threads.submit(both.ask, "/predict", "hold") for _ in range(QUEUE - 1)]
        wait_for(lambda: both.queued() == QUEUE)
        refused = both.ask("/predict", "the cat")
        assert_problem(refused, 429)
        assert refused.headers["retry-after"] == "1"
        both.server.send_signal(signal.SIGUSR1)
        assert [each.result().status for each in waiting] == [200] * (PLACES + QUEUE)
        assert both.ask("/predict", "the cat", source="127.0.0.2").status == 200


def test_a_request_does_not_wait_for_long(tmp_path: Path) -> None:
    """A request that has waited for QUEUE_TIMEOUT gets 429 as well."""
    with proxied(tmp_path, QUEUE_TIMEOUT="200ms") as both, ThreadPoolExecutor(PLACES + 1) as pool:
        waiting = [pool.submit(both.ask, "/predict", "hold") for _ in range(PLACES + 1)]
        refused = next(as_completed(waiting))
        assert_problem(refused.result(), 429)
        assert "waited too long" in refused.result().json()["detail"]
        both.server.send_signal(signal.SIGUSR1)
        assert sorted(each.result().status for each in waiting) == [200] * PLACES + [429]
