"""The same checkpoint in torch, as a competent user would write it: one ``nn.LSTM`` call, the head
at the last token.

It answers with the most probable next *tokens*. It completes no unfinished word, joins no tokens to
words, keeps no states and calibrates nothing; all of that would cost more.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.peers.schemas import Candidate
from model.checkpoint import load_checkpoint
from model.onnx_graphs import read_weights
from model.text import normalise
from model.tokenizer import START

# As good as minus infinity, and an int8 kernel's float bias can hold it.
_NEVER = -1e4


class ForwardNetwork(nn.Module):
    """Embedding, LSTM, projection, and a head that shares the embedding; sizes are those of the
    weights.
    """

    def __init__(self, weights: dict[str, Tensor]) -> None:
        super().__init__()
        towers = [name for name in weights if name.startswith("forward_tower.")]
        layers = sum(name.endswith("weight_hh") for name in towers)
        hidden = weights["forward_tower.0.weight_hh"].shape[1]
        tokens, width = weights["embedding.weight"].shape
        self.embedding = nn.Embedding(tokens, width)
        self.lstm = nn.LSTM(width, hidden, num_layers=layers, batch_first=True)
        self.projection = nn.Linear(hidden, width)
        self.head = nn.Linear(width, tokens)
        state = {
            "embedding.weight": weights["embedding.weight"],
            "projection.weight": weights["next.weight"],
            "projection.bias": weights["next.bias"],
            "head.weight": weights["embedding.weight"],
            "head.bias": weights["output_bias"],
        }
        for layer in range(layers):
            for part in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
                state[f"lstm.{part}_l{layer}"] = weights[f"forward_tower.{layer}.{part}"]
        self.load_state_dict(state)

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """Return the logits of the token after the last one.

        Args:
            tokens: (B, T) int64, padded on the right.
            lengths: (B,) int64, tokens that count.

        Returns:
            (B, V).
        """
        outputs, _ = self.lstm(self.embedding(tokens))
        last = outputs[torch.arange(len(lengths)), lengths - 1]
        logits: Tensor = self.head(self.projection(last))
        return logits


class TorchPredictor:
    """Texts in, candidates out.

    Args:
        checkpoint: a Lacuna checkpoint of an LSTM.
        int8: quantise LSTM and linear layers by torch's own dynamic recipe.
    """

    def __init__(self, checkpoint: Path, int8: bool = False) -> None:
        opened = load_checkpoint(checkpoint)
        self._tokenizer = opened.tokenizer
        weights = read_weights(checkpoint, opened.required_network())
        network = ForwardNetwork({k: torch.from_numpy(v) for k, v in weights.items()}).eval()
        shown = torch.tensor([bool(surface.strip()) for surface in self._tokenizer.surfaces])
        with torch.no_grad():  # controls, bytes and spaces are no candidates
            network.head.bias.masked_fill_(~shown, _NEVER)
        if int8:
            quantize: Callable[..., ForwardNetwork] = torch.ao.quantization.quantize_dynamic
            network = quantize(network, {nn.LSTM, nn.Linear}, dtype=torch.qint8)
        self._network = network

    def encode(self, text: str) -> list[int]:
        """Return the tokens of a text, after the token that starts a text."""
        return [START, *self._tokenizer.encode(normalise(text))]

    @torch.inference_mode()
    def predict(self, encoded: Sequence[Sequence[int]], top_k: int) -> list[list[Candidate]]:
        """Return the *top_k* most probable next tokens of each text, by one call of the network."""
        lengths = torch.tensor([len(tokens) for tokens in encoded])
        padded = torch.zeros(len(encoded), int(lengths.max()), dtype=torch.int64)
        for row, tokens in enumerate(encoded):
            padded[row, : len(tokens)] = torch.tensor(tokens)
        probabilities, best = self._network(padded, lengths).softmax(dim=1).topk(top_k)
        return [
            [self._candidate(*pair) for pair in zip(*row, strict=True)]
            for row in zip(best.tolist(), probabilities.tolist(), strict=True)
        ]

    def _candidate(self, token: int, probability: float) -> Candidate:
        surface = self._tokenizer.surfaces[token].rstrip()
        return Candidate(word=surface.lstrip(), append=surface, probability=probability)
