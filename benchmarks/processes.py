"""Servers as processes pinned to given CPUs: started, asked, paused, measured, stopped.

Each process gets its own session, so that Ctrl-C reaches the benchmark and not the servers.
"""

import contextlib
import http.client
import json
import os
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

Body = Mapping[str, Any] | None
HOST = "127.0.0.1"
ROOT = Path(__file__).resolve().parent.parent
START_SECONDS, STOP_SECONDS = 120.0, 20.0
# Time between two attempts to get the first answer; it limits how finely the start is timed.
_POLL_SECONDS = 0.005


class ServerError(Exception):
    """A server ended, did not answer in time, or answered with an error; the message has the end of
    its log.
    """


class Server:
    """One server on a port of loopback, made of one process or several.

    Args:
        port: the port that clients use.
        cores: CPUs of all its processes.
        log: file for what the processes write.
    """

    def __init__(self, port: int, cores: Sequence[int], log: Path) -> None:
        self.port = port
        self.inner_ports = [port]  # of the service's replicas, if a proxy listens on `port`
        self._cores = list(cores)
        self._log = log
        self._processes: list[psutil.Popen] = []
        self._runs: list[tuple[Any, ...]] = []
        self._began = time.perf_counter()
        log.write_bytes(b"")

    def run(
        self,
        command: Sequence[str],
        directory: Path,
        environment: Mapping[str, str],
        cores: Sequence[int] | None = None,
    ) -> None:
        """Start a process of this server, on other *cores* if they are given.

        `LACUNA_*` variables of the caller are left out.
        """
        kept = {name: value for name, value in os.environ.items() if not name.startswith("LACUNA_")}
        with self._log.open("ab") as stream:
            process = psutil.Popen(
                command,
                cwd=directory,
                env=kept | {"PYTHONPATH": str(directory)} | dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                start_new_session=True,
            )
        process.cpu_affinity(list(cores or self._cores))  # threads and children inherit it
        self._processes.append(process)
        self._runs.append((command, directory, environment, cores))

    def restart(self, number: int) -> None:
        """End a process by SIGTERM, wait for its end, and start it again."""
        self._processes[number].terminate()
        self._processes[number].wait()
        self._began = time.perf_counter()
        self.run(*self._runs[number])
        self._processes[number], self._runs[number] = self._processes.pop(), self._runs.pop()

    def wait_until_answering(self, path: str, body: Body = None, port: int | None = None) -> float:
        """Ask until the status is 200; *port* is another one than that of the clients.

        Returns:
            Seconds from the start of the server to the first answer.

        Raises:
            ServerError: a process ended, or there was no answer within `START_SECONDS`.
        """
        while time.perf_counter() - self._began < START_SECONDS:
            self.check_alive()
            with contextlib.suppress(OSError, ServerError, http.client.HTTPException):
                self.ask(path, body, port)
                return time.perf_counter() - self._began
            time.sleep(_POLL_SECONDS)
        raise ServerError(f"no answer from {path} within {START_SECONDS:g} s:\n{self._log_end()}")

    def check_alive(self) -> None:
        """Do nothing while all processes run.

        Raises:
            ServerError: one has ended.
        """
        for process in self._processes:
            if process.poll() is not None:
                raise ServerError(f"ended with status {process.returncode}:\n{self._log_end()}")

    def ask(self, path: str, body: Body = None, port: int | None = None) -> bytes:
        """GET a document, or POST *body* as JSON; return the body of the answer.

        Raises:
            OSError, http.client.HTTPException: nothing listens, or it hung up.
            ServerError: the status is not 200.
        """
        content = None if body is None else json.dumps(body).encode()
        method = "GET" if body is None else "POST"
        status, received, _ = exchange(port or self.port, method, path, content)
        if status != 200:
            raise ServerError(f"{path}: status {status}: {received[:500]!r}")
        return received

    @property
    def first(self) -> psutil.Popen:
        """The process that was started first: the service itself."""
        return self._processes[0]

    def cpu_seconds(self) -> float:
        """Return the CPU time of all processes so far, user and system."""
        times = [process.cpu_times() for process in self._members()]
        return sum(each.user + each.system for each in times)

    def resident_bytes(self) -> int:
        """Return the sum of the resident sets."""
        return sum(process.memory_info().rss for process in self._members())

    def descriptors(self) -> int:
        """Return the number of open file descriptors."""
        return sum(process.num_fds() for process in self._members())

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Stop all processes for as long as the block lasts, so that they take no CPU time."""
        for process in self._members():
            process.suspend()
        try:
            yield
        finally:
            for process in self._members():
                process.resume()

    def stop(self) -> int:
        """End all processes, by SIGTERM first, and return the exit status of the first one."""
        members = self._members()
        for process in members:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.terminate()
                process.resume()
        _, alive = psutil.wait_procs(members, STOP_SECONDS)
        for process in alive:
            process.kill()
        return int(self.first.wait())

    def _members(self) -> list[psutil.Process]:
        found = []
        for process in self._processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                found += [process, *process.children(recursive=True)]
        return found

    def _log_end(self) -> str:
        return self._log.read_text(errors="replace")[-2000:]


@contextmanager
def alone(server: Server | None, servers: Sequence[Server]) -> Iterator[None]:
    """Pause all *servers* but one for as long as the block lasts."""
    with contextlib.ExitStack() as others:
        for other in servers:
            if other is not server:
                others.enter_context(other.paused())
        yield


def exchange(
    port: int,
    method: str,
    path: str,
    content: bytes | None,
    headers: Mapping[str, str] | None = None,
    timeout: float = 60,
) -> tuple[int, bytes, dict[str, str]]:
    """Send one request on a new connection; return status, body and headers (in lower case).

    Raises:
        OSError, http.client.HTTPException: nothing listens, or it hung up.
    """
    connection = http.client.HTTPConnection(HOST, port, timeout=timeout)
    try:
        sent = {"Content-Type": "application/json"} | dict(headers or {})
        connection.request(method, path, content, sent)
        answer = connection.getresponse()
        found = {name.lower(): value for name, value in answer.getheaders()}
        return answer.status, answer.read(), found
    finally:
        connection.close()


def free_port() -> int:
    """Return a TCP port of loopback that nothing listened on a moment ago."""
    with socket.create_server((HOST, 0)) as taken:
        port: int = taken.getsockname()[1]
        return port


def pin_client(count: int = 1) -> list[int]:
    """Leave the first *count* CPUs to servers: move this process to the others, or to the last one.

    Returns:
        The CPUs for servers.
    """
    process = psutil.Process()
    cpus = sorted(process.cpu_affinity())
    process.cpu_affinity(cpus[count:] or cpus[-1:])
    return cpus[:count]
