"""Learning-rate schedules."""

from typing import Any

import pytest

from training.config import OptimizerOptions
from training.schedule import learning_rate


@pytest.mark.parametrize("schedule", ["constant", "one_cycle", "warmup_stable_decay"])
def test_schedules_warm_up_and_fall(schedule: Any) -> None:
    """Each schedule rises linearly to the peak; all but the constant one end near the floor."""
    options = OptimizerOptions(
        learning_rate=1.0, schedule=schedule, warmup_steps=10, decay_steps=20, floor=0.05
    )
    rates = [learning_rate(options, step, 100) for step in range(100)]
    assert rates[4] == pytest.approx(0.5)
    assert max(rates) == pytest.approx(1.0)
    assert rates[-1] == pytest.approx(1.0) if schedule == "constant" else rates[-1] < 0.11
    if schedule == "warmup_stable_decay":
        assert rates[79] == 1.0 > rates[81]
