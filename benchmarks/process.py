"""A server as a process pinned to given cores: started, watched, paused, stopped. Linux only: it reads ``/proc``.

A server gets a session of its own, so that all its processes can be found and signalled at once, and so that Ctrl-C
reaches the benchmark and not the servers.
"""

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

HOST = "127.0.0.1"
# Between two attempts to get the first answer: it limits how finely the start is timed.
POLL_SECONDS = 0.005
# From SIGTERM to SIGKILL.
STOP_SECONDS = 10.0
_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class ServerError(Exception):
    """A server ended, did not answer in time, or answered wrongly; the message has the end of its log."""


class Server:
    """One running server.

    Args:
        command: starts it in the foreground; it must listen on *port* of loopback.
        port: where it will listen.
        cores: CPUs that it may use, such as ``0`` or ``0,2-3``.
        environment: all its environment variables.
        directory: its working directory.
        log: gets what it writes.
    """

    def __init__(
        self,
        command: Sequence[str],
        port: int,
        cores: str,
        environment: Mapping[str, str],
        directory: Path,
        log: Path,
    ) -> None:
        self.port = port
        self._log = log
        with log.open("wb") as stream:
            self.began = time.perf_counter()
            self._process = subprocess.Popen(
                ["taskset", "--cpu-list", cores, *command],
                cwd=directory,
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                start_new_session=True,
            )

    def wait_until_right(
        self, path: str, body: Mapping[str, Any], is_right: Callable[[Any], bool], seconds: float
    ) -> float:
        """Ask again and again until the answer is right.

        Returns:
            Seconds from the start of the process to the first right answer.

        Raises:
            ServerError: it ended, or gave no right answer within *seconds*.
        """
        return self._wait(
            lambda: is_right(self.ask(path, body)), f"right answer from {path}", seconds
        )

    def wait_until_ready(self, seconds: float) -> float:
        """Ask ``/readyz`` again and again until it says 200; returns and raises as `wait_until_right` does."""
        return self._wait(lambda: bool(self.read("/readyz")), "readiness", seconds)

    def _wait(self, condition: Callable[[], bool], what: str, seconds: float) -> float:
        while time.perf_counter() - self.began < seconds:
            self.check_alive()
            with contextlib.suppress(OSError, ServerError, http.client.HTTPException):
                if condition():
                    return time.perf_counter() - self.began
            time.sleep(POLL_SECONDS)
        raise ServerError(f"no {what} within {seconds:g} s:\n{self._end_of_log()}")

    def check_alive(self) -> None:
        """Nothing, while its first process runs; where none does, memory and descriptors would read 0.

        Raises:
            ServerError: it has ended; with its exit status.
        """
        if self._process.poll() is not None:
            raise ServerError(
                f"ended with status {self._process.returncode}:\n{self._end_of_log()}"
            )

    def ask(self, path: str, body: Mapping[str, Any]) -> Any:
        """POST one question.

        Raises:
            OSError, http.client.HTTPException: nobody listens, or hung up.
            ServerError: the status is not 200.
        """
        content = json.dumps(body, ensure_ascii=False).encode()
        return json.loads(
            self._request("POST", path, content, {"Content-Type": "application/json"})
        )

    def read(self, path: str) -> str:
        """GET one document.

        Raises:
            OSError, http.client.HTTPException: nobody listens, or hung up.
            ServerError: the status is not 200.
        """
        return self._request("GET", path, None, {}).decode()

    def cpu_seconds(self) -> float:
        """CPU time of all its processes so far, user and system, in steps of one clock tick."""
        return (
            sum(sum(map(int, fields[11:13])) for _, fields in self._members()) / _TICKS_PER_SECOND
        )

    def peak_bytes(self) -> int:
        """Sum of the peak resident sets (``VmHWM``) of its processes; pages that they share count for each."""
        return sum(_peak_bytes(pid) for pid, _ in self._members())

    def resident_bytes(self) -> int:
        """Sum of the resident sets of its processes now."""
        return sum(int(fields[21]) for _, fields in self._members()) * _PAGE_BYTES

    def descriptors(self) -> int:
        """File descriptors that its processes hold open now."""
        return sum(len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid, _ in self._members())

    def pause(self) -> None:
        """Stop all its processes where they are, so that they take no time from another server."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let all its processes go on."""
        self._signal(signal.SIGCONT)

    def stop(self) -> int:
        """End all its processes: politely, then not.

        Returns:
            Exit status of the first one; negative where a signal ended it.
        """
        self._signal(signal.SIGTERM)
        self._signal(signal.SIGCONT)
        try:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(STOP_SECONDS)
        finally:
            while any(
                self._members()
            ):  # helpers that outlived their parent; the system needs a moment to end them
                self._signal(signal.SIGKILL)
                time.sleep(POLL_SECONDS)
            self._process.wait()
        return self._process.returncode

    def _request(
        self, method: str, path: str, content: bytes | None, headers: Mapping[str, str]
    ) -> bytes:
        connection = http.client.HTTPConnection(HOST, self.port, timeout=60)
        try:
            connection.request(method, path, content, dict(headers))
            answer = connection.getresponse()
            received = answer.read()
        finally:
            connection.close()
        if answer.status != 200:
            raise ServerError(f"{method} {path}: status {answer.status}: {received[:500]!r}")
        return received

    def _members(self) -> Iterator[tuple[int, list[str]]]:
        """Its live processes: id, and the fields of ``/proc/ID/stat`` from the state on (proc(5) numbers it 3)."""
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError):
                    fields = (entry / "stat").read_text().rpartition(")")[2].split()
                    if int(fields[3]) == self._process.pid and fields[0] != "Z":
                        yield int(entry.name), fields

    def _signal(self, number: int) -> None:
        for pid, _ in self._members():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def _end_of_log(self) -> str:
        return self._log.read_text(errors="replace")[-2000:]


def free_port() -> int:
    """A TCP port of loopback that nothing listened on a moment ago."""
    with socket.create_server((HOST, 0)) as taken:
        port: int = taken.getsockname()[1]
        return port


def _peak_bytes(pid: int) -> int:
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return 0
