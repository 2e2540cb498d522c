"""Spell the unfinished end of a text in tokens: step 2 of next_word.py."""

from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter, itemgetter
from typing import NamedTuple

import numpy as np

from model.batching import Decoder
from model.decoding.next_token import (
    MAX_BETWEEN,
    MAX_NODES,
    SPELLING_ROUNDS,
    SPELLING_ROWS,
    SPELLING_SHARE,
)
from model.decoding.token_index import TokenIndex
from model.runtime import Float32Array, Int64Array
from tests.reference.next_token import NOT_SCORED, NextToken, PrefixNode


@dataclass(slots=True, eq=False)
class Spelling:
    """Tokens after the cut that spell the typed prefix q or its beginning."""

    rest: bytes  # of q, not spelled yet
    prob: float  # P(tokens | left)
    node: PrefixNode  # after the tokens
    total: float  # what this spelling adds to Z
    crossing: Int64Array | None  # next tokens that cross the end of q, (n,); None if q is spelled
    crossing_probs: Float32Array  # their probabilities, (n,)


class Spelled(NamedTuple):
    """The spellings of q that were followed, most probable first."""

    spellings: list[Spelling]
    total: float  # Z = P(q | left); 0 if the encoding of q is taken for certain
    cached_tokens: int  # tokens before the end of the text that were in the tree


def room(next_token: NextToken) -> int:
    """Return how many more nodes a query may look at."""
    return max(0, MAX_NODES - next_token.nodes)


class Speller:
    """Spells the end of a text with the tokens of *index*, leaving out those below a *share*."""

    def __init__(
        self, index: TokenIndex, next_token: NextToken, share: float | None = None
    ) -> None:
        self._share = SPELLING_SHARE if share is None else share
        self._index = index
        self._next_token = next_token
        self._cached_tokens = 0

    def spell(
        self, between: Sequence[int], canonical: Sequence[int], typed_prefix: bytes
    ) -> Decoder[Spelled]:
        """Follow spellings of *typed_prefix* after *between*; *canonical* encodes it."""
        node = yield from self._run_between(between)
        spellings = [self._spelling(typed_prefix, 1.0, node)]
        total = spellings[0].total
        if not total > 0:  # no token begins with q: follow its own encoding first
            for n, token in enumerate(canonical):
                last = spellings[-1]
                if not room(self._next_token):  # take the rest of the encoding for certain
                    node = yield from self._next_token.run(last.node, canonical[n:])
                    yield from self._next_token.score(node)
                    return Spelled([self._spelling(b"", 1.0, node)], 1.0, self._cached_tokens)
                self._cached_tokens += token in last.node.children
                path = last.prob * float(self._next_token.probs(last.node)[token]), last, token
                spellings += yield from self._follow([path])
                total += spellings[-1].total
        # A path is a spelling and one more token. Its probability bounds what it can add to Z.
        paths: list[tuple[float, Spelling, int]] = []
        for n, spelling in enumerate(spellings):
            followed = canonical[n] if n + 1 < len(spellings) else None
            paths += self._paths(spelling, followed)
        for _ in range(SPELLING_ROUNDS):
            paths = [path for path in paths if path[0] > self._share * total]
            rows = min(SPELLING_ROWS, room(self._next_token))
            if not (paths and rows):
                break
            paths.sort(key=itemgetter(0), reverse=True)
            chosen, paths = paths[:rows], paths[rows:]
            for spelling in (yield from self._follow(chosen)):
                spellings.append(spelling)
                total += spelling.total
                paths += self._paths(spelling)
        if not total > 0:  # underflow: all that can be said is what follows the encoding of q
            certain = self._spelling(b"", 1.0, spellings[len(canonical)].node)
            return Spelled([certain], 0.0, self._cached_tokens)
        spellings.sort(key=attrgetter("prob"), reverse=True)
        return Spelled(spellings, total, self._cached_tokens)

    def _run_between(self, between: Sequence[int]) -> Decoder[PrefixNode]:
        """Run the tokens between prefix and cut and return the node after them, scored."""
        node = self._next_token.tree.root
        if len(between) > MAX_BETWEEN:  # hundreds of letters without a stable boundary are no word
            node = yield from self._next_token.run(node, between[:-MAX_BETWEEN])
            between = between[-MAX_BETWEEN:]
        elif not between:
            yield from self._next_token.score(node)
        for token in between:
            self._cached_tokens += token in node.children
            (node,) = yield from self._next_token.expand([(node, token)])
        return node

    def _follow(self, paths: Sequence[tuple[float, Spelling, int]]) -> Decoder[list[Spelling]]:
        """Run the last token of each path."""
        nodes = yield from self._next_token.expand(
            [(before.node, token) for _, before, token in paths]
        )
        return [
            self._spelling(before.rest[len(self._index.spellings[token]) :], prob, node)
            for (prob, before, token), node in zip(paths, nodes, strict=True)
        ]

    def _spelling(self, rest: bytes, prob: float, node: PrefixNode) -> Spelling:
        if not rest:
            return Spelling(rest, prob, node, prob, None, NOT_SCORED)
        crossing = self._index.extensions(rest)
        probs = self._next_token.probs(node)[crossing]
        return Spelling(rest, prob, node, prob * float(np.add.reduce(probs)), crossing, probs)

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
