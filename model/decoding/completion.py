"""Continue a text token by token, and score its own tokens.

1. *Echo*: score the tokens of the prompt as score.py does.
2. *Heal* the end of the prompt as next_word.py does. Its rest q may be spelled in several ways. The
   first token is one that crosses the end of q or follows it, with probability

       P(spelling of q, token | left) / Z,    Z = P(q | left)

   Its text beyond q is added to the prompt. Token ids are exact, and are not healed.
3. *Read on*: run each token that was chosen, and choose the next one from the mixture of network
   and counts, corrected by the cache language model of the prompt. No token ends a line, but in
   the training text a line ends after ``.`` without a space. So after it, only spaces and closing
   marks keep their probability. All others share it as after a line end, and a space is written.
"""

import codecs
import math
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import astuple, replace
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from model.batching import CHUNK_TOKENS, Decoder, RunTower, Score
from model.completions import (
    CompletionPart,
    CompletionQuery,
    CompletionResult,
    CompletionToken,
    Finish,
)
from model.decoding.blanks import find_blanks
from model.decoding.cloze import fill_blanks
from model.decoding.context import DecoderContext, History, load_prefix, most_probable
from model.decoding.next_token import NextToken, TextEnd
from model.decoding.prefix_cache import Prefix, PrefixNode, PrefixTree
from model.decoding.token_index import TokenIndex
from model.native.search import CONTEXT
from model.queries import ClozeQuery, ClozeResult
from model.runtime import Float32Array
from model.text import NormalText, read_text
from model.tokenizer import START

TINY = float(np.finfo(np.float32).tiny)  # the logarithm of 0 is no number in JSON
# The end of a sentence without a space, and so many characters before it that are looked at.
_ENDED = re.compile(r"(?<![.!?\d])(?<!\W\w)(?<!\.\w\w)[.!?][\"'”’)]*$")
NEAR = 8
# Spellings of all of q that are read on from, and words for a blank that are drawn from.
MAX_SPELLINGS, FILLINGS = 4, 16
CLOSING = tuple(mark.encode() for mark in " \"'”’)]}")


def complete_text(
    context: DecoderContext, query: CompletionQuery, history: History
) -> Decoder[CompletionResult]:
    """Decode one query, which is checked already."""
    ids = query.tokens
    sent = query.text
    if ids:
        sent = context.tokenizer.decode(ids[1:] if ids[0] == START else ids)
    reading = read_text(sent)
    writer = _Writer(query, reading)
    counts = len(ids or context.index.encode(reading.text)), 0
    if query.echo:
        tokens: Sequence[CompletionToken] = ()
        if query.top is not None:
            tokens = yield from _score_prompt(context, query, sent)
        writer.write_whole(sent, tokens)
    generated = 0
    if query.suffix and query.max_tokens:
        filled = yield from fill_blanks(context, find_blanks(cloze_of(query), 1), history)
        text, tokens = _draw_filling(query, filled)
        writer.write_whole(text, tokens, "stop")
        generated, counts = len(context.index.encode(text)), astuple(filled.usage)
    elif query.max_tokens:
        reader = _Reader(context, query)
        counts = yield from reader.read(reading, history)
        while generated < query.max_tokens and writer.finish is None:
            if generated:
                yield from reader.advance(writer.ends_sentence)
            generated += 1
            writer.write(*reader.choose(writer.inside_character))
    writer.end()
    return CompletionResult(tuple(writer.parts), counts[0], generated, counts[1])


def cloze_of(query: CompletionQuery) -> ClozeQuery:
    """Return the question about the blank between text and suffix, marked as no text is."""
    taken = {*query.text, *query.suffix}
    marker = next(mark for mark in map(chr, range(0xF0000, 0xFFFFE)) if mark not in taken)
    return ClozeQuery(query.text + marker + query.suffix, blank=marker, fillings=FILLINGS)


