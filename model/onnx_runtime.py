"""The runtime on ONNX Runtime, for CPUs.

A checkpoint's graphs are never read: the sizes of its network decide them (model/onnx_graphs.py).
"""

import os
import platform
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

from model.checkpoint import EXPORT_AGAIN, GRAPHS, WEIGHTS
from model.config import NetworkConfig, Tower
from model.errors import CheckpointError
from model.onnx_graphs import check_size, expected_graphs
from model.runtime import Float32Array, Head, Int64Array

FATAL = 4  # level of log lines of ONNX Runtime


class OnnxRuntime:
    """Runs a network's graphs on a CPU; see :class:`model.runtime.Runtime`.

    Raises:
        CheckpointError: the weights are missing or belong to another network.
    """

    name = "onnxruntime"

    def __init__(self, directory: Path, sizes: NetworkConfig, threads: int = 1) -> None:
        self.sizes = sizes
        # A call first fetches the embedding, which a busy server rarely has in its caches. So few
        # large calls, which return 4 MiB, beat many small ones.
        self.head_rows = max(1, 1024 * 1024 // sizes.vocabulary_size)
        saturates = products_saturate()
        graphs, size = expected_graphs(sizes, unsigned=saturates)
        check_size(directory, size)
        options = _session_options(threads)
        if saturates:  # u8 x u8 kernels are exact, at half the speed; this does not reach loops
            options.add_session_config_entry("session.x64quantprecision", "1")
        # The weights are mapped: a copy would cost as much memory again.
        options.add_session_config_entry(
            "session.model_external_initializers_file_folder_path",
            os.fsencode(os.path.realpath(directory / GRAPHS)),  # perhaps no UTF-8
        )
        try:
            self._sessions = {
                Path(path).stem: onnxruntime.InferenceSession(
                    graph, options, providers=["CPUExecutionProvider"]
                )
                for path, graph in graphs.items()
            }
        except Exception as error:  # onnxruntime's errors have no base of their own
            raise CheckpointError(
                f"{directory / WEIGHTS}: onnxruntime cannot open it: {error}; {EXPORT_AGAIN}"
            ) from error

    def run_tower(
        self, tower: Tower, states: Float32Array, tokens: Int64Array, lengths: Int64Array
    ) -> tuple[Float32Array, Float32Array]:
        """See :meth:`model.runtime.Runtime.run_tower`."""
        new_states, outputs = self._run(tower, states, tokens, lengths)
        return new_states, outputs

    def score(self, head: Head, *inputs: npt.NDArray[Any]) -> Float32Array:
        """See :meth:`model.runtime.Runtime.score`."""
        (rows,) = self._run(head, *inputs)  # log-probabilities
        return np.exp(rows, out=rows) if head == "next" else rows

    def _run(self, graph: Tower | Head, *inputs: npt.NDArray[Any]) -> list[Float32Array]:
        session = self._sessions[graph]
        names = [each.name for each in session.get_inputs()]
        results: list[Float32Array] = session.run(None, dict(zip(names, inputs, strict=True)))
        return results


def products_saturate(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Return True if u8 x s8 kernels may add products in 16 bits, which makes sums wrong.

    They do on x86 without VNNI, and perhaps on an unknown CPU.
    """
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return False
    try:
        flags = cpuinfo.read_text(encoding="utf-8", errors="replace").split()
    except OSError:
        return True
    return not {"avx512_vnni", "avx_vnni"}.intersection(flags)


@lru_cache(maxsize=1)
def _share_memory() -> None:
    """Let all graphs of the process compute in the same memory, as only one runs at a time.

    ONNX Runtime writes no lines from now on.
    """
    onnxruntime.set_default_logger_severity(FATAL)
    memory = onnxruntime.OrtMemoryInfo(
        "Cpu", onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, onnxruntime.OrtMemType.DEFAULT
    )
    onnxruntime.create_and_register_allocator(memory, None)


def _session_options(threads: int) -> onnxruntime.SessionOptions:
    _share_memory()
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.use_env_allocators", "1")
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = FATAL  # errors are raised, and their lines hold token ids
    # Threads that spin between two calls take the core from the event loop and from neighbours.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options
