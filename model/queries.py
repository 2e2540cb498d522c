"""Questions, answers and limits: plain frozen values, checked before anything is computed.

:func:`check_query` checks every query, so decoders trust their input. Answers are sent to clients
as they are, but for fields that are marked as internal.
"""

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
    (:mod:`model.decoding.blanks`). *history* is as for :class:`PredictQuery`.
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
    """Most code points, candidates, blanks and choices of a blank; the service sets them."""

    characters: int = 10_000
    top_k: int = 100
    blanks: int = 64
    choices: int = 256
    history: int = 20_000


def check_query(query: Query, limits: Limits) -> None:
    """Refuse a query that no checkpoint can answer.

    Raises:
        QueryError: its field is a JSON pointer relative to the query (``/text``, ``/choices/0/2``).
    """
    _check_text("/text", query.text, limits.characters)
    if isinstance(query, ScoreQuery):
        if not query.text:
            raise QueryError("/text", "is empty; send at least 1 character to score")
        return
    _check_text("/history", query.history, limits.history)
    choices = query.choices if isinstance(query, ClozeQuery) else None
    # All choices are returned, whatever top_k says.
    if choices is None and not 1 <= query.top_k <= limits.top_k:
        raise QueryError("/top_k", f"must be a whole number from 1 to {limits.top_k}")
    if isinstance(query, ClozeQuery) and query.blank is not None:
        _check_text("/blank", query.blank, limits.characters)
        if not query.blank.strip():
            raise QueryError("/blank", "must hold at least one character that is not a space")
    if choices is not None:
        if all(isinstance(choice, str) for choice in choices):
            _check_choices("/choices", cast("Sequence[str]", choices), limits)
            return
        for index, group in enumerate(choices):
            _check_choices(f"/choices/{index}", group, limits)


def choice_lists(choices: Choices, blanks: int) -> list[dict[str, str]]:
    """Return the choices of each blank: in form C, without outer spaces, each with its original.

    Raises:
        QueryError: the number of lists is not the number of blanks.
    """
    if isinstance(choices[0], str):
        return [{_clean(choice): choice for choice in cast("Sequence[str]", choices)}] * blanks
    if len(choices) != blanks:
        raise QueryError(
            "/choices", f"has {len(choices)} lists for {blanks} blanks; give one list per blank"
        )
    return [{_clean(choice): choice for choice in group} for group in choices]


def _check_text(field: str, text: str, limit: int) -> None:
    if len(text) > limit:
        raise QueryError(field, f"has {len(text)} code points; send at most {limit}")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise QueryError(
            field, f"has a lone surrogate at code point {error.start}; send valid Unicode"
        ) from None


def _check_choices(field: str, choices: Sequence[str], limits: Limits) -> None:
    if not choices:
        raise QueryError(field, "is empty; offer at least 1 choice")
    if len(choices) > limits.choices:
        raise QueryError(field, f"has {len(choices)} choices; send at most {limits.choices}")
    seen: dict[str, int] = {}
    for index, choice in enumerate(choices):
        pointer = f"{field}/{index}"
        _check_text(pointer, choice, limits.characters)
        clean = _clean(choice)
        if not clean:
            raise QueryError(pointer, "is empty or only spaces; send at least 1 character")
        if "\n" in clean:
            raise QueryError(pointer, "has a line break; send a choice of one line")
        if clean in seen:
            raise QueryError(pointer, f"repeats choice {seen[clean]}; send each choice once")
        seen[clean] = index


def _clean(choice: str) -> str:
    return normalise(choice).strip()