def _draw_filling(
    query: CompletionQuery, answer: ClozeResult
) -> tuple[str, tuple[CompletionToken, ...]]:
    """Return the best filling of a blank, or one that is drawn, and its token."""
    place, end = len(query.text), -len(query.suffix)
    found = {each.filled[place:end]: each.probability for each in answer.fillings or ()}
    if not found:
        return "", ()
    texts, probs = list(found), np.array([*found.values()], dtype=np.float32)
    text = texts[_pick(probs, query.temperature, random.Random(query.seed))]  # noqa: S311
    if query.top is None:
        return text, ()
    top = {each: _log(found[each]) for each in [*texts[: query.top], text]}
    return text, (CompletionToken(text, place, top[text], top),)


class _Source(NamedTuple):
    """Next tokens after one spelling of q; after a chosen token there is a single source."""

    node: PrefixNode
    skipped: int  # bytes at the end of the prompt that each token spells again
    before: bytes  # written before each token
    tokens: NDArray[np.int64]  # (n,)
    probs: Float32Array  # of the spelling and each token, (n,)


class _Reader:
    """The network after the prompt and the tokens chosen so far."""

    def __init__(self, context: DecoderContext, query: CompletionQuery) -> None:
        self._context, self._query = context, query
        self._random = random.Random(query.seed)  # noqa: S311 - a sample, not a secret
        self._vocabulary = np.arange(context.tokenizer.size)
        values = context.tokenizer.byte_values
        goes_on = (values >= 0x80) & (values < 0xC0)
        # By whether a character that is spelled in bytes has begun.
        self._allowed = ~goes_on & ~((values >= 0) & (values < 0x20)), goes_on
        self._sources: list[_Source] = []
        self._chosen: tuple[PrefixNode, int]
        self._next_token: NextToken

    def read(self, reading: NormalText, history: History) -> Decoder[tuple[int, int]]:
        """Read the prompt; return the number of its tokens, and of those that were cached."""
        context, ids, text = self._context, self._query.tokens, reading.text
        if ids:
            run = ids if ids[0] == START else (START, *ids)
            (state,) = yield [RunTower("forward", context.initial["forward"], run)]
            tree = PrefixTree(context.tokenizer.size, state, run[-CONTEXT:])
            prefix = Prefix(history.owner, "", len(run), tree, np.array(run, dtype=np.uint16))
            self._next_token = NextToken(context, prefix)
            yield from self._next_token.spell(TextEnd((), (), b""))
            yield from self._add(tree.root, np.float32(1), ends_sentence(text))
            return len(ids), 0
        boundary = context.index.last_stable_boundary(text)
        prefix, cached_tokens = yield from load_prefix(context, text[:boundary], history)
        between, canonical, rest = context.index.heal(text[boundary:])
        self._next_token, tree = NextToken(context, prefix), prefix.tree
        try:
            yield from self._next_token.spell(TextEnd(between, canonical, rest))
        finally:  # a cancelled query leaves nodes, too
            if prefix.tree is tree:  # not dropped meanwhile
                context.cache.put(prefix)
        ended, total = ends_sentence(text), self._next_token.total or 1.0
        spellings = self._next_token.spellings()
        self._sources = []
        for each in spellings:
            if each.crossing is not None:
                probs = each.crossing_probs * np.float32(each.prob / total)
                source = _Source(each.node, len(each.rest), b"", each.crossing, probs)
                self._sources.append(source)
        for each in [each for each in spellings if each.crossing is None][:MAX_SPELLINGS]:
            yield from self._add(each.node, np.float32(each.prob / total), ended)
        tokens = prefix.tokens + len(between) + len(canonical)
        return tokens, cached_tokens + self._next_token.cached_tokens

    def advance(self, ended: bool) -> Decoder[None]:
        """Run the chosen token. The prefix cache does not keep states that no request can use."""
        self._sources = []
        yield from self._add((yield from self._run(*self._chosen)), np.float32(1), ended)

    def _run(self, node: PrefixNode, token: int) -> Decoder[PrefixNode]:
        (state,) = yield [RunTower("forward", node.state, (token,))]
        (probs,) = yield [Score("next", state[self._context.output["forward"]], np.copy)]
        tree = PrefixTree(self._context.tokenizer.size, state, (*node.context, token), probs)
        return tree.root

    def _add(self, node: PrefixNode, share: np.float32, ended: bool) -> Decoder[None]:
        """Add all tokens after a node, which has a share of the probability."""
        probs = self._next_token.probs(node) * share
        if ended:
            index = self._context.index
            closing = np.concatenate([[*index.prefixes(x), *index.extensions(x)] for x in CLOSING])
            kept = np.zeros_like(probs)
            kept[closing] = probs[closing]
            line = yield from self._run(node, START)
            new = self._next_token.probs(line) * max(share - np.add.reduce(kept), np.float32(0))
            self._sources.append(_Source(line, 0, b" ", self._vocabulary, new))
            probs = kept
        self._sources.append(_Source(node, 0, b"", self._vocabulary, probs))

    def choose(self, inside_character: bool) -> tuple[bytes, str, float, Mapping[str, float]]:
        """Choose a token; return its text, its name, log-probability, and the top tokens."""
        index, top = self._context.index, self._query.top
        probs = np.concatenate([each.probs for each in self._sources])
        mask = self._allowed[inside_character]
        allowed = probs * np.concatenate([mask[each.tokens] for each in self._sources])
        place = _pick(allowed if allowed.any() else probs, self._query.temperature, self._random)
        source, token = self._at(place)
        self._chosen = source.node, token
        name, prob = self._name(source, token), float(probs[place])
        names: dict[str, float] = {}
        for each in most_probable(probs, top).tolist() if top else ():
            other, shown = self._at(each)
            label = self._name(other, shown)
            names[label] = names.get(label, 0.0) + float(probs[each])
        prob = names.setdefault(name, prob)
        logs = {label: _log(each) for label, each in names.items()}
        spelled = source.before + index.spellings[token][source.skipped :]
        return spelled, name, _log(prob), logs

    def _name(self, source: _Source, token: int) -> str:
        return source.before.decode() + _name(self._context.index, token, source.skipped)

    def _at(self, place: int) -> tuple[_Source, int]:
        """Return source and token at a place of all sources together."""
        for source in self._sources:
            if place < len(source.tokens):
                break
            place -= len(source.tokens)
        return source, int(source.tokens[place])


