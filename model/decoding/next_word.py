"""What is typed next: P(word | text), where the text may stop anywhere, inside a word as well.

1. *Heal* (:meth:`TokenIndex.heal`): cut the text where nothing that follows can change its tokens; the rest is q.
2. *Frontier*: token sequences π that spell a proper prefix of q, or q itself, and their mass P(π | left). One is
   followed where it holds a share of what is known to begin with q; the canonical one first where nothing is.
3. *Z*: the mass of all that begins with q. The events "π, then a token that reaches over the end of q" and "π spells
   q" exclude each other, so masses add up.
4. *Words*: what stands after q is read on until its word has ended. A word of letters ends before the first character
   that is none; anything else (a Chinese character, word or phrase, punctuation) is as long as its token. A token that
   ends in letters is taken to end its word as often as it does in the training text; only where the rest of its mass
   could still make a candidate is it read, and the estimate replaced.

Probabilities are those of events that exclude each other, over Z: they sum to at most 1.
"""

import codecs
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from model.decoding.cache_lm import CacheLM
from model.decoding.context import (
    CONTEXT,
    DecoderContext,
    largest,
    most_probable,
    read_text,
    salted,
)
from model.decoding.prefix_cache import UNASKED, Best, Reading
from model.queries import Candidate, PredictQuery, PredictResult, Usage
from model.runtime import Float32Array, Integers
from model.steps import Advance, Decoder, Read, ask, read
from model.text import is_word_character, normalise

# Which tokens may go on: any, those that continue a word of letters, those that spell a byte.
ALL, LETTERS, BYTES = "all", "letters", "bytes"
# Tokens that are remembered as the most probable of a reading, unless more are wanted.
BEST = 32
# Fewer than a hundred tokens have more than this probability.
SELECTIVE = 0.01

# Bytes that a token in a list of the most probable takes, with its probability: two objects and two references.
LISTED = 72
# Tokens between the last seam and the cut that are read one by one and remembered, with their distributions: most
# were asked for when the text ended there; a text that was never typed pays for some that nobody needs.
LEFT = 16
# A memory of no more tokens than this says too little to be looked at for every key that is pressed.
MIN_REMEMBERED = 24


@dataclass(frozen=True, slots=True)
class SearchOptions:
    """How far the search goes. The defaults suit typing; a reference that is all but exact sets the shares to 0.

    Attributes:
        frontier_share: a frontier sequence is followed if its mass is at least this share of Z so far.
        frontier_rows: sequences of the frontier that are followed in one round.
        frontier_rounds: rounds of it.
        word_share: an unfinished word is read on if its mass, but for the share that is taken to end there, is more
            than this share of the last candidate's.
        word_floor: nor if it is less than this probability, whatever the last candidate's.
        word_rows: unfinished words that are read on in one round.
        word_rounds: rounds of it, most of which few queries need: one token of the longest word in each.
        branch_share: a token after it is looked at if their mass is more than this share of the last candidate's.
        branches: how many such tokens, beside 2 for every candidate wanted: with and without its space.
    """

    frontier_share: float = 0.03
    frontier_rows: int = 16
    frontier_rounds: int = 6
    word_share: float = 1.0
    word_floor: float = 0.02
    word_rows: int = 4
    word_rounds: int = 8
    branch_share: float = 1 / 4
    branches: int = 8


@dataclass(slots=True, eq=False)
class _Node:
    """A frontier sequence.

    Attributes:
        spelled: the bytes of q it spells.
        mass: its probability.
        reading: after it.
        reaching: tokens that reach over the end of q from here, (n,).
        shares: their probabilities, (n,).
    """

    spelled: int
    mass: float
    reading: Reading
    reaching: Integers
    shares: Float32Array


@dataclass(slots=True, eq=False)
class _Open:
    """Something after q whose word has not ended.

    Attributes:
        mass: its probability.
        ended: the share of it that was taken to end here, before its token was read.
        text: what it adds to the text so far, whole characters.
        pending: bytes of a character that is not complete.
        before: the reading before *token*, which is read when its turn comes.
        token: its last token.
        begun: characters before the end of the text that its token holds as well.
    """

    mass: float
    ended: float
    text: str
    pending: bytes
    before: Reading
    token: int
    begun: str


