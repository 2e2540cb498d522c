"""What runs a network: one protocol, and its implementation on ONNX Runtime for CPUs.

Arrays in, arrays out: nothing here knows text, queries or caches. A row is one text's share of a batch. Every call is
**batch invariant**: a row's result is bit for bit the same alone or among any others, in any order, with any padding.
The torch runtime behind the same protocol is ``model/torch_runtime.py``; it is imported only when a device asks for it.
"""

import platform
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, cast, get_args

import numpy as np
import numpy.typing as npt
import onnxruntime

from model.config import GAP_POSITIONS, SPAN, NetworkConfig
from model.errors import CheckpointError, UnsupportedError
from model.tokenizer import FIRST_BYTE, START

if TYPE_CHECKING:
    from model.checkpoint import Checkpoint

Tower = Literal["forward", "backward"]
Precision = Literal["int8", "fp32"]
Float32Array = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

# What the CPU can do, on Linux.
_CPUINFO = Path("/proc/cpuinfo")
# Folder of each precision's graphs inside a checkpoint.
GRAPHS: dict[Precision, str] = {"int8": "onnx", "fp32": "onnx-fp32"}
# The file in it that holds the weights of all.
SHARED_WEIGHTS: dict[Precision, str] = {"int8": "int8.weights", "fp32": "fp32.weights"}
# Read once by a runtime that is opened: tokens that every vocabulary has.
_TRIED = (START, FIRST_BYTE, FIRST_BYTE + 255)
_GAP_KINDS = SPAN + 1
# Of probabilities from the float32 logarithms of a head.
_SUM_TOLERANCE = 1e-2
_EXPORT_AGAIN = "export the checkpoint again"


class Runtime(Protocol):
    """A network that can be run; N rows, T steps, S state size, H hidden size, V tokens.

    Attributes:
        config: its sizes.
        head_rows: rows of a head's call that suit the device.
    """

    config: NetworkConfig
    head_rows: int

    def advance(
        self, tower: Tower, states: Float32Array, tokens: Integers, lengths: Integers
    ) -> tuple[Float32Array, Float32Array]:
        """Read tokens with one tower.

        Args:
            tower: which tower.
            states: flat states before, (N, S).
            tokens: ids, (N, T), right-padded with any id of the vocabulary.
            lengths: tokens that count in each row, (N,), 0 to T.

        Returns:
            New states (N, S), each after its own row's tokens (a row of length 0 keeps its state), and the top layer's
            outputs (N, T, H), unspecified beyond a row's length.
        """
        ...

    def next_log_probabilities(self, outputs: Float32Array) -> Float32Array:
        """Log-probabilities (N, V) of the next token from the forward tower's outputs (N, H)."""
        ...

    def previous_log_probabilities(self, outputs: Float32Array) -> Float32Array:
        """Log-probabilities (N, V) of the previous token from the backward tower's outputs (N, H)."""
        ...

    def gap_log_probabilities(
        self,
        forward: Float32Array,
        backward: Float32Array,
        right_known: Flags,
        positions: Integers,
        kinds: Integers,
    ) -> Float32Array:
        """Log-probabilities of a gap's next token, or of its end.

        Args:
            forward: outputs of the forward tower after the left side and the span so far, (N, H).
            backward: outputs of the backward tower after the right side, (N, H); any finite values where unknown.
            right_known: (N,): False where nothing is known of the right side.
            positions: tokens of the span already read, (N,), 0 or more.
            kinds: WORD, TOKEN or SPAN of ``model/config.py``, (N,).

        Returns:
            (N, V); minus infinity at control tokens and, at position 0, at ``<eog>``.
        """
        ...

    def fill_log_probabilities(
        self, tokens: Integers, lengths: Integers, places: Integers
    ) -> Float32Array:
        """Log-probabilities of what stands at a place of a whole line, by a stacked bidirectional network.

        Args:
            tokens: lines, (N, T), right-padded with any id of the vocabulary; ``<blank>`` at the place, and at others
                that are not known.
            lengths: tokens that count in each line, (N,), 1 to T.
            places: the index of the place in each line, (N,), below its length.

        Returns:
            (N, V); minus infinity at control tokens and ``<eog>``.
        """
        ...


def initial_states(config: NetworkConfig, tower: Tower, rows: int) -> Float32Array:
    """States before any token is read: zeros, (rows, S)."""
    return np.zeros((rows, config.state_size(tower)), dtype=np.float32)


def output_of(config: NetworkConfig, tower: Tower, states: Float32Array) -> Float32Array:
    """The top layer's h within flat states, what the heads read: (N, S) to (N, H), or (S,) to (H,)."""
    start = config.state_size(tower) - config.state_parts * config.hidden_size
    return states[..., start : start + config.hidden_size]


