"""The protocol of everything that computes predictions, and what its implementations share.

Arrays in, arrays out: a runtime knows neither text nor queries nor caches. A row is one text's
share of a batch. Every call is **batch invariant**: a row's result is bit for bit the same alone or
among any others, in any order, with any padding.

Implementations: ``model/native_runtime.py`` (CPUs with AVX-512 VNNI), ``model/onnx_runtime.py``
(other CPUs), ``model/torch_runtime.py`` (CUDA, and the reference for the graphs),
``model/mixture.py`` (counts, around one of these or alone).
"""

import hashlib
from typing import TYPE_CHECKING, Any, Literal, Protocol, get_args

import numpy as np
import numpy.typing as npt

from model.config import GAP_POSITIONS, SPAN, Sizes, Tower
from model.errors import CheckpointError
from model.tokenizer import FIRST_BYTE, START

if TYPE_CHECKING:
    from model.checkpoint import Checkpoint

Float32Array = npt.NDArray[np.float32]
Float64Array = npt.NDArray[np.float64]
Int32Array = npt.NDArray[np.int32]
Int64Array = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

Head = Literal["next", "previous", "gap", "fill"]


class Runtime(Protocol):
    """A model that can be run; N ≥ 1 rows, T ≥ 1 steps, sizes S (state), H (output), V (tokens).

    A caller asks only for the towers and heads of its architecture.
    """

    name: str  # of what computes the network
    head_rows: int  # rows of a call of score that suit the device

    @property
    def sizes(self) -> Sizes:
        """Sizes of the model."""

    def run_tower(
        self, tower: Tower, states: Float32Array, tokens: Int64Array, lengths: Int64Array
    ) -> tuple[Float32Array, Float32Array]:
        """Read tokens (N, T) from states (N, S).

        *lengths* (N,) are the tokens that count in each row, 0 to T; any ids may pad it. Return new
        states (N, S), each after its own row's tokens (a row of length 0 keeps its state), and the
        top layer's outputs (N, T, H), unspecified beyond a row's length.
        """

    def score(self, head: Head, *inputs: npt.NDArray[Any]) -> Float32Array:
        """Return the probabilities of ``next`` or the log-probabilities of another head, (N, V).

        Impossible tokens have 0 or minus infinity. The heads and their inputs:

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


def initial_states(sizes: Sizes, tower: Tower, rows: int) -> Float32Array:
    """Return the states before any token is read: zeros, (rows, S)."""
    return np.zeros((rows, sizes.state_size(tower)), dtype=np.float32)


def output_slice(sizes: Sizes, tower: Tower) -> slice:
    """Return the place of the top layer's output (H) in a flat state (S)."""
    end = sizes.state_size(tower) - (sizes.state_parts - 1) * sizes.hidden_size
    return slice(end - sizes.output_size(tower), end)


