"""Go from no text at all to answers over HTTP in about six minutes (`make newcomer`).

It writes a toy corpus, runs the commands that README.md shows under "Train your own", starts the
service and sends it four questions. Every command is printed before it runs.
"""

import argparse
import json
import os
import shlex
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx

ROOT = Path(__file__).resolve().parent.parent
RUN_FILE = "training/runs/small.toml"
# A test compares these commands with README.md.
TRAIN_YOUR_OWN = (
    "lacuna train my-text --output runs/mine",
    "python -m training prepare my-text --output runs/data/small",
    f"python -m training train {RUN_FILE}",
    "python -m training export runs/small --output runs/small/checkpoint",
)
SERVE = "lacuna serve --checkpoint runs/mine/checkpoint"
QUESTIONS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("/predict", {"text": "Maria asked for a cup of ", "top_k": 3}),
    ("/predict", {"text": "Last week David went to London by tr", "top_k": 3}),
    ("/cloze", {"text": "小明,我们去书店____一本书吧。", "top_k": 3}),
    ("/cloze", {"text": "My mother is a ____ and works in the hospital.", "top_k": 3}),
)
READY_SECONDS = 60.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run every step; return 0, or the exit status of the first command that failed."""
    parser = argparse.ArgumentParser(prog="python -m research.quickstart", description=__doc__)
    parser.add_argument("--seconds", type=float, help="CPU seconds of each training")
    parser.add_argument(
        "--directory", type=Path, default=ROOT / "runs" / "newcomer", help="emptied first"
    )
    options = parser.parse_args(arguments)
    directory: Path = options.directory.resolve()
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    minutes = 3 if options.seconds is None else options.seconds / 60
    adapt, prepare, train, export = TRAIN_YOUR_OWN
    trained = (
        f"{adapt} --minutes {minutes:.4g}",
        prepare,
        f"{train} --minutes {minutes:.4g}",
        export,
    )
    for command in ("python -m research toy-corpus my-text", *trained):
        _print(f"$ {command}")
        step = subprocess.run(_runnable(command), cwd=directory, env=_environment(), check=False)
        if step.returncode:
            return step.returncode
    _print(f"$ {SERVE}")
    with serving(_runnable(SERVE), directory) as address:
        for route, question in QUESTIONS:
            body = shlex.quote(json.dumps(question, ensure_ascii=False))
            _print(f"$ curl -fsS {address}{route} -H 'Content-Type: application/json' -d {body}")
            _print(json.dumps(post(address + route, question), ensure_ascii=False))
    return 0


@contextmanager
def serving(command: Sequence[str], directory: Path) -> Iterator[str]:
    """Run a service of one thread on a free port of loopback until the block ends.

    Args:
        command: starts the service in the foreground.
        directory: working directory of the service; ``service.log`` is written there.

    Yields:
        Its address, such as ``http://127.0.0.1:8000``, as soon as it is ready.

    Raises:
        RuntimeError: it ended or was not ready in time; the message has the end of its log.
    """
    port = free_port()
    log = directory / "service.log"
    variables = {**_environment(), "OMP_NUM_THREADS": "1", "LACUNA_PORT": str(port)}
    with log.open("wb") as stream:
        process = subprocess.Popen(
            command, cwd=directory, env=variables, stdout=stream, stderr=stream
        )
        try:
            address = f"http://127.0.0.1:{port}"
            if not _becomes_ready(process, address):
                end = log.read_text(encoding="utf-8")[-2000:]
                raise RuntimeError(f"the service is not ready (status {process.poll()}):\n{end}")
            yield address
        finally:
            process.terminate()
            process.wait(timeout=30)


def post(url: str, question: Mapping[str, Any]) -> Any:
    """POST a JSON object and return the JSON answer.

    Raises:
        httpx.HTTPStatusError: the answer is not a 2xx.
    """
    answer = httpx.post(url, json=question, timeout=30, trust_env=False)  # not through a proxy
    return answer.raise_for_status().json()


def free_port() -> int:
    """Return a TCP port of loopback that was free a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port: int = taken.getsockname()[1]
        return port


def _becomes_ready(process: subprocess.Popen[bytes], address: str) -> bool:
    deadline = time.monotonic() + READY_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        with suppress(httpx.TransportError):  # refused before it listens
            if httpx.get(f"{address}/readyz", trust_env=False).is_success:
                return True
        time.sleep(0.05)
    return False


def _runnable(command: str) -> list[str]:
    """Name this interpreter and the project's run file, so that the command runs in any folder."""
    python = [sys.executable]
    names = {
        "python": python,
        "lacuna": [*python, "-m", "lacuna"],
        RUN_FILE: [str(ROOT / RUN_FILE)],
    }
    return [word for each in shlex.split(command) for word in names.get(each, [each])]


def _environment() -> dict[str, str]:
    """Let the commands import the project from any folder; ``research`` is not installed."""
    return {**os.environ, "PYTHONPATH": str(ROOT)}


def _print(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    raise SystemExit(main())
