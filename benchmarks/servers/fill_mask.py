"""transformers' fill-mask pipeline behind FastAPI, with a network of BERT-base-chinese's size and random weights.

Speed does not depend on what the weights are. The vocabulary has 21,128 entries, as BERT-base-chinese's: controls,
every ideograph from U+4E00 to U+9FA5, and fillers. A Chinese character is one token, as in the original; any other word
is one unknown token where the original often has several, which makes this peer faster than the original, not slower.
"""

import torch
from fastapi import FastAPI
from transformers import BertConfig, BertForMaskedLM, BertTokenizer, pipeline

from benchmarks.servers.listening import parser, serve
from service.schemas import Blank, BlankCandidate, ClozeAnswer, ClozeRequest, Filling, Model, Usage

VOCABULARY_SIZE = 21_128
_CONTROLS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_MARKER = "[MASK]"


def tokenizer() -> dict[str, int]:
    """Tokens with their ids."""
    tokens = [*_CONTROLS, *map(chr, range(0x4E00, 0x9FA6))]
    tokens += [f"[unused{number}]" for number in range(VOCABULARY_SIZE - len(tokens))]
    return {token: number for number, token in enumerate(tokens)}


def create_app(threads: int) -> FastAPI:
    """The app. It computes on the event loop, as `benchmarks.servers.naive` does and says why."""
    torch.manual_seed(1)
    torch.set_num_threads(threads)
    network = BertForMaskedLM(BertConfig(vocab_size=VOCABULARY_SIZE)).eval()
    fill = pipeline(
        "fill-mask", model=network, tokenizer=BertTokenizer(vocab=tokenizer()), device="cpu"
    )
    app = FastAPI()
    model = Model(name="fill-mask", version="0")

    @app.post("/cloze")
    async def cloze(request: ClozeRequest) -> ClozeAnswer:
        results = []
        with torch.inference_mode():
            for text in request.texts:
                found = fill(text, top_k=request.top_k)
                start = text.index(_MARKER)
                candidates = [
                    BlankCandidate(word=one["token_str"], probability=one["score"]) for one in found
                ]
                blank = Blank(start=start, end=start + len(_MARKER), candidates=candidates)
                results.append(Filling(filled=found[0]["sequence"], blanks=[blank]))
        return ClozeAnswer(model=model, results=results, usage=Usage(tokens=0, cached_tokens=0))

    return app


if __name__ == "__main__":
    given = parser(__doc__).parse_args()
    serve(create_app(given.threads), given.port)
