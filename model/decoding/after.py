"""Weigh candidates by what follows the cursor: P(word | both) ∝ P(word | left) P(right | word).

P(right | word) is that of the next few tokens, after the text with the candidate. The first
``WEIGHED`` candidates share their probability again, and no others are offered, so the answer does
not depend on how many are asked for.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate
from operator import itemgetter

import numpy as np

from model.batching import Decoder, RunTower, Score, gather
from model.decoding.candidates import start_of_word
from model.decoding.context import DecoderContext, History, load_prefix
from model.decoding.score import LEAST, join
from model.queries import Candidate, PredictQuery
from model.text import read_text

# Candidates that are weighed, tokens after the cursor that are read, and their code points.
WEIGHED, TOKENS, MAX_AFTER = 20, 6, 64


def weigh_by_after(
    context: DecoderContext,
    query: PredictQuery,
    history: History,
    candidates: Sequence[Candidate],
) -> Decoder[tuple[Candidate, ...]]:
    """Return the first of the *candidates*, weighed by what follows the cursor on its line."""
    following = read_text(query.after[:MAX_AFTER]).text.partition("\n")[0]
    read = context.tokenizer.decode(context.index.encode_whole(following)[:TOKENS])
    following = following[: len(read)].rstrip(" ")
    candidates = candidates[:WEIGHED]
    if not following.strip() or not candidates:
        return tuple(candidates)
    texts = [
        query.text[: len(query.text) - (each.replace or 0)] + each.append for each in candidates
    ]
    scores = yield from gather([_log_prob(context, text, following, history) for text in texts])
    fits = np.exp(np.array(scores) - max(scores))
    weighed = np.array([each.probability for each in candidates])
    total = float(weighed.sum())
    weighed = weighed * fits
    shared = (weighed * (total / float(weighed.sum()))).tolist() if weighed.any() else weighed
    found = [replace(each, probability=prob) for each, prob in zip(candidates, shared, strict=True)]
    found = [each for each in found if each.probability > 0]
    return tuple(sorted(found, key=lambda each: (-each.probability, each.append)))


def _log_prob(
    context: DecoderContext, text: str, following: str, history: History
) -> Decoder[float]:
    """Return log P(following | text), of which the last word is not in the cache."""
    index = context.index
    before, right = join(read_text(text).text, following, context.words)[0]
    start = start_of_word(before.rstrip(" "))
    if start and not index.is_stable_boundary(before, start):
        start = index.last_stable_boundary(before[:start])
    prefix, _ = yield from load_prefix(context, before[:start], history)
    tokens = index.encode(before[start:] + right)
    sizes = accumulate(len(index.spellings[token]) for token in tokens)
    head = sum(1 for size in sizes if size <= len(before[start:].encode()))
    state = prefix.tree.root.state
    ((outputs, _),) = yield [RunTower("forward", state, tuple(tokens[:-1]), keep_outputs=True)]
    scored = range(max(1, head), len(tokens))
    probs = yield [Score("next", outputs[n - 1], itemgetter(tokens[n])) for n in scored]
    return float(np.log(np.maximum(np.array(probs, dtype=np.float64), LEAST)).sum())
