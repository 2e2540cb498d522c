"""Let candidates go on for several words: ghost text, of which a client takes as many as it likes.

Each further word is the most probable one after those before it, given that the last word has
ended. A phrase ends where its sentence does.
"""

from dataclasses import replace

from model.batching import Decoder, gather
from model.decoding.candidates import SENTENCE_ENDS
from model.decoding.context import DecoderContext, History
from model.decoding.next_word import next_words
from model.queries import Candidate, PredictQuery, Step
from model.text import is_word_character

# Candidates that go on.
PHRASES = 3


def add_steps(
    context: DecoderContext,
    query: PredictQuery,
    history: History,
    candidates: tuple[Candidate, ...],
) -> Decoder[tuple[Candidate, ...]]:
    """Let the first candidates of a query go on; all get their steps."""
    longer = [_go_on(context, query, history, each) for each in candidates[:PHRASES]]
    phrases = yield from gather(longer)
    return (*phrases, *[replace(each, steps=(_step(each),)) for each in candidates[PHRASES:]])


def _go_on(
    context: DecoderContext, query: PredictQuery, history: History, candidate: Candidate
) -> Decoder[Candidate]:
    kept = len(query.text) - (candidate.replace or 0)
    text, steps = query.text[:kept] + candidate.append, [_step(candidate)]
    while len(steps) < query.words and steps[-1].append[-1] not in SENTENCE_ENDS:
        asked = replace(query, text=text, top_k=1)
        after_word = steps[-1].ended and is_word_character(text[-1])
        found = (yield from next_words(context, asked, history, after_word)).candidates
        if not found:
            break
        steps.append(_step(found[0]))
        text += steps[-1].append
    append = "".join([each.append for each in steps])
    return replace(candidate, append=append, ended=steps[-1].ended, steps=tuple(steps))


def _step(candidate: Candidate) -> Step:
    return Step(candidate.append, candidate.probability, candidate.ended)
