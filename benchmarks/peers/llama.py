"""SmolLM2 in llama.cpp on one thread, as a user who completes English words would serve it.

A text is read up to its last space. The candidates are the tokens that begin with the letters after
it; most are whole words. Without such tokens the whole text is read. Every typist has a kept state,
so most key presses need no step of the network. Texts that wait together are read as one batch.
"""

import asyncio
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from fastapi import FastAPI

from benchmarks.peers.schemas import Answer, Candidate, Prediction, Request, answer
from model.runtime import Float32Array
from research.causal_model import CONTEXT_TOKENS, CausalModel

STATES, WAITING_TEXTS = 64, 32
STATE_TOKENS = CONTEXT_TOKENS // STATES - 8
Tokens = tuple[int, ...]


class LlamaPredictor(CausalModel):
    """English texts in, tokens that complete the last word or follow it out.

    Args:
        path: a GGUF file.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path, sequences=STATES)
        order = [token for token, piece in enumerate(self.pieces) if piece]
        self._order = np.array(sorted(order, key=self.pieces.__getitem__))
        self._sorted = [self.pieces[token] for token in self._order]
        # Number of a state and P(next token) at its end, by its tokens, least recently used first.
        self._states: dict[Tokens, tuple[int, Float32Array]] = {
            (-1 - number,): (number, np.zeros(0, np.float32)) for number in range(STATES)
        }
        # Every state has the first tokens in common.
        self._common = len(self.start) - 1
        list(self._run([(self.start[n], n, 0, False) for n in range(self._common)]))
        for number in range(1, STATES):
            self._library.llama_kv_cache_seq_cp(self._context, 0, number, -1, -1)

    def predict(self, texts: Sequence[str], top_k: int) -> list[list[Candidate]]:
        """Return the *top_k* most probable tokens for each of up to `WAITING_TEXTS` texts."""
        asked = [self._split(text) for text in texts]
        contexts = dict.fromkeys(context for context, _ in asked)
        known = {each: self._states.pop(each) for each in contexts if each in self._states}
        self._states |= known | self._read_all([each for each in contexts if each not in known])
        return [self._best(self._states[context][1], typed, top_k) for context, typed in asked]

    def _split(self, text: str) -> tuple[Tokens, str]:
        """Return the tokens to read, and the letters that candidates begin with."""
        cut = max(0, text.rfind(" "))
        low, high = self._range(text[cut:])
        if low == high:
            cut = len(text)
        return (*self.start, *self.encode(text[:cut])[-STATE_TOKENS:]), text[cut:]

    def _range(self, typed: str) -> tuple[int, int]:
        return bisect_right(self._sorted, typed), bisect_left(self._sorted, typed + "\U0010ffff")

    def _read_all(self, contexts: Sequence[Tokens]) -> dict[Tokens, tuple[int, Float32Array]]:
        """Read what each context adds to the state that has most of it, all in one batch."""
        numbers, read = [], []
        for context in contexts:
            state = max(self._states, key=lambda kept: _shared(kept, context))
            number, _ = self._states.pop(state)
            last = len(context) - 1
            same = max(self._common, min(_shared(state, context), last))
            self._library.llama_kv_cache_seq_rm(self._context, number, same, -1)
            read += [(context[n], n, number, n == last) for n in range(same, len(context))]
            numbers.append(number)
        rows = (row[self._order] for row in self._run(read))
        return dict(zip(contexts, zip(numbers, rows, strict=True), strict=True))

    def _best(self, row: Float32Array, typed: str, top_k: int) -> list[Candidate]:
        low, high = self._range(typed)
        fitting = row[low:high]
        best = np.argpartition(-fitting, min(top_k, len(fitting)) - 1)[:top_k]
        return [
            Candidate(word=piece.strip(), append=piece[len(typed) :], probability=fitting[n])
            for n in best[np.argsort(-fitting[best])]
            for piece in (self._sorted[low + n],)
        ]


def _shared(state: Tokens, context: Tokens) -> int:
    """Return the number of shared tokens; 0 if most of the state, another typist's, would go."""
    ends = (n for n, (one, other) in enumerate(zip(state, context, strict=False)) if one != other)
    same = next(ends, min(len(state), len(context)))
    return same if 2 * same > len(state) else 0


def llama_app(path: Path) -> FastAPI:
    """Return an app that answers all texts that arrived together at once."""
    predictor = LlamaPredictor(path)
    waiting: list[tuple[Request, asyncio.Future[Answer]]] = []
    app = FastAPI()

    def answer_waiting() -> None:
        asked = waiting[:WAITING_TEXTS]
        del waiting[:WAITING_TEXTS]
        texts = [text for request, _ in asked for text in request.texts]
        found = iter(predictor.predict(texts, max(request.top_k for request, _ in asked)))
        for request, future in asked:
            results = [Prediction(candidates=next(found)[: request.top_k]) for _ in request.texts]
            if not future.done():
                future.set_result(answer("llama.cpp", results))
        if waiting:
            asyncio.get_running_loop().call_soon(answer_waiting)

    @app.post("/predict")
    async def predict(request: Request) -> Answer:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Answer] = loop.create_future()
        waiting.append((request, future))
        if len(waiting) == 1:
            loop.call_soon(answer_waiting)
        return await future

    return app
