"""What reads in one direction does not answer, behind the protocol of model/runtime.py."""

import numpy as np
from numpy.typing import NDArray

from model.errors import UnsupportedError

Float32Array = NDArray[np.float32]
Ids = NDArray[np.int64]


class ForwardOnlyRuntime:
    """The heads that an n-gram, and the comparison's own networks, lack."""

    def previous_log_probabilities(self, outputs: Float32Array) -> Float32Array:  # noqa: ARG002
        """Not answered: raises UnsupportedError."""
        raise forward_only()

    def gap_log_probabilities(
        self,
        forward: Float32Array,  # noqa: ARG002
        backward: Float32Array,  # noqa: ARG002
        right_known: NDArray[np.bool_],  # noqa: ARG002
        positions: Ids,  # noqa: ARG002
        kinds: Ids,  # noqa: ARG002
    ) -> Float32Array:
        """Not answered: raises UnsupportedError."""
        raise forward_only()

    def fill_log_probabilities(self, tokens: Ids, lengths: Ids, places: Ids) -> Float32Array:  # noqa: ARG002
        """Not answered: raises UnsupportedError."""
        raise forward_only()


def forward_only() -> UnsupportedError:
    """The error of whoever asks for the right side."""
    return UnsupportedError(
        "/text", "this model reads from left to right only; use a network with two towers"
    )
