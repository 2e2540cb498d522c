"""Run a service in its own process: start it, wait for its log, ask it, stop it."""

import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
REAL = ("-m", "service")
METRICS_PORT = ("--metrics-port", "0")
FAKE = (str(ROOT / "tests" / "service" / "fake_process.py"), *METRICS_PORT)
_PATIENCE = 60


@dataclass(frozen=True)
class Answer:
    """An HTTP answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        """Parse the body as JSON."""
        return json.loads(self.body)


class ServerProcess:
    """A running service; see `serving`."""

    def __init__(
        self, command: tuple[str, ...], options: tuple[str, ...], environment: Mapping[str, str]
    ) -> None:
        self._process = subprocess.Popen(
            [sys.executable, *command, "--port", "0", *options],
            cwd=ROOT,
            env=clean_environment() | dict(environment),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
        )
        self.lines: list[str] = []
        self._news = threading.Condition()
        self._ended = False
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            with self._news:
                self.lines.append(line)
                self._news.notify_all()
        with self._news:
            self._ended = True
            self._news.notify_all()

    def logged(self, **fields: object) -> dict[str, Any]:
        """Wait for a log line with these *fields*."""
        with self._news:
            assert self._news.wait_for(lambda: self._ended or self._find(fields), _PATIENCE), (
                self.lines
            )
            found = self._find(fields)
        assert found is not None, self.lines
        return found

    def _find(self, fields: Mapping[str, object]) -> dict[str, Any] | None:
        entries = (json.loads(line) for line in self.lines if line.startswith("{"))
        return next((entry for entry in entries if fields.items() <= entry.items()), None)

    @property
    def address(self) -> tuple[str, int]:
        """Host and port that it listens on."""
        return self._address("listening")

    @property
    def metrics_address(self) -> tuple[str, int]:
        """Host and port of its metrics, if they have their own."""
        return self._address("metrics")

    def metrics(self) -> str:
        """Return what Prometheus would read from that port."""
        connection = http.client.HTTPConnection(*self.metrics_address, timeout=_PATIENCE)
        with contextlib.closing(connection):
            return exchange(connection, "GET", "/metrics").body.decode()

    def _address(self, event: str) -> tuple[str, int]:
        address = self.logged(event=event)["address"].removesuffix("/metrics")
        host, _, port = address.removeprefix("http://").rpartition(":")
        return host, int(port)

    @property
    def cpu_seconds(self) -> float:
        """Processor time so far."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    @property
    def peak_bytes(self) -> int:
        """Largest resident set so far."""
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        return 1024 * int(status.partition("VmHWM:")[2].split()[0])

    def connect(self) -> http.client.HTTPConnection:
        """A new connection."""
        return http.client.HTTPConnection(*self.address, timeout=_PATIENCE)

    def ask(
        self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        """Send one request on a new connection; a *body* that is not bytes is sent as JSON."""
        connection = self.connect()
        try:
            return exchange(connection, method, path, body, headers)
        finally:
            connection.close()

    def send_signal(self, number: signal.Signals) -> None:
        """Signal the process."""
        self._process.send_signal(number)

    def wait_until_stopped(self) -> None:
        """Wait until SIGSTOP has stopped it."""
        os.waitid(os.P_PID, self._process.pid, os.WSTOPPED)

    def wait(self) -> int:
        """Wait for its end, with `lines` complete; return its exit status."""
        status = self._process.wait(_PATIENCE)
        self._reader.join(_PATIENCE)
        return status

    def close(self) -> None:
        """Kill it."""
        if self._process.poll() is None:
            self._process.kill()
        self.wait()
        assert self._process.stderr is not None
        self._process.stderr.close()


def exchange(
    connection: http.client.HTTPConnection,
    method: str,
    path: str,
    body: Any = None,
    headers: Mapping[str, str] | None = None,
) -> Answer:
    """Send one request on an open connection."""
    sent = {"Content-Type": "application/json"} if body is not None else {}
    if body is not None and not isinstance(body, bytes):
        body = json.dumps(body).encode()
    connection.request(method, path, body, sent | dict(headers or {}))
    response = connection.getresponse()
    return Answer(
        response.status,
        {key.lower(): value for key, value in response.getheaders()},
        response.read(),
    )


@contextlib.contextmanager
def serving(
    command: tuple[str, ...],
    *options: str,
    ready: bool = True,
    environment: Mapping[str, str] | None = None,
) -> Iterator[ServerProcess]:
    """Run a service while inside, by default until it has loaded."""
    server = ServerProcess(command, options, environment or {})
    try:
        if ready:
            server.logged(event="ready")
        yield server
    finally:
        server.close()


def run_to_end(command: tuple[str, ...], *options: str) -> tuple[int, str]:
    """Run a service that must not start; return its exit status and standard error."""
    finished = subprocess.run(
        [sys.executable, *command, *options],
        cwd=ROOT,
        env=clean_environment(),
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=_PATIENCE,
        check=False,
    )
    return finished.returncode, finished.stderr


def clean_environment() -> dict[str, str]:
    """Return this environment without settings of the service, the project importable."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("LACUNA_")}
    return kept | {"PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8"}
