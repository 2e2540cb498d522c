"""The steps a decoder may ask for, and how decoders are put together. No batching here: that is the scheduler's.

A decoder is a generator. It yields a list of steps, receives one float32 array per step in the same order (for a
:class:`Read`, two), and returns its answer. It never sees the network, nor any other decoder.
"""

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from model.runtime import Float32Array, Tower

Answer = TypeVar("Answer")


@dataclass(slots=True, eq=False)
class Advance:
    """Read *tokens* from *state* (S,) -> the state after them, (S,)."""

    tower: Tower
    state: Float32Array
    tokens: tuple[int, ...]


@dataclass(slots=True, eq=False)
class Trace:
    """Read *tokens* from *state* (S,) -> the tower's output after each of them, (T, H)."""

    tower: Tower
    state: Float32Array
    tokens: tuple[int, ...]


@dataclass(slots=True, eq=False)
class Next:
    """Log-probabilities of the next token after the forward *output* (H,) -> (V,), or those of *only*, in its order."""

    output: Float32Array
    only: tuple[int, ...] | None = None


@dataclass(slots=True, eq=False)
class Read:
    """Read a token forwards and score the next, in one go -> the state (S,), the next token's probabilities (V,).

    Attributes:
        state: forward state, (S,).
        token: None reads nothing: the state stays, and is scored.
        temperature: divides the logits.
    """

    state: Float32Array
    token: int | None
    temperature: float


@dataclass(slots=True, eq=False)
class Previous:
    """Log-probabilities of the token before the backward *output* (H,) -> (V,), or those of *only*, in its order."""

    output: Float32Array
    only: tuple[int, ...] | None = None


@dataclass(slots=True, eq=False)
class Gap:
    """Log-probabilities of a gap's token number *position* -> (V,), or those of *only*, in its order.

    Attributes:
        forward: forward output after all that stands before that token, (H,).
        backward: backward output after all that stands right of the gap, (H,); None where that is unknown.
        position: tokens of the gap that were read already.
        kind: ``WORD``, ``TOKEN`` or ``SPAN`` of :mod:`model.config`.
    """

    forward: Float32Array
    backward: Float32Array | None
    position: int
    kind: int
    only: tuple[int, ...] | None = None


@dataclass(slots=True, eq=False)
class Fill:
    """Log-probabilities of the token at *place* of a whole line, where it holds ``<blank>`` -> (V,).

    Only a stacked bidirectional network answers it, and nothing else.
    """

    tokens: tuple[int, ...]
    place: int


# What is answered by one array.
Single = Advance | Trace | Next | Previous | Gap | Fill
Step = Single | Read
Decoder = Generator[Sequence[Step], Sequence[Any], Answer]


def ask(steps: Sequence[Single]) -> Decoder[Sequence[Float32Array]]:
    """Yield once, and return what came back. With ``yield from`` its type is known; that of a bare yield is not."""
    return (yield steps)


def read(steps: Sequence[Read]) -> Decoder[Sequence[tuple[Float32Array, Float32Array]]]:
    """The same for steps that are answered by a state and a row of probabilities each."""
    return (yield steps)


def together(decoders: Sequence[Decoder[Answer]]) -> Decoder[list[Answer]]:
    """Run several decoders side by side, their steps in common lists.

    Returns:
        Their answers, in order.
    """
    answers: dict[int, Answer] = {}
    waiting: dict[int, Sequence[Step]] = {}
    for index, decoder in enumerate(decoders):
        try:
            waiting[index] = next(decoder)
        except StopIteration as stop:
            answers[index] = stop.value
    while waiting:
        results = yield [step for steps in waiting.values() for step in steps]
        start = 0
        for index, steps in list(waiting.items()):
            own = results[start : start + len(steps)]
            start += len(steps)
            try:
                waiting[index] = decoders[index].send(own)
            except StopIteration as stop:
                answers[index] = stop.value
                del waiting[index]
    return [answers[index] for index in range(len(decoders))]
