"""Score a text: log P(text | context) = Σ log P(token | all tokens before it), without its end.

Without a context, the tokens are those of the text, and the sum is over all of them. With one:

1. *Join* (:func:`join`): the space between context and text counts as part of the context. If it
   may be missing, the more probable of the two readings counts.
2. *Heal* (:meth:`TokenIndex.heal`): a token of the joined text may cross the end of the context, so
   cut the context where nothing after it can move a boundary. Let q be the rest of it, often empty.
3. *Score*: with s, the tokens of q and the text together, and *left*, those before the cut,

       log P(text | context) = Σ_i log P(s_i | left, s_1 … s_i-1) − log Z,    Z = P(q | left)

   Z is a sum over the token sequences that spell q, or that spell a beginning of it before a token
   that begins with the rest of q and is longer. If q is empty, Z = 1.
"""

import math
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import takewhile
from operator import attrgetter, itemgetter

import numpy as np

from model.batching import CHUNK_TOKENS, Decoder, RunTower, Score
from model.decoding.context import DecoderContext, History, load_prefix
from model.decoding.token_index import TokenIndex
from model.queries import ScoredToken, ScoreQuery, ScoreResult, Usage
from model.runtime import Float32Array
from model.text import NormalText, is_east_asian, is_word_character, normalise
from model.tokenizer import START
from model.words import KnownWords

# The search for Z: a spelling is followed if its probability exceeds this share of Z so far; so
# many a round, each of one token.
SHARE, ROWS, ROUNDS = 1e-3, 16, 8
# The least probability of a token: the logarithm of 0 is no number in JSON.
LEAST = np.finfo(np.float32).tiny
# Characters of the words that meet where the text begins.
MAX_WORD = 64


@dataclass(frozen=True, slots=True)
class Start:
    """The place at which a text begins.

    Attributes:
        state: of the forward tower, (S,).
        unread: tokens that it has not read.
        rest: q, the end of the context that the first tokens of the text spell, too.
        total: Z; 0 if no spelling of q was found.
        usage: of the tokens before the cut.
    """

    state: Float32Array
    unread: tuple[int, ...] = ()
    rest: str = ""
    total: float = 1.0
    usage: Usage = field(default=Usage(0))


class ContextReader:
    """Reads the context of all texts of a request, once, from where the cache knows it."""

    def __init__(self, context: DecoderContext, text: str, owner: History) -> None:
        self.text = normalise(text)
        self._context = context
        self._owner = owner
        self._starts: dict[str, Start] = {}
        self._reading: set[str] = set()

    def read(self, before: str) -> Decoder[Start]:
        """Return the start after *before*, the context with or without a space at its end."""
        while before not in self._starts:
            if before in self._reading:
                yield []  # another text's decoder reads it
                continue
            self._reading.add(before)
            try:
                start = yield from self._read(before)
            finally:  # if this one is cancelled, another one reads
                self._reading.remove(before)
            tokens = start.usage.tokens
            self._starts[before] = replace(start, usage=Usage(tokens, tokens))
            return start
        return self._starts[before]

    def _read(self, before: str) -> Decoder[Start]:
        index = self._context.index
        boundary = index.last_stable_boundary(before)
        prefix, cached_tokens = yield from load_prefix(
            self._context, before[:boundary], self._owner
        )
        between, _, rest = index.heal(before[boundary:])
        state = prefix.tree.root.state
        if between:
            (state,) = yield [RunTower("forward", state, tuple(between))]
        total = (yield from _total(self._context, state, rest)) if rest else 1.0
        usage = Usage(prefix.tokens + len(between), cached_tokens)
        return Start(state, (), rest.decode(), total, usage)


def score_text(
    context: DecoderContext, query: ScoreQuery, reader: ContextReader
) -> Decoder[ScoreResult]:
    """Sum the log-probabilities of the tokens of a text, in nats, after the context.

    A line end is read as ``<s>``; the state is kept, and the line end itself costs nothing.
    """
    sent = NormalText.of(query.text)
    readings: list[ScoreResult] = []
    for before, text in join(reader.text, sent.text, context.words):
        start = Start(context.initial["forward"], (START,))
        if before and text:
            start = yield from reader.read(before)
        details = Details(sent, text, start.rest) if query.details else None
        readings.append((yield from _score(context, start, text, details)))
    return max(readings, key=attrgetter("log_probability"))


def join(context: str, text: str, words: KnownWords) -> list[tuple[str, str]]:
    """Return the readings of context and text, both in normal form: with and without a space.

    The space is at the end of the context. There is one if either has it, between two words, and
    between a punctuation mark and a letter, but none at a line end or after Chinese. Two parts of a
    word are read without it, and two words that are also parts of a word in both ways.
    """
    before, after = context.rstrip(" "), text.lstrip(" ")
    if not before:
        return [("", text)]
    together, apart = (before, after), (f"{before} ", after)
    if not after or "\n" in (before[-1], after[0]) or is_east_asian(before[-1]):
        return [together]
    if len(before) < len(context) or len(after) < len(text):
        return [apart]
    if not (is_word_character(after[0]) and after[0].isalnum()):
        return [together]
    if before[-1].isdigit() and after[0].isdigit():
        return [together]
    if before[-1] in ",.;:!?":
        return [apart if after[0].isalpha() else together]
    last = "".join(takewhile(is_word_character, reversed(before[-MAX_WORD:])))[::-1]
    whole = last + "".join(takewhile(is_word_character, after[:MAX_WORD]))
    if not last or last not in words:
        return [together]
    return [apart, together] if words and whole in words else [apart]


