"""Questions, answers and limits: plain frozen values, checked before anything is computed.

:class:`RequestCheck` checks every query, so decoders trust their input. Answers are sent to clients
as they are, but for fields that are marked as internal.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, cast

from pydantic import Field

from model.errors import QueryError
from model.text import normalise

# Strings, offered for every blank, or one list of strings per blank.
Choices = Sequence[str] | Sequence[Sequence[str]]


@dataclass(frozen=True, slots=True)
class PredictQuery:
    """Predict the continuation of *text*, by *top_k* candidates; empty text starts a text.

    Words of *history*, which is earlier text of the same writer, become more probable.
    """

    text: str
    top_k: int = 5
    history: str = ""


@dataclass(frozen=True, slots=True)
class ClozeQuery:
    """Fill the blanks of *text*: *top_k* candidates for each, or all *choices* if there are any.

    *blank* is a marker of a blank, literally; None means the usual ones
    (:func:`usual_blanks`). *history* is as for :class:`PredictQuery`.
    """

    text: str
    top_k: int = 5
    blank: str | None = None
    choices: Choices | None = None
    history: str = ""


@dataclass(frozen=True, slots=True)
class ScoreQuery:
    """Compute the probability of *text* after the start of a text."""

    text: str


Query = PredictQuery | ClozeQuery | ScoreQuery
# One pattern per marker: each then searches for its first characters, 40 times faster than one
# alternation over a long text.
_MARKERS = tuple(map(re.compile, ("[_＿]{2,}", r"\[MASK\]", "<mask>", "<blank>", r"\{blank\}")))
# pydantic writes fields with this mark into no JSON.
_INTERNAL = Field(exclude=True)


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of the text of a query, and how many of them came from a cache."""

    tokens: int
    cached_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Candidate:
    """A possible continuation.

    Attributes:
        word: the whole word, including the part that the text already has.
        append: the continuation of the text; never empty, never ends in a space.
        probability: of *append*; the candidates of a query sum to at most 1.
    """

    word: str
    append: str
    probability: float


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
    """A word for a blank, without spaces around it; a choice as it was sent."""

    word: str
    probability: float


@dataclass(frozen=True, slots=True)
class Blank:
    """A blank: its place in the text as sent, in code points, and its fillings, best first."""

    start: int
    end: int
    candidates: tuple[Filling, ...]


@dataclass(frozen=True, slots=True)
class ClozeResult:
    """The text with every blank filled, and the candidates of each blank."""

    filled: str
    blanks: tuple[Blank, ...]
    usage: Annotated[Usage, _INTERNAL] = Usage(0)


@dataclass(frozen=True, slots=True)
class ScoreResult:
    """The probability of one text after the start of a text; its end is not included.

    Attributes:
        log_probability: in nats.
        characters: code points, in form C.
        bits_per_character: negative log-probability in bits per code point: comparable between
            tokenizers.
    """

    log_probability: float
    characters: int
    tokens: int
    bits_per_character: float
    usage: Annotated[Usage, _INTERNAL] = Usage(0)


Result = PredictResult | ClozeResult | ScoreResult


@dataclass(frozen=True, slots=True)
class Limits:
    """Most code points, candidates, blanks and choices of a blank; the service sets them.

    ``choice_characters`` are the code points of all choices of a blank.
    """

    characters: int = 10_000
    top_k: int = 100
    blanks: int = 64
    choices: int = 256
    choice_characters: int = 4_096
    history: int = 20_000


class RequestCheck:
    """Checks the queries of one request. What they share, as the same object, is read once."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._history: str | None = None
        self._choices: Choices | None = None
        self._lists: list[dict[str, str]] = []

    def check(self, query: Query) -> list[dict[str, str]] | None:
        """Refuse a query that no checkpoint can answer; return its lists of choices, if any.

        Each choice is in form C, without outer spaces, and comes with its original.

        Raises:
            QueryError: its field is a JSON pointer relative to the query (``/text``,
                ``/choices/0/2``).
        """
        limits = self._limits
        _check_text("/text", query.text, limits.characters)
        if isinstance(query, ScoreQuery):
            if not query.text:
                raise QueryError("/text", "is empty; send at least 1 character to score")
            return None
        if query.history is not self._history:
            _check_text("/history", query.history, limits.history)
            self._history = query.history
        choices = query.choices if isinstance(query, ClozeQuery) else None
        # All choices are returned, whatever top_k says.
        if choices is None and not 1 <= query.top_k <= limits.top_k:
            raise QueryError("/top_k", f"must be a whole number from 1 to {limits.top_k}")
        if isinstance(query, ClozeQuery) and query.blank is not None:
            _check_text("/blank", query.blank, limits.characters)
            if not query.blank.strip():
                raise QueryError("/blank", "must hold at least one character that is not a space")
        if choices is None:
            return None
        if choices is not self._choices:
            self._lists = _read_choices(choices, limits)
            self._choices = choices
        return self._lists


def usual_blanks(text: str) -> list[tuple[int, int]]:
    """Return start and end of each usual marker of a blank in normalised *text*, in order.

    They are two or more ``_`` or ``＿``, ``[MASK]``, ``<mask>``, ``<blank>`` and ``{blank}``.
    """
    return sorted(match.span() for each in _MARKERS for match in each.finditer(text))


def fit_choices(
    query: ClozeQuery, lists: list[dict[str, str]], blanks: int
) -> list[dict[str, str]]:
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


def _read_choices(choices: Choices, limits: Limits) -> list[dict[str, str]]:
    """Check the lists of choices; return each choice, in form C, with its original."""
    if all(isinstance(choice, str) for choice in choices):
        return [_read_list("/choices", cast("Sequence[str]", choices), limits)]
    return [_read_list(f"/choices/{n}", group, limits) for n, group in enumerate(choices)]


def _read_list(field: str, choices: Sequence[str], limits: Limits) -> dict[str, str]:
    if not choices:
        raise QueryError(field, "is empty; offer at least 1 choice")
    if len(choices) > limits.choices:
        raise QueryError(field, f"has {len(choices)} choices; send at most {limits.choices}")
    if (characters := sum(map(len, choices))) > (limit := limits.choice_characters):
        raise QueryError(
            field, f"has {characters} code points in all; send at most {limit} for a blank"
        )
    found: dict[str, str] = {}
    for index, choice in enumerate(choices):
        pointer = f"{field}/{index}"
        _check_text(pointer, choice, limits.characters)
        clean = normalise(choice).strip()
        if not clean:
            raise QueryError(pointer, "is empty or only spaces; send at least 1 character")
        if "\n" in clean:
            raise QueryError(pointer, "has a line break; send a choice of one line")
        if clean in found:
            repeated = list(found).index(clean)
            raise QueryError(pointer, f"repeats choice {repeated}; send each choice once")
        found[clean] = choice
    return found
