"""What is typed next: P(word | text), where the text may stop anywhere, inside a word as well.

1. *Heal* (:meth:`PieceIndex.heal`): cut the text where nothing that follows can change its pieces; the rest is q.
2. *Frontier*: piece sequences π that spell a proper prefix of q, or q itself, and their mass P(π | left). One is
   followed where it holds a share of what is known to begin with q; the canonical one first where nothing is.
3. *Z*: the mass of all that begins with q. The events "π, then a piece that reaches over the end of q" and "π spells
   q" exclude each other, so masses add up.
4. *Words*: what stands after q is read on until its word has ended. A word of letters ends before the first character
   that is none; anything else (a Chinese character, word or phrase, punctuation) is as long as its piece. A piece that
   ends in letters is taken to end its word as often as it does in the training text; only where the rest of its mass
   could still make a candidate is it read, and the estimate replaced.

Probabilities are those of events that exclude each other, over Z: they sum to at most 1.
"""

import codecs
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from heapq import nlargest

import numpy as np

from model.decoding.prefix_cache import UNASKED, Best, Reading
from model.decoding.resources import Resources, largest, most_probable, read_text
from model.queries import Candidate, PredictQuery, PredictResult, Usage
from model.steps import Advance, Decoder, Next, ask
from model.vocabulary import is_word_character, normalise

# Which pieces may go on: any, those that continue a word of letters, those that spell a byte.
ALL, LETTERS, BYTES = "all", "letters", "bytes"
# Pieces that are remembered as the most probable of a reading, unless more are wanted.
BEST = 32

# Pieces between the last seam and the cut that are read one by one and remembered.
LEFT = 16

# Asked some ten thousand times a query, of a few hundred characters.
_is_letter = lru_cache(maxsize=1 << 16)(is_word_character)


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
        word_rounds: rounds of it, most of which few queries need: one piece of the longest word in each.
        branch_share: a piece after it is looked at if their mass is more than this share of the last candidate's.
        branches: how many such pieces, beside 2 for every candidate wanted: with and without its space.
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
    """A frontier sequence: the bytes of q it spells, its mass, the reading after it."""

    spelled: int
    mass: float
    reading: Reading


@dataclass(slots=True, eq=False)
class _Open:
    """Something after q whose word has not ended.

    Attributes:
        mass: its probability.
        ended: the share of it that was taken to end here, before its piece was read.
        text: what it adds to the text so far, whole characters.
        pending: bytes of a character that is not complete.
        before: the reading before *piece*, which is read when its turn comes.
        piece: its last piece.
        begun: characters before the end of the text that its piece holds as well.
    """

    mass: float
    ended: float
    text: str
    pending: bytes
    before: Reading
    piece: int
    begun: str


