"""How probable a text is: the sum over its own encoding, from the start of a text, the end not included."""

import numpy as np

from model.decoding.resources import Resources
from model.queries import ScoreQuery, ScoreResult, Usage
from model.steps import Decoder, Next, Trace, ask
from model.vocabulary import START, normalise

# Pieces that are scored in one round: their rows are as wide as the vocabulary.
CHUNK = 64


def score_text(resources: Resources, query: ScoreQuery) -> Decoder[ScoreResult]:
    """Sum log P(piece | all before it) over the pieces of a text, in nats, at temperature 1.

    A line end is read as ``<s>``, with the state carried on, and costs nothing.
    """
    text = normalise(query.text)
    pieces = resources.vocabulary.encode(text)
    (outputs,) = yield from ask([Trace("forward", resources.initial("forward"), (START, *pieces[:-1]))])
    scored = [number for number, piece in enumerate(pieces) if piece != START]
    total = 0.0
    for start in range(0, len(scored), CHUNK):
        numbers = scored[start : start + CHUNK]
        rows = yield from ask([Next(outputs[number], (pieces[number],)) for number in numbers])
        total += float(np.sum(np.concatenate(rows), dtype=np.float64))
    return ScoreResult(total, len(text), len(pieces), Usage(len(pieces)))