def next_words(
    resources: DecoderContext,
    query: PredictQuery,
    options: SearchOptions | None = None,
    tenant: str = "",
) -> Decoder[PredictResult]:
    """Decode one query; see the module's description.

    Args:
        resources: of the checkpoint.
        query: checked (:func:`model.queries.check_query`).
        options: how far to search; None for the defaults.
        tenant: whose texts it may find in the cache.
    """
    text = normalise(query.text)
    # What stands before the last seam is settled; only what follows it needs a look.
    seam = resources.index.last_seam(text)
    history = normalise(query.history)
    tenant = salted(tenant, history)
    prefix, known = yield from read_text(resources, text[:seam], tenant, history)
    left, middle, rest = resources.index.heal(text[seam:])
    memory = resources.memory(prefix, MIN_REMEMBERED)
    search = _Search(resources, text, query.top_k, options or SearchOptions(), memory)
    start = prefix.reading
    try:
        yield from search.cross(start, left, middle, rest)
        yield from search.read_on()
    finally:  # also where nobody waits any more: what it left in the tree is there
        if prefix.reading is start:
            prefix.tree_bytes += search.grown_bytes
            resources.cache.keep(tenant, prefix)
    usage = Usage(prefix.tokens + len(left) + len(middle), known + search.known)
    rows = prefix.tokens - known + search.network_rows
    return PredictResult(
        search.candidates(), usage, text[-1:] != "" and is_word_character(text[-1]), rows
    )


@lru_cache(maxsize=1 << 15)
def first_word(text: str) -> str | None:
    """The beginning of *text* up to the end of its first word, spaces before it included; None if it may go on.

    Args:
        text: whole tokens. A word of letters must be followed by something else to have ended.
    """
    start = end = len(text) - len(text.lstrip(" "))
    letters = start < len(text) and is_word_character(text[start])
    for character in text[start:]:
        if character == " " or is_word_character(character) != letters:
            return text[:end]
        end += 1
    return None if letters or end == start else text


def unfinished_word(text: str) -> str:
    """The letters that *text* ends in, at most 64 of them."""
    start = len(text)
    while start > 0 and len(text) - start < 64 and is_word_character(text[start - 1]):
        start -= 1
    return text[start:]


