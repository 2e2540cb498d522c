"""The protocol of everything that computes predictions, and what its implementations share.

Arrays in, arrays out: a runtime knows neither text nor queries nor caches. A row is one text's
share of a batch. Every call is **batch invariant**: a row's result is bit for bit the same alone or
among any others, in any order, with any padding.

Implementations: ``model/onnx_runtime.py`` (CPU), ``model/torch_runtime.py`` (CUDA, and the
reference for the graphs), ``model/ngram.py``.
"""

from typing import TYPE_CHECKING, Any, Literal, Protocol, get_args

import numpy as np
import numpy.typing as npt

from model.config import GAP_POSITIONS, SPAN, Architecture, Sizes, Tower
from model.errors import CheckpointError, UnsupportedError
from model.tokenizer import FIRST_BYTE, START

if TYPE_CHECKING:
    from model.checkpoint import Checkpoint

Float32Array = npt.NDArray[np.float32]
Float64Array = npt.NDArray[np.float64]
Int64Array = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

Head = Literal["next", "previous", "gap", "fill"]

# Tokens of every vocabulary, which a new runtime reads in its check.
_TRIED = (START, FIRST_BYTE, FIRST_BYTE + 255)
# Largest error of a sum of float32 probabilities.
_SUM_TOLERANCE = 1e-2


class Runtime(Protocol):
    """A model that can be run; N rows, T steps, and the sizes S (state), H (output) and V (tokens).

    Calls that a model does not support raise :class:`~model.errors.UnsupportedError`.

    Attributes:
        head_rows: rows of a call of :meth:`score` that suit the device.
    """

    head_rows: int

    @property
    def sizes(self) -> Sizes:
        """Sizes of its arrays."""
        ...

    def run_tower(
        self, tower: Tower, states: Float32Array, tokens: Int64Array, lengths: Int64Array
    ) -> tuple[Float32Array, Float32Array]:
        """Read tokens with one tower.

        Args:
            tower: which tower.
            states: flat states before, (N, S).
            tokens: ids, (N, T), right-padded with any id of the vocabulary.
            lengths: tokens that count in each row, (N,), 0 to T.

        Returns:
            New states (N, S), each after its own row's tokens; a row of length 0 keeps its state.
            And the top layer's outputs (N, T, H), unspecified beyond a row's length.
        """
        ...

    def score(self, head: Head, *inputs: npt.NDArray[Any]) -> Float32Array:
        """Return the log-probabilities of one head, (N, V); minus infinity for impossible tokens.

        The heads and their inputs:

        - ``next``: the next token, from the forward tower's outputs (N, H).
        - ``previous``: the previous token, from the backward tower's outputs (N, H).
        - ``gap``: a gap's next token, or ``<eog>`` for its end, from outputs of the forward tower
          after the left side and the span so far (N, H); outputs of the backward tower after the
          right side (N, H), any finite values if unknown; bool (N,), False if nothing is known of
          the right side; int64 (N,), tokens of the span already read; int64 (N,), WORD, TOKEN or
          SPAN.
        - ``fill``, of stacked bidirectional networks: the token at a place of a whole line, from
          int64 lines (N, T), right-padded, with ``<blank>`` at unknown places; int64 (N,), their
          lengths; int64 (N,), the index of the place in each line.
        """
        ...


class WindowRuntime:
    """Base of runtimes whose states, which are also their outputs, are the last tokens read.

    They are held as float32 (exact below 2**24), oldest first; 0 = none yet.
    """

    def run_tower(
        self, tower: Tower, states: Float32Array, tokens: Int64Array, lengths: Int64Array
    ) -> tuple[Float32Array, Float32Array]:
        """Append tokens to the states; see :meth:`Runtime.run_tower`."""
        if tower != "forward":
            raise unsupported("two_towers")
        read = np.concatenate([states, tokens.astype(np.float32)], axis=1)
        windows = np.lib.stride_tricks.sliding_window_view(read, states.shape[1], axis=1)
        return windows[np.arange(len(states)), lengths].copy(), windows[:, 1:].copy()

    def score(self, head: Head, *inputs: npt.NDArray[Any]) -> Float32Array:
        """Score the next token; see :meth:`Runtime.score`."""
        if head != "next":
            raise unsupported("two_towers")
        return self.score_next(inputs[0].astype(np.int64))

    def score_next(self, contexts: Int64Array) -> Float32Array:
        """Return log-probabilities (N, V) of the next token after contexts (N, H)."""
        raise NotImplementedError


