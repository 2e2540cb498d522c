"""Long work in parts: each is kept as it is done, some go side by side, and what is there is not done again."""

import json
import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from tqdm import tqdm

from training.run_state import write_whole


def kept(path: Path, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The JSON of *path*; made and written first where it is missing."""
    if not path.exists():
        write_json(path, make())
    return dict(json.loads(path.read_text(encoding="utf-8")))


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Write a file as a whole, in a directory that is made where it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, (json.dumps(values, ensure_ascii=False, indent=1) + "\n").encode())


def do_all(
    work: Callable[..., dict[str, Any]], arguments: Sequence[tuple[Any, ...]], jobs: int
) -> list[dict[str, Any]]:
    """Call *work* with each of the arguments, in *jobs* processes, and return what it returns, in order."""
    with tqdm(
        total=len(arguments), desc=work.__name__.strip("_"), unit=" runs", disable=None
    ) as progress:
        if jobs == 1:
            results = []
            for each in arguments:
                results.append(work(*each))
                progress.update()
            return results
        spawned = multiprocessing.get_context("spawn")  # torch's threads do not survive a fork
        with ProcessPoolExecutor(jobs, spawned, max_tasks_per_child=1) as pool:
            futures = [pool.submit(work, *each) for each in arguments]
            for future in as_completed(futures):
                future.result()
                progress.update()
            return [future.result() for future in futures]
