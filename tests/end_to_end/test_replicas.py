"""HAProxy with deploy/haproxy.cfg before two replicas: affinity, restarts, limits of keys."""

import contextlib
import re
import shutil
import signal
import ssl
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPSConnection
from pathlib import Path

import pytest

from research.quickstart import free_port
from tests.end_to_end.haproxy import Proxy, proxying
from tests.end_to_end.prometheus import eventually
from tests.service.server_process import FAKE, ServerProcess, exchange, serving

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        shutil.which("haproxy") is None, reason="haproxy is not installed (apt-get install haproxy)"
    ),
]
KEYS = ("first-key-of-this-test", "second-key-of-this-test")
WRITERS = 40
PATIENCE_SECONDS = 60


@dataclass
class Fleet:
    """Two services with a fake model, the options that start them, and the proxy before them."""

    servers: list[ServerProcess]
    options: list[tuple[str, ...]]
    environment: Mapping[str, str]
    proxy: Proxy

    def connect(self, source: str = "127.0.0.1") -> HTTPConnection:
        """Open a connection to the proxy from the address *source*."""
        return HTTPConnection(
            "127.0.0.1", self.proxy.port, timeout=PATIENCE_SECONDS, source_address=(source, 0)
        )

    def ask(self, source: str = "127.0.0.1", **headers: str) -> int:
        """Send one question with *headers*, such as `x_writer`; return its status."""
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        with contextlib.closing(self.connect(source)) as connection:
            return exchange(connection, "POST", "/predict", {"text": "the cat"}, sent).status

    def answered(self) -> list[int]:
        """Return the number of questions that each replica has answered, by its own metrics."""
        series = r'lacuna_requests_total{route="/predict",status="200"} (\S+)'
        found = [re.findall(series, server.metrics()) for server in self.servers]
        return [int(float(counts[0])) if counts else 0 for counts in found]

    def replica_of(self, source: str = "127.0.0.1", **headers: str) -> int:
        """Send three questions of one writer; return the number of the replica that got all."""
        before = self.answered()
        assert [self.ask(source, **headers) for _ in range(3)] == [200] * 3
        gained = [after - each for after, each in zip(self.answered(), before, strict=True)]
        assert sorted(gained) == [0, 3]
        return gained.index(3)

    def restart(self, number: int) -> None:
        """Let a replica drain and end, start it again, and wait until the proxy uses it."""
        self.servers[number].send_signal(signal.SIGTERM)
        assert self.servers[number].wait() == 0
        self.servers[number].close()
        self.servers[number] = ServerProcess(FAKE, self.options[number], self.environment)
        self.servers[number].logged(event="ready")
        both = 'haproxy_backend_active_servers{proxy="service"} 2'
        assert eventually(lambda: both in self.proxy.metrics())


@contextmanager
def fleet(folder: Path, *keys: str, bind: str = "", **values: str) -> Iterator[Fleet]:
    """Run two replicas that know *keys*; *bind* and *values* are for the proxy."""
    options = [
        (
            "--port",
            str(free_port()),
            "--drain-seconds",
            "3",
            "--texts-per-minute",
            "100" if keys else "0",
        )
        for _ in range(2)
    ]
    environment = {"LACUNA_KEYS": ",".join(keys)} if keys else {}
    with contextlib.ExitStack() as stack:
        servers = [
            stack.enter_context(serving(FAKE, *each, environment=environment)) for each in options
        ]
        first, second = (":".join(map(str, server.address)) for server in servers)
        addresses = {"SECOND_SERVICE_ADDRESS": second} | values
        proxy = stack.enter_context(proxying(first, folder, bind, **addresses))
        whole = Fleet(servers, options, environment, proxy)
        stack.callback(lambda: [server.close() for server in whole.servers])
        yield whole


