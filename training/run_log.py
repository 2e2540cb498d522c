"""The log of a run: ``metrics.jsonl``, TensorBoard and a picture of the loss curves."""

import json
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from model.files import write_atomically
from training.evaluation.report import draw_panels


class RunLog:
    """Writes the figures of a run, one JSON object a line, and to TensorBoard.

    Lines after *step*, at which the run starts or resumes, are dropped: a crash left them.

    Raises:
        OSError: the disk is full or not writable; the lines before are kept.
    """

    def __init__(self, directory: Path, step: int) -> None:
        self._path = directory / "metrics.jsonl"
        records = [record for record in read_records(self._path) if record["step"] <= step]
        lines = "".join(json.dumps(record) + "\n" for record in records)
        write_atomically(self._path, lines.encode())
        self._board = SummaryWriter(str(directory / "tensorboard"), purge_step=step + 1)

    def write(self, step: int, values: dict[str, Any]) -> None:
        """Append the figures of one step."""
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")
        for name, value in values.items():
            if isinstance(value, (int, float)):
                self._board.add_scalar(name, value, step)

    def close(self) -> None:
        """Draw the curves and close the files."""
        self._board.close()
        draw(read_records(self._path), self._path.with_name("loss.png"))


def read_records(path: Path) -> list[dict[str, Any]]:
    """Read the records of a metrics file, without a last line that a crash cut off."""
    records: list[dict[str, Any]] = []
    if path.exists():
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                records.append(json.loads(line))
            except ValueError:
                break
    return records


def draw(records: list[dict[str, Any]], picture: Path) -> None:
    """Draw training losses (nats per target) and held-out figures against tokens read."""
    with draw_panels(picture, 1, 2, (10, 4)) as [[left, right]]:
        for axis, prefix, title in (
            (left, "loss_", "training loss, nats per target"),
            (right, "heldout_", "held-out text"),
        ):
            names = sorted({name for each in records for name in each if name.startswith(prefix)})
            for name in names:
                points = [(r["tokens"] / 1e6, r[name]) for r in records if name in r]
                label = name.removeprefix(prefix).replace("_", " ")
                axis.plot(*zip(*points, strict=True), label=label)
            axis.set(title=title, xlabel="million tokens read")
            axis.grid(alpha=0.3)
            if names:
                axis.legend()
