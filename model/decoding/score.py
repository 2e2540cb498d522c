"""How probable a text is: the sum over its own encoding, from the start of a text, the end not included."""

import numpy as np

from model.decoding.context import DecoderContext
from model.queries import ScoreQuery, ScoreResult, Usage
from model.steps import Decoder, Next, Trace, ask
from model.text import normalise
from model.tokenizer import START

# Tokens that are scored in one round: their rows are as wide as the vocabulary.
CHUNK = 64


def score_text(resources: DecoderContext, query: ScoreQuery) -> Decoder[ScoreResult]:
    """Sum log P(token | all before it) over the tokens of a text, in nats, at temperature 1.

    A line end is read as ``<s>``, with the state carried on, and costs nothing.
    """
    text = normalise(query.text)
    tokens = resources.tokenizer.encode(text)
    (outputs,) = yield from ask(
        [Trace("forward", resources.initial("forward"), (START, *tokens[:-1]))]
    )
    scored = [number for number, token in enumerate(tokens) if token != START]
    total = 0.0
    for start in range(0, len(scored), CHUNK):
        numbers = scored[start : start + CHUNK]
        rows = yield from ask([Next(outputs[number], (tokens[number],)) for number in numbers])
        total += float(np.sum(np.concatenate(rows), dtype=np.float64))
    return ScoreResult(total, len(text), len(tokens), Usage(len(tokens)))