def open_runtime(
    checkpoint: "Checkpoint", device: Literal["cpu", "cuda"] = "cpu", threads: int = 1
) -> Runtime:
    """Open the runtime that suits a device: ONNX Runtime on a CPU, torch elsewhere.

    Args:
        checkpoint: a loaded checkpoint.
        device: ``cpu``, or ``cuda`` (needs the ``gpu`` extra).
        threads: threads that one call may use on a CPU.

    Raises:
        CheckpointError: the graphs are missing, not listed, cannot be opened or say what no network can, or torch is
            not installed.
    """
    runtime = _open_runtime(checkpoint, device, threads)
    try:
        check_runtime(runtime)
    except Exception as error:  # onnxruntime's errors have no base of their own
        raise CheckpointError(
            f"{checkpoint.directory}: its network cannot be run: {error}; {_EXPORT_AGAIN}"
        ) from error
    return runtime


def check_runtime(runtime: Runtime) -> None:
    """Run every call once: sums and configuration may be right, and the network all the same be none.

    Heads share the embedding with the towers, so that whichever number of it is none spoils one of these.

    Raises:
        ValueError: states or log-probabilities that no network has.
    """
    config = runtime.config
    lengths = np.array([len(_TRIED), 1], dtype=np.int64)
    tokens = np.array([_TRIED, _TRIED[::-1]], dtype=np.int64)
    if config.architecture == "stacked_bidirectional":
        _check_heads("fill", runtime.fill_log_probabilities(tokens, lengths, lengths - 1))
        return
    outputs: dict[Tower, Float32Array] = {}
    for tower in get_args(Tower):
        if config.layers(tower):
            states, outputs[tower] = runtime.advance(
                tower, initial_states(config, tower, 2), tokens, lengths
            )
            tops = np.stack([outputs[tower][row, length - 1] for row, length in enumerate(lengths)])
            if not np.isfinite(states).all() or not np.array_equal(
                output_of(config, tower, states), tops
            ):
                raise ValueError(
                    f"the {tower} tower has states that are no numbers, or not those of its outputs"
                )
            outputs[tower] = tops
    _check_heads("next", runtime.next_log_probabilities(outputs["forward"]))
    if config.architecture == "two_towers":
        _check_heads("previous", runtime.previous_log_probabilities(outputs["backward"]))
        for known in (True, False):
            kinds, positions = np.divmod(
                np.arange(_GAP_KINDS * GAP_POSITIONS, dtype=np.int64), GAP_POSITIONS
            )
            left, right = (
                np.repeat(outputs[tower][:1], len(kinds), axis=0) for tower in get_args(Tower)
            )
            flags = np.full(len(kinds), known)
            _check_heads("gap", runtime.gap_log_probabilities(left, right, flags, positions, kinds))


def _check_heads(head: str, log_probabilities: Float32Array) -> None:
    with np.errstate(invalid="ignore"):
        sums = np.exp(log_probabilities).sum(axis=1)
    if not (
        np.isfinite(log_probabilities[:, FIRST_BYTE:]).all()
        and (abs(sums - 1) < _SUM_TOLERANCE).all()
    ):
        raise ValueError(f"the {head} head's probabilities do not sum to 1")


def _open_runtime(
    checkpoint: "Checkpoint", device: Literal["cpu", "cuda"], threads: int
) -> Runtime:
    if device == "cpu":
        graphs = [f"{GRAPHS['int8']}/{name}.onnx" for name in graph_names(checkpoint.network)]
        for path in (*graphs, f"{GRAPHS['int8']}/{SHARED_WEIGHTS['int8']}"):
            if path not in checkpoint.files:
                raise CheckpointError(
                    f"{checkpoint.directory}: SHA256SUMS does not list {path}; {_EXPORT_AGAIN}"
                )
        return OnnxRuntime(checkpoint.directory, checkpoint.network, threads)
    try:
        from model.torch_runtime import open_torch_runtime
    except ImportError as error:
        raise CheckpointError(
            f"device {device} needs torch and safetensors: pip install -e '.[gpu]'"
        ) from error
    return open_torch_runtime(checkpoint.directory, checkpoint.network, device)


def graph_names(config: NetworkConfig) -> tuple[str, ...]:
    """The graphs that a network of this architecture has."""
    if config.architecture == "stacked_bidirectional":
        return ("fill",)
    return (
        "forward",
        "next",
        *(("backward", "previous", "gap") if config.architecture == "two_towers" else ()),
    )


# Float32Array of the rows that a head computes at once on a CPU: 4 MiB. A call has to fetch the matrix of tokens first, which
# in a server at work is rarely still near: few large calls beat many small ones, though their rows are not near either.
HEAD_FLOATS = 1024 * 1024


