"""Answer /predict with more than the next word: what keyboards ask for."""

from dataclasses import replace

from model.batching import Decoder
from model.decoding.after import WEIGHED, weigh_by_after
from model.decoding.context import DecoderContext, History
from model.decoding.corrections import correct
from model.decoding.letters import next_letters
from model.decoding.next_word import next_words
from model.decoding.phrases import add_steps
from model.queries import PredictQuery, PredictResult
from model.text import read_text


def assist(
    context: DecoderContext, query: PredictQuery, history: History
) -> Decoder[PredictResult]:
    """Decode one query, which is checked already."""
    wanted = max(query.top_k, WEIGHED) if query.after else query.top_k
    result = yield from next_words(context, replace(query, top_k=wanted), history)
    candidates, letters = result.candidates, None
    if query.corrections:
        candidates = yield from correct(
            context, read_text(query.text), history, query.corrections, candidates
        )
    if query.after:
        candidates = yield from weigh_by_after(context, query, history, candidates)
    candidates = candidates[: query.top_k]
    if query.words > 1:
        candidates = yield from add_steps(context, query, history, candidates)
    if query.letters:
        letters = yield from next_letters(context, read_text(query.text), history)
    return replace(result, candidates=candidates, letters=letters)