class _Writer:
    """Writes tokens as parts of a text, and ends it before a stop string."""

    def __init__(self, query: CompletionQuery, reading: NormalText) -> None:
        self.parts: list[CompletionPart] = []
        self.finish: Finish | None = None
        self._query, self._reading = query, reading
        self._bytes = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._longest = max(map(len, query.stop), default=0)
        self._read = ""  # the completion in normal form
        self._text = ""  # as it is written
        self._shown = 0  # code points of it that are in parts
        self._waiting: list[CompletionToken] = []  # that are not in parts

    @property
    def inside_character(self) -> bool:
        """True if the last token is a byte of a character that has not ended."""
        return bool(self._bytes.getstate()[0])

    @property
    def ends_sentence(self) -> bool:
        """True if a sentence ends here, without a space after it."""
        return ends_sentence(self._reading.text[-NEAR:] + self._read)

    def write_whole(
        self, text: str, tokens: Sequence[CompletionToken], finish: Finish | None = None
    ) -> None:
        """Write a text as it is."""
        self.finish = finish
        self._add(CompletionPart(text, tuple(tokens)))

    def write(self, spelled: bytes, name: str, log_prob: float, top: Mapping[str, float]) -> None:
        """Write a token, except for what may be the beginning of a stop string."""
        if self._query.top is not None:
            offset = len(self._reading.sent) + len(self._text)
            self._waiting.append(CompletionToken(name, offset, log_prob, top))
        self._read += self._bytes.decode(spelled)
        written = self._read
        if written and self._reading.sent != self._reading.text:
            written = self._reading.write(written)
        self._text += written[len(self._text) :]
        text, stop = self._text, self._query.stop
        found = [place for each in stop if (place := text.find(each, self._shown)) >= 0]
        if found:
            self._text, self.finish = text[: min(found)], "stop"
            self._show(min(found))
            return
        place = max(self._shown, len(text) - self._longest)
        while place < len(text) and not any(each.startswith(text[place:]) for each in stop):
            place += 1
        self._show(place)

    def end(self) -> None:
        """Write the rest, and the reason why the text ends."""
        if self.finish is None:
            self.finish = "length"
            self._show(len(self._text), all_tokens=True)
        self._add(CompletionPart("", (), self.finish))

    def _show(self, end: int, all_tokens: bool = False) -> None:
        limit = len(self._reading.sent) + end
        ready = [each for each in self._waiting if all_tokens or each.offset < limit]
        self._waiting = self._waiting[len(ready) :]
        if ready or end > self._shown:
            self._add(CompletionPart(self._text[self._shown : end], tuple(ready)))
            self._shown = end

    def _add(self, part: CompletionPart) -> None:
        self.parts.append(part)
        if self._query.on_part:
            self._query.on_part(part)


