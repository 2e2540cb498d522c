"""Estimate the work of a query before anything is decoded, from all that its sender can vary.

The unit is a microsecond of one core of the reference machine, with many texts side by side
(docs/decisions/0012-admission.md). A query should cost at most twice its estimate.
"""

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple, cast

from model.chinese import is_traditional
from model.completions import CompletionQuery
from model.decoding.completion import cloze_of
from model.decoding.markers import find_markers
from model.queries import Choices, ClozeQuery, Limits, PredictQuery, Query, ScoreQuery
from model.text import is_word_character, normalise

# Microseconds.
PREDICT, CANDIDATE, TRADITIONAL_CANDIDATE = 1_100, 2, 25
AFTER = 13_000  # what follows the cursor
# Of the first candidates, so many get further words; the next letters; corrections, and code points
# of a history that are compared in a microsecond.
GOING_ON, LETTERS, CORRECTIONS, COMPARED = 3, 1_500, 5_000, 4
SCORE, CONTEXT = 300, 500
# A token of a completion, one of its prompt that is scored, and one that is listed for either.
NEW_TOKEN, ECHOED_TOKEN, LISTED = 700, 330, 3
TOKEN, SCORED_TOKEN, DETAIL = 30, 57, 5
BLANK = 16_500
CHOSEN_BLANK, CHOICE, CHOICE_TOKEN = 2_500, 200, 190
# Several blanks are first filled from left to right, with so many fillings of those before, or with
# one in texts of many blanks.
JOINT, JOINTS, MANY = 5_000, 4, 8
# So many tokens behind a single blank are read.
MAX_RIGHT = 512
# A word of a lexicon, or a blocked one: to read it, for each text, and for each text with blanks.
LISTED_WORD, KNOWN_WORD, BLANK_WORD = 10, 1, 20
# Code points that are brought into normal form in a microsecond, unless they are ASCII.
NORMALISED = 2
# Code points of a history in a microsecond: in ASCII, in other characters, and for each text.
ASCII_HISTORY, HISTORY, KNOWN_HISTORY = 4, 1, 16
# Of a text, one round reads so many tokens at most; or it searches for so many words, or scores so
# many choices, each for so long.
ROUND_TOKENS, ROUND_WORDS, ROUND_CHOICES, ROUND_WORD = 64, 16, 32, 250

# A text that shares whole blocks of this many code points with an earlier one is probably cached.
BLOCK = 64
# Beginnings and histories that are remembered, as hashes.
MAX_KNOWN = 4_096
# The prefix cache keeps a state for each such stretch of a text, in this share of its bytes.
STRETCH, STRETCH_BYTES, STATES = 192, 14_000, 0.25

_NOT_LATIN = re.compile("[^a-z ]+")
NOT_ASCII = re.compile("[^\0-\x7f]+")


class Work(NamedTuple):
    """The estimated work of one text, in microseconds."""

    total: int
    in_round: int  # the most that one round of the engine does of it


_REFUSED = Work(1, 1)  # over a limit: next to no work, so that a busy engine answers 422, not 429


