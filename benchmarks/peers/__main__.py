"""Run one peer: reference, naive, naive-int8, litserve, fill-mask or llama.cpp.

All but the reference need the packages of ``benchmarks/.venv``. Routes compute on the event loop:
on one core a thread pool would only add switches.
"""

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path

import uvicorn
from fastapi import FastAPI

from benchmarks.peers.schemas import Answer, Blank, Candidate, Filling, Prediction, Request, answer

_WORDS = ("theatre", "theater", "theaters", "theatrical", "theatres")
# As BERT-base-chinese: controls, every ideograph from U+4E00 to U+9FA5, and fillers.
_BERT_VOCABULARY, _CONTROLS = 21_128, ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def reference(_checkpoint: Path) -> FastAPI:
    """Return an app that always gives the same answer: the cost of FastAPI, pydantic and uvicorn
    alone.
    """
    app = FastAPI()
    candidates = [
        Candidate(word=word, append=word, probability=0.3872094541788101 / rank)
        for rank, word in enumerate(_WORDS, 1)
    ]
    blank = Blank(start=10, end=16, candidates=candidates)

    @app.post("/predict")
    async def predict(request: Request) -> Answer:
        return answer("reference", [Prediction(candidates=candidates) for _ in request.texts])

    @app.post("/cloze")
    async def cloze(request: Request) -> Answer:
        return answer("reference", [Filling(filled=text, blanks=[blank]) for text in request.texts])

    return app


def naive(checkpoint: Path, int8: bool = False) -> FastAPI:
    """Return FastAPI around the checkpoint in torch, one call of the network a request."""
    import torch

    from benchmarks.peers.torch_predictor import TorchPredictor

    torch.set_num_threads(1)
    predictor = TorchPredictor(checkpoint, int8)
    app = FastAPI()

    @app.post("/predict")
    async def predict(request: Request) -> Answer:
        encoded = [predictor.encode(text) for text in request.texts]
        results = [
            Prediction(candidates=found) for found in predictor.predict(encoded, request.top_k)
        ]
        return answer("naive", results, sum(map(len, encoded)) - len(encoded))

    return app


def fill_mask(_checkpoint: Path) -> FastAPI:
    """Return transformers' fill-mask pipeline with a network of BERT-base-chinese's size.

    Its weights are random, which does not change its speed. A Chinese character is one token, as in
    the original. Any other word is one unknown token where the original often has several, so this
    peer is faster than the original.
    """
    import torch
    from transformers import BertConfig, BertForMaskedLM, BertTokenizer, pipeline

    torch.manual_seed(1)
    torch.set_num_threads(1)
    tokens = [*_CONTROLS, *map(chr, range(0x4E00, 0x9FA6))]
    tokens += [f"[unused{number}]" for number in range(_BERT_VOCABULARY - len(tokens))]
    fill = pipeline(
        "fill-mask",
        model=BertForMaskedLM(BertConfig(vocab_size=_BERT_VOCABULARY)).eval(),
        tokenizer=BertTokenizer(vocab={token: number for number, token in enumerate(tokens)}),
        device="cpu",
    )
    app = FastAPI()

    @app.post("/cloze")
    async def cloze(request: Request) -> Answer:
        results = []
        with torch.inference_mode():
            for text in request.texts:
                found = fill(text, top_k=request.top_k)
                start = text.index("[MASK]")
                candidates = [
                    Candidate(word=each["token_str"], append="", probability=each["score"])
                    for each in found
                ]
                blank = Blank(start=start, end=start + len("[MASK]"), candidates=candidates)
                results.append(Filling(filled=found[0]["sequence"], blanks=[blank]))
        return answer("fill-mask", results)

    return app


def llama_cpp(model: Path) -> FastAPI:
    """Return SmolLM2 in llama.cpp; *model* is a GGUF file."""
    from benchmarks.peers.llama import llama_app

    return llama_app(model)


APPS: Mapping[str, Callable[[Path], FastAPI]] = {
    "reference": reference,
    "naive": naive,
    "naive-int8": lambda checkpoint: naive(checkpoint, int8=True),
    "fill-mask": fill_mask,
    "llama.cpp": llama_cpp,
}


def main() -> None:
    """Serve until a signal."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers")
    parser.add_argument("name", choices=[*APPS, "litserve"])
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--checkpoint", type=Path, required=True)
    options = parser.parse_args()
    if options.name == "litserve":
        from benchmarks.peers import lit

        lit.serve(options.checkpoint, options.port)
        return
    uvicorn.run(
        APPS[options.name](options.checkpoint),
        port=options.port,
        loop="uvloop",
        http="httptools",
        ws="none",
        access_log=False,
        log_level="warning",
        timeout_keep_alive=65,
    )


if __name__ == "__main__":
    main()