def ends_sentence(text: str) -> bool:
    """Return True if *text* ends in the end of a sentence, but in no abbreviation or number."""
    return _ENDED.search(text[-NEAR:]) is not None


def _score_prompt(
    context: DecoderContext, query: CompletionQuery, sent: str
) -> Decoder[list[CompletionToken]]:
    """Score the tokens of the prompt: the first one only after a line end, as a start of text."""
    index, ids = context.index, list(query.tokens)
    places: Sequence[int] = range(len(sent) + 1)
    if not ids:
        plain = NormalText.of(sent)
        ids, places = context.tokenizer.encode(plain.text), plain.offsets
    first = ids[:1] == [START]
    scored, rows = ids[first:], list[tuple[float, Mapping[str, float]]]()
    state, unread = context.initial["forward"], START
    for start in range(0, len(scored), CHUNK_TOKENS):
        chunk = scored[start : start + CHUNK_TOKENS]
        step = RunTower("forward", state, (unread, *chunk[:-1]), keep_outputs=True)
        ((outputs, state),) = yield [step]
        rows += yield [
            Score("next", output, partial(_read_row, index, token, query.top or 0))
            for output, token in zip(outputs, chunk, strict=True)
        ]
        unread = chunk[-1]
    text = codecs.getincrementaldecoder("utf-8")(errors="replace")
    tokens, position = list[CompletionToken](), 0
    if first:  # of ids, it is no part of the text
        position = 0 if query.tokens else 1
        tokens.append(CompletionToken("\n"[:position], 0, None, None))
    for token, (log_prob, top) in zip(scored, rows, strict=True):
        place = places[min(position, len(places) - 1)]
        tokens.append(CompletionToken(_name(index, token, 0), place, log_prob, top))
        position += len(text.decode(index.spellings[token]))
    if tokens:
        tokens[0] = replace(tokens[0], log_prob=None, top=None)
    return tokens


def _read_row(
    index: TokenIndex, token: int, top: int, row: Float32Array
) -> tuple[float, Mapping[str, float]]:
    """Return the log-probability of a token, and those of the top tokens. A line end is free."""
    best = most_probable(row, top).tolist() if top else []
    names = {_name(index, each, 0): _log(float(row[each])) for each in best}
    log_prob = 0.0 if token == START else _log(float(row[token]))
    return log_prob, names | {_name(index, token, 0): log_prob}


def _pick(probs: Float32Array, temperature: float, source: random.Random) -> int:
    """Return the place of the most probable token, or of one that is drawn."""
    if temperature == 0:
        return int(probs.argmax())
    if temperature != 1:
        scaled = np.exp(np.log(np.maximum(probs, TINY) / probs.max()) / np.float32(temperature))
        probs = scaled * (probs > 0)
    sums = np.cumsum(probs, dtype=np.float64)
    place = int(np.searchsorted(sums, source.random() * sums[-1], side="right"))
    return min(place, int(probs.nonzero()[0][-1]))


def _name(index: TokenIndex, token: int, skipped: int) -> str:
    spelled = index.spellings[token][skipped:]
    return f"bytes:\\x{spelled.hex()}" if index.is_byte[token] else spelled.decode()


def _log(prob: float) -> float:
    return math.log(max(prob, TINY))
