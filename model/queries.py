"""Questions, answers and limits: plain frozen values, checked before anything is computed.

:class:`RequestCheck` checks every query, so decoders trust their input. Answers are sent to clients
as they are, but for fields that are marked as internal.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, cast

from pydantic import Field

from model.errors import QueryError
from model.text import normalise

# Strings, offered for every blank, or one list of strings per blank.
Choices = Sequence[str] | Sequence[Sequence[str]]
# A list of choices, by normal form: as sent. Those with one normal form are one question.
ReadChoices = dict[str, tuple[str, ...]]
# Code points of a word of a lexicon, or of a blocked one, and the highest weight.
MAX_WORD, MAX_WEIGHT = 64, 1_000


@dataclass(frozen=True, slots=True)
class LexiconEntry:
    """A word of the writer's own, as it is to be written; those of more *weight* are preferred."""

    word: str
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class PredictQuery:
    """Predict the continuation of *text*, by *top_k* candidates; empty text starts a text.

    Words of *history*, which is earlier text of the same writer, become more probable, and so do
    those of *lexicon*. Words of *block* are never candidates.
    """

    text: str
    top_k: int = 5
    history: str = ""
    lexicon: tuple[LexiconEntry, ...] = ()
    block: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ClozeQuery:
    """Fill the blanks of *text*: *top_k* candidates for each, or all *choices* if there are any.

    *blank* is a marker of a blank, literally; None means the usual ones
    (:func:`find_markers`). The best *fillings* of all blanks together are listed if they are more
    than 1. The other fields are as for :class:`PredictQuery`.
    """

    text: str
    top_k: int = 5
    blank: str | None = None
    choices: Choices | None = None
    history: str = ""
    lexicon: tuple[LexiconEntry, ...] = ()
    block: tuple[str, ...] = ()
    fillings: int = 1


@dataclass(frozen=True, slots=True)
class ScoreQuery:
    """Compute the probability of *text* after *context*, or after the start of a text.

    With *details*, list the probability of each token.
    """

    text: str
    context: str = ""
    details: bool = False


