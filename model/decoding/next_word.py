"""Predict the next word: P(word | text), for a text that may stop anywhere, also inside a word.

1. *Heal* (:meth:`TokenIndex.heal`): cut the text where no later character can change its tokens.
   The rest is the typed prefix q, often an unfinished word, often empty.
2. *Spell*: a spelling s is a sequence of tokens after the cut that spells q or its beginning. Its
   probability is P(s | left). Follow the spellings that hold a share of Z = P(q | left), the sum of

       P(s | left)            if s spells q
       Σ_t P(s, t | left)     if s spells a beginning of q, over tokens t that cross the end of q

   These events exclude each other, so their probabilities add up.
3. *Branch*: take the most probable tokens that cross the end of q or follow it. A word of letters
   ends before the first other character; anything else (a Chinese word, punctuation) is one token.
4. *Extend*: after a token that ends in letters, the word ends with the probability that it has in
   the training text. Run the tower over the token only if the rest of its probability could still
   change the candidates; then the network's own probability replaces the estimate.

    P(word | text) = P(q continues to the word, and the word ends | left) / Z

The candidates are events that exclude each other, so they sum to at most 1.
"""

import codecs
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from operator import attrgetter, itemgetter

import numpy as np

from model.batching import Decoder
from model.decoding.context import (
    ALL,
    BYTES,
    LETTERS,
    DecoderContext,
    Edge,
    History,
    NextToken,
    largest,
    load_prefix,
)
from model.decoding.prefix_cache import NOT_SCORED, PrefixNode
from model.queries import Candidate, PredictQuery, PredictResult, Usage
from model.runtime import Float32Array, Int64Array
from model.text import is_word_character, normalise

# Tokens between prefix and cut that are run one by one and kept in the tree: most were needed when
# the text ended there.
MAX_BETWEEN = 16
# Characters of an unfinished word.
MAX_STEM = 64

# Limits of the search, which suit typing. With shares and floors of 0 it is almost exact.
# A spelling is followed if its probability exceeds this share of Z so far; so many a round.
SPELLING_SHARE, SPELLING_ROWS, SPELLING_ROUNDS = 0.03, 16, 6
# A partial word is extended if its probability, without the estimate that it has ended, exceeds
# WORD_FLOOR and this share of the last candidate's; so many a round. A round adds one token.
WORD_SHARE, WORD_FLOOR, WORD_ROWS, WORD_ROUNDS = 1.0, 0.02, 4, 8
# Nodes that one query may look at, which bounds its memory: each holds a distribution. Ordinary
# text takes up to 25; one letter again and again, which has many spellings, would take 130.
MAX_NODES = 32
# A next token is taken if its probability exceeds this share of the last candidate's; at most so
# many, plus 2 for each candidate: with and without a space.
BRANCH_SHARE, BRANCHES = 1 / 4, 8


@dataclass(slots=True, eq=False)
class Spelling:
    """Tokens after the cut that spell q or its beginning."""

    rest: bytes  # of q, not spelled yet
    prob: float  # P(tokens | left)
    node: PrefixNode  # after the tokens
    crossing: Int64Array | None  # next tokens that cross the end of q, (n,); None if q is spelled
    crossing_probs: Float32Array  # their probabilities, (n,)
    total: float  # what this spelling adds to Z


@dataclass(slots=True, eq=False)
class PartialWord:
    """Characters after the text whose word has not ended."""

    prob: float
    ended_prob: float  # the part of it that counts, as an estimate, for a word that ends here
    suffix: str  # the characters
    pending: bytes  # of an incomplete character after them
    node: PrefixNode  # before the last token
    token: int  # the last token, not run yet
    covered: str  # characters at the end of the text that belong to the first token


