"""HAProxy as a process, with deploy/haproxy.cfg."""

import os
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from research.quickstart import free_port
from tests.service.server_process import ROOT

_PATIENCE_SECONDS = 20


@dataclass(frozen=True)
class Proxy:
    """A running proxy: the ports of its clients and of its metrics."""

    port: int
    metrics_port: int

    def metrics(self) -> str:
        """Return the metrics for Prometheus."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics_port}/metrics") as answer:
            text: str = answer.read().decode()
            return text


@contextmanager
def proxying(service: str, folder: Path, bind: str = "", **values: str) -> Iterator[Proxy]:
    """Run HAProxy in front of *service* (host:port); *values* replace those of haproxy.cfg.

    *bind* has further options of its address.
    """
    proxy = Proxy(free_port(), free_port())
    addresses = {
        "SERVICE_ADDRESS": service,
        "PROXY_ADDRESS": f"127.0.0.1:{proxy.port} {bind}",
        "PROXY_METRICS_ADDRESS": f"127.0.0.1:{proxy.metrics_port}",
    }
    command = ["haproxy", "-db", "-f", str(ROOT / "deploy" / "haproxy.cfg")]
    with (folder / "haproxy.log").open("wb") as log:
        process = subprocess.Popen(
            command, env=os.environ | addresses | values, stdout=log, stderr=log
        )
    try:
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while not _listens(proxy.port):
            assert process.poll() is None
            assert time.monotonic() < deadline
        yield proxy
    finally:
        process.terminate()
        process.wait()


def _listens(port: int) -> bool:
    with socket.socket() as connection:
        return connection.connect_ex(("127.0.0.1", port)) == 0
