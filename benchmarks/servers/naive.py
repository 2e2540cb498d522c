"""The naive peer: FastAPI around the same checkpoint in torch, one call of the network a request.

The route computes on the event loop. A thread pool would let the loop read on meanwhile, but on one core it only adds
switches, so this is the kinder way to write it.
"""

import torch
from fastapi import FastAPI

from benchmarks.servers.listening import parser, serve
from benchmarks.servers.torch_predictor import TorchPredictor
from service.schemas import Model, PredictAnswer, Prediction, PredictRequest, Usage


def create_app(predictor: TorchPredictor) -> FastAPI:
    """The app."""
    app = FastAPI()
    model = Model(name="naive", version="0")

    @app.post("/predict")
    async def predict(request: PredictRequest) -> PredictAnswer:
        encoded = [predictor.encode(text) for text in request.texts]
        results = [
            Prediction(candidates=found) for found in predictor.predict(encoded, request.top_k)
        ]
        usage = Usage(tokens=sum(map(len, encoded)) - len(encoded), cached_tokens=0)
        return PredictAnswer(model=model, results=results, usage=usage)

    return app


def main() -> None:
    """Serve until a signal."""
    options = parser(__doc__)
    options.add_argument("--precision", choices=("fp32", "int8"), default="fp32")
    given = options.parse_args()
    torch.set_num_threads(given.threads)
    serve(create_app(TorchPredictor(given.checkpoint, given.precision)), given.port)


if __name__ == "__main__":
    main()
