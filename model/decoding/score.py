"""Score a text: log P(text) = Σ log P(token | all tokens before it), without its end."""

import math
from array import array
from operator import itemgetter

import numpy as np

from model.batching import CHUNK_TOKENS, Decoder, RunTower, Score
from model.decoding.context import DecoderContext
from model.queries import ScoreQuery, ScoreResult, Usage
from model.text import normalise
from model.tokenizer import START


def score_text(context: DecoderContext, query: ScoreQuery) -> Decoder[ScoreResult]:
    """Sum the log-probabilities of the tokens of a text, in nats, at temperature 1.

    A line end is read as ``<s>``; the state is kept, and the line end itself costs nothing.
    """
    text = normalise(query.text)
    tokens = context.tokenizer.encode(text)
    state, before, log_probs = context.initial["forward"], START, array("f")
    for start in range(0, len(tokens), CHUNK_TOKENS):
        chunk = tokens[start : start + CHUNK_TOKENS]
        step = RunTower("forward", state, (before, *chunk[:-1]), keep_outputs=True)
        ((outputs, state),) = yield [step]
        scored = [n for n, token in enumerate(chunk) if token != START]
        log_probs.extend((yield [Score("next", outputs[n], itemgetter(chunk[n])) for n in scored]))
        before = chunk[-1]
    total = 0.0
    for start in range(0, len(log_probs), CHUNK_TOKENS):  # the order of sums decides last digits
        total += float(np.sum(log_probs[start : start + CHUNK_TOKENS], dtype=np.float64))
    bits = -total / math.log(2.0) / max(1, len(text))  # a text may be invisible
    return ScoreResult(total, len(text), len(tokens), bits, Usage(len(tokens)))