def next_words(
    context: DecoderContext, query: PredictQuery, history: History
) -> Decoder[PredictResult]:
    """Decode one query, which is checked already."""
    text = normalise(query.text)
    boundary = context.index.last_stable_boundary(text)
    prefix, cached_tokens = yield from load_prefix(context, text[:boundary], history)
    # tokens between prefix and cut; q as tokens and as bytes
    between, canonical, typed_prefix = context.index.heal(text[boundary:])
    next_token, tree = NextToken(context, prefix, text), prefix.tree
    search = _Search(context, next_token, query.top_k)
    try:
        yield from search.spell(between, canonical, typed_prefix)
        yield from search.extend()
    finally:  # a cancelled query leaves nodes, too
        if prefix.tree is tree:  # not dropped meanwhile
            context.cache.put(prefix)
    start = len(text)
    while start > 0 and len(text) - start < MAX_STEM and is_word_character(text[start - 1]):
        start -= 1
    stem = text[start:]
    tokens = prefix.tokens + len(between) + len(canonical)
    return PredictResult(
        search.candidates(stem),
        Usage(tokens, cached_tokens + search.cached_tokens),
        inside_word=stem != "",
        network_rows=prefix.tokens - cached_tokens + next_token.network_rows,
    )


class _Search:
    """The candidates so far, and the partial words that may become candidates."""

    def __init__(self, context: DecoderContext, next_token: NextToken, top_k: int) -> None:
        self._index = context.index
        self._surfaces = context.tokenizer.surfaces
        self._word_end_probs = context.word_end_probs
        self._next_token = next_token
        self._top_k = top_k
        self._branches = BRANCHES + 2 * top_k
        # By appended text: its probability; typed prefix and probability of its likeliest token.
        self._found: dict[str, tuple[float, str, float]] = {}
        self._partial_words: list[PartialWord] = []
        self._last_prob = 0.0  # of the last candidate so far
        self._cutoff = 0.0  # of next tokens
        self.cached_tokens = 0  # tokens of the text after its prefix that were in the tree

    def spell(
        self, between: Sequence[int], canonical: Sequence[int], typed_prefix: bytes
    ) -> Decoder[None]:
        """Follow spellings of q after *between*, and branch from each; *canonical* encodes q."""
        node = yield from self._run_between(between, len(typed_prefix))
        spellings = [self._spelling(typed_prefix, 1.0, node)]
        total = spellings[0].total
        if not total > 0:  # no token begins with q: follow its own encoding first
            for n, token in enumerate(canonical):
                last = spellings[-1]
                if not self._room:  # take the rest of the encoding for certain
                    node = yield from self._next_token.run(last.node, canonical[n:])
                    yield from self._next_token.score(node, 0)
                    self._branch(1.0, node, ALL)
                    return
                self.cached_tokens += token in last.node.children
                path = last.prob * float(self._next_token.probs(last.node)[token]), last, token
                spellings += yield from self._follow([path])
                total += spellings[-1].total
        # A path is a spelling and one more token. Its probability bounds what it can add to Z.
        paths: list[tuple[float, Spelling, int]] = []
        for n, spelling in enumerate(spellings):
            followed = canonical[n] if n + 1 < len(spellings) else None
            paths += self._paths(spelling, followed)
        for _ in range(SPELLING_ROUNDS):
            paths = [path for path in paths if path[0] > SPELLING_SHARE * total]
            rows = min(SPELLING_ROWS, self._room)
            if not (paths and rows):
                break
            paths.sort(key=itemgetter(0), reverse=True)
            chosen, paths = paths[:rows], paths[rows:]
            for spelling in (yield from self._follow(chosen)):
                spellings.append(spelling)
                total += spelling.total
                paths += self._paths(spelling)
        if not total > 0:  # underflow: all that can be said is what follows the encoding of q
            self._branch(1.0, spellings[len(canonical)].node, ALL)
            return
        spellings.sort(key=attrgetter("prob"), reverse=True)
        for spelling in spellings:
            self._branch_from(spelling, spelling.prob / total)

    @property
    def _room(self) -> int:
        return max(0, MAX_NODES - self._next_token.nodes)

    def _run_between(self, between: Sequence[int], bytes_from_end: int) -> Decoder[PrefixNode]:
        """Run the tokens between prefix and cut and return the node after them, scored."""
        node = self._next_token.tree.root
        if len(between) > MAX_BETWEEN:  # hundreds of letters without a stable boundary are no word
            node = yield from self._next_token.run(node, between[:-MAX_BETWEEN])
            between = between[-MAX_BETWEEN:]
        elif not between:
            yield from self._next_token.score(node, bytes_from_end)
        bytes_from_end += sum([len(self._index.spellings[token]) for token in between])
        for token in between:
            bytes_from_end -= len(self._index.spellings[token])
            self.cached_tokens += token in node.children
            (node,) = yield from self._next_token.expand([Edge(node, token, bytes_from_end)])
        return node

    def _follow(self, paths: Sequence[tuple[float, Spelling, int]]) -> Decoder[list[Spelling]]:
        """Run the last token of each path."""
        rests = [before.rest[len(self._index.spellings[token]) :] for _, before, token in paths]
        nodes = yield from self._next_token.expand(
            [
                Edge(before.node, token, len(rest))
                for (_, before, token), rest in zip(paths, rests, strict=True)
            ]
        )
        return [
            self._spelling(rest, prob, node)
            for (prob, _, _), rest, node in zip(paths, rests, nodes, strict=True)
        ]

    def _spelling(self, rest: bytes, prob: float, node: PrefixNode) -> Spelling:
        if not rest:
            return Spelling(rest, prob, node, None, NOT_SCORED, prob)
        crossing = self._index.extensions(rest)
        probs = self._next_token.probs(node)[crossing]
        return Spelling(rest, prob, node, crossing, probs, prob * float(np.add.reduce(probs)))

    def _paths(
        self, spelling: Spelling, followed: int | None = None
    ) -> list[tuple[float, Spelling, int]]:
        """List (probability, spelling, token) of tokens that spell more of q, but *followed*."""
        probs = self._next_token.probs(spelling.node)
        return [
            (spelling.prob * float(probs[token]), spelling, token)
            for token in self._index.prefixes(spelling.rest)
            if token != followed
        ]

    def extend(self) -> Decoder[None]:
        """Extend partial words while they could change the candidates, up to a limit."""
        for _ in range(WORD_ROUNDS):
            floor = max(self._last_prob * WORD_SHARE, WORD_FLOOR)
            self._partial_words.sort(key=lambda word: word.ended_prob - word.prob)
            chosen = self._partial_words[: min(WORD_ROWS, self._room)]
            chosen = [word for word in chosen if word.prob - word.ended_prob > floor]
            if not chosen:
                break
            self._partial_words = self._partial_words[len(chosen) :]
            nodes = yield from self._next_token.expand(
                [Edge(word.node, word.token, suffix=word.suffix) for word in chosen]
            )
            for word, node in zip(chosen, nodes, strict=True):
                allowed = ALL
                if word.pending:
                    allowed = BYTES
                elif word.suffix[-1:] != " ":  # replace the estimate
                    allowed = LETTERS
                    cutoff = self._cutoff / word.prob
                    top = self._next_token.top(node, LETTERS, cutoff, self._branches)
                    ended_prob = word.prob * (1.0 - min(1.0, top.total))
                    self._accept(word.suffix, ended_prob - word.ended_prob, word.covered)
                self._branch(word.prob, node, allowed, word.suffix, word.pending)

    def _branch_from(self, spelling: Spelling, prob: float) -> None:
        """Take the tokens that cross the end of q from a spelling, or that follow it."""
        if not prob > self._cutoff:
            return
        if spelling.crossing is None:
            self._branch(prob, spelling.node, ALL)
            return
        top = largest(spelling.crossing_probs, self._branches, self._cutoff / prob)
        tokens, probs = spelling.crossing[top].tolist(), spelling.crossing_probs[top].tolist()
        for token, token_prob in self._above_cutoff(prob, tokens, probs):
            suffix = self._index.spellings[token][len(spelling.rest) :].decode()
            self._take(token_prob, suffix, spelling.node, token, spelling.rest.decode())

    def _branch(
        self, prob: float, node: PrefixNode, allowed: str, suffix: str = "", pending: bytes = b""
    ) -> None:
        """Take the most probable allowed tokens after a node, *suffix* and *pending*."""
        limit = self._branches
        top = self._next_token.top(node, allowed, self._cutoff / prob, limit)
        for token, token_prob in self._above_cutoff(prob, top.tokens[:limit], top.probs[:limit]):
            if not self._index.is_byte[token]:
                self._take(token_prob, suffix + self._surfaces[token], node, token)
                continue
            spelled = pending + self._index.spellings[token]
            character = _character(spelled)
            if character:
                self._take(token_prob, suffix + character, node, token)
            elif character is not None and token_prob > WORD_FLOOR:
                word = PartialWord(token_prob, 0.0, suffix, spelled, node, token, "")
                self._partial_words.append(word)

    def _above_cutoff(
        self, prob: float, tokens: list[int], probs: list[float]
    ) -> Iterator[tuple[int, float]]:
        """Yield (token, probability), falling, while they could change the candidates."""
        for count, (token, token_prob) in enumerate(zip(tokens, probs, strict=True)):
            if count == self._top_k:
                self._update_cutoff()
            if prob * token_prob <= self._cutoff:
                break
            yield token, prob * token_prob
        self._update_cutoff()

    def _update_cutoff(self) -> None:
        if len(self._found) >= self._top_k:
            self._last_prob = sorted(map(itemgetter(0), self._found.values()))[-self._top_k]
            self._cutoff = BRANCH_SHARE * self._last_prob

    def _take(
        self, prob: float, suffix: str, node: PrefixNode, token: int, covered: str = ""
    ) -> None:
        """Add characters after the text to the candidates, or to the partial words."""
        append = first_word(suffix)
        if append is not None:
            self._accept(append, prob, covered)
            return
        ended_prob = 0.0
        if suffix and suffix[-1] != " ":
            ended_prob = prob * self._word_end_probs[token]
            if ended_prob > 0:
                self._accept(suffix, ended_prob, covered)
        if prob - ended_prob > WORD_FLOOR:
            word = PartialWord(prob, ended_prob, suffix, b"", node, token, covered)
            self._partial_words.append(word)

    def _accept(self, append: str, prob: float, covered: str) -> None:
        total, likeliest, highest = self._found.get(append, (0.0, covered, prob))
        if prob > highest:
            likeliest, highest = covered, prob
        self._found[append] = total + prob, likeliest, highest

    def candidates(self, stem: str) -> tuple[Candidate, ...]:
        """Return the best candidates, falling, ties by text; *stem* is the unfinished word."""
        ranked = sorted(self._found.items(), key=lambda item: (-item[1][0], item[0]))[: self._top_k]
        total = sum([prob for _, (prob, _, _) in ranked])
        candidates = []
        for append, (prob, covered, _) in ranked:
            start = stem if is_word_character(append[0]) else covered
            word = append.lstrip(" ") if append[0] == " " else start + append
            # Probabilities in float32 may sum to a little more than 1.
            candidates.append(Candidate(word, append, prob / max(1.0, total)))
        return tuple(candidates)


@lru_cache(maxsize=1 << 15)
def first_word(text: str) -> str | None:
    """Return *text*, whole tokens, up to the end of its first word; None if that may continue."""
    start = end = len(text) - len(text.lstrip(" "))
    letters = start < len(text) and is_word_character(text[start])
    for character in text[start:]:
        if character == " " or is_word_character(character) != letters:
            return text[:end]
        end += 1
    return None if letters or end == start else text


@lru_cache(maxsize=1 << 12)
def _character(data: bytes) -> str | None:
    """Return the character that *data* spells: empty if incomplete, None if there is none."""
    try:
        return codecs.getincrementaldecoder("utf-8")().decode(data)
    except UnicodeDecodeError:
        return None
