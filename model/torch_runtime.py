"""The runtime on torch: for CUDA, and on a CPU the reference for the ONNX graphs.

It is imported only for a device that needs it; serving on a CPU never loads torch.

The last bits of a matrix product depend on its number of rows, because libraries choose their
kernels by shape. So every product here has the same shape whatever the batch: rows are taken in
blocks of a fixed size, the last one padded, and time goes step by step.
"""

from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from model.config import NetworkConfig, Tower
from model.errors import CheckpointError
from model.network import Network, mask_controls
from model.onnx_graphs import read_weights
from model.runtime import Float32Array, Head, Int64Array
from model.tokenizer import END_OF_GAP

# Rows of every product. A GPU takes as long for one as for hundreds; a CPU pays for padding.
BLOCK_ROWS = {"cpu": 16, "cuda": 256}


def open_torch_runtime(
    directory: Path, config: NetworkConfig, device: Literal["cpu", "cuda"]
) -> "TorchRuntime":
    """Read a checkpoint's weights, of int8 back to float32, onto a device.

    Raises:
        CheckpointError: as :func:`model.onnx_graphs.read_weights`, or there is no GPU.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise CheckpointError("device cuda: torch finds no GPU; choose cpu")
    # By default cuDNN's recurrent kernels, unlike matrix products, round to 10 bits (TF32).
    torch.backends.cudnn.allow_tf32 = False
    weights = read_weights(directory, config)  # checked before a false size asks for any memory
    network = Network(config)
    network.load_state_dict({name: torch.from_numpy(each) for name, each in weights.items()})
    return TorchRuntime(network, torch.device(device))


class TorchRuntime:
    """Runs a network in float32; see :class:`model.runtime.Runtime`.

    *network* is moved to *device* and put into evaluation mode.
    """

    name = "torch"

    def __init__(
        self, network: Network, device: torch.device, block_rows: int | None = None
    ) -> None:
        self.sizes = network.config
        self._network = network.to(device=device, dtype=torch.float32).eval()
        self._device = device
        self.head_rows = max(1, 16 * 1024 * 1024 // self.sizes.vocabulary_size)  # 64 MiB of results
        self._block = block_rows or BLOCK_ROWS.get(device.type, BLOCK_ROWS["cpu"])

    @torch.inference_mode()
    def run_tower(
        self, tower: Tower, states: Float32Array, tokens: Int64Array, lengths: Int64Array
    ) -> tuple[Float32Array, Float32Array]:
        """See :meth:`model.runtime.Runtime.run_tower`."""
        after = np.empty_like(states)
        outputs = np.zeros((*tokens.shape, self.sizes.hidden_size), dtype=np.float32)
        for start in range(0, len(tokens), self._block):
            block = slice(start, start + self._block)
            count = len(tokens[block])
            state = self._pad(states[block])
            for step in range(lengths[block].max()):
                # Rows that have run out read padding; their step is thrown away.
                output, new = self._network.run_tower(
                    tower, self._pad(tokens[block, step]).unsqueeze(0), state
                )
                state = torch.where(self._pad(lengths[block] > step).unsqueeze(1), new, state)
                outputs[block, step] = output[0, :count].cpu().numpy()
            after[block] = state[:count].cpu().numpy()
        return after, outputs

    @torch.inference_mode()
    def score(self, head: Head, *inputs: npt.NDArray[Any]) -> Float32Array:
        """See :meth:`model.runtime.Runtime.score`."""
        blocks = []
        # Lines have different lengths, so each is computed alone.
        size = 1 if head == "fill" else self._block
        for start in range(0, len(inputs[0]), size):
            rows = [value[start : start + size] for value in inputs]
            logits = (
                self._fill(*rows) if head == "fill" else self._logits(head, *map(self._pad, rows))
            )
            scores = logits.softmax(dim=1) if head == "next" else logits.log_softmax(dim=1)
            blocks.append(scores[: len(rows[0])].cpu().numpy())
        return np.concatenate(blocks)

    def _logits(self, head: Head, outputs: Tensor, *others: Tensor) -> Tensor:
        network = self._network
        if head == "gap":
            features, bias = network.gap_features(outputs, *others), network.gap_bias
        else:
            features = (network.previous if head == "previous" else network.next)(outputs)
            bias = network.output_bias
        logits = mask_controls(F.linear(features, network.embedding.weight, bias))
        cannot_end = others[2] == 0 if head == "gap" else slice(None)  # positions of a gap
        logits[cannot_end, END_OF_GAP] = float("-inf")
        return logits

    def _fill(self, tokens: Int64Array, lengths: Int64Array, places: Int64Array) -> Tensor:
        line = torch.from_numpy(tokens[:, : lengths[0]]).T.to(self._device)
        outputs = self._network.run_stacked(line, torch.from_numpy(lengths).to(self._device))
        return self._logits("next", outputs[places[0]])

    def _pad(self, rows: npt.NDArray[Any]) -> Tensor:
        """Move rows to the device, with zeros added up to the block's size."""
        padded = np.zeros((self._block, *rows.shape[1:]), dtype=rows.dtype)
        padded[: len(rows)] = rows
        return torch.from_numpy(padded).to(self._device)
