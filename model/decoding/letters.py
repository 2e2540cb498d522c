"""The distribution of the next character: what keyboards without keys, and with few, ask for.

A token may cover the end of the text and the next character together, so this sums over all tokens
that follow a spelling of the unfinished end, or that cross its end (next_token.py):

    P(c | text) = Σ_s Σ_t P(s, t | left) / Z,    where s, t spells q and then c

Nothing else is left out than spellings of q that hold less than ``SPELLING_SHARE`` of Z each.
Words of the writer change these probabilities as they change those of words (writer_words.py).
"""

import numpy as np

from model.batching import Decoder
from model.decoding.candidates import start_of_word
from model.decoding.context import DecoderContext, History, load_prefix, typed_prob
from model.decoding.next_token import NextToken, TextEnd, limits
from model.decoding.token_index import END_OF_LINE, UNKNOWN_CHARACTER
from model.decoding.writer_words import WriterWords, weigh
from model.queries import Letter, Letters
from model.runtime import Float64Array
from model.text import NormalText, is_word_character

# Spellings with a smaller share of Z are left out.
SPELLING_SHARE = 1e-3
# Characters that are listed, and the least probability of one by each way to spell it.
MAX_LETTERS, MIN_LETTER = 100, 1e-6

# Probabilities by the end of the text that a token covers, and the character after it.
_Characters = dict[tuple[str, str], float]


def next_letters(
    context: DecoderContext, reading: NormalText, history: History
) -> Decoder[Letters]:
    """Compute the distribution of the character after a text."""
    text = reading.text
    boundary = context.index.last_stable_boundary(text)
    prefix, _ = yield from load_prefix(context, text[:boundary], history)
    between, canonical, typed = context.index.heal(text[boundary:])
    next_token, tree = NextToken(context, prefix, limits(SPELLING_SHARE)), prefix.tree
    try:
        yield from next_token.spell(TextEnd(between, canonical, typed))
    finally:  # a cancelled query leaves nodes, too
        if prefix.tree is tree:  # not dropped meanwhile
            context.cache.put(prefix)
    cut = len(text) - len(typed.decode())
    writer = WriterWords(text, start_of_word(text), history.words, history.lexicon)
    found = _characters(context, next_token)
    return _written(context, reading, writer, cut, next_token.total, found)


def ended_share(context: DecoderContext, next_token: NextToken) -> float:
    """Return the probability that no letter follows the text."""
    found = _characters(context, next_token)
    letters = [prob for (_, each), prob in found.items() if each and is_word_character(each)]
    return max(0.0, 1.0 - sum(letters))


def _characters(context: DecoderContext, next_token: NextToken) -> _Characters:
    """Return the probability of each next character in normal form, in all 1."""
    found: _Characters = {}
    rows: dict[bytes, Float64Array] = {}  # by the rest that tokens cover, (n,)
    for spelling in next_token.spellings():
        # After the whole of q, any token follows.
        is_whole = spelling.crossing is None
        probs = next_token.probs(spelling.node) if is_whole else spelling.crossing_probs
        if len(probs):
            before = rows.get(spelling.rest, np.zeros(len(probs)))
            rows[spelling.rest] = before + probs * np.float64(spelling.prob)
    total = sum([float(row.sum()) for row in rows.values()])
    for rest, row in rows.items():
        characters, numbers = context.index.characters_after(rest)
        shares = np.bincount(numbers, row, len(characters)) / (total or 1.0)
        listed = (shares > MIN_LETTER).nonzero()[0].tolist()
        for n in listed:
            found[rest.decode(), characters[n]] = float(shares[n])
    left = 1.0 - sum(found.values())
    found["", UNKNOWN_CHARACTER] = max(0.0, found.get(("", UNKNOWN_CHARACTER), 0.0) + left)
    return found


def _written(
    context: DecoderContext,
    reading: NormalText,
    writer: WriterWords,
    cut: int,
    total: float,
    found: _Characters,
) -> Letters:
    """Return the distribution in the writing of the text as sent, with the writer's words."""
    probs: dict[str, float] = {}
    end = other = 0.0
    for (covered, character), prob in found.items():
        written: str | None = character
        if character == END_OF_LINE:
            end += prob
            continue
        if character != UNKNOWN_CHARACTER and reading.text != reading.sent:
            written = reading.complete(covered, character)
        if written:
            probs[written[0]] = probs.get(written[0], 0.0) + prob
        else:
            other += prob
    words = writer.continuations()
    if words:
        text = reading.text
        words = [each._replace(append=each.append and reading.write(each.append)) for each in words]
        rows = {character: (prob,) for character, prob in probs.items()}
        weights = weigh(words, rows, lambda start: typed_prob(context, text, start, cut, total))
        if weights:
            probs = {each: weights.prob(each, prob) for each, prob in probs.items()}
            for append, added in weights.words.items():
                if append not in rows:
                    probs[append[0]] = probs.get(append[0], 0.0) + added.prob
            end, other = end * weights.ended, other * weights.ended
            # A whole word of the writer ends, even if the network expects nothing but letters.
            other += max(0.0, 1.0 - end - other - sum(probs.values()))
    ranked = sorted(probs.items(), key=lambda each: (-each[1], each[0]))
    listed = ranked[:MAX_LETTERS]
    other += sum([prob for _, prob in ranked[len(listed) :]])
    return Letters(tuple([Letter(*each) for each in listed]), end, other)
