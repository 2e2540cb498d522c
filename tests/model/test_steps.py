"""Putting decoders together."""

import numpy as np
import pytest

from model.steps import Advance, Decoder, ask, together

STATE = np.zeros(2, dtype=np.float32)


def count_up(steps: int) -> Decoder[float]:
    """Ask *steps* times for one thing and add up what came."""
    total = 0.0
    for number in range(steps):
        (row,) = yield from ask([Advance("forward", STATE, (number,))])
        total += float(row[0])
    return total


def test_together_merges_steps_and_keeps_answers_apart() -> None:
    """Decoders of different length share their rounds; each gets its own results, answers come in order."""
    joined = together([count_up(2), count_up(0), count_up(3)])
    steps = next(joined)
    rounds = []
    with pytest.raises(StopIteration) as stop:
        while True:
            rounds.append(len(steps))
            steps = joined.send(
                [np.array([10.0 * index + 1], dtype=np.float32) for index in range(len(steps))]
            )
    assert rounds == [2, 2, 1]
    assert stop.value.value == [2.0, 0.0, 11.0 + 11.0 + 1.0]


def test_together_passes_an_error_on() -> None:
    """One failing part fails the whole: the parts belong to one query."""

    def fail() -> Decoder[float]:
        yield from ask([])
        raise ValueError("broken")

    joined = together([count_up(2), fail()])
    next(joined)
    with pytest.raises(ValueError, match="broken"):
        joined.send([STATE])