Query = PredictQuery | ClozeQuery | ScoreQuery
# pydantic writes fields with this mark into no JSON.
_INTERNAL = Field(exclude=True)
# And fields with this one only if they have a value.
_IF_GIVEN = Field(exclude_if=lambda value: value is None)


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of the text of a query, and how many of them came from a cache."""

    tokens: int
    cached_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Origins:
    """The shares of a probability by where they come from; they sum to 1.

    Attributes:
        counts: counts of the training text.
        cache: words of this text, and of the history and lexicon of its writer.
        own: counts of the text that the checkpoint was adapted to; None if there was none.
    """

    network: float = 1.0
    counts: float = 0.0
    cache: float = 0.0
    own: Annotated[float | None, _IF_GIVEN] = None


@dataclass(frozen=True, slots=True)
class Candidate:
    """A possible continuation.

    Attributes:
        word: the whole word, including the part that the text already has.
        append: the continuation of the text; never empty, never ends in a space.
        probability: of *append*; the candidates of a query sum to at most 1.
        ended: the word is complete, so a space or a punctuation mark may follow.
        origins: of the probability of the last token of its likeliest spelling.
    """

    word: str
    append: str
    probability: float
    ended: bool = True
    origins: Origins = Origins()


@dataclass(frozen=True, slots=True)
class PredictResult:
    """Candidates, most probable first; fewer than ``top_k`` if the others are too improbable.

    Attributes:
        inside_word: the text ends in a letter, so its last word may be unfinished.
        network_rows: tokens run and distributions scored for this answer.
    """

    candidates: tuple[Candidate, ...]
    usage: Annotated[Usage, _INTERNAL] = Usage(0)
    inside_word: Annotated[bool, _INTERNAL] = False
    network_rows: Annotated[int, _INTERNAL] = 0


@dataclass(frozen=True, slots=True)
class Filling:
    """A word for a blank, without spaces around it; a choice as it was sent.

    Its *origins* are of the probability of the first token of its likeliest spelling, given what
    precedes the blank.
    """

    word: str
    probability: float
    origins: Origins = Origins()


@dataclass(frozen=True, slots=True)
class Blank:
    """A blank: its place in the text as sent, in code points, and its fillings, best first."""

    start: int
    end: int
    candidates: tuple[Filling, ...]


@dataclass(frozen=True, slots=True)
class JointFilling:
    """A word for every blank, the text with them, and the probability of all together."""

    filled: str
    words: tuple[str, ...]
    probability: float


@dataclass(frozen=True, slots=True)
class ClozeResult:
    """The text with every blank filled, and the candidates of each blank.

    Attributes:
        fillings: the best ones of all blanks together, best first; None unless several were asked.
    """

    filled: str
    blanks: tuple[Blank, ...]
    usage: Annotated[Usage, _INTERNAL] = Usage(0)
    fillings: Annotated[tuple[JointFilling, ...] | None, _IF_GIVEN] = None


@dataclass(frozen=True, slots=True)
class ScoredToken:
    """A token of a text: its place in the text as sent, in code points, and its probability."""

    text: str
    start: int
    end: int
    log_probability: float


@dataclass(frozen=True, slots=True)
class ScoreResult:
    """The probability of one text after its context; the end of the text is not included.

    Attributes:
        log_probability: in nats.
        characters: code points of its normal form, without the space after its context.
        bits_per_character: negative log-probability in bits per code point: comparable between
            tokenizers.
        details: every token of the text; None unless they were asked.
    """

    log_probability: float
    characters: int
    tokens: int
    bits_per_character: float
    usage: Annotated[Usage, _INTERNAL] = Usage(0)
    details: Annotated[tuple[ScoredToken, ...] | None, _IF_GIVEN] = None


Result = PredictResult | ClozeResult | ScoreResult


@dataclass(frozen=True, slots=True)
class Limits:
    """Most code points, candidates, blanks and choices of a blank; the service sets them.

    ``choice_characters`` are the code points of all choices of a blank. ``lexicon`` are words of
    a lexicon, and as many may be blocked.
    """

    characters: int = 10_000
    top_k: int = 100
    blanks: int = 64
    choices: int = 256
    choice_characters: int = 4_096
    history: int = 20_000
    lexicon: int = 256
    fillings: int = 16


class RequestCheck:
    """Checks the queries of one request. What they share, as the same object, is read once."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._history: str | None = None
        self._lexicon: tuple[LexiconEntry, ...] = ()
        self._block: tuple[str, ...] = ()
        self._choices: Choices | None = None
        self._lists: list[ReadChoices] = []

    def check(self, query: Query) -> list[ReadChoices] | None:
        """Refuse a query that no checkpoint can answer; return its lists of choices, if any.

        Each choice is in normal form, without outer spaces, and comes with its originals.

        Raises:
            QueryError: its field is a JSON pointer relative to the query (``/text``,
                ``/choices/0/2``).
        """
        limits = self._limits
        _check_text("/text", query.text, limits.characters)
        if isinstance(query, ScoreQuery):
            _check_text("/context", query.context, limits.characters)
            if not normalise(query.text):
                raise QueryError("/text", "is empty; send at least 1 character to score")
            return None
        if query.history is not self._history:
            _check_text("/history", query.history, limits.history)
            self._history = query.history
        self._check_words(query)
        choices = query.choices if isinstance(query, ClozeQuery) else None
        # All choices are returned, whatever top_k says.
        if choices is None and not 1 <= query.top_k <= limits.top_k:
            raise QueryError("/top_k", f"must be a whole number from 1 to {limits.top_k}")
        if isinstance(query, ClozeQuery) and not 1 <= query.fillings <= limits.fillings:
            raise QueryError("/fillings", f"must be a whole number from 1 to {limits.fillings}")
        if isinstance(query, ClozeQuery) and query.blank is not None:
            _check_text("/blank", query.blank, limits.characters)
            if not normalise(query.blank).strip():
                raise QueryError("/blank", "must hold at least one visible character")
        if choices is None:
            return None
        if choices is not self._choices:
            self._lists = _read_choices(choices, limits)
            self._choices = choices
        return self._lists

    def _check_words(self, query: PredictQuery | ClozeQuery) -> None:
        """Check lexicon and blocked words. A word may be in both: then it is blocked."""
        limit = self._limits.lexicon
        if query.lexicon is not self._lexicon:
            _check_count("/lexicon", len(query.lexicon), limit)
            words = [(f"/lexicon/{n}/word", each.word) for n, each in enumerate(query.lexicon)]
            _check_distinct(words)
            for n, each in enumerate(query.lexicon):
                if not (math.isfinite(each.weight) and 0 < each.weight <= MAX_WEIGHT):
                    raise QueryError(
                        f"/lexicon/{n}/weight", f"must be above 0 and at most {MAX_WEIGHT}"
                    )
            self._lexicon = query.lexicon
        if query.block is not self._block:
            _check_count("/block", len(query.block), limit)
            _check_distinct((f"/block/{n}", word) for n, word in enumerate(query.block))
            self._block = query.block