class OnnxRuntime:
    """Runs a checkpoint's graphs on a CPU.

    Args:
        directory: the checkpoint.
        config: its network.
        threads: threads that one call may use.
        precision: which graphs; fp32 ones are there only if the checkpoint was exported with ``--fp32``.

    Raises:
        CheckpointError: a graph is missing or cannot be opened.
    """

    def __init__(
        self,
        directory: Path,
        config: NetworkConfig,
        threads: int = 1,
        precision: Precision = "int8",
    ) -> None:
        self.config = config
        self.head_rows = max(1, HEAD_FLOATS // config.vocabulary_size)
        folder = directory / GRAPHS[precision]
        self._sessions = {
            name: _open_session(folder / f"{name}.onnx", threads) for name in graph_names(config)
        }
        for name, session in self._sessions.items():
            tower = name in ("forward", "backward")
            found = session.get_outputs()[0].shape[1]
            expected = config.state_size(cast("Tower", name)) if tower else config.vocabulary_size
            if found != expected:
                raise CheckpointError(
                    f"{folder / name}.onnx has width {found}, the configuration says {expected}; export it again"
                )

    def advance(
        self, tower: Tower, states: Float32Array, tokens: Integers, lengths: Integers
    ) -> tuple[Float32Array, Float32Array]:
        """See :meth:`Runtime.advance`."""
        rows, steps = tokens.shape
        if rows == 0 or steps == 0:
            return states.copy(), np.zeros((rows, steps, self.config.hidden_size), dtype=np.float32)
        new_states, outputs = self._run(tower, states=states, tokens=tokens, lengths=lengths)
        return new_states, outputs

    def next_log_probabilities(self, outputs: Float32Array) -> Float32Array:
        """See :meth:`Runtime.next_log_probabilities`."""
        return self._head("next", outputs=outputs)

    def previous_log_probabilities(self, outputs: Float32Array) -> Float32Array:
        """See :meth:`Runtime.previous_log_probabilities`."""
        return self._head("previous", outputs=outputs)

    def gap_log_probabilities(
        self,
        forward: Float32Array,
        backward: Float32Array,
        right_known: Flags,
        positions: Integers,
        kinds: Integers,
    ) -> Float32Array:
        """See :meth:`Runtime.gap_log_probabilities`."""
        return self._head(
            "gap",
            forward=forward,
            backward=backward,
            right_known=right_known,
            positions=positions,
            kinds=kinds,
        )

    def fill_log_probabilities(
        self, tokens: Integers, lengths: Integers, places: Integers
    ) -> Float32Array:
        """See :meth:`Runtime.fill_log_probabilities`."""
        return self._head("fill", tokens=tokens, lengths=lengths, places=places)

    def _head(self, graph: str, **inputs: npt.NDArray[Any]) -> Float32Array:
        if any(len(value) == 0 for value in inputs.values()):
            return np.zeros((0, self.config.vocabulary_size), dtype=np.float32)
        (log_probabilities,) = self._run(graph, **inputs)
        return log_probabilities

    def _run(self, graph: str, **inputs: npt.NDArray[Any]) -> list[Float32Array]:
        if graph not in self._sessions:
            needed = "a stacked_bidirectional one" if graph == "fill" else "one with two towers"
            raise UnsupportedError("/text", f"this checkpoint has no {graph} graph; load {needed}")
        results: list[Float32Array] = self._sessions[graph].run(None, inputs)
        return results


@lru_cache(maxsize=1)
def _share_memory() -> None:
    """Have all graphs of the process compute in the same memory: one runs at a time, and each would keep its most."""
    memory = onnxruntime.OrtMemoryInfo(
        "Cpu", onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, onnxruntime.OrtMemType.DEFAULT
    )
    onnxruntime.create_and_register_allocator(memory, None)


def products_saturate(cpuinfo: Path = _CPUINFO) -> bool:
    """Whether ONNX Runtime's u8 x s8 kernels may add pairs of products in 16 bits here, which makes sums wrong.

    So it is on x86 without VNNI. Where nothing tells, it is assumed.
    """
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return False
    try:
        flags = cpuinfo.read_text(encoding="utf-8", errors="replace").split()
    except OSError:
        return True
    return not {"avx512_vnni", "avx_vnni"}.intersection(flags)


def _open_session(path: Path, threads: int) -> onnxruntime.InferenceSession:
    if not path.is_file():
        raise CheckpointError(
            f"{path} is missing; export the checkpoint again (--fp32 writes the fp32 graphs)"
        )
    _share_memory()
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.use_env_allocators", "1")
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 3  # errors only; they are raised as well
    # Threads that spin between two calls take the core from the event loop and from neighbours.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if products_saturate():  # u8 x u8 kernels are exact, at half the speed
        options.add_session_config_entry("session.x64quantprecision", "1")
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors have no base of their own
        raise CheckpointError(
            f"{path}: onnxruntime cannot open it: {error}; export the checkpoint again"
        ) from error
