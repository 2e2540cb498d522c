"""The reference: what FastAPI itself costs. The product's request and answer types, and an answer known beforehand.

It is the natural way to write such a route, not the cheapest: the body is parsed into the request's model, a value of
the answer's model is returned, and FastAPI writes it out.
"""

from fastapi import FastAPI

from benchmarks.servers.listening import parser, serve
from service.schemas import (
    Blank,
    BlankCandidate,
    Candidate,
    ClozeAnswer,
    ClozeRequest,
    Filling,
    Model,
    PredictAnswer,
    Prediction,
    PredictRequest,
    Usage,
)

_WORDS = ("theatre", "theater", "theaters", "theatrical", "theatres")
_MODEL = Model(name="reference", version="0")
_USAGE = Usage(tokens=8, cached_tokens=0)
app = FastAPI()


@app.post("/predict")
async def predict(request: PredictRequest) -> PredictAnswer:
    """Five candidates for each text, always the same."""
    candidates = [
        Candidate(word=word, append=word, probability=0.3872094541788101 / (rank + 1))
        for rank, word in enumerate(_WORDS)
    ]
    return PredictAnswer(
        model=_MODEL, results=[Prediction(candidates=candidates)] * len(request.texts), usage=_USAGE
    )


@app.post("/cloze")
async def cloze(request: ClozeRequest) -> ClozeAnswer:
    """Five fillings for each text, always the same."""
    candidates = [
        BlankCandidate(word=word, probability=0.3872094541788101 / (rank + 1))
        for rank, word in enumerate(_WORDS)
    ]
    blank = Blank(start=10, end=16, candidates=candidates)
    fillings = [Filling(filled=text, blanks=[blank]) for text in request.texts]
    return ClozeAnswer(model=_MODEL, results=fillings, usage=_USAGE)


if __name__ == "__main__":
    serve(app, parser(__doc__).parse_args().port)
