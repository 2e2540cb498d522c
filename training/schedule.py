"""The learning rate of each step. Pure arithmetic."""

import math

from training.config import OptimizerOptions


def learning_rate(options: OptimizerOptions, step: int, steps: int) -> float:
    """Return the learning rate of update *step*, from 0, of *steps* in the whole run.

    ``one_cycle`` is a linear warm-up and a cosine to the floor (Smith 2018, arXiv:1803.09820,
    without its momentum). ``warmup_stable_decay`` stays at the peak and falls linearly over the
    last ``decay_steps`` (Hu et al. 2024, arXiv:2404.06395).
    """
    peak, floor = options.learning_rate, options.floor
    if step < options.warmup_steps:
        return peak * (step + 1) / options.warmup_steps
    if options.schedule == "constant":
        return peak
    if options.schedule == "one_cycle":
        progress = (step - options.warmup_steps) / max(1, steps - options.warmup_steps)
        return peak * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress))))
    left = (steps - step) / max(1, options.decay_steps)
    return peak * (floor + (1 - floor) * min(1.0, max(0.0, left)))
