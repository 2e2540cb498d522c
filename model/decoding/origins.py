"""Divide the probabilities of next tokens among network, counts and cache, exactly.

Each is a sum of parts (mixture.py), of which the cache language model keeps a factor; the rest is
its own share (cache_lm.py).
"""

from collections.abc import Mapping, Sequence

import numpy as np

from model.decoding.context import DecoderContext
from model.decoding.next_token import NextToken
from model.decoding.span_search import Proposal, SpanHead
from model.decoding.writer_words import TINY, AddedWord
from model.mixture import WINDOW
from model.queries import Candidate, Filling, Origins
from model.runtime import Float32Array

# Digits of a share.
DIGITS = 4


# The token that ends the likeliest spelling of a candidate: the address of the node before it, the
# token, and its probability there.
Source = tuple[int, int, float]


Shown = tuple[str, str, float, bool]  # the fields of a candidate but its origins


def with_origins(
    next_token: NextToken,
    candidates: Sequence[Shown],
    sources: Sequence[Source | None],
    added: Mapping[str, AddedWord],
) -> tuple[Candidate, ...]:
    """Return candidates with their origins, of their *sources* and of words *added* by the writer.

    Those of network and counts are of the likeliest token.
    """
    origins = iter(next_token.origins([source for source in sources if source]))
    return tuple(
        [
            Candidate(*each, add_writer(next(origins) if source else Origins(), each, added))
            for each, source in zip(candidates, sources, strict=True)
        ]
    )


def add_writer(origins: Origins, shown: Shown, added: Mapping[str, AddedWord]) -> Origins:
    """Return the origins of a candidate to which words *added* by the writer may give a share."""
    word = added.get(shown[1])
    return _add_share(origins, min(1.0, word.prob / shown[2])) if word else origins


def fillings_of(
    context: DecoderContext,
    output: Float32Array,
    head: SpanHead,
    ranked: Sequence[tuple[Proposal, float]],
) -> list[Filling]:
    """Return words for a blank, after the forward output before it (H,), with their origins."""
    tokens = [each.span.tokens[0] for each, _ in ranked]
    if not tokens or (probs := head.first_probs(tokens)) is None:
        return [Filling(each.word, prob) for each, prob in ranked]
    found = find_origins(context, output, tokens, *probs)
    return [
        Filling(each.word, prob, _add_share(origins, each.written))
        for (each, prob), origins in zip(ranked, found, strict=True)
    ]


def find_origins(
    context: DecoderContext,
    output: Float32Array,
    tokens: Sequence[int],
    mixed: Sequence[float],
    kept: float,
    probs: Sequence[float],
) -> list[Origins]:
    """Return the origins of the probabilities *probs* of *tokens* after a forward output, (H,).

    *mixed* are those without the cache language model, of which it kept the factor *kept*.
    """
    window = output[:WINDOW].astype(np.int64).tolist() if context.mixture.layers else []
    given = context.mixture.parts(window, tokens, context.has_network)
    found = []
    for number, (before, after) in enumerate(zip(mixed, probs, strict=True)):
        factor = kept / max(after, TINY)
        shares = [factor * part[number] for part in given]
        found.append(_rounded(max(0.0, 1.0 - factor * before), *shares))
    return found


def _add_share(origins: Origins, share: float) -> Origins:
    """Return the origins of a probability of which words of the writer give a further *share*."""
    left = 1.0 - share
    own = () if origins.own is None else (left * origins.own,)
    return _rounded(1.0 - left * (1.0 - origins.cache), left * origins.counts, *own)


def _rounded(cache: float, counts: float = 0.0, own: float | None = None) -> Origins:
    """Return rounded shares that sum to 1; the network has the rest."""
    counts, cache = round(counts, DIGITS), round(cache, DIGITS)
    own = None if own is None else round(own, DIGITS)
    network = round(1.0 - counts - cache - (own or 0.0), DIGITS)
    return Origins(max(0.0, network), counts, cache, own)
