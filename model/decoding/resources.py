"""What every decoder needs of a checkpoint, and the readings that they share."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from model.config import Calibration, NetworkConfig
from model.decoding.piece_index import PieceIndex
from model.runtime import Floats, Tower, initial_states, output_of
from model.steps import Advance, Decoder, ask
from model.vocabulary import START, Vocabulary


@dataclass(frozen=True, slots=True)
class Resources:
    """A checkpoint as decoders see it; built once, shared by all."""

    vocabulary: Vocabulary
    index: PieceIndex
    network: NetworkConfig
    calibration: Calibration

    def initial(self, tower: Tower) -> Floats:
        """The state before anything is read, (S,)."""
        return cast("Floats", initial_states(self.network, tower, 1)[0])

    def output(self, tower: Tower, state: Floats) -> Floats:
        """What the heads read of a state: (S,) -> (H,)."""
        return cast("Floats", output_of(self.network, tower, state[None])[0])


def read_left(resources: Resources, pieces: Sequence[int]) -> Decoder[Floats]:
    """The forward state after ``<s>`` and *pieces*, (S,). The one place at which a cache of prefixes can stand."""
    (state,) = yield from ask([Advance("forward", resources.initial("forward"), (START, *pieces))])
    return state


def probabilities(log_probabilities: Floats, temperature: float) -> Floats:
    """Probabilities (V,) from a head's log-probabilities (V,), its logits divided by *temperature*.

    Masked pieces stay at 0. Softmax is blind to a shift, so log-probabilities serve as logits.
    """
    if temperature == 1.0:
        return np.exp(log_probabilities)
    values = log_probabilities / np.float32(temperature)
    exponentials = np.exp(values - values.max())
    return cast("Floats", exponentials / exponentials.sum())


def largest(values: NDArray[np.floating[Any]], count: int, above: float) -> NDArray[np.int64]:
    """Indices of the *count* largest of *values* (n,) that are above *above*, largest first; ties by index."""
    chosen = np.flatnonzero(values > above)
    if count < len(chosen):
        chosen = chosen[np.argpartition(-values[chosen], count - 1)[:count]]
    return chosen[np.lexsort((chosen, -values[chosen]))]