def unsupported(architecture: Architecture) -> UnsupportedError:
    """Return the error of a call that only another architecture answers."""
    needed = "two towers" if architecture == "two_towers" else f"the architecture {architecture}"
    return UnsupportedError("/text", f"the loaded model cannot answer this; load one with {needed}")


def initial_states(sizes: Sizes, tower: Tower, rows: int) -> Float32Array:
    """Return the states before any token is read: zeros, (rows, S)."""
    return np.zeros((rows, sizes.state_size(tower)), dtype=np.float32)


def output_of(sizes: Sizes, tower: Tower, states: Float32Array) -> Float32Array:
    """Return the top layer's output within flat states: (N, S) to (N, H), or (S,) to (H,)."""
    return states[..., output_slice(sizes, tower)]


def output_slice(sizes: Sizes, tower: Tower) -> slice:
    """Return where a flat state holds the top layer's output."""
    start = sizes.state_size(tower) - sizes.state_parts * sizes.hidden_size
    return slice(start, start + sizes.hidden_size)


def open_runtime(
    checkpoint: "Checkpoint", device: Literal["cpu", "cuda"] = "cpu", threads: int = 1
) -> Runtime:
    """Open the runtime that suits a device: ONNX Runtime on a CPU, torch elsewhere.

    Args:
        checkpoint: a loaded checkpoint.
        device: ``cpu``, or ``cuda`` (needs the ``gpu`` extra).
        threads: threads that one call may use on a CPU.

    Raises:
        CheckpointError: the graphs are missing, not listed, cannot be opened or fail their check,
            or torch is not installed.
    """
    runtime: Runtime
    if device == "cpu":
        from model.onnx_runtime import open_onnx_runtime

        runtime = open_onnx_runtime(checkpoint, threads)
    else:
        try:
            from model.torch_runtime import open_torch_runtime
        except ImportError as error:
            raise CheckpointError(
                f"device {device} needs torch and safetensors: pip install -e '.[gpu]'"
            ) from error
        runtime = open_torch_runtime(checkpoint.directory, checkpoint.config.network, device)
    try:
        check_runtime(runtime)
    except Exception as error:  # onnxruntime's errors have no base of their own
        raise CheckpointError(
            f"{checkpoint.directory}: its network cannot be run: {error}; export it again"
        ) from error
    return runtime


def check_runtime(runtime: Runtime) -> None:
    """Run every call once. A checkpoint with valid checksums can still contain NaN weights.

    Heads share the embedding with the towers, so a NaN anywhere in it spoils one of these results.

    Raises:
        ValueError: a state or a log-probability that no network computes.
    """
    sizes = runtime.sizes
    lengths = np.array([len(_TRIED), 1], dtype=np.int64)
    tokens = np.array([_TRIED, _TRIED[::-1]], dtype=np.int64)
    if sizes.architecture == "stacked_bidirectional":
        _check_head("fill", runtime.score("fill", tokens, lengths, lengths - 1))
        return
    tops: dict[Tower, Float32Array] = {}
    for tower in get_args(Tower):
        if sizes.state_size(tower):
            states = initial_states(sizes, tower, len(tokens))
            states, outputs = runtime.run_tower(tower, states, tokens, lengths)
            tops[tower] = outputs[np.arange(len(lengths)), lengths - 1]
            if not np.isfinite(states).all():
                raise ValueError(f"the {tower} tower's states are not finite")
            if not np.array_equal(output_of(sizes, tower, states), tops[tower]):
                raise ValueError(f"the {tower} tower's states do not hold its outputs")
    _check_head("next", runtime.score("next", tops["forward"]))
    if sizes.architecture == "two_towers":
        _check_head("previous", runtime.score("previous", tops["backward"]))
        rows = np.arange((SPAN + 1) * GAP_POSITIONS, dtype=np.int64)
        kinds, positions = np.divmod(rows, GAP_POSITIONS)
        left, right = (np.repeat(tops[tower][:1], len(rows), axis=0) for tower in get_args(Tower))
        for known in (True, False):
            flags = np.full(len(rows), known)
            _check_head("gap", runtime.score("gap", left, right, flags, positions, kinds))


def _check_head(head: str, log_probabilities: Float32Array) -> None:
    with np.errstate(invalid="ignore"):
        sums = np.exp(log_probabilities).sum(axis=1)
    finite = np.isfinite(log_probabilities[:, FIRST_BYTE:]).all()
    if not finite or (abs(sums - 1) >= _SUM_TOLERANCE).any():
        raise ValueError(f"the {head} head's probabilities do not sum to 1")
