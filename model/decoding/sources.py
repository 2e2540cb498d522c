"""Says of each candidate where it comes from: the network, the text itself, the history. Decodes by asking twice.

A candidate comes from the network if the network proposes it without any memory, among as many candidates; from the
text or the history if it stands there as a word. One may come from several, and comes from one at least: what the
network does not propose and what is no word of either may still be a part of one ("Okon" of "Okonkwo"); what is not
even that is the network's, though the memory of its tokens has lifted it.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

from model.decoding.context import DecoderContext
from model.queries import (
    Blank,
    ClozeQuery,
    ClozeResult,
    PredictQuery,
    PredictResult,
    Source,
    SourcedCandidate,
    SourcedFilling,
)
from model.steps import Decoder
from model.tokenizer import is_word_character, normalise

# Keeps what is read without a memory apart in the cache: a reading keeps its best tokens, which a memory reorders.
APART = "\0without memory"

PredictOrCloze = TypeVar("PredictOrCloze", PredictQuery, ClozeQuery)
Answered = TypeVar("Answered", PredictResult, ClozeResult)
Decode = Callable[[DecoderContext, PredictOrCloze, str], Decoder[Answered]]


def predict_with_sources(
    resources: DecoderContext,
    query: PredictQuery,
    tenant: str,
    decode: Decode[PredictQuery, PredictResult],
) -> Decoder[PredictResult]:
    """Decode with *decode*, twice, and add sources to the candidates.

    Args:
        resources: of the checkpoint.
        query: checked.
        tenant: whose texts it may find in the cache.
        decode: takes these three without memory as well as with it.
    """
    answer, alone = yield from _twice(resources, query, tenant, decode)
    proposed = {candidate.append for candidate in alone.candidates}
    candidates = tuple(
        SourcedCandidate(
            each.word,
            each.append,
            each.probability,
            _sources(each.word, each.append in proposed, query),
        )
        for each in answer.candidates
    )
    return replace(
        answer, candidates=candidates, network_rows=answer.network_rows + alone.network_rows
    )


def cloze_with_sources(
    resources: DecoderContext,
    query: ClozeQuery,
    tenant: str,
    decode: Decode[ClozeQuery, ClozeResult],
) -> Decoder[ClozeResult]:
    """The same for the fillings of blanks."""
    answer, alone = yield from _twice(resources, query, tenant, decode)
    blanks = []
    for blank, without in zip(answer.blanks, alone.blanks, strict=True):
        proposed = {filling.word for filling in without.candidates}
        sourced = tuple(
            SourcedFilling(
                each.word, each.probability, _sources(each.word, each.word in proposed, query)
            )
            for each in blank.candidates
        )
        blanks.append(Blank(blank.start, blank.end, sourced))
    return replace(answer, blanks=tuple(blanks))


def stands_in(word: str, text: str) -> bool:
    """Whether *word* stands in *text*, and does not begin or end inside a longer word of letters there."""
    start = text.find(word) if word else -1
    while start >= 0:
        end = start + len(word)
        inside = start > 0 and is_word_character(text[start - 1]) and is_word_character(word[0])
        if not inside and not (
            end < len(text) and is_word_character(text[end]) and is_word_character(word[-1])
        ):
            return True
        start = text.find(word, start + 1)
    return False


def _twice(
    resources: DecoderContext,
    query: PredictOrCloze,
    tenant: str,
    decode: Decode[PredictOrCloze, Answered],
) -> Decoder[tuple[Answered, Answered]]:
    plain = replace(query, sources=False)
    answer = yield from decode(resources, plain, tenant)
    forgetful = replace(resources, use_cache_lm=False)
    alone = yield from decode(forgetful, replace(plain, history=""), tenant + APART)
    return answer, alone


def _sources(word: str, proposed: bool, query: PredictQuery | ClozeQuery) -> tuple[Source, ...]:
    word = normalise(word).strip()
    written: dict[Source, str] = {
        "text": normalise(query.text),
        "history": normalise(query.history),
    }
    found = [name for name, text in written.items() if stands_in(word, text)]
    if not proposed and not found:
        found = [name for name, text in written.items() if word in text]
    return ("network", *found) if proposed or not found else tuple(found)