class _Search:
    """The state of one search: candidates found so far, and what may still become one.

    Attributes:
        known: tokens of the text after its last seam that need not have been read now.
        grown_bytes: what it added to the tree under the prefix.
        network_rows: tokens that it had read, and distributions that it asked for.
    """

    def __init__(
        self,
        resources: DecoderContext,
        text: str,
        top_k: int,
        options: SearchOptions,
        memory: CacheLM | None,
    ) -> None:
        self._resources = resources
        self._memory = memory
        self._rows: dict[Reading, Float32Array] = {}
        self._text = text
        self._top_k = top_k
        self._options = options
        self._stem = unfinished_word(text)
        self._branches = options.branches + 2 * top_k
        # By what is appended: probability, and where the most probable of the words that it makes begins (characters
        # before the end of the text that its token holds as well), with its share.
        self._found: dict[str, tuple[float, str, float]] = {}
        self._open: list[_Open] = []
        self._last = 0.0  # probability of the last of the candidates that would be answered now
        self.known = 0
        self.grown_bytes = 0
        self.network_rows = 0

    def cross(
        self, start: Reading, left: Sequence[int], canonical: Sequence[int], rest: bytes
    ) -> Decoder[None]:
        """Find everything that begins with *rest* (q), which *canonical* encodes, *left* after *start*."""
        index = self._resources.index
        if (
            len(left) > LEFT
        ):  # hundreds of letters without a seam are no word: they are read at once, and not kept
            (state,) = yield from ask([Advance("forward", start.state, tuple(left[:-LEFT]))])
            self.network_rows += len(left) - LEFT
            start, left = Reading(state, before=tuple(left[-LEFT - CONTEXT : -LEFT])), left[-LEFT:]
        behind = sum(len(index.spellings[token]) for token in left) + len(rest)
        if not left:
            yield from self._score(start, behind)
        for token in left:
            behind -= len(index.spellings[token])
            self.known += token in start.further
            (start,) = yield from self._read([(start, token, behind, "")])
        followed = [self._node(rest, 0, 1.0, start)]
        total = self._mass_beginning_with(followed[0])
        if (
            not total > 0
        ):  # no token holds what was typed: its own tokens are the first way to look at
            for token in canonical:
                before = followed[-1]
                mass = before.mass * float(self._row(before.reading)[token])
                self.known += token in before.reading.further
                spelled = before.spelled + len(index.spellings[token])
                (reading,) = yield from self._read(
                    [(before.reading, token, len(rest) - spelled, "")]
                )
                followed.append(self._node(rest, spelled, mass, reading))
                total += self._mass_beginning_with(followed[-1])
        # Other ways to spell q, the most massive first. A path's mass bounds what it can add to Z.
        waiting: list[tuple[float, _Node, int]] = []
        for n, node in enumerate(followed):
            waiting += self._ways_on(rest, node, canonical[n] if n + 1 < len(followed) else None)
        for _ in range(self._options.frontier_rounds):
            waiting = [way for way in waiting if way[0] > self._options.frontier_share * total]
            if not waiting:
                break
            waiting.sort(key=lambda way: -way[0])
            chosen, waiting = (
                waiting[: self._options.frontier_rows],
                waiting[self._options.frontier_rows :],
            )
            spelt = [node.spelled + len(index.spellings[token]) for _, node, token in chosen]
            readings = yield from self._read(
                [
                    (node.reading, token, len(rest) - n, "")
                    for (_, node, token), n in zip(chosen, spelt, strict=True)
                ]
            )
            for (mass, _, _), spelled, reading in zip(chosen, spelt, readings, strict=True):
                node = self._node(rest, spelled, mass, reading)
                followed.append(node)
                total += self._mass_beginning_with(node)
                waiting += self._ways_on(rest, node, None)
        if (
            not total > 0
        ):  # so improbable that it underflows: what follows the canonical tokens is all there is to say
            self._branch(1.0, followed[len(canonical)].reading, ALL, "", b"")
            return
        followed.sort(key=lambda node: -node.mass)
        for node in followed:
            self._reach_over(rest, node, total)

    def read_on(self) -> Decoder[None]:
        """Read unfinished words on until the candidates are settled, or the options say that it is enough."""
        for _ in range(self._options.word_rounds):
            floor = max(self._last * self._options.word_share, self._options.word_floor)
            self._open.sort(key=lambda unfinished: unfinished.ended - unfinished.mass)
            chosen = [
                each
                for each in self._open[: self._options.word_rows]
                if each.mass - each.ended > floor
            ]
            if not chosen:
                break
            self._open = self._open[len(chosen) :]
            readings = yield from self._read(
                [(each.before, each.token, 0, each.text) for each in chosen]
            )
            for unfinished, reading in zip(chosen, readings, strict=True):
                self._continue(unfinished, reading)

    def _find_last(self) -> None:
        if len(self._found) >= self._top_k:
            self._last = sorted([found[0] for found in self._found.values()])[-self._top_k]

    def candidates(self) -> tuple[Candidate, ...]:
        """The best candidates so far, most probable first; ties in the order of their text."""
        ranked = sorted(self._found.items(), key=lambda item: (-item[1][0], item[0]))[: self._top_k]
        # Single-precision rows may sum to a hair more than 1.
        total = max(1.0, sum(probability for _, (probability, _, _) in ranked))
        return tuple(
            Candidate(self._word(append, begun), append, probability / total)
            for append, (probability, begun, _) in ranked
        )

    def _read(self, wanted: Sequence[tuple[Reading, int, int, str]]) -> Decoder[list[Reading]]:
        """The readings of one token more, with their distributions; the network reads those that are not known.

        Args:
            wanted: the reading before, the token, and where it ends: so many bytes before the end of the text, or with
                this text beyond it.
        """
        unknown = [each for each in wanted if each[1] not in each[0].further]
        if unknown:
            self.network_rows += 2 * len(unknown)
            temperatures = [self._temperature(behind, beyond) for _, _, behind, beyond in unknown]
            steps = [
                Read(each[0].state, each[1], t)
                for each, t in zip(unknown, temperatures, strict=True)
            ]
            answers = yield from read(steps)
            for (before, token, _, _), (state, row) in zip(unknown, answers, strict=True):
                if (
                    token not in before.further
                ):  # another text on the same prefix may have been faster
                    before.further[token] = Reading(state, row, (*before.before, token)[-CONTEXT:])
                    self.grown_bytes += state.nbytes + row.nbytes
        return [before.further[token] for before, token, _, _ in wanted]

    def _score(self, reading: Reading, behind: int) -> Decoder[None]:
        """Have the distribution of a reading that may lack one: what was read as a whole was not scored."""
        if reading.row is UNASKED:
            self.network_rows += 1
            ((_, row),) = yield from read(
                [Read(reading.state, None, self._temperature(behind, ""))]
            )
            if reading.row is UNASKED:  # another text on the same prefix may have been faster
                reading.row = row
                self.grown_bytes += row.nbytes

    def _row(self, reading: Reading) -> Float32Array:
        """P(next token) after a reading, what is remembered included."""
        if self._memory is None:
            return reading.row
        row = self._rows.get(reading)
        if row is None:
            row = self._rows[reading] = self._memory.mix(reading.row, reading.before)
        return row

    def _temperature(self, behind: int, beyond: str) -> float:
        """Of what follows the text without its last *behind* bytes, or with *beyond*: each place has one of its own."""
        before = self._text
        if behind:
            data = before.encode()
            before = data[: len(data) - behind].decode(errors="ignore")
        return self._resources.next_temperature(before + beyond)

    def _node(self, rest: bytes, spelled: int, mass: float, reading: Reading) -> _Node:
        tokens = self._resources.index.extending(rest[spelled:]) if spelled < len(rest) else _NONE
        return _Node(spelled, mass, reading, tokens, self._row(reading)[tokens])

    def _mass_beginning_with(self, node: _Node) -> float:
        """What a node adds to Z by itself: paths through further nodes are counted there."""
        return (
            node.mass * float(np.add.reduce(node.shares))
            if node.reaching is not _NONE
            else node.mass
        )

    def _ways_on(
        self, rest: bytes, node: _Node, followed: int | None
    ) -> list[tuple[float, _Node, int]]:
        """(mass, node, token) of the paths that spell more of q, but for the token that is followed anyhow."""
        index, row = self._resources.index, self._row(node.reading)
        tokens = index.prefixes(rest[node.spelled :])
        return [
            (node.mass * float(row[token]), node, token) for token in tokens if token != followed
        ]

    def _reach_over(self, rest: bytes, node: _Node, total: float) -> None:
        """Take up what reaches over the end of q in one token from a node, or begins there."""
        mass = node.mass / total
        if not mass > self._options.branch_share * self._last:
            return
        if node.reaching is _NONE:
            self._branch(mass, node.reading, ALL, "", b"")
            return
        index, begun = self._resources.index, rest[node.spelled :]
        chosen = largest(
            node.shares, self._branches, self._options.branch_share * self._last / mass
        )
        for token, share in self._above_the_bar(
            mass, node.reaching[chosen].tolist(), node.shares[chosen].tolist()
        ):
            added = index.spellings[token][len(begun) :].decode()
            # A node may stand inside a character; the token then is a byte, and reaches over nothing.
            self._settle(share, added, node.reading, token, begun.decode())

    def _above_the_bar(
        self, mass: float, tokens: list[int], probabilities: list[float]
    ) -> Iterator[tuple[int, float]]:
        """Tokens, most probable first, with their mass, as long as it can matter beside the candidates found so far."""
        bar = self._options.branch_share * self._last
        for count, (token, probability) in enumerate(zip(tokens, probabilities, strict=True)):
            if count == self._top_k:  # there may be enough candidates now to raise it
                self._find_last()
                bar = self._options.branch_share * self._last
            if mass * probability <= bar:
                break
            yield token, mass * probability
        self._find_last()

    def _continue(self, unfinished: _Open, reading: Reading) -> None:
        """Take up what may follow an unfinished word, its end included."""
        mass, let_in = unfinished.mass, ALL
        if unfinished.pending:
            let_in = BYTES
        elif unfinished.text[-1:] != " ":
            let_in = LETTERS
            goes_on = min(
                1.0, self._best(reading, LETTERS, self._options.branch_share * self._last / mass)[3]
            )
            self._accept(
                unfinished.text, mass * (1.0 - goes_on) - unfinished.ended, unfinished.begun
            )
        self._branch(mass, reading, let_in, unfinished.text, unfinished.pending)

    def _best(self, reading: Reading, let_in: str, bar: float) -> Best:
        """The most probable tokens after a reading, those above *bar* at least; later keystrokes ask for them again."""
        best = reading.best.get(let_in)
        if best is None or (bar < best[2] and len(best[0]) < self._branches):
            bar *= 0.999  # a token at the bar, give or take its rounding, must not come and go with what is remembered
            index, row = self._resources.index, self._row(reading)
            among = (
                None
                if let_in == ALL
                else index.starts_letter
                if let_in == LETTERS
                else index.is_byte
            )
            share = 1.0 if among is None else float(np.add.reduce(row * among))
            if bar < SELECTIVE:
                count = max(self._branches, BEST)
                tokens = most_probable(row if among is None else row * among, count)
                bar = float(row[tokens[-1]]) if len(tokens) == count else 0.0
            else:  # few are above: which of them are let in is soon seen
                tokens = (row > bar).nonzero()[0]
                tokens = tokens if among is None else tokens[among[tokens] > 0]
                tokens = tokens[(-row[tokens]).argsort(kind="stable")]
            best = reading.best[let_in] = tokens.tolist(), row[tokens].tolist(), bar, share
            self.grown_bytes += LISTED * len(tokens)
        return best

    def _branch(
        self, mass: float, reading: Reading, let_in: str, text: str, pending: bytes
    ) -> None:
        """Continue *text* by the most probable tokens after a reading, those that are *let_in* only."""
        index, tokenizer = self._resources.index, self._resources.tokenizer
        tokens, probabilities, _, _ = self._best(
            reading, let_in, self._options.branch_share * self._last / mass
        )
        for token, share in self._above_the_bar(
            mass, tokens[: self._branches], probabilities[: self._branches]
        ):
            if not index.is_byte[token]:
                self._settle(share, text + tokenizer.surfaces[token], reading, token)
                continue
            spelled = pending + index.spellings[token]
            character = _character(spelled)
            if character:
                self._settle(share, text + character, reading, token)
            elif character is not None and share > self._options.word_floor:
                self._open.append(_Open(share, 0.0, text, spelled, reading, token, ""))

    def _settle(self, mass: float, text: str, before: Reading, token: int, begun: str = "") -> None:
        """Put a continuation of whole characters where it belongs: among the candidates if its word has ended."""
        append = first_word(text)
        if append is not None:
            self._accept(append, mass, begun)
            return
        ended = 0.0
        if text and text[-1] != " ":  # letters: how often does a word end so?
            ended = mass * self._resources.word_end_probs[token]
            if ended > 0:
                self._accept(text, ended, begun)
        if mass - ended > self._options.word_floor:
            self._open.append(_Open(mass, ended, text, b"", before, token, begun))

    def _accept(self, append: str, mass: float, begun: str) -> None:
        before = self._found.get(append)
        if before is None:
            self._found[append] = mass, begun, mass
        elif mass > before[2]:
            self._found[append] = before[0] + mass, begun, mass
        else:
            self._found[append] = before[0] + mass, before[1], before[2]

    def _word(self, append: str, begun: str) -> str:
        """The whole word that *append* makes of the text's end."""
        if append[0] == " ":
            return append.lstrip(" ")
        return (self._stem if is_word_character(append[0]) else begun) + append


# Nothing reaches over the end of what is spelled to its end.
_NONE: Integers = np.zeros(0, dtype=np.int64)


@lru_cache(maxsize=1 << 12)
def _character(data: bytes) -> str | None:
    """The character that *data* spells; empty if it is only begun; None if no character begins so."""
    try:
        return codecs.getincrementaldecoder("utf-8")().decode(data)
    except UnicodeDecodeError:
        return None
