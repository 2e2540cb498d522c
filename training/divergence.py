"""Notice that a run has diverged before its state replaces a good one."""

import math
from collections import deque
from pathlib import Path
from statistics import median

from model.errors import DivergedError
from training.run_state import find_state, read_state

WINDOW = 20  # steps whose median decides that a run has diverged
RECENT = 5  # steps whose median decides if the state may be saved
# A single batch may be odd, so it counts only if it is this much worse than the limit
ODD = 1.5
HIGH_RATE = 0.01  # more than this is never worth a suggestion


class LossWatch:
    """Compares the nats per target of the last steps with those of a uniform guess.

    A run that begins above a uniform guess, as on text in another script, has diverged if it gets
    half as bad again.
    """

    def __init__(self, vocabulary_size: int) -> None:
        self._uniform = math.log(vocabulary_size)
        self._limit = math.inf
        self._losses: deque[float] = deque(maxlen=WINDOW)

    def add(self, loss: float) -> None:
        """Add the loss of a step."""
        if not self._losses:
            self._limit = self._uniform if loss <= self._uniform else ODD * loss
        self._losses.append(loss)

    def has_diverged(self) -> bool:
        """Return True if the losses of a whole window are too high."""
        return len(self._losses) == WINDOW and median(self._losses) > self._limit

    def is_good(self, loss: float) -> bool:
        """Return True if a state may be saved that has this loss on the last batch."""
        recent = list(self._losses)[-RECENT:]
        return loss <= ODD * self._limit and (not recent or median(recent) <= self._limit)

    def __str__(self) -> str:
        recent = median(list(self._losses)[-RECENT:])
        return f"{recent:.4g} nats per token, where a uniform guess has {self._uniform:.4g}"


def diverged(run: Path, step: int, reason: str, learning_rate: float) -> DivergedError:
    """Return the error of a run that diverged; it names the kept state and the remedy."""
    kept, then = "nothing was saved yet", "and begin again"
    if state := find_state(run):
        kept = f"{state} of step {read_state(state).progress.step} is kept"
        then = "with another --output, or with `train --resume`"
    lower = min(learning_rate / 3, HIGH_RATE)
    return DivergedError(
        f"step {step}: diverged: {reason}; {kept}; lower the learning rate, to {lower:.2g} or less,"
        f" {then}"
    )
