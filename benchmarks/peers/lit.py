"""LitServe with the torch network: its own batching, one worker, its fast queue."""

from collections.abc import Sequence
from pathlib import Path

import litserve
import torch

from benchmarks.peers.schemas import Answer, Candidate, Prediction, Request, answer
from benchmarks.peers.torch_predictor import TorchPredictor

# With a timeout of 0, its default, the worker polls an empty queue without a pause and takes the
# core that it shares with the HTTP process.
MAX_BATCH, BATCH_SECONDS = 32, 0.005
Encoded = tuple[list[list[int]], int]  # of one request: tokens of each text, top_k
Found = tuple[
    int, list[list[Candidate]]
]  # of one request: number of tokens, candidates of each text


class LacunaAPI(litserve.LitAPI):  # type: ignore[misc, unused-ignore]  # not installed everywhere
    """Predicts the next token of every text of every request in a batch, by one call of the
    network.
    """

    def __init__(self, checkpoint: Path) -> None:
        super().__init__(max_batch_size=MAX_BATCH, batch_timeout=BATCH_SECONDS)
        self._checkpoint = checkpoint

    def setup(self, device: str) -> None:
        """Load the network in the worker."""
        del device
        torch.set_num_threads(1)
        self._predictor = TorchPredictor(self._checkpoint)

    def decode_request(self, request: Request) -> Encoded:
        """Return the tokens of one request."""
        return [self._predictor.encode(text) for text in request.texts], request.top_k

    def batch(self, inputs: Sequence[Encoded]) -> Sequence[Encoded]:
        """Return the requests as they are; `predict` pads them."""
        return inputs

    def predict(self, x: Sequence[Encoded]) -> list[Found]:
        """Answer all requests of a batch."""
        texts = [tokens for encoded, _ in x for tokens in encoded]
        found = iter(self._predictor.predict(texts, max(top_k for _, top_k in x)))
        return [
            (sum(map(len, encoded)) - len(encoded), [next(found)[:top_k] for _ in encoded])
            for encoded, top_k in x
        ]

    def unbatch(self, output: list[Found]) -> list[Found]:
        """Return the results, which are a list by request already."""
        return output

    def encode_response(self, output: Found) -> Answer:
        """Return the answer to one request."""
        tokens, candidates = output
        return answer("litserve", [Prediction(candidates=found) for found in candidates], tokens)


def serve(checkpoint: Path, port: int) -> None:
    """Serve until a signal."""
    api = LacunaAPI(checkpoint)
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=1, fast_queue=True)
    server.run(
        host="127.0.0.1",
        port=port,
        num_api_servers=1,
        log_level="warning",
        generate_client_file=False,
        access_log=False,
        timeout_keep_alive=65,
    )
