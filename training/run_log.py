"""The log of a run: ``metrics.jsonl``, TensorBoard and a picture of the loss curves."""

import json
import time
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from model.files import write_atomically
from model.text import LANGUAGES
from training.evaluation.report import draw_panels
from training.loss import Losses

HELD_OUT_KINDS = {"bits_per_character": "bits per character", "gap_nats": "nats per gap token"}


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


class Means:
    """Nats and targets of each head since the last line of the log."""

    def __init__(self) -> None:
        self.nats, self.counts = defaultdict[str, float](float), defaultdict[str, int](int)
        self._tokens, self._since = 0, time.monotonic()

    def add(self, losses: Losses, tokens: int) -> None:
        """Add the losses of a batch of *tokens* tokens."""
        for head, (nats, count) in losses.by_head.items():
            self.nats[head] += nats.item()
            self.counts[head] += count
        self._tokens += tokens

    def figures(self) -> dict[str, float]:
        """Return the mean of each loss that has targets, and the speed."""
        values = {f"loss_{head}": self.nats[head] / n for head, n in self.counts.items() if n}
        return {**values, "tokens_per_second": self._tokens / (time.monotonic() - self._since)}


def held_out_line(figures: Mapping[str, float]) -> str:
    """Return the bits per character, or a gap-only network's nats, of each language in words."""
    for kind, label in HELD_OUT_KINDS.items():
        named = {code: figures.get(f"heldout_{kind}_{code}") for code in LANGUAGES}
        found = [f"{code} {figure:.2f}" for code, figure in named.items() if figure is not None]
        if found:
            return f"held-out {label}: {', '.join(found)}"
    return "no held-out text"


def held_out_loss(figures: Mapping[str, float], characters: Mapping[str, int]) -> float:
    """Return the mean of bits per character, or a gap-only network's nats, over all languages.

    A language weighs by its held-out *characters*.
    """
    kind = next(each for each in HELD_OUT_KINDS if any(each in name for name in figures))
    found = [(n, figures[f"heldout_{kind}_{code}"]) for code, n in characters.items() if n]
    return sum(n * figure for n, figure in found) / sum(n for n, _ in found)
