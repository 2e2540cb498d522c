"""Score a text: log P(text) = Σ log P(token | all tokens before it), without its end."""

import math

import numpy as np

from model.batching import Decoder, RunTower, Score
from model.decoding.context import DecoderContext
from model.queries import ScoreQuery, ScoreResult, Usage
from model.text import normalise
from model.tokenizer import START

# Tokens that are scored in one round: their rows are as wide as the vocabulary.
SCORED_ROWS = 64


def score_text(context: DecoderContext, query: ScoreQuery) -> Decoder[ScoreResult]:
    """Sum the log-probabilities of the tokens of a text, in nats, at temperature 1.

    A line end is read as ``<s>``; the state is kept, and the line end itself costs nothing.
    """
    text = normalise(query.text)
    tokens = context.tokenizer.encode(text)
    step = RunTower("forward", context.initial["forward"], (START, *tokens[:-1]), keep_outputs=True)
    (outputs,) = yield [step]
    scored = [number for number, token in enumerate(tokens) if token != START]
    total = 0.0
    for start in range(0, len(scored), SCORED_ROWS):
        rows = yield [
            Score("next", outputs[n], (tokens[n],)) for n in scored[start : start + SCORED_ROWS]
        ]
        total += float(np.sum(np.concatenate(rows), dtype=np.float64))
    bits = -total / math.log(2.0) / len(text)
    return ScoreResult(total, len(text), len(tokens), bits, Usage(len(tokens)))