def log_of(probs: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return logarithms; that of 0 is minus infinity."""
    with np.errstate(divide="ignore"):
        return np.asarray(np.log(probs))


def append_tokens(
    windows: Float32Array, tokens: Int64Array, lengths: Int64Array
) -> tuple[Float32Array, Float32Array]:
    """Read tokens (N, T) after *windows*, the last tokens so far, (N, W).

    Return the last tokens after each row's own *lengths* (N,), and after each token, (N, T, W).
    """
    read = np.concatenate([windows, tokens], axis=1, dtype=np.float32, casting="unsafe")
    shape = len(read), tokens.shape[1] + 1, windows.shape[1]
    row, token = read.strides
    after = np.ndarray(shape, read.dtype, read, strides=(row, token, token))  # they overlap
    return after[np.arange(len(read)), lengths], after[:, 1:]


def open_runtime(
    checkpoint: "Checkpoint", device: Literal["cpu", "cuda"] = "cpu", threads: int = 1
) -> Runtime:
    """Open the runtime that suits a device; torch (extra ``gpu``) for all but the CPU.

    Counts are mixed with the network on the CPU, or answer alone.
    On a CPU one call uses up to *threads* threads.

    Raises:
        CheckpointError: the graphs are missing, not listed, cannot be opened or fail their check,
            or torch is not installed.
    """
    from model.mixture import Mixture, MixtureRuntime

    runtime: Runtime | None = None
    if checkpoint.network is None:
        pass
    elif device == "cpu":
        runtime = open_cpu_network(checkpoint, threads)
    else:
        try:
            from model.torch_runtime import open_torch_runtime
        except ImportError as error:
            raise CheckpointError(
                f"device {device} needs torch: pip install -e '.[gpu]'"
            ) from error
        runtime = open_torch_runtime(checkpoint.directory, checkpoint.network, device)
    if checkpoint.counts or runtime is None:
        runtime = MixtureRuntime(runtime, Mixture.of(checkpoint))
    try:
        check_runtime(runtime)
    except Exception as error:  # onnxruntime's errors have no base of their own
        raise CheckpointError(
            f"{checkpoint.directory} cannot be run: {error}; export it again"
        ) from error
    return runtime


def open_cpu_network(checkpoint: "Checkpoint", threads: int = 1) -> Runtime:
    """Open the network of a checkpoint on a CPU, without counts.

    The native library is several times faster, on the CPUs and sizes that it is made for; it uses
    one thread.

    Raises:
        CheckpointError: as of :func:`open_runtime`.
    """
    from model.native_runtime import NativeRuntime, suits

    network = checkpoint.required_network()
    _check_graphs(checkpoint)
    if threads == 1 and suits(network):
        return NativeRuntime(checkpoint.directory, network)
    from model.onnx_runtime import OnnxRuntime

    return OnnxRuntime(checkpoint.directory, network, threads)


def _check_graphs(checkpoint: "Checkpoint") -> None:
    """Check that a checkpoint lists the graphs that its network has, though they are never read."""
    from model.checkpoint import EXPORT_AGAIN
    from model.onnx_graphs import expected_graphs

    for path, graph in expected_graphs(checkpoint.required_network())[0].items():
        if path not in checkpoint.sums:
            raise CheckpointError(
                f"{checkpoint.directory}: SHA256SUMS does not list {path}; {EXPORT_AGAIN}"
            )
        if checkpoint.sums[path] != hashlib.sha256(graph).hexdigest():
            raise CheckpointError(
                f"{checkpoint.directory / path} is not the graph of the network in config.json;"
                f" {EXPORT_AGAIN}"
            )


def check_runtime(runtime: Runtime) -> None:
    """Run every call once. A checkpoint with valid checksums can still contain NaN weights.

    Heads share the embedding with the towers, so a NaN anywhere in it spoils one of these results.

    Raises:
        ValueError: a state or a probability that no network computes.
    """
    sizes = runtime.sizes
    ids = [START, FIRST_BYTE, FIRST_BYTE + 255]  # in every vocabulary
    tokens = np.array([ids, ids[::-1]], dtype=np.int64)
    lengths = np.array([len(ids), 1], dtype=np.int64)
    if sizes.architecture == "stacked_bidirectional":
        _check_head(runtime, "fill", tokens, lengths, lengths - 1)
        return
    tops: dict[Tower, Float32Array] = {}
    for tower in get_args(Tower):
        if sizes.state_size(tower):
            states = initial_states(sizes, tower, len(tokens))
            states, _ = runtime.run_tower(tower, states, tokens, lengths)
            if not np.isfinite(states).all():
                raise ValueError(f"the {tower} tower's states are not finite")
            tops[tower] = states[:, output_slice(sizes, tower)]
    _check_head(runtime, "next", tops["forward"])
    if sizes.architecture == "two_towers":
        _check_head(runtime, "previous", tops["backward"])
        rows = np.arange(2 * (SPAN + 1) * GAP_POSITIONS, dtype=np.int64)
        left, right = (np.repeat(tops[tower][:1], len(rows), axis=0) for tower in get_args(Tower))
        kinds, positions = np.divmod(rows // 2, GAP_POSITIONS)
        _check_head(runtime, "gap", left, right, rows % 2 > 0, positions, kinds)


def _check_head(runtime: Runtime, head: Head, *inputs: npt.NDArray[Any]) -> None:
    scores = runtime.score(head, *inputs)
    with np.errstate(invalid="ignore"):
        sums = (scores if head == "next" else np.exp(scores)).sum(axis=1)
    finite = np.isfinite(scores[:, FIRST_BYTE:]).all()
    if scores.shape[1] != runtime.sizes.vocabulary_size:
        raise ValueError(f"the {head} head scores another vocabulary")
    if not finite or (abs(sums - 1) >= 1e-2).any():
        raise ValueError(f"the {head} head's probabilities do not sum to 1")
