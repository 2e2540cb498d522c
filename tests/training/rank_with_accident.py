"""The program of a rank in tests: `python -m training`, but rank 1 meets an accident in step 5.

The accident is the first argument: ``signal`` (SIGTERM) or ``infinity`` (an infinite gradient).
"""

import math
import os
import signal
import sys
from typing import Any

import torch

from training.__main__ import main
from training.trainer import Trainer

update = Trainer.update


def accident(trainer: Trainer, batch: Any) -> Any:
    """Make a step, in which rank 1 has the accident."""
    if os.environ["RANK"] == "1" and trainer.progress.step == 4:
        if sys.argv[1] == "signal":
            os.kill(os.getpid(), signal.SIGTERM)
        else:
            bias = trainer.network.output_bias
            bias.register_hook(lambda gradient: torch.full_like(gradient, math.inf))
    return update(trainer, batch)


Trainer.update = accident  # type: ignore[method-assign]
sys.exit(main(sys.argv[2:]))
