"""LitServe with the same torch network: its own batching, one worker, its fast queue.

A batch gathers up to 32 requests for at most 5 ms. With a timeout of 0, its default, the worker asks an empty queue
without a pause and takes the core that it shares with the HTTP process.
"""

from collections.abc import Sequence
from pathlib import Path

import litserve
import torch

from benchmarks.servers.listening import KEEP_ALIVE_SECONDS, parser
from benchmarks.servers.torch_predictor import TorchPredictor
from service.schemas import Candidate, Model, PredictAnswer, Prediction, PredictRequest, Usage

MAX_BATCH, BATCH_SECONDS = 32, 0.005
Encoded = tuple[list[list[int]], int]  # of one request: tokens of each text, top_k


class LacunaAPI(litserve.LitAPI):  # type: ignore[misc, unused-ignore]  # untyped where it is not installed
    """Predicts the next token of every text of every request in a batch, in one call of the network."""

    def __init__(self, checkpoint: Path, threads: int) -> None:
        super().__init__(max_batch_size=MAX_BATCH, batch_timeout=BATCH_SECONDS)
        self._checkpoint = checkpoint
        self._threads = threads

    def setup(self, device: str) -> None:
        """Load the network, in the worker."""
        del device
        torch.set_num_threads(self._threads)
        self._predictor = TorchPredictor(self._checkpoint)

    def decode_request(self, request: PredictRequest) -> Encoded:
        """One request's tokens."""
        return [self._predictor.encode(text) for text in request.texts], request.top_k

    def batch(self, inputs: Sequence[Encoded]) -> Sequence[Encoded]:
        """Requests side by side; `predict` pads them."""
        return inputs

    def predict(self, x: Sequence[Encoded]) -> list[tuple[int, list[list[Candidate]]]]:
        """For each request, the number of its tokens and the candidates of its texts."""
        texts = [tokens for encoded, _ in x for tokens in encoded]
        found = iter(self._predictor.predict(texts, max(top_k for _, top_k in x)))
        return [
            (sum(map(len, encoded)) - len(encoded), [next(found)[:top_k] for _ in encoded])
            for encoded, top_k in x
        ]

    def unbatch(
        self, output: list[tuple[int, list[list[Candidate]]]]
    ) -> list[tuple[int, list[list[Candidate]]]]:
        """Already a list by request."""
        return output

    def encode_response(self, output: tuple[int, list[list[Candidate]]]) -> PredictAnswer:
        """The answer to one request."""
        tokens, candidates = output
        results = [Prediction(candidates=found) for found in candidates]
        usage = Usage(tokens=tokens, cached_tokens=0)
        return PredictAnswer(
            model=Model(name="litserve", version="0"), results=results, usage=usage
        )


def main() -> None:
    """Serve until a signal."""
    options = parser(__doc__).parse_args()
    server = litserve.LitServer(
        LacunaAPI(options.checkpoint, options.threads),
        accelerator="cpu",
        workers_per_device=1,
        fast_queue=True,
    )
    server.run(
        host="127.0.0.1",
        port=options.port,
        num_api_servers=1,
        log_level="warning",
        generate_client_file=False,
        access_log=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
    )


if __name__ == "__main__":
    main()
