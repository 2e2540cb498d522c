"""The runtime on torch: for CUDA, and on a CPU the reference that the ONNX graphs are compared with.

``model/runtime.py`` imports it only for the device that needs it; serving on a CPU never loads torch.

The last bits of a matrix product depend on its number of rows, because libraries choose their kernels by
shape. So every product here has the same shape whatever the batch: rows are taken in blocks of a fixed
size, the last one padded, and time goes step by step.
"""

from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from model.config import NetworkConfig, Tower
from model.errors import CheckpointError
from model.network import Network, mask_gap, mask_next
from model.runtime import BoolArray, Float32Array, Int64Array, unsupported

# Rows of every product. A GPU takes as long for one row as for hundreds; a CPU pays for every padded row.
BLOCK_ROWS = {"cpu": 16, "cuda": 256}
# Floats that one call of a head returns: 64 MiB.
HEAD_FLOATS = 16 * 1024 * 1024


def open_torch_runtime(
    directory: Path, config: NetworkConfig, device: Literal["cpu", "cuda"]
) -> "TorchRuntime":
    """Read a checkpoint's weights onto a device.

    Raises:
        CheckpointError: the weights cannot be read or are of another network, or there is no such device.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise CheckpointError("device cuda: torch finds no GPU; choose cpu")
    # By default cuDNN's recurrent kernels round products to 10 bits (TF32); matrix products are exact.
    torch.backends.cudnn.allow_tf32 = False
    path = directory / "weights.safetensors"
    network = Network(config)
    try:
        network.load_state_dict({name: tensor.float() for name, tensor in load_file(path).items()})
    except Exception as error:  # safetensors' own error, RuntimeError from torch, OSError
        raise CheckpointError(
            f"{path} does not fit config.json: {error}; export the checkpoint again"
        ) from error
    return TorchRuntime(network, torch.device(device))


class TorchRuntime:
    """Runs a network in float32; see :class:`model.runtime.Runtime`.

    Args:
        network: moved to *device* and put into evaluation mode.
        device: where to run.
        block_rows: rows of every product; default by device.
    """

    def __init__(
        self, network: Network, device: torch.device, block_rows: int | None = None
    ) -> None:
        self.sizes = network.config
        self._network = network.to(device=device, dtype=torch.float32).eval()
        self._device = device
        self.head_rows = max(1, HEAD_FLOATS // self.sizes.vocabulary_size)
        self._block = block_rows or BLOCK_ROWS.get(device.type, BLOCK_ROWS["cpu"])

    @torch.inference_mode()
    def advance(
        self, tower: Tower, states: Float32Array, tokens: Int64Array, lengths: Int64Array
    ) -> tuple[Float32Array, Float32Array]:
        """See :meth:`model.runtime.Runtime.advance`."""
        if tower == "backward":
            self._require_two_towers()
        rows, steps = tokens.shape
        after = np.empty_like(states)
        outputs = np.zeros((rows, steps, self.sizes.hidden_size), dtype=np.float32)
        for start in range(0, rows, self._block):
            block = slice(start, min(start + self._block, rows))
            state = self._pad(states[block])
            for step in range(int(lengths[block].max(initial=0))):
                # Rows that have run out read padding, which may be any id; their step is thrown away.
                output, new = self._network.run_tower(
                    tower, self._pad(tokens[block, step]).unsqueeze(0), state
                )
                state = torch.where(self._pad(lengths[block] > step).unsqueeze(1), new, state)
                outputs[block, step] = self._unpad(output[0], block)
            after[block] = self._unpad(state, block)
        return after, outputs

    def next_log_probabilities(self, outputs: Float32Array) -> Float32Array:
        """See :meth:`model.runtime.Runtime.next_log_probabilities`."""
        return self._head(self._next, outputs)

    def previous_log_probabilities(self, outputs: Float32Array) -> Float32Array:
        """See :meth:`model.runtime.Runtime.previous_log_probabilities`."""
        self._require_two_towers()
        return self._head(self._previous, outputs)

    def gap_log_probabilities(
        self,
        forward: Float32Array,
        backward: Float32Array,
        right_known: BoolArray,
        positions: Int64Array,
        kinds: Int64Array,
    ) -> Float32Array:
        """See :meth:`model.runtime.Runtime.gap_log_probabilities`."""
        self._require_two_towers()
        return self._head(self._gap, forward, backward, right_known, positions, kinds)

    @torch.inference_mode()
    def fill_log_probabilities(
        self, tokens: Int64Array, lengths: Int64Array, places: Int64Array
    ) -> Float32Array:
        """See :meth:`model.runtime.Runtime.fill_log_probabilities`; one line at a time, as lengths differ."""
        if self.sizes.architecture != "stacked_bidirectional":
            raise unsupported("stacked_bidirectional")
        result = np.empty((len(tokens), self.sizes.vocabulary_size), dtype=np.float32)
        for row, line, length, place in zip(result, tokens, lengths, places, strict=True):
            whole = torch.from_numpy(line[:length]).unsqueeze(1).to(self._device)
            outputs = self._network.run_stacked(whole, torch.tensor([length], device=self._device))
            row[:] = self._next(outputs[place]).log_softmax(dim=1)[0].cpu().numpy()
        return result

    def _next(self, outputs: Tensor) -> Tensor:
        network = self._network
        return mask_next(network.logits(network.next_features(outputs), network.output_bias))

    def _previous(self, outputs: Tensor) -> Tensor:
        network = self._network
        return mask_next(network.logits(network.previous_features(outputs), network.output_bias))

    def _gap(
        self, forward: Tensor, backward: Tensor, known: Tensor, positions: Tensor, kinds: Tensor
    ) -> Tensor:
        network = self._network
        features = network.gap_features(forward, backward, known, positions, kinds)
        return mask_gap(network.logits(features, network.gap_bias), positions)

    @torch.inference_mode()
    def _head(self, logits: Any, *inputs: Any) -> Float32Array:
        rows = len(inputs[0])
        result = np.empty((rows, self.sizes.vocabulary_size), dtype=np.float32)
        for start in range(0, rows, self._block):
            block = slice(start, min(start + self._block, rows))
            scores = logits(*(self._pad(value[block]) for value in inputs))
            result[block] = self._unpad(scores.log_softmax(dim=1), block)
        return result

    def _pad(self, rows: Any) -> Tensor:
        """Move rows to the device, with zeros added up to the block's size."""
        padded = np.zeros((self._block, *rows.shape[1:]), dtype=rows.dtype)
        padded[: len(rows)] = rows
        return torch.from_numpy(padded).to(self._device)

    @staticmethod
    def _unpad(rows: Tensor, block: slice) -> Float32Array:
        return cast("Float32Array", rows[: block.stop - block.start].cpu().numpy())

    def _require_two_towers(self) -> None:
        if self.sizes.architecture != "two_towers":
            raise unsupported("two_towers")
