"""`make newcomer`: from no text at all to an answer over HTTP in about three minutes, by the commands of README.md.

It works in a directory of its own, prints each command and runs it as a newcomer would, and ends with a request to the
service. It computes nothing itself; the only part of the service that it knows is the HTTP interface.
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
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RUN_FILE = "training/runs/small.toml"
# Word for word what README.md shows under "Train your own"; a test compares the two.
TRAIN_YOUR_OWN = (
    "python -m training prepare my-text/zh.txt my-text/en.txt --output runs/data/small --vocabulary-size 1000"
    " --held-out-share 0.1",
    f"python -m training train {RUN_FILE}",
    "python -m training export runs/small --output runs/small/checkpoint",
)
SERVE = "python -m service --checkpoint runs/small/checkpoint"
QUESTIONS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("/predict", {"text": "Maria asked for a cup of ", "top_k": 3}),
    ("/predict", {"text": "Last week David went to London by tr", "top_k": 3}),
    ("/cloze", {"text": "小明,我们去书店____一本书吧。", "top_k": 3}),
    ("/cloze", {"text": "My mother is a ____ and works in the hospital.", "top_k": 3}),
)
# A service that is not ready by then will not be.
READY_SECONDS = 60.0
# A proxy named in the environment must not be asked about this machine.
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def main(arguments: Sequence[str] | None = None) -> int:
    """`python -m research.quickstart [--seconds N] [--directory DIR]`.

    Returns:
        0, or the exit status of the first command that failed.
    """
    parser = argparse.ArgumentParser(
        prog="python -m research.quickstart", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument(
        "--seconds", type=float, help="of training, in CPU seconds (default: two minutes)"
    )
    parser.add_argument(
        "--directory", type=Path, default=ROOT / "runs" / "newcomer", help="emptied first"
    )
    options = parser.parse_args(arguments)
    directory: Path = options.directory.resolve()
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    limit = "" if options.seconds is None else f" --minutes {options.seconds / 60:.4f}"
    prepare, train, export = TRAIN_YOUR_OWN
    for command in ("python -m research.toy_corpus my-text", prepare, train + limit, export):
        _say(f"$ {command}")
        status = subprocess.run(_runnable(command), cwd=directory, check=False).returncode
        if status:
            return status
    _say(f"$ {SERVE}")
    with serving(_runnable(SERVE), directory, {"OMP_NUM_THREADS": "1"}) as address:
        for route, question in QUESTIONS:
            body = json.dumps(question, ensure_ascii=False)
            _say(
                f"$ curl -fsS {address}{route} -H 'Content-Type: application/json' -d {shlex.quote(body)}"
            )
            _say(json.dumps(post(address + route, question), ensure_ascii=False))
    return 0


@contextmanager
def serving(
    command: Sequence[str], directory: Path, environment: Mapping[str, str]
) -> Iterator[str]:
    """Run a service on a free port of loopback until the block ends.

    Args:
        command: starts the service in the foreground.
        directory: its working directory; `service.log` is written there.
        environment: variables beside those of this process.

    Yields:
        Its address, such as `http://127.0.0.1:8000`, once `/readyz` answers 200.

    Raises:
        RuntimeError: it ended, or was not ready in time; the message has the end of its log.
    """
    port = free_port()
    log = directory / "service.log"
    variables = {**os.environ, **environment, "LACUNA_PORT": str(port)}
    with log.open("wb") as stream:
        process = subprocess.Popen(
            command, cwd=directory, env=variables, stdout=stream, stderr=stream
        )
        try:
            address = f"http://127.0.0.1:{port}"
            if not _becomes_ready(process, address):
                raise RuntimeError(
                    f"the service is not ready (status {process.poll()}):\n{log.read_text()[-2000:]}"
                )
            yield address
        finally:
            process.terminate()
            process.wait(timeout=30)


def post(url: str, question: Mapping[str, Any]) -> Any:
    """POST JSON, read JSON.

    Raises:
        urllib.error.HTTPError: the answer is not a 2xx.
    """
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(url, json.dumps(question).encode(), headers)
    with _DIRECT.open(request, timeout=30) as answer:
        return json.load(answer)


def free_port() -> int:
    """A TCP port of loopback that nothing listened on a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port: int = taken.getsockname()[1]
        return port


def _becomes_ready(process: subprocess.Popen[bytes], address: str) -> bool:
    deadline = time.monotonic() + READY_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        try:
            with _DIRECT.open(f"{address}/readyz", timeout=5):
                return True
        except OSError:  # refused until it listens, 503 until the checkpoint is loaded
            time.sleep(0.05)
    return False


def _runnable(command: str) -> list[str]:
    """The command with this interpreter for `python`, and the project's own run file wherever it is run."""
    return [
        {"python": sys.executable, RUN_FILE: str(ROOT / RUN_FILE)}.get(word, word)
        for word in shlex.split(command)
    ]


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    raise SystemExit(main())