def clean_word(word: str) -> str:
    """Return a word of a lexicon, a blocked word or a choice as it is compared and read."""
    return normalise(word).strip()


def fit_choices(query: ClozeQuery, lists: list[ReadChoices], blanks: int) -> list[ReadChoices]:
    """Return the choices of each blank, from the *lists* of :meth:`RequestCheck.check`.

    Raises:
        QueryError: the number of lists is not the number of blanks.
    """
    if query.choices is not None and isinstance(query.choices[0], str):
        return lists * blanks
    if len(lists) != blanks:
        raise QueryError(
            "/choices", f"has {len(lists)} lists for {blanks} blanks; give one list per blank"
        )
    return lists


def _check_text(field: str, text: str, limit: int) -> None:
    if len(text) > limit:
        raise QueryError(field, f"has {len(text)} code points; send at most {limit}")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise QueryError(
            field, f"has a lone surrogate at code point {error.start}; send valid Unicode"
        ) from None


def _check_count(field: str, count: int, limit: int) -> None:
    if count > limit:
        raise QueryError(field, f"has {count} words; send at most {limit}")


def _check_distinct(words: Iterable[tuple[str, str]]) -> None:
    """Check words, each with its pointer."""
    found: dict[str, int] = {}
    for number, (pointer, word) in enumerate(words):
        _check_text(pointer, word, MAX_WORD)
        _check_line(pointer, word)
        if (first := found.setdefault(word.strip(), number)) != number:
            raise QueryError(pointer, f"repeats word {first}; send each word once")


def _check_line(pointer: str, word: str) -> str:
    """Return *word* without outer spaces, in normal form."""
    clean = clean_word(word)
    if not clean:
        raise QueryError(pointer, "is empty or only spaces; send at least 1 character")
    if "\n" in clean:
        raise QueryError(pointer, "has a line break; send one line")
    return clean


def _read_choices(choices: Choices, limits: Limits) -> list[ReadChoices]:
    """Check the lists of choices; return each choice, in normal form, with its originals."""
    if all(isinstance(choice, str) for choice in choices):
        return [_read_list("/choices", cast("Sequence[str]", choices), limits)]
    return [_read_list(f"/choices/{n}", group, limits) for n, group in enumerate(choices)]


def _read_list(field: str, choices: Sequence[str], limits: Limits) -> ReadChoices:
    if not choices:
        raise QueryError(field, "is empty; offer at least 1 choice")
    if len(choices) > limits.choices:
        raise QueryError(field, f"has {len(choices)} choices; send at most {limits.choices}")
    if (characters := sum(map(len, choices))) > (limit := limits.choice_characters):
        raise QueryError(
            field, f"has {characters} code points in all; send at most {limit} for a blank"
        )
    found: ReadChoices = {}
    places: dict[str, int] = {}
    for index, choice in enumerate(choices):
        pointer = f"{field}/{index}"
        _check_text(pointer, choice, limits.characters)
        clean = _check_line(pointer, choice)
        first = places.setdefault(choice.strip(), index)
        if first != index:
            raise QueryError(pointer, f"repeats choice {first}; send each choice once")
        found[clean] = (*found.get(clean, ()), choice)
    return found