def _total(context: DecoderContext, state: Float32Array, rest: bytes) -> Decoder[float]:
    """Return Z, the probability that the text after *state* begins with *rest*."""
    index, output = context.index, context.output["forward"]
    total, live = 0.0, [(1.0, rest, state)]
    for _ in range(ROUNDS):
        rows = yield [
            Score("next", state[output], partial(_ways, index, rest)) for _, rest, state in live
        ]
        paths: list[tuple[float, bytes, Float32Array, int]] = []
        for (prob, rest, state), (crossing, spelling) in zip(live, rows, strict=True):
            total += prob * crossing
            for token, token_prob in spelling:
                left = rest[len(index.spellings[token]) :]
                paths.append((prob * token_prob, left, state, token))
        total += sum(path[0] for path in paths if not path[1])
        paths = [path for path in paths if path[1] and path[0] > SHARE * total]
        paths = sorted(paths, key=itemgetter(0), reverse=True)[:ROWS]
        if not paths:
            break
        states = yield [RunTower("forward", state, (token,)) for _, _, state, token in paths]
        live = [(path[0], path[1], state) for path, state in zip(paths, states, strict=True)]
    return total


def _ways(
    index: TokenIndex, rest: bytes, probs: Float32Array
) -> tuple[float, list[tuple[int, float]]]:
    """Return the probability that a token crosses the end of *rest*, and of each that spells it."""
    spelling = [(token, float(probs[token])) for token in index.prefixes(rest)]
    return float(np.add.reduce(probs[index.extensions(rest)])), spelling


def _score(
    context: DecoderContext, start: Start, text: str, details: "Details | None"
) -> Decoder[ScoreResult]:
    """Score *text* in normal form, without the space before it."""
    tokens = context.tokenizer.encode(start.rest + text) if text else []
    state, unread, log_probs = start.state, start.unread, array("f")
    for first in range(0, len(tokens), CHUNK_TOKENS):
        chunk = tokens[first : first + CHUNK_TOKENS]
        outputs = [] if unread else [state[context.output["forward"]]]
        step = RunTower("forward", state, (*unread, *chunk[:-1]), keep_outputs=True)
        ((read, state),) = yield [step]
        outputs += list(read)
        places = [place for place, token in enumerate(chunk) if token != START]
        probs = yield [Score("next", outputs[n], itemgetter(chunk[n])) for n in places]
        found = np.log(np.maximum(np.array(probs, dtype=np.float32), LEAST))
        log_probs.extend(found)
        if details:
            by_place = dict(zip(places, found, strict=True))
            for place, token in enumerate(chunk):
                details.add(context.index.spellings[token], float(by_place.get(place, 0.0)))
        unread = (chunk[-1],)
    inside = 0
    if start.rest:
        inside = _correct_first(context.index, tokens, start, log_probs, details)
    total = 0.0
    for first in range(0, len(log_probs), CHUNK_TOKENS):  # the order of sums decides last digits
        total += float(np.sum(log_probs[first : first + CHUNK_TOKENS], dtype=np.float64))
    usage = Usage(start.usage.tokens + len(tokens), start.usage.cached_tokens)
    characters = len(text)
    bits = -total / math.log(2.0) / max(1, characters)
    entries = details.entries() if details else None
    return ScoreResult(total, characters, len(tokens) - inside, bits, usage, entries)


def _correct_first(
    index: TokenIndex,
    tokens: Sequence[int],
    start: Start,
    log_probs: "array[float]",
    details: "Details | None",
) -> int:
    """Let the log-probabilities of the tokens that spell q, and of the next one, be one, given q.

    Return the number of tokens that spell q.
    """
    left, inside = len(start.rest.encode()), 0
    while (left := left - len(index.spellings[tokens[inside]])) >= 0:
        inside += 1
    head = inside + (tokens[inside] != START)
    raw = math.fsum(log_probs[:head])
    # If Z is unknown, q counts as it is spelled here.
    log_total = math.log(start.total) if start.total > 0 else math.fsum(log_probs[:inside])
    given = min(0.0, raw - log_total)
    log_probs[:head] = array("f", [given])
    if details:
        details.add_to_first(given - raw)
    return inside


class Details:
    """The tokens of a text, but bytes of one character together, with their places as sent."""

    def __init__(self, sent: NormalText, text: str, rest: str) -> None:
        self._sent = sent
        self._start = len(sent.text) - len(text)  # of what is scored
        self._position = self._start - len(rest)
        self._bytes = b""  # of an incomplete character
        self._log_prob = 0.0
        self._entries: list[ScoredToken] = []

    def add(self, spelling: bytes, log_prob: float) -> None:
        """Add the next token, of *rest* or of the text."""
        self._bytes += spelling
        self._log_prob += log_prob
        try:
            self._position += len(self._bytes.decode())
        except UnicodeDecodeError:
            return
        self._bytes = b""
        if self._position <= self._start:
            return
        is_last = self._position == len(self._sent.text)
        end = len(self._sent.sent) if is_last else self._sent.offsets[self._position]
        begin = self._entries[-1].end if self._entries else 0
        if end > begin:  # one character of the text as sent may be several of its normal form
            part = self._sent.sent[begin:end]
            self._entries.append(ScoredToken(part, begin, end, self._log_prob))
            self._log_prob = 0.0

    def add_to_first(self, log_prob: float) -> None:
        """Add to the log-probability of the first entry."""
        first = self._entries[0]
        self._entries[0] = replace(first, log_probability=first.log_probability + log_prob)

    def entries(self) -> tuple[ScoredToken, ...]:
        """Return the entries, which make up the text as sent."""
        sent = self._sent.sent
        return tuple(self._entries) or (ScoredToken(sent, 0, len(sent), 0.0),)
