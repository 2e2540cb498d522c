"""What is typed next: P(word | text), where the text may stop anywhere, inside a word as well.

1. *Heal* (:meth:`PieceIndex.heal`): cut the text where nothing that follows can change its pieces; the rest is q.
2. *Frontier*: piece sequences π that spell a proper prefix of q, or q itself, and their mass P(π | left). The canonical
   one is always followed, any other only where it holds a share of what is known to begin with q.
3. *Z*: the mass of all that begins with q. The events "π, then a piece that reaches over the end of q" and "π spells
   q" exclude each other, so masses add up.
4. *Words*: what stands after q is read on until its word has ended. A word of letters ends before the first character
   that is none; anything else (a Chinese character, word or phrase, punctuation) is as long as its piece.

Probabilities are those of events that exclude each other, over Z: they sum to at most 1.
"""

import codecs
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from model.decoding.resources import Resources, largest, probabilities, read_left
from model.queries import Candidate, PredictQuery, PredictResult, Usage, language_of
from model.runtime import Floats
from model.steps import Advance, Decoder, Next, ask
from model.vocabulary import is_word_character, normalise

# Asked some ten thousand times a query, of a few hundred characters.
_is_letter = lru_cache(maxsize=1 << 16)(is_word_character)


@dataclass(frozen=True, slots=True)
class SearchOptions:
    """How far the search goes. The defaults suit typing; a reference that is all but exact sets the shares to 0.

    Attributes:
        frontier_share: a frontier sequence is followed if its mass is at least this share of Z so far.
        frontier_rows: sequences of the frontier that are followed in one round, the canonical one not counted.
        frontier_rounds: rounds of it.
        word_share: an unfinished word is read on if its mass is more than this share of the last candidate's.
        word_rows: unfinished words that are read on in one round.
        word_rounds: rounds of it, most of which few queries need: one piece of the longest word in each.
        branch_share: a piece after it is looked at if their mass is more than this share of the last candidate's.
        branches: how many such pieces, beside 4 for every candidate wanted.
    """

    frontier_share: float = 1e-4
    frontier_rows: int = 16
    frontier_rounds: int = 6
    word_share: float = 1 / 16
    word_rows: int = 16
    word_rounds: int = 8
    branch_share: float = 1 / 256
    branches: int = 64


@dataclass(frozen=True, slots=True, eq=False)
class _Node:
    """A frontier sequence: the bytes of q it spells, its mass, the state after it."""

    spelled: int
    mass: float
    state: Floats


@dataclass(frozen=True, slots=True, eq=False)
class _Open:
    """Something after q whose word has not ended.

    Attributes:
        mass: its probability.
        text: what it adds to the text so far, whole characters.
        pending: bytes of a character that is not complete.
        state: before *piece*; both are read together when its turn comes.
        piece: its last piece.
        begun: characters before the end of the text that its piece holds as well.
    """

    mass: float
    text: str
    pending: bytes
    state: Floats
    piece: int
    begun: str