def next_words(
    resources: Resources, query: PredictQuery, options: SearchOptions | None = None, tenant: str = ""
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
    prefix, known = yield from read_text(resources, text[:seam], tenant)
    left, middle, rest = resources.index.heal(text[seam:])
    search = _Search(resources, text, query.top_k, options or SearchOptions())
    start = prefix.reading
    try:
        yield from search.cross(start, left, middle, rest)
        yield from search.read_on()
    finally:  # also where nobody waits any more: what it left in the tree is there
        if prefix.reading is start:
            prefix.tree_bytes += search.grown_bytes
            resources.cache.keep(tenant, prefix)
    usage = Usage(prefix.pieces + len(left) + len(middle), known + search.known)
    rows = prefix.pieces - known + search.network_rows
    return PredictResult(search.candidates(), usage, text[-1:] != "" and _is_letter(text[-1]), rows)


@lru_cache(maxsize=1 << 15)
def first_word(text: str) -> str | None:
    """The beginning of *text* up to the end of its first word, spaces before it included; None if it may go on.

    Args:
        text: whole pieces. A word of letters must be followed by something else to have ended.
    """
    start = end = len(text) - len(text.lstrip(" "))
    letters = start < len(text) and _is_letter(text[start])
    for character in text[start:]:
        if character == " " or _is_letter(character) != letters:
            return text[:end]
        end += 1
    return None if letters or end == start else text


def unfinished_word(text: str) -> str:
    """The letters that *text* ends in, at most 64 of them."""
    start = len(text)
    while start > 0 and len(text) - start < 64 and _is_letter(text[start - 1]):
        start -= 1
    return text[start:]


class _Search:
    """The state of one search: candidates found so far, and what may still become one.

    Attributes:
        known: pieces of the text after its last seam that need not have been read now.
        grown_bytes: what it added to the tree under the prefix.
        network_rows: pieces that it had read, and distributions that it asked for.
    """

    def __init__(self, resources: Resources, text: str, top_k: int, options: SearchOptions) -> None:
        self._resources = resources
        self._text = text
        self._top_k = top_k
        self._options = options
        self._stem = unfinished_word(text)
        self._branches = options.branches + 2 * top_k
        # By what is appended: probability, and the most probable of the words that it makes, with its share.
        self._found: dict[str, tuple[float, str, float]] = {}
        self._open: list[_Open] = []
        self._last = 0.0  # probability of the last of the candidates that would be answered now
        self.known = 0
        self.grown_bytes = 0
        self.network_rows = 0

    def cross(self, start: Reading, left: Sequence[int], canonical: Sequence[int], rest: bytes) -> Decoder[None]:
        """Find everything that begins with *rest* (q), which *canonical* encodes, *left* after *start*."""
        index = self._resources.index
        if len(left) > LEFT:  # hundreds of letters without a seam are no word: they are read at once, and not kept
            (state,) = yield from ask([Advance("forward", start.state, tuple(left[:-LEFT]))])
            self.network_rows += len(left) - LEFT
            start, left = Reading(state), left[-LEFT:]
        for piece in left:
            self.known += piece in start.further
            (start,) = yield from self._read([(start, piece)])
        yield from self._ask([(start, len(rest), "")])
        followed = [_Node(0, 1.0, start)]
        total = self._mass_beginning_with(rest, followed[0])
        if not total > 0:  # no piece holds what was typed: its own pieces are the first way to look at
            for piece in canonical:
                before = followed[-1]
                mass = before.mass * float(before.reading.row[piece])
                self.known += piece in before.reading.further
                (reading,) = yield from self._read([(before.reading, piece)])
                spelled = before.spelled + len(index.spellings[piece])
                yield from self._ask([(reading, len(rest) - spelled, "")])
                followed.append(_Node(spelled, mass, reading))
                total += self._mass_beginning_with(rest, followed[-1])
        # Other ways to spell q, the most massive first. A path's mass bounds what it can add to Z.
        waiting: list[tuple[float, _Node, int]] = []
        for n, node in enumerate(followed):
            waiting += self._ways_on(rest, node, canonical[n] if n + 1 < len(followed) else None)
        for _ in range(self._options.frontier_rounds):
            waiting = [way for way in waiting if way[0] > self._options.frontier_share * total]
            if not waiting:
                break
            waiting.sort(key=lambda way: -way[0])
            chosen, waiting = waiting[: self._options.frontier_rows], waiting[self._options.frontier_rows :]
            readings = yield from self._read([(node.reading, piece) for _, node, piece in chosen])
            lengths = [node.spelled + len(index.spellings[piece]) for _, node, piece in chosen]
            yield from self._ask([(each, len(rest) - n, "") for each, n in zip(readings, lengths, strict=True)])
            for (mass, _, _), spelled, reading in zip(chosen, lengths, readings, strict=True):
                node = _Node(spelled, mass, reading)
                followed.append(node)
                total += self._mass_beginning_with(rest, node)
                waiting += self._ways_on(rest, node, None)
        if not total > 0:  # so improbable that it underflows: what follows the canonical pieces is all there is to say
            self._branch(1.0, followed[len(canonical)].reading, ALL, "", b"")
            return
        followed.sort(key=lambda node: -node.mass)
        for number, node in enumerate(followed):
            self._reach_over(rest, node, total)
            if number == 0:  # what the most massive one finds is a bar for the others
                self._find_last()

    def read_on(self) -> Decoder[None]:
        """Read unfinished words on until the candidates are settled, or the options say that it is enough."""
        for _ in range(self._options.word_rounds):
            self._find_last()
            floor = max(self._last * self._options.word_share, self._options.word_floor)
            self._open.sort(key=lambda unfinished: unfinished.ended - unfinished.mass)
            chosen = [each for each in self._open[: self._options.word_rows] if each.mass - each.ended > floor]
            if not chosen:
                break
            self._open = self._open[len(chosen) :]
            readings = yield from self._read([(each.before, each.piece) for each in chosen])
            yield from self._ask([(after, 0, each.text) for after, each in zip(readings, chosen, strict=True)])
            for unfinished, reading in zip(chosen, readings, strict=True):
                self._continue(unfinished, reading)

    def _find_last(self) -> None:
        if len(self._found) >= self._top_k:
            self._last = nlargest(self._top_k, (found[0] for found in self._found.values()))[-1]

    def candidates(self) -> tuple[Candidate, ...]:
        """The best candidates so far, most probable first; ties in the order of their text."""
        ranked = sorted(self._found.items(), key=lambda item: (-item[1][0], item[0]))[: self._top_k]
        # Single-precision rows may sum to a hair more than 1.
        total = max(1.0, sum(probability for _, (probability, _, _) in ranked))
        return tuple(Candidate(word, append, probability / total) for append, (probability, word, _) in ranked)

    def _read(self, wanted: Sequence[tuple[Reading, int]]) -> Decoder[list[Reading]]:
        """The readings of one piece more; the network reads those that are not known."""
        unknown = [(before, piece) for before, piece in wanted if piece not in before.further]
        if unknown:
            self.network_rows += len(unknown)
            states = yield from ask([Advance("forward", before.state, (piece,)) for before, piece in unknown])
            for (before, piece), state in zip(unknown, states, strict=True):
                before.further[piece] = Reading(state)
                self.grown_bytes += state.nbytes
        return [before.further[piece] for before, piece in wanted]

    def _ask(self, wanted: Sequence[tuple[Reading, int, str]]) -> Decoder[None]:
        """Have distributions: of readings that stand some bytes before the end of the text, or text beyond it."""
        unknown = [each for each in wanted if each[0].row is UNASKED]
        if unknown:
            resources = self._resources
            self.network_rows += len(unknown)
            rows = yield from ask([Next(resources.output("forward", reading.state)) for reading, _, _ in unknown])
            for (reading, behind, beyond), row in zip(unknown, rows, strict=True):
                data = self._text.encode()
                before = data[: len(data) - behind].decode(errors="ignore") + beyond
                reading.row = resources.next_row(row, before)
                self.grown_bytes += reading.row.nbytes

    def _mass_beginning_with(self, rest: bytes, node: _Node) -> float:
        """What a node adds to Z by itself: paths through further nodes are counted there."""
        if node.spelled == len(rest):
            return node.mass
        return node.mass * float(node.reading.row[self._resources.index.extending(rest[node.spelled :])].sum())

    def _ways_on(self, rest: bytes, node: _Node, followed: int | None) -> list[tuple[float, _Node, int]]:
        """(mass, node, piece) of the paths that spell more of q, but for the piece that is followed anyhow."""
        index, row = self._resources.index, node.reading.row
        pieces = index.prefixes(rest[node.spelled :])
        return [(node.mass * float(row[piece]), node, piece) for piece in pieces if piece != followed]

    def _reach_over(self, rest: bytes, node: _Node, total: float) -> None:
        """Take up what reaches over the end of q in one piece from a node, or begins there."""
        index, row = self._resources.index, node.reading.row
        mass = node.mass / total
        if not mass > 0:
            return
        if node.spelled == len(rest):
            self._branch(mass, node.reading, ALL, "", b"")
            return
        begun = rest[node.spelled :]
        pieces = index.extending(begun)
        beginning = row[pieces]
        floor = self._options.branch_share * self._last / mass
        for number in largest(beginning, self._branches, floor).tolist():
            piece = int(pieces[number])
            added = index.spellings[piece][len(begun) :].decode()
            # A node may stand inside a character; the piece then is a byte, and reaches over nothing.
            self._settle(mass * float(beginning[number]), added, node.reading, piece, begun.decode())

    def _continue(self, unfinished: _Open, reading: Reading) -> None:
        """Take up what may follow an unfinished word, its end included."""
        mass, let_in = unfinished.mass, ALL
        if unfinished.pending:
            let_in = BYTES
        elif unfinished.text[-1:] != " ":
            let_in = LETTERS
            goes_on = min(1.0, self._best(reading, LETTERS)[2])
            self._accept(unfinished.text, mass * (1.0 - goes_on) - unfinished.ended, unfinished.begun)
        self._branch(mass, reading, let_in, unfinished.text, unfinished.pending)

    def _best(self, reading: Reading, let_in: str) -> Best:
        """The most probable pieces after a reading; they are asked for at every keystroke, and change with none."""
        best = reading.best.get(let_in)
        if best is None or len(best[0]) < self._branches:
            index, row = self._resources.index, reading.row
            if let_in != ALL:
                row = row * (index.starts_letter if let_in == LETTERS else index.is_byte)
            pieces = most_probable(row, max(self._branches, BEST), 0.0)
            best = reading.best[let_in] = pieces, row[pieces], float(row.sum())
        return best

    def _branch(self, mass: float, reading: Reading, let_in: str, text: str, pending: bytes) -> None:
        """Continue *text* by the most probable pieces after a reading, those that are *let_in* only."""
        index, vocabulary = self._resources.index, self._resources.vocabulary
        pieces, probabilities, _ = self._best(reading, let_in)
        floor = self._options.branch_share * self._last / mass if mass > 0 else 0.0
        count = min(self._branches, int(np.count_nonzero(probabilities > floor)))
        for piece, probability in zip(pieces[:count].tolist(), probabilities[:count].tolist(), strict=True):
            share = mass * probability
            if not index.is_byte[piece]:
                self._settle(share, text + vocabulary.surfaces[piece], reading, piece)
                continue
            spelled = pending + index.spellings[piece]
            character = _character(spelled)
            if character:
                self._settle(share, text + character, reading, piece)
            elif character is not None and share > self._options.word_floor:
                self._open.append(_Open(share, 0.0, text, spelled, reading, piece, ""))

    def _settle(self, mass: float, text: str, before: Reading, piece: int, begun: str = "") -> None:
        """Put a continuation of whole characters where it belongs: among the candidates if its word has ended."""
        append = first_word(text)
        if append is not None:
            self._accept(append, mass, begun)
            return
        ended = 0.0
        if text and text[-1] != " ":  # letters: how often does a word end so?
            ended = mass * self._resources.word_ends[piece]
            if ended > 0:
                self._accept(text, ended, begun)
        if mass - ended > self._options.word_floor:
            self._open.append(_Open(mass, ended, text, b"", before, piece, begun))

    def _accept(self, append: str, mass: float, begun: str) -> None:
        if append[0] == " ":
            word = append.lstrip(" ")
        elif _is_letter(append[0]):
            word = self._stem + append
        else:
            word = begun + append
        before = self._found.get(append)
        if before is None:
            self._found[append] = mass, word, mass
        elif mass > before[2]:
            self._found[append] = before[0] + mass, word, mass
        else:
            self._found[append] = before[0] + mass, before[1], before[2]


def _character(data: bytes) -> str | None:
    """The character that *data* spells; empty if it is only begun; None if no character begins so."""
    try:
        return codecs.getincrementaldecoder("utf-8")().decode(data)
    except UnicodeDecodeError:
        return None
