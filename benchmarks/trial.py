"""One checkpoint directory after another, each loaded and asked in a child process of its own, which may do its worst.

``python -m benchmarks.trial`` reads directories from standard input, a line each, and writes what came of each as a
line of JSON. The libraries are loaded once and inherited by the children: a trial costs what the checkpoint costs.
"""

import json
import math
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Any

from benchmarks.contestants import ROOT
from model.errors import CheckpointError, LacunaError
from model.predictor import Predictor
from model.queries import ClozeQuery, PredictQuery, Query, ScoreQuery
from service.model_loader import load
from service.settings import read_settings

# A child that takes longer hangs, and one that would take more address space gets none.
SECONDS = 30
ADDRESS_BYTES = 8 << 30
QUERIES: Sequence[Query] = (
    PredictQuery("", 20),
    PredictQuery("I like to go to the th", 20),
    PredictQuery("我喜欢", 20, history="我喜欢旅游。"),
    ClozeQuery("They went to the ____, and there they were."),
    ClozeQuery("我的手机坏了,我打算____一部新____。", top_k=3),
    ClozeQuery("I like the ____ and the mat.", choices=("cat", "theatre", "猫")),
    ScoreQuery("She said that he would like the other theme. 今天天气很好"),
)


class Trials:
    """The process that tries directories, asking each of them `QUERIES`."""

    def __init__(self) -> None:
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith("LACUNA_")
        }
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.trial"],
            cwd=ROOT,
            env=environment | {"PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def attempt(self, directory: Path) -> dict[str, Any]:
        """Load a checkpoint as the service does, and ask it.

        Returns:
            ``outcome``: ``refused`` by a CheckpointError (``message``), ``answered`` (``digest``, ``answers``,
            ``sane``), ``failed`` with another exception (``message``), or ``ended`` by a ``signal``; and ``peak_mib``,
            its peak resident set.
        """
        assert self._process.stdin is not None  # noqa: S101 - both were asked for
        assert self._process.stdout is not None  # noqa: S101
        self._process.stdin.write(f"{directory}\n")
        self._process.stdin.flush()
        found: dict[str, Any] = json.loads(self._process.stdout.readline())
        return found

    def __enter__(self) -> "Trials":
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: object, _trace: TracebackType | None
    ) -> None:
        self._process.communicate()


def try_in_child(directory: Path) -> dict[str, Any]:
    """See `Trials.attempt`."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_BYTES, ADDRESS_BYTES))
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            signal.alarm(SECONDS)  # its default action ends a process that is in C as well
            os.close(read)
            with os.fdopen(write, "w") as told:
                json.dump(load_and_ask(directory), told)
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read) as told:
        content = told.read()
    _, status, usage = os.wait4(child, 0)
    found = json.loads(content) if content and os.WIFEXITED(status) else {"outcome": "ended"}
    ended_by = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
    return {**found, "signal": ended_by, "peak_mib": usage.ru_maxrss >> 10}


def load_and_ask(directory: Path) -> dict[str, Any]:
    """The same in this process."""
    try:
        loaded = load(
            read_settings(["--threads", "1", "--device", "cpu"]),
            lambda _call, _rows: None,
            directory,
        )
        json.dumps(loaded.description, allow_nan=False, ensure_ascii=False).encode()
        predictor = loaded.predictor
        if not isinstance(predictor, Predictor):
            raise TypeError(type(predictor).__name__)
        answers = [_plain(answer) for answer in predictor.run(QUERIES)]
    except CheckpointError as error:
        return {"outcome": "refused", "message": str(error)}
    except Exception as error:
        return {"outcome": "failed", "message": f"{type(error).__name__}: {error}"[:500]}
    digest = loaded.description["digest"]
    return {
        "outcome": "answered",
        "digest": digest,
        "answers": answers,
        "sane": all(map(is_sane, answers)),
    }


def is_sane(answer: dict[str, Any]) -> bool:
    """Whether some network could say so: probabilities from 0 to 1 that do not rise, and finite logarithms."""
    lists = [
        answer.get("candidates", []),
        *(blank["candidates"] for blank in answer.get("blanks", [])),
    ]
    for candidates in lists:
        shares = [candidate["probability"] for candidate in candidates]
        ordered = all(one >= other for one, other in pairwise(shares))
        if not (ordered and all(0 <= share <= 1 for share in shares) and sum(shares) <= 1 + 1e-6):
            return False
    return "log_probability" not in answer or -math.inf < answer["log_probability"] <= 0


def _plain(answer: Any) -> dict[str, Any]:
    return {"error": str(answer)} if isinstance(answer, LacunaError) else asdict(answer)


def main() -> int:
    """Try what standard input names.

    Returns:
        0.
    """
    for line in sys.stdin:
        print(json.dumps(try_in_child(Path(line.rstrip("\n")))), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