def next_words(
    resources: Resources, query: PredictQuery, options: SearchOptions | None = None
) -> Decoder[PredictResult]:
    """Decode one query; see the module's description.

    Args:
        resources: of the checkpoint.
        query: checked (:func:`model.queries.check_query`).
        options: how far to search; None for the defaults.
    """
    text = normalise(query.text)
    search = _Search(resources, text, query.top_k, options or SearchOptions())
    left, middle, rest = resources.index.heal(text)
    state = yield from read_left(resources, left)
    yield from search.cross(state, middle, rest)
    yield from search.read_on()
    return PredictResult(search.candidates(), Usage(len(left) + len(middle)))


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
    """The state of one search: candidates found so far, and what may still become one."""

    def __init__(self, resources: Resources, text: str, top_k: int, options: SearchOptions) -> None:
        self._resources = resources
        self._top_k = top_k
        self._options = options
        self._temperature = dict(resources.calibration.next_temperature).get(language_of(text), 1.0)
        self._stem = unfinished_word(text)
        self._branches = options.branches + 4 * top_k
        # By what is appended: probability, and the most probable of the words that it makes, with its share.
        self._found: dict[str, tuple[float, str, float]] = {}
        self._open: list[_Open] = []
        self._last = 0.0  # probability of the last of the candidates that would be answered now

    def cross(self, state: Floats, canonical: Sequence[int], rest: bytes) -> Decoder[None]:
        """Find everything that begins with *rest* (q), from the *state* at the cut; *canonical* encodes it."""
        states = yield from ask([Advance("forward", state, tuple(canonical[:n])) for n in range(len(canonical) + 1)])
        rows = yield from self._predict(states)
        end, row_at_end = states[-1], rows[-1]
        path = [_Node(0, 1.0, states[0])]
        for n, piece in enumerate(canonical):
            spelled = path[n].spelled + len(self._resources.index.spellings[piece])
            path.append(_Node(spelled, path[n].mass * float(rows[n][piece]), states[n + 1]))
        followed = list(zip(path, rows, strict=True))
        total = sum(self._mass_beginning_with(rest, node, row) for node, row in followed)
        # Other ways to spell q, the most massive first. A path's mass bounds what it can add to Z.
        waiting: list[tuple[float, _Node, int]] = []
        for n, (node, row) in enumerate(followed):
            waiting += self._ways_on(rest, node, row, canonical[n] if n < len(canonical) else None)
        for _ in range(self._options.frontier_rounds):
            waiting = [way for way in waiting if way[0] > self._options.frontier_share * total]
            waiting.sort(key=lambda way: -way[0])
            chosen, waiting = waiting[: self._options.frontier_rows], waiting[self._options.frontier_rows :]
            if not chosen:
                break
            states = yield from ask([Advance("forward", node.state, (piece,)) for _, node, piece in chosen])
            rows = yield from self._predict(states)
            for (mass, before, piece), after, row in zip(chosen, states, rows, strict=True):
                node = _Node(before.spelled + len(self._resources.index.spellings[piece]), mass, after)
                followed.append((node, row))
                total += self._mass_beginning_with(rest, node, row)
                waiting += self._ways_on(rest, node, row, None)
        if not total > 0:  # so improbable that it underflows: what follows the canonical pieces is all there is to say
            self._branch(1.0, row_at_end, end, "", b"")
            return
        for node, row in followed:
            self._reach_over(rest, node, row, total)

    def read_on(self) -> Decoder[None]:
        """Read unfinished words on until the candidates are settled, or the options say that it is enough."""
        for _ in range(self._options.word_rounds):
            ranked = sorted((found[0] for found in self._found.values()), reverse=True)
            self._last = ranked[self._top_k - 1] if len(ranked) >= self._top_k else 0.0
            floor = self._last * self._options.word_share
            self._open.sort(key=lambda unfinished: -unfinished.mass)
            chosen = [unfinished for unfinished in self._open[: self._options.word_rows] if unfinished.mass > floor]
            if not chosen:
                break
            self._open = self._open[len(chosen) :]
            states = yield from ask([Advance("forward", each.state, (each.piece,)) for each in chosen])
            rows = yield from self._predict(states)
            for unfinished, state, row in zip(chosen, states, rows, strict=True):
                self._continue(unfinished, state, row)

    def candidates(self) -> tuple[Candidate, ...]:
        """The best candidates so far, most probable first; ties in the order of their text."""
        ranked = sorted(self._found.items(), key=lambda item: (-item[1][0], item[0]))[: self._top_k]
        # Single-precision rows may sum to a hair more than 1.
        total = max(1.0, sum(probability for _, (probability, _, _) in ranked))
        return tuple(Candidate(word, append, probability / total) for append, (probability, word, _) in ranked)

    def _predict(self, states: Sequence[Floats]) -> Decoder[list[Floats]]:
        rows = yield from ask([Next(self._resources.output("forward", state)) for state in states])
        return [probabilities(row, self._temperature) for row in rows]

    def _mass_beginning_with(self, rest: bytes, node: _Node, row: Floats) -> float:
        """What a node adds to Z by itself: paths through further nodes are counted there."""
        if node.spelled == len(rest):
            return node.mass
        return node.mass * float(row[self._resources.index.extending(rest[node.spelled :])].sum())

    def _ways_on(self, rest: bytes, node: _Node, row: Floats, followed: int | None) -> list[tuple[float, _Node, int]]:
        """(mass, node, piece) of the paths that spell more of q, but for the piece that is followed anyhow."""
        pieces = self._resources.index.prefixes(rest[node.spelled :])
        return [(node.mass * float(row[piece]), node, piece) for piece in pieces if piece != followed]

    def _reach_over(self, rest: bytes, node: _Node, row: Floats, total: float) -> None:
        """Take up what reaches over the end of q in one piece from a node, or begins there."""
        index = self._resources.index
        if node.spelled == len(rest):
            self._branch(node.mass / total, row, node.state, "", b"")
            return
        begun = rest[node.spelled :]
        pieces = index.extending(begun)
        for number in largest(row[pieces], self._branches, 0.0).tolist():
            piece = int(pieces[number])
            added = index.spellings[piece][len(begun) :].decode()
            # A node may stand inside a character; the piece then is a byte, and reaches over nothing.
            self._settle(_Open(node.mass * float(row[piece]) / total, added, b"", node.state, piece, begun.decode()))

    def _continue(self, unfinished: _Open, state: Floats, row: Floats) -> None:
        """Take up what may follow an unfinished word, its end included."""
        mass = unfinished.mass
        if unfinished.pending:
            row = row * self._resources.index.is_byte
        elif unfinished.text[-1:] != " ":  # letters
            goes_on = row * self._resources.index.starts_letter
            self._accept(unfinished.text, mass * float((row - goes_on).sum()), unfinished.begun)
            row = goes_on
        self._branch(mass, row, state, unfinished.text, unfinished.pending)

    def _branch(self, mass: float, row: Floats, state: Floats, text: str, pending: bytes) -> None:
        """Continue *text* by the most probable pieces of *row*, a distribution or a part of one."""
        vocabulary = self._resources.vocabulary
        floor = self._options.branch_share * self._last / mass if mass > 0 else 0.0
        for piece in largest(row, self._branches, floor).tolist():
            share = mass * float(row[piece])
            if vocabulary.byte_values[piece] < 0:
                self._settle(_Open(share, text + vocabulary.surfaces[piece], b"", state, piece, ""))
                continue
            spelled = pending + self._resources.index.spellings[piece]
            character = _character(spelled)
            if character is not None:
                self._settle(_Open(share, text + character, b"" if character else spelled, state, piece, ""))

    def _settle(self, unfinished: _Open) -> None:
        """Put a continuation where it belongs: among the candidates if its word has ended."""
        append = None if unfinished.pending else first_word(unfinished.text)
        if append is None:
            self._open.append(unfinished)
        else:
            self._accept(append, unfinished.mass, unfinished.begun)

    def _accept(self, append: str, mass: float, begun: str) -> None:
        if append[0] == " ":
            word = append.lstrip(" ")
        elif _is_letter(append[0]):
            word = self._stem + append
        else:
            word = begun + append
        probability, best_word, best = self._found.get(append, (0.0, word, 0.0))
        self._found[append] = (probability + mass, *((word, mass) if mass > best else (best_word, best)))


def _character(data: bytes) -> str | None:
    """The character that *data* spells; empty if it is only begun; None if no character begins so."""
    try:
        return codecs.getincrementaldecoder("utf-8")().decode(data)
    except UnicodeDecodeError:
        return None
