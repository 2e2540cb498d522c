"""Divide the probabilities of next tokens among network, counts and cache, exactly.

Each is a sum of parts (mixture.py), of which the cache language model keeps a factor; the rest is
its own share (cache_lm.py).
"""

from collections.abc import Mapping, Sequence

import numpy as np

from model.decoding.context import DecoderContext, NextToken
from model.decoding.prefix_cache import PrefixNode
from model.decoding.span_search import Proposal, SpanHead
from model.decoding.writer_words import TINY, AddedWord
from model.mixture import WINDOW
from model.queries import Candidate, Filling, Origins
from model.runtime import Float32Array

# Digits of a share.
DIGITS = 4


# The token that ends the likeliest spelling of a candidate: the node before it, the token, its
# probability there, and the characters at the end of the text that belong to it.
Source = tuple[PrefixNode, int, float, str]


Shown = tuple[str, str, float, bool]  # the fields of a candidate but its origins


def with_origins(
    context: DecoderContext,
    next_token: NextToken,
    candidates: Sequence[Shown],
    sources: Sequence[Source | None],
    added: Mapping[str, AddedWord],
) -> tuple[Candidate, ...]:
    """Return candidates with their origins, of their *sources* and of words *added* by the writer.

    Tokens after the same node are looked up together, and kept in the node.
    """
    missing: dict[PrefixNode, dict[int, float]] = {}
    for source in sources:
        if source and source[1] not in source[0].origins:
            missing.setdefault(source[0], {})[source[1]] = source[2]
    for node, probs in missing.items():
        output, kept = node.state[context.output["forward"]], next_token.kept(node)
        mixed = [float(node.next_probs[token]) for token in probs]
        found = find_origins(context, output, list(probs), mixed, kept, list(probs.values()))
        next_token.tree.add_origins(node, dict(zip(probs, found, strict=True)))
    shown = []
    for each, source in zip(candidates, sources, strict=True):
        origins = source[0].origins[source[1]] if source else Origins()
        if word := added.get(each[1]):
            origins = _add_writer(origins, min(1.0, word.prob / each[2]))
        shown.append(Candidate(*each, origins))
    return tuple(shown)


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
        Filling(each.word, prob, _add_writer(origins, each.written))
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


def _add_writer(origins: Origins, share: float) -> Origins:
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