def test_a_writer_stays_on_one_replica(tmp_path: Path) -> None:
    """All questions of a writer reach one replica, by header, else by key, else by address.

    Each replica gets a fair share of the writers.
    """
    with fleet(tmp_path) as replicas:
        for shares in (
            Counter(replicas.replica_of(x_writer=f"writer {number}") for number in range(WRITERS)),
            Counter(
                replicas.replica_of(authorization=f"Bearer key-{number}")
                for number in range(WRITERS)
            ),
            Counter(replicas.replica_of(f"127.0.1.{number}") for number in range(WRITERS)),
        ):
            assert min(shares[0], shares[1]) >= WRITERS // 4, shares
        home = replicas.replica_of(x_writer="anna")
        for number in range(5):  # the header counts, whatever else differs
            key = f"Bearer key-{number}"
            source = f"127.0.1.{number}"
            assert replicas.replica_of(source, x_writer="anna", authorization=key) == home


def test_restarts_lose_nothing(tmp_path: Path) -> None:
    """While each replica in turn drains, ends and starts again, every question is answered."""
    with fleet(tmp_path) as replicas, ThreadPoolExecutor(4) as clients:
        over = threading.Event()

        def type_on(client: int) -> Counter[int]:
            statuses: Counter[int] = Counter()
            with contextlib.closing(replicas.connect()) as connection:
                while not over.is_set() or statuses.total() < 250:
                    headers = {"X-Writer": f"{client} {statuses.total() % 50}"}
                    body = {"text": "the cat"}
                    answer = exchange(connection, "POST", "/predict", body, headers)
                    statuses[answer.status] += 1
            return statuses

        typing = [clients.submit(type_on, client) for client in range(4)]
        try:
            for number in range(2):
                replicas.restart(number)
        finally:
            over.set()
        statuses = sum((each.result() for each in typing), Counter())
        assert set(statuses) == {200}
        assert statuses.total() >= 1000
        assert replicas.answered()[0] > 0  # since its restart


@pytest.mark.parametrize(("header", "fleets_limit"), [("Authorization", 100), ("X-Writer", 200)])
def test_a_limit_of_a_key_counts_where_the_key_goes(
    tmp_path: Path, header: str, fleets_limit: int
) -> None:
    """100 texts a minute are 100 of the fleet if keys are hashed, and 200 if writers are.

    Another key keeps its own limit.
    """
    with fleet(tmp_path, *KEYS, WRITER_HEADER=header) as replicas:
        begin = time.monotonic()
        statuses = Counter(
            replicas.ask(authorization=f"Bearer {KEYS[0]}", x_writer=str(number % WRITERS))
            for number in range(320)
        )
        refilled = (time.monotonic() - begin) * fleets_limit / 60
        assert fleets_limit <= statuses[200] <= fleets_limit + refilled + 2
        assert set(statuses) == {200, 429}
        assert replicas.ask(authorization=f"Bearer {KEYS[1]}") == 200


def test_a_key_without_writers_has_one_limit(tmp_path: Path) -> None:
    """Clients that send no writer header get what the key may, however many replicas there are."""
    with fleet(tmp_path, *KEYS) as replicas:
        begin = time.monotonic()
        sources = [f"127.0.1.{number % WRITERS}" for number in range(220)]
        statuses = Counter(
            replicas.ask(source, authorization=f"Bearer {KEYS[0]}") for source in sources
        )
        refilled = (time.monotonic() - begin) * 100 / 60
        assert 100 <= statuses[200] <= 100 + refilled + 1


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
def test_a_certificate_makes_it_https(tmp_path: Path) -> None:
    """With a certificate after its address, the proxy answers HTTPS."""
    made = tmp_path / "certificate.pem"
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost"
    names = ("-addext", "subjectAltName=IP:127.0.0.1", "-out", str(made), "-keyout", str(made))
    subprocess.run([*command.split(), *names], capture_output=True, check=True)
    with fleet(tmp_path, bind=f"ssl crt {made}") as replicas:
        trust = ssl.create_default_context(cafile=str(made))
        connection = HTTPSConnection("127.0.0.1", replicas.proxy.port, context=trust)
        with contextlib.closing(connection):
            assert exchange(connection, "GET", "/readyz").status == 200