class Estimator:
    """Estimates queries, and remembers which beginnings and histories are probably cached.

    What is cached for one history, lexicon and user is not cached for another.

    The prefix cache has *cache_bytes*, and evicts the least recently used, whoever sent it.
    A text over one of the *limits* is next to no work: the engine refuses it at once. *rare* is of
    `rare_characters`.
    """

    def __init__(self, limits: Limits, cache_bytes: int, rare: re.Pattern[str] = NOT_ASCII) -> None:
        self._limits = limits
        self._rare = rare
        self._cache_bytes = cache_bytes * STATES
        self._written = 0  # bytes that the cache took, from the start
        self._known: dict[int, int] = {}  # by hash: `_written` when it came last

    def estimate(self, queries: Sequence[Query], cache_salt: str = "") -> list[Work]:
        """Estimate the texts of one request, which differ in nothing else."""
        first = queries[0]
        if isinstance(first, ScoreQuery):
            return self._scores(cast("Sequence[ScoreQuery]", queries), cache_salt)
        if isinstance(first, CompletionQuery):
            owner = _owner(first, cache_salt)
            return [self._completion(cast("CompletionQuery", each), owner) for each in queries]
        limits, rare, marker = self._limits, self._rare, ""
        lists: Sequence[int] = ()
        owner, own = _owner(first, cache_salt), [*first.block, *[x.word for x in first.lexicon]]
        once = LISTED_WORD * len(own) + sum(map(_reading, [first.history, *own]))
        each = KNOWN_WORD * len(own) + len(first.history) // KNOWN_HISTORY
        if first.history and not self._is_known("", owner):
            once += len(first.history) // (ASCII_HISTORY if first.history.isascii() else HISTORY)
        refused = len(first.history) > limits.history
        refused |= max(len(first.lexicon), len(first.block)) > limits.lexicon
        refused |= isinstance(first, PredictQuery) and (
            first.words > limits.words or len(first.after) > limits.characters
        )
        if isinstance(first, ClozeQuery):
            refused |= first.fillings > limits.fillings
            if first.blank is not None:
                refused |= len(first.blank) > limits.characters
                marker = first.blank if refused else normalise(first.blank)
            if first.choices is not None:
                lists = _choices(first.choices, limits, rare)
                refused |= not lists
        if not lists:  # with choices, top_k is ignored
            refused |= first.top_k > limits.top_k
        if refused:
            return [_REFUSED] * len(queries)
        works = []
        for query in queries:
            if len(query.text) > limits.characters:
                works.append(_REFUSED)
            elif isinstance(query, ClozeQuery):
                works.append(_cloze(query, marker, each, lists, limits, rare))
            else:
                works.append(self._predict(cast("PredictQuery", query), each, owner))
        return _with_shared(works, once, once) if once else works

    def remember(self, queries: Sequence[Query], cache_salt: str) -> None:
        """Remember beginnings of a request that was answered; of a history, the empty one."""
        first = queries[0]
        owner = _owner(first, cache_salt)
        texts = [query.text for query in queries]
        if isinstance(first, ScoreQuery):
            texts = [first.context] if first.context else []
        elif isinstance(first, CompletionQuery):
            texts = [text for text in texts if text]
        elif first.history:
            self._remember("", owner)
        for text in texts:
            new = len(text) - self._known_length(text, owner)
            self._written += (new // STRETCH + 1) * STRETCH_BYTES
            if beginning := text[: len(text) // BLOCK * BLOCK]:
                self._remember(beginning, owner)
        while len(self._known) > MAX_KNOWN:
            del self._known[next(iter(self._known))]

    def _remember(self, text: str, owner: int) -> None:
        key = hash((owner, text))
        self._known.pop(key, None)  # the newest is last
        self._known[key] = self._written

    def _is_known(self, text: str, owner: int) -> bool:
        """Return True if the cache cannot have dropped *text* for others since it came."""
        key = hash((owner, text))
        return self._written - self._known.get(key, -self._cache_bytes) < self._cache_bytes

    def _known_length(self, text: str, owner: int) -> int:
        """Return how many code points at the start of *text* are probably cached."""
        end = len(text) // BLOCK * BLOCK
        for length in (end, end - BLOCK):
            if length > 0 and self._is_known(text[:length], owner):
                return length
        return 0

    def _scores(self, queries: Sequence[ScoreQuery], cache_salt: str) -> list[Work]:
        first, limits, rare = queries[0], self._limits, self._rare
        if len(first.context) > limits.characters:
            return [_REFUSED] * len(queries)
        token = SCORED_TOKEN + DETAIL * first.details
        # If the space between two words may be missing, the text is read in two ways.
        ends_word = is_word_character(first.context[-1:] or " ")
        works = []
        for each in queries:
            readings = 1 + (ends_word and is_word_character(each.text[:1] or " "))
            tokens = readings * token * count_tokens(each.text, rare)
            work = _work(SCORE + _reading(each.text), tokens, 2 * token * ROUND_TOKENS)
            works.append(work if len(each.text) <= limits.characters else _REFUSED)
        if not first.context:
            return works
        new = first.context[self._known_length(first.context, _owner(first, cache_salt)) :]
        tokens, fixed = TOKEN * count_tokens(new, rare), CONTEXT + _reading(first.context)
        return _with_shared(works, fixed + tokens, fixed + min(tokens, TOKEN * ROUND_TOKENS))

    def _completion(self, query: CompletionQuery, owner: int) -> Work:
        limits, rare = self._limits, self._rare
        if max(len(query.text) + len(query.suffix), len(query.tokens)) > limits.characters:
            return _REFUSED
        listed = LISTED * (query.top or 0)
        work = (NEW_TOKEN + listed) * query.max_tokens
        in_round = NEW_TOKEN + listed + TOKEN * ROUND_TOKENS
        if query.echo and query.top is not None:
            work += (ECHOED_TOKEN + listed) * (len(query.tokens) + count_tokens(query.text, rare))
            in_round = (ECHOED_TOKEN + listed) * ROUND_TOKENS
        if query.suffix and query.max_tokens:
            cloze = cloze_of(query)
            return _cloze(cloze, cloze.blank or "", work, [], limits, rare)
        new = query.text[self._known_length(query.text, owner) :]
        work += TOKEN * (len(query.tokens) + count_tokens(new, rare))
        return _work(PREDICT + _reading(query.text), work, in_round)

    def _predict(self, query: PredictQuery, fixed: int, owner: int) -> Work:
        new = query.text[self._known_length(query.text, owner) :]
        candidate = TRADITIONAL_CANDIDATE if is_traditional(query.text) else CANDIDATE
        fixed += PREDICT + candidate * query.top_k + _reading(query.text)
        words = PREDICT * min(query.top_k, GOING_ON)
        more = words * (query.words - 1) + LETTERS * query.letters
        more += AFTER * bool(query.after)
        if query.corrections:
            more += CORRECTIONS + (len(query.text) + len(query.history)) // COMPARED
        in_round = TOKEN * ROUND_TOKENS + words * (query.words > 1)
        return _work(fixed, TOKEN * count_tokens(new, self._rare) + more, in_round)


def rare_characters(surfaces: Iterable[str]) -> re.Pattern[str]:
    """Return a pattern of characters that are not tokens, given all tokens' *surfaces*."""
    known = "".join(each for each in surfaces if len(each) == 1 and not each.isascii())
    return re.compile(f"[^\0-\x7f{re.escape(known)}]+")


def count_tokens(text: str, rare: re.Pattern[str] = NOT_ASCII) -> int:
    """Estimate the tokens of *text*, in any form; there are at most twice as many.

    They are half a token for a small letter or space, one for another character, and one for each
    byte of those that are *rare*.
    """
    text = text if text.isascii() else normalise(text)  # which may be longer
    tokens = (len(text) + sum(map(len, _NOT_LATIN.findall(text)))) >> 1
    if not text.isascii():
        spelled = "".join(rare.findall(text))
        tokens += len(spelled.encode(errors="replace")) - len(spelled)
    return tokens


def _reading(text: str) -> int:
    """Estimate the work of bringing *text* into normal form."""
    return 0 if text.isascii() else len(text) // NORMALISED


def _owner(query: Query, cache_salt: str) -> int:
    """Return a hash of the fields that texts with the same cached prefixes share."""
    if isinstance(query, (ScoreQuery, CompletionQuery)):
        return hash((cache_salt, "", (), ()))
    return hash((cache_salt, query.history, query.lexicon, query.block))


def _with_shared(works: list[Work], total: int, in_round: int) -> list[Work]:
    """Add to the first work what the texts of a request need together."""
    works[0] = Work(works[0].total + total, works[0].in_round + in_round)
    return works


def _work(fixed: int, tokens: int, in_round: int) -> Work:
    return Work(fixed + tokens, fixed + min(tokens, in_round))


def _cloze(
    query: ClozeQuery,
    marker: str,
    fixed: int,
    lists: Sequence[int],
    limits: Limits,
    rare: re.Pattern[str],
) -> Work:
    """Estimate a text with blanks; *lists* has the work of each list of choices, if there are.

    The normalised *marker* is empty for the usual ones.
    """
    text = normalise(query.text)
    places = find_markers(text, marker or None)
    first, count = places[0][0] if places else 0, len(places)
    if not 1 <= count <= limits.blanks:
        return _REFUSED
    joints, readings, width = 0, 1, 1
    if 1 < count <= MANY:
        joints, readings, width = 1 + JOINTS * (count - 1), JOINTS + 2, JOINTS
    elif count > 1:
        joints, readings = count, 3
    after = count_tokens(text[first:], rare)
    tokens = count_tokens(text[:first], rare) + readings * (
        min(after, MAX_RIGHT) if count == 1 else after
    )
    words = width * (ROUND_CHOICES if lists else ROUND_WORDS)
    search = joints * JOINT + count * BLANK + BLANK_WORD * len(query.lexicon)
    if lists:
        search = (joints + count) * sum(lists) // len(lists)
    fixed += _reading(query.text)
    in_round = fixed + min(TOKEN * tokens, width * TOKEN * ROUND_TOKENS)
    return Work(fixed + TOKEN * tokens + search, in_round + min(search, ROUND_WORD * words))


def _choices(choices: Choices, limits: Limits, rare: re.Pattern[str]) -> list[int]:
    """Estimate to score each list of choices once; nothing if there are too many."""
    lists = cast("Sequence[Sequence[str]]", [choices] if isinstance(choices[0], str) else choices)
    if len(lists) > limits.blanks or max(map(len, lists)) > limits.choices:
        return []
    if max(sum(map(len, each)) for each in lists) > limits.choice_characters:
        return []
    return [
        CHOSEN_BLANK
        + CHOICE * len(each)
        + CHOICE_TOKEN * sum(count_tokens(choice, rare) for choice in each)
        for each in lists
    ]
