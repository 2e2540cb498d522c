"""What a run tells: metrics.jsonl, TensorBoard, a loss-curve PNG. Knows nothing of networks."""

import json
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from model.errors import RunError
from training.run_state import write_whole


class RunLog:
    """Writes a run's figures, one JSON object a line, and the same to TensorBoard.

    Args:
        directory: of the run.
        step: where the run (re)starts; lines of later steps, which a crash may have left, are dropped.

    Raises:
        RunError: the disk is full.
    """

    def __init__(self, directory: Path, step: int) -> None:
        self._path = directory / "metrics.jsonl"
        self._records = [record for record in read_records(self._path) if record["step"] <= step]
        self._picture = directory / "loss.png"
        write_whole(
            self._path, "".join(json.dumps(record) + "\n" for record in self._records).encode()
        )
        self._board = SummaryWriter(str(directory / "tensorboard"), purge_step=step + 1)

    def write(self, step: int, values: dict[str, Any]) -> None:
        """Append figures of one step.

        Raises:
            RunError: the disk is full.
        """
        record = {"step": step, **values}
        self._records.append(record)
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")
            for name, value in values.items():
                if isinstance(value, (int, float)):
                    self._board.add_scalar(name, value, step)
        except OSError as error:
            raise RunError(
                f"{self._path}: cannot write: {error}; free space, then --resume"
            ) from error

    def close(self) -> None:
        """Draw the curves and close the files."""
        self._board.close()
        draw(self._records, self._picture)


def read_records(path: Path) -> list[dict[str, Any]]:
    """Records of a metrics file; a last line torn by a crash is left out."""
    records: list[dict[str, Any]] = []
    if path.exists():
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                records.append(json.loads(line))
            except ValueError:
                break
    return records


def draw(records: list[dict[str, Any]], picture: Path) -> None:
    """Draw training losses (nats a target) and held-out bits per character against tokens read."""
    from matplotlib.figure import Figure  # slow to import, and needed once a run

    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for axis, prefix, title in (
        (left, "loss_", "training loss, nats a target"),
        (right, "heldout_", "held-out text"),
    ):
        names = sorted({name for record in records for name in record if name.startswith(prefix)})
        for name in names:
            points = [(r["tokens"] / 1e6, r[name]) for r in records if name in r]
            axis.plot(*zip(*points, strict=True), label=name.removeprefix(prefix).replace("_", " "))
        axis.set(title=title, xlabel="million tokens read")
        axis.grid(alpha=0.3)
        if names:
            axis.legend()
    figure.savefig(picture, dpi=110)
